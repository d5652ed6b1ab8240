//! Volumes of the local driver.
//!
//! ## Design notes
//! `<root>/<name>/` holds `volume.json` and the data in `_data`; it is made under another name and renamed when it is
//! whole, and renamed again before it is removed, so a volume is there with all or not at all. A volume whose options
//! say so (`type`, `device`, `o`) is mounted over `_data` while containers use it. Who refers to a volume is not kept
//! here: the containers are asked ([`VolumeUsers`]). What is inside is reached only below a directory handle.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use shoal_engine_sys::fs::{self, Directory};
use shoal_engine_sys::mount;
use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_proto::error::{ErrorKind, Failure, chain};
use shoal_proto::time::Timestamp;

use crate::image::layer::open_or_make;
use crate::model::{Filters, Volume, VolumeCreate, VolumeList, VolumeUsage, VolumesPruneReport};

mod name;
mod options;

#[cfg(test)]
mod tests;

use options::MountSource;

/// Label of volumes that nobody gave a name.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Where the data is.
const DATA: &str = "_data";

/// Where the record is.
const RECORD: &str = "volume.json";

/// Where the volumes are and what the store needs from outside.
#[derive(Debug, Clone)]
pub struct VolumeStoreOptions {
    /// `<data-root>/volumes`.
    pub root: PathBuf,
    /// Time of creation.
    pub clock: Arc<dyn Clock>,
    /// Names of anonymous volumes.
    pub entropy: Entropy,
    /// User and group of new volumes.
    pub owner: (u32, u32),
}

/// Knows which containers, running or not, refer to a volume.
pub trait VolumeUsers: Send + Sync {
    /// Ids of containers.
    fn users(&self, volume: &str) -> Vec<String>;
}

/// What `volume.json` says.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    created: Timestamp,
    labels: Option<BTreeMap<String, String>>,
    options: Option<BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Known {
    record: Record,
    source: Option<MountSource>,
    /// Containers it is mounted for.
    mounted_for: Mutex<BTreeSet<String>>,
}

/// The volumes of this node. A cheap clone.
#[derive(Clone)]
pub struct VolumeStore {
    inner: Arc<Inner>,
}

struct Inner {
    options: VolumeStoreOptions,
    root: Directory,
    known: Mutex<BTreeMap<String, Arc<Known>>>,
    users: RwLock<Option<Arc<dyn VolumeUsers>>>,
}

impl std::fmt::Debug for VolumeStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeStore").field("root", &self.inner.options.root).finish_non_exhaustive()
    }
}

fn failed(doing: &str, name: &str, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Internal, format!("cannot {doing} volume {name}: {}", chain(error)))
}

fn no_such_volume(name: &str) -> Failure {
    Failure::not_found(format!("get {name}: no such volume"))
}

impl Inner {
    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &str) -> Result<Arc<Known>, Failure> {
        self.known().get(name).cloned().ok_or_else(|| no_such_volume(name))
    }

    fn users(&self, name: &str) -> Vec<String> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        users.as_ref().map(|users| users.users(name)).unwrap_or_default()
    }

    fn data_path(&self, name: &str) -> PathBuf {
        self.options.root.join(name).join(DATA)
    }

    fn show(&self, name: &str, record: &Record) -> Volume {
        // Docker shows whole seconds.
        let seconds = record.created.0.div_euclid(1_000_000_000);
        Volume {
            created_at: Timestamp::from_seconds(seconds).to_string(),
            driver: "local".to_owned(),
            labels: record.labels.clone(),
            mountpoint: self.data_path(name).display().to_string(),
            name: name.to_owned(),
            options: record.options.clone(),
            scope: "local".to_owned(),
            usage_data: None,
        }
    }

    /// Makes it under another name, then gives it its own.
    fn make(&self, name: &str, record: &Record) -> io::Result<()> {
        let temporary = format!(".new-{name}");
        let (name, temporary) = (OsStr::new(name), OsStr::new(&temporary));
        self.root.remove_tree(temporary)?;
        self.root.make_dir(temporary, 0o700)?;
        let directory = self.root.enter(temporary)?;
        directory.make_dir(OsStr::new(DATA), 0o755)?;
        let data = directory.enter(OsStr::new(DATA))?;
        fs::set_mode(&data, 0o755)?;
        fs::set_owner(&data, self.options.owner.0, self.options.owner.1)?;
        let json = serde_json::to_vec(record).map_err(io::Error::other)?;
        fs::replace_file(&directory, OsStr::new(RECORD), &json, 0o600)?;
        self.root.rename(temporary, &self.root, name)
    }

    /// Gives it another name, then removes it.
    fn unmake(&self, name: &str) -> io::Result<()> {
        let gone = format!(".gone-{name}");
        let (name, gone) = (OsStr::new(name), OsStr::new(&gone));
        self.root.remove_tree(gone)?;
        self.root.rename(name, &self.root, gone)?;
        self.root.remove_tree(gone)
    }
}

