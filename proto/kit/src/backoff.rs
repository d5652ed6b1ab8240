//! Growing pauses between tries.

use std::time::Duration;

use crate::entropy::Entropy;

/// Doubles from `first` to `max`; every pause is cut by up to a half at random, so that many waiters do not march in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    tries: u32,
    entropy: Entropy,
}

impl Backoff {
    /// A fresh sequence of pauses.
    pub fn new(first: Duration, max: Duration, entropy: Entropy) -> Self {
        Self { first, max, tries: 0, entropy }
    }

    /// The next pause. It never overflows, however often it is called.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 2u32.saturating_pow(self.tries.min(31));
        self.tries = self.tries.saturating_add(1);
        let whole = self.first.saturating_mul(factor).min(self.max);
        whole.mul_f64(1.0 - self.entropy.fraction() / 2.0)
    }

    /// Things went well: start over.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_limit_and_stays_there() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(8), Entropy::from_seed(1));
        let delays: Vec<_> = (0..100).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] <= Duration::from_millis(100) && delays[0] >= Duration::from_millis(50));
        assert!(delays[99] <= Duration::from_secs(8) && delays[99] >= Duration::from_secs(4));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
