//! Cluster-wide settings, and the two kinds of payload that the cluster keeps for its tasks.

use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::Labels;
use super::service::LogDriver;

/// Settings that hold for the whole cluster (`docker swarm init` and `update`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterSpec {
    /// Always `default`, as in Swarm.
    pub name: String,
    /// User labels.
    pub labels: Labels,
    /// How many ended tasks are kept for each slot; Swarm's default is 5.
    pub task_history_limit: u64,
    /// Raft settings.
    pub raft: RaftSpec,
    /// How often an agent shows that it lives. It counts as lost after two and a half of these.
    pub heartbeat_period: Duration,
    /// Life of a node's certificate.
    pub node_cert_expiry: Duration,
    /// Number of the root certificate that was asked for; a change would ask for another one.
    pub force_rotate: u64,
    /// Must managers be unlocked with a key after a restart?
    pub auto_lock_managers: bool,
    /// Log driver of tasks that name none.
    pub default_log_driver: Option<LogDriver>,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            labels: Labels::new(),
            task_history_limit: 5,
            raft: RaftSpec::default(),
            heartbeat_period: Duration::from_secs(1),
            node_cert_expiry: Duration::from_secs(90 * 24 * 3600),
            force_rotate: 0,
            auto_lock_managers: false,
            default_log_driver: None,
        }
    }
}

/// Settings of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RaftSpec {
    /// Entries between two snapshots.
    pub snapshot_interval: u64,
    /// Old snapshots kept beside the newest.
    pub keep_old_snapshots: u64,
    /// Entries kept for followers that lag behind.
    pub log_entries_for_slow_followers: u64,
    /// Ticks without a leader before an election.
    pub election_tick: u32,
    /// Ticks between heartbeats.
    pub heartbeat_tick: u32,
}

impl Default for RaftSpec {
    fn default() -> Self {
        Self {
            snapshot_interval: 10_000,
            keep_old_snapshots: 0,
            log_entries_for_slow_followers: 500,
            election_tick: 10,
            heartbeat_tick: 1,
        }
    }
}

/// Where subnets of cluster networks are taken from. Fixed when the cluster is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressPools {
    /// The pools, used in order; default 10.0.0.0/8.
    pub pools: Vec<Ipv4Net>,
    /// Prefix length of the subnet cut for each network; default 24.
    pub subnet_size: u8,
    /// UDP port of the overlay data path; default 4789.
    pub data_path_port: u16,
}

impl Default for AddressPools {
    fn default() -> Self {
        Self { pools: vec![Ipv4Net::new_assert([10, 0, 0, 0].into(), 8)], subnet_size: 24, data_path_port: 4789 }
    }
}

/// A secret as its user made it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretSpec {
    /// Unique name.
    pub name: String,
    /// User labels: the only part that can be updated.
    pub labels: Labels,
    /// The payload, 1 byte to 500 KiB. Never printed.
    #[serde(with = "payload")]
    pub data: Vec<u8>,
    /// Are its placeholders filled on the node, for each task?
    pub is_template: bool,
}

impl std::fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretSpec").field("name", &self.name).field("labels", &self.labels).finish_non_exhaustive()
    }
}

/// A config as its user made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigSpec {
    /// Unique name.
    pub name: String,
    /// User labels: the only part that can be updated.
    pub labels: Labels,
    /// The payload, at most 1000 KiB.
    #[serde(with = "payload")]
    pub data: Vec<u8>,
    /// Are its placeholders filled on the node, for each task?
    pub is_template: bool,
}

/// Payloads as one byte string instead of a list of numbers.
mod payload {
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(data)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl<'de> de::Visitor<'de> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, data: &[u8]) -> Result<Vec<u8>, E> {
                Ok(data.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, data: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(data)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
                let mut data = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    data.push(byte);
                }
                Ok(data)
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
