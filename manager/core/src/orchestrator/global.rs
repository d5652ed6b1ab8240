//! Global services: one task on every node that fits.

use std::sync::Arc;

use shoal_proto::id::NodeId;
use shoal_proto::object::{Node, NodeState, Service};
use shoal_proto::spec::Availability;
use shoal_proto::task_state::TaskState;

use super::{fill, is_finished, is_runnable, tasks_in};
use crate::constraint::{self, Constraint};
use crate::draft::Draft;
use crate::reconcile::SlotKey;
use crate::restart::is_gone;

/// Which nodes a global service wants.
struct Eligible {
    constraints: Option<Vec<Constraint>>,
    service: Arc<Service>,
}

impl Eligible {
    fn new(service: &Arc<Service>) -> Self {
        let constraints = constraint::parse_all(&service.spec.task.placement.constraints).ok();
        Self { constraints, service: Arc::clone(service) }
    }

    fn matches(&self, node: &Node) -> bool {
        self.constraints.as_ref().is_some_and(|all| all.iter().all(|constraint| constraint.matches(node)))
            && constraint::platform_fits(&self.service.spec.task.placement.platforms, node)
    }
}

/// Stops tasks on nodes (or the one node) that the service no longer wants, or that are gone or drained.
pub(crate) fn leave(draft: &mut Draft<'_>, service: &Arc<Service>, only: Option<NodeId>) {
    let eligible = Eligible::new(service);
    let tasks: Vec<_> = match only {
        Some(node) => draft.store.tasks_of_service_on(service.id, node).cloned().collect(),
        None => draft.store.tasks_of_service(service.id).cloned().collect(),
    };
    for task in tasks.iter().filter(|task| is_runnable(task)) {
        let node = task.node_id.and_then(|id| draft.store.node(id));
        let stays = node.is_some_and(|node| {
            !is_gone(Some(node)) && node.spec.availability != Availability::Drain && eligible.matches(node)
        });
        if !stays {
            draft.set_desired(task, TaskState::Shutdown);
        }
    }
}

/// Makes a task on each node (or the one node) that fits and has none.
pub(crate) fn fill_nodes(draft: &mut Draft<'_>, service: &Arc<Service>, only: Option<NodeId>) {
    let eligible = Eligible::new(service);
    let nodes: Vec<NodeId> = match only {
        Some(node) => draft.store.node(node).into_iter().filter(|node| fits(&eligible, node)).map(|n| n.id).collect(),
        None => draft.store.nodes().filter(|node| fits(&eligible, node)).map(|node| node.id).collect(),
    };
    for node in nodes {
        let key = SlotKey { service: service.id, slot: 0, node: Some(node) };
        let slot = tasks_in(&draft.store, key);
        if !slot.iter().any(|task| is_runnable(task)) && !is_finished(&slot, draft.now) {
            fill(draft, service, key, &slot, TaskState::Running, false);
        }
    }
}

fn fits(eligible: &Eligible, node: &Node) -> bool {
    node.status.state == NodeState::Ready && node.spec.availability == Availability::Active && eligible.matches(node)
}
