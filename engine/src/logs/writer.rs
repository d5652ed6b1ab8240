//! Log files in non-blocking mode, which are written by a process of their own.
//!
//! ## Design notes
//! A write to a file can wait: for a disk that is slow, or a file system that hangs. dockerd has a thread for the files of
//! containers that are not to wait for that; a shim has none, so it forks. The messages go over a socket, before which as
//! many wait as the container's owner allows; what does not fit is dropped, as with a log service.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec};
use shoal_engine_sys::namespace::open_process;
use shoal_engine_sys::process::{self, Fork, SingleThread};
use shoal_proto::time::Timestamp;

use super::json_file::Stream;
use super::lines::{MAX_MESSAGE_BYTES, Message};
use super::log::{Entry, Records};
use super::remote::{Buffer, Encoder, Remote};
use crate::shim::say;

/// Length, stream, kind, ordinal, time.
const HEADER_BYTES: usize = 4 + 1 + 1 + 4 + 8;
const ENDS_LINE: u8 = 1;
const CONTINUES: u8 = 2;
/// How long the rest may take at the end.
const FAREWELL_SECONDS: i64 = 2;

/// The process that writes.
#[derive(Debug)]
pub(super) struct Writer {
    process: OwnedFd,
}

impl Writer {
    /// Forks it; gives the way to it, too.
    pub(super) fn fork(single: &SingleThread, records: Records, buffer: Buffer) -> io::Result<(Self, Remote)> {
        let (own, theirs) = UnixStream::pair()?;
        match single.fork()? {
            Fork::Parent(pid) => {
                own.set_nonblocking(true)?;
                let remote = Remote::over(own.into(), buffer, Box::new(Frames));
                Ok((Self { process: open_process(pid)? }, remote))
            }
            Fork::Child => {
                drop(own);
                process::exit_now(i32::from(run(theirs, records).is_err()))
            }
        }
    }

    /// Waits a moment until everything is written. It must have been told that no more comes.
    pub(super) fn finish(self) -> io::Result<()> {
        let timeout = Timespec { tv_sec: FAREWELL_SECONDS, tv_nsec: 0 };
        let ended = rustix::io::retry_on_intr(|| {
            rustix::event::poll(&mut [PollFd::from_borrowed_fd(self.process.as_fd(), PollFlags::IN)], Some(&timeout))
        });
        // It is left to whoever collects this process's children.
        if ended? == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Messages for the writer.
#[derive(Debug)]
struct Frames;

impl Encoder for Frames {
    fn encode(&self, entry: &Entry<'_>, _now: Timestamp) -> Vec<u8> {
        let Message { bytes, ends_line, continues } = entry.message;
        let mut frame = Vec::with_capacity(HEADER_BYTES + bytes.len());
        frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        frame.push(u8::from(entry.stream == Stream::Stderr));
        frame.push((u8::from(ends_line) * ENDS_LINE) | (u8::from(continues) * CONTINUES));
        frame.extend_from_slice(&entry.ordinal.to_le_bytes());
        frame.extend_from_slice(&entry.time.0.to_le_bytes());
        frame.extend_from_slice(bytes);
        frame
    }
}

/// The first whole message of what was received, and its length there.
fn decode(received: &[u8]) -> Option<(Entry<'_>, usize)> {
    let (length, rest) = received.split_first_chunk::<4>()?;
    let (&[stream, kind], rest) = rest.split_first_chunk::<2>()?;
    let (ordinal, rest) = rest.split_first_chunk::<4>()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let bytes = rest.get(..u32::from_le_bytes(*length) as usize)?;
    let message = Message { bytes, ends_line: kind & ENDS_LINE != 0, continues: kind & CONTINUES != 0 };
    let entry = Entry {
        stream: if stream == 0 { Stream::Stdout } else { Stream::Stderr },
        time: Timestamp(i64::from_le_bytes(*time)),
        message,
        ordinal: u32::from_le_bytes(*ordinal),
    };
    Some((entry, HEADER_BYTES + bytes.len()))
}

/// The process: writes what comes until nothing comes any more.
fn run(mut messages: UnixStream, mut records: Records) -> io::Result<()> {
    // The container's streams and clients are the shim's alone.
    process::close_all_but(&[0, 1, 2, messages.as_raw_fd(), records.file().as_raw_fd()])?;
    // Those that pack rotated files.
    process::ignore_children(true);
    // Only for whoever reads `ps`.
    let _ = rustix::thread::set_name(c"shoal-log");
    let _ = process::set_title(&[b"shoal", b"shim", b"log"]);
    let mut received = Vec::new();
    let mut piece = vec![0; HEADER_BYTES + MAX_MESSAGE_BYTES].into_boxed_slice();
    let mut has_failed = false;
    loop {
        let count = match messages.read(&mut piece) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        received.extend_from_slice(&piece[..count]);
        let (mut done, mut written) = (0, Ok(()));
        while let Some((entry, length)) = decode(&received[done..]) {
            written = written.and(records.push(&entry));
            done += length;
        }
        received.drain(..done);
        let written = written.and(records.file().flush());
        // As for the shim: a full disk costs log lines, and is told of once until it works again.
        if let (Err(error), false) = (&written, has_failed) {
            say(&format!("cannot write the log: {error}"));
        }
        has_failed = written.is_err();
    }
    records.file().finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were() {
        let entry = |stream, bytes, ends_line, continues, ordinal| Entry {
            stream,
            time: Timestamp(-7),
            message: Message { bytes, ends_line, continues },
            ordinal,
        };
        let sent = [
            entry(Stream::Stdout, &b"one"[..], true, false, 1),
            entry(Stream::Stderr, b"", false, true, 2),
            entry(Stream::Stdout, b"\n\0", false, false, u32::MAX),
        ];
        let frames = sent.iter().flat_map(|entry| Frames.encode(entry, Timestamp(0))).collect::<Vec<u8>>();
        let mut rest = &frames[..];
        for sent in &sent {
            let (found, length) = decode(rest).unwrap();
            assert_eq!(
                (found.stream, found.time, found.message, found.ordinal),
                (sent.stream, sent.time, sent.message, sent.ordinal)
            );
            assert!(decode(&rest[..length - 1]).is_none());
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
    }
}
