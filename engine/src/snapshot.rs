//! Root file systems of containers: the layers of an image below, a directory for the container's changes above.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_proto::error::Failure;

use crate::image::Digest;

/// How the root file system of a container is put together. Goes to the shim as JSON, which mounts it in its own mount
/// namespace: nothing of it is ever mounted on the host, so nothing of it can be left there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsMount {
    /// Where it belongs: an empty directory, or with [`RootfsKind::Directory`] the root itself.
    pub target: PathBuf,
    /// What it consists of.
    pub kind: RootfsKind,
}

/// The ways to put a root together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum RootfsKind {
    /// An overlay of layers.
    Overlay {
        /// Directory that the short names of the layers are in.
        layers: PathBuf,
        /// Short names, the uppermost first.
        lower: Vec<String>,
        /// Directory for changes.
        upper: PathBuf,
        /// Directory for the kernel's own use.
        work: PathBuf,
        /// Leave out every sync? For containers that do not outlive a power cut.
        volatile: bool,
    },
    /// A directory with a copy of all layers.
    Directory,
}

/// What a snapshot is to be like.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrepareOptions {
    /// The container is removed when it ends (`--rm`): its changes need not survive a power cut.
    pub volatile: bool,
}

/// A path that a container changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Change {
    /// Absolute in the container.
    pub path: String,
    /// 0 modified, 1 added, 2 deleted.
    pub kind: u8,
}

/// What a container's changes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotUsage {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories and so on.
    pub inodes: u64,
}

/// The root file systems of this node. A cheap clone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
}

impl Snapshots {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes a root file system for a container. Layers are the image's, the lowest first.
    ///
    /// # Errors
    /// When a layer is missing or the disk fails.
    pub fn prepare(
        &self,
        _container: &str,
        _layers: &[Digest],
        _options: PrepareOptions,
    ) -> Result<RootfsMount, Failure> {
        Err(self.not_yet())
    }

    /// The description that `prepare` gave.
    ///
    /// # Errors
    /// When there is no snapshot for this container.
    pub fn describe(&self, _container: &str) -> Result<RootfsMount, Failure> {
        Err(self.not_yet())
    }

    /// Opens the root of a container that is NOT running; of a running one use `/proc/<pid>/root`. The mount is
    /// attached nowhere and ends with the handle.
    ///
    /// # Errors
    /// When there is no snapshot for this container or the mount fails.
    pub fn open_root(&self, _container: &str) -> Result<std::os::fd::OwnedFd, Failure> {
        Err(self.not_yet())
    }

    /// Removes it. Missing is fine.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove(&self, _container: &str) -> Result<(), Failure> {
        Err(self.not_yet())
    }

    /// What the container changed, by path.
    ///
    /// # Errors
    /// When there is no snapshot for this container or the disk fails.
    pub fn diff(&self, _container: &str) -> Result<Vec<Change>, Failure> {
        Err(self.not_yet())
    }

    /// What its changes take.
    ///
    /// # Errors
    /// When there is no snapshot for this container or the disk fails.
    pub fn usage(&self, _container: &str) -> Result<SnapshotUsage, Failure> {
        Err(self.not_yet())
    }

    /// Driver name and paths, for `inspect`.
    pub fn graph_driver(&self, _container: &str) -> crate::model::GraphDriver {
        crate::model::GraphDriver::default()
    }

    /// Copies what the image has at `path` into the empty directory of a volume, with its owner and mode.
    ///
    /// # Errors
    /// When there is no snapshot for this container or the disk fails.
    pub fn copy_up(&self, _container: &str, _path: &Path, _volume: &Path) -> Result<(), Failure> {
        Err(self.not_yet())
    }

    fn not_yet(&self) -> Failure {
        Failure::unavailable(format!("the snapshots at {} are not ready", self.root.display()))
    }
}
