//! What is on disk of one container: `<data-root>/containers/<id>/config.json`.
//!
//! ## Design notes
//! One file, replaced by rename, so a crash of the daemon leaves the old or the new one. It is not synced: after a power
//! cut a container may be as it was some seconds ago, or be missing when it was just made. No promise hangs on it: the
//! cluster's desired state is in the replicated store, and an unreadable record is set aside, not guessed at. What
//! would break a promise, the exit status of a process, is synced by the shim.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shoal_proto::id::NetworkId;
use shoal_proto::time::Timestamp;

use super::lifecycle::{State, Wishes};
use crate::image::Digest;
use crate::model::{ContainerConfig, EndpointSettings, HostConfig, InternalOptions, MountPoint};

/// File name of the record in the container's folder.
pub(crate) const RECORD_FILE: &str = "config.json";

/// One container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Id: 64 hexadecimal digits.
    pub id: String,
    /// Name, without the slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Image it was made of.
    pub image: Digest,
    /// That image's layers, the lowest first.
    pub layers: Vec<Digest>,
    /// Program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Configuration, merged with the image's.
    pub config: ContainerConfig,
    /// Host configuration with defaults filled in.
    pub host_config: HostConfig,
    /// Networks by name; what was asked for, and while it runs what it got.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Hardware addresses that were asked for, by network.
    #[serde(default)]
    pub asked_macs: BTreeMap<String, String>,
    /// Cluster networks that it joined by itself, by name, and where it was on them last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<String, ClusterPlace>,
    /// Ports published while it runs.
    #[serde(default)]
    pub ports: BTreeMap<String, Option<Vec<crate::model::PortBinding>>>,
    /// Mounts, in the order in which they are made.
    pub mounts: Vec<MountRecord>,
    /// What the executor asked for.
    #[serde(default)]
    pub internal: InternalOptions,
    /// Files in the container's memory file system, without their contents.
    #[serde(default)]
    pub files: Vec<PlacedFile>,
    /// Its life.
    pub state: State,
}

/// A place on a cluster network that a container had last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPlace {
    /// The network.
    pub network: NetworkId,
    /// The address, to be asked for again.
    pub addr: Ipv4Addr,
}

/// A secret or config: where its contents are kept and where they appear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFile {
    /// Name in the memory file system.
    pub name: String,
    /// Absolute path in the container.
    pub target: String,
}

/// What a mount takes its contents from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// A memory file system.
    Tmpfs,
    /// Another image.
    Image,
}

impl MountKind {
    /// Docker's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
            Self::Image => "image",
        }
    }
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Kind.
    pub kind: MountKind,
    /// Path on the host: of a volume its directory, once it exists.
    pub source: String,
    /// Volume; empty for the other kinds.
    #[serde(default)]
    pub volume: String,
    /// Was the volume made for this container, without a name?
    #[serde(default)]
    pub anonymous: bool,
    /// Absolute path in the container.
    pub destination: String,
    /// Driver of the volume.
    #[serde(default)]
    pub driver: String,
    /// Options as given.
    #[serde(default)]
    pub mode: String,
    /// Writable?
    pub writable: bool,
    /// Propagation.
    #[serde(default)]
    pub propagation: String,
    /// Without the mounts below the source?
    #[serde(default)]
    pub non_recursive: bool,
    /// When it is read-only: can what is mounted below it be written?
    #[serde(default)]
    pub writable_below: bool,
    /// Make a missing source?
    #[serde(default)]
    pub create_source: bool,
    /// Do not fill an empty volume?
    #[serde(default)]
    pub no_copy: bool,
    /// A folder in the volume or image.
    #[serde(default)]
    pub subpath: String,
    /// Options of a memory file system.
    #[serde(default)]
    pub tmpfs_options: Vec<String>,
    /// The image that is mounted.
    #[serde(default)]
    pub image: Option<Digest>,
    /// Its layers, the lowest first.
    #[serde(default)]
    pub layers: Vec<Digest>,
    /// The snapshot of it.
    #[serde(default)]
    pub snapshot: String,
    /// Labels and driver options of a volume that does not exist yet.
    #[serde(default)]
    pub volume_labels: Option<BTreeMap<String, String>>,
    /// Driver options of a volume that does not exist yet.
    #[serde(default)]
    pub volume_options: Option<BTreeMap<String, String>>,
}

