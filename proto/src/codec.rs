//! The one encoding of domain objects inside protobuf envelopes, raft entries and snapshots: MessagePack maps with
//! field names.
//!
//! ## Design notes
//! Envelopes (RPC messages) are protobuf. The objects in them are the hand-written domain types, because these share
//! specs behind `Arc`, use newtype ids and have no optional-everything; writing each of them twice, once more as a
//! protobuf message, would double the place where a field can be forgotten. Named fields keep the evolution rules of
//! protobuf: an unknown field is skipped, a missing one takes its default.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The bytes are not an encoding of the type that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("malformed {type_name} of {length} bytes")]
pub struct DecodeError {
    type_name: &'static str,
    length: usize,
    #[source]
    source: rmp_serde::decode::Error,
}

/// Encodes a domain object.
///
/// # Panics
/// Never for the types of this crate: their serialisation has no failing case, and the sink is memory.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "derived serialisation into a Vec cannot fail")]
    rmp_serde::to_vec_named(value).expect("derived serialisation into memory")
}

/// Decodes a domain object.
///
/// # Errors
/// When the bytes are malformed or of another type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(bytes).map_err(|source| DecodeError {
        type_name: std::any::type_name::<T>(),
        length: bytes.len(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;
    use crate::spec::{RestartCondition, RestartPolicy};

    /// As builds know it that were made before `window_given`.
    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct OlderPolicy {
        condition: RestartCondition,
        delay: Duration,
        max_attempts: u64,
        window: Duration,
    }

    fn older(window: u64) -> OlderPolicy {
        let delay = Duration::from_secs(5);
        OlderPolicy { condition: RestartCondition::Any, delay, max_attempts: 3, window: Duration::from_secs(window) }
    }

    /// As an older build has written it, byte for byte.
    fn older_bytes(window_seconds: u8) -> Vec<u8> {
        let duration = |seconds: u8| [b"\x82\xa4secs", &[seconds][..], b"\xa5nanos\x00"].concat();
        let begin = b"\x84\xa9condition\xa3any\xa5delay";
        let attempts = b"\xacmax_attempts\x03\xa6window";
        [&begin[..], &duration(5), attempts, &duration(window_seconds)].concat()
    }

    #[test]
    fn restart_policies_of_older_builds_are_read_as_they_were_meant() {
        for (seconds, shown) in [(0, None), (50, Some(Duration::from_secs(50)))] {
            assert_eq!(encode(&older(seconds.into())), older_bytes(seconds));
            let policy: RestartPolicy = decode(&older_bytes(seconds)).expect("an older build's");
            assert_eq!((policy.max_attempts, policy.window), (3, Duration::from_secs(seconds.into())));
            assert_eq!((policy.window_given, policy.shown_window()), (false, shown));
        }
    }

    #[test]
    fn older_builds_read_restart_policies_of_this_one() {
        for (seconds, window_given) in [(0, false), (0, true), (50, true)] {
            let window = Duration::from_secs(seconds);
            let policy = RestartPolicy { max_attempts: 3, window, window_given, ..RestartPolicy::default() };
            let read: OlderPolicy = decode(&encode(&policy)).expect("for an older build");
            assert_eq!(read, older(seconds));
            assert_eq!(decode::<RestartPolicy>(&encode(&policy)).expect("its own"), policy);
            assert_eq!(policy.shown_window(), window_given.then_some(window));
        }
    }
}