impl VolumeStore {
    /// Opens the store, removes what an interrupted operation left.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(options: VolumeStoreOptions) -> Result<Self, Failure> {
        let open = |error: io::Error| {
            let place = options.root.display();
            Failure::new(ErrorKind::Internal, format!("cannot open the volumes in {place}: {}", chain(&error)))
        };
        let root = open_or_make(&options.root).map_err(open)?;
        let mut known = BTreeMap::new();
        for entry in root.entries().map_err(open)? {
            let name = entry.name.to_string_lossy().into_owned();
            if name.starts_with(".new-") || name.starts_with(".gone-") {
                root.remove_tree(&entry.name).map_err(open)?;
                continue;
            }
            if name::check(&name).is_err() || !root.stat(&entry.name).map_err(open)?.is_some_and(|entry| entry.is_dir())
            {
                continue;
            }
            // Data is worth more than its record: without one it is a plain volume.
            let record = read_record(&root, &entry.name).unwrap_or_else(|error| {
                tracing::error!(volume = name, %error, "the record of a volume cannot be read");
                Record::default()
            });
            let source = options::parse(record.options.as_ref().unwrap_or(&BTreeMap::new())).unwrap_or_default();
            known.insert(name, Arc::new(Known { record, source, mounted_for: Mutex::default() }));
        }
        let inner = Inner { options, root, known: Mutex::new(known), users: RwLock::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says who knows the containers; until then no volume counts as used.
    pub fn set_users(&self, users: Arc<dyn VolumeUsers>) {
        *self.inner.users.write().unwrap_or_else(PoisonError::into_inner) = Some(users);
    }

    /// Makes a volume; one of this name that exists is given back as it is.
    ///
    /// # Errors
    /// When the name, the driver or an option is invalid, or the disk fails.
    pub fn create(&self, request: VolumeCreate) -> Result<Volume, Failure> {
        let inner = &*self.inner;
        let driver = &request.driver;
        if !driver.is_empty() && driver != "local" {
            return Err(Failure::not_found(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        let anonymous = request.name.is_empty();
        let name = if anonymous { name::random(&inner.options.entropy) } else { request.name };
        name::check(&name)?;
        // Nobody else makes or removes one meanwhile.
        let mut known = inner.known();
        if let Some(existing) = known.get(&name) {
            return Ok(inner.show(&name, &existing.record));
        }
        let options = request.driver_opts;
        let source = options::parse(options.as_ref().unwrap_or(&BTreeMap::new()))?;
        let mut labels = request.labels;
        if anonymous {
            labels.get_or_insert_default().insert(ANONYMOUS.to_owned(), String::new());
        }
        let record = Record { created: inner.options.clock.now(), labels, options };
        inner.make(&name, &record).map_err(|error| failed("make", &name, &error))?;
        let volume = inner.show(&name, &record);
        known.insert(name, Arc::new(Known { record, source, mounted_for: Mutex::default() }));
        Ok(volume)
    }

    /// Shows one volume.
    ///
    /// # Errors
    /// `get x: no such volume`.
    pub fn inspect(&self, name: &str) -> Result<Volume, Failure> {
        let known = self.inner.get(name)?;
        Ok(self.inner.show(name, &known.record))
    }

    /// Lists volumes by name. Filters: `name`, `label`, `dangling`, `driver`.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub fn list(&self, filters: &Filters) -> Result<VolumeList, Failure> {
        filters.check(&["dangling", "name", "driver", "label"])?;
        let dangling = filters.boolean("dangling")?;
        let all: Vec<_> = self.inner.known().iter().map(|(name, known)| (name.clone(), Arc::clone(known))).collect();
        let mut volumes = Vec::new();
        for (name, known) in all {
            let labels = known.record.labels.clone().unwrap_or_default();
            let passes = filters.matches("name", &name)
                && filters.matches_exactly("driver", "local")
                && filters.matches_labels("label", &labels)
                && dangling.is_none_or(|dangling| self.inner.users(&name).is_empty() == dangling);
            if passes {
                volumes.push(self.inner.show(&name, &known.record));
            }
        }
        Ok(VolumeList { volumes, warnings: None })
    }

    /// All volumes with what they take and how many containers refer to them, as `/system/df` shows them. Slow.
    pub fn usage(&self) -> Vec<Volume> {
        let all: Vec<_> = self.inner.known().iter().map(|(name, known)| (name.clone(), Arc::clone(known))).collect();
        let show = |(name, known): (String, Arc<Known>)| {
            let ref_count = i64::try_from(self.inner.users(&name).len()).unwrap_or(i64::MAX);
            let usage = VolumeUsage { ref_count, size: self.bytes(&name).map_or(-1, saturate) };
            Volume { usage_data: Some(usage), ..self.inner.show(&name, &known.record) }
        };
        all.into_iter().map(show).collect()
    }

    /// Bytes of files.
    fn bytes(&self, name: &str) -> Option<u64> {
        let data = self.inner.root.enter(OsStr::new(name)).ok()?.enter(OsStr::new(DATA)).ok()?;
        bytes_below(&data, 0).ok()
    }

    /// Removes a volume with its data. With `force` a missing one is fine.
    ///
    /// # Errors
    /// When a container refers to it.
    pub fn remove(&self, name: &str, force: bool) -> Result<(), Failure> {
        let inner = &*self.inner;
        let mut known = inner.known();
        let Some(volume) = known.get(name).cloned() else {
            return if force { Ok(()) } else { Err(no_such_volume(name)) };
        };
        let users = inner.users(name);
        if !users.is_empty() {
            return Err(Failure::conflict(format!("remove {name}: volume is in use - [{}]", users.join(" "))));
        }
        if volume.source.is_some() {
            mount::detach(&inner.data_path(name)).map_err(|error| failed("unmount", name, &error))?;
        }
        inner.unmake(name).map_err(|error| failed("remove", name, &error))?;
        known.remove(name);
        Ok(())
    }

    /// Removes volumes that no container refers to: the anonymous ones, with filter `all=true` all.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub fn prune(&self, filters: &Filters) -> Result<VolumesPruneReport, Failure> {
        filters.check(&["label", "label!", "all"])?;
        let all = filters.boolean("all")?.unwrap_or(false);
        let candidates: Vec<_> =
            self.inner.known().iter().map(|(name, known)| (name.clone(), Arc::clone(known))).collect();
        let mut report = VolumesPruneReport { volumes_deleted: Some(Vec::new()), ..VolumesPruneReport::default() };
        for (name, known) in candidates {
            let labels = known.record.labels.clone().unwrap_or_default();
            let chosen = (all || labels.contains_key(ANONYMOUS))
                && filters.matches_labels("label", &labels)
                && !(filters.contains("label!") && filters.matches_labels("label!", &labels));
            if !chosen || !self.inner.users(&name).is_empty() {
                continue;
            }
            let bytes = self.bytes(&name).unwrap_or(0);
            match self.remove(&name, true) {
                Ok(()) => {
                    report.space_reclaimed += bytes;
                    report.volumes_deleted.get_or_insert_default().push(name);
                }
                Err(failure) => tracing::warn!(volume = name, %failure, "cannot remove a volume"),
            }
        }
        Ok(report)
    }

    /// Makes the volume usable for a container and gives its directory; mounts it first where its options say so.
    /// Idempotent: say it again for each running container after a restart.
    ///
    /// # Errors
    /// When there is no such volume or the mount fails.
    pub fn mount(&self, name: &str, container: &str) -> Result<PathBuf, Failure> {
        let known = self.inner.get(name)?;
        let path = self.inner.data_path(name);
        let Some(source) = &known.source else { return Ok(path) };
        let mut mounted_for = known.mounted_for.lock().unwrap_or_else(PoisonError::into_inner);
        let mount = |error: io::Error| {
            Failure::new(
                ErrorKind::Internal,
                format!(
                    "failed to mount local volume: mount {}:{}, flags: {}: {}",
                    source.device,
                    path.display(),
                    source.options,
                    chain(&error)
                ),
            )
        };
        if !mount::is_mountpoint(&path).map_err(mount)? {
            let (options, data) = mount::parse_options(&source.options);
            mount::mount_with(&source.kind, &source.device, &path, &options, &data).map_err(mount)?;
        }
        mounted_for.insert(container.to_owned());
        Ok(path)
    }

    /// The container uses it no more; the last one unmounts it.
    ///
    /// # Errors
    /// When the unmount fails.
    pub fn unmount(&self, name: &str, container: &str) -> Result<(), Failure> {
        let Ok(known) = self.inner.get(name) else { return Ok(()) };
        if known.source.is_none() {
            return Ok(());
        }
        let mut mounted_for = known.mounted_for.lock().unwrap_or_else(PoisonError::into_inner);
        mounted_for.remove(container);
        if mounted_for.is_empty() {
            mount::detach(&self.inner.data_path(name)).map_err(|error| failed("unmount", name, &error))?;
        }
        Ok(())
    }

    /// After a restart, once [`Self::mount`] was said for all running containers: unmounts what a crash left mounted.
    pub fn unmount_unused(&self) {
        let all: Vec<_> = self.inner.known().iter().map(|(name, known)| (name.clone(), Arc::clone(known))).collect();
        for (name, known) in all.into_iter().filter(|(_, known)| known.source.is_some()) {
            let mounted_for = known.mounted_for.lock().unwrap_or_else(PoisonError::into_inner);
            if mounted_for.is_empty()
                && let Err(error) = mount::detach(&self.inner.data_path(&name))
            {
                tracing::warn!(volume = name, %error, "cannot unmount an unused volume");
            }
        }
    }

    /// Opens a directory or file inside a volume; links in it cannot lead out. Mount it first.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open_subpath(&self, name: &str, subpath: &Path) -> Result<OwnedFd, Failure> {
        self.inner.get(name)?;
        let mut parts = subpath.components();
        if subpath.is_absolute() || parts.any(|part| part == std::path::Component::ParentDir) {
            return Err(Failure::invalid(format!(
                "invalid subpath {:?}: it has to be relative and must not climb",
                subpath.display().to_string()
            )));
        }
        let open = || {
            // Not below the root's handle: what is mounted over the directory is meant.
            Directory::open(&self.inner.data_path(name))?.open_any(subpath, true)
        };
        open().map_err(|error: io::Error| {
            let message = format!("subpath {:?} of volume {name}: {}", subpath.display().to_string(), chain(&error));
            let missing = error.kind() == io::ErrorKind::NotFound;
            Failure::new(if missing { ErrorKind::NotFound } else { ErrorKind::Internal }, message)
        })
    }
}

fn saturate(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Bytes of all files; levels that are too deep do not count.
fn bytes_below(directory: &Directory, depth: usize) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in directory.entries()? {
        let Some(metadata) = directory.stat(&entry.name)? else { continue };
        match metadata.kind {
            fs::FileKind::Directory if depth < 250 => {
                // It may be gone meanwhile.
                bytes += directory.enter(&entry.name).map_or(0, |inner| bytes_below(&inner, depth + 1).unwrap_or(0));
            }
            fs::FileKind::File => bytes += metadata.size / metadata.links.max(1),
            _ => {}
        }
    }
    Ok(bytes)
}

fn read_record(root: &Directory, name: &OsStr) -> io::Result<Record> {
    let file = root.enter(name)?.open_file(Path::new(RECORD))?;
    serde_json::from_reader(io::BufReader::new(file)).map_err(io::Error::other)
}
