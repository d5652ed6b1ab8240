//! Unpacking an archive into a directory of a container that may run meanwhile.
//!
//! ## Design notes
//! An entry's directory is opened by the kernel below the container's root, whatever links the container makes of it; its
//! last name is created exclusively, after what had it was removed, and is never followed. So the worst that a container
//! can do is to lead the archive to another place of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use shoal_engine_sys::fs::{self, Directory, FileKind, Metadata};
use shoal_proto::error::{Failure, chain};

use super::{as_path, write_failed};
use crate::image::layer::apply::set_attributes;
use crate::image::layer::path::{PathError, clean};
use crate::image::tar::{EntryKind, NoTap, TarEntry, TarError, TarReader};
use crate::remap::IdMap;

/// Deepest tree that makes room for an entry.
const DEEPEST: usize = 250;

/// Directories whose times are remembered until the end.
const MOST_TIMES: usize = 200_000;

/// An archive on its way into a container.
pub(super) struct Extraction<'a> {
    root: &'a Directory,
    /// Where it goes, absolute in the container.
    target: PathBuf,
    owner: Option<(u32, u32)>,
    /// Is it wrong to put a directory in the place of something else, or the other way round?
    keep_kinds: bool,
    /// Ids of the archive are those inside of the container.
    map: Option<IdMap>,
    /// Times of directories, set when nothing is put into them any more.
    times: BTreeMap<PathBuf, (i64, u32)>,
}

impl From<TarError> for Failure {
    fn from(error: TarError) -> Self {
        Self::invalid(chain(&error))
    }
}

impl<'a> Extraction<'a> {
    /// `target` is resolved, absolute in the root.
    pub(super) fn new(
        root: &'a Directory,
        target: PathBuf,
        owner: Option<(u32, u32)>,
        keep_kinds: bool,
        map: Option<IdMap>,
    ) -> Self {
        Self { root, target, owner, keep_kinds, map, times: BTreeMap::new() }
    }

    /// Unpacks the archive. What was unpacked before a failure stays.
    pub(super) fn run(mut self, source: impl BufRead) -> Result<(), Failure> {
        let mut reader = TarReader::new(source, NoTap);
        while let Some(entry) = reader.next_entry()? {
            self.entry(&mut reader, &entry)?;
        }
        self.flush_times()
    }

    fn entry<R: BufRead>(&mut self, reader: &mut TarReader<R, NoTap>, entry: &TarEntry) -> Result<(), Failure> {
        let parts = clean(&entry.path).map_err(|error| self.outside(&entry.path, &error))?;
        // The directory itself is there, and stays as it is.
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        let name = OsStr::from_bytes(name);
        let parent_path: PathBuf = above.iter().fold(self.target.clone(), |path, part| path.join(as_path(part)));
        let path = parent_path.join(name);
        self.check_link(entry, &parent_path, &path)?;
        let parent = self.open_parent(&parent_path)?;
        let existing = parent.stat(name).map_err(|error| write_failed("lstat", &path, &error))?;
        if let Some(existing) = existing {
            self.make_room(entry, &parent, name, &path, existing)?;
        }
        match entry.kind {
            EntryKind::File => self.file(reader, entry, &parent, name, &path),
            EntryKind::Directory => self.directory(entry, &parent, name, path),
            EntryKind::HardLink => self.hard_link(entry, &parent, name, &path),
            EntryKind::Link => self.link(entry, &parent, name).map_err(|error| write_failed("symlink", &path, &error)),
            _ => self.special(entry, &parent, name).map_err(|error| write_failed("mknod", &path, &error)),
        }
    }

    fn outside(&self, path: &[u8], error: &PathError) -> Failure {
        match error {
            PathError::Outside { .. } => Failure::invalid(format!(
                "\"{}\" is outside of \"{}\"",
                String::from_utf8_lossy(path),
                self.target.display()
            )),
            other => Failure::invalid(chain(other)),
        }
    }

    /// As dockerd: links of the archive that lead out of where it is unpacked are refused. (For us they would be harmless.)
    fn check_link(&self, entry: &TarEntry, parent: &Path, path: &Path) -> Result<(), Failure> {
        let (kind, shown, from) = match entry.kind {
            EntryKind::Link => ("symlink", path, parent),
            EntryKind::HardLink => ("hardlink", path, self.target.as_path()),
            _ => return Ok(()),
        };
        let leads_to = lexical(from, &entry.link);
        if leads_to.as_os_str().as_bytes().starts_with(self.target.as_os_str().as_bytes()) {
            return Ok(());
        }
        let shown = if entry.kind == EntryKind::HardLink { leads_to.display() } else { shown.display() };
        Err(Failure::invalid(format!("invalid {kind} \"{shown}\" -> \"{}\"", String::from_utf8_lossy(&entry.link))))
    }

