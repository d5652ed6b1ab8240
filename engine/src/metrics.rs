//! What the engine counts while it runs. Rendering is the daemon's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of a histogram's buckets in seconds: Prometheus' own, as dockerd has them.
pub const BUCKETS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What is done with containers, as dockerd names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Compare with the image.
    Changes,
    /// Make an image of it.
    Commit,
    /// Make it.
    Create,
    /// Remove it.
    Delete,
    /// Start it.
    Start,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Changes, Self::Commit, Self::Create, Self::Delete, Self::Start];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Commit => "commit",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Start => "start",
        }
    }
}

/// What a start consists of. Some are done at the same time, and those from [`Step::Clone`] on are parts of [`Step::Shim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The network namespace.
    Namespace,
    /// Files, volumes and the root file system, as far as they are prepared before the shim.
    Disk,
    /// The container's way into its networks.
    Network,
    /// From the order to the shim until the container waits for its program.
    Shim,
    /// Names of hosts, once the addresses are known.
    Files,
    /// From the word to go until the program is executed.
    Program,
    /// That it runs, written down.
    Record,
    /// A process in namespaces of its own.
    Clone,
    /// The process reads its specification.
    Specification,
    /// The cgroup, and the process in it.
    Cgroup,
    /// The root file system with everything in it.
    Mounts,
    /// Streams, limits, user.
    User,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Namespace,
        Self::Disk,
        Self::Network,
        Self::Shim,
        Self::Files,
        Self::Program,
        Self::Record,
        Self::Clone,
        Self::Specification,
        Self::Cgroup,
        Self::Mounts,
        Self::User,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Shim => "shim",
            Self::Files => "files",
            Self::Program => "program",
            Self::Record => "record",
            Self::Clone => "shim_clone",
            Self::Specification => "shim_specification",
            Self::Cgroup => "shim_cgroup",
            Self::Mounts => "shim_mounts",
            Self::User => "shim_user",
        }
    }
}

/// Durations, counted by size.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_S.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Snapshot {
    /// How many were at most as long as each of [`BUCKETS_S`].
    pub cumulative: [u64; BUCKETS_S.len()],
    /// How many there were.
    pub count: u64,
    /// How long they took in all.
    pub sum_s: f64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BUCKETS_S.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was counted.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot { count: self.count.load(Ordering::Relaxed), ..Snapshot::default() };
        let mut below = 0;
        for (sum, bucket) in snapshot.cumulative.iter_mut().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            *sum = below;
        }
        snapshot.sum_s = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        snapshot
    }
}

/// What the engine counts.
#[derive(Debug, Default)]
pub struct Metrics {
    actions: [Histogram; Action::ALL.len()],
    steps: [Histogram; Step::ALL.len()],
    /// Health checks that were made.
    pub health_checks: AtomicU64,
    /// Those that failed.
    pub health_checks_failed: AtomicU64,
}

impl Metrics {
    /// How long this action takes.
    pub fn action(&self, action: Action) -> &Histogram {
        &self.actions[action as usize]
    }

    /// How long this part of a start takes.
    pub fn step(&self, step: Step) -> &Histogram {
        &self.steps[step as usize]
    }

    /// Counts a part of a start, however it ends.
    pub(crate) async fn stepped<T>(&self, step: Step, work: impl Future<Output = T>) -> T {
        let start = tokio::time::Instant::now();
        let done = work.await;
        self.step(step).observe(start.elapsed());
        done
    }

    /// Counts an action that succeeds.
    ///
    /// # Errors
    /// That of the action.
    pub(crate) async fn timed<T, E>(&self, action: Action, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let start = tokio::time::Instant::now();
        let done = work.await?;
        self.action(action).observe(start.elapsed());
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_every_bucket_that_is_large_enough() {
        let histogram = Histogram::default();
        for millis in [5, 7, 400, 60_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let seen = histogram.snapshot();
        assert_eq!(seen.cumulative, [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
        assert_eq!((seen.count, seen.sum_s), (4, 60.412));
    }

    #[tokio::test]
    async fn what_fails_is_not_counted() {
        let metrics = Metrics::default();
        assert!(metrics.timed(Action::Start, async { Err::<(), _>("no") }).await.is_err());
        metrics.timed(Action::Start, async { Ok::<_, ()>(()) }).await.unwrap();
        let count = |action| metrics.action(action).snapshot().count;
        assert_eq!((count(Action::Start), count(Action::Create)), (1, 0));
    }
}
