//! Forgets what is over: old tasks, deleted services, deleted networks.

use std::sync::Arc;

use shoal_proto::id::{NetworkId, ServiceId};
use shoal_proto::object::{Service, Task};
use shoal_proto::spec::ClusterSpec;
use shoal_proto::task_state::TaskState;

use crate::change::{Change, ObjectKey};
use crate::draft::Draft;
use crate::reconcile::SlotKey;
use crate::update;

/// Is nothing left of the task in the cluster, and nothing wanted of it?
fn is_over(task: &Task) -> bool {
    task.desired_state > TaskState::Running
        && (task.status.state.is_terminal() || task.status.state < TaskState::Assigned)
}

fn delete(draft: &mut Draft<'_>, task: &Task) {
    draft.push(Change::delete(ObjectKey::Task(task.id)));
}

/// Deletes the tasks of a slot that nobody needs to see any more: those to be removed, those that never got anywhere,
/// and the oldest beyond the history limit, which counts all tasks of the slot, as Swarm's does.
pub(crate) fn reap_slot(draft: &mut Draft<'_>, service: &Service, key: SlotKey, slot: &[Arc<Task>]) {
    let limit = draft
        .store
        .cluster()
        .map_or_else(|| ClusterSpec::default().task_history_limit, |cluster| cluster.spec.task_history_limit);
    let node_is_gone = key.node.is_some_and(|node| draft.store.node(node).is_none());
    let mut kept = slot.len() as u64;
    let mut history: Vec<&Arc<Task>> = Vec::new();
    for task in slot.iter().filter(|task| is_over(task)) {
        let unseen = task.desired_state == TaskState::Remove || task.status.state < TaskState::Assigned;
        if unseen || node_is_gone {
            delete(draft, task);
            kept -= 1;
        } else {
            history.push(task);
        }
    }
    history.sort_unstable_by_key(|task| (task.ended_at, task.meta.created_at, task.id));
    // While an update runs, the failure that it counts for this slot must not be forgotten.
    let evidence = update::is_running(service)
        .then(|| history.iter().rev().find(|task| update::counts_as_failed(service, task, draft.now)))
        .flatten()
        .map(|task| task.id);
    for task in history {
        if kept <= limit {
            break;
        }
        if Some(task.id) != evidence {
            delete(draft, task);
            kept -= 1;
        }
    }
}

/// Stops the tasks of a deleted service, and deletes it when the last of them is gone.
pub(crate) fn finish_deletion(draft: &mut Draft<'_>, id: ServiceId) {
    let tasks: Vec<Arc<Task>> = draft.store.tasks_of_service(id).cloned().collect();
    let mut left = false;
    for task in &tasks {
        if task.status.state.is_terminal() || task.status.state < TaskState::Assigned {
            delete(draft, task);
        } else {
            draft.set_desired(task, TaskState::Remove);
            left = true;
        }
    }
    if !left {
        draft.push(Change::delete(ObjectKey::Service(id)));
    }
}

/// Deletes those of these networks that were deleted by their user and that nothing uses any more.
pub(crate) fn delete_networks(draft: &mut Draft<'_>, networks: &[NetworkId]) {
    for id in networks {
        let Some(network) = draft.store.network(*id) else { continue };
        let used = draft.store.tasks_on_network(*id).next().is_some()
            || draft.store.services_on_network(*id).next().is_some()
            || draft.store.attachments_on_network(*id).next().is_some()
            || (network.spec.ingress && draft.store.nodes().any(|node| node.ingress_address.is_some()));
        if network.pending_delete && !used {
            draft.push(Change::delete(ObjectKey::Network(*id)));
        }
    }
}
