//! How to write the tar of an unpacked layer again, byte for byte: what was not content, and where the content is.
//!
//! ## Design notes
//! The same idea as tar-split, which dockerd has: content is kept once, in the unpacked files. A file that another entry
//! of the same layer replaced is kept aside under its inode number, which is why content records carry it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use shoal_engine_sys::fs::Directory;

use crate::image::tar::Tap;

const RAW: u8 = 1;
const CONTENT: u8 = 2;
const END: u8 = 3;

/// Bytes that are gathered before they are written.
const GATHER: usize = 64 * 1024;

/// Bounds of what a recipe may say, in case the disk lies.
const LONGEST_RAW: u32 = 4 << 20;
const LONGEST_PATH: u32 = 64 << 10;
const MOST_EXTENTS: u32 = 1 << 20;

/// Writes a recipe.
pub struct RecipeWriter {
    output: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    raw: Vec<u8>,
}

impl std::fmt::Debug for RecipeWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecipeWriter")
    }
}

impl RecipeWriter {
    /// Into this new file.
    ///
    /// # Errors
    /// When the encoder cannot be made.
    pub fn new(file: File) -> io::Result<Self> {
        let output = zstd::stream::write::Encoder::new(BufWriter::with_capacity(GATHER, file), 1)?;
        Ok(Self { output, raw: Vec::with_capacity(GATHER) })
    }

    /// Here comes the content of a file: these pieces of it, one after the other.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn content(&mut self, path: &Path, inode: u64, extents: &[(u64, u64)]) -> io::Result<()> {
        self.flush_raw()?;
        let path = path.as_os_str().as_bytes();
        self.output.write_all(&[CONTENT])?;
        self.output.write_all(&length(path.len())?)?;
        self.output.write_all(path)?;
        self.output.write_all(&inode.to_le_bytes())?;
        self.output.write_all(&length(extents.len())?)?;
        for (offset, length) in extents {
            self.output.write_all(&offset.to_le_bytes())?;
            self.output.write_all(&length.to_le_bytes())?;
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.output.write_all(&[END])?;
        self.output.finish()?.flush()
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.output.write_all(&[RAW])?;
            self.output.write_all(&length(self.raw.len())?)?;
            self.output.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }
}

impl Tap for RecipeWriter {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= GATHER { self.flush_raw() } else { Ok(()) }
    }
}

fn length(length: usize) -> io::Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_le_bytes).map_err(io::Error::other)
}

/// Follows a recipe: writes the tar of the layer whose files are in `files` and, where replaced, in `replaced`.
///
/// # Errors
/// When the recipe or a file is not what it was, or `output` fails.
pub fn follow(recipe: File, files: &Directory, replaced: Option<&Directory>, output: &mut dyn Write) -> io::Result<()> {
    let mut recipe = zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(GATHER, recipe))?;
    loop {
        match take::<1>(&mut recipe)?[0] {
            RAW => {
                let bytes = bytes(&mut recipe, LONGEST_RAW)?;
                output.write_all(&bytes)?;
            }
            CONTENT => {
                let path = bytes(&mut recipe, LONGEST_PATH)?;
                let inode = u64::from_le_bytes(take(&mut recipe)?);
                let count = u32::from_le_bytes(take(&mut recipe)?);
                if count > MOST_EXTENTS {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the recipe of the layer is damaged"));
                }
                let file = open(files, replaced, Path::new(OsStr::from_bytes(&path)), inode)?;
                for _ in 0..count {
                    let offset = u64::from_le_bytes(take(&mut recipe)?);
                    let length = u64::from_le_bytes(take(&mut recipe)?);
                    copy(&file, offset, length, output)?;
                }
            }
            END => return Ok(()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the recipe of the layer is damaged")),
        }
    }
}

fn open(files: &Directory, replaced: Option<&Directory>, path: &Path, inode: u64) -> io::Result<File> {
    if let Some(replaced) = replaced {
        match replaced.open_file(Path::new(&inode.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    files.open_file(path)
}

fn copy(file: &File, mut offset: u64, mut length: u64, output: &mut dyn Write) -> io::Result<()> {
    use std::os::unix::fs::FileExt;

    let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(256 * 1024)];
    while length > 0 {
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
        let read = file.read_at(&mut buffer[..most], offset)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file of the layer is shorter than it was"));
        }
        output.write_all(&buffer[..read])?;
        offset += read as u64;
        length -= read as u64;
    }
    Ok(())
}

fn take<const LENGTH: usize>(source: &mut impl Read) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn bytes(source: &mut impl Read, most: u32) -> io::Result<Vec<u8>> {
    let length = u32::from_le_bytes(take(source)?);
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the recipe of the layer is damaged"));
    }
    let mut bytes = vec![0; length as usize];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}