    /// A directory that was not there. The container may put another in its place meanwhile, which is not to be given to it.
    fn make_dir_of_root(&self, path: &Path, map: &IdMap) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let parent = self.root.open_dir(parent)?;
        match parent.make_dir(name, 0o755) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            made => made?,
        }
        let made = parent.enter(name)?;
        if !made.is_empty()? {
            return Err(io::Error::other("it was replaced meanwhile"));
        }
        fs::set_owner(&made, map.root().0, map.root().1)
    }

    fn open_parent(&self, path: &Path) -> Result<Directory, Failure> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let failed = |error: io::Error| write_failed("mkdir", path, &error);
        if let Some(map) = &self.map {
            // What is made on the way is the container's root's, one by one from above.
            let mut made = PathBuf::new();
            for part in relative {
                made.push(part);
                match self.root.open_dir(&made) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        self.make_dir_of_root(&made, map).map_err(failed)?;
                    }
                    other => drop(other.map_err(failed)?),
                }
            }
        }
        self.root.make_path(relative, 0o755).map_err(failed)
    }

    /// Whose an entry becomes, on the host.
    fn owner_of(&self, entry: &TarEntry) -> io::Result<(u32, u32)> {
        let owner = self.owner.unwrap_or((entry.uid, entry.gid));
        let Some(map) = &self.map else { return Ok(owner) };
        map.owner_on_host(owner).ok_or_else(|| {
            io::Error::other(format!("owner {}:{} is outside of the container's range of ids", owner.0, owner.1))
        })
    }

    /// Removes what is in the way of an entry; a directory stays for a directory.
    fn make_room(
        &self,
        entry: &TarEntry,
        parent: &Directory,
        name: &OsStr,
        path: &Path,
        existing: Metadata,
    ) -> Result<(), Failure> {
        let wanted = entry.kind == EntryKind::Directory;
        if self.keep_kinds && existing.is_dir() != wanted {
            let (is, new) = if wanted { ("non-directory", "directory") } else { ("directory", "non-directory") };
            return Err(Failure::invalid(format!(
                "cannot overwrite {is} \"{}\" with {new} \"{}\"",
                path.display(),
                self.target.display()
            )));
        }
        if existing.is_dir() && wanted {
            return Ok(());
        }
        remove(parent, name, 0).map_err(|error| write_failed("unlinkat", path, &error))
    }

    fn file<R: BufRead>(
        &self,
        reader: &mut TarReader<R, NoTap>,
        entry: &TarEntry,
        parent: &Directory,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| write_failed("open", path, &error);
        let mut file = parent.create_file(name, entry.mode & 0o777).map_err(failed)?;
        let whole = [(0, entry.size)];
        for (offset, length) in entry.extents.as_deref().unwrap_or(&whole) {
            copy_content(reader, &mut file, *offset, *length, path)?;
        }
        let failed = |error: io::Error| write_failed("write", path, &error);
        if entry.extents.is_some() {
            file.set_len(entry.size).map_err(failed)?;
        }
        self.finish(&file, entry).and_then(|()| fs::set_times(&file, entry.modified)).map_err(failed)
    }

    /// Owner, mode and attributes, in the order in which one does not undo the other.
    fn finish(&self, file: impl AsFd, entry: &TarEntry) -> io::Result<()> {
        let (uid, gid) = self.owner_of(entry)?;
        fs::set_owner(&file, uid, gid)?;
        fs::set_mode(&file, entry.mode)?;
        match &self.map {
            None => set_attributes(file, entry),
            Some(map) => set_attributes(file, &in_namespace(entry, map)),
        }
    }

    fn directory(&mut self, entry: &TarEntry, parent: &Directory, name: &OsStr, path: PathBuf) -> Result<(), Failure> {
        let made = match parent.make_dir(name, entry.mode & 0o777) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => parent.enter(name),
        };
        let made = made.map_err(|error| write_failed("mkdir", &path, &error))?;
        self.finish(&made, entry).map_err(|error| write_failed("chown", &path, &error))?;
        if self.times.len() >= MOST_TIMES {
            self.flush_times()?;
        }
        self.times.insert(path, entry.modified);
        Ok(())
    }

    fn hard_link(&self, entry: &TarEntry, parent: &Directory, name: &OsStr, path: &Path) -> Result<(), Failure> {
        let leads_to = lexical(&self.target, &entry.link);
        let make = || -> io::Result<()> {
            let above = leads_to.parent().unwrap_or(Path::new("/"));
            let from = self.root.open_dir(above.strip_prefix("/").unwrap_or(above))?;
            let target = leads_to.file_name().ok_or(io::ErrorKind::NotFound)?;
            parent.make_hard_link(name, &from, target)
        };
        make().map_err(|error| {
            let what = format!("link {}", leads_to.display());
            write_failed(&what, path, &error)
        })
    }

    fn link(&self, entry: &TarEntry, parent: &Directory, name: &OsStr) -> io::Result<()> {
        parent.make_link(name, OsStr::from_bytes(&entry.link))?;
        let handle = fs::just_made(parent, name, FileKind::Link, (0, 0))?;
        let (uid, gid) = self.owner_of(entry)?;
        fs::set_handle_owner(&handle, uid, gid)?;
        parent.set_times(name, entry.modified)
    }

    /// A device or pipe. What may be done with a device is up to the container's device rules.
    fn special(&self, entry: &TarEntry, parent: &Directory, name: &OsStr) -> io::Result<()> {
        let kind = match entry.kind {
            EntryKind::CharacterDevice => FileKind::CharacterDevice,
            EntryKind::BlockDevice => FileKind::BlockDevice,
            _ => FileKind::Fifo,
        };
        parent.make_special(name, kind, 0, entry.device)?;
        let device = if kind == FileKind::Fifo { (0, 0) } else { entry.device };
        let handle = fs::just_made(parent, name, kind, device)?;
        let (uid, gid) = self.owner_of(entry)?;
        fs::set_handle_owner(&handle, uid, gid)?;
        fs::set_handle_mode(&handle, entry.mode)?;
        parent.set_times(name, entry.modified)
    }

    fn flush_times(&mut self) -> Result<(), Failure> {
        for (path, modified) in std::mem::take(&mut self.times) {
            let opened = self.root.open_dir(path.strip_prefix("/").unwrap_or(&path));
            match opened.and_then(|directory| fs::set_times(&directory, modified)) {
                // It made room for something else.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                other => other.map_err(|error| write_failed("chtimes", &path, &error))?,
            }
        }
        Ok(())
    }
}

