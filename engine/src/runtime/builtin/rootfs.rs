//! The root file system and everything that is mounted in it, from inside the new mount namespace.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use shoal_engine_sys::fs::{self, Directory, FileKind, PROC_MAGIC, ProcLinks};
use shoal_engine_sys::mount_tree;
use shoal_engine_sys::namespace::MountChange;
use shoal_engine_sys::user_namespace::UserNamespace;

use super::options::{self, Options};
use super::stage::Stage;
use super::{cannot, cgroups, dev};
use crate::runtime::isolate;
use crate::runtime::spec::REPLACEABLE_IN_PROC;
use crate::shim::config::ShimConfig;
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// The container's root: its mount, and its directory.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) mount: OwnedFd,
    pub(super) directory: Directory,
    /// Mounts of the kernel's own file systems, and where they were attached. What is hidden in them is looked up in
    /// them: where they are by now is up to whoever can rename a directory above (CVE-2025-52881).
    kernels_own: RefCell<Vec<(PathBuf, Directory)>>,
    /// What the host's root has mounted for a container in a user namespace.
    stage: Option<Stage>,
}

/// The root file system, mounted nowhere yet. `user` is the container's own user namespace.
pub(super) fn layered(config: &ShimConfig, path: &Path, user: Option<&UserNamespace>) -> io::Result<OwnedFd> {
    match config.rootfs.as_ref().map(|rootfs| rootfs.open(user)).transpose()?.flatten() {
        Some(mount) => Ok(mount),
        None => clone_tree(path, true),
    }
}

impl Root {
    /// The root of a container in a user namespace: it was mounted before that was entered.
    pub(super) fn of_stage(stage: Stage) -> Result<Self, RuntimeFailure> {
        let make = || -> io::Result<Self> {
            let mount = stage.root()?;
            MountChange { propagation: options::PRIVATE, recursive: false, ..MountChange::default() }.apply(&mount)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(&mount, ".", flags, Mode::empty())?.into();
            Ok(Self { mount, directory, kernels_own: RefCell::default(), stage: Some(stage) })
        };
        make().map_err(|error| cannot("mount the root file system", &error))
    }

    /// Mounts the root file system where the specification says, seen by this process only.
    pub(super) fn mount(config: &ShimConfig, spec: &Spec, linux: &Linux) -> Result<Self, RuntimeFailure> {
        let failed = |error: io::Error| cannot("mount the root file system", &error);
        let root = spec.root().as_ref();
        let path = root.ok_or_else(|| RuntimeFailure::other("the specification has no root"))?.path();
        isolate(path, linux.rootfs_propagation().as_deref()).map_err(failed)?;
        let mount = layered(config, path, None).map_err(failed)?;
        MountChange { propagation: options::PRIVATE, recursive: false, ..MountChange::default() }
            .apply(&mount)
            .map_err(failed)?;
        move_mount(&mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|error| failed(error.into()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&mount, ".", flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self { mount, directory: directory.into(), kernels_own: RefCell::default(), stage: None })
    }

    /// Makes all mounts, devices, masks.
    pub(super) fn furnish(&self, config: &ShimConfig, spec: &Spec, linux: &Linux) -> Result<(), RuntimeFailure> {
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        for (index, mount) in mounts.iter().enumerate() {
            self.add(config, linux, mount, index)
                .map_err(|error| cannot(&format!("mount {:?} at {:?}", kind(mount), mount.destination()), &error))?;
        }
        // As runc: a /dev from outside is left as it is.
        let foreign = mounts.iter().any(|mount| mount.destination() == Path::new("/dev") && kind(mount) == "bind");
        if !foreign {
            dev::fill(&self.directory, linux.devices().as_deref().unwrap_or_default(), self.stage.as_ref())?;
        }
        self.write_sysctls(linux)?;
        self.make_read_only(linux).map_err(|error| cannot("make paths read-only", &error))?;
        self.mask(linux).map_err(|error| cannot("mask paths", &error))?;
        if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true) {
            MountChange { set: options::READ_ONLY, ..MountChange::default() }
                .apply(&self.mount)
                .map_err(|error| cannot("make the root read-only", &error))?;
        }
        Ok(())
    }

    fn add(&self, config: &ShimConfig, linux: &Linux, mount: &Mount, index: usize) -> io::Result<()> {
        let words = mount.options().as_deref().unwrap_or_default();
        let options = Options::parse(words).map_err(|failure| io::Error::other(failure.message))?;
        match kind(mount) {
            "bind" => {
                let tree = match &self.stage {
                    None => bind_tree(config, mount, &options, None)?,
                    Some(stage) => stage.take_mount(index)?,
                };
                let is_directory = fs::metadata(&tree)?.kind == FileKind::Directory;
                attach(&tree, self.target(mount.destination(), is_directory)?)
            }
            "cgroup" | "cgroup2" => cgroups::add(self, config, linux, mount.destination(), &options),
            kind => self.add_file_system(kind, mount, &options),
        }
    }

