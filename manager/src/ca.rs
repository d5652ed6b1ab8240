//! The cluster's certificate authority: its root, and certificates for nodes.
//!
//! ## Design notes
//! Of a certificate request only the public key is used; every other field is written here. The id of a new node
//! follows from its public key, so a join that is repeated because an answer was lost makes one node, not two.

pub(crate) mod service;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_kit::identity::{IdentityError, Material, NodeIdentity, generate_request, role_name};
use shoal_kit::join_token::JoinToken;
use shoal_proto::id::{ClusterId, NodeId};
use shoal_proto::object::RootCa;
use shoal_proto::spec::NodeRole;
use shoal_proto::time::Timestamp;

const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates begin in the past, because clocks of nodes differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Why the CA could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The root in the store cannot be used.
    #[error("the cluster's root certificate or key is unusable")]
    Root(#[source] rcgen::Error),
    /// The request is no PKCS#10 request with an acceptable key.
    #[error("malformed certificate request: {0}")]
    Request(rcgen::Error),
    /// A certificate could not be made.
    #[error("make a certificate")]
    Issue(#[source] rcgen::Error),
    /// The root is no PEM certificate.
    #[error("the cluster's root certificate is malformed")]
    RootPem(#[source] rustls::pki_types::pem::Error),
    /// The first manager's identity could not be made.
    #[error("the first manager's identity")]
    Identity(#[from] IdentityError),
    /// An instant lies beyond what certificates can say.
    #[error("the clock is outside of the range of certificates")]
    Time,
}

fn date(at: Timestamp) -> Result<time::OffsetDateTime, CaError> {
    time::OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000_000_000)).map_err(|_| CaError::Time)
}

fn before(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp(at.0.saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
}

fn serial(entropy: &Entropy) -> SerialNumber {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    // Positive and without leading zeros, as X.509 wants it.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A new root with fresh tokens.
///
/// # Errors
/// When no key can be made.
pub fn create_root(now: Timestamp, entropy: &Entropy) -> Result<RootCa, CaError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CaError::Issue)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "swarm-ca");
    params.not_before = date(before(now, BACKDATE))?;
    params.not_after = date(now.after(ROOT_LIFE))?;
    params.serial_number = Some(serial(entropy));
    let certificate = params.self_signed(&key).map_err(CaError::Issue)?;
    Ok(RootCa {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        worker_token: new_token(certificate.der(), entropy),
        manager_token: new_token(certificate.der(), entropy),
        ..RootCa::default()
    })
}

fn new_token(root_der: &[u8], entropy: &Entropy) -> String {
    let mut secret = [0; 16];
    entropy.fill(&mut secret);
    JoinToken::new(root_der, secret).to_string()
}

/// What a certificate is to say.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Common name.
    pub node: NodeId,
    /// Organisational unit.
    pub role: NodeRole,
    /// Organisation.
    pub cluster: ClusterId,
    /// How long it is valid from now.
    pub life: Duration,
}

/// A certificate request that was checked: somebody holds the key.
pub struct Request(CertificateSigningRequestParams);

impl Request {
    /// Parses and verifies a request.
    ///
    /// # Errors
    /// When it is malformed, or not signed by its own key.
    pub fn parse(pem: &str) -> Result<Self, CaError> {
        CertificateSigningRequestParams::from_pem(pem).map(Self).map_err(CaError::Request)
    }

    /// The id that a new node with this key gets in this cluster.
    pub fn node_id(&self, cluster: ClusterId) -> NodeId {
        let mut hash = Sha256::new();
        hash.update(cluster.bits().to_be_bytes());
        hash.update(self.0.public_key.subject_public_key_info());
        let digest: [u8; 32] = hash.finalize().into();
        let (half, _) = digest.split_at(16);
        NodeId::from_bits(half.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte)))
    }
}

/// Issues certificates of one root.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority with this root.
    ///
    /// # Errors
    /// When root or key are unusable.
    pub fn new(root: &RootCa) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(&root.key_pem).map_err(CaError::Root)?;
        let der = CertificateDer::from_pem_slice(root.certificate_pem.as_bytes()).map_err(CaError::RootPem)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(CaError::Root)?;
        Ok(Self { certificate_pem: root.certificate_pem.clone(), issuer })
    }

    /// The certificate for the request's public key, PEM.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue(
        &self,
        request: &Request,
        grant: &Grant,
        now: Timestamp,
        entropy: &Entropy,
    ) -> Result<String, CaError> {
        let names = vec![role_name(grant.role).to_owned(), grant.node.to_string()];
        let mut params = CertificateParams::new(names).map_err(CaError::Issue)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, grant.node.to_string());
        params.distinguished_name.push(DnType::OrganizationalUnitName, role_name(grant.role));
        params.distinguished_name.push(DnType::OrganizationName, grant.cluster.to_string());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial(entropy));
        // Not further back than the life it has: renewals are scheduled by the whole span.
        params.not_before = date(before(now, BACKDATE.min(grant.life / 10)))?;
        params.not_after = date(now.after(grant.life))?;
        let certificate = params.signed_by(&request.0.public_key, &self.issuer).map_err(CaError::Issue)?;
        Ok(certificate.pem())
    }
}

