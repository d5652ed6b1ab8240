//! Rolling updates and rollbacks.
//!
//! ## Design notes
//! There is no updater that runs: each pass derives from the tasks how far the update is (which slots still run the
//! old spec, which new tasks are on their way, which failed) and takes the next step. What cannot be derived, when it
//! began and how many slots it had to change, is in the service's update status. So it survives every change of leader.
//!
//! Against Swarm: a new task that is rejected, or restarted and failing again, counts as a failure; one that does not
//! get as far as starting within ten minutes does, too, instead of holding up the update for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::id::TaskId;
use shoal_proto::object::{Service, Task, UpdateState, UpdateStatus};
use shoal_proto::spec::{FailureAction, RestartCondition, UpdateConfig, UpdateOrder};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use crate::allocator;
use crate::change::ServicePatch;
use crate::draft::Draft;
use crate::orchestrator::{Freshness, Slots, fill, is_alive, is_finished, is_runnable, newest, tasks_in};
use crate::reconcile::{Due, SlotKey};

/// A task of an update that has not begun to start after this time has failed.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// Is an update or rollback of the service under way, and not paused?
pub(crate) fn is_running(service: &Service) -> bool {
    let state = service.update_status.as_ref().map(|status| status.state);
    matches!(state, Some(UpdateState::Updating | UpdateState::RollbackStarted))
}

fn is_rollback(service: &Service) -> bool {
    service.update_status.as_ref().is_some_and(|status| status.state == UpdateState::RollbackStarted)
}

fn config(service: &Service) -> UpdateConfig {
    let chosen = if is_rollback(service) { &service.spec.rollback } else { &service.spec.update };
    chosen.clone().unwrap_or_default()
}

/// Is the task one of the update that is under way: made by it, or by one that it overtook and still on its way then?
pub(crate) fn is_of_update(service: &Service, task: &Task) -> bool {
    if !is_running(service) || !task.by_update || task.spec_version != service.spec_version {
        return false;
    }
    let began = service.update_status.as_ref().map_or(Timestamp::ZERO, |status| status.started_at);
    let since = |at: Timestamp| at == Timestamp::ZERO || at >= began;
    task.meta.created_at >= began || (since(task.running_since) && since(task.ended_at))
}

/// When a task that has not begun to start counts as failed.
fn deadline(task: &Task) -> Timestamp {
    task.meta.created_at.max(task.not_before).after(PROGRESS_DEADLINE)
}

/// Does the task's fate count against the update that is under way?
pub(crate) fn counts_as_failed(service: &Service, task: &Task, now: Timestamp) -> bool {
    if !is_of_update(service, task) {
        return false;
    }
    let monitor = config(service).monitor;
    let early = task.running_since == Timestamp::ZERO || task.ended_at.since(task.running_since) <= monitor;
    match task.status.state {
        TaskState::Failed | TaskState::Rejected => early,
        TaskState::Complete => {
            // A task that is meant to end has done so; one that is always restarted was meant to stay.
            let condition = task.spec.restart.as_ref().map_or(RestartCondition::Any, |policy| policy.condition);
            early && condition == RestartCondition::Any
        }
        state => is_runnable(task) && state < TaskState::Starting && now >= deadline(task),
    }
}

fn failures(service: &Service, slots: &Slots, now: Timestamp) -> (BTreeSet<SlotKey>, Option<TaskId>) {
    let mut failed = BTreeSet::new();
    let mut last: Option<&Arc<Task>> = None;
    for (key, slot) in slots.iter() {
        for task in slot.iter().filter(|task| counts_as_failed(service, task, now)) {
            failed.insert(key);
            if last.is_none_or(|known| known.ended_at < task.ended_at) {
                last = Some(task);
            }
        }
    }
    (failed, last.map(|task| task.id))
}

fn is_slot_dirty(draft: &Draft<'_>, freshness: &mut Freshness, slot: &[Arc<Task>]) -> bool {
    let mut runnable = slot.iter().filter(|task| is_runnable(task)).peekable();
    if runnable.peek().is_none() {
        return is_finished(slot, draft.now) && newest(slot).is_some_and(|task| freshness.is_dirty(&draft.store, task));
    }
    runnable.any(|task| freshness.is_dirty(&draft.store, task))
}

fn current(draft: &Draft<'_>, service: &Arc<Service>) -> Arc<Service> {
    draft.store.service(service.id).unwrap_or(service).clone()
}

fn set_status(draft: &mut Draft<'_>, service: &Arc<Service>, status: UpdateStatus) -> Arc<Service> {
    draft.patch_service(service.id, ServicePatch { update_status: Some(status), ..ServicePatch::default() });
    current(draft, service)
}

