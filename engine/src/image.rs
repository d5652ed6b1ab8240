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

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use shoal_proto::error::{ErrorKind, Failure, chain};

use crate::model::{
    Filters, ImageConfig, ImageDeleteItem, ImageHistoryItem, ImageInspect, ImageListOptions, ImageSummary,
    ImagesPruneReport, ProgressMessage,
};
use crate::snapshot::{SnapshotDriver, Snapshots};

pub(crate) mod bridge;
mod catalog;
mod changes;
pub(crate) mod commit;
pub mod digest;
pub mod document;
mod import;
mod inner;
pub mod layer;
mod load;
mod oci;
mod prune;
mod pull;
pub mod reference;
mod remove;
mod save;
mod show;
pub mod tar;
mod types;

use catalog::Catalog;
use document::Document;
use inner::{Inner, NewImage, read_blob, remove_unnamed};
use layer::apply::ApplyError;
use layer::stream::Limits;
use layer::{LayerError, LayerStore};
use reference::Reference;

pub use digest::Digest;
pub use types::{
    ByteStream, ImageEvent, ImageObserver, ImageRecord, ImageRemoveOptions, ImageStoreOptions, ImageUser, ImageUsers,
    ImportRequest, LayersUsage, ProgressStream,
};

/// The images of this node. A cheap clone.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
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

    /// A pull of an image that is here: there is nothing to do but to say so.
    ///
    /// # Errors
    /// When there is no image of this name, or it is no name.
    pub fn pull_present(&self, name: &str) -> Result<Vec<ProgressMessage>, Failure> {
        pull::up_to_date(&self.inner, name)
    }

    /// Makes an image of a root file system in a tar.
    ///
    /// # Errors
    /// When the archive, a change or the name is invalid, or the disk fails.
    pub async fn import(&self, source: ByteStream, request: ImportRequest) -> Result<Digest, Failure> {
        let (inner, source) = (Arc::clone(&self.inner), bridge::Source::new(source));
        blocking(move || import::import(&inner, source, &request)).await
    }

    /// Checks what is asked of a commit, and carries its instructions out.
    ///
    /// # Errors
    /// When the name or an instruction is invalid.
    pub(crate) fn check_commit(
        &self,
        repository: &str,
        tag: &str,
        config: &mut ImageConfig,
        changes: &[String],
    ) -> Result<(), Failure> {
        commit::check(repository, tag, config, changes)
    }

    /// Makes an image of what a container changed; gives its id and its name. Blocks.
    ///
    /// # Errors
    /// When the name is invalid, a layer is missing, or the disk fails.
    pub(crate) fn commit(&self, request: &commit::NewImageRequest) -> Result<(Digest, String), Failure> {
        commit::commit(&self.inner, request)
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
