//! What a container does, and what follows from what happens to it. Pure: time and exits come in, commands go out.
//!
//! ```text
//!            launched             paused
//!  created ───────────▶ running ─────────▶ paused
//!     ▲                  │   ▲ ◀────────────
//!     │ launch failed    │   │    resumed
//!     └──(never ran)     ▼   │ launched
//!           exited ◀── ended ──▶ restarting          any ──▶ removing ──▶ (gone) or dead
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_proto::time::Timestamp;

use crate::model::RestartPolicy;

/// First pause before a restart by policy.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A container that ran so long begins again with the first pause.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Made, never ran.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It ended, and will be started again by its policy.
    Restarting,
    /// It is being removed.
    Removing,
    /// It ended.
    Exited,
    /// Its removal failed half-way.
    Dead,
}

impl Phase {
    /// Docker's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Has it a process now?
    pub const fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Does Docker call it running? A restarting container counts.
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// What is known of a container's life. All of it is on disk, so that a restart of the daemon changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// What it does.
    pub phase: Phase,
    /// Process id on the host; 0 without a process.
    pub pid: u32,
    /// Exit status of the last run, or of the failure to start.
    pub exit_code: i32,
    /// Was the last run ended by the memory limit?
    pub oom_killed: bool,
    /// Why it could not start or be removed; empty when all is well.
    pub error: String,
    /// Last start.
    pub started_at: Timestamp,
    /// Last end.
    pub finished_at: Timestamp,
    /// Has a user asked it to stop since its last start?
    pub stopped_by_user: bool,
    /// Restarts by policy since a user started it.
    pub restart_count: u64,
    /// The last pause before a restart; 0 is none yet.
    pub restart_delay_ms: u64,
    /// When the next restart is due, in [`Phase::Restarting`].
    pub restart_at: Timestamp,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Its program runs.
    Launched {
        /// Process id.
        pid: u32,
        /// When.
        at: Timestamp,
        /// By a user, and not by its policy?
        by_user: bool,
    },
    /// It could not be started.
    LaunchFailed {
        /// 126, 127 or 128.
        exit_code: i32,
        /// Why.
        error: String,
        /// When.
        at: Timestamp,
    },
    /// Its processes were frozen.
    Paused,
    /// They go on.
    Resumed,
    /// A user asked it to stop.
    StopAsked,
    /// Its process ended.
    Ended {
        /// Exit status.
        exit_code: i32,
        /// Was it the memory limit?
        oom_killed: bool,
        /// When.
        at: Timestamp,
    },
    /// Its removal begins.
    RemovalBegun,
    /// Its removal failed half-way.
    RemovalFailed {
        /// Why.
        error: String,
    },
}

/// What must be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write the record.
    Persist,
    /// Give back network, mounts and cgroup.
    Release,
    /// Tell that it started.
    TellStart,
    /// Tell that it ended.
    TellDie,
    /// Start it again after this pause.
    RestartAfter(Duration),
    /// Forget the pause: nothing is to be started.
    CancelRestart,
    /// Remove it.
    Remove,
}

/// The input does not fit the state; nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not possible while the container is {}", phase.as_str())]
pub struct Refusal {
    /// The state it was in.
    pub phase: Phase,
}

/// What the user wants when it ends.
#[derive(Debug, Clone, Copy)]
pub struct Wishes<'a> {
    /// Start it again?
    pub restart: &'a RestartPolicy,
    /// Remove it?
    pub auto_remove: bool,
}

/// Does the policy want a container started again that ended so?
pub fn wants_restart(policy: &RestartPolicy, exit_code: i32, restart_count: u64) -> bool {
    match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            let limit = u64::try_from(policy.maximum_retry_count).unwrap_or(0);
            exit_code != 0 && (limit == 0 || restart_count < limit)
        }
        _ => false,
    }
}

/// Does the policy want a container started when the daemon starts? One that a user stopped only with `always`.
pub fn wants_boot(policy: &RestartPolicy, state: &State) -> bool {
    let ran_before = state.started_at != Timestamp::ZERO;
    let wanted = match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !state.stopped_by_user,
        "on-failure" => !state.stopped_by_user && wants_restart(policy, state.exit_code, state.restart_count),
        _ => false,
    };
    ran_before && wanted && matches!(state.phase, Phase::Exited)
}

/// The pause before the next restart, as dockerd's: 100 ms, doubled each time up to a minute, and again 100 ms after
/// a run of ten seconds.
fn next_delay(previous_ms: u64, ran: Duration) -> Duration {
    if previous_ms == 0 || ran >= GOOD_RUN {
        return FIRST_DELAY;
    }
    Duration::from_millis(previous_ms.saturating_mul(2)).min(LONGEST_DELAY)
}

