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

/// A child's state has changed.
pub const SIGCHLD: i32 = libc::SIGCHLD;

/// Every signal that can be blocked, one after the other.
#[derive(Debug)]
pub struct AllSignals(SignalFd);

impl AllSignals {
    /// Blocks all signals but those that mean a fault of this process, and hears of them here.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub fn open() -> io::Result<Self> {
        let mut heard = SigSet::all();
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGTRAP]
        {
            heard.remove(fault);
        }
        heard.thread_block()?;
        Ok(Self(SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn wait(&mut self) -> io::Result<i32> {
        loop {
            if let Some(info) = self.0.read_signal()? {
                return Ok(i32::try_from(info.ssi_signo).unwrap_or(0));
            }
        }
    }
}

impl AsFd for AllSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a signal to a child of this process, whose number cannot be anybody else's before it was waited for.
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn send_to(child: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(child).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: the call takes plain numbers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs something that would stop this process for touching a terminal from the background.
pub fn with_terminal_signals_ignored(run: impl FnOnce()) {
    for signal in [libc::SIGTTOU, libc::SIGTTIN] {
        // SAFETY: SIG_IGN is a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    run();
    for signal in [libc::SIGTTOU, libc::SIGTTIN] {
        // SAFETY: SIG_DFL is a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
