//! Images: a content-addressed store, and what people do with it.
//!
//! ## Design notes
//! - `<root>/blobs/sha256/<hex>` holds configurations; `<root>/layers/<hex>/` an unpacked layer, named after the digest
//!   of its uncompressed tar and shared by all images that have it, with the recipe that gives this tar back byte for
//!   byte; `<root>/catalog.json` the images and the references to them. The catalog is replaced atomically and is the
//!   only commit point: whatever it does not name is garbage, which `open` removes.
//! - No file of a layer is synced by itself, and nobody waits for the disk: the catalog says which layers are not known
//!   to be on disk, and a thread syncs the file system once and strikes them out. If the machine stops before that,
//!   `open` reads these layers whole, and those that are not what their digest says are dropped with their images.
//! - Names (`resolve`, `list`, ...) are answered from memory and never block. Methods that write are `async` and do
//!   their work on blocking threads.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::Stream;
use shoal_engine_sys::fs::Directory;
use shoal_kit::clock::Clock;
use shoal_proto::error::{ErrorKind, Failure, chain};
use shoal_proto::time::Timestamp;

use crate::model::{
    Filters, ImageConfig, ImageDeleteItem, ImageHistoryItem, ImageInspect, ImageListOptions, ImageSummary,
    ImagesPruneReport, ProgressMessage,
};
use crate::snapshot::{SnapshotDriver, Snapshots};

mod bridge;
mod catalog;
mod changes;
pub mod digest;
pub mod document;
mod import;
pub mod layer;
mod load;
mod oci;
mod prune;
pub mod reference;
mod remove;
mod save;
mod show;
pub mod tar;

use catalog::{Catalog, ImageEntry};
use document::{Document, LONGEST_DOCUMENT};
use layer::apply::ApplyError;
use layer::stream::Limits;
use layer::{LayerError, LayerPin, LayerStore};
use reference::Reference;

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
    /// `sha256:...`; empty for `prune`.
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

/// The images of this node. A cheap clone.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    options: ImageStoreOptions,
    blobs: Directory,
    layers: Arc<LayerStore>,
    snapshots: Snapshots,
    catalog: ArcSwap<Catalog>,
    /// Held by whoever changes the catalog.
    writer: Mutex<()>,
    /// Is a thread at work that syncs?
    syncing: AtomicBool,
    users: RwLock<Option<Arc<dyn ImageUsers>>>,
    observer: RwLock<Option<Arc<dyn ImageObserver>>>,
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore").field("root", &self.inner.options.root).finish_non_exhaustive()
    }
}

fn invalid(error: impl std::error::Error + 'static) -> Failure {
    Failure::invalid(chain(&error))
}

impl From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        let kind = match &error {
            LayerError::Missing(_) => ErrorKind::NotFound,
            // Also a source that fails: the archive cannot be read, and it came from outside.
            LayerError::Digest { .. } | LayerError::Apply(ApplyError::Tar(_) | ApplyError::Path(_)) => {
                ErrorKind::InvalidArgument
            }
            LayerError::Apply(ApplyError::HardLink { .. } | ApplyError::Limit(_)) => ErrorKind::InvalidArgument,
            LayerError::Apply(_) | LayerError::Io { .. } => ErrorKind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Internal, format!("{what}: {}", chain(error)))
}

impl Inner {
    fn root(&self) -> &Directory {
        self.layers.root()
    }