    fn add_file_system(&self, kind: &str, mount: &Mount, options: &Options) -> io::Result<()> {
        let mut options = options.clone();
        let takes_mode = kind == "tmpfs" && !options.data.iter().any(|(key, _)| key == "mode");
        let takes_mode = takes_mode && self.directory.open_any(mount.destination(), true).is_ok();
        let target = match kind {
            // Where these are has a meaning to whoever writes to them: never at the end of a link (CVE-2019-19921).
            "proc" | "sysfs" => self.plain_target(mount.destination())?,
            _ => self.target(mount.destination(), true)?,
        };
        if takes_mode {
            // As runc: over a directory of the image, a tmpfs looks like it, and elsewhere everybody may write to it.
            let mode = fs::metadata(&target)?.mode & 0o7777;
            options.data.push(("mode".to_owned(), Some(format!("{mode:o}"))));
        }
        let source = mount.source().as_ref().map_or_else(|| kind.into(), |source| source.to_string_lossy());
        let file_system = new_file_system(kind, &source, &options)?;
        if let Some((propagation, _)) = options.propagation {
            MountChange { propagation, ..MountChange::default() }.apply(&file_system)?;
        }
        attach(&file_system, &target)?;
        if matches!(kind, "proc" | "sysfs") {
            let own = (mount.destination().clone(), Directory::of(&file_system)?);
            self.kernels_own.borrow_mut().push(own);
        }
        Ok(())
    }

    /// The place to mount at, made when it is missing.
    pub(super) fn target(&self, path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
        let place = match self.directory.open_any(path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_target(path, is_directory)?,
            found => found?,
        };
        // Over a link of the image, or of who shares a volume with it: that the text says otherwise was checked before
        // (CVE-2019-16884).
        let is_allowed = || REPLACEABLE_IN_PROC.iter().any(|allowed| path == Path::new(allowed));
        if rustix::fs::fstatfs(&place)?.f_type == PROC_MAGIC && !is_allowed() {
            return Err(io::Error::other("it is inside /proc"));
        }
        Ok(place)
    }

    fn make_target(&self, path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
        if is_directory {
            return self.directory.make_place(path, 0o755).map(Into::into);
        }
        let path = &self.directory.settle(path, ProcLinks::Refused)?;
        let parent = self.directory.make_path(path.parent().unwrap_or(Path::new("/")), 0o755)?;
        let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(parent.create_file(name, 0o755)?.into())
    }

