//! What happens to a slot whose task ended or lost its node.
//!
//! ## Design notes
//! As Swarm's restart supervisor, but without memory of its own: attempts, window and crash streak travel from a task
//! to its replacement, and a replacement waits in desired state `READY` for its predecessor and its delay, so any
//! leader can go on. A task that keeps crashing waits longer each time, up to a minute.

use std::time::Duration;

use shoal_proto::id::TaskId;
use shoal_proto::object::{Node, NodeState, RestartTrack, Service, Task, TaskStatus};
use shoal_proto::spec::{Availability, RestartCondition, RestartPolicy, ServiceMode};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use crate::change::NewTask;
use crate::draft::Draft;
use crate::orchestrator::slot_key;
use crate::reconcile::Due;
use crate::store::Store;

/// A task that fails so soon after its start has crashed.
const CRASH_WINDOW: Duration = Duration::from_secs(10);
/// No task waits longer than this for its next start, unless its own delay is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// What is doubled for a crashing task without a delay of its own.
const SHORTEST_CRASH_DELAY: Duration = Duration::from_millis(250);
/// How long a replacement waits for its predecessor beyond the stop grace period.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Stop grace period of containers that name none.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// Does nothing run on the node any more, as far as the cluster can know?
pub(crate) fn is_gone(node: Option<&Node>) -> bool {
    node.is_none_or(|node| matches!(node.status.state, NodeState::Down | NodeState::Disconnected))
}

/// Has the task to leave its node? (It is gone, or is being drained.)
pub(crate) fn is_lost(store: &Store, task: &Task) -> bool {
    let Some(id) = task.node_id else { return false };
    let node = store.node(id);
    is_gone(node.map(|node| &**node)) || node.is_some_and(|node| node.spec.availability == Availability::Drain)
}

fn policy(task: &Task) -> RestartPolicy {
    task.spec.restart.clone().unwrap_or_default()
}

/// Attempts that count at `now`, and when their window began.
fn attempts(track: &RestartTrack, policy: &RestartPolicy, now: Timestamp) -> (u64, Timestamp) {
    let expired = !policy.window.is_zero() && now.since(track.window_start) > policy.window;
    if track.window_start == Timestamp::ZERO || expired { (0, now) } else { (track.attempts, track.window_start) }
}

/// Is a task that ended, or was lost, to be replaced?
pub(crate) fn should_restart(task: &Task, now: Timestamp) -> bool {
    let policy = policy(task);
    let state = task.status.state;
    match policy.condition {
        RestartCondition::None => return false,
        RestartCondition::OnFailure if state == TaskState::Complete => return false,
        RestartCondition::OnFailure | RestartCondition::Any => {}
    }
    let ended_by_itself = matches!(state, TaskState::Complete | TaskState::Failed | TaskState::Rejected);
    policy.max_attempts == 0 || !ended_by_itself || attempts(&task.restart, &policy, now).0 < policy.max_attempts
}

/// Did the task fail before or soon after it ran?
fn crashed(task: &Task) -> bool {
    let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
    failed && (task.running_since == Timestamp::ZERO || task.ended_at.since(task.running_since) <= CRASH_WINDOW)
}

/// How long the replacement of a task waits, whose slot crashed so often in a row.
fn delay(policy: &RestartPolicy, crash_streak: u32) -> Duration {
    if crash_streak < 2 {
        return policy.delay;
    }
    let base = policy.delay.max(SHORTEST_CRASH_DELAY);
    let factor = 1u32 << (crash_streak - 1).min(16);
    base.saturating_mul(factor).min(LONGEST_DELAY.max(policy.delay))
}

/// The track and delay of a replacement, and the words for its status.
fn follow(task: &Task, lost: bool, now: Timestamp) -> (RestartTrack, Duration, String) {
    if lost {
        return (task.restart.clone(), Duration::ZERO, String::new());
    }
    let policy = policy(task);
    let (count, window_start) = attempts(&task.restart, &policy, now);
    let crash_streak = if crashed(task) { task.restart.crash_streak.saturating_add(1) } else { 0 };
    let delay = delay(&policy, crash_streak);
    let message = if crash_streak < 2 {
        String::new()
    } else {
        format!(
            "crash loop: ended {crash_streak} times in a row within {} s of its start, waiting {} before the next start",
            CRASH_WINDOW.as_secs(),
            seconds(delay)
        )
    };
    (RestartTrack { attempts: count + 1, window_start, crash_streak }, delay, message)
}

