//! A container's files as one tree: its root with its volumes and bind mounts in it, whether it runs or not.
//!
//! ## Design notes
//! - As in dockerd, what is seen is the root file system, volumes, binds and the three network files, but no tmpfs and none
//!   of the kernel's file systems: there the directory of the root shows.
//! - Of a running container the mounts are copied out of its mount namespace, so that all is as it began, read-only
//!   mounts included. Of one that does not run, root and volumes are mounted as its start would.
//! - Two mounts must not write to one upper directory. So all who look into a container that does not run share one
//!   tree, and a start waits for them.
//! - Nothing is resolved by path but below the tree's root handle, by the kernel (`RESOLVE_IN_ROOT`), and nothing of the
//!   container is ever executed or loaded.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use shoal_engine_sys::fs::Directory;
use shoal_engine_sys::mount_tree::{self, MountTree, Part};
use shoal_engine_sys::namespace::{self, MountChange};
use shoal_proto::error::{ErrorKind, Failure, chain};
use tokio::sync::OwnedRwLockReadGuard;

use super::instance::Container;
use super::lifecycle::Phase;
use super::record::{MountKind, MountRecord};
use super::{files, launch};
use crate::engine::Inner;
use crate::snapshot::{RootfsKind, RootfsMount};

/// How long a process that has ended may take until its container is known to have ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel's bit of a mount that cannot be written through.
const READ_ONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;

/// A container's files, as long as this lives. A start of the container waits for its end.
#[derive(Debug)]
pub(crate) struct ContainerFiles {
    tree: Arc<MountTree>,
    /// Dropped after the tree.
    _running_or_not: OwnedRwLockReadGuard<()>,
}

impl ContainerFiles {
    /// The root directory, with volumes and binds.
    pub(crate) fn root(&self) -> &Directory {
        self.tree.root()
    }

    /// The root file system alone.
    pub(crate) fn bare(&self) -> Result<Directory, Failure> {
        self.tree.bare().map_err(|error| Failure::internal(&error))
    }
}

/// Opens a container's files.
pub(crate) async fn open(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<ContainerFiles, Failure> {
    loop {
        let guard = Arc::clone(&container.file_access).read_owned().await;
        let (phase, pid) = {
            let record = container.record();
            (record.state.phase, record.state.pid)
        };
        if matches!(phase, Phase::Removing | Phase::Dead) {
            return Err(Failure::conflict(format!("container {} is marked for removal", container.id)));
        }
        let (engine, subject) = (Arc::clone(inner), Arc::clone(container));
        let opened = tokio::task::spawn_blocking(move || match phase.has_process() {
            true => running(&engine, &subject, pid),
            false => stopped(&engine, &subject).map(Some),
        });
        match opened.await.map_err(|error| Failure::internal(&error))?? {
            Some(tree) => return Ok(ContainerFiles { tree, _running_or_not: guard }),
            // It has just ended.
            None => drop(guard),
        }
        tokio::time::timeout(PATIENCE, container.ended()).await.map_err(|_| {
            let message = format!("the process of container {} is gone, but it has not ended", container.id);
            Failure::new(ErrorKind::Internal, message)
        })?;
    }
}

fn failed(container: &Container) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| {
        Failure::new(
            ErrorKind::Internal,
            format!("cannot open the files of container {}: {}", container.id, chain(&error)),
        )
    }
}

/// Mounts that are seen from outside.
fn seen(container: &Container) -> Vec<MountRecord> {
    container.record().mounts.iter().filter(|mount| mount.kind != MountKind::Tmpfs).cloned().collect()
}

/// `None` when the process has ended.
fn running(inner: &Arc<Inner>, container: &Arc<Container>, pid: u32) -> Result<Option<Arc<MountTree>>, Failure> {
    let failed = failed(container);
    let Some(namespace) = mounts_of(&container.id, pid) else { return Ok(None) };
    let mut places: Vec<_> = seen(container).into_iter().map(|mount| PathBuf::from(mount.destination)).collect();
    places.extend(files::mounts(inner, container).into_iter().map(|(_, place)| PathBuf::from(place)));
    let found = mount_tree::copy_from(namespace, places.clone()).map_err(&failed)?;
    let parts = places.into_iter().zip(found.parts);
    let parts = parts.filter_map(|(destination, mount)| Some(Part { mount: mount?, destination }));
    let mount = inner.snapshots.describe(&container.id)?;
    let root = match mount.kind {
        RootfsKind::Overlay { .. } => found.root,
        RootfsKind::Directory => directory_mount(&mount.target).map_err(&failed)?,
    };
    MountTree::build(root, &mount.target, parts.collect()).map(|tree| Some(Arc::new(tree))).map_err(&failed)
}

