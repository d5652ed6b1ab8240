//! Unpacking an archive below a directory handle.
//!
//! ## Design notes
//! Parents are resolved in the root (`openat2`), the last name is created with `O_EXCL` or replaced, never followed; so
//! whatever links an archive makes before it writes through them, it stays inside. An entry changes what is there only
//! where its own name is. Nothing is synced here: the store syncs once before it commits.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use shoal_engine_sys::fs::{self, Directory, FileKind, Metadata};

use super::path::{PathError, Place, clean, place};
use super::stream::{LimitExceeded, Limits};
use crate::image::tar::{EntryKind, Tap, TarEntry, TarError, TarReader};

/// Directories whose times are remembered until the end.
const MOST_TIMES: usize = 200_000;

/// Content between two looks at the free space.
const SPACE_STEP: u64 = 64 << 20;

/// The mark of an opaque directory, as overlayfs reads it.
pub const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// An archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is no proper archive.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A path in it is not acceptable.
    #[error("invalid entry in the archive")]
    Path(#[from] PathError),
    /// A hard link leads to nothing.
    #[error("hard link {path:?} to {target:?}, which the archive does not have before it")]
    HardLink {
        /// The new name.
        path: String,
        /// The old one.
        target: String,
    },
    /// It is too much.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// The disk failed, or something is in the way.
    #[error("cannot unpack {path:?}")]
    Write {
        /// Entry.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Beside the entries.
    #[error("cannot unpack the archive")]
    Io(#[from] io::Error),
}

/// Gets to know which content went where.
pub trait Record: Tap {
    /// The content of this file was just read from the archive.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn content(&mut self, path: &Path, inode: u64, extents: &[(u64, u64)]) -> io::Result<()>;
}

impl Record for super::recipe::RecipeWriter {
    fn content(&mut self, path: &Path, inode: u64, extents: &[(u64, u64)]) -> io::Result<()> {
        Self::content(self, path, inode, extents)
    }
}

impl Record for crate::image::tar::NoTap {
    fn content(&mut self, _path: &Path, _inode: u64, _extents: &[(u64, u64)]) -> io::Result<()> {
        Ok(())
    }
}

/// What to unpack into and how.
#[derive(Debug)]
pub struct Target<'a> {
    /// Root of everything in the archive.
    pub root: &'a Directory,
    /// Where files go that a later entry replaces; without it they are removed.
    pub replaced: Option<&'a Directory>,
    /// Are `.wh.` names removals, to be kept for an overlay? Otherwise they are plain names.
    pub whiteouts: bool,
    /// Owner and group of everything, instead of the archive's.
    pub owner: Option<(u32, u32)>,
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Opaque directories that could not be marked because the file system lacks attributes.
    pub opaque: Vec<PathBuf>,
}

/// Unpacks the archive, to the end of the source.
///
/// # Errors
/// See [`ApplyError`]; what was unpacked until then stays.
pub fn apply<R: BufRead, T: Record>(
    source: R,
    record: T,
    target: &Target<'_>,
    limits: &Limits,
) -> Result<(Applied, T), ApplyError> {
    let mut reader = TarReader::new(source, record);
    let root_path = fs::real_path(target.root)?;
    let mut applier = Applier {
        target,
        limits,
        root_path,
        parent: None,
        times: BTreeMap::new(),
        applied: Applied::default(),
        space_at: 0,
        holes: 0,
    };
    while let Some(entry) = reader.next_entry()? {
        applier.applied.entries += 1;
        if applier.applied.entries > limits.entries {
            return Err(LimitExceeded::Entries(limits.entries).into());
        }
        applier.entry(&mut reader, &entry)?;
    }
    applier.flush_times()?;
    reader.drain()?;
    let applied = applier.applied;
    Ok((applied, reader.into_parts().1))
}

struct Applier<'a> {
    target: &'a Target<'a>,
    limits: &'a Limits,
    root_path: PathBuf,
    /// The directory of the last entry: most entries stand beside the one before.
    parent: Option<Parent>,
    /// Times of directories, set when nothing is put into them any more.
    times: BTreeMap<PathBuf, (i64, u32)>,
    applied: Applied,
    space_at: u64,
    holes: u64,
}

