//! Images: a content-addressed store, and what people do with it.
//!
//! ## Design notes
//! - `<root>/blobs/sha256/<hex>` holds configurations; `<root>/layers/<hex>/` an unpacked layer, named after the digest
//!   of its uncompressed tar and shared by all images that have it, with the recipe that gives this tar back byte for
//!   byte; `<root>/catalog.json` the images and the references to them. The catalog is replaced atomically and is the
//!   only commit point: whatever it does not name is garbage, which `open` removes.
//! - Names (`resolve`, `list`, ...) are answered from memory and never block. Methods that write are `async` and do
//!   their work on blocking threads.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use shoal_kit::clock::Clock;
use shoal_proto::error::Failure;
use shoal_proto::time::Timestamp;

use crate::model::{
    Filters, ImageConfig, ImageDeleteItem, ImageHistoryItem, ImageInspect, ImageListOptions, ImageSummary,
    ImagesPruneReport, ProgressMessage,
};

pub mod digest;
pub mod layer;
pub mod tar;

pub use digest::Digest;

/// Bytes on their way in or out.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Progress of a load; the last message tells a failure.
pub type ProgressStream = Pin<Box<dyn Stream<Item = ProgressMessage> + Send>>;

/// Where the store is and what it needs from outside.
#[derive(Debug, Clone)]
pub struct ImageStoreOptions {
    /// `<data-root>/image`.
    pub root: PathBuf,
    /// Time of imports and tags.
    pub clock: Arc<dyn Clock>,
}

/// A container that was made of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// Full id.
    pub container_id: String,
    /// Does it run?
    pub running: bool,
}

/// Knows which containers use an image.
pub trait ImageUsers: Send + Sync {
    /// Containers made of this image.
    fn users(&self, image: &Digest) -> Vec<ImageUser>;
}

/// Something happened to an image: `import`, `load`, `save`, `tag`, `untag`, `delete`, `prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEvent {
    /// What happened.
    pub action: &'static str,
    /// `sha256:...`, or the name where Docker gives the name.
    pub id: String,
    /// Labels of the image, and `name`.
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// Hears what happens to images. Called in order, must not block.
pub trait ImageObserver: Send + Sync {
    /// It happened.
    fn image_event(&self, event: ImageEvent);
}

/// An image as containers need it.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// Digest of the configuration.
    pub id: Digest,
    /// Defaults of containers.
    pub config: ImageConfig,
    /// Digests of the uncompressed layers, the lowest first.
    pub layers: Vec<Digest>,
    /// Processor architecture, in Go's words.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// When it was made.
    pub created: Timestamp,
}

/// What an import is to become.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Repository; empty for an image without name.
    pub repository: String,
    /// Tag; empty is `latest`.
    pub tag: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// Comment of the image; empty is `Imported from -`.
    pub message: String,
    /// `os[/architecture[/variant]]`; empty is this machine's.
    pub platform: String,
}

/// How an image is removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageRemoveOptions {
    /// Also when stopped containers use it or several names refer to it.
    pub force: bool,
    /// Keep untagged parents?
    pub no_prune: bool,
}

/// The images of this node. A cheap clone.
#[derive(Clone)]
pub struct ImageStore {
    options: Arc<ImageStoreOptions>,
}

impl ImageStore {
    /// Opens the store, removes what an interrupted operation left.
    ///
    /// # Errors
    /// When the directory cannot be made or its catalog not be read.
    pub fn open(options: ImageStoreOptions) -> Result<Self, Failure> {
        Ok(Self { options: Arc::new(options) })
    }

    /// Says who knows the containers; until then no image counts as used.
    pub fn set_users(&self, _users: Arc<dyn ImageUsers>) {}

    /// Says who hears of events.
    pub fn set_observer(&self, _observer: Arc<dyn ImageObserver>) {}

    /// Finds an image by name, name and digest, id or the start of an id.
    ///
    /// # Errors
    /// `No such image: x`, or an invalid name.
    pub fn resolve(&self, _name: &str) -> Result<Arc<ImageRecord>, Failure> {
        Err(self.not_yet())
    }

    /// Makes an image of a root file system in a tar.
    ///
    /// # Errors
    /// When the archive, a change or the name is invalid, or the disk fails.
    pub async fn import(&self, _source: ByteStream, _request: ImportRequest) -> Result<Digest, Failure> {
        Err(self.not_yet())
    }

    /// Loads the images of an archive: of `docker save`, or an OCI image layout.
    pub fn load(&self, _source: ByteStream, _quiet: bool) -> ProgressStream {
        Box::pin(futures::stream::iter([ProgressMessage::failed(self.not_yet().message)]))
    }

    /// Writes images with their names to an archive that is both a Docker archive and an OCI image layout.
    ///
    /// # Errors
    /// When a name is invalid or unknown.
    pub fn save(&self, _names: &[String]) -> Result<ByteStream, Failure> {
        Err(self.not_yet())
    }

    /// Gives an image one name more.
    ///
    /// # Errors
    /// When the image does not exist or the name is invalid.
    pub async fn tag(&self, _source: &str, _repository: &str, _tag: &str) -> Result<(), Failure> {
        Err(self.not_yet())
    }

    /// Removes a name, and the image with its last name.
    ///
    /// # Errors
    /// When it does not exist or is in use.
    pub async fn remove(&self, _name: &str, _options: ImageRemoveOptions) -> Result<Vec<ImageDeleteItem>, Failure> {
        Err(self.not_yet())
    }

    /// Lists images, the newest first.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub fn list(&self, _options: &ImageListOptions) -> Result<Vec<ImageSummary>, Failure> {
        Err(self.not_yet())
    }

    /// Shows one image.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn inspect(&self, _name: &str) -> Result<ImageInspect, Failure> {
        Err(self.not_yet())
    }

    /// Shows how an image was made, the newest step first.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn history(&self, _name: &str) -> Result<Vec<ImageHistoryItem>, Failure> {
        Err(self.not_yet())
    }

    /// Removes images that nobody uses: those without name, or with filter `dangling=false` all.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub async fn prune(&self, _filters: &Filters) -> Result<ImagesPruneReport, Failure> {
        Err(self.not_yet())
    }

    /// The root file systems of containers.
    pub fn snapshots(&self) -> crate::snapshot::Snapshots {
        crate::snapshot::Snapshots::new(self.options.root.join("snapshots"))
    }

    fn not_yet(&self) -> Failure {
        Failure::unavailable(format!("the image store at {} is not ready", self.options.root.display()))
    }
}
