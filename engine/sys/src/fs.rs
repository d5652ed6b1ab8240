//! Files below a directory handle.
//!
//! ## Design notes
//! Layers, container roots and volumes hold what strangers wrote, and may change while we look. So nothing in them is
//! reached by a path from the host's root: a [`Directory`] is a handle, paths are resolved by `openat2` with
//! `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS` (absolute links and `..` stay inside), and everything that creates or
//! removes takes one name in one directory and never follows a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags, Timespec, Timestamps,
    Uid,
};
use rustix::io::Errno;

mod copy;
mod file;

pub use copy::copy_content;
pub use file::{
    attribute, attributes, free_bytes, handle_path, just_made, link_text, metadata, os_name, real_path, reopen,
    replace_file, set_attribute, set_handle_mode, set_handle_owner, set_mode, set_owner, set_times, sync_filesystem,
};

/// Levels that a walk keeps open at once.
const DEEPEST_WALK: usize = 200;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Link,
    /// Character device.
    CharacterDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl FileKind {
    fn from_type(kind: FileType) -> Option<Self> {
        match kind {
            FileType::RegularFile => Some(Self::File),
            FileType::Directory => Some(Self::Directory),
            FileType::Symlink => Some(Self::Link),
            FileType::CharacterDevice => Some(Self::CharacterDevice),
            FileType::BlockDevice => Some(Self::BlockDevice),
            FileType::Fifo => Some(Self::Fifo),
            FileType::Socket => Some(Self::Socket),
            FileType::Unknown => None,
        }
    }

    fn as_type(self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Directory => FileType::Directory,
            Self::Link => FileType::Symlink,
            Self::CharacterDevice => FileType::CharacterDevice,
            Self::BlockDevice => FileType::BlockDevice,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
        }
    }
}

/// What the kernel says about a file; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Kind.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks on disk.
    pub blocks: u64,
    /// Last change of the content: seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// File system.
    pub device: u64,
    /// Number in it.
    pub inode: u64,
    /// Names it has.
    pub links: u64,
    /// Major and minor number of a device.
    pub special: (u32, u32),
}

impl Metadata {
    #[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between architectures")]
    fn from_stat(stat: &Stat) -> Self {
        Self {
            kind: FileKind::from_type(FileType::from_raw_mode(stat.st_mode)).unwrap_or(FileKind::File),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            modified: (stat.st_mtime as i64, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            links: stat.st_nlink as u64,
            special: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        }
    }

    /// Is it how overlayfs says that a name is gone?
    pub fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharacterDevice && self.special == (0, 0)
    }

    /// Is it a directory?
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name, never `.` or `..`.
    pub name: OsString,
    /// Number of the file.
    pub inode: u64,
}

/// An open directory.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Directory> for OwnedFd {
    fn from(directory: Directory) -> Self {
        directory.0
    }
}

impl From<OwnedFd> for Directory {
    /// The handle must be a directory that was opened for reading.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// One component: no slash, not empty, neither `.` nor `..`, no NUL.
fn one_name(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not one name", name.display())));
    }
    Ok(name)
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// What `statfs` says of a procfs.
pub const PROC_MAGIC: rustix::fs::FsWord = 0x9fa0;

/// Links that are followed on one way, as Go's `filepath.EvalSymlinks`.
const MAX_LINKS: u32 = 255;

/// What is done with links of a procfs, which mean more than their text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcLinks {
    /// They are followed like others.
    AsText,
    /// They lead nowhere.
    Refused,
}

