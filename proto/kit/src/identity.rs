//! Who a node is: its key, its certificate and the roots it trusts, on disk and in memory.
//!
//! ## Design notes
//! The directory holds `node.pem` (private key, then the certificate chain, leaf first) and `root-ca.pem` (the trust
//! bundle). Key and certificate share a file so that replacing both is one rename. Everything that opens a connection
//! asks [`NodeIdentity::current`] at that moment, so a renewal needs no restart.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shoal_proto::id::{ClusterId, NodeId};
use shoal_proto::spec::NodeRole;
use shoal_proto::time::Timestamp;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::tls;

const NODE_FILE: &str = "node.pem";
const ROOT_FILE: &str = "root-ca.pem";

/// Why an identity could not be read, stored or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The text is not the PEM that was expected.
    #[error("malformed PEM of the {what}")]
    Pem {
        /// Key, certificate chain or trust bundle.
        what: &'static str,
        /// What the parser said.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The PEM has no certificate or key.
    #[error("the {what} is empty")]
    Empty {
        /// Key, certificate chain or trust bundle.
        what: &'static str,
    },
    /// The certificate does not say what every certificate of a cluster says.
    #[error("the certificate is not one of a cluster: {reason}")]
    Subject {
        /// What is wrong with it.
        reason: String,
    },
    /// TLS refuses the key or the certificates.
    #[error("unusable key or certificate")]
    Tls(#[source] rustls::Error),
    /// The key pair could not be made.
    #[error("make a key and certificate request")]
    Key(#[source] rcgen::Error),
}

/// What a CA hands out, together with the key it was asked for.
#[derive(Clone)]
pub struct Material {
    /// Private key, PKCS#8 PEM.
    pub key_pem: Zeroizing<String>,
    /// Certificate chain, leaf first, PEM.
    pub chain_pem: String,
    /// Trust bundle, PEM.
    pub trust_pem: String,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// What a certificate of a cluster says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSubject {
    /// Common name.
    pub node_id: NodeId,
    /// Organisational unit.
    pub role: NodeRole,
    /// Organisation.
    pub cluster_id: ClusterId,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
}

/// The organisational unit, and a DNS name, in certificates of this role.
pub const fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Worker => "swarm-worker",
        NodeRole::Manager => "swarm-manager",
    }
}

impl CertificateSubject {
    /// Reads it from a certificate. No trust decision: the chain is verified by TLS.
    ///
    /// # Errors
    /// When the certificate cannot be parsed, or lacks one of the fields.
    pub fn parse(der: &[u8]) -> Result<Self, IdentityError> {
        let subject_error = |reason: String| IdentityError::Subject { reason };
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|error| subject_error(error.to_string()))?;
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let unit = subject.iter_organizational_unit().next().and_then(|name| name.as_str().ok());
        let organization = subject.iter_organization().next().and_then(|name| name.as_str().ok());
        let node_id = common_name
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| subject_error("its common name is no node id".to_owned()))?;
        let role = match unit {
            Some("swarm-manager") => NodeRole::Manager,
            Some("swarm-worker") => NodeRole::Worker,
            _ => return Err(subject_error("its organisational unit is no role".to_owned())),
        };
        let cluster_id = organization
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| subject_error("its organisation is no cluster id".to_owned()))?;
        let validity = certificate.validity();
        Ok(Self {
            node_id,
            role,
            cluster_id,
            not_before: Timestamp::from_seconds(validity.not_before.timestamp()),
            not_after: Timestamp::from_seconds(validity.not_after.timestamp()),
        })
    }
}

