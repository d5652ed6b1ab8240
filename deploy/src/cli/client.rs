//! The Engine API's client: HTTP/1.1 over a unix or TCP socket, version negotiation, streams, and hijacked connections.

mod connection;
mod request;
pub(crate) mod stream;

use std::path::PathBuf;

use serde_json::Value;
use tokio::sync::OnceCell;

pub(crate) use request::{Filters, Request};

/// The API version that this client is written for.
const VERSION: &str = "1.51";

/// Where a daemon may listen when nothing else is said: as the systemd unit starts it, and as it starts by itself.
pub(crate) const DEFAULT_HOSTS: [&str; 2] = ["unix:///run/shoal/shoal.sock", "unix:///run/shoal.sock"];

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl Endpoint {
    /// Parses `unix:///path`, `tcp://host:port`, `http://host:port` or a bare absolute path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("unable to parse docker host '{text}' (want unix:///path or tcp://host:port)");
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(invalid()) };
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let address = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")).ok_or_else(invalid)?;
        let address = address.trim_end_matches('/');
        if address.is_empty() {
            return Err(invalid());
        }
        let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Ok(Self::Tcp(if has_port { address.to_owned() } else { format!("{address}:2375") }))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
        }
    }
}

/// An answer of the API that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The daemon's words.
    pub(crate) message: String,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Error response from daemon: {}", self.message)
    }
}

impl std::error::Error for ApiError {}

/// The status of the API's answer when that is what an error is.
pub(crate) fn status_of(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<ApiError>().map(|error| error.status)
}

/// Whether an error says that the thing does not exist.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    status_of(error) == Some(404)
}

/// A daemon's API.
#[derive(Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    version: OnceCell<String>,
    connections: connection::Connections,
}

impl Client {
    /// The API at this endpoint. Nothing is sent before the first request. `DOCKER_API_VERSION` fixes the version.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        let fixed = std::env::var("DOCKER_API_VERSION").ok().filter(|version| !version.is_empty());
        let version = OnceCell::new_with(fixed.map(|version| version.trim_start_matches('v').to_owned()));
        Self { connections: connection::Connections::new(endpoint.clone()), endpoint, version }
    }

    /// Where the daemon is.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version to speak: the lower of the daemon's and this client's.
    pub(crate) async fn version(&self) -> anyhow::Result<&str> {
        let negotiate = || async {
            let response = self.connections.send(http::Method::HEAD, "/_ping", &[], request::Payload::None).await?;
            let theirs = response.headers().get("api-version").and_then(|value| value.to_str().ok()).unwrap_or("1.24");
            anyhow::Ok(lower(theirs, VERSION).to_owned())
        };
        Ok(self.version.get_or_try_init(negotiate).await?)
    }

    /// Starts a GET.
    pub(crate) fn get(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, http::Method::GET, path.into())
    }

    /// Starts a POST.
    pub(crate) fn post(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, http::Method::POST, path.into())
    }

    /// Starts a PUT.
    pub(crate) fn put(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, http::Method::PUT, path.into())
    }

    /// Starts a HEAD.
    pub(crate) fn head(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, http::Method::HEAD, path.into())
    }

    /// Starts a DELETE.
    pub(crate) fn delete(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, http::Method::DELETE, path.into())
    }

    /// The JSON of a GET.
    pub(crate) async fn fetch(&self, path: impl Into<String>) -> anyhow::Result<Value> {
        self.get(path).json().await
    }
}

fn lower<'a>(left: &'a str, right: &'a str) -> &'a str {
    let number = |version: &str| {
        let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
        (major.parse::<u32>().unwrap_or_default(), minor.parse::<u32>().unwrap_or_default())
    };
    if number(left) < number(right) { left } else { right }
}

/// A text as one step of a URL's path or one value of its query.
pub(crate) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        assert_eq!(Endpoint::parse("unix:///run/x.sock"), Ok(Endpoint::Unix("/run/x.sock".into())));
        assert_eq!(Endpoint::parse("/run/x.sock"), Ok(Endpoint::Unix("/run/x.sock".into())));
        assert_eq!(Endpoint::parse("tcp://10.0.0.1:2375/"), Ok(Endpoint::Tcp("10.0.0.1:2375".to_owned())));
        assert_eq!(Endpoint::parse("tcp://node"), Ok(Endpoint::Tcp("node:2375".to_owned())));
        for text in ["", "unix://x", "ssh://host", "tcp://"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_lower_version_is_spoken() {
        assert_eq!(lower("1.41", "1.51"), "1.41");
        assert_eq!(lower("1.9", "1.51"), "1.9");
        assert_eq!(lower("1.60", "1.51"), "1.51");
    }

    #[test]
    fn escapes() {
        assert_eq!(escape("a b/c:1.0~x"), "a%20b%2Fc%3A1.0~x");
    }
}