struct Parent {
    asked: PathBuf,
    /// Where it really is, below the root.
    real: PathBuf,
    directory: Directory,
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Applier<'_> {
    fn entry<R: BufRead, T: Record>(
        &mut self,
        reader: &mut TarReader<R, T>,
        entry: &TarEntry,
    ) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Write { path: lossy(&entry.path), source };
        match place(&entry.path, self.target.whiteouts)? {
            // As dockerd does: the root of a layer has no say about the root of the container.
            Place::Root | Place::Reserved => Ok(()),
            Place::Whiteout { parent, name } => self.whiteout(&parent, OsStr::from_bytes(&name)).map_err(failed),
            Place::Opaque { parent } => {
                let directory = self.parent(&parent).map_err(failed)?.directory.try_clone().map_err(failed)?;
                self.mark_opaque(&directory).map_err(failed)
            }
            Place::Name { parent, name } => {
                let name = OsStr::from_bytes(&name);
                self.parent(&parent).map_err(failed)?;
                match entry.kind {
                    EntryKind::File => self.file(reader, entry, name),
                    EntryKind::Directory => self.directory(entry, name).map_err(failed),
                    EntryKind::HardLink => self.hard_link(entry, name),
                    EntryKind::Link => self.link(entry, name).map_err(failed),
                    EntryKind::CharacterDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                        self.special(entry, name).map_err(failed)
                    }
                }
            }
        }
    }

    /// The directory that entries go to, made when it is missing.
    fn parent(&mut self, path: &Path) -> io::Result<&Parent> {
        if self.parent.as_ref().is_none_or(|parent| parent.asked != path) {
            let directory = self.target.root.make_path(path, 0o755)?;
            let real = fs::real_path(&directory)?;
            let real = real
                .strip_prefix(&self.root_path)
                .map_err(|_| {
                    io::Error::other(format!("{} is outside of {}", real.display(), self.root_path.display()))
                })?
                .to_owned();
            self.parent = Some(Parent { asked: path.to_owned(), real, directory });
        }
        self.current()
    }

    fn current(&self) -> io::Result<&Parent> {
        self.parent.as_ref().ok_or_else(|| io::Error::other("no directory is open"))
    }

    fn whiteout(&mut self, parent: &Path, name: &OsStr) -> io::Result<()> {
        let parent = self.parent(parent)?.directory.try_clone()?;
        match parent.stat(name)? {
            // What this layer has under that name stays; it hides the lower one by itself, or when opaque.
            Some(existing) if existing.is_dir() => self.mark_opaque(&parent.enter(name)?),
            Some(_) => Ok(()),
            None => parent.make_special(name, FileKind::CharacterDevice, 0, (0, 0)),
        }
    }

    fn mark_opaque(&mut self, directory: &Directory) -> io::Result<()> {
        if !fs::set_attribute(directory, OsStr::new(OPAQUE_ATTRIBUTE), b"y")? {
            let real = fs::real_path(directory)?;
            self.applied.opaque.push(real.strip_prefix(&self.root_path).unwrap_or(&real).to_owned());
        }
        Ok(())
    }

    /// Makes `name` free. Says whether a whiteout was there.
    fn clear(&mut self, name: &OsStr) -> io::Result<bool> {
        let parent = self.current()?;
        let Some(existing) = parent.directory.stat(name)? else { return Ok(false) };
        let was_whiteout = self.target.whiteouts && existing.is_whiteout();
        let freed = discard(&parent.directory, name, existing, self.target.replaced)?;
        self.applied.bytes = self.applied.bytes.saturating_sub(freed);
        let parent = self.current()?;
        if matches!(existing.kind, FileKind::Directory | FileKind::Link) {
            // The way to the open directory may have led through it.
            let (asked, real) = (parent.asked.clone(), parent.real.join(name));
            let below: Vec<_> = self
                .times
                .range(real.clone()..)
                .map(|(path, _)| path.clone())
                .take_while(|path| path.starts_with(&real))
                .collect();
            for path in below {
                self.times.remove(&path);
            }
            self.parent = None;
            self.parent(&asked)?;
        }
        Ok(was_whiteout)
    }

    fn file<R: BufRead, T: Record>(
        &mut self,
        reader: &mut TarReader<R, T>,
        entry: &TarEntry,
        name: &OsStr,
    ) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Write { path: lossy(&entry.path), source };
        self.check_space(entry)?;
        let mut file = match self.current()?.directory.create_file(name, entry.mode & 0o777) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(name).map_err(failed)?;
                self.current()?.directory.create_file(name, entry.mode & 0o777).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        let made = fs::metadata(&file).map_err(failed)?;
        let whole = [(0, entry.size)];
        let extents = entry.extents.as_deref().unwrap_or(if entry.size == 0 { &[] } else { &whole });
        for (offset, length) in extents {
            write_extent(reader, &mut file, *offset, *length, entry)?;
        }
        if entry.extents.is_some() {
            file.set_len(entry.size).map_err(failed)?;
        }
        if !extents.is_empty() {
            let path = self.current()?.real.join(name);
            reader.tap().content(&path, made.inode, extents)?;
        }
        self.applied.bytes += entry.size;
        self.finish(&file, made, entry).map_err(failed)
    }

    /// Owner, mode, attributes and times, in the order in which one does not undo the other.
    fn finish(&self, file: &File, made: Metadata, entry: &TarEntry) -> io::Result<()> {
        let (uid, gid) = self.target.owner.unwrap_or((entry.uid, entry.gid));
        let chown = (made.uid, made.gid) != (uid, gid);
        if chown {
            fs::set_owner(file, uid, gid)?;
        }
        if chown || made.mode != entry.mode {
            fs::set_mode(file, entry.mode)?;
        }
        set_attributes(file, entry)?;
        fs::set_times(file, entry.modified)
    }

    fn directory(&mut self, entry: &TarEntry, name: &OsStr) -> io::Result<()> {
        let existing = match self.current()?.directory.make_dir(name, entry.mode & 0o777) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.current()?.directory.stat(name)?,
            other => {
                other?;
                None
            }
        };
        let mut opaque = false;
        if existing.is_some_and(|existing| !existing.is_dir()) {
            opaque = self.clear(name)?;
            self.current()?.directory.make_dir(name, entry.mode & 0o777)?;
        }
        let parent = self.current()?;
        let made = parent.directory.enter(name)?;
        let real = parent.real.join(name);
        let (uid, gid) = self.target.owner.unwrap_or((entry.uid, entry.gid));
        fs::set_owner(&made, uid, gid)?;
        fs::set_mode(&made, entry.mode)?;
        set_attributes(&made, entry)?;
        if opaque {
            self.mark_opaque(&made)?;
        }
        if self.times.len() >= MOST_TIMES {
            self.flush_times()?;
        }
        self.times.insert(real, entry.modified);
        Ok(())
    }

    fn hard_link(&mut self, entry: &TarEntry, name: &OsStr) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Write { path: lossy(&entry.path), source };
        let missing = || ApplyError::HardLink { path: lossy(&entry.path), target: lossy(&entry.link) };
        let parts = clean(&entry.link)?;
        let (target, above) = parts.split_last().ok_or_else(missing)?;
        let target = OsStr::from_bytes(target);
        let above: PathBuf = above.iter().map(|part| Path::new(OsStr::from_bytes(part))).collect();
        let from = self.target.root.open_dir(&above).map_err(|_| missing())?;
        let existing = from.stat(target).map_err(failed)?.ok_or_else(missing)?;
        if existing.is_dir() {
            return Err(missing());
        }
        let here = self.current()?.directory.stat(name).map_err(failed)?;
        if here.is_some_and(|here| (here.device, here.inode) == (existing.device, existing.inode)) {
            return Ok(());
        }
        if here.is_some() {
            self.clear(name).map_err(failed)?;
        }
        match self.current()?.directory.make_hard_link(name, &from, target) {
            // The target stood in what had to make room.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
            other => other.map_err(failed),
        }
    }

    fn link(&mut self, entry: &TarEntry, name: &OsStr) -> io::Result<()> {
        let text = OsStr::from_bytes(&entry.link);
        match self.current()?.directory.make_link(name, text) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(name)?;
                self.current()?.directory.make_link(name, text)?;
            }
            other => other?,
        }
        self.applied.bytes += entry.link.len() as u64;
        let (uid, gid) = self.target.owner.unwrap_or((entry.uid, entry.gid));
        let directory = &self.current()?.directory;
        directory.set_owner(name, uid, gid)?;
        directory.set_times(name, entry.modified)
    }

    fn special(&mut self, entry: &TarEntry, name: &OsStr) -> io::Result<()> {
        let kind = match entry.kind {
            EntryKind::CharacterDevice => FileKind::CharacterDevice,
            EntryKind::BlockDevice => FileKind::BlockDevice,
            _ => FileKind::Fifo,
        };
        self.clear(name)?;
        let directory = &self.current()?.directory;
        directory.make_special(name, kind, entry.mode & 0o777, entry.device)?;
        let (uid, gid) = self.target.owner.unwrap_or((entry.uid, entry.gid));
        let made = directory.open_name(name)?;
        fs::set_handle_owner(&made, uid, gid)?;
        fs::set_handle_mode(&made, entry.mode)?;
        directory.set_times(name, entry.modified)
    }

    fn flush_times(&mut self) -> io::Result<()> {
        // Deep ones first does not matter: setting times changes no parent.
        for (path, modified) in std::mem::take(&mut self.times) {
            match self.target.root.open_dir(&path) {
                Ok(directory) => fs::set_times(&directory, modified)?,
                // It made room for something else.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn check_space(&mut self, entry: &TarEntry) -> Result<(), ApplyError> {
        if let Some(extents) = &entry.extents {
            self.holes += entry.size - extents.iter().map(|(_, length)| length).sum::<u64>().min(entry.size);
            if self.holes > self.limits.layer_bytes {
                return Err(LimitExceeded::LayerBytes(self.limits.layer_bytes).into());
            }
        }
        if entry.size >= SPACE_STEP || self.applied.bytes >= self.space_at {
            let (free, disk) = fs::free_bytes(self.target.root)?;
            let reserve = self.limits.reserve_of(disk);
            let wanted = entry.extents.as_ref().map_or(entry.size, |extents| extents.iter().map(|(_, l)| l).sum());
            if free < reserve.saturating_add(wanted) {
                return Err(LimitExceeded::Space { free, wanted, reserve }.into());
            }
            self.space_at = self.applied.bytes + SPACE_STEP;
        }
        Ok(())
    }
}

fn write_extent<R: BufRead, T: Record>(
    reader: &mut TarReader<R, T>,
    file: &mut File,
    offset: u64,
    mut length: u64,
    entry: &TarEntry,
) -> Result<(), ApplyError> {
    let failed = |source| ApplyError::Write { path: lossy(&entry.path), source };
    if entry.extents.is_some() {
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    }
    while length > 0 {
        let bytes = reader.fill_content()?;
        let part = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        if part == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        file.write_all(&bytes[..part]).map_err(failed)?;
        reader.consume(part);
        length -= part as u64;
    }
    Ok(())
}

/// Attributes that a layer may set. `trusted.overlay.*` would let it redirect names in other layers; labels of the
/// host's security modules are not an image's business.
pub(crate) fn is_allowed(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

/// Sets those attributes of an entry that it may set.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_attributes(file: impl std::os::fd::AsFd, entry: &TarEntry) -> io::Result<()> {
    for (name, value) in &entry.attributes {
        if is_allowed(name) {
            let name: OsString = OsStr::from_bytes(name).to_owned();
            if !fs::set_attribute(&file, &name, value)? {
                tracing::debug!(path = %lossy(&entry.path), attribute = ?name, "the file system has no such attributes");
            }
        }
    }
    Ok(())
}

/// What a file counts for in the size of a layer, as dockerd counts: links with their text, each file once.
fn size_of(metadata: &Metadata) -> u64 {
    match metadata.kind {
        FileKind::File if metadata.links == 1 => metadata.size,
        FileKind::Link => metadata.size,
        _ => 0,
    }
}

/// Removes what has this name, and says what that counted for; regular files whose content the recipe needs go aside.
fn discard(parent: &Directory, name: &OsStr, existing: Metadata, replaced: Option<&Directory>) -> io::Result<u64> {
    let mut freed = size_of(&existing);
    match (existing.kind, replaced) {
        (FileKind::File, Some(aside)) if existing.size > 0 => {
            let kept = existing.inode.to_string();
            // The name it was kept under before is no name of the layer.
            let names = existing.links - u64::from(aside.stat(OsStr::new(&kept))?.is_some());
            freed = if names == 1 { existing.size } else { 0 };
            parent.rename(name, aside, OsStr::new(&kept))?;
            // Renaming onto another name of the same file does nothing.
            if parent.stat(name)?.is_some() {
                parent.remove_file(name)?;
            }
        }
        (FileKind::Directory, _) => {
            let directory = parent.enter(name)?;
            for entry in directory.entries()? {
                if let Some(inner) = directory.stat(&entry.name)? {
                    freed += discard(&directory, &entry.name, inner, replaced)?;
                }
            }
            drop(directory);
            parent.remove_tree(name)?;
        }
        _ => parent.remove_file(name)?,
    }
    Ok(freed)
}
