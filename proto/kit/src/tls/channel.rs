//! Dialling managers: TCP, TLS, then a tonic channel over it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use shoal_proto::id::NodeId;
use shoal_proto::spec::NodeRole;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::clock::Clock;
use crate::identity::{NodeIdentity, role_name};
use crate::tls::listener::tune;
use crate::tls::verifier::{Expectation, ManagerVerifier, Reason, TrustError};
use crate::tls::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, client_config};

/// Why a manager could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No route, refused, or no such name.
    #[error("connect to {addr}")]
    Connect {
        /// Where to.
        addr: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer from {addr} within {} ms", timeout.as_millis())]
    Timeout {
        /// Where to.
        addr: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The other side is not who it should be.
    #[error("refused to talk to {addr}")]
    Untrusted {
        /// Where to.
        addr: String,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// The handshake failed otherwise.
    #[error("TLS handshake with {addr}")]
    Handshake {
        /// Where to.
        addr: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// The address is not `host:port`.
    #[error("invalid address {addr:?}")]
    InvalidAddress {
        /// What was given.
        addr: String,
    },
    /// The HTTP/2 connection could not be opened.
    #[error("open an HTTP/2 connection to {addr}")]
    Http {
        /// Where to.
        addr: String,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The own credentials cannot be used.
    #[error("own credentials")]
    Credentials(#[source] rustls::Error),
}

/// How to dial.
#[derive(Debug, Clone)]
pub struct DialOptions {
    /// Only this node will do; `None` accepts every manager of the cluster.
    pub node: Option<NodeId>,
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// Idle time before a probe.
    pub keepalive_interval: Duration,
    /// A probe without an answer for so long closes the connection.
    pub keepalive_timeout: Duration,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            node: None,
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
        }
    }
}

/// An encrypted connection to a manager that was checked.
pub type ManagerStream = TlsStream<TcpStream>;

async fn handshake(
    addr: &str,
    config: Arc<rustls::ClientConfig>,
    reason: Reason,
    timeout: Duration,
) -> Result<ManagerStream, DialError> {
    let connect = async {
        let stream =
            TcpStream::connect(addr).await.map_err(|source| DialError::Connect { addr: addr.to_owned(), source })?;
        if let Err(error) = tune(&stream) {
            tracing::debug!(addr, %error, "set socket options");
        }
        let name = ServerName::try_from(role_name(NodeRole::Manager))
            .map_err(|_| DialError::InvalidAddress { addr: addr.to_owned() })?;
        TlsConnector::from(config).connect(name, stream).await.map_err(|source| match reason.take() {
            Some(source) => DialError::Untrusted { addr: addr.to_owned(), source },
            None => DialError::Handshake { addr: addr.to_owned(), source },
        })
    };
    match tokio::time::timeout(timeout, connect).await {
        Ok(done) => done,
        Err(_) => Err(DialError::Timeout { addr: addr.to_owned(), timeout }),
    }
}

/// Opens one connection to a manager of this node's cluster, as this node.
///
/// # Errors
/// When it cannot be reached, or is not who it should be.
pub async fn dial(identity: &NodeIdentity, addr: &str, options: &DialOptions) -> Result<ManagerStream, DialError> {
    let credentials = identity.current();
    let reason = Reason::default();
    let verifier = ManagerVerifier {
        expectation: Expectation::Manager {
            roots: Arc::clone(&credentials.roots),
            cluster: credentials.subject.cluster_id,
            node: options.node,
        },
        reason: reason.clone(),
    };
    let key = Some(Arc::clone(&credentials.client_key));
    let config =
        client_config(key, Arc::new(verifier), Arc::clone(identity.clock())).map_err(DialError::Credentials)?;
    handshake(addr, Arc::new(config), reason, options.connect_timeout).await
}

pub(crate) async fn dial_by_digest(
    digest: [u8; 32],
    clock: Arc<dyn Clock>,
    addr: &str,
    timeout: Duration,
) -> Result<ManagerStream, DialError> {
    let reason = Reason::default();
    let verifier = ManagerVerifier { expectation: Expectation::RootDigest(digest), reason: reason.clone() };
    let config = client_config(None, Arc::new(verifier), clock).map_err(DialError::Credentials)?;
    handshake(addr, Arc::new(config), reason, timeout).await
}

type Dialling = Pin<Box<dyn Future<Output = Result<TokioIo<ManagerStream>, DialError>> + Send>>;

/// Dials one manager whenever the channel above it needs a connection, with the credentials of that moment.
#[derive(Debug, Clone)]
pub struct Connector {
    identity: Arc<NodeIdentity>,
    addr: Arc<str>,
    options: DialOptions,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<ManagerStream>;
    type Error = DialError;
    type Future = Dialling;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Dialling {
        let this = self.clone();
        Box::pin(async move { dial(&this.identity, &this.addr, &this.options).await.map(TokioIo::new) })
    }
}

fn endpoint(addr: &str, options: &DialOptions) -> Result<Endpoint, DialError> {
    let invalid = |_| DialError::InvalidAddress { addr: addr.to_owned() };
    Ok(Endpoint::from_shared(format!("http://{addr}"))
        .map_err(invalid)?
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20))
}

/// A channel that connects when it is first used and again whenever it lost its connection.
///
/// # Errors
/// When the address is not `host:port`.
pub fn lazy_channel(identity: &Arc<NodeIdentity>, addr: &str, options: DialOptions) -> Result<Channel, DialError> {
    let endpoint = endpoint(addr, &options)?;
    let connector = Connector { identity: Arc::clone(identity), addr: addr.into(), options };
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// A channel over a connection that is open already; it does not reconnect.
///
/// # Errors
/// When the manager cannot be reached or is not who it should be.
pub async fn connect(identity: &Arc<NodeIdentity>, addr: &str, options: DialOptions) -> Result<Channel, DialError> {
    let endpoint = endpoint(addr, &options)?;
    let stream = dial(identity, addr, &options).await?;
    over(endpoint, addr, stream).await
}

pub(crate) async fn connect_by_digest(
    digest: [u8; 32],
    clock: Arc<dyn Clock>,
    addr: &str,
    timeout: Duration,
) -> Result<Channel, DialError> {
    let endpoint = endpoint(addr, &DialOptions::default())?;
    let stream = dial_by_digest(digest, clock, addr, timeout).await?;
    over(endpoint, addr, stream).await
}

async fn over(endpoint: Endpoint, addr: &str, stream: ManagerStream) -> Result<Channel, DialError> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    endpoint.connect_with_connector(connector).await.map_err(|source| DialError::Http { addr: addr.to_owned(), source })
}
