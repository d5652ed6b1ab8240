//! What is done with an open file, whatever its name.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Directory, FileKind, Metadata, timestamps};

/// What the kernel says about an open file.
///
/// # Errors
/// The kernel's.
pub fn metadata(file: impl AsFd) -> io::Result<Metadata> {
    Ok(Metadata::from_stat(&rustix::fs::fstat(file)?))
}

/// Opens the regular file that a handle without access stands for, for reading.
///
/// # Errors
/// The kernel's.
pub fn reopen(handle: impl AsFd) -> io::Result<File> {
    let path = handle_path(handle.as_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// The text of the symbolic link that a handle without access stands for.
///
/// # Errors
/// The kernel's.
pub fn link_text(handle: impl AsFd) -> io::Result<OsString> {
    Ok(OsString::from_vec(rustix::fs::readlinkat(handle, "", Vec::new())?.into_bytes()))
}

/// The path by which this process reaches an open handle. Valid as long as the handle is open.
pub fn handle_path(handle: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// Where an open file is, as the kernel knows it now.
///
/// # Errors
/// The kernel's.
pub fn real_path(handle: impl AsFd) -> io::Result<PathBuf> {
    let text = rustix::fs::readlink(handle_path(handle.as_fd()), Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
}

/// Sets owner and group of an open file.
///
/// # Errors
/// The kernel's.
pub fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

/// Sets the mode of an open file.
///
/// # Errors
/// The kernel's.
pub fn set_mode(file: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Sets owner and group of what a handle without access stands for.
///
/// # Errors
/// The kernel's.
pub fn set_handle_owner(handle: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(rustix::fs::chownat(handle, "", uid, gid, AtFlags::EMPTY_PATH)?)
}

/// Sets the mode of what a handle without access stands for, which must be no link.
///
/// # Errors
/// The kernel's.
pub fn set_handle_mode(handle: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(handle_path(handle.as_fd()), Mode::from_raw_mode(mode))?)
}

/// Opens without access what was made under a name just now. Where others can write they may have put something else
/// there, which is an error: it is not to be touched.
///
/// # Errors
/// The kernel's, or that it is something else by now.
pub fn just_made(parent: &Directory, name: &OsStr, kind: FileKind, device: (u32, u32)) -> io::Result<OwnedFd> {
    let handle = parent.open_name(name)?;
    let made = metadata(&handle)?;
    if (made.kind, made.special, made.links) != (kind, device, 1) {
        return Err(io::Error::other("it was replaced meanwhile"));
    }
    Ok(handle)
}

/// Sets access and modification time of an open file.
///
/// # Errors
/// The kernel's.
pub fn set_times(file: impl AsFd, modified: (i64, u32)) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(modified))?)
}

/// Sets an extended attribute of an open file. False when the file system does not have such attributes.
///
/// # Errors
/// The kernel's.
pub fn set_attribute(file: impl AsFd, name: &OsStr, value: &[u8]) -> io::Result<bool> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An extended attribute of an open file, if it has it.
///
/// # Errors
/// The kernel's.
pub fn attribute(file: impl AsFd, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; 256];
    loop {
        match rustix::fs::fgetxattr(&file, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(Errno::RANGE) if value.len() < 65536 => value.resize(65536, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Names of the extended attributes of an open file.
///
/// # Errors
/// The kernel's.
pub fn attributes(file: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut list = vec![0_u8; 1024];
    loop {
        match rustix::fs::flistxattr(&file, &mut list[..]) {
            Ok(length) => {
                list.truncate(length);
                break;
            }
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if list.len() < 65536 => list.resize(65536, 0),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect())
}

/// Waits until all that was written to the file system of this handle is on disk.
///
/// # Errors
/// The kernel's; also when an earlier write failed.
pub fn sync_filesystem(handle: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(handle)?)
}

/// Bytes that are free for root on the file system of this handle, and how many it has.
///
/// # Errors
/// The kernel's.
pub fn free_bytes(handle: impl AsFd) -> io::Result<(u64, u64)> {
    let status = rustix::fs::fstatvfs(handle)?;
    Ok((status.f_bfree.saturating_mul(status.f_frsize), status.f_blocks.saturating_mul(status.f_frsize)))
}

/// Replaces a file by one with this content, so that at any instant either the old or the new one is there whole, also
/// after a power cut.
///
/// # Errors
/// The kernel's.
pub fn replace_file(directory: &Directory, name: &OsStr, content: &[u8], mode: u32) -> io::Result<()> {
    use std::io::Write;

    let mut temporary = OsString::from(".new-");
    temporary.push(name);
    directory.remove_tree(&temporary)?;
    let mut file = directory.create_file(&temporary, mode)?;
    file.write_all(content)?;
    rustix::fs::fdatasync(&file)?;
    directory.rename(&temporary, directory, name)?;
    Ok(rustix::fs::fsync(directory)?)
}

/// A file name of the C kind, as readers of `/proc` give it.
pub fn os_name(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}
