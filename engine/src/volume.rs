//! Volumes of the local driver.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_proto::error::Failure;

use crate::model::{Filters, Volume, VolumeCreate, VolumeList, VolumesPruneReport};

/// Where the volumes are and what the store needs from outside.
#[derive(Debug, Clone)]
pub struct VolumeStoreOptions {
    /// `<data-root>/volumes`.
    pub root: PathBuf,
    /// Time of creation.
    pub clock: Arc<dyn Clock>,
    /// Names of anonymous volumes.
    pub entropy: Entropy,
}

/// Knows which containers, running or not, refer to a volume.
pub trait VolumeUsers: Send + Sync {
    /// Ids of containers.
    fn users(&self, volume: &str) -> Vec<String>;
}

/// The volumes of this node. A cheap clone.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    options: Arc<VolumeStoreOptions>,
}

impl VolumeStore {
    /// Opens the store, removes what an interrupted operation left.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(options: VolumeStoreOptions) -> Result<Self, Failure> {
        Ok(Self { options: Arc::new(options) })
    }

    /// Says who knows the containers; until then no volume counts as used.
    pub fn set_users(&self, _users: Arc<dyn VolumeUsers>) {}

    /// Makes a volume; one of this name that exists is given back as it is.
    ///
    /// # Errors
    /// When the name, the driver or an option is invalid, or the disk fails.
    pub fn create(&self, _request: VolumeCreate) -> Result<Volume, Failure> {
        Err(self.not_yet())
    }

    /// Shows one volume.
    ///
    /// # Errors
    /// `get x: no such volume`.
    pub fn inspect(&self, _name: &str) -> Result<Volume, Failure> {
        Err(self.not_yet())
    }

    /// Lists volumes by name. Filters: `name`, `label`, `dangling`, `driver`.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub fn list(&self, _filters: &Filters) -> Result<VolumeList, Failure> {
        Err(self.not_yet())
    }

    /// Removes a volume with its data. With `force` a missing one is fine.
    ///
    /// # Errors
    /// When a container refers to it.
    pub fn remove(&self, _name: &str, _force: bool) -> Result<(), Failure> {
        Err(self.not_yet())
    }

    /// Removes volumes that no container refers to: the anonymous ones, with filter `all=true` all.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub fn prune(&self, _filters: &Filters) -> Result<VolumesPruneReport, Failure> {
        Err(self.not_yet())
    }

    /// Makes the volume usable for a container and gives its directory; mounts it first where its options say so.
    /// Idempotent: say it again for each running container after a restart.
    ///
    /// # Errors
    /// When there is no such volume or the mount fails.
    pub fn mount(&self, _name: &str, _container: &str) -> Result<PathBuf, Failure> {
        Err(self.not_yet())
    }

    /// The container uses it no more; the last one unmounts it.
    ///
    /// # Errors
    /// When the unmount fails.
    pub fn unmount(&self, _name: &str, _container: &str) -> Result<(), Failure> {
        Err(self.not_yet())
    }

    /// Opens a directory or file inside a volume; links in it cannot lead out.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open_subpath(&self, _name: &str, _subpath: &Path) -> Result<OwnedFd, Failure> {
        Err(self.not_yet())
    }

    fn not_yet(&self) -> Failure {
        Failure::unavailable(format!("the volumes at {} are not ready", self.options.root.display()))
    }
}
