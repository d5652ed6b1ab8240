//! What every handler has at hand.

use std::sync::Arc;

use http::HeaderValue;
use shoal_engine::Engine;
use shoal_kit::entropy::Entropy;
use shoal_proto::time::Timestamp;

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
    pub server_header: HeaderValue,
}

impl Context {
    /// Now, by the engine's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.engine.options().clock.now()
    }
}
