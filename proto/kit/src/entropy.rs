//! Randomness, injected: keys, tokens, ids and jitter of managers come from here, so that a seed replays them.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shoal_proto::id::IdSource;

/// A shared source of random bytes. Clones draw from the same stream.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<StdRng>>);

impl Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

impl Entropy {
    /// Seeded by the operating system; cryptographically strong.
    pub fn from_system() -> Self {
        Self(Arc::new(Mutex::new(rand::make_rng())))
    }

    /// The same bytes for the same seed. For tests and simulations only.
    pub fn from_seed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Fills the buffer with random bytes.
    pub fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buffer);
    }

    /// The next 64 random bits.
    pub fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number from 0 up to but not including 1, for jitter.
    pub fn fraction(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
        let numerator = (self.next_u64() >> 11) as f64;
        numerator / 9_007_199_254_740_992.0
    }
}

impl IdSource for Entropy {
    fn next_bits(&mut self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_streams() {
        let (one, two) = (Entropy::from_seed(7), Entropy::from_seed(7));
        assert_eq!(one.next_u64(), two.next_u64());
        assert_ne!(one.next_u64(), Entropy::from_seed(8).next_u64());
    }

    #[test]
    fn fractions_stay_below_one() {
        let entropy = Entropy::from_seed(1);
        assert!((0..1000).map(|_| entropy.fraction()).all(|f| (0.0..1.0).contains(&f)));
    }
}
