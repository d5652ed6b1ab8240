//! Health checks: a command executed again and again in a running container.
//!
//! ## Design notes
//! The rule that turns results into a status is pure ([`HealthState::judge`]); a task per container with a check asks the
//! clock and executes. The status is kept in memory: after a restart of the daemon it begins with `starting`, as in
//! dockerd.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_proto::time::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::container::instance::Container;
use crate::container::lifecycle::Phase;
use crate::engine::Inner;
use crate::exec;
use crate::model::{ContainerConfig, Health, HealthLogEntry};

/// Checks kept for `inspect`.
const KEPT: usize = 5;
/// Bytes of output kept of each.
const OUTPUT: usize = 4096;
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;

/// Health of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthStatus {
    /// It has no check, or does not run.
    #[default]
    None,
    /// Not known yet.
    Starting,
    /// The last check was good.
    Healthy,
    /// Several checks in a row were not.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word for it; empty without a check.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What is known of a container's health.
#[derive(Debug, Default)]
pub struct HealthState {
    status: HealthStatus,
    failing_streak: i64,
    log: VecDeque<HealthLogEntry>,
    task: Option<CancellationToken>,
}

/// How one check went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 is good; -1 when it could not be executed or took too long.
    pub exit_code: i64,
    /// What it printed.
    pub output: String,
}

/// How to check, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Between checks.
    pub interval: Duration,
    /// Of one check.
    pub timeout: Duration,
    /// After the start, in which failures do not count.
    pub start_period: Duration,
    /// Between checks in the start period.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: i64,
}

impl Check {
    /// The check of a configuration; `None` when there is none.
    pub fn of(config: &ContainerConfig) -> Option<Self> {
        let health = config.healthcheck.as_ref()?;
        let command = match health.test.as_deref().unwrap_or_default() {
            [kind, command @ ..] if kind == "CMD" && !command.is_empty() => command.to_vec(),
            [kind, line, ..] if kind == "CMD-SHELL" => {
                let mut words = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                words.push(line.clone());
                words
            }
            _ => return None,
        };
        Some(Self {
            command,
            interval: duration(health.interval, INTERVAL),
            timeout: duration(health.timeout, TIMEOUT),
            start_period: duration(health.start_period, Duration::ZERO),
            start_interval: duration(health.start_interval, START_INTERVAL),
            retries: if health.retries == 0 { RETRIES } else { health.retries },
        })
    }

    /// The pause before the next check.
    fn pause(&self, status: HealthStatus, since_start: Duration) -> Duration {
        let starting = status == HealthStatus::Starting && since_start < self.start_period;
        if starting { self.start_interval.min(self.interval) } else { self.interval }
    }
}

fn duration(nanos: i64, default: Duration) -> Duration {
    match u64::try_from(nanos) {
        Ok(0) | Err(_) => default,
        Ok(nanos) => Duration::from_nanos(nanos),
    }
}

impl HealthState {
    /// Takes a result; says whether the status changed.
    pub fn judge(&mut self, check: &Check, result: CheckResult, started_at: Timestamp) -> bool {
        let before = self.status;
        if result.exit_code == 0 {
            (self.status, self.failing_streak) = (HealthStatus::Healthy, 0);
        } else {
            let in_start_period =
                before == HealthStatus::Starting && result.start.since(started_at) < check.start_period;
            if !in_start_period {
                self.failing_streak += 1;
                if self.failing_streak >= check.retries {
                    self.status = HealthStatus::Unhealthy;
                }
            }
        }
        if self.log.len() == KEPT {
            self.log.pop_front();
        }
        let mut output = result.output;
        if output.len() > OUTPUT {
            let end = (0..=OUTPUT).rev().find(|end| output.is_char_boundary(*end)).unwrap_or(0);
            output.truncate(end);
        }
        self.log.push_back(HealthLogEntry {
            start: result.start.to_string(),
            end: result.end.to_string(),
            exit_code: result.exit_code,
            output,
        });
        self.status != before
    }

    fn shown(&self) -> Health {
        Health {
            status: self.status.as_str().to_owned(),
            failing_streak: self.failing_streak,
            log: Some(self.log.iter().cloned().collect()),
        }
    }
}

fn state(container: &Container) -> MutexGuard<'_, HealthState> {
    container.health.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Health as `inspect` shows it; `None` without a check.
pub(crate) fn shown(container: &Container) -> Option<Health> {
    let state = state(container);
    (state.status != HealthStatus::None).then(|| state.shown())
}

/// `starting`, `healthy`, `unhealthy`, or nothing.
pub(crate) fn word(container: &Container) -> &'static str {
    state(container).status.as_str()
}

/// Begins to check a container that was started.
pub(crate) fn begin(inner: &Arc<Inner>, container: &Arc<Container>) {
    let check = Check::of(&container.record().config);
    let token = CancellationToken::new();
    {
        let mut state = state(container);
        if let Some(before) = state.task.take() {
            before.cancel();
        }
        *state = HealthState::default();
        if check.is_some() {
            (state.status, state.task) = (HealthStatus::Starting, Some(token.clone()));
        }
    }
    let Some(check) = check else { return };
    let (inner, container) = (Arc::clone(inner), Arc::clone(container));
    let tracker = inner.tasks.clone();
    tracker.spawn(async move {
        tokio::select! {
            () = inner.stopping.cancelled() => {}
            () = token.cancelled() => {}
            () = watch(&inner, &container, &check) => {}
        }
    });
}

