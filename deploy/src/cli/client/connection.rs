//! Connections to the daemon, kept for the next request while they are idle.

use anyhow::Context as _;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;

use super::Endpoint;
use super::request::Payload;

/// A request's body.
pub(super) type Body = UnsyncBoxBody<bytes::Bytes, std::io::Error>;

/// Where connections come from. At most one idle connection is kept.
#[derive(Debug)]
pub(super) struct Connections {
    endpoint: Endpoint,
    idle: Mutex<Option<SendRequest<Body>>>,
}

impl Connections {
    /// Connections to this endpoint.
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::new(None) }
    }

    /// Sends a request and gives the answer's head. The connection is kept when the answer has been read to its end.
    pub(super) async fn send(
        &self,
        method: http::Method,
        path_and_query: &str,
        headers: &[(&str, String)],
        payload: Payload,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let host = match &self.endpoint {
            Endpoint::Unix(_) => "api.moby.localhost",
            Endpoint::Tcp(address) => address.as_str(),
        };
        let mut builder = http::Request::builder()
            .method(method)
            .uri(path_and_query)
            .header("host", host)
            .header("user-agent", "shoal");
        for (name, value) in headers {
            builder = builder.header(*name, value);
        }
        if let Some(kind) = payload.content_type() {
            builder = builder.header("content-type", kind);
        }
        let request = builder.body(payload.into_body()).context("make the request")?;
        let mut sender = self.sender().await?;
        let response =
            sender.send_request(request).await.with_context(|| format!("error during connect: {}", self.endpoint))?;
        *self.idle.lock().await = Some(sender);
        Ok(response)
    }

    /// The idle connection when it can take a request, else a new one.
    async fn sender(&self) -> anyhow::Result<SendRequest<Body>> {
        if let Some(sender) = self.idle.lock().await.take()
            && sender.is_ready()
        {
            return Ok(sender);
        }
        match &self.endpoint {
            Endpoint::Unix(path) => start(UnixStream::connect(path).await.map_err(|error| self.explain(&error))?).await,
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| self.explain(&error))?;
                stream.set_nodelay(true).context("set TCP_NODELAY")?;
                start(stream).await
            }
        }
    }

    fn explain(&self, error: &std::io::Error) -> anyhow::Error {
        let endpoint = &self.endpoint;
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            return anyhow::anyhow!(
                "permission denied while trying to connect to the Shoal daemon at {endpoint}: run as root, or as a member of the socket's group"
            );
        }
        anyhow::anyhow!(
            "Cannot connect to the Shoal daemon at {endpoint}. Is the daemon running? ({error})\n\
             Start it with 'shoal daemon', or name another one with -H, SHOAL_HOST or DOCKER_HOST."
        )
    }
}

async fn start<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> anyhow::Result<SendRequest<Body>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.context("start HTTP")?;
    tokio::spawn(async move {
        // Its failure is the failure of the request that is under way.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

/// A body of these bytes.
pub(super) fn full(bytes: bytes::Bytes) -> Body {
    http_body_util::Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