/// `0.5 s`, `20 s`.
fn seconds(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{} s", millis / 1000)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// What comes after a task that ended or was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// Nothing: the slot has another task.
    None,
    /// Its policy decides.
    Restart {
        /// Does the fate of the new task count for the update that is under way?
        by_update: bool,
    },
    /// The update that is under way was going to replace it anyway: now is the time.
    Update,
}

/// Takes a runnable task that ended or was lost out of its slot, and puts a replacement there.
pub(crate) fn restart(draft: &mut Draft<'_>, service: &Service, task: &Task, replacement: Replacement) {
    let lost = !task.status.state.is_terminal() || task.status.state == TaskState::Orphaned;
    draft.set_desired(task, TaskState::Shutdown);
    let (by_update, (restart, delay, message)) = match replacement {
        Replacement::Update => (true, (RestartTrack::default(), Duration::ZERO, String::new())),
        Replacement::Restart { by_update } if should_restart(task, draft.now) => {
            (by_update, follow(task, lost, draft.now))
        }
        Replacement::Restart { .. } | Replacement::None => return,
    };
    let node_id = match service.spec.mode {
        ServiceMode::Replicated { .. } => None,
        ServiceMode::Global => task.node_id,
    };
    let not_before = if delay.is_zero() { Timestamp::ZERO } else { draft.now.after(delay) };
    let status = TaskStatus { timestamp: draft.now, message, ..TaskStatus::default() };
    let id = TaskId::generate(draft.ids);
    draft.new_task(NewTask {
        id,
        service_id: service.id,
        slot: task.slot,
        node_id,
        spec_version: service.spec_version,
        desired_state: TaskState::Ready,
        status,
        networks: Vec::new(),
        not_before,
        restart,
        by_update,
    });
}

/// Has the task to be gone before another one of its slot may start?
pub(crate) fn is_in_the_way(store: &Store, task: &Task) -> bool {
    task.desired_state > TaskState::Running
        && task.status.state >= TaskState::Assigned
        && !task.status.state.is_terminal()
        && !is_gone(task.node_id.and_then(|id| store.node(id)).map(|node| &**node))
}

