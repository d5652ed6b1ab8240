//! What every handler has at hand.

use std::sync::Arc;

use shoal_engine::Engine;
use shoal_kit::entropy::Entropy;
use tokio::sync::Notify;

use crate::node::NodeControl;

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

/// What every handler has at hand. One value serves all requests.
pub(crate) struct Context {
    pub engine: Engine,
    pub node: Arc<dyn NodeControl>,
    pub version: VersionInfo,
    pub debug: bool,
    pub entropy: Entropy,
    /// Rung when this node has entered or left a cluster: its manager may be another one now.
    pub membership_changed: Notify,
}
