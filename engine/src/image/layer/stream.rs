//! The uncompressed bytes of an archive: decompressed, hashed and measured on a thread of their own, while the reader
//! makes files of what came before.

use std::io::{self, BufRead, Cursor, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use crate::image::digest::{Digest, Hasher};

/// Bytes that go from thread to thread at once.
const CHUNK: usize = 256 * 1024;

/// Chunks on their way.
const IN_FLIGHT: usize = 8;

/// Exponent of the largest window that a zstd frame may ask for: 32 MiB, what level 19 and BuildKit need.
const ZSTD_WINDOW_LOG: u32 = 25;

/// How much an archive may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Uncompressed bytes of one layer, holes included.
    pub layer_bytes: u64,
    /// Entries of one layer.
    pub entries: u64,
    /// Uncompressed bytes for each compressed one, once [`Self::ratio_from`] are there.
    pub ratio: u64,
    /// Up to here the ratio does not matter.
    pub ratio_from: u64,
    /// Bytes that stay free on the disk, but for a small one: see [`Limits::reserve_of`].
    pub reserve: u64,
    /// Which part of the disk that is at most: one in so many; zero is no bound.
    pub reserve_share: u64,
    /// Layers of one image; overlayfs stacks 500.
    pub layers: usize,
    /// Images of one archive.
    pub images: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 128 << 30,
            entries: 4_000_000,
            ratio: 300,
            ratio_from: 1 << 30,
            reserve: 256 << 20,
            reserve_share: 64,
            layers: 490,
            images: 4096,
        }
    }
}

impl Limits {
    /// What stays free of a disk of so many bytes.
    pub fn reserve_of(&self, disk_bytes: u64) -> u64 {
        disk_bytes.checked_div(self.reserve_share).map_or(self.reserve, |part| part.min(self.reserve))
    }
}

/// A limit was hit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// Too long.
    #[error("the layer has more than {0} bytes")]
    LayerBytes(u64),
    /// Too much of too little.
    #[error("the compressed data grows more than {0} times: refused as a decompression bomb")]
    Ratio(u64),
    /// Too many.
    #[error("the layer has more than {0} entries")]
    Entries(u64),
    /// The disk would be full.
    #[error(
        "no space left: {wanted} bytes are needed where the images are, and {free} are free, of which {reserve} are kept free"
    )]
    Space {
        /// What is free.
        free: u64,
        /// What the next file needs.
        wanted: u64,
        /// What has to stay free.
        reserve: u64,
    },
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// A way of compression that there is, but not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}-compressed archives are not supported: compress it with gzip or zstd, or not at all")]
pub struct Unsupported(pub &'static str);

impl Compression {
    /// Tells it from the first bytes.
    ///
    /// # Errors
    /// When they are those of a compression that is not supported.
    pub fn of(start: &[u8]) -> Result<Self, Unsupported> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A skippable frame may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(Unsupported("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(Unsupported("bzip2")),
            _ => Ok(Self::None),
        }
    }
}

/// A source whose first bytes were looked at.
pub type Peeked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// The first bytes of a source, and the source with them put back.
///
/// # Errors
/// When the source fails.
pub fn peek<R: BufRead>(mut source: R, length: usize) -> io::Result<(Vec<u8>, Peeked<R>)> {
    let mut start = Vec::with_capacity(length);
    source.by_ref().take(length as u64).read_to_end(&mut start)?;
    Ok((start.clone(), Cursor::new(start).chain(source)))
}

/// Counts what goes through.
struct Counted<'a, R> {
    source: R,
    count: &'a std::sync::atomic::AtomicU64,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.add(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.add(length);
        self.source.consume(length);
    }
}

impl<R> Counted<'_, R> {
    fn add(&self, length: usize) {
        self.count.fetch_add(length as u64, std::sync::atomic::Ordering::Relaxed);
    }
}

/// What went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Of the uncompressed bytes.
    pub digest: Digest,
    /// Uncompressed bytes.
    pub bytes: u64,
}

/// Decompresses and hashes `source` on a second thread while `work` reads the result. `work` has to read to the end.
///
/// # Errors
/// What `work` failed with; the source's and the decoder's errors reach it as errors of reading.
pub fn decoded<R, T, E>(
    source: R,
    limits: &Limits,
    work: impl FnOnce(&mut Chunks) -> Result<T, E>,
) -> Result<(T, Measured), E>
where
    R: BufRead + Send,
    E: From<io::Error>,
{
    let (send, receive) = sync_channel(IN_FLIGHT);
    let (give_back, take_back) = channel();
    thread::scope(|scope| {
        let producer = scope.spawn(move || produce(source, limits, &send, &take_back));
        let mut chunks = Chunks { receive, give_back, current: Vec::new(), position: 0 };
        let result = work(&mut chunks);
        // Ends a producer that has more than `work` wanted.
        drop(chunks);
        let measured = producer.join().unwrap_or_else(|_| Err(io::Error::other("the decompressing thread failed")));
        let result = result?;
        let measured = measured?.ok_or_else(|| io::Error::other("the archive was not read to its end"))?;
        Ok((result, measured))
    })
}