/// Lets the prepared tasks of a slot start, once their delay is over and their predecessors are gone.
pub(crate) fn hand_over(draft: &mut Draft<'_>, slot: &[std::sync::Arc<Task>]) {
    let grace = |task: &Task| task.spec.container.stop_grace_period.unwrap_or(DEFAULT_GRACE);
    let blockers: Vec<Duration> =
        slot.iter().filter(|task| is_in_the_way(&draft.store, task)).map(|task| grace(task)).collect();
    for task in slot.iter().filter(|task| task.desired_state == TaskState::Ready && !task.status.state.is_terminal()) {
        let stopped_by = match blockers.iter().max() {
            // An agent that never reports the end must not hold up the slot for ever.
            Some(grace) => task.meta.created_at.after(*grace).after(STOP_TIMEOUT),
            None => Timestamp::ZERO,
        };
        let start = task.not_before.max(stopped_by);
        if start <= draft.now {
            draft.set_desired(task, TaskState::Running);
        } else {
            draft.wake(Due::Slot(slot_key(task)), start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::spec::TaskSpec;
    use std::sync::Arc;

    fn ended(state: TaskState, policy: RestartPolicy, ran_s: Option<i64>, track: RestartTrack) -> Task {
        Task {
            spec: Arc::new(TaskSpec { restart: Some(policy), ..TaskSpec::default() }),
            status: TaskStatus { state, ..TaskStatus::default() },
            running_since: ran_s.map_or(Timestamp::ZERO, |_| Timestamp::from_seconds(100)),
            ended_at: Timestamp::from_seconds(100 + ran_s.unwrap_or(0)),
            restart: track,
            ..Task::default()
        }
    }

    fn with(condition: RestartCondition) -> RestartPolicy {
        RestartPolicy { condition, ..RestartPolicy::default() }
    }

    #[test]
    fn conditions_decide() {
        use RestartCondition::{Any, None, OnFailure};
        let now = Timestamp::from_seconds(200);
        let cases = [
            (None, TaskState::Failed, false),
            (None, TaskState::Complete, false),
            (None, TaskState::Running, false),
            (OnFailure, TaskState::Complete, false),
            (OnFailure, TaskState::Failed, true),
            (OnFailure, TaskState::Rejected, true),
            (OnFailure, TaskState::Running, true),
            (Any, TaskState::Complete, true),
            (Any, TaskState::Orphaned, true),
        ];
        for (condition, state, expected) in cases {
            let task = ended(state, with(condition), Some(60), RestartTrack::default());
            assert_eq!(should_restart(&task, now), expected, "{condition:?} {state}");
        }
    }

    #[test]
    fn attempts_end_and_begin_again_with_a_new_window() {
        let policy = RestartPolicy { max_attempts: 2, window: Duration::from_secs(50), ..RestartPolicy::default() };
        let track = RestartTrack { attempts: 2, window_start: Timestamp::from_seconds(100), crash_streak: 0 };
        let task = ended(TaskState::Failed, policy, Some(60), track.clone());
        assert!(!should_restart(&task, Timestamp::from_seconds(150)));
        assert!(should_restart(&task, Timestamp::from_seconds(151)));
        let (next, _, _) = follow(&task, false, Timestamp::from_seconds(151));
        assert_eq!((next.attempts, next.window_start), (1, Timestamp::from_seconds(151)));

        let for_ever = RestartPolicy { max_attempts: 2, ..RestartPolicy::default() };
        let task = ended(TaskState::Failed, for_ever, Some(60), track);
        assert!(!should_restart(&task, Timestamp::from_seconds(1_000_000)));
        let lost = Task { status: TaskStatus { state: TaskState::Running, ..TaskStatus::default() }, ..task };
        assert!(should_restart(&lost, Timestamp::from_seconds(150)), "losing the node is not its fault");
    }

    #[test]
    fn a_crash_loop_waits_longer_each_time_and_says_so() {
        let mut track = RestartTrack::default();
        let mut delays = Vec::new();
        for _ in 0..8 {
            let task = ended(TaskState::Failed, RestartPolicy::default(), Some(3), track);
            let (next, delay, message) = follow(&task, false, Timestamp::from_seconds(200));
            delays.push(delay.as_secs());
            assert_eq!(message.starts_with("crash loop"), next.crash_streak >= 2, "{message}");
            track = next;
        }
        assert_eq!(delays, [5, 10, 20, 40, 60, 60, 60, 60]);
        let task = ended(TaskState::Rejected, RestartPolicy::default(), None, track.clone());
        let (_, _, message) = follow(&task, false, Timestamp::from_seconds(200));
        assert_eq!(
            message,
            "crash loop: ended 9 times in a row within 10 s of its start, waiting 60 s before the next start"
        );
        let healthy = ended(TaskState::Failed, RestartPolicy::default(), Some(3_600), track);
        let (next, delay, _) = follow(&healthy, false, Timestamp::from_seconds(200));
        assert_eq!((next.crash_streak, delay.as_secs()), (0, 5), "a long life forgives");
    }

    #[test]
    fn delays_have_a_floor_for_crashes_and_never_shrink() {
        let none = RestartPolicy { delay: Duration::ZERO, ..RestartPolicy::default() };
        assert_eq!(delay(&none, 1), Duration::ZERO);
        assert_eq!(delay(&none, 2), Duration::from_millis(500));
        assert_eq!(delay(&none, u32::MAX), LONGEST_DELAY);
        let long = RestartPolicy { delay: Duration::from_secs(300), ..RestartPolicy::default() };
        assert_eq!(delay(&long, 40), Duration::from_secs(300));
        assert_eq!(seconds(Duration::from_millis(500)), "0.5 s");
    }
}
