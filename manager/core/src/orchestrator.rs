//! Keeps the slots of services filled: as many as wanted for replicated services, one on each node for global ones.
//!
//! ## Design notes
//! A service is looked at as a whole when its spec changed or an update is under way; otherwise only the slots that
//! something happened to. Both ways go through [`tend`], which replaces what ended, lets prepared tasks start and
//! forgets old history.

mod dirty;
mod global;
mod replicated;
mod slots;

use std::sync::Arc;

use shoal_proto::id::{ServiceId, TaskId};
use shoal_proto::object::{Service, Task};
use shoal_proto::spec::ServiceMode;
use shoal_proto::task_state::TaskState;

use crate::change::NewTask;
use crate::draft::Draft;
use crate::reconcile::{Due, SlotKey};
use crate::restart::{Replacement, hand_over, is_in_the_way, is_lost, restart, should_restart};
use crate::store::Store;
use crate::{allocator, reaper, update};

pub(crate) use dirty::Freshness;
pub(crate) use slots::Slots;

/// The tasks of one slot.
pub(crate) type Slot = Vec<Arc<Task>>;
/// The slot that a task is in.
pub(crate) fn slot_key(task: &Task) -> SlotKey {
    let node = if task.slot == 0 { task.node_id } else { None };
    SlotKey { service: task.service_id, slot: task.slot, node }
}

/// The tasks of one slot.
pub(crate) fn tasks_in(store: &Store, key: SlotKey) -> Slot {
    match key.node {
        Some(node) => store.tasks_of_service_on(key.service, node).cloned().collect(),
        None => store.tasks_of_slot(key.service, key.slot).cloned().collect(),
    }
}

/// Is the task wanted to run?
pub(crate) fn is_runnable(task: &Task) -> bool {
    task.desired_state <= TaskState::Running
}

/// Runs a task, or may yet?
pub(crate) fn is_alive(task: &Task) -> bool {
    is_runnable(task) && !task.status.state.is_terminal()
}

/// The newest task of a slot.
pub(crate) fn newest(slot: &[Arc<Task>]) -> Option<&Arc<Task>> {
    slot.iter().max_by_key(|task| (task.meta.created_at, task.meta.version, task.id))
}

/// Has the slot done its work, so that nothing runs there and nothing shall?
pub(crate) fn is_finished(slot: &[Arc<Task>], now: shoal_proto::time::Timestamp) -> bool {
    !slot.iter().any(|task| is_runnable(task)) && newest(slot).is_some_and(|task| !should_restart(task, now))
}

/// Makes a task in a slot that has these tasks. It is held back while one of them is still stopping.
pub(crate) fn fill(
    draft: &mut Draft<'_>,
    service: &Service,
    key: SlotKey,
    slot: &[Arc<Task>],
    desired: TaskState,
    by_update: bool,
) {
    let held = slot.iter().any(|task| is_in_the_way(&draft.store, task));
    let id = TaskId::generate(draft.ids);
    draft.new_task(NewTask {
        id,
        service_id: service.id,
        slot: key.slot,
        node_id: key.node,
        spec_version: service.spec_version,
        desired_state: if held { TaskState::Ready } else { desired },
        status: allocator::first_status(draft, service),
        by_update,
        ..NewTask::default()
    });
}

/// Looks at a whole service.
pub(crate) fn reconcile_service(draft: &mut Draft<'_>, id: ServiceId) {
    let Some(service) = draft.store.service(id).cloned() else { return };
    if service.pending_delete {
        reaper::finish_deletion(draft, id);
        return;
    }
    let mut slots = Slots::of(draft, id);
    // A rollback changes the spec: everything after it works with the new one.
    let service = update::judge(draft, service, &slots);
    if service.spec.mode == ServiceMode::Global {
        global::leave(draft, &service, None);
        slots.refresh(draft, id);
    }
    let mut freshness = Freshness::new(&service);
    for (_, slot) in slots.iter() {
        tend(draft, &service, &mut freshness, slot);
    }
    slots.refresh(draft, id);
    match service.spec.mode {
        ServiceMode::Replicated { replicas } => replicated::scale(draft, &service, &slots, replicas),
        ServiceMode::Global => global::fill_nodes(draft, &service, None),
    }
    slots.refresh(draft, id);
    update::advance(draft, &service, &slots);
    slots.refresh(draft, id);
    let idle = |slot: &[Arc<Task>]| matches!(slot, [task] if task.desired_state == TaskState::Running);
    for (key, slot) in slots.iter().filter(|(_, slot)| !idle(slot)) {
        settle(draft, &service, key, slot);
    }
}

