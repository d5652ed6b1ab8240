//! Takes tasks off nodes that no longer suit them, and gives up those whose node is gone for good.
//!
//! ## Design notes
//! Swarm's constraint enforcer marks such a task REJECTED while its container still runs. Here it is told to stop and
//! keeps its state (and with it its address) until its agent reports the end; the orchestrator fills the slot.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::id::NodeId;
use shoal_proto::object::{Node, Task, TaskStatus};
use shoal_proto::spec::{ResourceAmount, TaskSpec};
use shoal_proto::task_state::TaskState;

use crate::change::TaskPatch;
use crate::constraint::{self, Constraint};
use crate::draft::Draft;
use crate::orchestrator::is_alive;
use crate::reconcile::Due;
use crate::restart::is_gone;

/// After this time without its node a task is given up, as in Swarm.
const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The constraints of specs, each read once. The spec is kept so that its address stays its own.
#[derive(Default)]
struct Constraints(HashMap<*const TaskSpec, (Arc<TaskSpec>, Option<Vec<Constraint>>)>);

impl Constraints {
    fn match_node(&mut self, spec: &Arc<TaskSpec>, node: &Node) -> bool {
        if spec.placement.constraints.is_empty() {
            return true;
        }
        let read = || (Arc::clone(spec), constraint::parse_all(&spec.placement.constraints).ok());
        let (_, constraints) = self.0.entry(Arc::as_ptr(spec)).or_insert_with(read);
        constraints.as_ref().is_some_and(|all| all.iter().all(|constraint| constraint.matches(node)))
    }
}

/// Stops the tasks of nodes that no longer match their constraints, or for which the node has become too small.
pub(crate) fn enforce(draft: &mut Draft<'_>, nodes: &BTreeSet<NodeId>) {
    let mut constraints = Constraints::default();
    for id in nodes {
        enforce_on(draft, &mut constraints, *id);
    }
}

fn enforce_on(draft: &mut Draft<'_>, constraints: &mut Constraints, id: NodeId) {
    let Some(node) = draft.store.node(id).cloned() else { return };
    let Some(description) = node.description.as_ref().filter(|_| !is_gone(Some(&node))) else { return };
    let mut tasks: Vec<Arc<Task>> = draft
        .store
        .tasks_of_node(id)
        .filter(|task| is_alive(task) && task.status.state >= TaskState::Assigned)
        .cloned()
        .collect();
    // The oldest stay.
    tasks.sort_unstable_by_key(|task| (task.meta.created_at, task.id));
    let mut free = description.resources.clone();
    for task in tasks {
        let reason = if !is_welcome(draft, constraints, &node, &task) {
            Some("assigned node no longer meets constraints")
        } else if !take(&mut free, &task.spec.resources.reservations) {
            Some("assigned node no longer has the resources that the task reserves")
        } else {
            None
        };
        if let Some(reason) = reason {
            let status = TaskStatus {
                timestamp: draft.now,
                message: "stopped by the constraint enforcer".to_owned(),
                error: reason.to_owned(),
                ..task.status.clone()
            };
            let desired_state = Some(TaskState::Shutdown);
            draft.patch_task(task.id, TaskPatch { desired_state, status: Some(status), ..TaskPatch::default() });
        }
    }
}

/// May the task stay, by its own constraints or by those its service has now? When only the latter fail, it is the
/// updater's business, which goes a few at a time.
fn is_welcome(draft: &Draft<'_>, constraints: &mut Constraints, node: &Node, task: &Task) -> bool {
    constraints.match_node(&task.spec, node)
        || draft.store.service(task.service_id).is_some_and(|service| constraints.match_node(&service.spec.task, node))
}

/// Takes a reservation from what is free. False when it does not fit; then nothing is taken.
fn take(free: &mut ResourceAmount, reserved: &ResourceAmount) -> bool {
    let fits = free.nano_cpus >= reserved.nano_cpus
        && free.memory_bytes >= reserved.memory_bytes
        && reserved.generic.iter().all(|(kind, amount)| free.generic.get(kind).copied().unwrap_or(0) >= *amount);
    if fits {
        free.nano_cpus -= reserved.nano_cpus;
        free.memory_bytes -= reserved.memory_bytes;
        for (kind, amount) in &reserved.generic {
            *free.generic.entry(kind.clone()).or_default() -= amount;
        }
    }
    fits || (reserved.nano_cpus == 0 && reserved.memory_bytes == 0 && reserved.generic.is_empty())
}

/// Gives up the tasks of a node that was removed or has been gone for a day.
pub(crate) fn orphan(draft: &mut Draft<'_>, id: NodeId) {
    if draft.store.tasks_of_node(id).all(|task| task.status.state.is_terminal()) {
        return;
    }
    let node = draft.store.node(id).cloned();
    let reason = match &node {
        None => "its node was removed",
        Some(node) if !is_gone(Some(node)) => return,
        Some(node) => {
            let until = node.status.since.after(ORPHAN_AFTER);
            if draft.now < until {
                draft.wake(Due::Node(id), until);
                return;
            }
            "its node has been gone for 24 hours"
        }
    };
    for (task, status) in orphans(draft, id, reason) {
        draft.set_status(task, status);
    }
}

fn orphans(draft: &Draft<'_>, id: NodeId, reason: &str) -> Vec<(shoal_proto::id::TaskId, TaskStatus)> {
    let lost = draft.store.tasks_of_node(id).filter(|task| !task.status.state.is_terminal());
    lost.map(|task| (task.id, orphan_status(task, reason, draft.now))).collect()
}

/// The status of a task that is given up.
pub(crate) fn orphan_status(task: &Task, reason: &str, now: shoal_proto::time::Timestamp) -> TaskStatus {
    TaskStatus {
        state: TaskState::Orphaned,
        timestamp: now,
        message: "orphaned".to_owned(),
        error: format!("task was given up: {reason}"),
        ..task.status.clone()
    }
}
