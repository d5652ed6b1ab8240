//! The Docker Engine HTTP API of a Shoal node.
//!
//! ## Design notes
//! The accept loop is our own (`server`), because the API takes connections over in a way that needs it. A request goes
//! through version negotiation and the table in `routes` to one handler, which asks the engine, the manager or the
//! daemon, and gives back a response or an error; `error` is the one place that knows which kind of failure has which
//! status. Shapes of local things are the engine's; shapes of cluster objects, and their conversions, are in `swarm`.

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use shoal_engine::Engine;
use shoal_kit::entropy::Entropy;
use tokio_util::sync::CancellationToken;

mod body;
mod context;
mod error;
mod fold;
mod gate;
mod hijack;
pub mod node;
mod query;
mod request;
mod response;
mod router;
mod routes;
mod server;
mod stdcopy;
mod swarm;
mod version;
mod websocket;

pub use context::{DaemonFacts, Dump, VersionInfo};
pub use error::ApiError;
pub use node::NodeControl;
pub use server::Listener;
pub use version::ApiVersion;

/// What the API serves, and where.
pub struct ApiOptions {
    /// Containers, images, networks and volumes of this node.
    pub engine: Engine,
    /// The node's life in its cluster.
    pub node: Arc<dyn NodeControl>,
    /// Bound sockets.
    pub listeners: Vec<Listener>,
    /// Ends the service when cancelled.
    pub shutdown: CancellationToken,
    /// Version of the product.
    pub version: VersionInfo,
    /// The daemon's options, as far as `info` shows them.
    pub facts: Arc<ArcSwap<DaemonFacts>>,
    /// Describes the daemon's inside, for `/debug`.
    pub dump: Dump,
    /// Names of services that were given none are made from it.
    pub entropy: Entropy,
}

/// Serves the API until `shutdown` is cancelled and the answers under way are out (or took longer than 3 s).
pub fn serve(options: ApiOptions) -> impl Future<Output = ()> {
    let ApiOptions { engine, node, listeners, shutdown, version, facts, dump, entropy } = options;
    let name = HeaderValue::try_from(format!("Shoal/{} ({})", version.version, std::env::consts::OS))
        .unwrap_or(HeaderValue::from_static("Shoal"));
    let experimental = facts.load().experimental;
    let context = Arc::new(context::Context {
        engine,
        node,
        version,
        facts,
        dump,
        entropy,
        membership_changed: tokio::sync::Notify::new(),
    });
    let events = swarm::events::follow(Arc::clone(&context), shutdown.clone());
    let server = server::Server { context, router: routes::router(), name, experimental };
    async move {
        tokio::join!(server::run(server, listeners, shutdown), events);
    }
}
