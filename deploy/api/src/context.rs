//! What every handler has at hand.

use std::sync::Arc;

use arc_swap::ArcSwap;
use shoal_engine::Engine;
use shoal_kit::entropy::Entropy;
use tokio::sync::Notify;

use crate::node::NodeControl;

/// Describes the daemon's inside: what its threads and containers are doing.
pub type Dump = Arc<dyn Fn() -> String + Send + Sync>;

/// Version of the product, for `version`, `info` and the `Server` header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionInfo {
    /// Version of the release, `0.1.0`.
    pub version: String,
    /// Commit it was built from; empty when not known.
    pub git_commit: String,
    /// When it was built, RFC 3339; empty when not known.
    pub build_time: String,
}

/// What the daemon knows of its own options and shows with `info`. It may change while the API is served.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DaemonFacts {
    /// Is the daemon in debug mode? Only then `/debug` is served.
    pub debug: bool,
    /// Does it offer what dockerd has as experimental features?
    pub experimental: bool,
    /// Mirrors of Docker Hub.
    pub mirrors: Vec<String>,
    /// Registries without valid TLS, by name.
    pub insecure_hosts: Vec<String>,
    /// Subnets of such registries.
    pub insecure_subnets: Vec<String>,
    /// Proxies for HTTP, HTTPS, and hosts reached without; passwords hidden.
    pub proxies: [String; 3],
    /// Counted resources that this node offers, by kind.
    pub generic_resources: std::collections::BTreeMap<String, i64>,
    /// What of the options is dangerous, in words.
    pub warnings: Vec<String>,
}

/// What every handler has at hand. One value serves all requests.
pub(crate) struct Context {
    pub engine: Engine,
    pub node: Arc<dyn NodeControl>,
    pub version: VersionInfo,
    pub facts: Arc<ArcSwap<DaemonFacts>>,
    /// Describes the daemon's inside, for `/debug`.
    pub dump: Dump,
    pub entropy: Entropy,
    /// Rung when this node has entered or left a cluster: its manager may be another one now.
    pub membership_changed: Notify,
}
