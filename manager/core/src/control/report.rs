//! What dispatchers learned from agents.
//!
//! A report that is old news, or comes from a node that has no say in it, is dropped: agents repeat what was not
//! accepted, and one bad report must not hold up the others of its batch.

use shoal_proto::control::Report;
use shoal_proto::object::{NodeState, NodeStatus, TaskStatus};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use super::{Planned, Reply};
use crate::change::{Change, Expect, NodePatch, TaskPatch};
use crate::store::Store;

pub(super) fn changes(store: &Store, reports: &[Report], now: Timestamp) -> Planned {
    let changes = reports.iter().filter_map(|report| change(store, report, now)).collect();
    Planned { changes, reply: Reply::Done }
}

fn change(store: &Store, report: &Report, now: Timestamp) -> Option<Change> {
    match report {
        Report::Task { node, id, status } => {
            let task = store.task(*id)?;
            let acceptable = task.node_id == Some(*node) && may_report(status) && is_news(&task.status, status);
            let patch = TaskPatch { status: Some(status.clone()), ..TaskPatch::default() };
            acceptable.then(|| Change::Task { id: *id, patch: Box::new(patch) })
        }
        Report::NodeReady { id, description, addr, session_manager } => {
            let old = &store.node(*id)?.status;
            let since = if old.state == NodeState::Ready { old.since } else { now };
            let status = NodeStatus {
                state: NodeState::Ready,
                message: String::new(),
                addr: addr.or(old.addr),
                session_manager: Some(*session_manager),
                since,
                restarting: false,
            };
            let description = Some((**description).clone());
            let patch = NodePatch { status: Some(status), description, ..NodePatch::default() };
            Some(Change::Node { id: *id, patch: Box::new(patch), expect: Expect::Any })
        }
        Report::NodeGone { id, state, message, session_manager } => {
            let old = &store.node(*id)?.status;
            if !matches!(state, NodeState::Down | NodeState::Disconnected) {
                return None;
            }
            let since = if old.state == *state { old.since } else { now };
            let status = NodeStatus {
                state: *state,
                message: message.clone(),
                addr: old.addr,
                session_manager: None,
                since,
                restarting: false,
            };
            // Checked when it is applied: a newer session may be held by another manager by then.
            let if_session_manager = Some(*session_manager);
            let patch = NodePatch { if_session_manager, status: Some(status), ..NodePatch::default() };
            Some(Change::Node { id: *id, patch: Box::new(patch), expect: Expect::Any })
        }
        Report::NodeRestarting { id, session_manager } => {
            let old = &store.node(*id)?.status;
            if old.state != NodeState::Ready {
                return None;
            }
            let status = NodeStatus { restarting: true, ..old.clone() };
            let if_session_manager = Some(*session_manager);
            let patch = NodePatch { if_session_manager, status: Some(status), ..NodePatch::default() };
            Some(Change::Node { id: *id, patch: Box::new(patch), expect: Expect::Any })
        }
    }
}

/// The states between the manager's (`ASSIGNED` and before, `ORPHANED`) are the agent's.
fn may_report(status: &TaskStatus) -> bool {
    (TaskState::Accepted..=TaskState::Rejected).contains(&status.state)
}

fn is_news(old: &TaskStatus, new: &TaskStatus) -> bool {
    new.state >= old.state && !old.state.is_terminal() && old != new
}
