//! Nodes: labels, availability and role; removal.

use std::sync::Arc;

use shoal_proto::error::Failure;
use shoal_proto::id::NodeId;
use shoal_proto::object::{Node, NodeState};
use shoal_proto::spec::{NodeRole, NodeSpec};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use super::{Context, Planned, Reply, check_version, one};
use crate::change::{Change, Expect, NodePatch, ObjectKey, TaskPatch};
use crate::enforcer::orphan_status;
use crate::store::Store;
use crate::validate;

fn find(store: &Store, id: NodeId) -> Result<&Arc<Node>, Failure> {
    store.node(id).ok_or_else(|| Failure::not_found(format!("node {id} not found")))
}

pub(super) fn update(
    store: &Store,
    id: NodeId,
    version: u64,
    spec: &NodeSpec,
    context: Context<'_>,
) -> Result<Planned, Failure> {
    let node = find(store, id)?;
    check_version(&node.meta, version)?;
    validate::node(spec)?;
    if node.spec.role == NodeRole::Manager && spec.role == NodeRole::Worker {
        check_demotion(store, node, context)?;
    }
    let patch = NodePatch { spec: Some(spec.clone()), ..NodePatch::default() };
    let change = Change::Node { id, patch: Box::new(patch), expect: Expect::Version(version) };
    Ok(one(change, Reply::Node(id)))
}

/// May the manager go without the others losing their quorum?
fn check_demotion(store: &Store, node: &Node, context: Context<'_>) -> Result<(), Failure> {
    let others: Vec<NodeId> = store
        .nodes()
        .filter(|other| {
            other.id != node.id
                && other.spec.role == NodeRole::Manager
                && other.manager.is_some()
                && context.voters.contains(&other.id)
        })
        .map(|other| other.id)
        .collect();
    if others.is_empty() {
        return Err(Failure::invalid("attempting to demote the last manager of the swarm"));
    }
    let reachable = others.iter().filter(|id| context.reachable_managers.contains(id)).count();
    let needed = others.len() / 2 + 1;
    if node.manager.is_some() && reachable < needed {
        return Err(Failure::invalid(format!(
            "can't remove member from the raft: this would result in a loss of quorum ({reachable} of the {} other \
             managers are reachable, {needed} are needed)",
            others.len()
        )));
    }
    Ok(())
}

pub(super) fn remove(store: &Store, id: NodeId, force: bool, now: Timestamp) -> Result<Planned, Failure> {
    let node = find(store, id)?;
    if node.spec.role == NodeRole::Manager || node.manager.is_some() {
        return Err(Failure::invalid(format!(
            "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before \
             removal"
        )));
    }
    if !force && node.status.state == NodeState::Ready {
        return Err(Failure::invalid(format!("node {id} is not down and can't be removed")));
    }
    // Nothing will ever be heard of its tasks again: they are over, so that what they hold is free.
    let mut changes: Vec<Change> = store
        .tasks_of_node(id)
        .filter(|task| !task.status.state.is_terminal())
        .map(|task| {
            let status = match task.status.state {
                // It never got there: it can still get another node, unless it is bound to this one.
                state if state < TaskState::Assigned => orphan_status(task, "its node was removed", now),
                _ => orphan_status(task, "its node was removed while it ran", now),
            };
            let patch = TaskPatch { status: Some(status), ..TaskPatch::default() };
            Change::Task { id: task.id, patch: Box::new(patch) }
        })
        .collect();
    let attached = store.attachments_of_node(id).map(|attachment| ObjectKey::Attachment(attachment.id));
    changes.extend(attached.map(Change::delete));
    changes.push(Change::Delete { key: ObjectKey::Node(id), expect: Expect::Version(node.meta.version) });
    Ok(Planned { changes, reply: Reply::Done })
}
