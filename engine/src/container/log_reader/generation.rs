//! The files of a log by their numbers. How they are followed from one to the next: see the design notes of the reader.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::logs::file::numbered;
use crate::logs::packed_identity;

/// Generations looked for.
pub(super) const GENERATIONS: u32 = 1_000;
/// So many numbers without a file end the search for the oldest: one is a rotation under way, others are left by crashes.
pub(super) const GAPS: u32 = 8;

/// One file of a log.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) file: File,
    pub(super) inode: u64,
    pub(super) packed: bool,
    /// What a packed one holds, once it was looked at.
    pub(super) unpacked: Option<File>,
    pub(super) offset: u64,
    /// The number it had when last seen; it is not less now.
    pub(super) number: u32,
}

impl Generation {
    pub(super) fn open(path: &Path, number: u32) -> io::Result<Option<Self>> {
        // The packed one comes before the plain one goes.
        for packed in [false, true] {
            match File::open(numbered(path, number, packed)) {
                Ok(file) => {
                    let inode = file.metadata()?.ino();
                    return Ok(Some(Self { file, inode, packed, unpacked: None, offset: 0, number }));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Is it what has that number now?
    fn is_at(&self, path: &Path, number: u32) -> io::Result<bool> {
        if inode_of(&numbered(path, number, self.packed))? == Some(self.inode) {
            return Ok(true);
        }
        if self.packed {
            return Ok(false);
        }
        match File::open(numbered(path, number, true)) {
            Ok(packed) => packed_identity(&packed, &self.file.metadata()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Does it still have its number?
    pub(super) fn in_place(&self, path: &Path) -> io::Result<bool> {
        self.is_at(path, self.number)
    }

    /// Brings its number up to date. `false`: it has none any more.
    pub(super) fn locate(&mut self, path: &Path) -> io::Result<bool> {
        for number in self.number..GENERATIONS {
            if self.is_at(path, number)? {
                self.number = number;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The file with its records.
    pub(super) fn records(&mut self) -> io::Result<&File> {
        if !self.packed {
            return Ok(&self.file);
        }
        let unpacked = match self.unpacked.take() {
            Some(unpacked) => unpacked,
            None => unpack(&self.file)?,
        };
        Ok(self.unpacked.insert(unpacked))
    }
}

/// Unpacks into memory that has no name: it may be swapped out, and is gone with its last reader.
fn unpack(packed: &File) -> io::Result<File> {
    let memory = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut unpacked = File::from(memory);
    io::copy(&mut flate2::read::GzDecoder::new(packed), &mut unpacked)?;
    Ok(unpacked)
}

fn inode_of(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has a file that number?
fn is_taken(path: &Path, number: u32) -> io::Result<bool> {
    Ok(inode_of(&numbered(path, number, false))?.is_some() || inode_of(&numbered(path, number, true))?.is_some())
}

/// Opens all generations, the oldest first.
pub(super) fn generations(path: &Path) -> io::Result<VecDeque<Generation>> {
    let mut files = VecDeque::new();
    let mut found = oldest(path)?;
    while let Some(mut generation) = found {
        found = successor(path, &mut generation)?;
        files.push_back(generation);
    }
    Ok(files)
}

/// The oldest generation there is.
pub(super) fn oldest(path: &Path) -> io::Result<Option<Generation>> {
    let mut candidate: Option<Generation> = None;
    loop {
        let from = candidate.as_ref().map_or(0, |generation| generation.number + 1);
        let mut older = None;
        for number in from..from + GAPS {
            older = Generation::open(path, number)?;
            if older.is_some() {
                break;
            }
        }
        match (older, &mut candidate) {
            (Some(older), _) => candidate = Some(older),
            (None, None) => return Ok(None),
            // In its place all the time, so nothing passed it unseen.
            (None, Some(generation)) if generation.in_place(path)? => return Ok(candidate),
            (None, Some(generation)) => {
                if !generation.locate(path)? {
                    candidate = None;
                }
            }
        }
    }
}

/// The generation written after that one; `None` while there is none.
pub(super) fn successor(path: &Path, generation: &mut Generation) -> io::Result<Option<Generation>> {
    loop {
        if !generation.locate(path)? {
            // Deleted: all that is there was written later. Moved away by somebody else: what is new comes to the first name.
            let deleted = generation.file.metadata()?.nlink() == 0;
            return if deleted { oldest(path) } else { Generation::open(path, 0) };
        }
        let mut next = None;
        for number in (0..generation.number).rev() {
            next = Generation::open(path, number)?;
            if next.is_some() {
                break;
            }
        }
        let first_between = next.as_ref().map_or(0, |next| next.number + 1);
        let mut undisturbed = true;
        for number in first_between..generation.number {
            undisturbed &= !is_taken(path, number)?;
        }
        if undisturbed && generation.in_place(path)? {
            return Ok(next);
        }
    }
}
