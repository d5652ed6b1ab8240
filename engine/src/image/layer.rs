//! Layers: unpacked once, shared by all images and containers that have them, removed with their last user.
//!
//! ## Design notes
//! A layer directory `<root>/layers/<hex of diff id>/` holds `files/` (whiteouts as overlayfs reads them), `recipe`
//! (gives the tar back), `replaced/` (rarely) and `layer.json`. It is made in `<root>/staging/` and renamed when its
//! digest is known to be right. `<root>/l/<short>` are links to the files with names short enough for many of them to
//! fit into the options of one mount. A layer does not depend on those below it, so equal tars are one layer.
//! Counting: images and snapshots hold a count each, operations under way a [`LayerPin`]. What has no count goes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shoal_engine_sys::fs::{self, Directory};

use super::digest::{Digest, Hasher};

pub mod apply;
pub mod path;
pub mod recipe;
pub mod stream;

use apply::{ApplyError, Target, apply};
use recipe::RecipeWriter;
use stream::{Limits, Measured, decoded};

/// Digits of the shortest name in `l/`.
const SHORT: usize = 12;

/// A layer could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its archive is not acceptable.
    #[error("cannot unpack the layer")]
    Apply(#[from] ApplyError),
    /// It is not what its name says.
    #[error("layer verification failed: expected {expected}, got {actual}")]
    Digest {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// It is not here.
    #[error("layer {0} does not exist")]
    Missing(Digest),
    /// The disk failed.
    #[error("cannot {doing} in {}", place.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        place: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        Self::Apply(ApplyError::Io(error))
    }
}

/// What is known about a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Of the uncompressed tar.
    pub digest: Digest,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// Name in `l/`.
    pub short: String,
    /// Opaque directories that the file system has no attribute for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque: Vec<PathBuf>,
}

#[derive(Debug)]
struct Known {
    record: Arc<LayerRecord>,
    count: usize,
}

/// All layers of this node.
#[derive(Debug)]
pub struct LayerStore {
    path: PathBuf,
    root: Directory,
    layers: Directory,
    links: Directory,
    staging: Directory,
    known: Mutex<HashMap<Digest, Known>>,
    next: AtomicU64,
    limits: Limits,
}

/// Keeps a layer while an operation needs it.
#[derive(Debug)]
pub struct LayerPin {
    store: Arc<LayerStore>,
    record: Arc<LayerRecord>,
}

impl LayerPin {
    /// The layer.
    pub fn record(&self) -> &Arc<LayerRecord> {
        &self.record
    }

    /// Turns into a count of an image or snapshot, which it gives back with [`LayerStore::release`].
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for LayerPin {
    fn drop(&mut self) {
        if let Err(error) = self.store.release(&self.record.digest) {
            tracing::warn!(layer = %self.record.digest, "cannot remove an unused layer: {}", shoal_proto::error::chain(&error));
        }
    }
}

impl LayerStore {
    /// Opens the layers below this directory. Layers that nobody counts until [`Self::collect`] go then.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(path: &Path, limits: Limits) -> Result<Arc<Self>, LayerError> {
        let failed = |source| LayerError::Io { doing: "open the layers", place: path.to_owned(), source };
        let root = open_or_make(path).map_err(failed)?;
        // Leftovers of what was interrupted.
        root.remove_tree(OsStr::new("staging")).map_err(failed)?;
        let inside = |name: &str| root.make_path(Path::new(name), 0o700).map_err(failed);
        let (layers, links, staging) = (inside("layers")?, inside("l")?, inside("staging")?);
        let mut known = HashMap::new();
        for entry in layers.entries().map_err(failed)? {
            match read_record(&layers, &entry.name) {
                Ok(record) => {
                    known.insert(record.digest, Known { record: Arc::new(record), count: 0 });
                }
                Err(error) => {
                    tracing::warn!(layer = %entry.name.display(), %error, "removing a layer that cannot be read");
                    layers.remove_tree(&entry.name).map_err(failed)?;
                }
            }
        }
        let store = Self {
            path: path.to_owned(),
            root,
            layers,
            links,
            staging,
            known: Mutex::new(known),
            next: AtomicU64::new(0),
            limits,
        };
        store.repair_links().map_err(failed)?;
        Ok(Arc::new(store))
    }

