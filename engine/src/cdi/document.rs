//! A file of the interface, as its specification says.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    /// `vendor.com/class`.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    /// What every device of it needs.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What a container needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    /// Variables, `NAME=value`.
    pub env: Vec<String>,
    /// Devices.
    pub device_nodes: Vec<DeviceNode>,
    /// Programs of the host.
    pub hooks: Vec<Hook>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Groups of the process.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
    /// Settings that are not done here.
    pub intel_rdt: Option<serde_json::Value>,
    /// Links of the host that are not moved here.
    pub net_devices: Option<serde_json::Value>,
}

impl Edits {
    /// Adds others behind these.
    pub(super) fn extend(&mut self, other: &Self) {
        let other = other.clone();
        self.env.extend(other.env);
        self.device_nodes.extend(other.device_nodes);
        self.hooks.extend(other.hooks);
        self.mounts.extend(other.mounts);
        self.additional_gids.extend(other.additional_gids);
        self.intel_rdt = self.intel_rdt.take().or(other.intel_rdt);
        self.net_devices = self.net_devices.take().or(other.net_devices);
    }
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    /// Where in the container.
    pub path: PathBuf,
    /// Where on the host; the same when empty.
    pub host_path: PathBuf,
    /// `b`, `c`, `u` or `p`; found out when empty.
    #[serde(rename = "type")]
    pub kind: String,
    /// Found out when absent.
    pub major: Option<i64>,
    /// Found out when absent.
    pub minor: Option<i64>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Of `r`, `w` and `m`; all when empty.
    pub permissions: String,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl DeviceNode {
    /// Where it is on the host.
    pub fn host_path(&self) -> &Path {
        if self.host_path.as_os_str().is_empty() { &self.path } else { &self.host_path }
    }
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookKind {
    /// Obsolete: as the next.
    Prestart,
    /// In the runtime's namespaces, before the root is entered.
    CreateRuntime,
    /// In the container's namespaces, before the root is entered.
    CreateContainer,
    /// In the container, before its program.
    StartContainer,
    /// After the start.
    Poststart,
    /// After the end.
    Poststop,
}

/// A program of the host that prepares the container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// When.
    #[serde(rename = "hookName")]
    pub kind: HookKind,
    /// The program.
    pub path: PathBuf,
    /// All its words, the first one included.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its variables.
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds.
    #[serde(default)]
    pub timeout: Option<i64>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Source.
    pub host_path: PathBuf,
    /// Destination.
    pub container_path: PathBuf,
    /// Mount options.
    #[serde(default)]
    pub options: Vec<String>,
    /// File system; a bind mount when empty.
    #[serde(default, rename = "type")]
    pub kind: String,
}

impl Document {
    /// Reads a file; `None` for one that is no business of the interface. The error is the reason, in words.
    pub(super) fn read(path: &Path) -> Option<Result<Self, String>> {
        let json = match path.extension()?.to_str()? {
            "json" => true,
            "yaml" | "yml" => false,
            _ => return None,
        };
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        Some(read.and_then(|text| match json {
            true => serde_json::from_str(&text).map_err(|error| error.to_string()),
            false => serde_saphyr::from_str(&text).map_err(|error| error.to_string()),
        }))
    }
}