/// The container ended: no more checks. What is known stays, for `inspect`; the status is unhealthy unless it was so.
pub(crate) fn end(container: &Container) {
    let mut state = state(container);
    if let Some(task) = state.task.take() {
        task.cancel();
    }
    // As dockerd: a container that does not run is not healthy.
    if state.status != HealthStatus::None {
        state.status = HealthStatus::Unhealthy;
    }
}

async fn watch(inner: &Arc<Inner>, container: &Arc<Container>, check: &Check) {
    loop {
        let started_at = container.record().state.started_at;
        let status = state(container).status;
        tokio::time::sleep(check.pause(status, inner.now().since(started_at))).await;
        if container.phase() != Phase::Running {
            continue;
        }
        let result = probe(inner, container, check).await;
        let (changed, word) = {
            let mut state = state(container);
            if state.task.is_none() {
                return;
            }
            let changed = state.judge(check, result, started_at);
            (changed, state.status.as_str())
        };
        if changed {
            crate::container::tell(inner, container, &format!("health_status: {word}"), &[]);
        }
    }
}

async fn probe(inner: &Arc<Inner>, container: &Arc<Container>, check: &Check) -> CheckResult {
    let start = inner.now();
    let (exit_code, output) = match exec::probe(inner, container, &check.command, check.timeout, OUTPUT).await {
        Ok(exec::Probe::Ended { exit_code, output }) => (i64::from(exit_code), output),
        Ok(exec::Probe::TimedOut) => (-1, format!("Health check exceeded timeout ({})", go_duration(check.timeout))),
        Err(failure) => (-1, failure.message),
    };
    inner.metrics.health_checks.fetch_add(1, Ordering::Relaxed);
    if exit_code != 0 {
        inner.metrics.health_checks_failed.fetch_add(1, Ordering::Relaxed);
    }
    CheckResult { start, end: inner.now(), exit_code, output }
}

/// As Go prints durations of whole seconds and milliseconds.
fn go_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        let seconds = duration.as_secs();
        return match (seconds / 60, seconds % 60) {
            (0, seconds) => format!("{seconds}s"),
            (minutes, seconds) => format!("{minutes}m{seconds}s"),
        };
    }
    if duration < Duration::from_secs(1) { format!("{}ms", duration.as_millis()) } else { format!("{duration:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HealthConfig;

    fn config(test: &[&str]) -> ContainerConfig {
        let health = HealthConfig {
            test: Some(test.iter().map(|word| (*word).to_owned()).collect()),
            start_period: 10_000_000_000,
            retries: 2,
            ..HealthConfig::default()
        };
        ContainerConfig { healthcheck: Some(health), ..ContainerConfig::default() }
    }

    fn result(at: i64, exit_code: i64) -> CheckResult {
        let at = Timestamp::from_seconds(at);
        CheckResult { start: at, end: at, exit_code, output: "x".repeat(5_000) }
    }

    #[test]
    fn commands_are_read() {
        assert_eq!(Check::of(&config(&["CMD", "a", "b"])).unwrap().command, ["a", "b"]);
        assert_eq!(Check::of(&config(&["CMD-SHELL", "a b"])).unwrap().command, ["/bin/sh", "-c", "a b"]);
        assert_eq!(Check::of(&config(&["NONE"])), None);
        assert_eq!(Check::of(&ContainerConfig::default()), None);
        let check = Check::of(&config(&["CMD", "a"])).unwrap();
        assert_eq!((check.interval, check.retries), (INTERVAL, 2));
    }

    #[test]
    fn failures_count_after_the_start_period() {
        let check = Check::of(&config(&["CMD", "a"])).unwrap();
        let started = Timestamp::from_seconds(100);
        let mut state = HealthState { status: HealthStatus::Starting, ..HealthState::default() };
        assert!(!state.judge(&check, result(105, 1), started), "in the start period");
        assert_eq!(state.failing_streak, 0);
        assert!(!state.judge(&check, result(111, 1), started));
        assert!(state.judge(&check, result(112, 1), started));
        assert_eq!(state.status, HealthStatus::Unhealthy);
        assert!(state.judge(&check, result(113, 0), started));
        assert_eq!((state.status, state.failing_streak), (HealthStatus::Healthy, 0));
        assert!(!state.judge(&check, result(114, 1), started), "one failure is not enough");
        for at in 115..120 {
            state.judge(&check, result(at, 0), started);
        }
        let shown = state.shown();
        assert_eq!(shown.log.as_ref().map(Vec::len), Some(5));
        assert_eq!(shown.log.unwrap()[0].output.len(), OUTPUT);
    }

    #[test]
    fn a_success_ends_the_start_period() {
        let check = Check::of(&config(&["CMD", "a"])).unwrap();
        let started = Timestamp::from_seconds(100);
        let mut state = HealthState { status: HealthStatus::Starting, ..HealthState::default() };
        assert!(state.judge(&check, result(101, 0), started));
        state.judge(&check, result(102, 1), started);
        assert_eq!(state.failing_streak, 1);
    }

    #[test]
    fn pauses_are_short_while_starting() {
        let check = Check::of(&config(&["CMD", "a"])).unwrap();
        let at = Duration::from_secs;
        assert_eq!(check.pause(HealthStatus::Starting, at(1)), START_INTERVAL);
        assert_eq!(check.pause(HealthStatus::Starting, at(11)), INTERVAL);
        assert_eq!(check.pause(HealthStatus::Healthy, at(1)), INTERVAL);
        assert_eq!(go_duration(at(90)), "1m30s");
    }
}
