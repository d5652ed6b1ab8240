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