/// One generation of an identity: immutable, replaced as a whole.
pub struct Credentials {
    /// What the certificate says.
    pub subject: CertificateSubject,
    /// Key and certificates as they were issued.
    pub material: Material,
    /// Trust anchors.
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) client_key: Arc<CertifiedKey>,
    pub(crate) server_config: Arc<rustls::ServerConfig>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Credentials {
    fn build(material: Material, clock: &Arc<dyn Clock>) -> Result<Self, IdentityError> {
        let chain = certificates(&material.chain_pem, "certificate chain")?;
        let trust = certificates(&material.trust_pem, "trust bundle")?;
        let subject = CertificateSubject::parse(chain.first().ok_or(IdentityError::Empty { what: "chain" })?)?;
        let roots = Arc::new(root_store(&trust)?);
        let client_key = Arc::new(certified_key(chain.clone(), &material.key_pem)?);
        // The root goes along so that a joining node can check it against the digest in its token.
        let mut server_chain = chain;
        server_chain.extend(trust.first().cloned());
        let server_key = Arc::new(certified_key(server_chain, &material.key_pem)?);
        let server_config =
            tls::server_config(server_key, Arc::clone(&roots), Arc::clone(clock)).map_err(IdentityError::Tls)?;
        Ok(Self { subject, material, roots, client_key, server_config: Arc::new(server_config) })
    }

    /// Configuration for accepting connections on the cluster port with these credentials.
    pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.server_config)
    }
}

fn certified_key(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> Result<CertifiedKey, IdentityError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|source| IdentityError::Pem { what: "private key", source })?;
    let key = tls::provider().key_provider.load_private_key(key).map_err(IdentityError::Tls)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(IdentityError::Tls)?;
    Ok(certified)
}

/// The certificates in a PEM text.
///
/// # Errors
/// When it is malformed, or has none.
pub fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityError::Pem { what, source })?;
    if found.is_empty() { Err(IdentityError::Empty { what }) } else { Ok(found) }
}

pub(crate) fn root_store(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, IdentityError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(IdentityError::Tls)?;
    }
    Ok(store)
}

/// A fresh ECDSA P-256 key and a certificate request for it, both PEM. The CA uses nothing of the request but its
/// public key.
///
/// # Errors
/// When the system gives no randomness.
pub fn generate_request() -> Result<(Zeroizing<String>, String), IdentityError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Key)?;
    let params = rcgen::CertificateParams::default();
    let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(IdentityError::Key)?;
    Ok((Zeroizing::new(key.serialize_pem()), request))
}

/// The identity of this node: shared by everything that connects or accepts, replaced in place by renewals.
pub struct NodeIdentity {
    directory: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    current: ArcSwap<Credentials>,
    generation: watch::Sender<u64>,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity").field("current", &self.current.load()).finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Where the identity of a daemon with this data root lives.
    pub fn directory(data_root: &Path) -> PathBuf {
        data_root.join("cluster/certificates")
    }

