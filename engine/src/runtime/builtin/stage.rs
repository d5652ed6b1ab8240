//! What a container in a user namespace gets from the host: made by the host's root, kept where both can reach it.
//!
//! ## Design notes
//! - In its user namespace the container's first process may neither mount an overlay nor make devices, nor go through
//!   every folder of the host. So what needs the host's rights is mounted before, on a stage: a small file system of its
//!   own, in a mount namespace of the host's user namespace that only this process has.
//! - The mount namespace made in the user namespace is a copy of that one. The kernel locks what it copies for the less
//!   privileged: the container cannot take off a mount that the host made, nor make writable what the host made read-only.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{Linux, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, move_mount};
use shoal_engine_sys::fs::{self, Directory, FileKind};
use shoal_engine_sys::user_namespace::UserNamespace;

use super::options::Options;
use super::rootfs::{attach, bind_tree, clone_below, is_bind, layered, new_file_system};
use super::{cannot, dev};
use crate::runtime::isolate;
use crate::shim::config::ShimConfig;
use crate::shim::protocol::RuntimeFailure;

const ROOT: &str = "root";

/// The stage, as this process sees it: before the change of namespaces, or after it.
#[derive(Debug)]
pub(super) struct Stage {
    directory: Directory,
}

impl Stage {
    /// Makes it where the root belongs, and makes it this process's working directory, which the change of namespaces keeps.
    pub(super) fn set(
        config: &ShimConfig,
        spec: &Spec,
        linux: &Linux,
        user: &UserNamespace,
    ) -> Result<(), RuntimeFailure> {
        let path = spec.root().as_ref().ok_or_else(|| RuntimeFailure::other("the specification has no root"))?.path();
        let failed = |error: io::Error| cannot("mount the root file system", &error);
        isolate(path, linux.rootfs_propagation().as_deref()).map_err(failed)?;
        let root = layered(config, path, Some(user)).map_err(failed)?;
        let stage = Self::mount(path).map_err(|error| cannot("make a place for the host's mounts", &error))?;
        stage.put(ROOT, &root).map_err(failed)?;
        for (index, mount) in spec.mounts().iter().flatten().enumerate().filter(|(_, mount)| is_bind(mount)) {
            stage
                .bind(config, index, mount, user)
                .map_err(|error| cannot(&format!("mount {:?} at {:?}", mount.source(), mount.destination()), &error))?;
        }
        let nodes = linux.devices().as_deref().unwrap_or_default();
        dev::stage(&stage.directory, nodes)?;
        rustix::process::fchdir(&stage.directory).map_err(|error| failed(error.into()))
    }

    fn mount(path: &Path) -> io::Result<Self> {
        let data = vec![("mode".to_owned(), Some("711".to_owned())), ("size".to_owned(), Some("1m".to_owned()))];
        let tree = new_file_system("tmpfs", "shoal", &Options { data, ..Options::default() })?;
        move_mount(&tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Self::open(&tree)
    }

    fn open(handle: impl std::os::fd::AsFd) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::openat(handle, ".", flags, Mode::empty())?.into() })
    }

    /// The stage in the namespaces of the container.
    pub(super) fn found() -> io::Result<Self> {
        Self::open(CWD)
    }

    fn bind(&self, config: &ShimConfig, index: usize, mount: &Mount, user: &UserNamespace) -> io::Result<()> {
        let words = mount.options().as_deref().unwrap_or_default();
        let mut options = Options::parse(words).map_err(|failure| io::Error::other(failure.message))?;
        let shared = options.propagation.filter(|(kind, _)| *kind == super::options::SHARED);
        if let Some((_, recursive)) = shared {
            // Mounts of the host may come in, but none of a container with fewer rights may go out.
            options.propagation = Some((super::options::SLAVE, recursive));
        }
        self.put(&index.to_string(), &bind_tree(config, mount, &options, Some(user))?)
    }

    fn put(&self, name: &str, tree: &OwnedFd) -> io::Result<()> {
        let name = OsStr::new(name);
        match fs::metadata(tree)?.kind {
            FileKind::Directory => self.directory.make_dir(name, 0o700)?,
            _ => drop(self.directory.create_file(name, 0o600)?),
        }
        attach(tree, self.directory.open_any(Path::new(name), false)?)
    }

    /// A detached copy of what was put on it, for the container.
    pub(super) fn take(&self, name: &str) -> io::Result<OwnedFd> {
        clone_below(self.directory.open_any(Path::new(name), false)?, true)
    }

    /// The mount of the specification with this number.
    pub(super) fn take_mount(&self, index: usize) -> io::Result<OwnedFd> {
        self.take(&index.to_string())
    }

    /// A device.
    pub(super) fn take_device(&self, name: &str) -> io::Result<OwnedFd> {
        clone_below(self.directory.open_any(&Path::new(dev::STAGED).join(name), false)?, false)
    }

    /// Puts the root in its place, as a mount that the container may go into.
    pub(super) fn root(&self) -> io::Result<OwnedFd> {
        let tree = self.take(ROOT)?;
        attach(&tree, self.directory.open_any(Path::new(ROOT), false)?)?;
        Ok(tree)
    }
}
