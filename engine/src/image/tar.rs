//! A strict reader of tar archives: POSIX ustar and pax, GNU long names and sparse files, star and v7.
//!
//! ## Design notes
//! Readers that disagree about where an entry ends let an archive show one tree to a scanner and another to the engine
//! (CVE-2025-62518). So what readers are known to disagree about is an error here: sizes on entries without content,
//! names given twice, half an extension header, records that do not add up. Everything that is read into memory has a
//! bound. [`Tap`] sees every byte that is not file content, so that a layer can be written again byte for byte.

use std::io::{self, BufRead};

mod header;
mod pax;
mod sparse;
pub mod write;

use header::{BLOCK, Block, Flavour};
use pax::Records;

/// Bound of one extension header or long name.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// Bound of a path.
const LONGEST_PATH: usize = 4096;

/// The archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes make no archive.
    #[error("malformed tar archive at byte {offset}: {what}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// It ends in the middle.
    #[error("tar archive ends in the middle, at byte {offset}")]
    Truncated {
        /// Where.
        offset: u64,
    },
    /// The source failed.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// One more name of an earlier entry.
    HardLink,
    /// Symbolic link.
    Link,
    /// Character device.
    CharacterDevice,
    /// Block device.
    BlockDevice,
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
}

/// One entry: everything but its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Kind.
    pub kind: EntryKind,
    /// Path as it stands in the archive.
    pub path: Vec<u8>,
    /// Target of a link as it stands in the archive.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification: seconds since 1970 (before it: 0) and nanoseconds.
    pub modified: (i64, u32),
    /// Device numbers.
    pub device: (u32, u32),
    /// Bytes of the file once it is unpacked.
    pub size: u64,
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content goes, when there are holes: offset and length, in order.
    pub extents: Option<Vec<(u64, u64)>>,
}

/// Sees what is not content.
pub trait Tap {
    /// The next bytes of headers, padding and skipped content.
    ///
    /// # Errors
    /// When they cannot be kept.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Keeps nothing.
#[derive(Debug, Default)]
pub struct NoTap;

impl Tap for NoTap {
    fn raw(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Reads an archive entry by entry.
#[derive(Debug)]
pub struct TarReader<R, T> {
    source: R,
    tap: T,
    offset: u64,
    /// Content of the current entry that has not been read.
    content: u64,
    /// Zeros after it.
    padding: u64,
    ended: bool,
}

impl<R: BufRead, T: Tap> TarReader<R, T> {
    /// Reads this source.
    pub fn new(source: R, tap: T) -> Self {
        Self { source, tap, offset: 0, content: 0, padding: 0, ended: false }
    }

    /// The tap.
    pub fn tap(&mut self) -> &mut T {
        &mut self.tap
    }

    /// Bytes of the current entry's content that have not been read.
    pub fn content_left(&self) -> u64 {
        self.content
    }

    /// Goes to the next entry; skips what is left of the current one. None at the end of the archive.
    ///
    /// # Errors
    /// When the archive is malformed or ends in the middle.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>, TarError> {
        self.skip_content()?;
        let mut records = Records::default();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            let Some(block) = self.next_header()? else {
                if records.is_empty() && long_path.is_none() && long_link.is_none() {
                    return Ok(None);
                }
                return Err(self.malformed("an extension header without its entry"));
            };
            let size = block.size().map_err(|what| self.malformed(what))?;
            match block.kind() {
                b'x' => {
                    let bytes = self.extension(size)?;
                    if !records.is_empty() {
                        return Err(self.malformed("two extension headers for one entry"));
                    }
                    records = Records::parse(&bytes).map_err(|what| self.malformed(what))?;
                }
                b'g' => {
                    let bytes = self.extension(size)?;
                    let global = Records::parse(&bytes).map_err(|what| self.malformed(what))?;
                    if global.changes_layout() {
                        return Err(self.malformed("a global extension header with names or sizes"));
                    }
                }
                b'L' | b'K' => {
                    let is_path = block.kind() == b'L';
                    let name = self.long_name(size)?;
                    let place = if is_path { &mut long_path } else { &mut long_link };
                    if place.replace(name).is_some() {
                        return Err(self.malformed("two long names for one entry"));
                    }
                }
                _ => return self.entry(&block, size, records, long_path, long_link).map(Some),
            }
        }
    }

    /// The next bytes of the current entry's content, as many as are at hand; empty at its end. Say
    /// [`Self::consume`] for what was used.
    ///
    /// # Errors
    /// When the archive ends in the middle.
    pub fn fill_content(&mut self) -> Result<&[u8], TarError> {
        if self.content == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let buffer = self.source.fill_buf()?;
        if buffer.is_empty() {
            return Err(TarError::Truncated { offset });
        }
        let length = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        Ok(&buffer[..length])
    }

    /// Takes content that was used.
    pub fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.content -= (length as u64).min(self.content);
        self.offset += length as u64;
    }