/// Names and `..` of a path, the last first.
fn parts_reversed(path: &Path) -> Vec<OsString> {
    let wanted = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    wanted.rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// Resolves a path as if `root` were the root of everything.
fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something was renamed during the walk, so the kernel could not prove that `..` stayed inside.
    for _ in 0..127 {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

impl Directory {
    /// Opens a directory of the host by path. Only for paths that no stranger can change.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// One more handle of the same directory.
    ///
    /// # Errors
    /// When there are too many.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Opens a directory below this one, which is the root for absolute links and `..` on the way.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_dir(&self, path: &Path) -> io::Result<Self> {
        resolve(self.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY).map(Self)
    }

    /// Opens whatever is there without access to its content; a link at the end is followed only with `follow`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_any(&self, path: &Path, follow: bool) -> io::Result<OwnedFd> {
        let link = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        resolve(self.as_fd(), path, OFlags::PATH | link)
    }

    /// Opens a regular file for reading; anything else is an error and has no side effect.
    ///
    /// # Errors
    /// The kernel's, or that it is no regular file.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let handle = self.open_any(path, true)?;
        if metadata(&handle)?.kind != FileKind::File {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a regular file", path.display()),
            ));
        }
        reopen(&handle)
    }

    /// Opens whatever has this name without access to its content; links are not followed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_name(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self, one_name(name)?, flags, Mode::empty())?)
    }

    /// Opens the directory that a handle without access stands for.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(handle: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(handle, ".", flags, Mode::empty())?))
    }

    /// Opens the directory of this name; a link is an error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(self, one_name(name)?, flags, Mode::empty())?))
    }

    /// Where a path leads below this directory, without links: they are followed also when they lead to what is not there,
    /// as `/etc/resolv.conf -> ../run/resolv.conf` does in an image without `/run`. Nothing leads out of this directory.
    /// The answer was true when it was given: whoever opens it has the kernel resolve it once more.
    ///
    /// # Errors
    /// The kernel's; `ELOOP` when there are too many links, or one of a procfs that is not to be followed.
    pub fn settle(&self, path: &Path, procfs: ProcLinks) -> io::Result<PathBuf> {
        let mut left: Vec<OsString> = parts_reversed(path);
        let mut settled = PathBuf::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                settled.pop();
                continue;
            }
            settled.push(&part);
            let link = match self.open_any(&settled, false) {
                Ok(found) if metadata(&found)?.kind == FileKind::Link => found,
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            links += 1;
            let is_refused = || match procfs {
                ProcLinks::AsText => Ok(false),
                ProcLinks::Refused => rustix::fs::fstatfs(&link).map(|system| system.f_type == PROC_MAGIC),
            };
            if links > MAX_LINKS || is_refused()? {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = PathBuf::from(link_text(&link)?);
            settled.pop();
            if target.is_absolute() {
                settled = PathBuf::new();
            }
            left.extend(parts_reversed(&target));
        }
        Ok(settled)
    }

    /// Makes the directories of a path also where links lead to what is not there, and opens the last.
    ///
    /// # Errors
    /// As [`Self::make_path`] and [`Self::settle`].
    pub fn make_place(&self, path: &Path, mode: u32) -> io::Result<Self> {
        match self.open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_path(&self.settle(path, ProcLinks::Refused)?, mode)
            }
            other => other,
        }
    }

    /// Makes all directories of a path below this one that are missing, and opens the last. A link to what is not there is in
    /// the way.
    ///
    /// # Errors
    /// The kernel's; also when something else than a directory is in the way.
    pub fn make_path(&self, path: &Path, mode: u32) -> io::Result<Self> {
        match self.open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let Some(name) = path.file_name() else { return self.open_dir(path) };
        let parent = self.make_path(path.parent().unwrap_or(Path::new("")), mode)?;
        match parent.make_dir(name, mode) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        parent.enter(name)
    }

    /// Makes a new regular file, open for writing.
    ///
    /// # Errors
    /// The kernel's; also when the name is taken.
    pub fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self, one_name(name)?, flags, Mode::from_raw_mode(mode))?.into())
    }

    /// Makes a new directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(self, one_name(name)?, Mode::from_raw_mode(mode))?)
    }

    /// Makes a symbolic link with this text, whatever it says.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_link(&self, name: &OsStr, text: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(text, self, one_name(name)?)?)
    }

    /// Makes one more name for a file; a symbolic link gets the name itself, not what it leads to.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_hard_link(&self, name: &OsStr, from: &Self, from_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(from, one_name(from_name)?, self, one_name(name)?, AtFlags::empty())?)
    }

    /// Makes a device, pipe or socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_special(&self, name: &OsStr, kind: FileKind, mode: u32, (major, minor): (u32, u32)) -> io::Result<()> {
        let device = rustix::fs::makedev(major, minor);
        Ok(rustix::fs::mknodat(self, one_name(name)?, kind.as_type(), Mode::from_raw_mode(mode), device)?)
    }

    /// Removes a name that is no directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self, one_name(name)?, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self, one_name(name)?, AtFlags::REMOVEDIR)?)
    }

    /// Removes whatever has this name, with all that is in it. Missing is fine. Needs few handles however deep it is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_tree(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(self, one_name(name)?, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let top = self.enter(name)?;
        let mut moved = 0_u64;
        top.clear(&top, 0, &mut moved)?;
        // What was too deep has been moved to the top: as often as it takes, each time DEEPEST_WALK levels less.
        while moved > 0 {
            moved = 0;
            top.clear(&top, 0, &mut moved)?;
        }
        Ok(rustix::fs::unlinkat(self, name, AtFlags::REMOVEDIR)?)
    }

    fn clear(&self, top: &Self, depth: usize, moved: &mut u64) -> io::Result<()> {
        for entry in self.entries()? {
            match rustix::fs::unlinkat(self, &entry.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            if depth >= DEEPEST_WALK {
                let place = format!(".removing-{}-{moved}", entry.inode);
                rustix::fs::renameat(self, &entry.name, top, place.as_str())?;
                *moved += 1;
                continue;
            }
            self.enter(&entry.name)?.clear(top, depth + 1, moved)?;
            rustix::fs::unlinkat(self, &entry.name, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    /// Gives a file another name, in the place of what had it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rename(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(self, one_name(name)?, to, one_name(to_name)?)?)
    }

    /// What has this name; links are not followed. None when nothing has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match rustix::fs::statat(self, one_name(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Metadata::from_stat(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Is something mounted under this name? Whoever unlinks such a name from outside of the mount's namespace would take
    /// the mount away instead of being refused.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_mount_root(&self, name: &OsStr) -> io::Result<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let status = rustix::fs::statx(self, one_name(name)?, flags, StatxFlags::empty())?;
        Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    /// The text of a symbolic link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        let text = rustix::fs::readlinkat(self, one_name(name)?, Vec::new())?;
        Ok(OsString::from_vec(text.into_bytes()))
    }

    /// Sets owner and group of what has this name; links are not followed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_owner(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(rustix::fs::chownat(self, one_name(name)?, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets access and modification time of what has this name; links are not followed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_times(&self, name: &OsStr, modified: (i64, u32)) -> io::Result<()> {
        Ok(rustix::fs::utimensat(self, one_name(name)?, &timestamps(modified), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// All names in it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(self)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push(Entry { name: OsStr::from_bytes(name).to_owned(), inode: entry.ino() });
            }
        }
        Ok(entries)
    }

    /// Is there nothing in it?
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_empty(&self) -> io::Result<bool> {
        for entry in Dir::read_from(self)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