impl MountRecord {
    /// A mount of this kind with nothing special.
    pub fn new(kind: MountKind, source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self {
            kind,
            source: source.into(),
            volume: String::new(),
            anonymous: false,
            destination: destination.into(),
            driver: String::new(),
            mode: String::new(),
            writable: true,
            propagation: String::new(),
            non_recursive: false,
            writable_below: false,
            create_source: false,
            no_copy: false,
            subpath: String::new(),
            tmpfs_options: Vec::new(),
            image: None,
            layers: Vec::new(),
            snapshot: String::new(),
            volume_labels: None,
            volume_options: None,
        }
    }

    /// As `inspect` shows it.
    pub fn point(&self) -> MountPoint {
        MountPoint {
            kind: self.kind.as_str().to_owned(),
            name: self.volume.clone(),
            source: self.source.clone(),
            destination: self.destination.clone(),
            driver: self.driver.clone(),
            mode: self.mode.clone(),
            rw: self.writable,
            propagation: self.propagation.clone(),
        }
    }
}

impl Record {
    /// What the user wants when it ends.
    pub fn wishes(&self) -> Wishes<'_> {
        Wishes { restart: &self.host_config.restart_policy, auto_remove: self.host_config.auto_remove }
    }

    /// Image as the user named it, or its id.
    pub fn image_name(&self) -> String {
        if self.config.image.is_empty() { self.image.to_string() } else { self.config.image.clone() }
    }

    /// Attributes of its events: labels, `image` and `name`.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.config.labels.clone();
        attributes.insert("image".to_owned(), self.image_name());
        attributes.insert("name".to_owned(), self.name.clone());
        attributes
    }

    /// Writes it into the container's folder.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        write_atomically(&folder.join(RECORD_FILE), &bytes, 0o600)
    }

    /// Reads it from the container's folder; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is not a record.
    pub fn load(folder: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(folder.join(RECORD_FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Replaces a file by rename. Writers of one file must take turns.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(id: &str, name: &str) -> Record {
        Record {
            id: id.to_owned(),
            name: name.to_owned(),
            created: Timestamp::from_seconds(1_700_000_000),
            image: format!("sha256:{}", "a".repeat(64)).parse().expect("digest"),
            layers: Vec::new(),
            path: "sleep".to_owned(),
            args: vec!["100".to_owned()],
            config: ContainerConfig { image: "bb:latest".to_owned(), ..ContainerConfig::default() },
            host_config: HostConfig::default(),
            networks: BTreeMap::new(),
            asked_macs: BTreeMap::new(),
            places: BTreeMap::new(),
            ports: BTreeMap::new(),
            mounts: vec![MountRecord::new(MountKind::Bind, "/a", "/b")],
            internal: InternalOptions::default(),
            files: Vec::new(),
            state: State::default(),
        }
    }

    #[test]
    fn records_round_trip_and_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Record::load(dir.path()).unwrap().is_none());
        let mut record = record(&"1".repeat(64), "web");
        record.save(dir.path()).unwrap();
        record.state.exit_code = 3;
        record.save(dir.path()).unwrap();
        let read = Record::load(dir.path()).unwrap().unwrap();
        assert_eq!((read.state.exit_code, read.name.as_str(), read.mounts), (3, "web", record.mounts));
        std::fs::write(dir.path().join(RECORD_FILE), "{").unwrap();
        assert!(Record::load(dir.path()).is_err());
    }
}
