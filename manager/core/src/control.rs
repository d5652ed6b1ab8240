//! Requests of the control API as changes of the store.
//!
//! ## Design notes
//! Everything is checked here, against one snapshot, and then guarded again where two requests could cross: an update
//! carries the version it was based on, a new object that it is new, a name that it is free. So a request can be
//! planned on any state that is not older than what its sender has seen.
//!
//! Deleted services and networks stay in the store as `pending_delete` while their tasks stop: their names and ports
//! are free at once, their addresses only when nothing uses them any more.

mod attachment;
mod cluster;
mod node;
mod report;
mod resource;
mod service;

use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::{AttachmentId, ClusterId, ConfigId, IdSource, NetworkId, NodeId, SecretId, ServiceId};
use shoal_proto::object::Meta;
use shoal_proto::time::Timestamp;

pub use cluster::refuse_autolock;
pub use resource::initial_networks;

use crate::change::Change;
use crate::store::Store;

/// What a request may need to know beyond the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context<'a> {
    /// The instant of the request.
    pub now: Timestamp,
    /// The managers that answer now, the leader included: they decide whether one may go.
    pub reachable_managers: &'a [NodeId],
    /// The managers that have a vote.
    pub voters: &'a [NodeId],
}

/// A request as changes, and how to answer when they are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The changes: one batch, to be committed whole. Empty when there is nothing to do.
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
    /// The attachment.
    Attachment(AttachmentId),
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
        let gone = |kind: &str| Failure::not_found(format!("the {kind} was removed in the meantime"));
        match self {
            Self::Done => Ok(ControlResponse::Done),
            Self::Service(id, warnings) => {
                let service = store.service(*id).ok_or_else(|| gone("service"))?;
                Ok(ControlResponse::Service(service.clone(), warnings.clone()))
            }
            Self::Network(id) => {
                store.network(*id).cloned().map(ControlResponse::Network).ok_or_else(|| gone("network"))
            }
            Self::Attachment(id) => {
                let attachment = store.attachment(*id).cloned();
                attachment.map(ControlResponse::Attachment).ok_or_else(|| gone("attachment"))
            }
            Self::Secret(id) => store.secret(*id).cloned().map(ControlResponse::Secret).ok_or_else(|| gone("secret")),
            Self::Config(id) => store.config(*id).cloned().map(ControlResponse::Config).ok_or_else(|| gone("config")),
            Self::Node(id) => store.node(*id).cloned().map(ControlResponse::Node).ok_or_else(|| gone("node")),
            Self::Cluster(_) => store.cluster().cloned().map(ControlResponse::Cluster).ok_or_else(|| gone("cluster")),
        }
    }
}

/// Turns a request into changes. New ids, tokens and keys are taken from `ids`, which therefore must be
/// unpredictable in a real cluster.
///
/// # Errors
/// When it is invalid, clashes with what exists, or is based on an old version.
pub fn plan_request(
    store: &Store,
    request: &ControlRequest,
    context: Context<'_>,
    ids: &mut dyn IdSource,
) -> Result<Planned, Failure> {
    match request {
        ControlRequest::CreateService(spec) => service::create(store, spec, ids),
        ControlRequest::UpdateService { id, version, spec } => service::update(store, *id, *version, spec),
        ControlRequest::RollbackService { id, version } => service::roll_back(store, *id, *version, context.now),
        ControlRequest::RemoveService(id) => service::remove(store, *id),
        ControlRequest::CreateNetwork(spec) => resource::create_network(store, spec, ids),
        ControlRequest::RemoveNetwork(id) => resource::remove_network(store, *id),
        ControlRequest::CreateSecret(spec) => resource::create_secret(store, spec, ids),
        ControlRequest::UpdateSecret { id, version, labels } => resource::update_secret(store, *id, *version, labels),
        ControlRequest::RemoveSecret(id) => resource::remove_secret(store, *id),
        ControlRequest::CreateConfig(spec) => resource::create_config(store, spec, ids),
        ControlRequest::UpdateConfig { id, version, labels } => resource::update_config(store, *id, *version, labels),
        ControlRequest::RemoveConfig(id) => resource::remove_config(store, *id),
        ControlRequest::UpdateNode { id, version, spec } => node::update(store, *id, *version, spec, context),
        ControlRequest::RemoveNode { id, force } => node::remove(store, *id, *force, context.now),
        ControlRequest::UpdateCluster { .. } => cluster::update(store, request, ids),
        ControlRequest::Attach { node, wish } => attachment::attach(store, *node, wish, ids),
        ControlRequest::Detach { node, ids } => Ok(attachment::detach(store, *node, ids)),
        ControlRequest::Report(reports) => Ok(report::changes(store, reports, context.now)),
    }
}

/// The version a request is based on must be the one there is.
fn check_version(meta: &Meta, version: u64) -> Result<(), Failure> {
    if meta.version == version { Ok(()) } else { Err(Failure::new(ErrorKind::StaleVersion, "update out of sequence")) }
}

fn one(change: Change, reply: Reply) -> Planned {
    Planned { changes: vec![change], reply }
}

/// A name that another object of the kind has.
fn name_conflict(kind: &str, name: &str) -> Failure {
    Failure::conflict(format!("name conflicts with an existing object: {kind} {name} already exists"))
}
