//! Trees of mounts that only the holder of a handle can reach: a root with other mounts in it, seen by no process.
//!
//! ## Design notes
//! The tree is put together in a mount namespace of its own, by a thread that makes nothing but system calls there and
//! ends; the namespace lives on with its handle. The kernel then resolves every path in the tree, mounts and links
//! included, below the root's directory handle.

#![expect(unsafe_code, reason = "the kernel's calls for a thread's own namespaces have no safe wrappers")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::fs::Directory;
use crate::namespace::MountChange;

/// A detached mount, and where it is to appear below the root.
#[derive(Debug)]
pub struct Part {
    /// The mount.
    pub mount: OwnedFd,
    /// Where. Links on the way stay inside the root.
    pub destination: PathBuf,
}

/// A root with other mounts in it.
#[derive(Debug)]
pub struct MountTree {
    root: Directory,
    bare: OwnedFd,
    /// Keeps the mounts together.
    _namespace: OwnedFd,
}

impl MountTree {
    /// Puts a tree together. `root` is a detached mount, `place` an empty directory of the host to attach it to while the
    /// tree is made. Missing places of parts are made, as directories or files.
    ///
    /// # Errors
    /// The kernel's.
    pub fn build(root: OwnedFd, place: &Path, parts: Vec<Part>) -> io::Result<Self> {
        let place = place.to_owned();
        on_own_thread(move || {
            // SAFETY: this thread's view of the file system changes, not memory or descriptors.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            let namespace = OFlags::RDONLY | OFlags::CLOEXEC;
            let namespace = rustix::fs::open("/proc/thread-self/ns/mnt", namespace, Mode::empty())?;
            move_mount(&root, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            let directory = rustix::fs::openat(&root, ".", directory_flags(), Mode::empty())?;
            leave_host(&directory)?;
            let directory = Directory::from(directory);
            let bare = clone_mount(directory.as_fd(), false)?;
            for part in parts {
                attach(&directory, &part)?;
            }
            Ok(Self { root: directory, bare, _namespace: namespace })
        })
    }

    /// The root directory. Paths below it may only be resolved in it.
    pub fn root(&self) -> &Directory {
        &self.root
    }

    /// The root directory without the other mounts: what lies below them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bare(&self) -> io::Result<Directory> {
        Directory::of(&self.bare)
    }
}

/// Makes a directory the root of all mounts: what the host has mounted is none of this tree's business, and must not be
/// kept busy by it.
fn leave_host(directory: &OwnedFd) -> io::Result<()> {
    fchdir(directory)?;
    match pivot_root(".", ".") {
        // A host that runs from its initial memory file system cannot do that: its mounts stay beside the tree.
        Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(unmount(".", UnmountFlags::DETACH)?),
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn attach(root: &Directory, part: &Part) -> io::Result<()> {
    let is_directory = crate::fs::metadata(&part.mount)?.is_dir();
    let target = match root.open_any(&part.destination, true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_target(root, &part.destination, is_directory)?,
        found => found?,
    };
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&part.mount, "", &target, "", empty)?)
}

fn make_target(root: &Directory, path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
    if is_directory {
        return Ok(root.make_path(path, 0o755)?.into());
    }
    let parent = root.make_path(path.parent().unwrap_or(Path::new("")), 0o755)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(parent.create_file(name, 0o755)?.into())
}

/// What was found in the mount namespace of another process.
#[derive(Debug)]
pub struct Found {
    /// A detached copy of its root mount alone, without what is mounted in it.
    pub root: OwnedFd,
    /// Detached copies of what is at the wanted places, each with all that is mounted below; `None` where nothing is.
    pub parts: Vec<Option<OwnedFd>>,
}

/// Copies the root and what is at some places of it out of another mount namespace. Paths are resolved in that root.
///
/// # Errors
/// The kernel's; also when that namespace has the caller's own root.
pub fn copy_from(namespace: OwnedFd, wanted: Vec<PathBuf>) -> io::Result<Found> {
    let own = statx(CWD, "/", AtFlags::empty(), StatxFlags::BASIC_STATS)?;
    on_own_thread(move || {
        // SAFETY: from here on this thread's root and working directory are its own, as joining a namespace requires.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        let root = rustix::fs::open("/", directory_flags(), Mode::empty())?;
        let there = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let identity = |status: &Statx| (status.stx_dev_major, status.stx_dev_minor, status.stx_ino);
        if identity(&own) == identity(&there) {
            return Err(io::Error::other("the other namespace has the root of this one"));
        }
        let parts = wanted.iter().map(|path| copy_part(root.as_fd(), path)).collect::<io::Result<_>>()?;
        Ok(Found { root: clone_mount(root.as_fd(), false)?, parts })
    })
}

/// Copies what is at a path in another mount namespace, with all that is mounted below; `None` where nothing is. For a
/// process with one thread, which is there for a moment: its root and working directory are its namespace's afterwards.
///
/// # Errors
/// The kernel's.
pub fn copy_one_from(namespace: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    let own = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))?;
    let found = rustix::fs::open("/", directory_flags(), Mode::empty())
        .map_err(io::Error::from)
        .and_then(|root| copy_part(root.as_fd(), path));
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))?;
    found
}

fn copy_part(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..127 {
        let opened = rustix::fs::openat2(root, relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how);
        match opened {
            // Something was renamed during the walk.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            found => return clone_mount(found?.as_fd(), true).map(Some),
        }
    }
    Err(Errno::AGAIN.into())
}

/// A detached copy of what a handle is the root of, which nothing that is mounted elsewhere reaches.
///
/// # Errors
/// The kernel's.
pub fn clone_mount(handle: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(handle, "", flags)?;
    MountChange { propagation: libc::MS_PRIVATE, recursive, ..MountChange::default() }.apply(&tree)?;
    Ok(tree)
}

/// Runs work on a thread of its own, which ends with it: what the work does to the thread's namespaces ends with it, too.
fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("mount-tree".to_owned()).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that puts mounts together failed")))
}
