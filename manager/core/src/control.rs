//! Requests of the control API as changes of the store.

use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::error::Failure;
use shoal_proto::id::{ClusterId, ConfigId, IdSource, NetworkId, NodeId, SecretId, ServiceId};
use shoal_proto::time::Timestamp;

use crate::change::Change;
use crate::store::Store;

/// What a request may need to know beyond the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// The instant of the request.
    pub now: Timestamp,
    /// How many managers answer now, the leader included: decides whether one more may go.
    pub reachable_managers: usize,
}

/// A request as changes, and how to answer when they are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The changes: one batch, to be committed whole.
    pub changes: Vec<Change>,
    /// How to answer.
    pub reply: Reply,
}

/// What to answer once the changes are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    Done,
    /// The service, with warnings.
    Service(ServiceId, Vec<String>),
    /// The network.
    Network(NetworkId),
    /// The secret.
    Secret(SecretId),
    /// The config.
    Config(ConfigId),
    /// The node.
    Node(NodeId),
    /// The cluster.
    Cluster(ClusterId),
}

impl Reply {
    /// The answer, from the store after the changes.
    ///
    /// # Errors
    /// When the object is gone again.
    pub fn resolve(&self, store: &Store) -> Result<ControlResponse, Failure> {
        let gone = |kind: &str| Failure::not_found(format!("{kind} was removed in the meantime"));
        match self {
            Self::Done => Ok(ControlResponse::Done),
            Self::Service(id, warnings) => {
                let service = store.service(*id).ok_or_else(|| gone("service"))?;
                Ok(ControlResponse::Service(service.clone(), warnings.clone()))
            }
            Self::Network(id) => {
                store.network(*id).cloned().map(ControlResponse::Network).ok_or_else(|| gone("network"))
            }
            Self::Secret(id) => store.secret(*id).cloned().map(ControlResponse::Secret).ok_or_else(|| gone("secret")),
            Self::Config(id) => store.config(*id).cloned().map(ControlResponse::Config).ok_or_else(|| gone("config")),
            Self::Node(id) => store.node(*id).cloned().map(ControlResponse::Node).ok_or_else(|| gone("node")),
            Self::Cluster(_) => store.cluster().cloned().map(ControlResponse::Cluster).ok_or_else(|| gone("cluster")),
        }
    }
}

/// Turns a request into changes.
///
/// # Errors
/// When it is invalid, clashes with what exists, or is based on an old version.
pub fn plan_request(
    store: &Store,
    request: &ControlRequest,
    context: Context,
    ids: &mut dyn IdSource,
) -> Result<Planned, Failure> {
    let _ = (store, request, context, ids);
    Err(Failure::unavailable("this request is not served yet"))
}

/// The networks every cluster begins with: the routing mesh, and the predefined `host` and `bridge`.
pub fn initial_networks(ids: &mut dyn IdSource) -> Vec<Change> {
    let _ = ids;
    Vec::new()
}