/// The mount namespace of a container's process; `None` when it is gone. A number that has become another process's is
/// noticed: that one is not in the container's cgroup, and what was opened of it is dropped.
fn mounts_of(id: &str, pid: u32) -> Option<OwnedFd> {
    let process = namespace::open_process(pid).ok()?;
    let mounts = std::fs::File::open(format!("/proc/{pid}/ns/mnt")).ok()?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let is_it = cgroups.lines().any(|line| line.split('/').any(|part| part == id));
    // Alive still, so that number was this process's all the time.
    (is_it && namespace::is_alive(&process)).then(|| mounts.into())
}

/// All who look into a container that does not run share one tree.
fn stopped(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Arc<MountTree>, Failure> {
    let mut shared = container.opened_files.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(tree) = shared.upgrade() {
        return Ok(tree);
    }
    let tree = Arc::new(mount_stopped(inner, container)?);
    *shared = Arc::downgrade(&tree);
    Ok(tree)
}

fn mount_stopped(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<MountTree, Failure> {
    let failed = failed(container);
    let mount = inner.snapshots.describe(&container.id)?;
    let root = match inner.snapshots.open_described(&mount).map_err(&failed)? {
        Some(root) => root,
        None => directory_mount(&mount.target).map_err(&failed)?,
    };
    let mut parts = Vec::new();
    let mut volumes = Volumes { inner, user: String::new(), mounted: Vec::new() };
    for record in seen(container) {
        let handle = match record.kind {
            MountKind::Volume => Some(volumes.open(&record, &container.id)?),
            MountKind::Image => None,
            _ => Some(std::fs::File::open(launch::bind_source(&record)?).map_err(&failed)?.into()),
        };
        let tree = match handle {
            Some(handle) => mount_tree::clone_mount(handle.as_fd(), !record.non_recursive).map_err(&failed)?,
            None => {
                image_tree(inner, &inner.snapshots.describe(&record.snapshot)?, &record.subpath).map_err(&failed)?
            }
        };
        if !record.writable {
            MountChange { set: READ_ONLY, ..MountChange::default() }.apply(&tree).map_err(&failed)?;
        }
        parts.push(Part { mount: tree, destination: record.destination.into() });
    }
    for (source, place) in files::mounts(inner, container) {
        // They are made by the first start.
        if let Ok(file) = std::fs::File::open(source) {
            let mount = mount_tree::clone_mount(file.as_fd(), false).map_err(&failed)?;
            parts.push(Part { mount, destination: place.into() });
        }
    }
    MountTree::build(root, &mount.target, parts).map_err(&failed)
}

/// A mounted image, or a folder in it.
fn image_tree(inner: &Inner, mount: &RootfsMount, subpath: &str) -> std::io::Result<OwnedFd> {
    let whole = match inner.snapshots.open_described(mount)? {
        Some(whole) => whole,
        None => directory_mount(&mount.target)?,
    };
    if subpath.is_empty() {
        return Ok(whole);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Directory::from(rustix::fs::openat(&whole, ".", flags, Mode::empty())?);
    mount_tree::clone_mount(root.open_any(Path::new(subpath), true)?.as_fd(), false)
}

fn directory_mount(path: &Path) -> std::io::Result<OwnedFd> {
    mount_tree::clone_mount(Directory::open(path)?.as_fd(), false)
}

/// Volumes that were mounted to be copied into a tree. The copies keep what they need.
struct Volumes<'a> {
    inner: &'a Arc<Inner>,
    user: String,
    mounted: Vec<String>,
}

/// Tells those who look at one volume at the same time apart.
static NEXT_USER: AtomicU64 = AtomicU64::new(0);

impl Volumes<'_> {
    fn open(&mut self, record: &MountRecord, id: &str) -> Result<OwnedFd, Failure> {
        if self.user.is_empty() {
            self.user = format!("{id} files {}", NEXT_USER.fetch_add(1, Ordering::Relaxed));
        }
        let path = self.inner.volumes.mount(&record.volume, &self.user)?;
        self.mounted.push(record.volume.clone());
        if !record.subpath.is_empty() {
            return self.inner.volumes.open_subpath(&record.volume, Path::new(&record.subpath));
        }
        Directory::open(&path).map(OwnedFd::from).map_err(|error| Failure::internal(&error))
    }
}

impl Drop for Volumes<'_> {
    fn drop(&mut self) {
        for volume in &self.mounted {
            if let Err(failure) = self.inner.volumes.unmount(volume, &self.user) {
                tracing::warn!(volume, error = failure.message, "cannot unmount a volume");
            }
        }
    }
}
