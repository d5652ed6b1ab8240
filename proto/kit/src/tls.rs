//! TLS of the cluster port: version 1.3 only, certificates of the cluster's own CA, no resumption.
//!
//! ## Design notes
//! A resumed session would skip the check of the client's certificate, so a demotion or a rotated root would not bite:
//! resumption is off on both sides. A server asks for a client certificate but does not insist, because the `Ca`
//! service must serve nodes that have none yet; every other service refuses callers without one.

mod channel;
mod listener;
mod verifier;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

use crate::clock::Clock;

pub(crate) use channel::connect_by_digest;
pub use channel::{Connector, DialError, DialOptions, ManagerStream, connect, dial, lazy_channel};
pub use listener::{Listener, ListenerOptions, PeerInfo, PeerStream};
pub use verifier::TrustError;

/// How often an idle connection is probed. With [`KEEPALIVE_TIMEOUT`] an agent notices a manager that was cut off
/// within three seconds: before the leader counts its node as lost (three and a half heartbeats after the manager).
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a probe may stay without an answer.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The one crypto provider of the process's cluster connections.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// Lets the injected clock decide what has expired.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let nanos = u64::try_from(self.0.now().0).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(nanos)))
    }
}

pub(crate) fn server_config(
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    clock: Arc<dyn Clock>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

pub(crate) fn client_config(
    key: Option<Arc<CertifiedKey>>,
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    clock: Arc<dyn Clock>,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let builder = rustls::ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests;
