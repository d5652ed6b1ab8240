//! What the cluster's executor asks for beyond Docker's API.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use shoal_proto::id::{NetworkId, ServiceId, TaskId};

/// What only the executor may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InternalOptions {
    /// Secrets and configs: placed in a memory file system, never on a disk.
    #[serde(skip)]
    pub files: Vec<InternalFile>,
    /// Cluster networks to join.
    pub attachments: Vec<ClusterAttachment>,
    /// The task; `None` for plain containers.
    pub task: Option<TaskId>,
    /// Labels for the executor's own use, not shown by inspect.
    pub task_labels: BTreeMap<String, String>,
}

/// A file to place in the container.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct InternalFile {
    /// Absolute path inside.
    pub path: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Contents.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for InternalFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InternalFile")
            .field("path", &self.path)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// A place on a cluster network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterAttachment {
    /// The network.
    pub network: NetworkId,
    /// Its name, for display.
    pub network_name: String,
    /// The address, with the subnet's prefix length.
    pub addr: Ipv4Addr,
    /// Prefix length of the subnet.
    pub prefix_len: u8,
    /// The task.
    pub task: TaskId,
    /// The service.
    pub service: Option<ServiceId>,
    /// More DNS names.
    pub aliases: Vec<String>,
}
