//! The way to the cluster's manager, or the reason why there is none.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use shoal_manager::ManagerHandle;
use shoal_manager_core::store::Store;
use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::NodeId;

use super::model::ManagerStatus;
use crate::context::Context;
use crate::error::ApiError;
use crate::node::{LocalNodeState, LocalNodeStatus};

/// How long a look at the cluster waits for a leader.
const PATIENCE: Duration = Duration::from_millis(500);

const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect \
                        this node to swarm and try again.";
const WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. \
                      Please run this command on a manager node or promote the current node to a manager.";
const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm \
                      unlock\" to unlock it.";
const STARTING: &str = "The manager of this node is starting: try again in a moment.";

/// A manager, and the cluster as it was when the request came. Reads of the store are linearizable.
pub(crate) struct Cluster {
    manager: ManagerHandle,
    store: Store,
    local_node: Option<NodeId>,
}

impl Cluster {
    /// Asks this node's manager for the current state.
    pub(crate) async fn open(context: &Context) -> Result<Self, ApiError> {
        let status = context.node.status();
        let manager = manager_of(context, &status)?;
        let store = manager.read().await?;
        Ok(Self { manager, store, local_node: status.node_id })
    }

    /// The state as it is known here when the leader does not answer at once: for what is of use also when it is not
    /// the newest. `None` when this node is no manager.
    pub(crate) async fn look(context: &Context) -> Option<Self> {
        let status = context.node.status();
        let manager = manager_of(context, &status).ok()?;
        let store = match tokio::time::timeout(PATIENCE, manager.read()).await {
            Ok(Ok(store)) => store,
            _ => manager.local(),
        };
        Some(Self { manager, store, local_node: status.node_id })
    }

    /// The manager.
    pub(crate) fn manager(&self) -> &ManagerHandle {
        &self.manager
    }

    /// This node's id.
    pub(crate) fn local_node(&self) -> Option<NodeId> {
        self.local_node
    }

    /// Has desired state changed; returns when that is committed.
    pub(crate) async fn control(&self, request: ControlRequest) -> Result<ControlResponse, ApiError> {
        Ok(self.manager.control(request).await?)
    }

    /// How the managers are, by node.
    pub(crate) async fn managers(&self) -> BTreeMap<NodeId, ManagerStatus> {
        let members = self.manager.members().await;
        let statuses = members.into_iter().map(|member| {
            let reachability = if member.reachable { "reachable" } else { "unreachable" };
            let status = ManagerStatus {
                leader: member.leader,
                reachability: reachability.to_owned(),
                addr: member.addr.to_string(),
            };
            (member.node_id, status)
        });
        statuses.collect()
    }
}

impl Deref for Cluster {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// This node's manager, or dockerd's words for why it has none.
fn manager_of(context: &Context, status: &LocalNodeStatus) -> Result<ManagerHandle, ApiError> {
    if let Some(manager) = context.node.manager()
        && status.state != LocalNodeState::Locked
    {
        return Ok(manager);
    }
    Err(no_manager(status).into())
}

fn no_manager(status: &LocalNodeStatus) -> Failure {
    let message = match status.state {
        LocalNodeState::Inactive => NO_SWARM,
        LocalNodeState::Locked => LOCKED,
        LocalNodeState::Pending => STARTING,
        LocalNodeState::Error if !status.error.is_empty() => &status.error,
        LocalNodeState::Active if status.control_available => STARTING,
        LocalNodeState::Active | LocalNodeState::Error => WORKER,
    };
    Failure::unavailable(message)
}

/// A response of another shape than the request calls for: a defect of the manager.
pub(crate) fn unexpected(response: &ControlResponse) -> ApiError {
    Failure::new(ErrorKind::Internal, format!("the manager gave an unexpected answer: {response:?}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_reason() {
        let message = |state| no_manager(&LocalNodeStatus { state, ..LocalNodeStatus::default() }).message;
        assert!(message(LocalNodeState::Inactive).contains("docker swarm init"));
        assert!(message(LocalNodeState::Active).contains("Worker nodes can't be used"));
        assert!(message(LocalNodeState::Locked).contains("docker swarm unlock"));
        assert_eq!(ApiError::from(no_manager(&LocalNodeStatus::default())).status(), 503);
    }
}