/// Begins an update if one is needed, and decides whether the one under way has failed. Gives the service as it is
/// then: a rollback changes its spec.
pub(crate) fn judge(draft: &mut Draft<'_>, service: Arc<Service>, slots: &Slots) -> Arc<Service> {
    let state = service.update_status.as_ref().map(|status| status.state);
    if matches!(state, Some(UpdateState::Paused | UpdateState::RollbackPaused)) {
        return service;
    }
    let counted = service.update_status.as_ref().is_some_and(|status| status.total_slots > 0);
    let outdated = |task: &Arc<Task>| task.spec_version != service.spec_version;
    if !is_running(&service) && !slots.tasks().iter().any(outdated) {
        return service;
    }
    let mut service = service;
    if !is_running(&service) || !counted {
        let mut freshness = Freshness::new(&service);
        let all = slots.iter().map(|(_, slot)| slot);
        let dirty: Vec<&[Arc<Task>]> = all.filter(|slot| is_slot_dirty(draft, &mut freshness, slot)).collect();
        // After an update that went on in spite of failures, old tasks may still serve while their successors crash.
        let only_leftovers = service.update_status.is_some()
            && !is_running(&service)
            && dirty.iter().all(|slot| slot.iter().any(|t| is_alive(t) && !freshness.is_dirty(&draft.store, t)));
        if dirty.is_empty() || only_leftovers {
            return service;
        }
        let total_slots = dirty.len() as u64;
        let status = match service.update_status.clone().filter(|_| is_running(&service)) {
            Some(status) => UpdateStatus { total_slots, ..status },
            None => UpdateStatus {
                started_at: draft.now,
                message: "update in progress".to_owned(),
                total_slots,
                ..UpdateStatus::default()
            },
        };
        service = set_status(draft, &service, status);
    }
    let (failed, culprit) = failures(&service, slots, draft.now);
    let Some(mut status) = service.update_status.clone() else { return service };
    if failed.len() as u64 > status.failed_slots {
        status.failed_slots = failed.len() as u64;
        service = set_status(draft, &service, status.clone());
    }
    let config = config(&service);
    #[expect(clippy::cast_precision_loss, reason = "a share of slots, compared with a limit given as f32")]
    let share = status.failed_slots as f32 / status.total_slots.max(1) as f32;
    match culprit {
        Some(culprit) if share > config.max_failure_ratio => {
            fail(draft, &service, slots, config.failure_action, culprit)
        }
        _ => service,
    }
}

fn fail(
    draft: &mut Draft<'_>,
    service: &Arc<Service>,
    slots: &Slots,
    action: FailureAction,
    culprit: TaskId,
) -> Arc<Service> {
    let Some(status) = service.update_status.clone() else { return Arc::clone(service) };
    let rollback = is_rollback(service);
    match action {
        FailureAction::Continue => Arc::clone(service),
        FailureAction::Rollback if !rollback && service.previous_spec.is_some() => {
            roll_back(draft, service, slots, culprit)
        }
        FailureAction::Rollback | FailureAction::Pause => {
            let (state, what) =
                if rollback { (UpdateState::RollbackPaused, "rollback") } else { (UpdateState::Paused, "update") };
            let message = format!("{what} paused due to failure or early termination of task {culprit}");
            set_status(draft, service, UpdateStatus { state, message, ..status })
        }
    }
}

/// Copies the previous spec over the current one, as Swarm does: there is no way forward again but a new update.
fn roll_back(draft: &mut Draft<'_>, service: &Arc<Service>, slots: &Slots, culprit: TaskId) -> Arc<Service> {
    let Some(previous) = &service.previous_spec else { return Arc::clone(service) };
    let mut rolled_back = Service::clone(service);
    rolled_back.spec = (**previous).clone();
    rolled_back.previous_spec = None;
    rolled_back.spec_version = service.spec_version + 1;
    rolled_back.previous_spec_version = 0;
    rolled_back.update_status = Some(UpdateStatus {
        state: UpdateState::RollbackStarted,
        started_at: draft.now,
        message: format!("update rolled back due to failure or early termination of task {culprit}"),
        ..UpdateStatus::default()
    });
    draft.put_service(rolled_back);
    allocator::allocate_service(draft, service.id);
    let rolled_back = current(draft, service);
    // The spec it was is what the tasks are compared with from here on.
    let mut freshness = Freshness::new(&rolled_back);
    let dirty = slots.iter().filter(|(_, slot)| is_slot_dirty(draft, &mut freshness, slot)).count() as u64;
    match rolled_back.update_status.clone() {
        Some(status) => set_status(draft, &rolled_back, UpdateStatus { total_slots: dirty, ..status }),
        None => rolled_back,
    }
}

