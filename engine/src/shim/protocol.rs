//! What is spoken on a shim's socket: frames of a little-endian `u32` length, a kind byte, and that many bytes less one.
//!
//! A connection carries requests one after the other, each answered by one [`Response`]. [`Request::Attach`] turns the
//! connection into a stream: the shim sends output frames and a last `Response::Exited`, the client sends stdin frames.

use serde::{Deserialize, Serialize};

use super::config::ExitRecord;

/// The longest frame either side accepts.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// Bytes before a frame's payload: the length and the kind.
pub const HEADER_BYTES: usize = 5;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A [`Request`] or [`Response`] as JSON.
    Message = 0,
    /// Bytes for the process's stdin.
    Stdin = 1,
    /// Bytes it wrote to stdout (or to its terminal).
    Stdout = 2,
    /// Bytes it wrote to stderr.
    Stderr = 3,
    /// The client will send no more stdin.
    StdinClosed = 4,
}

impl FrameKind {
    /// The kind with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Message,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::StdinClosed,
            _ => return None,
        })
    }
}

/// The header of a frame with a payload of so many bytes.
pub fn header(kind: FrameKind, payload_bytes: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(payload_bytes + 1).unwrap_or(u32::MAX).to_le_bytes();
    [length[0], length[1], length[2], length[3], kind as u8]
}

/// A whole frame.
pub fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&header(kind, payload.len()));
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame that holds a message.
pub fn message<T: Serialize>(value: &T) -> Vec<u8> {
    frame(FrameKind::Message, &serde_json::to_vec(value).unwrap_or_default())
}

/// Splits the first whole frame off `buffer`: its kind, and where its payload begins and ends.
///
/// # Errors
/// When what is there can never become a frame.
pub fn split(buffer: &[u8]) -> Result<Option<(FrameKind, std::ops::Range<usize>)>, InvalidFrame> {
    let Some((head, _)) = buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let kind = FrameKind::from_byte(head[4]).ok_or(InvalidFrame)?;
    if length == 0 || length > MAX_FRAME_BYTES {
        return Err(InvalidFrame);
    }
    let end = HEADER_BYTES + length - 1;
    Ok((buffer.len() >= end).then_some((kind, HEADER_BYTES..end)))
}

/// The other side does not speak this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of the shim protocol")]
pub struct InvalidFrame;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Let the created process run. Answered when its program was executed, or with why it could not be.
    Start,
    /// Send a signal to the first process, or to every process of the container.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Every process of the container's cgroup, not only the first.
        all: bool,
    },
    /// Set the terminal's size.
    Resize {
        /// Characters a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// Close the process's stdin.
    CloseStdin,
    /// Freeze every process.
    Pause,
    /// Let frozen processes go on.
    Resume,
    /// How things stand.
    Status,
    /// Answer with [`Response::Exited`] when the process has exited and its output is written.
    Wait,
    /// Turn this connection into a stream.
    Attach {
        /// Whether stdin frames will be sent.
        stdin: bool,
        /// Whether stdout is wanted.
        stdout: bool,
        /// Whether stderr is wanted.
        stderr: bool,
    },
}

/// What the shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It was done.
    Done,
    /// The process exists and waits for [`Request::Start`]. Sent unasked on the first connection.
    Created {
        /// The first process, as the host numbers it. Zero for an exec, whose process appears at the start.
        pid: u32,
        /// How long its parts took, where the runtime tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        took: Option<Took>,
    },
    /// How things stand.
    Status(ShimStatus),
    /// The process has exited.
    Exited(ExitRecord),
    /// It could not be done.
    Failed(RuntimeFailure),
}

/// How long the parts of making a container took, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    /// The first process, in namespaces of its own.
    pub clone_ns: u64,
    /// Reading the specification.
    pub specification_ns: u64,
    /// The cgroup, and the process in it.
    pub cgroup_ns: u64,
    /// The root file system with everything in it.
    pub mounts_ns: u64,
    /// Streams, limits, user.
    pub user_ns: u64,
}

/// How a container stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimStatus {
    /// Where in its life it is.
    pub phase: Phase,
    /// The first process, as the host numbers it; zero when there is none.
    pub pid: u32,
    /// Whether it is frozen.
    pub paused: bool,
    /// How it ended.
    pub exit: Option<ExitRecord>,
}

/// Where in its life a container or exec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It waits for the start.
    Created,
    /// Its program runs.
    Running,
    /// It has exited.
    Exited,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist in the container (exit code 127).
    CommandNotFound,
    /// The program cannot be executed (exit code 126).
    CommandNotExecutable,
    /// Something that the specification asks for cannot be applied.
    CannotApply,
    /// The request does not fit the container's state.
    WrongState,
    /// Everything else.
    Other,
}

/// Why a runtime could not do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeFailure {
    /// What kind of thing went wrong.
    pub kind: FailureKind,
    /// A sentence for the user.
    pub message: String,
}

impl RuntimeFailure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A failure of no special kind.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Other, message)
    }

    /// The exit code that Docker gives a container which failed to start this way.
    pub fn exit_code(&self) -> i32 {
        match self.kind {
            FailureKind::CommandNotFound => 127,
            FailureKind::CommandNotExecutable => 126,
            _ => 128,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_apart_where_they_were_joined() {
        let mut bytes = frame(FrameKind::Stdout, b"hello");
        bytes.extend(frame(FrameKind::StdinClosed, b""));
        let (kind, range) = split(&bytes).unwrap().unwrap();
        assert_eq!((kind, &bytes[range.clone()]), (FrameKind::Stdout, &b"hello"[..]));
        let rest = &bytes[range.end..];
        assert_eq!(split(rest).unwrap().unwrap(), (FrameKind::StdinClosed, 5..5));
        assert_eq!(split(&rest[..4]).unwrap(), None);
        assert_eq!(split(&frame(FrameKind::Stdin, b"abc")[..7]).unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(split(&[0, 0, 0, 0, 0]).is_err());
        assert!(split(&[1, 0, 0, 0, 9]).is_err());
        assert!(split(&[0, 0, 0, 255, 0]).is_err());
    }
}
