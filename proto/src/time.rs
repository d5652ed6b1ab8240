//! Wall-clock instants as they are stored and shown. Reading a clock is the business of `shoal_kit::clock`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds since 1970-01-01T00:00:00Z. Zero means "never".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The instant that stands for "never".
    pub const ZERO: Self = Self(0);

    /// An instant so many seconds after the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// Time that went by since `earlier`; zero when `earlier` lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This instant and `delay` more, saturating.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Parses RFC 3339, with or without a fraction.
    ///
    /// # Errors
    /// When the text is not such an instant.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        let parsed: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp { text: text.to_owned() })?;
        i64::try_from(parsed.as_nanosecond()).map(Self).map_err(|_| InvalidTimestamp { text: text.to_owned() })
    }
}

/// The text was not an RFC 3339 instant between the years 1677 and 2262.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid timestamp {text:?}")]
pub struct InvalidTimestamp {
    /// What was given.
    pub text: String,
}

/// As Go's `time.RFC3339Nano` prints it: UTC, trailing zeros of the fraction removed; "never" is Go's zero time.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0001-01-01T00:00:00Z");
        }
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(instant) => write!(f, "{instant}"),
            Err(_) => f.write_str("0001-01-01T00:00:00Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        assert_eq!(Timestamp::ZERO.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(Timestamp(1_500_000_000_120_000_000).to_string(), "2017-07-14T02:40:00.12Z");
        assert_eq!(Timestamp::from_seconds(1_500_000_000).to_string(), "2017-07-14T02:40:00Z");
    }

    #[test]
    fn parse_is_the_inverse_of_display() {
        let instant = Timestamp(1_700_000_000_000_000_001);
        assert_eq!(Timestamp::parse(&instant.to_string()), Ok(instant));
        assert!(Timestamp::parse("yesterday").is_err());
    }

    #[test]
    fn since_never_goes_negative() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
    }
}
