//! Identifiers of cluster objects: 128 random bits, written as 25 base-36 digits as Swarm writes them.
//!
//! Ids are `Copy` and compare as integers, so that a store of a million tasks does not pay for strings. Making one
//! needs randomness, which is injected: planners take an [`IdSource`], drivers own one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const WIDTH: usize = 25;

/// Where new ids come from. A simulation hands out a seeded one.
pub trait IdSource {
    /// The next 128 random bits.
    fn next_bits(&mut self) -> u128;
}

/// Ids in ascending order, for tests of planners.
#[derive(Debug, Default)]
pub struct SequentialIds(u128);

impl IdSource for SequentialIds {
    fn next_bits(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

/// The text was not 25 base-36 digits below 2^128.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid id {text:?}: expected 25 characters of 0-9 and a-z")]
pub struct InvalidId {
    /// What was given.
    pub text: String,
}

fn encode(mut bits: u128) -> [u8; WIDTH] {
    let mut out = [b'0'; WIDTH];
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[(bits % 36) as usize];
        bits /= 36;
    }
    out
}

fn decode(text: &str) -> Result<u128, InvalidId> {
    let invalid = || InvalidId { text: text.chars().take(80).collect() };
    if text.len() != WIDTH {
        return Err(invalid());
    }
    text.bytes().try_fold(0u128, |bits, byte| {
        let digit = DIGITS.iter().position(|d| *d == byte).ok_or_else(invalid)?;
        bits.checked_mul(36).and_then(|b| b.checked_add(digit as u128)).ok_or_else(invalid)
    })
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u128);

        impl $name {
            /// A fresh id.
            pub fn generate(ids: &mut dyn IdSource) -> Self {
                Self(ids.next_bits())
            }

            /// The id with exactly these bits.
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The bits, for use as an index key.
            pub const fn bits(self) -> u128 {
                self.0
            }

            /// Is this the zero id, which no object has?
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digits = encode(self.0);
                f.pad(std::str::from_utf8(&digits).unwrap_or("?"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                decode(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.to_be_bytes().serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(|bytes| Self(u128::from_be_bytes(bytes)))
                }
            }
        }
    )*};
}

ids! {
    /// A cluster. There is one in each store.
    ClusterId,
    /// A node: also the common name of its certificate.
    NodeId,
    /// A service.
    ServiceId,
    /// A task.
    TaskId,
    /// A cluster-wide network.
    NetworkId,
    /// A container that is no task, on a cluster-wide network.
    AttachmentId,
    /// A secret.
    SecretId,
    /// A config.
    ConfigId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_at_the_edges() {
        for bits in [0, 1, 35, 36, u128::MAX / 2, u128::MAX] {
            let id = TaskId::from_bits(bits);
            assert_eq!(id.to_string().len(), WIDTH);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "abc", "ABCDEFGHIJKLMNOPQRSTUVWXY", "zzzzzzzzzzzzzzzzzzzzzzzzz", "000000000000000000000000ä"]
        {
            assert!(text.parse::<NodeId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn both_codecs_round_trip() {
        let id = ServiceId::from_bits(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
        let json = serde_json::to_string(&id).expect("json");
        assert_eq!(serde_json::from_str::<ServiceId>(&json).expect("json"), id);
        let packed = rmp_serde::to_vec_named(&id).expect("msgpack");
        assert_eq!(rmp_serde::from_slice::<ServiceId>(&packed).expect("msgpack"), id);
    }
}