    /// The same for a directory that no link may be on the way to.
    fn plain_target(&self, path: &Path) -> io::Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for _ in 0..2 {
            match rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), how) {
                Err(rustix::io::Errno::NOENT) => self.directory.make_path(path, 0o755).map(drop)?,
                Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                    return Err(io::Error::other("it must be mounted on an ordinary directory"));
                }
                other => return Ok(other?),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Through a procfs that the container cannot have changed (CVE-2025-52881).
    fn write_sysctls(&self, linux: &Linux) -> Result<(), RuntimeFailure> {
        let Some(sysctls) = linux.sysctl().as_ref().filter(|sysctls| !sysctls.is_empty()) else { return Ok(()) };
        let proc = new_file_system("proc", "proc", &Options::default());
        let proc = proc.map_err(|error| cannot("mount a procfs for sysctls", &error))?;
        for (name, value) in sysctls {
            let path = format!("sys/{}", name.replace('.', "/"));
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let file = rustix::fs::openat2(&proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), how);
            let written = file.and_then(|file| rustix::io::write(file, value.as_bytes()));
            written.map_err(|error| cannot(&format!("set sysctl {name} to {value:?}"), &error.into()))?;
        }
        Ok(())
    }

    fn make_read_only(&self, linux: &Linux) -> io::Result<()> {
        for path in linux.readonly_paths().iter().flatten() {
            let Some(target) = self.existing(path)? else { continue };
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH
                | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(&target, "", flags)?;
            let set = options::READ_ONLY;
            MountChange { set, recursive: true, ..MountChange::default() }.apply(&tree)?;
            attach(&tree, &target)?;
        }
        Ok(())
    }

    /// Directories by an empty tmpfs, files by the null device, which has to be one (CVE-2025-31133).
    fn mask(&self, linux: &Linux) -> io::Result<()> {
        let mut empty: Option<OwnedFd> = None;
        for path in linux.masked_paths().iter().flatten() {
            let Some(target) = self.existing(path)? else { continue };
            if fs::metadata(&target)?.kind != FileKind::Directory {
                attach(&clone_handle(&self.null_device()?)?, &target)?;
            } else if let Some(empty) = &empty {
                attach(&clone_handle(empty)?, &target)?;
            } else {
                let set = options::READ_ONLY | options::NO_SUID | options::NO_DEVICES | options::NO_EXECUTION;
                let options =
                    Options { set, data: vec![("nr_inodes".to_owned(), Some("2".to_owned()))], ..Options::default() };
                let made = new_file_system("tmpfs", "tmpfs", &options)?;
                attach(&made, &target)?;
                empty = Some(made);
            }
        }
        Ok(())
    }

    fn existing(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        let path = Path::new(path);
        let own = self.kernels_own.borrow();
        let inside = own.iter().rev().find_map(|(place, own)| Some((own, path.strip_prefix(place).ok()?)));
        let (directory, path) = inside.unwrap_or((&self.directory, path));
        match directory.open_any(path, true) {
            Ok(found) => Ok(Some(found)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn null_device(&self) -> io::Result<OwnedFd> {
        let found = self.directory.open_any(Path::new("/dev/null"), false)?;
        let status = rustix::fs::fstat(&found)?;
        let is_null = rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::CharacterDevice
            && (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev)) == (1, 3);
        if is_null { Ok(found) } else { Err(io::Error::other("/dev/null is not the null device")) }
    }

    /// Makes it this process's root, and lets the host's go.
    pub(super) fn enter(&self, linux: &Linux) -> io::Result<()> {
        let old = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::process::fchdir(&self.directory)?;
        rustix::process::pivot_root(".", ".")?;
        rustix::process::fchdir(&old)?;
        // What is unmounted here is unmounted nowhere else.
        mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        let propagation = linux.rootfs_propagation().as_deref();
        if let Some(kind) = propagation.and_then(|word| options::propagation(word.trim_start_matches('r'))) {
            MountChange { propagation: kind, ..MountChange::default() }.apply(&self.mount)?;
        }
        Ok(())
    }
}

/// Is it a bind mount?
pub(super) fn is_bind(mount: &Mount) -> bool {
    kind(mount) == "bind"
}

/// What a bind mount shows, mounted nowhere yet.
pub(super) fn bind_tree(
    config: &ShimConfig,
    mount: &Mount,
    options: &Options,
    user: Option<&UserNamespace>,
) -> io::Result<OwnedFd> {
    let subpath = config.subpaths.get(mount.destination()).map(PathBuf::as_path);
    if let Some(image) = config.images.get(mount.destination()) {
        // Where the host's root still is: it goes with that.
        image.mount(user)?;
    }
    let source = mount.source().as_deref().ok_or_else(|| io::Error::other("a bind mount needs a source"))?;
    if !options.data.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("unknown options: {:?}", options.data)));
    }
    let recursive = options.bind.unwrap_or(true);
    let tree = match subpath {
        None => match of_other_process(source) {
            Some((namespace, path)) => copy_from(&namespace, &path)?,
            None => clone_tree(source, recursive)?,
        },
        Some(subpath) => clone_below(&Directory::open(source)?.open_any(subpath, true)?, recursive)?,
    };
    let (kind, recursive) = options.propagation.unwrap_or((options::PRIVATE, true));
    MountChange { propagation: kind, recursive, ..MountChange::default() }.apply(&tree)?;
    for change in options.changes() {
        change.apply(&tree)?;
    }
    Ok(tree)
}

/// `/proc/<pid>/root/...` is on a mount of another process's, which the kernel copies only for who is in its mount namespace.
fn of_other_process(source: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut parts = source.strip_prefix("/proc").ok()?.components();
    let pid = parts.next()?.as_os_str().to_str()?.parse::<u32>().ok()?;
    (parts.next()?.as_os_str() == "root")
        .then(|| (PathBuf::from(format!("/proc/{pid}/ns/mnt")), Path::new("/").join(parts.as_path())))
}

fn copy_from(namespace: &Path, path: &Path) -> io::Result<OwnedFd> {
    let namespace = std::fs::File::open(namespace)?;
    mount_tree::copy_one_from(namespace.as_fd(), path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What is to be mounted: runc's rule for what is a bind mount.
fn kind(mount: &Mount) -> &str {
    let words = mount.options().as_deref().unwrap_or_default();
    if words.iter().any(|word| word == "bind" || word == "rbind") {
        return "bind";
    }
    mount.typ().as_deref().unwrap_or("bind")
}

/// A file system that is mounted nowhere yet.
pub(super) fn new_file_system(kind: &str, source: &str, options: &Options) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (key, value) in &options.data {
        let set = match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        };
        set.map_err(|error| {
            let option = value.as_ref().map_or_else(|| key.clone(), |value| format!("{key}={value}"));
            io::Error::new(io::Error::from(error).kind(), format!("option {option:?}: {}", io::Error::from(error)))
        })?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(options.set).unwrap_or(0));
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of what is mounted at a path of the host.
pub(super) fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, path, flags)?)
}

/// A detached copy of the mount that is behind a descriptor.
pub(super) fn clone_handle(handle: impl AsFd) -> io::Result<OwnedFd> {
    clone_below(handle, false)
}

/// The same, with the mounts below it if wanted.
pub(super) fn clone_below(handle: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(handle, "", flags)?)
}

/// Puts a detached mount where a descriptor is.
pub(super) fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}

/// What a specification may not ask of the root.
pub(super) fn check(linux: &Linux) -> Result<(), RuntimeFailure> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable") => Ok(()),
        Some(other) => {
            Err(RuntimeFailure::new(FailureKind::CannotApply, format!("unknown root propagation {other:?}")))
        }
    }
}
