//! Between streams of the runtime and the blocking threads that read and write archives.

use std::io::{self, BufRead, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use super::ByteStream;

/// Messages on their way.
pub(crate) const QUEUE: usize = 16;

/// Bytes of one message.
const CHUNK: usize = 256 * 1024;

/// Reads a stream on a blocking thread.
pub(crate) struct Source {
    stream: ByteStream,
    handle: Handle,
    current: Bytes,
    ended: bool,
}

impl Source {
    /// Must be called on a runtime.
    pub(crate) fn new(stream: ByteStream) -> Self {
        Self { stream, handle: Handle::current(), current: Bytes::new(), ended: false }
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.handle.block_on(self.stream.next()) {
                Some(bytes) => self.current = bytes?,
                None => self.ended = true,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, length: usize) {
        self.current.advance(length);
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Writes a stream on a blocking thread. A reader that went away is an error of writing.
pub(crate) struct Sink {
    sender: Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Sink {
    pub(crate) fn new(sender: Sender<io::Result<Bytes>>) -> Self {
        Self { sender, buffer: BytesMut::with_capacity(CHUNK) }
    }

    /// Ends the stream with an error.
    pub(crate) fn fail(self, error: io::Error) {
        drop(self.sender.blocking_send(Err(error)));
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        let length = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(full.freeze())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