    fn users(&self, image: &Digest) -> Vec<ImageUser> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        users.as_ref().map(|users| users.users(image)).unwrap_or_default()
    }

    fn event(&self, action: &'static str, image: Option<&ImageEntry>, name: &str) {
        let observer = self.observer.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(observer), Some(image)) = (observer.as_ref(), image) {
            let mut attributes = image.record.config.labels.clone().unwrap_or_default();
            attributes.insert("name".to_owned(), name.to_owned());
            observer.image_event(ImageEvent { action, id: image.id().to_string(), attributes });
        }
    }

    /// Changes the catalog: on disk first, then for everybody. When `change` or the disk fails, nothing has changed.
    fn change<T>(&self, change: impl FnOnce(&mut Catalog) -> Result<T, Failure>) -> Result<T, Failure> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut catalog = Catalog::clone(&self.catalog.load());
        let result = change(&mut catalog)?;
        catalog.write(self.root()).map_err(|error| failed("cannot write the catalog of images", &error))?;
        self.catalog.store(Arc::new(catalog));
        Ok(result)
    }

    /// Puts a document where its digest says. Not synced: whoever reads it checks its digest.
    fn write_blob(&self, bytes: &[u8]) -> Result<Digest, Failure> {
        use std::io::Write;

        let digest = Digest::of(bytes);
        let name = digest.hex();
        let temporary = format!(".new-{name}");
        let (name, temporary) = (OsStr::new(&name), OsStr::new(&temporary));
        let write = || {
            if self.read_blob(&digest).is_ok() {
                return Ok(());
            }
            self.blobs.remove_tree(temporary)?;
            self.blobs.create_file(temporary, 0o600)?.write_all(bytes)?;
            self.blobs.rename(temporary, &self.blobs, name)
        };
        write().map_err(|error| failed("cannot write an image's configuration", &error))?;
        Ok(digest)
    }

    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, Failure> {
        read_blob(&self.blobs, digest)
    }

    /// Adds images with their names in one step. Layers are counted for the images that are new.
    fn add(self: &Arc<Self>, images: Vec<NewImage>, now: Timestamp) -> Result<Vec<Arc<ImageEntry>>, Failure> {
        let (added, pins) = self.change(|catalog| {
            let mut added = Vec::new();
            let mut kept = Vec::new();
            for image in images {
                let id = image.id;
                let entry = match catalog.images.get(&id) {
                    Some(existing) => Arc::new(ImageEntry {
                        record: Arc::clone(&existing.record),
                        document: existing.document.clone(),
                        parent: existing.parent.or(image.parent),
                        last_tag: if image.names.is_empty() { existing.last_tag } else { now },
                    }),
                    None => {
                        catalog.unsynced.extend(image.document.layers());
                        kept.extend(image.pins);
                        let tagged = if image.names.is_empty() { Timestamp::ZERO } else { now };
                        Arc::new(ImageEntry::new(id, image.document, image.parent, tagged))
                    }
                };
                catalog.images.insert(id, Arc::clone(&entry));
                catalog.references.extend(image.names.into_iter().map(|name| (name, id)));
                added.push(entry);
            }
            Ok((added, kept))
        })?;
        pins.into_iter().for_each(LayerPin::keep);
        self.sync_later();
        Ok(added)
    }

    /// Has the file system synced by a thread, and what the catalog says is not synced struck out.
    fn sync_later(self: &Arc<Self>) {
        if self.catalog.load().unsynced.is_empty() || self.syncing.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("image-sync".to_owned()).spawn(move || inner.sync_all());
        if let Err(error) = spawned {
            // The next image tries again.
            self.syncing.store(false, Ordering::Release);
            tracing::warn!(%error, "cannot start a thread that syncs images");
        }
    }

    fn sync_all(&self) {
        loop {
            let unsynced = self.catalog.load().unsynced.clone();
            let synced = if unsynced.is_empty() {
                Ok(())
            } else {
                self.layers.sync().map_err(Failure::from).and_then(|()| {
                    self.change(|catalog| {
                        catalog.unsynced = catalog.unsynced.difference(&unsynced).copied().collect();
                        Ok(())
                    })
                })
            };
            self.syncing.store(false, Ordering::Release);
            if let Err(failure) = synced {
                tracing::error!(%failure, "cannot sync images");
                return;
            }
            // Something may have come between the look and the flag.
            if self.catalog.load().unsynced.is_empty() || self.syncing.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}

/// An image that is about to be added; its blob is written, its layers are held.
struct NewImage {
    id: Digest,
    document: Document,
    parent: Option<Digest>,
    pins: Vec<LayerPin>,
    names: Vec<Reference>,
}

fn read_blob(blobs: &Directory, digest: &Digest) -> Result<Vec<u8>, Failure> {
    use std::io::Read;

    let read = || {
        let mut bytes = Vec::new();
        let file = blobs.open_file(Path::new(&digest.hex()))?;
        file.take(LONGEST_DOCUMENT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| failed(&format!("cannot read the blob {digest}"), &error))?;
    let actual = Digest::of(&bytes);
    if actual == *digest {
        return Ok(bytes);
    }
    Err(Failure::new(ErrorKind::Internal, format!("the blob {digest} is damaged: its content has the digest {actual}")))
}

/// Runs blocking work on a thread for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Failure::internal(&error)))
}

impl ImageStore {
    /// Opens the store, removes what an interrupted operation left.
    ///
    /// # Errors
    /// When the directory cannot be made or its catalog not be read.
    pub fn open(options: ImageStoreOptions) -> Result<Self, Failure> {
        Self::open_with(options, Limits::default(), None)
    }

    /// As [`Self::open`], with other limits than the default ones and with a given snapshot driver.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        options: ImageStoreOptions,
        limits: Limits,
        driver: Option<SnapshotDriver>,
    ) -> Result<Self, Failure> {
        let layers = LayerStore::open(&options.root, limits)?;
        let blobs = layers
            .root()
            .make_path(Path::new("blobs/sha256"), 0o700)
            .map_err(|error| failed("cannot open the blobs", &error))?;
        let catalog = Catalog::read(
            layers.root(),
            |layer| layers.check(layer),
            |id| {
                let document = Document::parse(&read_blob(&blobs, id)?).map_err(invalid)?;
                match document.layers().iter().find(|layer| layers.record(layer).is_none()) {
                    Some(missing) => Err(LayerError::Missing(*missing).into()),
                    None => Ok(document),
                }
            },
        )
        .map_err(|error| failed("cannot read the catalog of images", &error))?;
        for layer in catalog.images.values().flat_map(|image| &image.record.layers) {
            if let Some(pin) = layers.pin(layer) {
                pin.keep();
            }
        }
        let snapshots = Snapshots::open(&options.root, Arc::clone(&layers), driver)?;
        layers.collect();
        remove_unnamed(&blobs, &catalog).map_err(|error| failed("cannot clean the blobs", &error))?;
        let inner = Inner {
            options,
            blobs,
            layers,
            snapshots,
            catalog: ArcSwap::from_pointee(catalog),
            writer: Mutex::default(),
            syncing: AtomicBool::new(false),
            users: RwLock::default(),
            observer: RwLock::default(),
        };
        let inner = Arc::new(inner);
        inner.sync_later();
        Ok(Self { inner })
    }

    /// Says who knows the containers; until then no image counts as used.
    pub fn set_users(&self, users: Arc<dyn ImageUsers>) {
        *self.inner.users.write().unwrap_or_else(PoisonError::into_inner) = Some(users);
    }

    /// Says who hears of events.
    pub fn set_observer(&self, observer: Arc<dyn ImageObserver>) {
        *self.inner.observer.write().unwrap_or_else(PoisonError::into_inner) = Some(observer);
    }

    /// Finds an image by name, name and digest, id or the start of an id.
    ///
    /// # Errors
    /// `No such image: x`, or an invalid name.
    pub fn resolve(&self, name: &str) -> Result<Arc<ImageRecord>, Failure> {
        Ok(Arc::clone(&self.inner.catalog.load().find(name)?.record))
    }

    /// Names of an image, as `docker ps` shows them.
    pub fn names_of(&self, image: &Digest) -> Vec<String> {
        self.inner.catalog.load().references_of(image).into_iter().map(Reference::familiar).collect()
    }

    /// Images there are.
    pub fn count(&self) -> usize {
        self.inner.catalog.load().images.len()
    }

    /// Is all that was added on disk? Until then an image may be gone after a power cut, but never damaged.
    pub fn is_synced(&self) -> bool {
        self.inner.catalog.load().unsynced.is_empty()
    }

    /// What all layers take.
    pub fn layers_usage(&self) -> LayersUsage {
        let layers = self.inner.layers.all();
        LayersUsage { count: layers.len(), bytes: layers.iter().map(|layer| layer.bytes).sum() }
    }

    /// Makes an image of a root file system in a tar.
    ///
    /// # Errors
    /// When the archive, a change or the name is invalid, or the disk fails.
    pub async fn import(&self, source: ByteStream, request: ImportRequest) -> Result<Digest, Failure> {
        let (inner, source) = (Arc::clone(&self.inner), bridge::Source::new(source));
        blocking(move || import::import(&inner, source, &request)).await
    }

    /// Loads the images of an archive: of `docker save`, or an OCI image layout.
    pub fn load(&self, source: ByteStream, quiet: bool) -> ProgressStream {
        let (inner, source) = (Arc::clone(&self.inner), bridge::Source::new(source));
        let (sender, receiver) = tokio::sync::mpsc::channel(bridge::QUEUE);
        tokio::task::spawn_blocking(move || {
            let reporter = load::Reporter::new(sender, quiet);
            if let Err(failure) = load::load(&inner, source, &reporter) {
                reporter.line(ProgressMessage::failed(failure.message));
            }
        });
        Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
    }

    /// Writes images with their names to an archive that is both a Docker archive and an OCI image layout.
    ///
    /// # Errors
    /// When a name is invalid or unknown.
    pub fn save(&self, names: &[String]) -> Result<ByteStream, Failure> {
        let selection = save::Selection::new(&self.inner, names)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(bridge::QUEUE);
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || {
            let mut output = bridge::Sink::new(sender);
            if let Err(failure) = selection.write(&inner, &mut output) {
                output.fail(io::Error::other(failure));
            }
        });
        Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver)))
    }

    /// Gives an image one name more.
    ///
    /// # Errors
    /// When the image does not exist or the name is invalid.
    pub async fn tag(&self, source: &str, repository: &str, tag: &str) -> Result<(), Failure> {
        let inner = Arc::clone(&self.inner);
        let (source, repository, tag) = (source.to_owned(), repository.to_owned(), tag.to_owned());
        blocking(move || import::tag(&inner, &source, &repository, &tag)).await
    }

    /// Removes a name, and the image with its last name.
    ///
    /// # Errors
    /// When it does not exist or is in use.
    pub async fn remove(&self, name: &str, options: ImageRemoveOptions) -> Result<Vec<ImageDeleteItem>, Failure> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        blocking(move || prune::remove(&inner, &name, options).map(|removed| removed.items)).await
    }

    /// Lists images, the newest first. Images without name have empty lists of names.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub fn list(&self, options: &ImageListOptions) -> Result<Vec<ImageSummary>, Failure> {
        show::list(&self.inner.catalog.load(), &self.inner.layers, options, self.inner.options.clock.now())
    }

    /// Shows one image.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn inspect(&self, name: &str) -> Result<ImageInspect, Failure> {
        let catalog = self.inner.catalog.load();
        let driver = self.inner.snapshots.driver().name();
        Ok(show::inspect(&catalog, &self.inner.layers, catalog.find(name)?, driver))
    }

    /// Shows how an image was made, the newest step first.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn history(&self, name: &str) -> Result<Vec<ImageHistoryItem>, Failure> {
        let catalog = self.inner.catalog.load();
        show::history(&catalog, &self.inner.layers, catalog.find(name)?)
    }

    /// Removes images that nobody uses: those without name, or with filter `dangling=false` all.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub async fn prune(&self, filters: &Filters) -> Result<ImagesPruneReport, Failure> {
        let (inner, filters) = (Arc::clone(&self.inner), filters.clone());
        blocking(move || prune::prune(&inner, &filters)).await
    }

    /// The root file systems of containers.
    pub fn snapshots(&self) -> Snapshots {
        self.inner.snapshots.clone()
    }
}

/// Removes blobs that no image of the catalog has.
fn remove_unnamed(blobs: &Directory, catalog: &Catalog) -> io::Result<()> {
    for entry in blobs.entries()? {
        let digest = entry.name.to_str().and_then(Digest::from_hex);
        if !digest.is_some_and(|digest| catalog.images.contains_key(&digest)) {
            blobs.remove_tree(&entry.name)?;
        }
    }
    Ok(())
}
