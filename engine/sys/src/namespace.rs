//! Entering the namespaces of another process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;

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