/// Keeps the authority of the root in use, because reading its key takes longer than signing with it.
#[derive(Default)]
pub(crate) struct AuthorityCache(Mutex<Option<Arc<Authority>>>);

impl AuthorityCache {
    pub(crate) fn get(&self, root: &RootCa) -> Result<Arc<Authority>, CaError> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(authority) = cached.as_ref().filter(|known| known.certificate_pem == root.certificate_pem) {
            return Ok(Arc::clone(authority));
        }
        let authority = Arc::new(Authority::new(root)?);
        *cached = Some(Arc::clone(&authority));
        Ok(authority)
    }
}

/// What the first manager of a new cluster begins with.
#[derive(Debug)]
pub struct Founding {
    /// Its identity, stored.
    pub identity: Arc<NodeIdentity>,
    /// The new root and its tokens, to be written into the store.
    pub root: RootCa,
}

impl Founding {
    /// Makes a cluster id, a root, and a manager's certificate for this node.
    ///
    /// # Errors
    /// When keys cannot be made or stored.
    pub fn new(
        directory: &Path,
        clock: &Arc<dyn Clock>,
        mut entropy: Entropy,
        life: Duration,
    ) -> Result<Self, CaError> {
        let now = clock.now();
        let cluster = ClusterId::generate(&mut entropy);
        let root = create_root(now, &entropy)?;
        let (key_pem, csr_pem) = generate_request()?;
        let request = Request::parse(&csr_pem)?;
        let grant = Grant { node: request.node_id(cluster), role: NodeRole::Manager, cluster, life };
        let chain_pem = Authority::new(&root)?.issue(&request, &grant, now, &entropy)?;
        let material = Material { key_pem, chain_pem, trust_pem: root.certificate_pem.clone() };
        let identity = Arc::new(NodeIdentity::create(directory, Arc::clone(clock), material)?);
        Ok(Self { identity, root })
    }
}

#[cfg(test)]
mod tests {
    use shoal_kit::clock::ManualClock;
    use shoal_kit::identity::CertificateSubject;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    #[test]
    fn a_certificate_says_what_was_granted_and_not_what_was_asked_for() {
        let entropy = Entropy::from_seed(1);
        let root = create_root(NOW, &entropy).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut asked = CertificateParams::new(vec!["swarm-manager".to_owned()]).unwrap();
        asked.distinguished_name.push(DnType::OrganizationalUnitName, "swarm-manager");
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let csr = asked.serialize_request(&key).unwrap().pem().unwrap();
        let request = Request::parse(&csr).unwrap();
        let cluster = ClusterId::from_bits(9);
        let grant =
            Grant { node: NodeId::from_bits(4), role: NodeRole::Worker, cluster, life: Duration::from_secs(7200) };
        let pem = Authority::new(&root).unwrap().issue(&request, &grant, NOW, &entropy).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let subject = CertificateSubject::parse(&der).unwrap();
        assert_eq!((subject.node_id, subject.role, subject.cluster_id), (grant.node, NodeRole::Worker, cluster));
        assert_eq!(subject.not_after, NOW.after(grant.life));
        assert!(subject.not_before < NOW);
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!parsed.is_ca());
    }

    #[test]
    fn the_same_key_is_the_same_node_but_not_in_another_cluster() {
        let (_, csr) = generate_request().unwrap();
        let request = Request::parse(&csr).unwrap();
        assert_eq!(request.node_id(ClusterId::from_bits(1)), request.node_id(ClusterId::from_bits(1)));
        assert_ne!(request.node_id(ClusterId::from_bits(1)), request.node_id(ClusterId::from_bits(2)));
    }

    #[test]
    fn a_founding_manager_trusts_itself() {
        let directory = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
        let founding = Founding::new(directory.path(), &clock, Entropy::from_seed(2), Duration::from_secs(60)).unwrap();
        assert_eq!(founding.identity.role(), NodeRole::Manager);
        let token: JoinToken = founding.root.worker_token.parse().unwrap();
        let der = CertificateDer::from_pem_slice(founding.root.certificate_pem.as_bytes()).unwrap();
        assert_eq!(token.root_digest, shoal_kit::join_token::certificate_digest(&der));
        assert_ne!(founding.root.worker_token, founding.root.manager_token);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(Request::parse("-----BEGIN X-----"), Err(CaError::Request(_))));
    }
}
