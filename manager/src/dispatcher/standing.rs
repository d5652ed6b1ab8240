//! Whether a manager may speak for its cluster: judge that nodes are gone, and hold sessions with agents.
//!
//! ## Design notes
//! A manager that hears of no leader knows nothing of what the cluster decided since, so it holds no sessions, and it
//! must not conclude from its own absence that nodes are absent. When it is back, and has caught up, nodes that it held
//! before get time to return: they were busy with looking for another manager, or boot like itself.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time that nodes get to return to a manager that was away or has just started.
pub(crate) const RETURN: Duration = Duration::from_secs(10);
/// Heartbeats that may be missing: a node that is not heard of for so many periods is gone.
pub(crate) const MISSED: f64 = 2.5;

/// The state of a manager's standing.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Since when it is in contact and has caught up; `None` when it is not.
    since: Option<Instant>,
    /// When contact was last lost; `None` before the first contact of this process.
    lost: Option<Instant>,
    /// How long nodes that were here before `since` have to return.
    grace: Duration,
}

impl Standing {
    /// Since when nodes may be judged, and how long those that were here before have to return.
    pub(crate) fn judging(&self) -> Option<(Instant, Duration)> {
        self.since.map(|since| (since, self.grace))
    }

    /// Contact is lost: `last` is when it still was there. Was it in good standing until now?
    pub(crate) fn lose(&mut self, last: Option<Instant>) -> bool {
        self.lost = last.or(self.lost);
        self.since.take().is_some()
    }

    /// It is in contact and has caught up.
    pub(crate) fn regain(&mut self, now: Instant, period: Duration) {
        // Agents pause longer between their attempts the longer nobody took them.
        let away = self.lost.map_or(RETURN, |lost| now.duration_since(lost) * 2);
        self.grace = away.min(RETURN).max(period.mul_f64(MISSED));
        self.since = Some(now);
    }
}

/// How long contact may be lost before a manager gives its sessions up: an election in between is no reason.
pub(crate) fn limit(period: Duration, election_max: Duration) -> Duration {
    period.max(election_max * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn nobody_is_judged_before_contact_or_after_it_was_lost() {
        let now = Instant::now();
        let mut standing = Standing::default();
        assert!(standing.judging().is_none());
        standing.regain(now, PERIOD);
        assert_eq!(standing.judging(), Some((now, RETURN)));
        assert!(standing.lose(Some(now)));
        assert!(standing.judging().is_none());
        assert!(!standing.lose(Some(now)), "it was lost before");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_return_grows_with_the_absence() {
        let began = Instant::now();
        let grace = |away: Duration| {
            let mut standing = Standing::default();
            standing.regain(began, PERIOD);
            standing.lose(Some(began));
            standing.regain(began + away, PERIOD);
            standing.judging().unwrap().1
        };
        assert_eq!(grace(PERIOD), PERIOD.mul_f64(MISSED));
        assert_eq!(grace(PERIOD * 3), PERIOD * 6);
        assert_eq!(grace(PERIOD * 60), RETURN);
    }

    #[test]
    fn an_election_does_not_end_sessions() {
        assert_eq!(limit(PERIOD, Duration::from_millis(450)), Duration::from_millis(1350));
        assert_eq!(limit(PERIOD * 5, Duration::from_millis(450)), PERIOD * 5);
    }
}
