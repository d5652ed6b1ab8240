//! Volumes over the API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model;

model! {
    /// One volume.
    pub struct Volume {
        /// RFC 3339.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub created_at: String,
        /// `local`.
        pub driver: String,
        /// Labels; null when none were given.
        pub labels: Option<BTreeMap<String, String>>,
        /// Directory on the host.
        pub mountpoint: String,
        /// Name.
        pub name: String,
        /// Driver options; null when none were given.
        pub options: Option<BTreeMap<String, String>>,
        /// `local`.
        pub scope: String,
        /// Only in `/system/df`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub usage_data: Option<VolumeUsage>,
    }
}

/// Use of a volume; -1 for not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeUsage {
    /// Containers that refer to it.
    pub ref_count: i64,
    /// Bytes.
    pub size: i64,
}

model! {
    /// A volume as it is asked for.
    pub struct VolumeCreate {
        /// Empty: a random name, and the volume is anonymous.
        pub name: String,
        /// Empty: `local`.
        pub driver: String,
        /// `type`, `device`, `o`.
        pub driver_opts: Option<BTreeMap<String, String>>,
        /// Labels.
        pub labels: Option<BTreeMap<String, String>>,
    }
}

model! {
    /// All volumes that pass the filters.
    pub struct VolumeList {
        /// By name.
        pub volumes: Vec<Volume>,
        /// Null when there are none.
        pub warnings: Option<Vec<String>>,
    }
}

model! {
    /// What a prune of volumes did.
    pub struct VolumesPruneReport {
        /// Null when nothing was removed.
        pub volumes_deleted: Option<Vec<String>>,
        /// Bytes.
        pub space_reclaimed: u64,
    }
}
