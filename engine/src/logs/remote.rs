//! Messages on their way to a log service: a queue of bounded size before a socket that is never waited for.
//!
//! ## Design notes
//! The shim has one thread, so nothing here blocks after the first connection. A service that takes nothing while it is
//! connected makes the container wait, as dockerd's `blocking` mode does; in `non-blocking` mode, and while there is no
//! connection, what does not fit the queue is dropped. A lost connection is tried again each second.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use shoal_proto::time::Timestamp;

use super::log::Entry;

/// Bytes that wait before the container has to, in blocking mode.
const QUEUE_BYTES: usize = 64 * 1024;
/// How long the first connection may take.
const CONNECT_SECONDS: i64 = 10;
/// How long the rest may take at the end.
const FAREWELL_SECONDS: i64 = 2;
const RETRY: Duration = Duration::from_secs(1);

/// Where a log service listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A socket of this machine, a datagram or stream one, whichever it is; the first of these that is there.
    Unix(Vec<PathBuf>),
    /// Datagrams.
    Udp(SocketAddr),
    /// A stream.
    Tcp(SocketAddr),
}

/// How much may wait, and what then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Buffer {
    /// The container waits.
    #[default]
    Blocking,
    /// What does not fit so many bytes is dropped.
    Dropping {
        /// The size of the queue.
        max_bytes: u64,
    },
}

impl Buffer {
    /// Does the container wait?
    pub fn is_blocking(&self) -> bool {
        *self == Self::Blocking
    }
}

/// Writes messages as a service wants them.
pub(super) trait Encoder: std::fmt::Debug {
    /// One message, framed.
    fn encode(&self, entry: &Entry<'_>, now: Timestamp) -> Vec<u8>;
}

/// Messages on their way.
#[derive(Debug)]
pub(crate) struct Remote {
    /// None when it cannot be connected again.
    target: Option<Target>,
    buffer: Buffer,
    encoder: Box<dyn Encoder>,
    socket: Option<Socket>,
    queue: VecDeque<Vec<u8>>,
    queued_bytes: usize,
    /// Of the first message: bytes that were sent.
    sent: usize,
    retry_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    is_stream: bool,
}

impl Remote {
    /// Connects, or says why not.
    pub(super) fn connect(target: Target, buffer: Buffer, encoder: Box<dyn Encoder>) -> io::Result<Self> {
        let socket = open(&target)?;
        if socket.is_stream {
            wait_writable(socket.fd.as_fd(), CONNECT_SECONDS)?;
            if let Err(error) = rustix::net::sockopt::socket_error(&socket.fd)? {
                return Err(io::Error::from(error));
            }
        }
        Ok(Self::with(Some(target), socket, buffer, encoder))
    }

    /// Sends over a stream that is connected and does not block.
    pub(super) fn over(fd: OwnedFd, buffer: Buffer, encoder: Box<dyn Encoder>) -> Self {
        Self::with(None, Socket { fd, is_stream: true }, buffer, encoder)
    }

    fn with(target: Option<Target>, socket: Socket, buffer: Buffer, encoder: Box<dyn Encoder>) -> Self {
        Self {
            target,
            buffer,
            encoder,
            socket: Some(socket),
            queue: VecDeque::new(),
            queued_bytes: 0,
            sent: 0,
            retry_at: None,
        }
    }

    fn limit(&self) -> usize {
        match self.buffer {
            Buffer::Blocking => QUEUE_BYTES,
            Buffer::Dropping { max_bytes } => usize::try_from(max_bytes).unwrap_or(usize::MAX),
        }
    }

    /// Queues a message and sends what can be sent.
    pub(super) fn push(&mut self, entry: &Entry<'_>, now: Timestamp) -> io::Result<()> {
        let message = self.encoder.encode(entry, now);
        let fits = self.queue.is_empty() || self.queued_bytes + message.len() <= self.limit();
        // A container that has to wait was told so after the message before: what it wrote until then is kept.
        if fits || (self.buffer == Buffer::Blocking && self.socket.is_some()) {
            self.queued_bytes += message.len();
            self.queue.push_back(message);
        }
        self.send(now)
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer == Buffer::Blocking && self.socket.is_some() && self.queued_bytes >= self.limit()
    }

