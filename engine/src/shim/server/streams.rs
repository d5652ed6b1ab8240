//! The standard streams of the process, from the shim's side.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use shoal_engine_sys::pty;

use crate::logs::json_file::Stream;
use crate::runtime::ChildStreams;
use crate::shim::protocol::RuntimeFailure;

/// Input that is kept for a process that does not read it.
const MAX_STDIN_BYTES: usize = 64 * 1024;
const CONSOLE_SOCKET: &str = "console.sock";

/// Where output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
    Terminal,
}

impl Output {
    pub(super) fn stream(self) -> Stream {
        match self {
            Self::Stdout | Self::Terminal => Stream::Stdout,
            Self::Stderr => Stream::Stderr,
        }
    }
}

/// All of them. With a terminal, its master is both input and output.
#[derive(Debug, Default)]
pub(in crate::shim) struct Streams {
    child: Option<ChildStreams>,
    console: Option<UnixListener>,
    terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    pending_stdin: Vec<u8>,
    close_stdin: bool,
    /// Whether the terminal is still to come.
    awaits_terminal: bool,
}

impl Streams {
    /// Pipes. With `owner`, the process's user may open them again through `/dev/stdout`.
    pub(in crate::shim) fn pipes(open_stdin: bool, (uid, gid): (u32, u32)) -> io::Result<Self> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (stdin, our_stdin) = if open_stdin {
            let (theirs, ours) = rustix::pipe::pipe_with(flags)?;
            (theirs, Some(ours))
        } else {
            (rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, None)
        };
        let (our_stdout, stdout) = rustix::pipe::pipe_with(flags)?;
        let (our_stderr, stderr) = rustix::pipe::pipe_with(flags)?;
        if (uid, gid) != (0, 0) {
            let owned = [Some(&stdout), Some(&stderr), our_stdin.is_some().then_some(&stdin)];
            for fd in owned.into_iter().flatten() {
                rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
        }
        for fd in [Some(&our_stdout), Some(&our_stderr), our_stdin.as_ref()].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        Ok(Self {
            child: Some(ChildStreams::Pipes { stdin, stdout, stderr }),
            stdin: our_stdin,
            stdout: Some(our_stdout),
            stderr: Some(our_stderr),
            ..Self::default()
        })
    }

    /// A terminal, whose master will be sent to a socket in `dir`.
    pub(in crate::shim) fn terminal_in(dir: &Path) -> io::Result<Self> {
        let handle = std::fs::File::open(dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{CONSOLE_SOCKET}", handle.as_raw_fd()))?;
        Ok(Self {
            child: Some(ChildStreams::Terminal { console_socket: dir.join(CONSOLE_SOCKET) }),
            console: Some(listener),
            awaits_terminal: true,
            ..Self::default()
        })
    }

    /// What `/proc/<pid>/fd` calls the ends that the process gets: both ends of a pipe have one name. Empty for what is no pipe.
    pub(super) fn child_names(&self) -> io::Result<[String; 3]> {
        let Some(ChildStreams::Pipes { stdin, stdout, stderr }) = &self.child else { return Ok(Default::default()) };
        let name = |end: &OwnedFd| -> io::Result<String> {
            let status = rustix::fs::fstat(end)?;
            let is_pipe = rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::Fifo;
            Ok(if is_pipe { format!("pipe:[{}]", status.st_ino) } else { String::new() })
        };
        Ok([name(stdin)?, name(stdout)?, name(stderr)?])
    }

    pub(super) fn take_child_ends(&mut self) -> Result<ChildStreams, RuntimeFailure> {
        self.child.take().ok_or_else(|| RuntimeFailure::other("the streams were handed out before"))
    }

    /// Takes the master that was sent. Gives it for its first size.
    pub(super) fn accept_terminal(&mut self) -> io::Result<Option<BorrowedFd<'_>>> {
        if let Some(console) = self.console.take() {
            // Sent before the runtime said that it was done: there is nothing to wait for.
            console.set_nonblocking(true)?;
            let (socket, _) = console.accept()?;
            socket.set_nonblocking(false)?;
            let master = pty::receive_descriptor(&socket)?;
            rustix::io::ioctl_fionbio(&master, true)?;
            self.terminal = Some(master);
            self.awaits_terminal = false;
        }
        Ok(self.terminal())
    }

    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// No process will come: what is waited for is over.
    pub(super) fn close_child_side(&mut self) {
        self.child = None;
        self.console = None;
        self.awaits_terminal = false;
    }

    /// The outputs that may still give something.
    pub(super) fn open_outputs(&self) -> Vec<Output> {
        let open = [
            (Output::Stdout, self.stdout.is_some()),
            (Output::Stderr, self.stderr.is_some()),
            (Output::Terminal, self.terminal.is_some()),
        ];
        open.into_iter().filter(|(_, open)| *open).map(|(output, _)| output).collect()
    }

    pub(super) fn output(&self, output: Output) -> Option<BorrowedFd<'_>> {
        match output {
            Output::Stdout => self.stdout.as_ref(),
            Output::Stderr => self.stderr.as_ref(),
            Output::Terminal => self.terminal.as_ref(),
        }
        .map(AsFd::as_fd)
    }

    /// Whether every output has ended.
    pub(super) fn are_drained(&self) -> bool {
        self.open_outputs().is_empty() && !self.awaits_terminal && self.child.is_none()
    }

    /// Reads one piece; `None` when there is none now or any more.
    pub(super) fn read(&mut self, output: Output, buffer: &mut [u8]) -> Option<usize> {
        let fd = self.output(output)?;
        match rustix::io::read(fd, buffer) {
            Ok(count) if count > 0 => return Some(count),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return None,
            // A terminal that nobody has open any more says EIO.
            Ok(_) | Err(_) => {}
        }
        match output {
            Output::Stdout => self.stdout = None,
            Output::Stderr => self.stderr = None,
            Output::Terminal => self.terminal = None,
        }
        None
    }

    fn stdin_side(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().or(self.stdin.as_ref()).map(AsFd::as_fd)
    }

    /// Where input waits to be written; `None` when there is nothing to write.
    pub(super) fn stdin_wanting_write(&self) -> Option<BorrowedFd<'_>> {
        self.stdin_side().filter(|_| !self.pending_stdin.is_empty())
    }

    pub(super) fn stdin_is_full(&self) -> bool {
        self.pending_stdin.len() >= MAX_STDIN_BYTES
    }

    /// Queues input for the process. Without a stdin it goes nowhere, as with dockerd.
    pub(super) fn push_stdin(&mut self, bytes: &[u8]) {
        if self.close_stdin || (self.stdin_side().is_none() && !self.awaits_terminal) {
            return;
        }
        self.pending_stdin.extend_from_slice(bytes);
        self.write_stdin();
    }

    /// Writes what the process takes.
    pub(super) fn write_stdin(&mut self) {
        let mut written = 0;
        let mut broken = false;
        while let Some(fd) = self.stdin_side().filter(|_| written < self.pending_stdin.len()) {
            match rustix::io::write(fd, &self.pending_stdin[written..]) {
                Ok(count) => written += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                // Nobody reads it any more.
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        self.pending_stdin.drain(..written);
        if broken {
            self.pending_stdin = Vec::new();
            self.stdin = None;
        } else if self.pending_stdin.is_empty() {
            self.pending_stdin = Vec::new();
            if self.close_stdin {
                self.stdin = None;
            }
        }
    }

    /// Closes stdin when what was queued is written.
    pub(super) fn close_stdin(&mut self) {
        self.close_stdin = true;
        self.write_stdin();
    }
}
