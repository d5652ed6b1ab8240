//! Signals: hearing of children's ends through a descriptor, sending without mistaking one process for another, and giving
//! a new program a clean start.

#![expect(unsafe_code, reason = "system calls that no safe wrapper covers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Readable when a child has ended.
#[derive(Debug)]
pub struct ChildEvents(SignalFd);

impl ChildEvents {
    /// Blocks `SIGCHLD` (and `SIGPIPE`, `SIGHUP`, `SIGINT`, `SIGTERM`, which a shim does not obey) and hears of it here.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub fn open() -> io::Result<Self> {
        let mut blocked = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
            blocked.add(signal);
        }
        blocked.thread_block()?;
        let mut heard = SigSet::empty();
        heard.add(Signal::SIGCHLD);
        Ok(Self(SignalFd::with_flags(&heard, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Forgets the events so far; several ends may have been one event.
    pub fn drain(&mut self) {
        while let Ok(Some(_)) = self.0.read_signal() {}
    }
}

impl AsFd for ChildEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives every signal its default disposition and blocks none. For a child right before `execve`: what this process
/// ignores (Rust ignores `SIGPIPE`) or blocks would be inherited.
pub fn reset() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; signals that cannot be changed answer EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Sends a signal by number to the process behind a pidfd.
///
/// # Errors
/// `ESRCH` when it has ended, `EINVAL` for a number that is no signal.
pub fn send(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and without a siginfo the kernel fills in its own.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
