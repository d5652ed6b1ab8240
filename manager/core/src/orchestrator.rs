//! Keeps the slots of services filled: as many as wanted for replicated services, one on each node for global ones.
//!
//! ## Design notes
//! A service is looked at as a whole when its spec changed or an update is under way; otherwise only the slots that
//! something happened to. Both ways go through [`tend`], which replaces what ended, lets prepared tasks start and
//! forgets old history.

mod dirty;
mod global;
mod replicated;

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_proto::id::{ServiceId, TaskId};
use shoal_proto::object::{Service, Task, TaskStatus};
use shoal_proto::spec::ServiceMode;
use shoal_proto::task_state::TaskState;

use crate::change::NewTask;
use crate::draft::Draft;
use crate::reconcile::{Due, SlotKey};
use crate::restart::{Replacement, hand_over, is_in_the_way, is_lost, restart, should_restart};
use crate::store::Store;
use crate::{reaper, update};

pub(crate) use dirty::Freshness;

/// The tasks of one slot.
pub(crate) type Slot = Vec<Arc<Task>>;
/// The slots of a service.
pub(crate) type Slots = BTreeMap<SlotKey, Slot>;

/// The slot that a task is in.
pub(crate) fn slot_key(task: &Task) -> SlotKey {
    let node = if task.slot == 0 { task.node_id } else { None };
    SlotKey { service: task.service_id, slot: task.slot, node }
}

/// The tasks of a service by slot.
pub(crate) fn slots_of(store: &Store, service: ServiceId) -> Slots {
    let mut slots = Slots::new();
    for task in store.tasks_of_service(service) {
        slots.entry(slot_key(task)).or_default().push(Arc::clone(task));
    }
    slots
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

/// Makes a task in a slot. It is held back while another one of the slot is still stopping.
pub(crate) fn fill(draft: &mut Draft<'_>, service: &Service, key: SlotKey, desired: TaskState, by_update: bool) {
    let held = tasks_in(&draft.store, key).iter().any(|task| is_in_the_way(&draft.store, task));
    let id = TaskId::generate(draft.ids);
    draft.new_task(NewTask {
        id,
        service_id: service.id,
        slot: key.slot,
        node_id: key.node,
        spec_version: service.spec_version,
        desired_state: if held { TaskState::Ready } else { desired },
        status: TaskStatus { timestamp: draft.now, ..TaskStatus::default() },
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
    // A rollback changes the spec: everything after it works with the new one.
    let service = update::judge(draft, service);
    match service.spec.mode {
        ServiceMode::Replicated { replicas } => {
            tend_all(draft, &service);
            replicated::scale(draft, &service, replicas);
        }
        ServiceMode::Global => {
            global::leave(draft, &service, None);
            tend_all(draft, &service);
            global::fill_nodes(draft, &service, None);
        }
    }
    update::advance(draft, &service);
    settle_all(draft, &service);
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
    settle(draft, &service, key);
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
        replicated::scale(draft, &service, replicas);
    }
}

fn tend_all(draft: &mut Draft<'_>, service: &Arc<Service>) {
    let mut freshness = Freshness::new(service);
    for slot in slots_of(&draft.store, service.id).values() {
        tend(draft, service, &mut freshness, slot);
    }
}

/// Replaces what ended or lost its node, and ends the second task of a start-first update when the first one has taken
/// over.
fn tend(draft: &mut Draft<'_>, service: &Arc<Service>, freshness: &mut Freshness, slot: &[Arc<Task>]) {
    let over = |draft: &Draft<'_>, task: &Task| task.status.state.is_terminal() || is_lost(&draft.store, task);
    let runnable: Vec<&Arc<Task>> = slot.iter().filter(|task| is_runnable(task)).collect();
    if let [task] = runnable.as_slice()
        && !over(draft, task)
    {
        return;
    }
    let (old, new): (Vec<&Arc<Task>>, Vec<&Arc<Task>>) =
        runnable.iter().partition(|task| freshness.is_dirty(&draft.store, task));
    let taken_over = new.iter().any(|task| task.status.state == TaskState::Running && !over(draft, task));
    let mut replaced = false;
    for task in runnable {
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

fn settle_all(draft: &mut Draft<'_>, service: &Arc<Service>) {
    let idle = |slot: &Slot| slot.len() == 1 && slot.iter().all(|task| task.desired_state == TaskState::Running);
    for (key, slot) in slots_of(&draft.store, service.id) {
        if !idle(&slot) {
            settle(draft, service, key);
        }
    }
}

/// Lets prepared tasks start, and forgets old ones.
fn settle(draft: &mut Draft<'_>, service: &Arc<Service>, key: SlotKey) {
    let slot = tasks_in(&draft.store, key);
    reaper::reap_slot(draft, service, key, &slot);
    hand_over(draft, &slot);
}