/// How far the slots of a service are.
#[derive(Default)]
struct Progress {
    /// Slots that run the old spec; those where nothing runs come first.
    pending: Vec<(bool, SlotKey)>,
    /// Slots whose new task is not there yet, or whose delay is not over.
    busy: u64,
    /// Slots whose new task is still being watched.
    watched: u64,
}

/// Takes the next steps of the update under way.
pub(crate) fn advance(draft: &mut Draft<'_>, service: &Arc<Service>, slots: &Slots) {
    let service = current(draft, service);
    if !is_running(&service) {
        return;
    }
    let config = config(&service);
    let progress = survey(draft, &service, slots, &config);
    let limit = if config.parallelism == 0 { u64::MAX } else { config.parallelism };
    let free = usize::try_from(limit.saturating_sub(progress.busy)).unwrap_or(usize::MAX);
    if progress.pending.is_empty() && progress.busy == 0 && progress.watched == 0 {
        complete(draft, &service);
        return;
    }
    let mut pending = progress.pending;
    pending.sort_unstable();
    for (_, key) in pending.into_iter().take(free) {
        replace(draft, &service, key, config.order);
    }
}

fn complete(draft: &mut Draft<'_>, service: &Arc<Service>) {
    let Some(status) = service.update_status.clone() else { return };
    let (state, message) = if is_rollback(service) {
        (UpdateState::RollbackCompleted, "rollback completed")
    } else {
        (UpdateState::Completed, "update completed")
    };
    let message = message.to_owned();
    set_status(draft, service, UpdateStatus { state, message, completed_at: draft.now, ..status });
}

fn survey(draft: &mut Draft<'_>, service: &Arc<Service>, slots: &Slots, config: &UpdateConfig) -> Progress {
    let (failed, _) = failures(service, slots, draft.now);
    let mut freshness = Freshness::new(service);
    let mut progress = Progress::default();
    for (key, slot) in slots.iter() {
        let (dirty, clean): (Vec<&Arc<Task>>, Vec<&Arc<Task>>) =
            slot.iter().filter(|task| is_alive(task)).partition(|task| freshness.is_dirty(&draft.store, task));
        let running = |tasks: &[&Arc<Task>]| tasks.iter().any(|task| task.status.state == TaskState::Running);
        if clean.is_empty() {
            if !dirty.is_empty() || is_slot_dirty(draft, &mut freshness, slot) {
                progress.pending.push((running(&dirty), key));
            }
            continue;
        }
        if failed.contains(&key) {
            continue;
        }
        if !dirty.is_empty() && !clean.iter().any(|task| is_of_update(service, task)) {
            progress.busy += 1;
        }
        watch(draft, service, config, &clean, &mut progress);
    }
    progress
}

/// Looks at the new task of a slot.
fn watch(
    draft: &mut Draft<'_>,
    service: &Service,
    config: &UpdateConfig,
    clean: &[&Arc<Task>],
    progress: &mut Progress,
) {
    let Some(task) = clean.iter().find(|task| is_of_update(service, task)) else { return };
    let due = Due::Service(service.id);
    if task.status.state < TaskState::Running {
        progress.busy += 1;
        if task.status.state < TaskState::Starting {
            draft.wake(due, deadline(task));
        }
        return;
    }
    let (delayed, watched) = (task.running_since.after(config.delay), task.running_since.after(config.monitor));
    if delayed > draft.now {
        progress.busy += 1;
        draft.wake(due, delayed);
    }
    if watched > draft.now {
        progress.watched += 1;
        draft.wake(due, watched);
    }
}

/// Puts a task of the new spec into a slot. Start-first keeps the task that serves there now, if one does; what is
/// left of earlier updates that were overtaken goes.
fn replace(draft: &mut Draft<'_>, service: &Service, key: SlotKey, order: UpdateOrder) {
    let slot = tasks_in(&draft.store, key);
    let serving = slot.iter().filter(|task| is_runnable(task) && task.status.state == TaskState::Running);
    let kept = match order {
        UpdateOrder::StopFirst => None,
        UpdateOrder::StartFirst => serving.max_by_key(|task| (task.meta.created_at, task.id)).map(|task| task.id),
    };
    for task in slot.iter().filter(|task| is_runnable(task) && Some(task.id) != kept) {
        draft.set_desired(task, TaskState::Shutdown);
    }
    let slot = tasks_in(&draft.store, key);
    fill(draft, service, key, &slot, TaskState::Running, true);
}
