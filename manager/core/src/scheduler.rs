//! Gives tasks their nodes.
//!
//! ## Design notes
//! Tasks of one service and spec are placed as a group: what does not depend on the load (readiness, constraints,
//! platform) is asked once for each node, then every placement takes the best node off a heap and puts it back with
//! its new load. A placement costs the logarithm of the number of nodes, never a scan of them. "Best" is Swarm's order:
//! not a node where this spec keeps failing, then fewest tasks of the service, then fewest tasks; with spread
//! preferences, first evenly over the values of each label. Ties are broken by a hash of node and service, so that
//! small services do not all gather on the first node.

mod explain;
mod node;
mod tree;

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::id::{NodeId, ServiceId, TaskId};
use shoal_proto::object::{Task, TaskStatus};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use crate::change::TaskPatch;
use crate::draft::Draft;
use crate::reconcile::Due;
use node::{Cluster, Needs};
use tree::Tree;
pub(crate) use tree::is_spread_descriptor;

/// Failures of a spec on a node that make the node the last choice for it, and the time in which they count.
const FAILURES: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(300);
/// A changed reason for waiting is written at most this often for a task.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// What the scheduler writes into the status of a task that it placed.
const ASSIGNED_MESSAGE: &str = "scheduler assigned task to node";

/// Places the tasks of these services that wait for a node.
pub(crate) fn schedule(draft: &mut Draft<'_>, services: &[ServiceId]) {
    let mut cluster: Option<Cluster> = None;
    // Tasks are read from a copy, so that the draft can be written.
    let view = draft.store.clone();
    for service in services {
        let waiting = view.tasks_unassigned_of(*service).filter_map(|(_, _, id)| view.task(id));
        let tasks: Vec<&Arc<Task>> = waiting.collect();
        for group in tasks.chunk_by(|a, b| a.spec_version == b.spec_version) {
            let cluster = cluster.get_or_insert_with(|| Cluster::observe(&view));
            place_group(draft, cluster, *service, group);
        }
    }
}

fn place_group(draft: &mut Draft<'_>, cluster: &mut Cluster, service: ServiceId, tasks: &[&Arc<Task>]) {
    let Some(first) = tasks.first() else { return };
    let needs = Needs::of(first);
    cluster.enter_group(&draft.store, service, first.spec_version, draft.now);
    for task in tasks.iter().filter(|task| task.node_id.is_some()) {
        place_bound(draft, cluster, &needs, task);
    }
    let mut free = tasks.iter().filter(|task| task.node_id.is_none()).peekable();
    if free.peek().is_none() {
        return;
    }
    let mut tree = Tree::grow(cluster, &needs, &first.spec.placement.spread);
    while free.peek().is_some() {
        let Some(index) = tree.take(cluster, &needs) else { break };
        let node = cluster.take(index, &needs);
        if let Some(task) = free.next() {
            assign(draft, task, node);
        }
    }
    if let Some(first) = free.peek() {
        let reason = explain::explain(cluster, &needs, None);
        draft.wait(Some(service), Some(first.id), reason.clone());
        for task in free {
            explain_to(draft, task, &reason);
        }
    }
}

/// A task of a global service has its node already; the question is only whether it fits.
fn place_bound(draft: &mut Draft<'_>, cluster: &mut Cluster, needs: &Needs, task: &Arc<Task>) {
    let index = task.node_id.and_then(|id| cluster.index_of(id));
    match index.filter(|index| cluster.accepts(*index, needs)) {
        Some(index) => {
            let node = cluster.take(index, needs);
            assign(draft, task, node);
        }
        None => {
            let reason = explain::explain(cluster, needs, Some(index));
            draft.wait(Some(task.service_id), Some(task.id), reason.clone());
            explain_to(draft, task, &reason);
        }
    }
}

fn assign(draft: &mut Draft<'_>, task: &Task, node: NodeId) {
    let message = if task.restart.crash_streak < 2 { ASSIGNED_MESSAGE.to_owned() } else { task.status.message.clone() };
    let status = TaskStatus { state: TaskState::Assigned, timestamp: draft.now, message, ..TaskStatus::default() };
    let patch = TaskPatch { node_id: Some(node), status: Some(status), ..TaskPatch::default() };
    draft.patch_task_unseen(task.id, patch);
}

/// Puts the reason for waiting into the task's status, when it is another one than before.
fn explain_to(draft: &mut Draft<'_>, task: &Task, reason: &str) {
    if task.status.error == reason {
        return;
    }
    let again = task.status.timestamp.after(EXPLAIN_INTERVAL);
    if !task.status.error.is_empty() && draft.now < again {
        draft.wake(Due::Placement, again);
        return;
    }
    let status = TaskStatus { timestamp: draft.now, error: reason.to_owned(), ..task.status.clone() };
    let patch = TaskPatch { status: Some(status), ..TaskPatch::default() };
    draft.patch_task_unseen(task.id, patch);
}

/// Does the spec keep failing on a node?
fn keeps_failing(failures: &[(Timestamp, u64, TaskId)], spec_version: u64, now: Timestamp) -> bool {
    let recent =
        |(at, version, _): &&(Timestamp, u64, TaskId)| *version == spec_version && now.since(*at) <= FAILURE_WINDOW;
    failures.len() >= FAILURES && failures.iter().filter(recent).count() >= FAILURES
}
