//! What goes through the replicated log.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shoal_manager_core::change::{ApplyError, Change, ObjectKey};
use shoal_proto::codec;
use shoal_proto::id::NodeId;
use shoal_proto::time::Timestamp;

/// What an entry carries, decoded.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchBody {
    /// Time of the change, as the proposer's clock showed it: all managers store the same.
    pub time: Timestamp,
    /// Applied only when the entry was proposed by the leader of this term; 0 is no fence.
    pub fence: u64,
    /// The request that asked for it, so that a retry after a lost answer is not applied twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestMark>,
    /// The changes: all or none.
    pub changes: Vec<Change>,
}

/// Names a request, and the object that answers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestMark {
    /// Random, chosen by the manager that took the request.
    pub id: u128,
    /// The object that the answer shows; `None` when there is nothing to show.
    pub object: Option<ObjectKey>,
    /// Warnings that go with the answer.
    pub warnings: Vec<String>,
}

/// An entry's payload: encoded once, by its proposer, and copied from then on.
#[derive(Clone)]
pub struct Batch {
    body: Arc<BatchBody>,
    encoded: Arc<[u8]>,
}

impl Batch {
    /// A payload with this content.
    pub fn new(body: BatchBody) -> Self {
        let encoded = codec::encode(&body).into();
        Self { body: Arc::new(body), encoded }
    }

    /// The content.
    pub fn body(&self) -> &BatchBody {
        &self.body
    }

    /// Bytes it takes in the log.
    pub fn encoded_len(&self) -> usize {
        self.encoded.len()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} changes, {} bytes)", self.body.changes.len(), self.encoded.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encoded)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> serde::de::Visitor<'de> for Bytes {
            type Value = Batch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an encoded batch")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Batch, E> {
                let body = codec::decode(bytes).map_err(E::custom)?;
                Ok(Batch { body: Arc::new(body), encoded: bytes.into() })
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Batch, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                self.visit_bytes(&bytes)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// What became of an entry when it was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Applied; the store is at this version now.
    Applied {
        /// The version.
        version: u64,
    },
    /// Refused: nothing was changed.
    Refused(ApplyError),
    /// Proposed by a leader-only loop that was not the leader any more: nothing was changed.
    Fenced,
    /// The same request was applied before: nothing was changed.
    Repeated(RequestMark),
    /// A blank or membership entry.
    Nothing,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A member of the consensus group: which node it is and where it listens. Peers check the node id against the
/// certificate of whoever answers at the address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftMember {
    /// The node.
    pub node_id: NodeId,
    /// Its cluster port.
    pub addr: SocketAddr,
}

impl Default for RaftMember {
    fn default() -> Self {
        Self { node_id: NodeId::default(), addr: SocketAddr::from(([0, 0, 0, 0], 0)) }
    }
}

impl fmt::Display for RaftMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node_id, self.addr)
    }
}

openraft::declare_raft_types!(
    /// The types of the manager's consensus group. One leader per term.
    pub TypeConfig:
        D = Batch,
        R = Outcome,
        NodeId = u64,
        Node = RaftMember,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

/// An entry of the log.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// Term and index of an entry.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote as it is stored.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// The members as of some entry.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
