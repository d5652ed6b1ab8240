//! One client of the shim.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags};
use shoal_proto::time::Timestamp;

use crate::shim::protocol::{FrameKind, Request, split};

/// Output that is kept for a client that is behind; above it, the client is full.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// Input that is kept of a client.
const MAX_INPUT_BYTES: usize = (1 << 20) + 64;

/// What a connection has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Requests and answers.
    Control,
    /// It waits for the exit.
    Waiting,
    /// It is a stream.
    Attached { stdin: bool, stdout: bool, stderr: bool },
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Request(Request),
    Stdin(Vec<u8>),
    StdinClosed,
    /// It went away. Comes once.
    Closed,
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    mode: Mode,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` was sent.
    sent: usize,
    /// Since when the client is full without having taken anything.
    full_since: Option<Timestamp>,
    ended: bool,
    closed: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            mode: Mode::Control,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            full_since: None,
            ended: false,
            closed: false,
        })
    }

    pub(super) fn become_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    pub(super) fn mode_is_stdin(&self) -> bool {
        matches!(self.mode, Mode::Attached { stdin: true, .. })
    }

    /// Whether it wants this kind of output.
    pub(super) fn wants(&self, kind: FrameKind) -> bool {
        match (self.mode, kind) {
            (Mode::Attached { stdout, .. }, FrameKind::Stdout) => stdout && !self.closed,
            (Mode::Attached { stderr, .. }, FrameKind::Stderr) => stderr && !self.closed,
            _ => false,
        }
    }

    pub(super) fn awaits_exit(&self) -> bool {
        self.mode != Mode::Control && !self.closed
    }

    /// Whether a request to start the process can come over it.
    pub(super) fn may_start(&self) -> bool {
        self.mode == Mode::Control && !self.closed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn has_output(&self) -> bool {
        !self.closed && self.sent < self.output.len()
    }

    pub(super) fn full_since(&self) -> Option<Timestamp> {
        if self.closed { None } else { self.full_since }
    }

    /// What to wait for. Its input is left to its sender while stdin is full.
    pub(super) fn wanted(&self, stdin_full: bool) -> PollFlags {
        let mut wanted = PollFlags::empty();
        let held_back = (stdin_full && self.mode_is_stdin()) || self.input.len() >= MAX_INPUT_BYTES;
        if !self.ended && !held_back {
            wanted |= PollFlags::IN;
        }
        if self.has_output() {
            wanted |= PollFlags::OUT;
        }
        wanted
    }

    /// Queues bytes, and sends at once what the socket takes.
    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        if self.closed {
            return;
        }
        if self.output.is_empty() {
            self.output = bytes;
        } else {
            self.output.extend_from_slice(&bytes);
        }
        self.flush();
    }

    /// The same for output of the process, of which a client can be full.
    pub(super) fn send_at(&mut self, bytes: Vec<u8>, now: Timestamp) {
        self.send(bytes);
        if self.output.len() - self.sent > MAX_OUTPUT_BYTES {
            self.full_since.get_or_insert(now);
        }
    }

    pub(super) fn flush(&mut self) {
        while self.sent < self.output.len() && !self.closed {
            match rustix::net::send(&self.socket, &self.output[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.sent += count;
                    self.full_since = None;
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.closed = true,
            }
        }
        if self.sent == self.output.len() {
            // The memory goes back: most connections never need any again.
            self.output = Vec::new();
            self.sent = 0;
        } else if self.sent > MAX_OUTPUT_BYTES / 2 {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// For the last words before the process ends.
    pub(super) fn flush_blocking(&mut self) {
        if rustix::io::ioctl_fionbio(&self.socket, false).is_ok() {
            self.flush();
        }
    }

    /// Reads what is there, at most what one client may keep here.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) {
        while self.input.len() < MAX_INPUT_BYTES {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, 0)) => {
                    self.ended = true;
                    return;
                }
                Ok((_, count)) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    if count < buffer.len() {
                        return;
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    /// Whether the next whole frame is stdin.
    pub(super) fn holds_stdin(&self) -> bool {
        matches!(split(&self.input), Ok(Some((FrameKind::Stdin, _))))
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        let found = match split(&self.input) {
            Ok(found) => found,
            // Not our protocol: nothing more is said to it.
            Err(_) => {
                self.closed = true;
                return Some(Event::Closed);
            }
        };
        let Some((kind, range)) = found else {
            if !self.ended || self.closed {
                return None;
            }
            self.closed = true;
            return Some(Event::Closed);
        };
        let payload = self.input[range.clone()].to_vec();
        self.input.drain(..range.end);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        match (kind, self.mode) {
            (FrameKind::Message, Mode::Control) => match serde_json::from_slice(&payload) {
                Ok(request) => Some(Event::Request(request)),
                Err(_) => {
                    self.closed = true;
                    Some(Event::Closed)
                }
            },
            (FrameKind::Stdin, Mode::Attached { stdin: true, .. }) => Some(Event::Stdin(payload)),
            (FrameKind::StdinClosed, Mode::Attached { stdin: true, .. }) => Some(Event::StdinClosed),
            _ => {
                self.closed = true;
                Some(Event::Closed)
            }
        }
    }
}