/// Looks at one slot. True when it was left empty, so that the service as a whole has to be scaled again.
pub(crate) fn reconcile_slot(draft: &mut Draft<'_>, key: SlotKey) -> bool {
    let Some(service) = draft.store.service(key.service).cloned() else { return false };
    if service.pending_delete {
        reaper::finish_deletion(draft, key.service);
        return false;
    }
    if let Some(node) = key.node {
        global::leave(draft, &service, Some(node));
    }
    let mut freshness = Freshness::new(&service);
    let slot = tasks_in(&draft.store, key);
    tend(draft, &service, &mut freshness, &slot);
    if let Some(node) = key.node {
        global::fill_nodes(draft, &service, Some(node));
    }
    let slot = tasks_in(&draft.store, key);
    settle(draft, &service, key, &slot);
    key.node.is_none() && {
        let slot = tasks_in(&draft.store, key);
        // Slots that were scaled away have tasks to be removed: nobody misses those.
        newest(&slot).is_some_and(|task| task.desired_state == TaskState::Shutdown)
            && !slot.iter().any(|task| is_runnable(task))
            && !is_finished(&slot, draft.now)
    }
}

/// Fills the empty slots of a service, or removes what is too much.
pub(crate) fn rescale(draft: &mut Draft<'_>, id: ServiceId) {
    let Some(service) = draft.store.service(id).cloned() else { return };
    if let ServiceMode::Replicated { replicas } = service.spec.mode {
        let slots = Slots::of(draft, id);
        replicated::scale(draft, &service, &slots, replicas);
    }
}

/// Replaces what ended or lost its node, and ends the second task of a start-first update when the first one has taken
/// over.
fn tend(draft: &mut Draft<'_>, service: &Arc<Service>, freshness: &mut Freshness, slot: &[Arc<Task>]) {
    let over = |draft: &Draft<'_>, task: &Task| task.status.state.is_terminal() || is_lost(&draft.store, task);
    if let [task] = slot
        && (!is_runnable(task) || !over(draft, task))
    {
        return;
    }
    let runnable: Vec<&Arc<Task>> = slot.iter().filter(|task| is_runnable(task)).collect();
    let (old, new): (Vec<&Arc<Task>>, Vec<&Arc<Task>>) =
        runnable.iter().partition(|task| freshness.is_dirty(&draft.store, task));
    let taken_over = new.iter().any(|task| task.status.state == TaskState::Running && !over(draft, task));
    let mut replaced = false;
    let surplus = surplus(&draft.store, &new);
    for task in runnable {
        if surplus.contains(&task.id) {
            draft.set_desired(task, TaskState::Shutdown);
            continue;
        }
        let is_old = old.iter().any(|other| other.id == task.id);
        if is_old && taken_over {
            draft.set_desired(task, TaskState::Shutdown);
            continue;
        }
        if !over(draft, task) {
            continue;
        }
        // It failed while it was prepared: its own delay has to pass first, or a missing image would be asked for
        // again and again without any pause.
        let held = task.desired_state == TaskState::Ready && task.not_before > draft.now;
        if held && task.status.state.is_terminal() {
            draft.wake(Due::Slot(slot_key(task)), task.not_before);
            continue;
        }
        // The end of one of two tasks needs no third.
        let covered = new.iter().any(|other| other.id != task.id && !over(draft, other));
        let replacement = if covered || replaced {
            Replacement::None
        } else if update::is_running(service) && is_old {
            Replacement::Update
        } else {
            let by_update = update::is_running(service) && (update::is_of_update(service, task) || !old.is_empty());
            Replacement::Restart { by_update }
        };
        restart(draft, service, task, replacement);
        replaced |= replacement != Replacement::None;
    }
}

/// A slot has one task that is as wanted. Should there ever be more, those that are farthest along and oldest stay.
fn surplus(store: &Store, fresh: &[&Arc<Task>]) -> Vec<TaskId> {
    let mut alive: Vec<&&Arc<Task>> = fresh.iter().filter(|task| is_alive(task) && !is_lost(store, task)).collect();
    alive.sort_by_key(|task| (std::cmp::Reverse(task.status.state), task.meta.created_at, task.id));
    alive.iter().skip(1).map(|task| task.id).collect()
}

/// Lets prepared tasks start, and forgets old ones.
fn settle(draft: &mut Draft<'_>, service: &Arc<Service>, key: SlotKey, slot: &[Arc<Task>]) {
    reaper::reap_slot(draft, service, key, slot);
    hand_over(draft, slot);
}
