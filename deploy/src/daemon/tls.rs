//! TLS of the HTTP API: whoever has a certificate of the operator's own authority may use it, as with `dockerd --tlsverify`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Where the certificates lie; PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The authority that clients' certificates must come from; `None` lets everybody in.
    pub(crate) authority: Option<PathBuf>,
    /// The daemon's certificate, with its chain.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

impl TlsFiles {
    /// A configuration that lets in clients with a certificate of the authority, and nobody else, if there is one.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub(crate) fn server_config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let verifier = self.authority.as_deref().map(verifier).transpose()?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .with_context(|| format!("cannot read a private key from {}", self.key.display()))?;
        let builder = ServerConfig::builder_with_provider(shoal_kit::tls::provider())
            .with_safe_default_protocol_versions()
            .context("TLS versions")?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(certificates(&self.certificate)?, key)
            .with_context(|| format!("{} does not fit {}", self.key.display(), self.certificate.display()))?;
        // Docker's clients speak HTTP/1.1; connections that are taken over need it.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn verifier(authority: &Path) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let cannot = || format!("cannot trust {}", authority.display());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots.add(certificate).with_context(cannot)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), shoal_kit::tls::provider())
        .build()
        .with_context(cannot)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let cannot = || format!("cannot read certificates from {}", path.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).with_context(cannot)?.collect::<Result<_, _>>().with_context(cannot)?;
    anyhow::ensure!(!found.is_empty(), "no certificate in {}", path.display());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ClientConfig;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// An authority, and its certificate.
    fn authority() -> (Issuer<'static, KeyPair>, String) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("certificate").pem();
        (Issuer::new(params, key), pem)
    }

    /// A certificate of the authority, and its key.
    fn issue(authority: &Issuer<'static, KeyPair>) -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        (params.signed_by(&key, authority).expect("certificate").pem(), key.serialize_pem())
    }

    /// Does the server let in a client that shows this?
    async fn is_let_in(server: Arc<ServerConfig>, trusted: &str, shown: Option<(String, String)>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).expect("certificate")).expect("root");
        let builder = ClientConfig::builder_with_provider(shoal_kit::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let client = match shown {
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("certificate");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("key");
                builder.with_client_auth_cert(vec![certificate], key).expect("client")
            }
            None => builder.with_no_client_auth(),
        };
        let (near, far) = tokio::io::duplex(64 << 10);
        let name = "localhost".try_into().expect("name");
        let connecting = TlsConnector::from(Arc::new(client));
        let (accepted, _) = tokio::join!(TlsAcceptor::from(server).accept(far), connecting.connect(name, near));
        accepted.is_ok()
    }

    #[tokio::test]
    async fn only_clients_of_the_authority_are_let_in() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("write");
            path
        };
        let ((ours, pem), (theirs, _)) = (authority(), authority());
        let (certificate, key) = issue(&ours);
        let files = TlsFiles {
            authority: Some(write("ca.pem", &pem)),
            certificate: write("cert.pem", &certificate),
            key: write("key.pem", &key),
        };
        let server = files.server_config().expect("configuration");
        assert!(is_let_in(Arc::clone(&server), &pem, Some(issue(&ours))).await);
        assert!(!is_let_in(Arc::clone(&server), &pem, None).await);
        assert!(!is_let_in(server, &pem, Some(issue(&theirs))).await);
        let open = TlsFiles { authority: None, ..files }.server_config().expect("configuration");
        assert!(is_let_in(open, &pem, None).await);
    }

    #[test]
    fn a_file_that_is_missing_or_holds_no_certificate_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ca.pem");
        let files = TlsFiles { authority: Some(path.clone()), certificate: path.clone(), key: path.clone() };
        let refused = |files: &TlsFiles| format!("{:#}", files.server_config().expect_err("accepted"));
        assert!(refused(&files).contains("ca.pem"), "{}", refused(&files));
        std::fs::write(&path, "nothing").expect("write");
        assert!(refused(&files).contains("no certificate in"), "{}", refused(&files));
    }
}
