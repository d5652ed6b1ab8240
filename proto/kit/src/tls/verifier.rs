//! What a client demands of the manager it dialled.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shoal_proto::id::{ClusterId, NodeId};
use shoal_proto::spec::NodeRole;

use crate::identity::{CertificateSubject, role_name, root_store};
use crate::join_token::certificate_digest;
use crate::tls::provider;

/// Why the other side of a connection was not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Its root is not the one that the join token names.
    #[error(
        "the join token belongs to another cluster: its fingerprint is not that of this manager's root certificate"
    )]
    TokenOfOtherCluster,
    /// Its certificate is not signed by a root this node trusts, or is expired, or damaged.
    #[error("the manager's certificate is not trusted: {reason}")]
    Untrusted {
        /// What the check said.
        reason: String,
    },
    /// It is a node of the cluster, but no manager.
    #[error("the other side is no manager")]
    NotAManager,
    /// It belongs to another cluster.
    #[error("the manager belongs to cluster {found}")]
    OtherCluster {
        /// Which.
        found: ClusterId,
    },
    /// The address is now that of another node.
    #[error("the manager at this address is node {found}, not {expected}")]
    OtherNode {
        /// Who was meant.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
}

/// Carries the reason past the layers that would turn it into text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reason(Arc<Mutex<Option<TrustError>>>);

impl Reason {
    pub(crate) fn take(&self) -> Option<TrustError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn refuse(&self, error: TrustError) -> rustls::Error {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// Whom the client is willing to talk to.
#[derive(Debug)]
pub(crate) enum Expectation {
    /// A manager of this cluster, and this very node if one is named.
    Manager { roots: Arc<RootCertStore>, cluster: ClusterId, node: Option<NodeId> },
    /// A manager whose root certificate has this digest.
    RootDigest([u8; 32]),
}

#[derive(Debug)]
pub(crate) struct ManagerVerifier {
    pub(crate) expectation: Expectation,
    pub(crate) reason: Reason,
}

impl ManagerVerifier {
    fn check(
        &self,
        roots: Arc<RootCertStore>,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let untrusted = |reason: String| self.reason.refuse(TrustError::Untrusted { reason });
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| untrusted(error.to_string()))?;
        let role = role_name(NodeRole::Manager);
        let name = ServerName::try_from(role).map_err(|error| untrusted(error.to_string()))?;
        match webpki.verify_server_cert(end_entity, intermediates, &name, &[], now) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Err(self.reason.refuse(TrustError::NotAManager)),
            Err(error) => Err(untrusted(error.to_string())),
        }
    }
}

impl ServerCertVerifier for ManagerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.expectation {
            Expectation::RootDigest(digest) => {
                let root = intermediates
                    .iter()
                    .find(|certificate| certificate_digest(certificate) == *digest)
                    .ok_or_else(|| self.reason.refuse(TrustError::TokenOfOtherCluster))?;
                let roots = root_store(&[root.clone().into_owned()])
                    .map_err(|error| self.reason.refuse(TrustError::Untrusted { reason: error.to_string() }))?;
                self.check(Arc::new(roots), end_entity, intermediates, now)?;
            }
            Expectation::Manager { roots, cluster, node } => {
                self.check(Arc::clone(roots), end_entity, intermediates, now)?;
                let subject = CertificateSubject::parse(end_entity)
                    .map_err(|error| self.reason.refuse(TrustError::Untrusted { reason: error.to_string() }))?;
                if subject.role != NodeRole::Manager {
                    return Err(self.reason.refuse(TrustError::NotAManager));
                }
                if subject.cluster_id != *cluster {
                    return Err(self.reason.refuse(TrustError::OtherCluster { found: subject.cluster_id }));
                }
                if let Some(expected) = *node
                    && expected != subject.node_id
                {
                    let found = subject.node_id;
                    return Err(self.reason.refuse(TrustError::OtherNode { expected, found }));
                }
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
