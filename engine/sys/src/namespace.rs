//! Entering the namespaces of another process, and having mounts of one's own.

#![expect(unsafe_code, reason = "the kernel's call for new namespaces has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

/// A process that cannot be mistaken for a later one with the same number.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn open_process(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Does a process still run? One that has ended but was not waited for does not.
pub fn is_alive(process: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    matches!(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// Moves this (single-threaded) process into all namespaces of the process behind `pidfd`, in one step: either into all of
/// them or into none. Its children will be in the process's PID namespace; it itself stays.
///
/// The user namespace is joined, as its root, only when it is another one, since joining one's own is refused; that of time,
/// since few containers have one.
///
/// # Errors
/// As `setns(2)`.
pub fn enter_all(pidfd: impl AsFd, pid: u32) -> io::Result<()> {
    let mut kinds = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::CONTROL_GROUP;
    let other_user = std::fs::read_link("/proc/self/ns/user")? != std::fs::read_link(format!("/proc/{pid}/ns/user"))?;
    if other_user {
        kinds |= ThreadNameSpaceType::USER;
    }
    // A kernel that has none has no links for them.
    let time = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/time")).ok();
    if time("self") != time(&pid.to_string()) {
        kinds |= ThreadNameSpaceType::TIME;
    }
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), kinds)?;
    // Who came from outside is nobody there, though with all rights: what it made would be nobody's.
    if other_user { crate::process::become_user(0, 0, &[]) } else { Ok(()) }
}

/// Gives this (single-threaded) process mounts of its own, which begin as they were.
///
/// # Errors
/// As `unshare(2)`.
pub fn new_mount_namespace() -> io::Result<()> {
    // SAFETY: a new mount namespace changes what paths mean, not memory or descriptors.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// In a new mount namespace: makes sure that what is mounted at `target` is seen by nobody else.
///
/// Mounts that the host makes later still arrive (slaves). With `keep_shared`, the host also sees what is mounted below
/// mounts that it shares, except on the one that holds `target`.
///
/// # Errors
/// As `mount(2)`.
pub fn isolate_mounts(target: &Path, keep_shared: bool) -> io::Result<()> {
    if !keep_shared {
        return Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?);
    }
    // Only the root of a mount can be changed: the nearest one above.
    for place in target.ancestors() {
        match mount_change(place, MountPropagationFlags::PRIVATE) {
            Err(rustix::io::Errno::INVAL) => {}
            other => return Ok(other?),
        }
    }
    Err(rustix::io::Errno::NOENT.into())
}

/// Enters one namespace that a path refers to. `kind` is its `CLONE_NEW*` flag, which the kernel compares.
///
/// # Errors
/// As `setns(2)`.
pub fn enter(path: &Path, kind: u32) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    let kind = ThreadNameSpaceType::from_bits_retain(kind);
    // SAFETY: `setns` changes what this thread sees, not memory or descriptors.
    match unsafe { libc::setns(file.as_raw_fd(), kind.bits().cast_signed()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the cgroups that this process is in the roots of what it sees of them.
///
/// # Errors
/// As `unshare(2)`.
pub fn new_cgroup_namespace() -> io::Result<()> {
    // SAFETY: a new cgroup namespace changes what paths mean, not memory or descriptors.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }?)
}

/// The place where offsets of new clocks are written. Opened by this (single-threaded) process while it is the host's root:
/// in a user namespace it could not, and the kernel looks at who opened it.
#[derive(Debug)]
pub struct TimeOffsets(std::fs::File);

impl TimeOffsets {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has no such clocks.
    pub fn open() -> io::Result<Self> {
        std::fs::OpenOptions::new().write(true).open("/proc/self/timens_offsets").map(Self)
    }

    /// Gives the children of this process clocks of their own. `offsets` are lines of a clock's name, seconds and
    /// nanoseconds, as `/proc/<pid>/timens_offsets` takes them.
    ///
    /// # Errors
    /// As `unshare(2)` and the writing of that file: the kernel refuses clocks that it does not know.
    pub fn make(mut self, offsets: &str) -> io::Result<()> {
        // SAFETY: new clocks for children change neither memory nor descriptors.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWTIME) }?;
        // In one piece, or the kernel refuses it.
        if offsets.is_empty() { Ok(()) } else { io::Write::write_all(&mut self.0, offsets.as_bytes()) }
    }
}

/// Takes the clocks that were made for children.
///
/// # Errors
/// As `setns(2)`.
pub fn enter_clocks_of_children() -> io::Result<()> {
    enter(Path::new("/proc/self/ns/time_for_children"), ThreadNameSpaceType::TIME.bits())
}

/// Makes new namespaces for this (single-threaded) process: `CLONE_NEW*` flags.
///
/// # Errors
/// As `unshare(2)`.
pub fn new_namespaces(kinds: u32) -> io::Result<()> {
    // SAFETY: new namespaces change what names mean, not memory or descriptors.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::from_bits_retain(kinds)) }?)
}

/// A change of a mount's attributes: the kernel's `MOUNT_ATTR_*` bits, and its propagation (`MS_PRIVATE`, ...; zero: kept).
#[derive(Debug, Clone, Copy, Default)]
pub struct MountChange {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// The propagation.
    pub propagation: u64,
    /// Also of all mounts below.
    pub recursive: bool,
}

impl MountChange {
    /// Applies it to the mount that an open descriptor is the root of.
    ///
    /// # Errors
    /// As `mount_setattr(2)`.
    pub fn apply(&self, mount: impl AsFd) -> io::Result<()> {
        let attributes =
            libc::mount_attr { attr_set: self.set, attr_clr: self.clear, propagation: self.propagation, userns_fd: 0 };
        set_attributes(mount.as_fd(), &attributes, self.recursive)
    }
}

/// Lets a detached mount show its files' ids as a user namespace maps them.
///
/// # Errors
/// `EINVAL` when the file system cannot do that.
pub fn map_ids(mount: impl AsFd, user: impl AsFd) -> io::Result<()> {
    let userns_fd = u64::try_from(user.as_fd().as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attributes(mount.as_fd(), &attributes, false)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open, the empty path is a C string, and the structure is as long as its size says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