    /// Every layer has its link, and every link its layer.
    fn repair_links(&self) -> io::Result<()> {
        let known = self.known();
        let wanted: BTreeMap<&OsStr, Digest> =
            known.values().map(|layer| (OsStr::new(&layer.record.short), layer.record.digest)).collect();
        let mut there = Vec::new();
        for entry in self.links.entries()? {
            match wanted.get(entry.name.as_os_str()) {
                Some(digest) if self.links.read_link(&entry.name)? == link_text(digest) => there.push(entry.name),
                _ => self.links.remove_tree(&entry.name)?,
            }
        }
        for (name, digest) in wanted {
            if !there.iter().any(|have| have == name) {
                self.links.make_link(name, &link_text(&digest))?;
            }
        }
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> LayerError + '_ {
        move |source| LayerError::Io { doing, place: self.path.clone(), source }
    }

    /// What an archive may become.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The directory that holds everything of the image store.
    pub fn root(&self) -> &Directory {
        &self.root
    }

    /// The directory of the short names.
    pub fn links_path(&self) -> PathBuf {
        self.path.join("l")
    }

    /// Where the files of a layer are.
    pub fn files_path(&self, layer: &Digest) -> PathBuf {
        self.path.join("layers").join(layer.hex()).join("files")
    }

    /// Opens the files of a layer.
    ///
    /// # Errors
    /// When it is not here.
    pub fn open_files(&self, layer: &Digest) -> Result<Directory, LayerError> {
        self.layers
            .enter(OsStr::new(&layer.hex()))
            .and_then(|directory| directory.enter(OsStr::new("files")))
            .map_err(self.failed("open a layer"))
    }

    /// What is known about a layer.
    pub fn record(&self, layer: &Digest) -> Option<Arc<LayerRecord>> {
        self.known().get(layer).map(|known| Arc::clone(&known.record))
    }

    /// How many images and snapshots have it.
    pub fn count(&self, layer: &Digest) -> usize {
        self.known().get(layer).map_or(0, |known| known.count)
    }

    /// All layers.
    pub fn all(&self) -> Vec<Arc<LayerRecord>> {
        self.known().values().map(|known| Arc::clone(&known.record)).collect()
    }

    /// Keeps a layer, if it is here.
    pub fn pin(self: &Arc<Self>, layer: &Digest) -> Option<LayerPin> {
        let mut known = self.known();
        let layer = known.get_mut(layer)?;
        layer.count += 1;
        Some(LayerPin { store: Arc::clone(self), record: Arc::clone(&layer.record) })
    }

    /// Gives a count back; the last one removes the layer, which is then returned.
    ///
    /// # Errors
    /// When the disk fails. The layer is forgotten nevertheless; what is left of it goes when the store is opened.
    pub fn release(&self, layer: &Digest) -> Result<Option<Arc<LayerRecord>>, LayerError> {
        let (record, place) = {
            let mut known = self.known();
            let Some(entry) = known.get_mut(layer) else { return Ok(None) };
            entry.count = entry.count.saturating_sub(1);
            if entry.count > 0 {
                return Ok(None);
            }
            let Some(entry) = known.remove(layer) else { return Ok(None) };
            (Arc::clone(&entry.record), self.withdraw(&entry.record).map_err(self.failed("remove a layer"))?)
        };
        self.staging.remove_tree(&place).map_err(self.failed("remove a layer"))?;
        Ok(Some(record))
    }

    /// Takes a layer out of the store at once; the slow removal comes later.
    fn withdraw(&self, record: &LayerRecord) -> io::Result<OsString> {
        let place = self.fresh_name();
        self.links.remove_tree(OsStr::new(&record.short))?;
        self.layers.rename(OsStr::new(&record.digest.hex()), &self.staging, &place)?;
        Ok(place)
    }

