//! Mounts: overlays, volumes with options, detached mounts that end with their handle.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    mount_bind_recursive, mount_change, move_mount, open_tree, unmount,
};

use crate::fs::handle_path;
use crate::user_namespace::UserNamespace;

/// Longest value of one option in the mount interface with handles.
const LONGEST_VALUE: usize = 255;

/// An overlay of directories.
#[derive(Debug, Clone, Default)]
pub struct Overlay<'a> {
    /// Directory that the lower names are in.
    pub layers: PathBuf,
    /// Names in it, the uppermost first.
    pub lower: Vec<String>,
    /// Directory for changes and one for the kernel's use; without them the overlay cannot be written to.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// Leave out every sync of the upper directory?
    pub volatile: bool,
    /// The ids of the lower directories are shown as this namespace maps them. The upper one has them as they are.
    pub lower_ids: Option<&'a UserNamespace>,
}

impl Overlay<'_> {
    /// Mounts it nowhere; the mount ends with the handle unless it is attached.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self) -> io::Result<OwnedFd> {
        match self.open_by_layer() {
            // Linux before 6.5 does not know `lowerdir+`: all in one string then.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) && self.lower_ids.is_none() => {
                self.open_by_string()
            }
            other => other,
        }
    }

    fn open_by_layer(&self) -> io::Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // Handles that shorten paths must stay open until the mount is made.
        let mut handles = Vec::new();
        fsconfig_set_string(&context, "source", "overlay")?;
        let layers = short_path(&self.layers, LONGEST_VALUE - 64, &mut handles)?;
        for name in &self.lower {
            match self.lower_ids {
                None => fsconfig_set_string(&context, "lowerdir+", layers.join(name))?,
                Some(user) => {
                    let mapped = clone_mapped(&layers.join(name), user)?;
                    fsconfig_set_string(&context, "lowerdir+", handle_path(mapped.as_fd()))?;
                    handles.push(mapped);
                }
            }
        }
        if let Some((upper, work)) = &self.upper {
            fsconfig_set_string(&context, "upperdir", short_path(upper, LONGEST_VALUE, &mut handles)?)?;
            fsconfig_set_string(&context, "workdir", short_path(work, LONGEST_VALUE, &mut handles)?)?;
            if self.volatile {
                fsconfig_set_flag(&context, "volatile")?;
            }
        }
        for &(name, value) in self.switches() {
            // A kernel without the feature does not know the word, and has it off.
            let _ = fsconfig_set_string(&context, name, value);
        }
        fsconfig_create(&context)?;
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
    }

    /// Features that would make the upper directory mean something only together with its lower ones.
    fn switches(&self) -> &'static [(&'static str, &'static str)] {
        if self.upper.is_some() {
            &[("redirect_dir", "off"), ("index", "off"), ("metacopy", "off"), ("xino", "off")]
        } else {
            &[]
        }
    }

    /// Paths are short (a handle's) so that many layers fit into the one page that the kernel takes.
    fn open_by_string(&self) -> io::Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let mut handles = Vec::new();
        fsconfig_set_string(&context, "source", "overlay")?;
        let layers = short_path(&self.layers, 0, &mut handles)?;
        let lower: Vec<String> = self.lower.iter().map(|name| layers.join(name).display().to_string()).collect();
        let lower = lower.join(":");
        if lower.len() > LONGEST_VALUE {
            return self.open_by_page(&lower);
        }
        fsconfig_set_string(&context, "lowerdir", lower.as_str())?;
        if let Some((upper, work)) = &self.upper {
            fsconfig_set_string(&context, "upperdir", short_path(upper, 0, &mut handles)?)?;
            fsconfig_set_string(&context, "workdir", short_path(work, 0, &mut handles)?)?;
            if self.volatile {
                fsconfig_set_flag(&context, "volatile")?;
            }
        }
        fsconfig_create(&context)?;
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
    }

    /// The old call takes a whole page, but needs a place: the mount is made on the work directory's parent and taken
    /// off again, leaving the handle.
    fn open_by_page(&self, lower: &str) -> io::Result<OwnedFd> {
        let Some((upper, work)) = &self.upper else { return Err(Errno::NAMETOOLONG.into()) };
        let mut handles = Vec::new();
        let mut options = format!(
            "lowerdir={lower},upperdir={},workdir={}",
            short_path(upper, 0, &mut handles)?.display(),
            short_path(work, 0, &mut handles)?.display()
        );
        if self.volatile {
            options.push_str(",volatile");
        }
        if options.len() >= 4096 {
            return Err(io::Error::new(io::ErrorKind::ArgumentListTooLong, "too many layers for this kernel"));
        }
        let place = work.parent().unwrap_or(work);
        let data = CString::new(options)?;
        mount("overlay", place, "overlay", MountFlags::empty(), Some(data.as_c_str()))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, place, flags);
        unmount(place, UnmountFlags::DETACH)?;
        Ok(tree?)
    }
}

