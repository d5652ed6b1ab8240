//! What all handles of the store share, and the one way in which it changes.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use shoal_engine_sys::fs::Directory;
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::time::Timestamp;

use super::catalog::{Catalog, ImageEntry};
use super::digest::Digest;
use super::document::{Document, LONGEST_DOCUMENT};
use super::failed;
use super::layer::{LayerPin, LayerStore};
use super::reference::Reference;
use super::types::{ImageEvent, ImageObserver, ImageStoreOptions, ImageUser, ImageUsers};
use crate::snapshot::Snapshots;

pub(super) struct Inner {
    pub(super) options: ImageStoreOptions,
    pub(super) blobs: Directory,
    pub(super) layers: Arc<LayerStore>,
    pub(super) snapshots: Snapshots,
    pub(super) catalog: ArcSwap<Catalog>,
    /// Held by whoever changes the catalog.
    pub(super) writer: Mutex<()>,
    /// Is a thread at work that syncs?
    pub(super) syncing: AtomicBool,
    pub(super) users: RwLock<Option<Arc<dyn ImageUsers>>>,
    pub(super) observer: RwLock<Option<Arc<dyn ImageObserver>>>,
}

impl Inner {
    fn root(&self) -> &Directory {
        self.layers.root()
    }

    pub(super) fn users(&self, image: &Digest) -> Vec<ImageUser> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        users.as_ref().map(|users| users.users(image)).unwrap_or_default()
    }

    pub(super) fn event(&self, action: &'static str, image: Option<&ImageEntry>, name: &str) {
        if let Some(image) = image {
            let mut attributes = image.record.config.labels.clone().unwrap_or_default();
            attributes.insert("name".to_owned(), name.to_owned());
            self.tell(ImageEvent { action, id: image.id().to_string(), attributes });
        }
    }

    /// Tells whoever listens.
    pub(super) fn tell(&self, event: ImageEvent) {
        let observer = self.observer.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(Arc::clone);
        if let Some(observer) = observer {
            observer.image_event(event);
        }
    }

    /// Changes the catalog: on disk first, then for everybody. When `change` or the disk fails, nothing has changed.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Catalog) -> Result<T, Failure>) -> Result<T, Failure> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut catalog = Catalog::clone(&self.catalog.load());
        let result = change(&mut catalog)?;
        catalog.write(self.root()).map_err(|error| failed("cannot write the catalog of images", &error))?;
        self.catalog.store(Arc::new(catalog));
        Ok(result)
    }

    /// Puts a document where its digest says; only within [`Self::change`], so that nobody removes it meanwhile. Not
    /// synced: whoever reads it checks its digest.
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

    /// Removes the configuration of an image that is gone, unless it has come again.
    pub(super) fn remove_blob(&self, digest: &Digest) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.catalog.load().images.contains_key(digest) {
            return;
        }
        if let Err(error) = self.blobs.remove_tree(OsStr::new(&digest.hex())) {
            tracing::warn!(image = %digest, %error, "cannot remove an image's configuration");
        }
    }

    pub(super) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, Failure> {
        read_blob(&self.blobs, digest)
    }

    /// Adds images with their names in one step. Layers are counted for the images that are new.
    pub(super) fn add(
        self: &Arc<Self>,
        images: Vec<NewImage>,
        now: Timestamp,
    ) -> Result<Vec<Arc<ImageEntry>>, Failure> {
        let (added, pins) = self.change(|catalog| {
            let mut added = Vec::new();
            let mut kept = Vec::new();
            for image in images {
                let id = self.write_blob(&image.config)?;
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
    pub(super) fn sync_later(self: &Arc<Self>) {
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

/// An image that is about to be added; its layers are held.
pub(super) struct NewImage {
    /// The configuration, whose digest is the id.
    pub(super) config: Vec<u8>,
    pub(super) document: Document,
    pub(super) parent: Option<Digest>,
    pub(super) pins: Vec<LayerPin>,
    pub(super) names: Vec<Reference>,
}

pub(super) fn read_blob(blobs: &Directory, digest: &Digest) -> Result<Vec<u8>, Failure> {
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

/// Removes blobs that no image of the catalog has.
pub(super) fn remove_unnamed(blobs: &Directory, catalog: &Catalog) -> io::Result<()> {
    for entry in blobs.entries()? {
        let digest = entry.name.to_str().and_then(Digest::from_hex);
        if !digest.is_some_and(|digest| catalog.images.contains_key(&digest)) {
            blobs.remove_tree(&entry.name)?;
        }
    }
    Ok(())
}