/// File capabilities as those of the container's user namespace: on the host they would be its root's.
fn in_namespace(entry: &TarEntry, map: &IdMap) -> TarEntry {
    let mut entry = entry.clone();
    for (_, value) in entry.attributes.iter_mut().filter(|(name, _)| name == b"security.capability") {
        // Revision 3 is revision 2 with the namespace's root behind it; the revision is the last byte of the first word.
        if value.len() == 20 && value[3] == 2 {
            value[3] = 3;
            value.extend(map.root().0.to_le_bytes());
        }
    }
    entry
}

/// Where a link's text leads to by letters alone, as Go's `filepath.Join`: also what begins with a slash is below.
fn lexical(from: &Path, text: &[u8]) -> PathBuf {
    let mut path = from.to_owned();
    for part in text.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                path.pop();
            }
            part => path.push(as_path(part)),
        }
    }
    path
}

fn copy_content<R: BufRead>(
    reader: &mut TarReader<R, NoTap>,
    file: &mut File,
    offset: u64,
    mut length: u64,
    path: &Path,
) -> Result<(), Failure> {
    let failed = |error: io::Error| write_failed("write", path, &error);
    io::Seek::seek(file, io::SeekFrom::Start(offset)).map_err(failed)?;
    while length > 0 {
        let bytes = reader.fill_content()?;
        let part = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        if part == 0 {
            return Err(Failure::invalid("unexpected EOF"));
        }
        file.write_all(&bytes[..part]).map_err(failed)?;
        reader.consume(part);
        length -= part as u64;
    }
    Ok(())
}

/// Removes a name with all that is in it. A mount in the way is an error: to unlink it from here would take it away from
/// the container.
fn remove(parent: &Directory, name: &OsStr, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("directories are nested more than {DEEPEST} levels deep")));
    }
    match parent.is_mount_root(name) {
        Ok(true) => return Err(io::Error::from_raw_os_error(rustix::io::Errno::BUSY.raw_os_error())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !parent.stat(name)?.is_some_and(|metadata| metadata.is_dir()) {
        return match parent.remove_file(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
    }
    let directory = parent.enter(name)?;
    for entry in directory.entries()? {
        remove(&directory, &entry.name, depth + 1)?;
    }
    drop(directory);
    parent.remove_dir(name)
}
