//! Copies of trees, from handle to handle.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use shoal_engine_sys::fs::{self, Directory, FileKind, Metadata};

use super::stack::Stack;
use crate::remap::IdMap;

/// Deepest tree that is copied; each level keeps some handles open.
const DEEPEST: usize = 250;

/// Copies all that is in one directory into another: owners, modes, times, attributes, hard links, holes.
///
/// # Errors
/// The kernel's, or that the tree is too deep.
pub fn copy_contents(from: &Directory, to: &Directory) -> io::Result<()> {
    let mut copier = Copier { root: to, map: None, links: HashMap::new() };
    copier.contents(from, to, Path::new(""), 0)
}

/// Copies what layers look like from above, with ids as the map has them on the host.
pub(super) fn copy_stack(from: &Stack, to: &Directory, map: Option<&IdMap>) -> io::Result<()> {
    let mut copier = Copier { root: to, map, links: HashMap::new() };
    copier.stack(from, to, Path::new(""), 0)
}

struct Copier<'a> {
    root: &'a Directory,
    map: Option<&'a IdMap>,
    /// Where files with several names have gone first.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copier<'_> {
    fn contents(&mut self, from: &Directory, to: &Directory, path: &Path, depth: usize) -> io::Result<()> {
        check_depth(depth)?;
        for entry in from.entries()? {
            let name = &*entry.name;
            let Some(metadata) = from.stat(name)? else { continue };
            if metadata.is_dir() {
                let inner = from.enter(name)?;
                to.make_dir(name, 0o700)?;
                let made = to.enter(name)?;
                self.contents(&inner, &made, &path.join(name), depth + 1)?;
                copy_mapped(&inner, &made, self.map)?;
            } else {
                self.one(from, name, metadata, to, path)?;
            }
        }
        Ok(())
    }

    fn stack(&mut self, from: &Stack, to: &Directory, path: &Path, depth: usize) -> io::Result<()> {
        check_depth(depth)?;
        for name in from.names()? {
            let Some((metadata, directory)) = from.look_up(&name)? else { continue };
            if metadata.is_dir() {
                to.make_dir(&name, 0o700)?;
                let made = to.enter(&name)?;
                self.stack(&from.enter(&name)?, &made, &path.join(&name), depth + 1)?;
                copy_mapped(&directory.enter(&name)?, &made, self.map)?;
            } else {
                self.one(directory, &name, metadata, to, path)?;
            }
        }
        Ok(())
    }

    /// Anything but a directory.
    fn one(
        &mut self,
        from: &Directory,
        name: &OsStr,
        metadata: Metadata,
        to: &Directory,
        path: &Path,
    ) -> io::Result<()> {
        let key = (metadata.device, metadata.inode);
        if metadata.links > 1 {
            if let Some(first) = self.links.get(&key) {
                let parent = self.root.open_dir(first.parent().unwrap_or(Path::new("")))?;
                return to.make_hard_link(name, &parent, first.file_name().unwrap_or_default());
            }
            self.links.insert(key, path.join(name));
        }
        let (uid, gid) = owner(&metadata, self.map)?;
        match metadata.kind {
            FileKind::File => {
                let source = from.open_file(Path::new(name))?;
                let target = to.create_file(name, 0o600)?;
                fs::copy_content(&source, &target, metadata.size)?;
                copy_mapped(&source, &target, self.map)
            }
            FileKind::Link => {
                to.make_link(name, &from.read_link(name)?)?;
                // Whoever has the volume, too, may be at work in it: only what was made here is changed.
                let made = fs::just_made(to, name, FileKind::Link, (0, 0))?;
                fs::set_handle_owner(&made, uid, gid)?;
                to.set_times(name, metadata.modified)
            }
            kind => {
                to.make_special(name, kind, 0o600, metadata.special)?;
                let made = fs::just_made(to, name, kind, metadata.special)?;
                fs::set_handle_owner(&made, uid, gid)?;
                fs::set_handle_mode(&made, metadata.mode)?;
                to.set_times(name, metadata.modified)
            }
        }
    }
}

fn check_depth(depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("directories are nested more than {DEEPEST} levels deep")));
    }
    Ok(())
}

/// Owner, mode, extended attributes and times, in the order in which one does not undo the other.
pub(super) fn copy_attributes(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    copy_mapped(from, to, None)
}

fn owner(metadata: &Metadata, map: Option<&IdMap>) -> io::Result<(u32, u32)> {
    let owner = (metadata.uid, metadata.gid);
    map.map_or(Ok(owner), |map| {
        map.owner_on_host(owner).ok_or_else(|| io::Error::other(format!("{owner:?} is not in the range of ids")))
    })
}

fn copy_mapped(from: impl AsFd, to: impl AsFd, map: Option<&IdMap>) -> io::Result<()> {
    let metadata = fs::metadata(&from)?;
    let (uid, gid) = owner(&metadata, map)?;
    fs::set_owner(&to, uid, gid)?;
    fs::set_mode(&to, metadata.mode)?;
    for name in fs::attributes(&from)? {
        // Marks of overlayfs mean something only where they are.
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"trusted.") || bytes.starts_with(b"user.overlay.") {
            continue;
        }
        if let Some(value) = fs::attribute(&from, &name)? {
            fs::set_attribute(&to, &name, &value)?;
        }
    }
    fs::set_times(&to, metadata.modified)
}