    /// Takes the whole content into memory.
    ///
    /// # Errors
    /// When it is longer than `most`, or the archive ends in the middle.
    pub fn read_content(&mut self, most: u64) -> Result<Vec<u8>, TarError> {
        if self.content > most {
            return Err(self.malformed(format!("{} bytes where at most {most} are expected", self.content)));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.content).unwrap_or(0));
        loop {
            let part = self.fill_content()?;
            if part.is_empty() {
                return Ok(bytes);
            }
            let length = part.len();
            bytes.extend_from_slice(part);
            self.consume(length);
        }
    }

    /// Leaves out what is left of the current entry's content; the tap sees it.
    ///
    /// # Errors
    /// When the archive ends in the middle.
    pub fn skip_content(&mut self) -> Result<(), TarError> {
        while self.content + self.padding > 0 {
            let offset = self.offset;
            let buffer = self.source.fill_buf()?;
            if buffer.is_empty() {
                return Err(TarError::Truncated { offset });
            }
            let left = self.content + self.padding;
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.tap.raw(&buffer[..length])?;
            self.source.consume(length);
            self.offset += length as u64;
            let from_content = self.content.min(length as u64);
            self.content -= from_content;
            self.padding -= length as u64 - from_content;
        }
        Ok(())
    }

    /// After the last entry: lets the tap see all that follows, to the end of the source.
    ///
    /// # Errors
    /// When the source fails.
    pub fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let buffer = self.source.fill_buf()?;
            let length = buffer.len();
            if length == 0 {
                return Ok(());
            }
            self.tap.raw(buffer)?;
            self.source.consume(length);
            self.offset += length as u64;
        }
    }

    /// Gives source and tap back.
    pub fn into_parts(self) -> (R, T) {
        (self.source, self.tap)
    }

    fn malformed(&self, what: impl Into<String>) -> TarError {
        TarError::Malformed { offset: self.offset, what: what.into() }
    }

    /// One block; None when the source is at its end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let buffer = self.source.fill_buf()?;
            if buffer.is_empty() {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(TarError::Truncated { offset: self.offset + filled as u64 });
            }
            let length = buffer.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&buffer[..length]);
            self.source.consume(length);
            filled += length;
        }
        self.offset += BLOCK as u64;
        self.tap.raw(&block)?;
        Ok(Some(block))
    }

    fn next_header(&mut self) -> Result<Option<Block>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let Some(bytes) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if bytes.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return match self.block()? {
                Some(second) if second.iter().any(|byte| *byte != 0) => Err(self.malformed("a lone block of zeros")),
                _ => Ok(None),
            };
        }
        Block::parse(bytes).map(Some).map_err(|what| self.malformed(what))
    }

    /// Content of a header that belongs to the next entry.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > LONGEST_EXTENSION {
            return Err(self.malformed(format!("an extension header of {size} bytes")));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size.div_ceil(BLOCK as u64)).unwrap_or(0) * BLOCK);
        while (bytes.len() as u64) < size {
            let offset = self.offset;
            let block = self.block()?.ok_or(TarError::Truncated { offset })?;
            bytes.extend_from_slice(&block);
        }
        bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        if name.is_empty() {
            return Err(self.malformed("an empty long name"));
        }
        Ok(name)
    }

    fn entry(
        &mut self,
        block: &Block,
        header_size: u64,
        records: Records,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<TarEntry, TarError> {
        let fail = |what: String| TarError::Malformed { offset: self.offset, what };
        if (records.path.is_some() && long_path.is_some()) || (records.link.is_some() && long_link.is_some()) {
            return Err(fail("a long name and an extension header for one entry".to_owned()));
        }
        let stored = records.size.unwrap_or(header_size);
        let path = long_path.or_else(|| records.path.clone()).unwrap_or_else(|| block.path());
        let link = long_link.or_else(|| records.link.clone()).unwrap_or_else(|| block.link());
        if path.len() > LONGEST_PATH || link.len() > LONGEST_PATH {
            return Err(fail(format!("a path of {} bytes", path.len().max(link.len()))));
        }
        let kind = match block.kind() {
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Link,
            b'3' => EntryKind::CharacterDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            0 if block.flavour() == Flavour::V7 && path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            other => return Err(fail(format!("an entry of unknown type {:?}", char::from(other)))),
        };
        // All readers agree that a hard link has no content here whatever its size says; about the others they do not.
        if !matches!(kind, EntryKind::File | EntryKind::HardLink) && stored != 0 {
            return Err(fail(format!("{stored} bytes of content in an entry that cannot have any")));
        }
        let stored = if kind == EntryKind::File { stored } else { 0 };
        let mut entry = TarEntry {
            kind,
            link,
            mode: block.mode().map_err(&fail)? & 0o7777,
            uid: owner(records.uid, block.uid().map_err(&fail)?).map_err(&fail)?,
            gid: owner(records.gid, block.gid().map_err(&fail)?).map_err(&fail)?,
            modified: records.modified.map_or_else(|| block.modified(), Ok).map_err(&fail)?,
            device: block.device().map_err(&fail)?,
            size: stored,
            attributes: records.attributes.clone(),
            extents: None,
            path,
        };
        if entry.modified.0 < 0 {
            entry.modified = (0, 0);
        }
        self.content = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        self.read_sparse_map(block, &records, &mut entry)?;
        Ok(entry)
    }
}

/// Could an archive begin so? Its first block has a right checksum, or is the end of an empty archive.
pub fn looks_like_tar(start: &[u8]) -> bool {
    start
        .first_chunk::<BLOCK>()
        .is_some_and(|block| block.iter().all(|byte| *byte == 0) || Block::parse(*block).is_ok())
}

/// An id that the kernel can take: all ones would mean "leave as it is".
fn owner(record: Option<u64>, header: u64) -> Result<u32, String> {
    let id = record.unwrap_or(header);
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| format!("owner {id} is out of range"))
}

#[cfg(test)]
mod tests;
