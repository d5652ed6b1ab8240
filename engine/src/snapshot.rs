//! Root file systems of containers: the layers of an image below, a directory for the container's changes above.
//!
//! ## Design notes
//! - `<image root>/snapshots/<container>/` holds `snapshot.json` and, with overlayfs, `upper`, `work` and the empty
//!   `root` to mount at. Where overlayfs does not work, `root` is a copy of all layers.
//! - Nothing is mounted on the host: the shim mounts in its own mount namespace from a [`RootfsMount`], which goes to it
//!   as JSON; the daemon looks into roots of stopped containers through mounts that are attached nowhere. A crash can
//!   leave no mount behind.
//! - The lowest layer is always `init`: the empty files and directories that a container has whatever its image has
//!   (`/etc/hosts`, `/proc`, `/.dockerenv`, ...). At the bottom it hides nothing of the image.
//! - `prepare` syncs nothing and can be repeated: after a power cut say it again with the same layers.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shoal_engine_sys::fs::{self, Directory};
use shoal_engine_sys::mount::{self, Overlay};
use shoal_proto::error::{ErrorKind, Failure, chain};

use crate::image::Digest;
use crate::image::layer::{LayerError, LayerStore};
use crate::model::GraphDriver;
use crate::remap::{IdMap, MountNamespace};

mod copy;
mod diff;
mod init;
mod layer;
mod rootfs;
mod stack;

pub use copy::copy_contents;
pub use rootfs::{MountedRoot, RootfsKind, RootfsMount};

use rootfs::{mounted, probe};

/// What a snapshot is to be like.
#[derive(Debug, Clone, Default)]
pub struct PrepareOptions {
    /// The container is removed when it ends (`--rm`): its changes need not survive a power cut.
    pub volatile: bool,
    /// Ids of the container's user namespace, when it has one.
    pub id_map: Option<IdMap>,
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

/// How roots are put together on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotDriver {
    /// overlayfs.
    Overlay,
    /// A copy of everything, for file systems that overlayfs cannot write to.
    Copy,
}

impl SnapshotDriver {
    /// Docker's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay2",
            Self::Copy => "vfs",
        }
    }
}

/// What `snapshot.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    driver: SnapshotDriver,
    layers: Vec<Digest>,
    volatile: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_map: Option<IdMap>,
}

/// A snapshot could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is none.
    #[error("there is no root file system for container {0}")]
    Missing(String),
    /// The name cannot be that of a container.
    #[error("{0:?} is not a container id")]
    Name(String),
    /// A layer is not here.
    #[error("cannot use the image's layers")]
    Layer(#[from] LayerError),
    /// The disk or the mount failed.
    #[error("cannot {doing} of container {container}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Whose.
        container: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        let kind = match &error {
            SnapshotError::Missing(_) | SnapshotError::Layer(LayerError::Missing(_)) => ErrorKind::NotFound,
            SnapshotError::Name(_) => ErrorKind::InvalidArgument,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

/// The root file systems of this node. A cheap clone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    root: Directory,
    layers: Arc<LayerStore>,
    driver: SnapshotDriver,
    known: Mutex<HashMap<String, Arc<Record>>>,
    user: MountNamespace,
}

impl Inner {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Record>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, container: &str) -> Result<Arc<Record>, SnapshotError> {
        self.known().get(container).cloned().ok_or_else(|| SnapshotError::Missing(container.to_owned()))
    }

    fn directory(&self, container: &str) -> Result<Directory, SnapshotError> {
        self.root.enter(OsStr::new(container)).map_err(failed("open the root file system", container))
    }
}

fn failed(doing: &'static str, container: &str) -> impl Fn(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { doing, container: container.to_owned(), source }
}

