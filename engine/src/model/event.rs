//! Things that happened.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something that happened. Containers and images carry the old fields `status`, `id` and `from`, too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// The action, for clients of old.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// The object, for clients of old.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The image of the container, for clients of old.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// `container`, `image`, `network`, `volume`, `daemon`; of the cluster `node`, `service`, `secret`, `config`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// What happened to it.
    #[serde(rename = "Action")]
    pub action: String,
    /// The object.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `local` or `swarm`.
    pub scope: String,
    /// Seconds.
    pub time: i64,
    /// Nanoseconds.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// The object of an event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Actor {
    /// Id, or name for volumes.
    #[serde(rename = "ID")]
    pub id: String,
    /// More about it.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}
