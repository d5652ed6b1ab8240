//! How long the steps of a start take.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::shim::protocol::Took;

/// The time since the machine's start: the same in all processes, and nobody sets it.
pub(super) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

/// Notes how long each step takes.
#[derive(Debug)]
pub(super) struct Watch {
    last: Duration,
    /// Of this lap, by clocks that this process had before.
    before: Duration,
    pub(super) took: Took,
}

impl Watch {
    /// Begins in the new process, which was asked for at `ordered`.
    pub(super) fn new(ordered: Duration) -> Self {
        let mut watch = Self { last: ordered, before: Duration::ZERO, took: Took::default() };
        watch.took.clone_ns = watch.lap();
        watch
    }

    /// Nanoseconds since the last lap.
    pub(super) fn lap(&mut self) -> u64 {
        self.lap_at(now())
    }

    fn lap_at(&mut self, now: Duration) -> u64 {
        self.pause_at(now);
        u64::try_from(std::mem::take(&mut self.before).as_nanos()).unwrap_or_default()
    }

    /// Before this process gets other clocks. What follows is not counted.
    pub(super) fn pause(&mut self) {
        self.pause_at(now());
    }

    fn pause_at(&mut self, now: Duration) {
        self.before += now.saturating_sub(self.last);
        self.last = now;
    }

    /// With the new clocks.
    pub(super) fn go_on(&mut self) {
        self.last = now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_go_on_over_a_change_of_clocks() {
        let seconds = Duration::from_secs;
        let mut watch = Watch { last: seconds(10), before: Duration::ZERO, took: Took::default() };
        assert_eq!(watch.lap_at(seconds(12)), 2_000_000_000);
        watch.pause_at(seconds(13));
        // The new clock is far ahead.
        watch.last = seconds(1_000_013);
        assert_eq!(watch.lap_at(seconds(1_000_014)), 2_000_000_000);
        assert_eq!(watch.lap_at(seconds(1_000_014)), 0);
    }

    #[test]
    fn the_clock_is_the_one_that_nobody_sets() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let since_boot: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // Without the time that the machine slept.
        assert!(now().as_secs_f64() <= since_boot + 5.0);
    }
}