fn produce<R: BufRead + Send>(
    source: R,
    limits: &Limits,
    send: &SyncSender<io::Result<Vec<u8>>>,
    take_back: &Receiver<Vec<u8>>,
) -> io::Result<Option<Measured>> {
    let compressed = std::sync::atomic::AtomicU64::new(0);
    let decoder = peek(Counted { source, count: &compressed }, 6).and_then(|(start, source)| {
        let compression = Compression::of(&start).map_err(io::Error::other)?;
        decoder(compression, source).map(|decoder| (compression, decoder))
    });
    let (compression, mut decoder) = match decoder {
        Ok(both) => both,
        Err(error) => {
            let _ = send.send(Err(error));
            return Ok(None);
        }
    };
    let mut hasher = Hasher::new();
    let mut bytes = 0_u64;
    loop {
        let mut chunk = take_back.try_recv().unwrap_or_default();
        chunk.clear();
        let length = match decoder.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(length) => length,
            Err(error) => {
                let _ = send.send(Err(error));
                return Ok(None);
            }
        };
        if length == 0 {
            return Ok(Some(Measured { digest: hasher.finish(), bytes }));
        }
        bytes += length as u64;
        let taken = compressed.load(std::sync::atomic::Ordering::Relaxed);
        if let Some(error) = over(limits, compression, bytes, taken) {
            let _ = send.send(Err(io::Error::other(error)));
            return Ok(None);
        }
        hasher.update(&chunk);
        if send.send(Ok(chunk)).is_err() {
            return Ok(None);
        }
    }
}

fn over(limits: &Limits, compression: Compression, bytes: u64, compressed: u64) -> Option<LimitExceeded> {
    if bytes > limits.layer_bytes {
        return Some(LimitExceeded::LayerBytes(limits.layer_bytes));
    }
    let too_much = bytes > limits.ratio_from && bytes / limits.ratio > compressed;
    (too_much && compression != Compression::None).then_some(LimitExceeded::Ratio(limits.ratio))
}

/// A reader of the uncompressed bytes.
///
/// # Errors
/// When the decoder cannot be made.
pub fn decoder<'a, R: BufRead + Send + 'a>(
    compression: Compression,
    source: R,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// A reader of the uncompressed bytes of a source, however it is compressed.
///
/// # Errors
/// When the source fails, or is compressed in a way that is not supported.
pub fn uncompressed<'a, R: BufRead + Send + 'a>(source: R) -> io::Result<io::BufReader<Box<dyn Read + Send + 'a>>> {
    let (start, source) = peek(source, 6)?;
    let compression = Compression::of(&start).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(io::BufReader::with_capacity(CHUNK, decoder(compression, source)?))
}

/// The reading end.
#[derive(Debug)]
pub struct Chunks {
    receive: Receiver<io::Result<Vec<u8>>>,
    give_back: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position >= self.current.len() {
            // A closed channel is the end: errors come as messages.
            let next = self.receive.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            let used = std::mem::replace(&mut self.current, next);
            self.position = 0;
            if used.capacity() > 0 {
                let _ = self.give_back.send(used);
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, length: usize) {
        self.position += length;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(source: &[u8], limits: &Limits) -> Result<(Vec<u8>, Measured), io::Error> {
        decoded(source, limits, |chunks| {
            let mut bytes = Vec::new();
            chunks.read_to_end(&mut bytes).map(|_| bytes)
        })
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_digest_is_of_the_uncompressed_bytes() {
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = Measured { digest: Digest::of(&bytes), bytes: bytes.len() as u64 };
        let mut two_members = gzip(&bytes[..1000]);
        two_members.extend(gzip(&bytes[1000..]));
        let frames = zstd::encode_all(&bytes[..], 1).unwrap();
        for source in [bytes.clone(), gzip(&bytes), two_members, frames] {
            let (read, measured) = read(&source, &Limits::default()).unwrap();
            assert_eq!(measured, expected);
            assert!(read == bytes);
        }
    }

    #[test]
    fn bombs_are_refused_early() {
        let limits = Limits { layer_bytes: 1 << 40, ratio: 100, ratio_from: 1 << 20, ..Limits::default() };
        let bomb = gzip(&vec![0; 64 << 20]);
        let error = read(&bomb, &limits).unwrap_err();
        assert!(error.to_string().contains("decompression bomb"), "{error}");
        let limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
        assert!(read(&bomb, &limits).unwrap_err().to_string().contains("more than 1048576 bytes"));
    }

    #[test]
    fn half_a_stream_is_an_error() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for whole in [gzip(&bytes), zstd::encode_all(&bytes[..], 1).unwrap()] {
            assert!(read(&whole[..whole.len() / 2], &Limits::default()).is_err());
        }
    }

    #[test]
    fn other_compressions_are_named() {
        let error = read(b"\xfd7zXZ\0rest", &Limits::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "xz-compressed archives are not supported: compress it with gzip or zstd, or not at all"
        );
        assert!(read(b"BZh91AY", &Limits::default()).unwrap_err().to_string().contains("bzip2"));
    }
}