/// The path itself, or when it is longer than `longest` a short one through a handle.
fn short_path(path: &Path, longest: usize, handles: &mut Vec<OwnedFd>) -> io::Result<PathBuf> {
    if path.as_os_str().len() <= longest {
        return Ok(path.to_owned());
    }
    let handle = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = handle_path(handle.as_fd());
    handles.push(handle);
    Ok(short)
}

/// Puts a detached mount in its place.
///
/// # Errors
/// The kernel's.
pub fn attach(tree: impl AsFd, target: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// A detached copy of the mount that an open file or directory is on, beginning there.
///
/// # Errors
/// The kernel's.
pub fn clone_tree(handle: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(handle, "", flags)?)
}

/// A detached mount of a directory that shows its files' ids as a user namespace maps them.
///
/// # Errors
/// `EINVAL` when the file system cannot do that.
pub fn clone_mapped(path: &Path, user: &UserNamespace) -> io::Result<OwnedFd> {
    let mount = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    crate::namespace::map_ids(&mount, user)?;
    Ok(mount)
}

/// Shows a directory or file at one place more.
///
/// # Errors
/// The kernel's.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount_bind_recursive(source, target)?)
}

/// Keeps mounts below this place to itself.
///
/// # Errors
/// The kernel's.
pub fn make_private(target: &Path) -> io::Result<()> {
    Ok(mount_change(target, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Takes a mount off; its users keep it until they are done. Not being one is fine.
///
/// # Errors
/// The kernel's.
pub fn detach(target: &Path) -> io::Result<()> {
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Is something mounted right here? Compares the file system with the one around it; an own copy of the same file
/// system (a bind) is told by its mount number.
///
/// # Errors
/// The kernel's.
pub fn is_mountpoint(target: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxFlags, statx};

    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let here = statx(CWD, target, flags, StatxFlags::MNT_ID)?;
    let around = statx(CWD, target.parent().unwrap_or(Path::new("/")), flags, StatxFlags::MNT_ID)?;
    Ok(here.stx_mnt_id != around.stx_mnt_id)
}

/// Mount options as `mount -o` takes them: what the kernel knows as flags, and the rest as text for the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    flags: MountFlags,
    bind: bool,
}

/// Reads options: flags, and what is left for the file system.
pub fn parse_options(text: &str) -> (Options, String) {
    let mut options = Options { flags: MountFlags::empty(), bind: false };
    let mut rest = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let flag = match word {
            "ro" => MountFlags::RDONLY,
            "noexec" => MountFlags::NOEXEC,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "sync" => MountFlags::SYNCHRONOUS,
            "dirsync" => MountFlags::DIRSYNC,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            "strictatime" => MountFlags::STRICTATIME,
            "bind" => {
                options.bind = true;
                MountFlags::empty()
            }
            "rbind" => {
                options.bind = true;
                MountFlags::REC
            }
            "rw" | "exec" | "suid" | "dev" | "async" | "atime" | "diratime" | "norelatime" | "nostrictatime"
            | "defaults" => {
                continue;
            }
            other => {
                rest.push(other);
                continue;
            }
        };
        options.flags |= flag;
    }
    (options, rest.join(","))
}

impl Options {
    /// Is it to show a directory of the host?
    pub fn is_bind(&self) -> bool {
        self.bind
    }
}

/// Mounts a file system as its user's options say.
///
/// # Errors
/// The kernel's.
pub fn mount_with(kind: &str, source: &str, target: &Path, options: &Options, data: &str) -> io::Result<()> {
    if options.bind {
        let recursive = options.flags.contains(MountFlags::REC);
        if recursive {
            mount_bind_recursive(source, target)?;
        } else {
            rustix::mount::mount_bind(source, target)?;
        }
        let rest = options.flags - MountFlags::REC;
        if !rest.is_empty() {
            // Flags of a bind only take effect in a second call.
            let again = rustix::mount::mount_remount(target, MountFlags::BIND | rest, c"");
            if let Err(error) = again {
                let _ = unmount(target, UnmountFlags::DETACH);
                return Err(error.into());
            }
        }
        return Ok(());
    }
    let data = CString::new(data)?;
    Ok(mount(source, target, kind, options.flags, Some(data.as_c_str()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split() {
        let (options, data) = parse_options("size=10m,ro,uid=1000,noexec,defaults");
        assert_eq!(data, "size=10m,uid=1000");
        assert_eq!(options.flags, MountFlags::RDONLY | MountFlags::NOEXEC);
        assert!(!options.is_bind());
        assert!(parse_options("bind").0.is_bind());
    }
}
