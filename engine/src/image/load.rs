//! Images of archives from elsewhere.
//!
//! ## Design notes
//! The archive is read once, as it comes. What it says about its images may stand at its end, so layers are unpacked as
//! they go by; those that turn out to belong to no image are dropped. Documents are kept in memory, within a bound. All
//! images of an archive are added in one step.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use shoal_proto::error::{Failure, chain};
use tokio::sync::mpsc::Sender;

use super::digest::{Digest, Hasher};
use super::document::LONGEST_DOCUMENT;
use super::layer::LayerPin;
use super::layer::path::clean;
use super::layer::stream::{Compression, decoder, peek};
use super::reference::Reference;
use super::tar::{EntryKind, NoTap, TarEntry, TarError, TarReader, looks_like_tar};
use super::{Inner, invalid};
use crate::model::{ProgressDetail, ProgressMessage};

mod plan;

/// Bound of all documents of one archive together.
const MOST_DOCUMENTS: u64 = 64 << 20;

/// Most entries of an archive.
const MOST_ENTRIES: usize = 200_000;

/// Bytes between two messages about one layer.
const PROGRESS_STEP: u64 = 1 << 20;

/// Tells a client how far it is.
pub(super) struct Reporter {
    sender: Sender<ProgressMessage>,
    quiet: bool,
}

impl Reporter {
    pub(super) fn new(sender: Sender<ProgressMessage>, quiet: bool) -> Self {
        Self { sender, quiet }
    }

    /// Something the client has to know. One that does not listen any more has sent its archive nevertheless.
    pub(super) fn line(&self, message: ProgressMessage) {
        drop(self.sender.blocking_send(message));
    }

    /// How far a layer is. Left out when the client does not keep up: it may not listen before it has sent all.
    fn bar(&self, id: &str, current: u64, total: u64) {
        if !self.quiet {
            let message = ProgressMessage {
                status: Some("Loading layer".to_owned()),
                progress_detail: Some(ProgressDetail { current, total }),
                id: Some(id.to_owned()),
                ..ProgressMessage::default()
            };
            drop(self.sender.try_send(message));
        }
    }
}

/// As `docker load`.
pub(super) fn load(inner: &Arc<Inner>, source: impl BufRead + Send, reporter: &Reporter) -> Result<(), Failure> {
    let read = |error: io::Error| Failure::invalid(format!("cannot read the archive: {}", chain(&error)));
    let (start, source) = peek(source, 6).map_err(read)?;
    let compression = Compression::of(&start).map_err(invalid)?;
    let mut archive = Archive::default();
    if compression == Compression::None {
        archive.read(inner, source, reporter)?;
    } else {
        let decoder = decoder(compression, source).map_err(read)?;
        archive.read(inner, BufReader::with_capacity(256 * 1024, decoder), reporter)?;
    }
    let mut new = Vec::new();
    let mut loaded = Vec::new();
    for image in archive.plan(&inner.layers)? {
        loaded.push((Digest::of(&image.config), image.names.clone()));
        new.push(image);
    }
    announce_renames(inner, &loaded, reporter);
    let added = inner.add(new, inner.options.clock.now())?;
    for (entry, (id, names)) in added.iter().zip(&loaded) {
        for name in names {
            reporter.line(ProgressMessage::text(format!("Loaded image: {}\n", name.familiar())));
        }
        if names.is_empty() {
            reporter.line(ProgressMessage::text(format!("Loaded image ID: {id}\n")));
        }
        inner.event("load", Some(entry), &id.to_string());
    }
    Ok(())
}

fn announce_renames(inner: &Inner, loaded: &[(Digest, Vec<Reference>)], reporter: &Reporter) {
    let catalog = inner.catalog.load();
    for (id, names) in loaded {
        for name in names {
            if let Some(previous) = catalog.references.get(name).filter(|previous| *previous != id) {
                reporter.line(ProgressMessage::text(format!(
                    "The image {} already exists, renaming the old one with ID {previous} to empty string\n",
                    name.familiar()
                )));
            }
        }
    }
}

/// What an entry of the archive has turned out to be.
enum Item {
    Document(Vec<u8>),
    Layer(LayerPin),
    /// Neither; says what it is.
    Unusable(String),
    /// The same as another entry.
    Link(Vec<u8>),
}

/// The archive as it was read.
#[derive(Default)]
struct Archive {
    items: HashMap<Vec<u8>, Item>,
    document_bytes: u64,
}

fn unreadable(error: &TarError) -> Failure {
    Failure::invalid(format!("cannot read the archive: {}", chain(error)))
}

impl Archive {
    fn read(&mut self, inner: &Inner, source: impl BufRead + Send, reporter: &Reporter) -> Result<(), Failure> {
        let mut reader = TarReader::new(source, NoTap);
        let mut layers = 0;
        while let Some(entry) = reader.next_entry().map_err(|error| unreadable(&error))? {
            let parts = clean(&entry.path).map_err(invalid)?;
            let path = parts.join(&b'/');
            let item = match entry.kind {
                EntryKind::File => self.file(inner, &mut reader, &entry, &path, reporter)?,
                EntryKind::HardLink => Item::Link(clean(&entry.link).map_err(invalid)?.join(&b'/')),
                EntryKind::Link => {
                    let above = &parts[..parts.len().saturating_sub(1)];
                    let target = [above, &[&entry.link[..]]].concat().join(&b'/');
                    Item::Link(clean(&target).map_err(invalid)?.join(&b'/'))
                }
                _ => continue,
            };
            layers += usize::from(matches!(item, Item::Layer(_)));
            let limits = inner.layers.limits();
            if layers > limits.layers.saturating_mul(limits.images.min(16)) || self.items.len() >= MOST_ENTRIES {
                return Err(Failure::invalid("the archive has too many entries"));
            }
            self.items.insert(path, item);
        }
        reader.drain().map_err(|error| unreadable(&error))
    }

