//! Waiting for something on behalf of somebody who may lose interest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// Who waits for what a runtime does. It gives that up by closing its side of the connection: the daemon does so on purpose
/// when a start is not wanted any more, and by its own end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a>(BorrowedFd<'a>);

impl<'a> Caller<'a> {
    /// The one at the other end of this connection.
    pub(crate) fn new(connection: &'a impl AsFd) -> Self {
        Self(connection.as_fd())
    }
}

/// How waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// There is something to read.
    Ready,
    /// Nothing came in time.
    TimedOut,
    /// The caller has closed its side.
    GivenUp,
}

/// Waits until there is something to read.
pub(super) fn wait_for(
    what: BorrowedFd<'_>,
    caller: Option<Caller<'_>>,
    timeout: Option<Duration>,
) -> io::Result<Waited> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let mut fds = vec![PollFd::from_borrowed_fd(what, PollFlags::IN)];
    fds.extend(caller.map(|Caller(connection)| PollFd::from_borrowed_fd(connection, PollFlags::RDHUP)));
    loop {
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Ok(Waited::TimedOut),
            Ok(_) if fds[0].revents().is_empty() => return Ok(Waited::GivenUp),
            Ok(_) => return Ok(Waited::Ready),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The same without a limit of time; being given up is a failure.
pub(super) fn wait_patiently(what: BorrowedFd<'_>, caller: Option<Caller<'_>>) -> Result<(), RuntimeFailure> {
    match wait_for(what, caller, None) {
        Ok(Waited::Ready | Waited::TimedOut) => Ok(()),
        Ok(Waited::GivenUp) => Err(RuntimeFailure::new(FailureKind::WrongState, "the start was given up")),
        Err(error) => Err(RuntimeFailure::other(format!("cannot wait: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_gives_up_by_closing_its_side_and_what_is_there_counts_first() {
        let (own, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let wait = |timeout| wait_for(read.as_fd(), Some(Caller::new(&own)), timeout).unwrap();
        // Its words are no end.
        std::io::Write::write_all(&mut &other, b"word").unwrap();
        assert_eq!(wait(Some(Duration::ZERO)), Waited::TimedOut);
        other.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(wait(None), Waited::GivenUp);
        let given_up = wait_patiently(read.as_fd(), Some(Caller::new(&own))).unwrap_err();
        assert_eq!(given_up.message, "the start was given up");
        rustix::io::write(&write, b"!").unwrap();
        assert_eq!(wait(None), Waited::Ready);
    }
}