/// What follows from an input.
///
/// # Errors
/// The input does not fit the state.
pub fn step(state: &State, wishes: Wishes<'_>, input: Input) -> Result<(State, Vec<Command>), Refusal> {
    let refusal = Refusal { phase: state.phase };
    let mut next = state.clone();
    let commands = match (state.phase, input) {
        (Phase::Created | Phase::Exited | Phase::Restarting, Input::Launched { pid, at, by_user }) => {
            launched(&mut next, pid, at, by_user);
            vec![Command::Persist, Command::TellStart]
        }
        (Phase::Created | Phase::Exited | Phase::Restarting, Input::LaunchFailed { exit_code, error, at }) => {
            next.phase = if state.phase == Phase::Created { Phase::Created } else { Phase::Exited };
            (next.exit_code, next.error, next.pid) = (exit_code, error, 0);
            if state.phase == Phase::Restarting {
                next.finished_at = at;
            }
            next.restart_at = Timestamp::ZERO;
            vec![Command::Persist]
        }
        (Phase::Running, Input::Paused) => {
            next.phase = Phase::Paused;
            vec![Command::Persist]
        }
        (Phase::Paused, Input::Resumed) => {
            next.phase = Phase::Running;
            vec![Command::Persist]
        }
        (Phase::Running | Phase::Paused, Input::StopAsked) => {
            next.stopped_by_user = true;
            vec![Command::Persist]
        }
        (Phase::Restarting, Input::StopAsked) => {
            (next.phase, next.stopped_by_user, next.restart_at) = (Phase::Exited, true, Timestamp::ZERO);
            vec![Command::CancelRestart, Command::Persist]
        }
        (Phase::Running | Phase::Paused, Input::Ended { exit_code, oom_killed, at }) => {
            ended(&mut next, wishes, exit_code, oom_killed, at)
        }
        (Phase::Created | Phase::Exited | Phase::Restarting | Phase::Dead, Input::RemovalBegun) => {
            (next.phase, next.restart_at) = (Phase::Removing, Timestamp::ZERO);
            vec![Command::CancelRestart, Command::Persist]
        }
        (Phase::Removing, Input::RemovalBegun) => Vec::new(),
        (Phase::Removing, Input::RemovalFailed { error }) => {
            (next.phase, next.error) = (Phase::Dead, error);
            vec![Command::Persist]
        }
        _ => return Err(refusal),
    };
    Ok((next, commands))
}

fn launched(next: &mut State, pid: u32, at: Timestamp, by_user: bool) {
    (next.phase, next.pid, next.started_at) = (Phase::Running, pid, at);
    (next.exit_code, next.oom_killed, next.stopped_by_user) = (0, false, false);
    next.error.clear();
    next.restart_at = Timestamp::ZERO;
    if by_user {
        (next.restart_count, next.restart_delay_ms) = (0, 0);
    }
}

