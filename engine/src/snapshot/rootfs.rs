//! Root file systems as values that travel, and as mounts.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_engine_sys::fs::{self, Directory};
use shoal_engine_sys::mount::{self, Overlay};
use shoal_engine_sys::user_namespace::UserNamespace;

use super::SnapshotDriver;
use crate::remap::IdMap;

/// How the root file system of a container is put together. Goes to the shim as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsMount {
    /// Where it belongs: an empty directory, or with [`RootfsKind::Directory`] the root itself.
    pub target: PathBuf,
    /// What it consists of.
    pub kind: RootfsKind,
}

/// The ways to put a root together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum RootfsKind {
    /// An overlay of layers.
    Overlay {
        /// Directory that the short names of the layers are in.
        layers: PathBuf,
        /// Short names, the uppermost first.
        lower: Vec<String>,
        /// Directory for changes.
        upper: PathBuf,
        /// Directory for the kernel's own use.
        work: PathBuf,
        /// Leave out every sync? For containers that do not outlive a power cut.
        volatile: bool,
        /// How the ids of the layers are shown; those of the changes are on the disk as they are shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id_map: Option<IdMap>,
    },
    /// A directory with a copy of all layers.
    Directory,
}

impl RootfsMount {
    /// Mounts it nowhere; the mount ends with the handle unless it is attached. None where nothing is to be mounted.
    /// Blocks; needs no runtime, so that a shim can say it. A root with mapped ids needs a user namespace with that map: the
    /// container's own, where there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self, user: Option<&UserNamespace>) -> io::Result<Option<OwnedFd>> {
        let RootfsKind::Overlay { layers, lower, upper, work, volatile, id_map } = &self.kind else {
            return Ok(None);
        };
        let lower_ids = match id_map {
            None => None,
            Some(_) => Some(user.ok_or_else(|| io::Error::other("its layers are mapped, by no user namespace"))?),
        };
        if *volatile {
            // The kernel's mark that this was mounted without syncs; it would refuse to mount it again.
            match Directory::open(work).and_then(|work| work.remove_tree(OsStr::new("work"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let overlay = Overlay {
            layers: layers.clone(),
            lower: lower.clone(),
            upper: Some((upper.clone(), work.clone())),
            volatile: *volatile,
            lower_ids,
        };
        overlay.open().map(Some)
    }

    /// Mounts it at its target, in the caller's mount namespace: see [`Self::open`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount(&self, user: Option<&UserNamespace>) -> io::Result<()> {
        match self.open(user)? {
            Some(tree) => mount::attach(tree, &self.target),
            None => Ok(()),
        }
    }
}

/// The root of a container that does not run, as long as this lives.
#[derive(Debug)]
pub struct MountedRoot {
    root: Directory,
    /// Ends the mount when it is closed.
    _mount: Option<OwnedFd>,
}

impl MountedRoot {
    /// The root directory.
    pub fn directory(&self) -> &Directory {
        &self.root
    }
}

impl AsFd for MountedRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl From<MountedRoot> for Directory {
    /// The handle alone keeps what it needs of the mount.
    fn from(mounted: MountedRoot) -> Self {
        mounted.root
    }
}

/// Opens the root of a mount, or a directory where nothing is mounted.
pub(super) fn mounted(tree: Option<OwnedFd>, path: &Path) -> io::Result<MountedRoot> {
    let root = match &tree {
        Some(tree) => Directory::open(&fs::handle_path(tree.as_fd()))?,
        None => Directory::open(path)?,
    };
    Ok(MountedRoot { root, _mount: tree })
}

/// Tries an overlay on this file system, writing included. The inner result tells whether that works.
pub(super) fn try_overlay(path: &Path, root: &Directory, user: Option<&UserNamespace>) -> io::Result<io::Result<()>> {
    let name = OsStr::new(".probe");
    root.remove_tree(name)?;
    for part in ["lower", "upper", "work"] {
        root.make_path(&Path::new(".probe").join(part), 0o700)?;
    }
    let probe = path.join(".probe");
    let overlay = Overlay {
        layers: probe.clone(),
        lower: vec!["lower".to_owned()],
        upper: Some((probe.join("upper"), probe.join("work"))),
        lower_ids: user,
        ..Overlay::default()
    };
    let works = overlay.open().and_then(|tree| {
        let mounted = mounted(Some(tree), Path::new(""))?;
        mounted.directory().make_dir(OsStr::new("made"), 0o700)
    });
    root.remove_tree(name)?;
    Ok(works)
}

/// Does overlayfs work on this file system?
pub(super) fn probe(path: &Path, root: &Directory) -> io::Result<SnapshotDriver> {
    Ok(match try_overlay(path, root, None)? {
        Ok(()) => SnapshotDriver::Overlay,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "overlayfs does not work here: roots will be copies");
            SnapshotDriver::Copy
        }
    })
}

#[cfg(test)]
mod tests {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
    use shoal_engine_sys::user_namespace::Maps;

    use super::*;

    /// A file system of its own, mounted nowhere.
    fn file_system(kind: &str) -> OwnedFd {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_create(&context).unwrap();
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
    }

    #[test]
    fn mapped_overlays_are_tried_where_they_are_to_be() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let user = UserNamespace::create(Maps { uids: "0 300000 1000\n", gids: "0 400000 1000\n" }).unwrap();
        let attempt = |kind: &str| {
            let mount = file_system(kind);
            let path = fs::handle_path(mount.as_fd());
            let root = Directory::open(&path).unwrap();
            let works = try_overlay(&path, &root, Some(&user)).unwrap();
            assert!(root.entries().unwrap().is_empty(), "{kind}: something is left");
            works
        };
        attempt("tmpfs").unwrap();
        attempt("ramfs").unwrap_err();
    }

    #[test]
    fn mapped_layers_need_the_namespace_that_maps_them() {
        let kind = RootfsKind::Overlay {
            layers: PathBuf::from("/nowhere"),
            lower: vec!["a".to_owned()],
            upper: PathBuf::from("/nowhere/upper"),
            work: PathBuf::from("/nowhere/work"),
            volatile: false,
            id_map: Some(IdMap { uids: Vec::new(), gids: Vec::new() }),
        };
        let refused = RootfsMount { target: PathBuf::from("/nowhere/root"), kind }.open(None).unwrap_err();
        assert!(refused.to_string().contains("user namespace"), "{refused}");
    }
}
