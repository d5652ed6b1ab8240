//! What goes in and out of the image store.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use shoal_kit::clock::Clock;
use shoal_proto::time::Timestamp;

use super::digest::Digest;
use crate::model::{ImageConfig, ProgressMessage};

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

/// Something happened to an image: `import`, `load`, `pull`, `save`, `tag`, `untag`, `delete`, `prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEvent {
    /// What happened.
    pub action: &'static str,
    /// `sha256:...`; the name for `pull`, empty for `prune`.
    pub id: String,
    /// Labels of the image, and `name`.
    pub attributes: BTreeMap<String, String>,
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

/// What layers take on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayersUsage {
    /// Layers.
    pub count: usize,
    /// Bytes of all files, shared ones once.
    pub bytes: u64,
}
