//! Cluster objects in the shape of the Docker Engine API: names, order, nulls and absences as dockerd's.
//!
//! Requests come here after their `null` members were taken out, so a missing member is the one form of "not given".
//! Members that exist in the API but not here are kept as [`serde_json::Value`], so that a conversion can refuse them
//! by name instead of dropping them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_proto::object::Meta;

mod cluster;
mod container;
mod network;
mod node;
mod secret;
mod service;
mod task;

pub(crate) use cluster::*;
pub(crate) use container::*;
pub(crate) use network::*;
pub(crate) use node::*;
pub(crate) use secret::*;
pub(crate) use service::*;
pub(crate) use task::*;

/// Labels as Docker writes them.
pub(crate) type Labels = BTreeMap<String, String>;

/// Version of an object, in its wrapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Version {
    /// The number that an update must name.
    pub index: u64,
}

/// A driver and its options: of logs, networks, address management.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Driver {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// `Version`, `CreatedAt`, `UpdatedAt`: flattened into every object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ObjectMeta {
    pub version: Version,
    pub created_at: String,
    pub updated_at: String,
}

impl From<&Meta> for ObjectMeta {
    fn from(meta: &Meta) -> Self {
        Self {
            version: Version { index: meta.version },
            created_at: meta.created_at.to_string(),
            updated_at: meta.updated_at.to_string(),
        }
    }
}

/// Is it Go's zero value, which `omitempty` leaves out?
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