fn ended(next: &mut State, wishes: Wishes<'_>, exit_code: i32, oom_killed: bool, at: Timestamp) -> Vec<Command> {
    let ran = at.since(next.started_at);
    (next.pid, next.exit_code, next.oom_killed, next.finished_at) = (0, exit_code, oom_killed, at);
    let again = !next.stopped_by_user && wants_restart(wishes.restart, exit_code, next.restart_count);
    let mut commands = vec![Command::Release];
    if again {
        let delay = next_delay(next.restart_delay_ms, ran);
        next.phase = Phase::Restarting;
        next.restart_count += 1;
        next.restart_delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        next.restart_at = at.after(delay);
        commands.extend([Command::Persist, Command::TellDie, Command::RestartAfter(delay)]);
    } else {
        next.phase = Phase::Exited;
        next.restart_delay_ms = 0;
        commands.extend([Command::Persist, Command::TellDie]);
        if wishes.auto_remove {
            commands.push(Command::Remove);
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(name: &str, limit: i64) -> RestartPolicy {
        RestartPolicy { name: name.to_owned(), maximum_retry_count: limit }
    }

    fn run(state: &State, restart: &RestartPolicy, input: Input) -> (State, Vec<Command>) {
        step(state, Wishes { restart, auto_remove: false }, input).expect("fits")
    }

    fn running(at: i64) -> State {
        let launched = Input::Launched { pid: 7, at: Timestamp::from_seconds(at), by_user: true };
        run(&State::default(), &policy("no", 0), launched).0
    }

    fn end(code: i32, at: Timestamp) -> Input {
        Input::Ended { exit_code: code, oom_killed: false, at }
    }

    #[test]
    fn plain_life() {
        let state = running(10);
        assert_eq!((state.phase, state.pid), (Phase::Running, 7));
        let (state, commands) = run(&state, &policy("no", 0), end(3, Timestamp::from_seconds(12)));
        assert_eq!((state.phase, state.exit_code, state.pid), (Phase::Exited, 3, 0));
        assert_eq!(commands, [Command::Release, Command::Persist, Command::TellDie]);
    }

    #[test]
    fn auto_remove_follows_the_end() {
        let wishes = Wishes { restart: &policy("no", 0), auto_remove: true };
        let (_, commands) = step(&running(1), wishes, end(0, Timestamp::from_seconds(2))).unwrap();
        assert_eq!(commands.last(), Some(&Command::Remove));
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_reset_after_a_good_run() {
        let always = policy("always", 0);
        let mut state = running(1);
        let mut delays = Vec::new();
        for _ in 0..12 {
            let at = state.started_at.after(Duration::from_secs(1));
            let (restarting, commands) = run(&state, &always, end(1, at));
            let Some(Command::RestartAfter(delay)) = commands.last() else { panic!("no restart: {commands:?}") };
            delays.push(delay.as_millis());
            let launched = Input::Launched { pid: 8, at: restarting.restart_at, by_user: false };
            state = run(&restarting, &always, launched).0;
        }
        assert_eq!(delays[..5], [100, 200, 400, 800, 1600]);
        assert_eq!(delays[10..], [60_000, 60_000]);
        let (state, _) = run(&state, &always, end(1, state.started_at.after(Duration::from_secs(11))));
        assert_eq!((state.restart_delay_ms, state.restart_count), (100, 13));
    }

    #[test]
    fn on_failure_counts() {
        let twice = policy("on-failure", 2);
        let mut state = running(1);
        for expected in [Phase::Restarting, Phase::Restarting, Phase::Exited] {
            let (next, _) = run(&state, &twice, end(1, Timestamp::from_seconds(2)));
            assert_eq!(next.phase, expected);
            if expected == Phase::Restarting {
                let launched = Input::Launched { pid: 9, at: Timestamp::from_seconds(2), by_user: false };
                state = run(&next, &twice, launched).0;
            }
        }
        assert_eq!(run(&running(1), &twice, end(0, Timestamp::from_seconds(2))).0.phase, Phase::Exited);
    }

    #[test]
    fn a_stop_beats_the_policy() {
        let always = policy("always", 0);
        let (state, _) = run(&running(1), &always, Input::StopAsked);
        let (state, _) = run(&state, &always, end(143, Timestamp::from_seconds(3)));
        assert_eq!(state.phase, Phase::Exited);
        assert!(wants_boot(&always, &state), "always comes back with the daemon");
        assert!(!wants_boot(&policy("unless-stopped", 0), &state));
        assert!(!wants_boot(&always, &State::default()), "never started");
    }

    #[test]
    fn a_stop_while_restarting_cancels() {
        let always = policy("always", 0);
        let (state, _) = run(&running(1), &always, end(1, Timestamp::from_seconds(2)));
        let (state, commands) = run(&state, &always, Input::StopAsked);
        assert_eq!(state.phase, Phase::Exited);
        assert_eq!(commands, [Command::CancelRestart, Command::Persist]);
    }

    #[test]
    fn failed_first_launch_stays_created() {
        let failed = Input::LaunchFailed { exit_code: 127, error: "nope".to_owned(), at: Timestamp(5) };
        let (state, _) = run(&State::default(), &policy("no", 0), failed);
        assert_eq!((state.phase, state.exit_code, state.error.as_str()), (Phase::Created, 127, "nope"));
    }

    #[test]
    fn running_containers_are_not_removed() {
        let wishes = Wishes { restart: &policy("no", 0), auto_remove: false };
        assert_eq!(step(&running(1), wishes, Input::RemovalBegun), Err(Refusal { phase: Phase::Running }));
    }

    fn any_input() -> impl Strategy<Value = Input> {
        let at = (0i64..1_000_000_000_000).prop_map(Timestamp);
        prop_oneof![
            (1u32..99, at.clone(), any::<bool>()).prop_map(|(pid, at, by_user)| Input::Launched { pid, at, by_user }),
            at.clone().prop_map(|at| Input::LaunchFailed { exit_code: 127, error: "e".to_owned(), at }),
            Just(Input::Paused),
            Just(Input::Resumed),
            Just(Input::StopAsked),
            (0i32..3, any::<bool>(), at).prop_map(|(exit_code, oom_killed, at)| Input::Ended {
                exit_code,
                oom_killed,
                at
            }),
            Just(Input::RemovalBegun),
            Just(Input::RemovalFailed { error: "e".to_owned() }),
        ]
    }

    proptest! {
        #[test]
        fn every_life_keeps_the_invariants(
            inputs in prop::collection::vec(any_input(), 0..60),
            name in prop::sample::select(vec!["no", "always", "on-failure", "unless-stopped"]),
            auto_remove: bool,
        ) {
            let restart = policy(name, 3);
            let mut state = State::default();
            for input in inputs {
                let before = state.clone();
                let Ok((next, commands)) = step(&state, Wishes { restart: &restart, auto_remove }, input) else { continue };
                prop_assert_eq!(next.pid != 0, next.phase.has_process());
                prop_assert_eq!(next.restart_at != Timestamp::ZERO, next.phase == Phase::Restarting);
                prop_assert!(next == before || commands.contains(&Command::Persist), "unsaved change");
                let lost_process = before.phase.has_process() && !next.phase.has_process();
                prop_assert_eq!(lost_process, commands.contains(&Command::Release));
                prop_assert!(next.restart_delay_ms <= 60_000);
                state = next;
            }
        }
    }
}
