//! Trees as archives, entry by entry from handles.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use shoal_engine_sys::fs::{self, Directory, FileKind, Metadata};

use crate::image::layer::apply::is_allowed;
use crate::image::tar::write::{END, blank, header, padding};
use crate::image::tar::{EntryKind, TarEntry};
use crate::remap::IdMap;

/// Deepest tree that is packed; each level keeps a handle open.
const DEEPEST: usize = 250;

/// Which extended attributes go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// File capabilities alone, as dockerd does.
    Capabilities,
    /// All that an image may have.
    All,
}

/// Writes an archive.
pub(crate) struct Packer<'a, W> {
    output: &'a mut W,
    kept: Kept,
    /// Ids as they are inside of the container go into the archive.
    map: Option<IdMap>,
    /// Names under which files with several names were packed.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<'a, W: Write> Packer<'a, W> {
    /// Into this output.
    pub(crate) fn new(output: &'a mut W, kept: Kept, map: Option<IdMap>) -> Self {
        Self { output, kept, map, links: HashMap::new() }
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.output.write_all(&END)?;
        self.output.flush()
    }

    /// Packs what a handle without access stands for under this name, a directory with all that is in it.
    pub(crate) fn handle(&mut self, handle: &OwnedFd, path: Vec<u8>) -> io::Result<()> {
        self.one(handle, path, 0)
    }

    /// Packs all that is in a directory. `path` ends with a slash, or is empty.
    pub(crate) fn contents(&mut self, directory: &Directory, path: &[u8]) -> io::Result<()> {
        self.inside(directory, path, 0)
    }

    fn inside(&mut self, directory: &Directory, path: &[u8], depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("directories are nested more than {DEEPEST} levels deep")));
        }
        for name in names(directory)? {
            match directory.open_name(&name) {
                Ok(handle) => self.one(&handle, [path, name.as_bytes()].concat(), depth)?,
                // It is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn one(&mut self, handle: &OwnedFd, path: Vec<u8>, depth: usize) -> io::Result<()> {
        let metadata = fs::metadata(handle)?;
        if metadata.is_dir() {
            let directory = Directory::of(handle)?;
            let mut path = path;
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            self.directory(&directory, &path)?;
            return self.inside(&directory, &path, depth + 1);
        }
        self.other(handle, &metadata, path)
    }

    /// The entry of a directory itself; `path` ends with a slash.
    pub(crate) fn directory(&mut self, directory: &Directory, path: &[u8]) -> io::Result<()> {
        let mut entry = self.entry(EntryKind::Directory, path.to_vec(), &fs::metadata(directory)?);
        entry.attributes = self.attributes(directory)?;
        self.output.write_all(&header(&entry))
    }

    /// Anything but a directory.
    pub(crate) fn other(&mut self, handle: &OwnedFd, metadata: &Metadata, path: Vec<u8>) -> io::Result<()> {
        let kind = match metadata.kind {
            FileKind::File => EntryKind::File,
            FileKind::Link => EntryKind::Link,
            FileKind::CharacterDevice => EntryKind::CharacterDevice,
            FileKind::BlockDevice => EntryKind::BlockDevice,
            FileKind::Fifo => EntryKind::Fifo,
            // As dockerd: an archive cannot have them.
            FileKind::Socket | FileKind::Directory => return Ok(()),
        };
        let mut entry = self.entry(kind, path, metadata);
        if metadata.links > 1 {
            let key = (metadata.device, metadata.inode);
            if let Some(first) = self.links.get(&key) {
                (entry.kind, entry.link) = (EntryKind::HardLink, first.clone());
                return self.output.write_all(&header(&entry));
            }
            self.links.insert(key, entry.path.clone());
        }
        match kind {
            EntryKind::File => self.file(handle, entry),
            EntryKind::Link => {
                entry.link = fs::link_text(handle)?.as_bytes().to_vec();
                self.output.write_all(&header(&entry))
            }
            _ => {
                entry.device = metadata.special;
                self.output.write_all(&header(&entry))
            }
        }
    }

    fn file(&mut self, handle: &OwnedFd, mut entry: TarEntry) -> io::Result<()> {
        let file = fs::reopen(handle)?;
        let size = fs::metadata(&file)?.size;
        (entry.size, entry.attributes) = (size, self.attributes(&file)?);
        self.output.write_all(&header(&entry))?;
        let copied = io::copy(&mut (&file).take(size), self.output)?;
        // It became shorter meanwhile: the archive has the length that was said.
        io::copy(&mut io::repeat(0).take(size - copied), self.output)?;
        self.output.write_all(padding(size))
    }

    /// An entry that is made up: an empty file of this name.
    pub(crate) fn marker(&mut self, path: &[u8]) -> io::Result<()> {
        self.output.write_all(&header(&TarEntry { path: path.to_vec(), ..blank(EntryKind::File, "", 0) }))
    }

    fn attributes(&self, file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        for name in fs::attributes(&file)? {
            let bytes = name.as_bytes();
            let wanted = bytes == b"security.capability" || self.kept == Kept::All && is_allowed(bytes);
            if wanted && let Some(value) = fs::attribute(&file, &name)? {
                let value = if bytes == b"security.capability" { without_namespace(value) } else { value };
                found.push((bytes.to_vec(), value));
            }
        }
        Ok(found)
    }

    fn entry(&self, kind: EntryKind, path: Vec<u8>, metadata: &Metadata) -> TarEntry {
        // Whole seconds, as dockerd.
        let modified = (metadata.modified.0.max(0), 0);
        let owner = (metadata.uid, metadata.gid);
        let (uid, gid) = self.map.as_ref().map_or(owner, |map| map.owner_inside(owner));
        TarEntry { path, mode: metadata.mode, uid, gid, modified, ..blank(kind, "", 0) }
    }
}

/// File capabilities that hold in one user namespace only become those that hold for whoever unpacks the archive, as
/// dockerd does it.
fn without_namespace(mut value: Vec<u8>) -> Vec<u8> {
    // Revision 3 is revision 2 with the namespace's root behind it; the revision is the last byte of the first word.
    if value.len() == 24 && value[3] == 3 {
        value[3] = 2;
        value.truncate(20);
    }
    value
}

/// The names in a directory, in order.
fn names(directory: &Directory) -> io::Result<Vec<OsString>> {
    let mut names: Vec<OsString> = directory.entries()?.into_iter().map(|entry| entry.name).collect();
    names.sort_by(|one, two| OsStr::as_bytes(one).cmp(OsStr::as_bytes(two)));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_their_namespace() {
        let mut value = vec![1, 0, 0, 3];
        value.extend([0x20; 16]);
        let plain = [vec![1, 0, 0, 2], vec![0x20; 16]].concat();
        assert_eq!(without_namespace(plain.clone()), plain);
        value.extend(100_000_u32.to_le_bytes());
        assert_eq!(without_namespace(value), plain);
    }
}