    fn fresh_name(&self) -> OsString {
        OsString::from(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Removes all layers that nobody counts.
    pub fn collect(&self) {
        let unused: Vec<_> = {
            let mut known = self.known();
            let digests: Vec<_> =
                known.iter().filter(|(_, layer)| layer.count == 0).map(|(digest, _)| *digest).collect();
            digests.into_iter().filter_map(|digest| known.remove(&digest)).map(|known| known.record).collect()
        };
        for record in unused {
            tracing::info!(layer = %record.digest, "removing a layer that no image has");
            let removed = self.withdraw(&record).and_then(|place| self.staging.remove_tree(&place));
            if let Err(error) = removed {
                tracing::warn!(layer = %record.digest, %error, "cannot remove an unused layer");
            }
        }
    }

    /// Unpacks a layer, compressed or not. With `expected` any other content is an error.
    ///
    /// # Errors
    /// When the archive is not acceptable or the disk fails; nothing is left of it then.
    pub fn add<R: BufRead + Send>(
        self: &Arc<Self>,
        source: R,
        expected: Option<Digest>,
    ) -> Result<LayerPin, LayerError> {
        let place = self.fresh_name();
        let added = self.unpack(source, &place).and_then(|(record, measured)| {
            if let Some(expected) = expected.filter(|expected| *expected != measured.digest) {
                return Err(LayerError::Digest { expected, actual: measured.digest });
            }
            self.commit(record, &place)
        });
        // Gone already when it was committed.
        if let Err(error) = self.staging.remove_tree(&place) {
            tracing::warn!(%error, "cannot remove an unpacked layer that is not needed");
        }
        added
    }

    fn unpack<R: BufRead + Send>(&self, source: R, place: &OsStr) -> Result<(LayerRecord, Measured), LayerError> {
        let failed = self.failed("make a directory");
        let staged = self.staging.make_path(Path::new(place), 0o700).map_err(failed)?;
        let files = staged.make_path(Path::new("files"), 0o755).map_err(self.failed("make a directory"))?;
        // Whatever the daemon's umask: this is the root directory of containers.
        fs::set_mode(&files, 0o755).map_err(self.failed("make a directory"))?;
        let replaced = staged.make_path(Path::new("replaced"), 0o700).map_err(self.failed("make a directory"))?;
        let recipe = staged.create_file(OsStr::new("recipe"), 0o600).map_err(self.failed("make a file"))?;
        let target = Target { root: &files, replaced: Some(&replaced), whiteouts: true, owner: None };
        let recipe = RecipeWriter::new(recipe)?;
        let (applied, measured) = decoded(source, &self.limits, |chunks| {
            let (applied, recipe) = apply(chunks, recipe, &target, &self.limits)?;
            recipe.finish()?;
            Ok::<_, ApplyError>(applied)
        })?;
        if replaced.is_empty().unwrap_or(false) {
            staged.remove_tree(OsStr::new("replaced")).map_err(self.failed("remove a directory"))?;
        }
        let record = LayerRecord {
            digest: measured.digest,
            tar_bytes: measured.bytes,
            bytes: applied.bytes,
            entries: applied.entries,
            short: String::new(),
            opaque: applied.opaque,
        };
        Ok((record, measured))
    }

    fn commit(self: &Arc<Self>, mut record: LayerRecord, place: &OsStr) -> Result<LayerPin, LayerError> {
        let mut known = self.known();
        if let Some(layer) = known.get_mut(&record.digest) {
            layer.count += 1;
            return Ok(LayerPin { store: Arc::clone(self), record: Arc::clone(&layer.record) });
        }
        let hex = record.digest.hex();
        let taken = |short: &str| known.values().any(|layer| layer.record.short == short);
        let length = (SHORT..64).find(|length| !taken(&hex[..*length])).unwrap_or(64);
        record.short = hex[..length].to_owned();
        let write = || -> io::Result<()> {
            let staged = self.staging.enter(place)?;
            let json = serde_json::to_vec(&record).map_err(io::Error::other)?;
            staged.create_file(OsStr::new("layer.json"), 0o600)?.write_all(&json)?;
            self.staging.rename(place, &self.layers, OsStr::new(&hex))?;
            self.links.remove_tree(OsStr::new(&record.short))?;
            self.links.make_link(OsStr::new(&record.short), &link_text(&record.digest))
        };
        write().map_err(self.failed("commit a layer"))?;
        let record = Arc::new(record);
        known.insert(record.digest, Known { record: Arc::clone(&record), count: 1 });
        Ok(LayerPin { store: Arc::clone(self), record })
    }

    /// Reads a layer whole and drops it when it is not what its digest says.
    pub fn check(&self, layer: &Digest) {
        if self.record(layer).is_none() {
            return;
        }
        let Err(error) = self.write_tar(layer, &mut io::sink()) else { return };
        tracing::error!(%layer, "dropping a damaged layer: {}", shoal_proto::error::chain(&error));
        let record = self.known().remove(layer).map(|known| known.record);
        let dropped =
            record.map_or(Ok(()), |record| self.withdraw(&record).and_then(|place| self.staging.remove_tree(&place)));
        if let Err(error) = dropped {
            tracing::error!(%layer, %error, "cannot remove a damaged layer");
        }
    }

    /// Waits until all layers and blobs are on disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), LayerError> {
        fs::sync_filesystem(&self.root).map_err(self.failed("sync"))
    }

    /// Writes the tar of a layer, the very bytes that it was made of.
    ///
    /// # Errors
    /// When the layer is not here, its files are not what they were, or `output` fails.
    pub fn write_tar(&self, layer: &Digest, output: &mut dyn Write) -> Result<(), LayerError> {
        let directory = self.layers.enter(OsStr::new(&layer.hex())).map_err(|_| LayerError::Missing(*layer))?;
        let files = directory.enter(OsStr::new("files")).map_err(self.failed("open a layer"))?;
        let replaced = directory.enter(OsStr::new("replaced")).ok();
        let recipe = directory.open_file(Path::new("recipe")).map_err(self.failed("open a layer"))?;
        let mut checked = Checked { output, hasher: Hasher::new() };
        recipe::follow(recipe, &files, replaced.as_ref(), &mut checked).map_err(self.failed("read a layer"))?;
        let actual = checked.hasher.finish();
        if actual == *layer { Ok(()) } else { Err(LayerError::Digest { expected: *layer, actual }) }
    }
}

struct Checked<'a> {
    output: &'a mut dyn Write,
    hasher: Hasher,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.output.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Opens a directory of ours; makes it for root alone when it is missing.
///
/// # Errors
/// The kernel's.
pub(crate) fn open_or_make(path: &Path) -> io::Result<Directory> {
    use std::os::unix::fs::DirBuilderExt;

    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let directory = Directory::open(path)?;
    // Layers hold setuid programs: nobody but root may come near them from outside.
    fs::set_mode(&directory, 0o700)?;
    Ok(directory)
}

fn link_text(layer: &Digest) -> OsString {
    OsString::from(format!("../layers/{}/files", layer.hex()))
}

fn read_record(layers: &Directory, name: &OsStr) -> io::Result<LayerRecord> {
    let file = layers.enter(name)?.open_file(Path::new("layer.json"))?;
    let record: LayerRecord = serde_json::from_reader(io::BufReader::new(file)).map_err(io::Error::other)?;
    if record.digest.hex().as_bytes() != name.as_bytes() || !is_short(&record) {
        return Err(io::Error::other("its record belongs to another layer"));
    }
    Ok(record)
}

fn is_short(record: &LayerRecord) -> bool {
    record.short.len() >= SHORT && record.digest.hex().starts_with(&record.short)
}
