//! Streams of the API: multiplexed stdout and stderr, and JSON documents one after the other.

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

/// A connection taken over from HTTP. Output on it is multiplexed unless the other side has a terminal; the answer's
/// content type says so only from API 1.42 on.
pub(crate) struct Hijacked {
    /// The two ways.
    pub(crate) stream: TokioIo<Upgraded>,
}

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// An error of the daemon in the middle of the stream.
    SystemError,
}

/// Takes the frames of docker's multiplexed stream apart: `[kind, 0, 0, 0, length (4 bytes, big endian)]` and the data.
#[derive(Debug, Default)]
pub(crate) struct Demultiplexer {
    buffer: BytesMut,
}

impl Demultiplexer {
    /// Adds what has been received.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<(Channel, Bytes)>> {
        let Some(header) = self.buffer.first_chunk::<8>() else { return Ok(None) };
        let [kind, _, _, _, a, b, c, d] = *header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).context("frame length")?;
        let channel = match kind {
            0 | 1 => Channel::Stdout,
            2 => Channel::Stderr,
            3 => Channel::SystemError,
            other => anyhow::bail!("unrecognized input header: {other}"),
        };
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        self.buffer.advance(8);
        Ok(Some((channel, self.buffer.split_to(length).freeze())))
    }
}

/// Where output comes from: an answer's body or a hijacked connection.
pub(crate) enum Source {
    /// An answer's body.
    Body(Incoming),
    /// The reading half of a hijacked connection.
    Hijacked(tokio::io::ReadHalf<TokioIo<Upgraded>>),
}

impl Source {
    /// The next piece; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> anyhow::Result<Option<Bytes>> {
        match self {
            Self::Body(body) => loop {
                match body.frame().await {
                    None => return Ok(None),
                    Some(frame) => {
                        if let Ok(data) = frame.context("read the stream")?.into_data() {
                            return Ok(Some(data));
                        }
                    }
                }
            },
            Self::Hijacked(reader) => {
                let mut buffer = BytesMut::with_capacity(32 * 1024);
                match reader.read_buf(&mut buffer).await {
                    Ok(0) => Ok(None),
                    Ok(_) => Ok(Some(buffer.freeze())),
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
                    Err(error) => Err(error).context("read the stream"),
                }
            }
        }
    }
}

/// JSON documents one after the other, with any white space between them.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    buffer: Vec<u8>,
}

impl Documents {
    /// Adds what has been received and gives the documents that are complete now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Value>> {
        self.buffer.extend_from_slice(bytes);
        let mut documents = Vec::new();
        let mut stream = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Value>();
        let consumed = loop {
            let before = stream.byte_offset();
            match stream.next() {
                Some(Ok(value)) => documents.push(value),
                Some(Err(error)) if error.is_eof() => break before,
                Some(Err(error)) => return Err(error).context("the daemon's stream is not JSON"),
                None => break stream.byte_offset(),
            }
        };
        self.buffer.drain(..consumed);
        Ok(documents)
    }
}

/// Calls `each` for every JSON document of an answer.
pub(crate) async fn each_document(
    body: Incoming,
    mut each: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut source = Source::Body(body);
    let mut documents = Documents::default();
    while let Some(chunk) = source.chunk().await? {
        for document in documents.push(&chunk)? {
            each(document)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_may_be_cut_anywhere() {
        let wire = [1, 0, 0, 0, 0, 0, 0, 3, b'o', b'u', b't', 2, 0, 0, 0, 0, 0, 0, 2, b'e', b'r'];
        for cut in 0..wire.len() {
            let mut demultiplexer = Demultiplexer::default();
            let mut frames = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                demultiplexer.push(part);
                while let Some(frame) = demultiplexer.next().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [(Channel::Stdout, Bytes::from("out")), (Channel::Stderr, Bytes::from("er"))]);
        }
        let mut bad = Demultiplexer::default();
        bad.push(b"HTTP/1.1 ");
        assert!(bad.next().is_err());
    }

    #[test]
    fn documents_may_be_cut_anywhere() {
        let wire = b"{\"a\":1}\r\n{\"b\":[2]} {\"c\":\"}\"}\n";
        for cut in 0..wire.len() {
            let mut documents = Documents::default();
            let mut found = documents.push(&wire[..cut]).unwrap();
            found.extend(documents.push(&wire[cut..]).unwrap());
            assert_eq!(found.len(), 3, "{cut}");
        }
        assert!(Documents::default().push(b"nonsense").is_err());
    }
}
