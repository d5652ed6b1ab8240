//! What every command is given.

use jiff::Timestamp;
use serde_json::Value;

use super::client::{Client, DEFAULT_HOSTS, Endpoint, escape};

/// The daemon to speak to and the time.
#[derive(Debug)]
pub(crate) struct Context {
    /// The daemon's API.
    pub(crate) client: Client,
}

impl Context {
    /// The daemon named by `-H`, else by `SHOAL_HOST`, else by `DOCKER_HOST`, else the default socket.
    pub(crate) fn new(host: Option<&str>) -> anyhow::Result<Self> {
        let from_environment = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let host = host
            .map(str::to_owned)
            .or_else(|| from_environment("SHOAL_HOST"))
            .or_else(|| from_environment("DOCKER_HOST"));
        let endpoint = Endpoint::parse(&host.unwrap_or_else(default_host)).map_err(anyhow::Error::msg)?;
        Ok(Self { client: Client::new(endpoint) })
    }

    /// The time of day.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// `GET /{kind}/{name}` as the daemon gives it.
    pub(crate) async fn object(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        self.client.fetch(format!("/{kind}/{}", escape(name))).await
    }
}

/// The first default socket that is there, else the first, so that a failure names it.
fn default_host() -> String {
    let is_there = |host: &str| host.strip_prefix("unix://").is_some_and(|path| std::path::Path::new(path).exists());
    let [first, ..] = DEFAULT_HOSTS;
    DEFAULT_HOSTS.into_iter().find(|host| is_there(host)).unwrap_or(first).to_owned()
}