    /// Reads the identity in `directory`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn load(directory: &Path, clock: Arc<dyn Clock>) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(NODE_FILE);
        let node_pem = match std::fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { operation: "read", path, source }),
        };
        let path = directory.join(ROOT_FILE);
        let trust_pem =
            std::fs::read_to_string(&path).map_err(|source| IdentityError::Io { operation: "read", path, source })?;
        let split = node_pem.find("-----BEGIN CERTIFICATE-----").ok_or(IdentityError::Empty { what: NODE_FILE })?;
        let (key, chain) = node_pem.split_at(split);
        let material = Material { key_pem: Zeroizing::new(key.to_owned()), chain_pem: chain.to_owned(), trust_pem };
        Self::assemble(Some(directory.to_owned()), material, clock).map(Some)
    }

    /// Stores a new identity in `directory`, mode 0600 below a directory of mode 0700.
    ///
    /// # Errors
    /// When it is unusable or cannot be stored.
    pub fn create(directory: &Path, clock: Arc<dyn Clock>, material: Material) -> Result<Self, IdentityError> {
        let identity = Self::assemble(Some(directory.to_owned()), material, clock)?;
        store(directory, &identity.current().material)?;
        Ok(identity)
    }

    /// An identity that lives in memory only, for fake agents and tests.
    ///
    /// # Errors
    /// When it is unusable.
    pub fn in_memory(clock: Arc<dyn Clock>, material: Material) -> Result<Self, IdentityError> {
        Self::assemble(None, material, clock)
    }

    fn assemble(directory: Option<PathBuf>, material: Material, clock: Arc<dyn Clock>) -> Result<Self, IdentityError> {
        let credentials = Credentials::build(material, &clock)?;
        Ok(Self { directory, clock, current: ArcSwap::from_pointee(credentials), generation: watch::Sender::new(0) })
    }

    /// The credentials of this moment.
    pub fn current(&self) -> Arc<Credentials> {
        self.current.load_full()
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        self.current.load().subject.node_id
    }

    /// The cluster it belongs to.
    pub fn cluster_id(&self) -> ClusterId {
        self.current.load().subject.cluster_id
    }

    /// The role in its certificate.
    pub fn role(&self) -> NodeRole {
        self.current.load().subject.role
    }

    /// The clock that decides what is expired.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Has the certificate expired?
    pub fn expired(&self) -> bool {
        self.clock.now() > self.current.load().subject.not_after
    }

    /// Takes over new credentials: stored first, then used by every connection opened from now on.
    ///
    /// # Errors
    /// When they are unusable, belong to another node or cluster, or cannot be stored.
    pub fn replace(&self, material: Material) -> Result<(), IdentityError> {
        let credentials = Credentials::build(material, &self.clock)?;
        let old = self.current.load().subject.clone();
        let new = &credentials.subject;
        if new.node_id != old.node_id || new.cluster_id != old.cluster_id {
            return Err(IdentityError::Subject {
                reason: format!("it was issued for node {} of cluster {}", new.node_id, new.cluster_id),
            });
        }
        if let Some(directory) = &self.directory {
            store(directory, &credentials.material)?;
        }
        self.current.store(Arc::new(credentials));
        self.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }

    /// Takes over a new trust bundle when it differs from the one in use.
    ///
    /// # Errors
    /// When it is malformed or cannot be stored.
    pub fn set_trust(&self, trust_pem: &str) -> Result<(), IdentityError> {
        let current = self.current();
        if current.material.trust_pem.trim() == trust_pem.trim() {
            return Ok(());
        }
        self.replace(Material { trust_pem: trust_pem.to_owned(), ..current.material.clone() })
    }

    /// Counts replacements: long-lived connections watch it, because they keep the identity they were opened with.
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// How long to wait before renewing: until a random point between 50 and 80 % of the certificate's life, counted
    /// from now. Zero when that point has passed.
    pub fn renewal_delay(&self, entropy: &Entropy) -> Duration {
        let subject = self.current.load().subject.clone();
        let life = subject.not_after.since(subject.not_before);
        let due = subject.not_before.after(life.mul_f64(0.5 + 0.3 * entropy.fraction()));
        due.since(self.clock.now())
    }

    /// Removes the identity from disk (the node left its cluster). What is in memory stays usable.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn erase(directory: &Path) -> Result<(), IdentityError> {
        for name in [NODE_FILE, ROOT_FILE] {
            let path = directory.join(name);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(IdentityError::Io { operation: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn store(directory: &Path, material: &Material) -> Result<(), IdentityError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| IdentityError::Io {
        operation: "create",
        path: directory.to_owned(),
        source,
    })?;
    // Roots first: a new bundle trusts the old certificate, an old bundle need not trust the new one.
    write_private(&directory.join(ROOT_FILE), material.trust_pem.as_bytes())?;
    let mut node = Zeroizing::new(String::with_capacity(material.key_pem.len() + material.chain_pem.len() + 1));
    node.push_str(material.key_pem.trim_end());
    node.push('\n');
    node.push_str(&material.chain_pem);
    write_private(&directory.join(NODE_FILE), node.as_bytes())
}

/// Writes a file of mode 0600 so that after a crash either the old or the new content is there.
///
/// # Errors
/// When any step fails; the temporary file is removed then.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let fail = |operation: &'static str| {
        let path = path.to_owned();
        move |source| IdentityError::Io { operation, path, source }
    };
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if let Err(source) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(fail("write")(source));
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(fail("sync the directory of"))
}

#[cfg(test)]
mod tests;