    fn file<R: BufRead + Send>(
        &mut self,
        inner: &Inner,
        reader: &mut TarReader<R, NoTap>,
        entry: &TarEntry,
        path: &[u8],
        reporter: &Reporter,
    ) -> Result<Item, Failure> {
        if entry.extents.is_some() {
            return Err(Failure::invalid("cannot read the archive: it has sparse files"));
        }
        let blob = blob_digest(path);
        let content = Content { reader };
        let (start, content) = peek(content, 512).map_err(|error| unreadable(&error.into()))?;
        let compression = Compression::of(&start);
        if compression != Ok(Compression::None) || looks_like_tar(&start) {
            return match compression {
                Ok(compression) => {
                    let content = Counted {
                        source: content,
                        count: 0,
                        reported: 0,
                        total: entry.size,
                        id: short(path, blob),
                        reporter,
                    };
                    layer(inner, content, compression, blob).map(Item::Layer).map_err(|failure| {
                        let message = format!("{}: {}", String::from_utf8_lossy(path), failure.message);
                        Failure { message, ..failure }
                    })
                }
                Err(unsupported) => Ok(Item::Unusable(unsupported.to_string())),
            };
        }
        if !matches!(start.iter().find(|byte| !byte.is_ascii_whitespace()), Some(b'{' | b'[')) {
            return Ok(Item::Unusable("it is neither a layer nor a document".to_owned()));
        }
        self.document_bytes += entry.size;
        if entry.size > LONGEST_DOCUMENT || self.document_bytes > MOST_DOCUMENTS {
            return Err(Failure::invalid(format!(
                "the archive's document {} is too large",
                String::from_utf8_lossy(path)
            )));
        }
        let mut bytes = Vec::new();
        let mut content = content;
        content.read_to_end(&mut bytes).map_err(|error| unreadable(&error.into()))?;
        match blob {
            Some(expected) if Digest::of(&bytes) != expected => Err(wrong_digest(expected, Digest::of(&bytes))),
            _ => Ok(Item::Document(bytes)),
        }
    }

    /// What is at this path, links followed.
    fn item(&self, path: &[u8]) -> Option<&Item> {
        let mut path = path;
        for _ in 0..16 {
            match self.items.get(path)? {
                Item::Link(target) => path = target,
                item => return Some(item),
            }
        }
        None
    }
}

fn wrong_digest(expected: Digest, actual: Digest) -> Failure {
    Failure::invalid(format!("blob verification failed: expected {expected}, got {actual}"))
}

/// The digest that a path of an OCI layout announces.
fn blob_digest(path: &[u8]) -> Option<Digest> {
    let hex = path.strip_prefix(b"blobs/sha256/")?;
    str::from_utf8(hex).ok().and_then(Digest::from_hex)
}

fn short(path: &[u8], blob: Option<Digest>) -> String {
    blob.map_or_else(|| String::from_utf8_lossy(path).chars().take(12).collect(), |digest| digest.short())
}

fn layer(
    inner: &Inner,
    content: impl BufRead + Send,
    compression: Compression,
    blob: Option<Digest>,
) -> Result<LayerPin, Failure> {
    let Some(expected) = blob else { return Ok(inner.layers.add(content, None)?) };
    if compression == Compression::None {
        // One that is here is not read again: ours is known to be right.
        return match inner.layers.pin(&expected) {
            Some(pin) => Ok(pin),
            None => Ok(inner.layers.add(content, Some(expected))?),
        };
    }
    let mut hashed = Hashed { source: content, hasher: Hasher::new() };
    let pin = inner.layers.add(&mut hashed, None)?;
    io::copy(&mut hashed, &mut io::sink()).map_err(|error| unreadable(&error.into()))?;
    let actual = hashed.hasher.finish();
    if actual == expected { Ok(pin) } else { Err(wrong_digest(expected, actual)) }
}

/// The content of the current entry.
struct Content<'a, R> {
    reader: &'a mut TarReader<R, NoTap>,
}

impl<R: BufRead> BufRead for Content<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_content().map_err(io::Error::other)
    }

    fn consume(&mut self, length: usize) {
        self.reader.consume(length);
    }
}

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        copy_out(self, buffer)
    }
}

fn copy_out(source: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let available = source.fill_buf()?;
    let length = available.len().min(buffer.len());
    buffer[..length].copy_from_slice(&available[..length]);
    source.consume(length);
    Ok(length)
}

/// Hashes what goes through, still compressed.
struct Hashed<R> {
    source: R,
    hasher: Hasher,
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        // What was filled is still there.
        if let Ok(bytes) = self.source.fill_buf() {
            self.hasher.update(&bytes[..length.min(bytes.len())]);
        }
        self.source.consume(length);
    }
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        copy_out(self, buffer)
    }
}

/// Reports how much has gone through.
struct Counted<'a, R> {
    source: R,
    count: u64,
    reported: u64,
    total: u64,
    id: String,
    reporter: &'a Reporter,
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.count += length as u64;
        if self.count - self.reported >= PROGRESS_STEP || (self.count == self.total && self.reported < self.total) {
            self.reported = self.count;
            self.reporter.bar(&self.id, self.count, self.total);
        }
    }
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        copy_out(self, buffer)
    }
}
