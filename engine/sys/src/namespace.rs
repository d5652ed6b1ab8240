//! Entering the namespaces of another process, and having mounts of one's own.

#![expect(unsafe_code, reason = "the kernel's call for new namespaces has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
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

/// Moves this (single-threaded) process into all namespaces of the process behind `pidfd`, in one step: either into all of
/// them or into none. Its children will be in the process's PID namespace; it itself stays.
///
/// The user namespace is joined only when it is another one, since joining one's own is refused.
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
    if std::fs::read_link("/proc/self/ns/user")? != std::fs::read_link(format!("/proc/{pid}/ns/user"))? {
        kinds |= ThreadNameSpaceType::USER;
    }
    Ok(rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), kinds)?)
}

/// Gives this (single-threaded) process mounts of its own, so that what it mounts at `target` is seen by nobody else.
///
/// Mounts that the host makes later still arrive (slaves). With `keep_shared`, the host also sees what is mounted below
/// mounts that it shares, except on the one that holds `target`.
///
/// # Errors
/// As `unshare(2)` and `mount(2)`.
pub fn isolate_mounts(target: &Path, keep_shared: bool) -> io::Result<()> {
    // SAFETY: a new mount namespace changes what paths mean, not memory or descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
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