    pub(super) fn wanting_write(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| !self.queue.is_empty()).map(|socket| socket.fd.as_fd())
    }

    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at
    }

    /// Sends what the service takes now.
    pub(super) fn send(&mut self, now: Timestamp) -> io::Result<()> {
        if self.socket.is_none() && self.retry_at.is_none_or(|at| now >= at) {
            self.retry_at = None;
            let lost = || io::Error::new(io::ErrorKind::NotConnected, "its writer has ended");
            match self.target.as_ref().ok_or_else(lost).and_then(open) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => return self.lost(error, now),
            }
        }
        while let (Some(socket), Some(message)) = (&self.socket, self.queue.front()) {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&socket.fd, &message[self.sent..], flags) {
                Ok(count) if socket.is_stream && self.sent + count < message.len() => self.sent += count,
                Ok(_) | Err(rustix::io::Errno::MSGSIZE) => self.sent_first(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => break,
                // A datagram to nobody: that one before was not heard. As dockerd, this one is not kept for later.
                Err(rustix::io::Errno::CONNREFUSED) if matches!(self.target, Some(Target::Udp(_))) => self.sent_first(),
                Err(error) => return self.lost(error.into(), now),
            }
        }
        Ok(())
    }

    fn sent_first(&mut self) {
        self.sent = 0;
        self.queued_bytes -= self.queue.pop_front().map_or(0, |message| message.len());
        if self.queue.is_empty() {
            // No memory is held while there is nothing to send.
            self.queue = VecDeque::new();
        }
    }

    fn lost(&mut self, error: io::Error, now: Timestamp) -> io::Result<()> {
        // The rest of a message without its beginning would be another one.
        (self.socket, self.sent, self.retry_at) = (None, 0, Some(now.after(RETRY)));
        Err(error)
    }

    /// The container has ended: waits for the service a moment.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        while let Some(fd) = self.wanting_write() {
            wait_writable(fd, FAREWELL_SECONDS)?;
            // Without a connection there is nobody to wait for.
            self.send(Timestamp(0))?;
        }
        Ok(())
    }
}

fn wait_writable(fd: BorrowedFd<'_>, seconds: i64) -> io::Result<()> {
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    match rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], Some(&timeout)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Connects without waiting: of a stream the connection may be still on its way.
fn open(target: &Target) -> io::Result<Socket> {
    match target {
        Target::Unix(paths) => {
            let mut failure = io::Error::from(io::ErrorKind::NotFound);
            for path in paths {
                match open_unix(path) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        }
        Target::Udp(address) => open_ip(*address, SocketType::DGRAM),
        Target::Tcp(address) => open_ip(*address, SocketType::STREAM),
    }
}

fn open_unix(path: &Path) -> io::Result<Socket> {
    let address = SocketAddrUnix::new(path)?;
    let connect = |kind: SocketType| -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        rustix::net::connect(&fd, &address)?;
        Ok(fd)
    };
    match connect(SocketType::DGRAM) {
        Ok(fd) => Ok(Socket { fd, is_stream: false }),
        Err(rustix::io::Errno::PROTOTYPE) => Ok(Socket { fd: connect(SocketType::STREAM)?, is_stream: true }),
        Err(error) => Err(error.into()),
    }
}

fn open_ip(address: SocketAddr, kind: SocketType) -> io::Result<Socket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(Socket { fd, is_stream: kind == SocketType::STREAM }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::os::unix::net::UnixDatagram;

    use super::super::json_file::Stream;
    use super::super::lines::Message;
    use super::*;

    #[derive(Debug)]
    struct Plain;

    impl Encoder for Plain {
        fn encode(&self, entry: &Entry<'_>, _now: Timestamp) -> Vec<u8> {
            [entry.message.bytes, b"\n"].concat()
        }
    }

    fn entry(bytes: &[u8]) -> Entry<'_> {
        let message = Message { bytes, ends_line: true, continues: false };
        Entry { stream: Stream::Stdout, time: Timestamp(0), message, ordinal: 1 }
    }

    #[test]
    fn a_service_that_takes_nothing_makes_the_container_wait_or_lose() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap());
        let mut blocking = Remote::connect(target.clone(), Buffer::Blocking, Box::new(Plain)).unwrap();
        let (mut service, _) = listener.accept().unwrap();
        let mut dropping = Remote::connect(target, Buffer::Dropping { max_bytes: 4096 }, Box::new(Plain)).unwrap();
        let line = [b'x'; 1000];
        let mut pushed = 0;
        while !blocking.is_full() {
            blocking.push(&entry(&line), Timestamp(1)).unwrap();
            pushed += 1;
        }
        for _ in 0..pushed + 100 {
            dropping.push(&entry(&line), Timestamp(1)).unwrap();
        }
        assert!(!dropping.is_full() && dropping.queued_bytes <= 4096);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            service.read_to_end(&mut all).unwrap();
            all.len()
        });
        blocking.finish().unwrap();
        drop(blocking);
        assert_eq!(reader.join().unwrap(), pushed * 1001);
    }

    #[test]
    fn a_service_that_comes_again_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let target = Target::Unix(vec![path.clone()]);
        assert!(Remote::connect(target.clone(), Buffer::Blocking, Box::new(Plain)).is_err());
        let service = UnixDatagram::bind(&path).unwrap();
        let mut remote = Remote::connect(target, Buffer::Blocking, Box::new(Plain)).unwrap();
        remote.push(&entry(b"one"), Timestamp(1)).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(service.recv(&mut buffer).unwrap(), 4);
        drop(service);
        std::fs::remove_file(&path).unwrap();
        assert!(remote.push(&entry(b"two"), Timestamp(1)).is_err());
        assert!(remote.retry_at().is_some() && !remote.is_full());
        let service = UnixDatagram::bind(&path).unwrap();
        remote.send(Timestamp(0).after(Duration::from_secs(5))).unwrap();
        let length = service.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"two\n");
    }
}