impl Snapshots {
    /// Opens the snapshots in `<image root>/snapshots` and counts their layers. Without `driver` the better one that
    /// works here is taken.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(
        image_root: &Path,
        layers: Arc<LayerStore>,
        driver: Option<SnapshotDriver>,
    ) -> Result<Self, SnapshotError> {
        let opened = failed("open the root file systems", "any");
        let root = layers.root().make_path(Path::new("snapshots"), 0o700).map_err(&opened)?;
        init::make(layers.root()).map_err(&opened)?;
        let mut known = HashMap::new();
        for entry in root.entries().map_err(&opened)? {
            let name = entry.name.to_string_lossy().into_owned();
            if name.starts_with('.') {
                root.remove_tree(&entry.name).map_err(&opened)?;
                continue;
            }
            let record = match read_record(&root, &entry.name) {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(container = name, %error, "the record of a root file system cannot be read");
                    continue;
                }
            };
            for layer in &record.layers {
                match layers.pin(layer) {
                    Some(pin) => pin.keep(),
                    None => tracing::warn!(container = name, %layer, "a layer of a container is missing"),
                }
            }
            known.insert(name, Arc::new(record));
        }
        let path = image_root.join("snapshots");
        let driver = match driver {
            Some(driver) => driver,
            None => probe(&path, &root).map_err(&opened)?,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                root,
                layers,
                driver,
                known: Mutex::new(known),
                user: MountNamespace::default(),
            }),
        })
    }

    /// How roots are put together here.
    pub fn driver(&self) -> SnapshotDriver {
        self.inner.driver
    }

    /// Containers that have a root file system.
    pub fn list(&self) -> Vec<String> {
        let mut names: Vec<_> = self.inner.known().keys().cloned().collect();
        names.sort();
        names
    }

    /// Makes a root file system for a container. Layers are the image's, the lowest first. One that is there is kept.
    ///
    /// # Errors
    /// When a layer is missing or the disk fails.
    pub fn prepare(&self, container: &str, layers: &[Digest], options: PrepareOptions) -> Result<RootfsMount, Failure> {
        let inner = &*self.inner;
        let is_name =
            !container.is_empty() && container.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_name {
            return Err(SnapshotError::Name(container.to_owned()).into());
        }
        if inner.known().contains_key(container) {
            return self.describe(container);
        }
        let mut pins = Vec::with_capacity(layers.len());
        for layer in layers {
            pins.push(inner.layers.pin(layer).ok_or(SnapshotError::Layer(LayerError::Missing(*layer)))?);
        }
        let PrepareOptions { volatile, id_map } = options;
        let record = Record { driver: inner.driver, layers: layers.to_vec(), volatile, id_map };
        if let Err(error) = self.make(container, &record) {
            let _ = inner.root.remove_tree(OsStr::new(container));
            return Err(error.into());
        }
        pins.into_iter().for_each(crate::image::layer::LayerPin::keep);
        inner.known().insert(container.to_owned(), Arc::new(record));
        self.describe(container)
    }

    fn make(&self, container: &str, record: &Record) -> Result<(), SnapshotError> {
        let inner = &*self.inner;
        let make = failed("make the root file system", container);
        let name = OsStr::new(container);
        // A power cut may have left it without its record; what the container wrote is kept.
        let found = inner.root.stat(name).map_err(&make)?.is_some();
        if !found {
            inner.root.make_dir(name, 0o700).map_err(&make)?;
        }
        let directory = inner.directory(container)?;
        let is_overlay = record.driver == SnapshotDriver::Overlay;
        let parts: &[&str] = if is_overlay { &["upper", "work", "root"] } else { &["root"] };
        for part in parts {
            match directory.make_dir(OsStr::new(part), 0o755) {
                Err(error) if found && error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(&make)?,
            }
        }
        let top = directory.enter(OsStr::new(parts[0])).map_err(&make)?;
        if fs::metadata(&top).map_err(&make)?.mode != 0o755 && !found {
            fs::set_mode(&top, 0o755).map_err(&make)?;
        }
        if let Some(map) = &record.id_map {
            // A runtime binary goes to the root as the container's user.
            fs::set_owner(&directory, 0, map.root().1).and_then(|()| fs::set_mode(&directory, 0o710)).map_err(&make)?;
            fs::set_owner(&top, map.root().0, map.root().1).map_err(&make)?;
        }
        if !is_overlay && !found {
            let lower = stack::Stack::open(&inner.layers, &record.layers)?;
            copy::copy_stack(&lower, &top, record.id_map.as_ref()).map_err(failed("copy the layers", container))?;
        }
        let json = serde_json::to_vec(record).map_err(io::Error::other).map_err(&make)?;
        directory.remove_tree(OsStr::new("snapshot.json")).map_err(&make)?;
        let mut file = directory.create_file(OsStr::new("snapshot.json"), 0o600).map_err(&make)?;
        file.write_all(&json).map_err(&make)
    }

    /// The description that `prepare` gave.
    ///
    /// # Errors
    /// When there is no snapshot for this container.
    pub fn describe(&self, container: &str) -> Result<RootfsMount, Failure> {
        let record = self.inner.record(container)?;
        let path = self.inner.path.join(container);
        let kind = match record.driver {
            SnapshotDriver::Copy => RootfsKind::Directory,
            SnapshotDriver::Overlay => RootfsKind::Overlay {
                layers: self.inner.layers.links_path(),
                lower: self.lower(&record)?,
                upper: path.join("upper"),
                work: path.join("work"),
                volatile: record.volatile,
                id_map: record.id_map.clone(),
            },
        };
        Ok(RootfsMount { target: path.join("root"), kind })
    }

    /// Short names of the lower layers, the uppermost first.
    fn lower(&self, record: &Record) -> Result<Vec<String>, SnapshotError> {
        let mut names = Vec::with_capacity(record.layers.len() + 1);
        for layer in record.layers.iter().rev() {
            let known = self.inner.layers.record(layer).ok_or(LayerError::Missing(*layer))?;
            names.push(known.short.clone());
        }
        names.push(init::NAME.to_owned());
        Ok(names)
    }

    /// Opens the root of a container that is NOT running; of a running one use `/proc/<pid>/root`, because two mounts
    /// must not write to one upper directory.
    ///
    /// # Errors
    /// When there is no snapshot for this container or the mount fails.
    pub fn open_root(&self, container: &str) -> Result<MountedRoot, Failure> {
        let mount = self.describe(container)?;
        let failed = failed("open the root file system", container);
        let tree = self.open_described(&mount).map_err(&failed)?;
        Ok(mounted(tree, &mount.target).map_err(&failed)?)
    }

    /// Mounts what was described, nowhere. None where nothing is to be mounted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_described(&self, mount: &RootfsMount) -> io::Result<Option<OwnedFd>> {
        let user = match &mount.kind {
            RootfsKind::Overlay { id_map: Some(map), .. } => Some(self.inner.user.of(map)?),
            _ => None,
        };
        mount.open(user.as_deref())
    }

    /// Can roots be made here whose ids are mapped so? Looked at before the first container needs it.
    ///
    /// # Errors
    /// The kernel's. For overlays, it has to be Linux 6.15 or later.
    pub fn try_mapped(&self, map: &IdMap) -> io::Result<()> {
        let inner = &*self.inner;
        let user = inner.user.of(map)?;
        match inner.driver {
            SnapshotDriver::Overlay => rootfs::try_overlay(&inner.path, &inner.root, Some(&user))?,
            // Copies have the ids on the disk.
            SnapshotDriver::Copy => Ok(()),
        }
    }

    /// What the image has, without the container's changes. Fine while the container runs.
    fn open_image(&self, container: &str) -> Result<MountedRoot, SnapshotError> {
        let record = self.inner.record(container)?;
        let failed = failed("open the image", container);
        match record.driver {
            SnapshotDriver::Copy => {
                let path = self.inner.path.join(container).join("root");
                mounted(None, &path).map_err(failed)
            }
            SnapshotDriver::Overlay if record.layers.is_empty() => {
                let init = self.inner.layers.links_path().join(init::NAME);
                let mapped = record.id_map.as_ref().map(|map| mount::clone_mapped(&init, &*self.inner.user.of(map)?));
                mounted(mapped.transpose().map_err(&failed)?, &init).map_err(failed)
            }
            SnapshotDriver::Overlay => {
                let layers = self.inner.layers.links_path();
                let user = record.id_map.as_ref().map(|map| self.inner.user.of(map)).transpose().map_err(&failed)?;
                let lower_ids = user.as_deref();
                let overlay = Overlay { layers, lower: self.lower(&record)?, lower_ids, ..Overlay::default() };
                let tree = overlay.open().map_err(&failed)?;
                mounted(Some(tree), Path::new("")).map_err(failed)
            }
        }
    }

    /// Removes it. Missing is fine.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove(&self, container: &str) -> Result<(), Failure> {
        let inner = &*self.inner;
        let Some(record) = inner.known().remove(container) else {
            return match read_record(&inner.root, OsStr::new(container)) {
                // Not known since its record could not be read.
                Err(_)
                    if !container.is_empty() && !container.contains('/') && container != "." && container != ".." =>
                {
                    let remove = inner.root.remove_tree(OsStr::new(container));
                    Ok(remove.map_err(failed("remove the root file system", container))?)
                }
                _ => Ok(()),
            };
        };
        // Out of the way first: if this is interrupted, the rest goes when the store is opened.
        let gone = format!(".{container}");
        let (name, gone) = (OsStr::new(container), OsStr::new(&gone));
        let moved = inner.root.rename(name, &inner.root, gone);
        let removed = match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => inner.root.remove_tree(name),
            Ok(()) => inner.root.remove_tree(gone),
        };
        for layer in &record.layers {
            inner.layers.release(layer).map_err(SnapshotError::Layer)?;
        }
        Ok(removed.map_err(failed("remove the root file system", container))?)
    }

    /// What the container changed, by path.
    ///
    /// # Errors
    /// When there is no snapshot for this container or the disk fails.
    pub fn diff(&self, container: &str) -> Result<Vec<Change>, Failure> {
        Ok(self.changes(container)?.0.into_iter().map(Change::from).collect())
    }

    /// Writes what the container changed as the archive of a layer. False when it changed nothing: then nothing is written.
    ///
    /// # Errors
    /// When there is no snapshot for this container, or the disk or `output` fails.
    pub(crate) fn write_layer(&self, container: &str, output: &mut impl Write) -> Result<bool, Failure> {
        let changes = self.changes(container)?.0;
        if changes.is_empty() {
            return Ok(false);
        }
        let pack = failed("pack the changes", container);
        let upper = self.upper(container).map_err(&pack)?;
        let map = self.inner.record(container)?.id_map.clone();
        layer::pack(&upper, &changes, map, output).map_err(&pack)?;
        Ok(true)
    }

    /// The directory with the container's changes, or with all of its files where there is no overlay.
    fn upper(&self, container: &str) -> io::Result<Directory> {
        let is_overlay = self.inner.record(container).is_ok_and(|record| record.driver == SnapshotDriver::Overlay);
        let directory = self.inner.root.enter(OsStr::new(container))?;
        directory.enter(OsStr::new(if is_overlay { "upper" } else { "root" }))
    }

    /// What its changes take.
    ///
    /// # Errors
    /// When there is no snapshot for this container or the disk fails.
    pub fn usage(&self, container: &str) -> Result<SnapshotUsage, Failure> {
        Ok(self.changes(container)?.1)
    }

    fn changes(&self, container: &str) -> Result<(Vec<diff::Changed>, SnapshotUsage), SnapshotError> {
        let record = self.inner.record(container)?;
        let compare = failed("compare the root file system", container);
        let lower = stack::Stack::open(&self.inner.layers, &record.layers)?;
        let is_overlay = record.driver == SnapshotDriver::Overlay;
        let upper = self.upper(container).map_err(&compare)?;
        diff::compare(&upper, lower, is_overlay, record.id_map.as_ref()).map_err(compare)
    }

    /// Ids of the user namespace that a container's files are for.
    pub fn id_map(&self, container: &str) -> Option<IdMap> {
        self.inner.record(container).ok()?.id_map.clone()
    }

    /// Lets a container's root through to the mounts: runtime binaries go there as him.
    ///
    /// # Errors
    /// The kernel's.
    pub fn let_through(&self, map: &IdMap) -> io::Result<()> {
        map.let_through(self.inner.path.parent().unwrap_or(&self.inner.path))?;
        map.let_through(&self.inner.path)
    }

    /// Bytes of all files of the image.
    pub fn image_bytes(&self, container: &str) -> u64 {
        let Ok(record) = self.inner.record(container) else { return 0 };
        record.layers.iter().filter_map(|layer| self.inner.layers.record(layer)).map(|layer| layer.bytes).sum()
    }

    /// Driver name and paths, for `inspect`.
    pub fn graph_driver(&self, container: &str) -> GraphDriver {
        let name = self.inner.driver.name().to_owned();
        let Ok(record) = self.inner.record(container) else { return GraphDriver { data: None, name } };
        let path = self.inner.path.join(container);
        let show = |path: PathBuf| path.display().to_string();
        let mut data = std::collections::BTreeMap::from([("MergedDir".to_owned(), show(path.join("root")))]);
        if record.driver == SnapshotDriver::Overlay {
            let lower = record.layers.iter().rev().map(|layer| show(self.inner.layers.files_path(layer)));
            data.insert("LowerDir".to_owned(), lower.collect::<Vec<_>>().join(":"));
            data.insert("UpperDir".to_owned(), show(path.join("upper")));
            data.insert("WorkDir".to_owned(), show(path.join("work")));
        }
        GraphDriver { data: Some(data), name }
    }

    /// Copies what the image has at `path` into the empty directory of a volume, with its owner and mode. Nothing
    /// happens when the image has no directory there.
    ///
    /// # Errors
    /// When there is no snapshot for this container or the disk fails.
    pub fn copy_up(&self, container: &str, path: &Path, volume: &Path) -> Result<(), Failure> {
        let failed = failed("copy the image's files into a volume", container);
        let image = self.open_image(container)?;
        let source = match image.directory().open_dir(path) {
            Ok(source) => source,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(failed(error).into()),
        };
        let volume = Directory::open(volume).map_err(&failed)?;
        if !volume.is_empty().map_err(&failed)? {
            return Ok(());
        }
        copy_contents(&source, &volume).map_err(&failed)?;
        Ok(copy::copy_attributes(&source, &volume).map_err(&failed)?)
    }
}

fn read_record(root: &Directory, name: &OsStr) -> io::Result<Record> {
    let file = root.enter(name)?.open_file(Path::new("snapshot.json"))?;
    serde_json::from_reader(io::BufReader::new(file)).map_err(io::Error::other)
}
