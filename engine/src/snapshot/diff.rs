//! What a container changed: its directory compared with the layers below.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use shoal_engine_sys::fs::{Directory, FileKind, Metadata};

use super::stack::{Stack, is_opaque};
use super::{Change, SnapshotUsage};
use crate::remap::IdMap;

/// Deepest tree that is looked at.
const DEEPEST: usize = 250;

const MODIFIED: u8 = 0;
const ADDED: u8 = 1;
/// The [`Change::kind`] of what is gone.
pub(super) const DELETED: u8 = 2;

/// A changed path as the file system has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    /// Absolute in the container.
    pub(super) path: PathBuf,
    /// As [`Change::kind`].
    pub(super) kind: u8,
}

impl From<Changed> for Change {
    fn from(changed: Changed) -> Self {
        Self { path: changed.path.to_string_lossy().into_owned(), kind: changed.kind }
    }
}

/// Compares. With `overlay` the upper directory holds only what changed, whiteouts included; otherwise it is a whole
/// root.
///
/// Ids below are the image's own; those above are as `map` has them on the host.
pub(super) fn compare(
    upper: &Directory,
    lower: Stack,
    overlay: bool,
    map: Option<&IdMap>,
) -> io::Result<(Vec<Changed>, SnapshotUsage)> {
    let mut comparison =
        Comparison { overlay, map, changes: Vec::new(), usage: SnapshotUsage::default(), counted: BTreeSet::new() };
    comparison.directory(upper, &lower, Path::new("/"), overlay, 0)?;
    comparison.changes.sort_by(|one, two| one.path.cmp(&two.path));
    Ok((comparison.changes, comparison.usage))
}

struct Comparison<'a> {
    overlay: bool,
    map: Option<&'a IdMap>,
    changes: Vec<Changed>,
    usage: SnapshotUsage,
    /// Files with several names count once.
    counted: BTreeSet<(u64, u64)>,
}

impl Comparison<'_> {
    /// Says whether anything in it changed. Names that the upper directory lacks are deleted unless `partial`.
    fn directory(
        &mut self,
        upper: &Directory,
        lower: &Stack,
        path: &Path,
        partial: bool,
        depth: usize,
    ) -> io::Result<bool> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("directories are nested more than {DEEPEST} levels deep")));
        }
        let mut changed = false;
        let mut seen = BTreeSet::new();
        for entry in upper.entries()? {
            let Some(metadata) = upper.stat(&entry.name)? else { continue };
            changed |= self.entry(upper, &entry.name, metadata, lower, path, depth)?;
            seen.insert(entry.name);
        }
        if !partial {
            for name in lower.names()?.difference(&seen) {
                self.push(&path.join(name), DELETED);
                changed = true;
            }
        }
        Ok(changed)
    }

    fn entry(
        &mut self,
        upper: &Directory,
        name: &OsStr,
        metadata: Metadata,
        lower: &Stack,
        path: &Path,
        depth: usize,
    ) -> io::Result<bool> {
        let path: PathBuf = path.join(name);
        let below = lower.look_up(name)?;
        if self.overlay && metadata.is_whiteout() {
            if below.is_some() {
                self.push(&path, DELETED);
            }
            return Ok(below.is_some());
        }
        let (uid, gid) =
            self.map.map_or((metadata.uid, metadata.gid), |map| map.owner_inside((metadata.uid, metadata.gid)));
        let inside = Metadata { uid, gid, ..metadata };
        let same = below.is_some_and(|(below, _)| !differs(&inside, &below));
        if self.overlay || !same {
            self.count(metadata);
        }
        let mut changed = !same;
        if metadata.is_dir() {
            let directory = upper.enter(name)?;
            let below_is_dir = below.is_some_and(|(below, _)| below.is_dir());
            let partial = self.overlay && !is_opaque(&directory)?;
            let inner = if below_is_dir { lower.enter(name)? } else { Stack::empty() };
            // A new directory needs no look at what it hides.
            changed |= self.directory(&directory, &inner, &path, partial || !below_is_dir, depth + 1)?;
        } else if self.overlay {
            // It would not be here if nobody had written to it.
            changed = true;
        }
        if changed {
            self.push(&path, if below.is_some() { MODIFIED } else { ADDED });
        }
        Ok(changed)
    }

    fn push(&mut self, path: &Path, kind: u8) {
        self.changes.push(Changed { path: path.to_owned(), kind });
    }

    fn count(&mut self, metadata: Metadata) {
        if metadata.links > 1 && !metadata.is_dir() && !self.counted.insert((metadata.device, metadata.inode)) {
            return;
        }
        self.usage.inodes += 1;
        if metadata.kind == FileKind::File {
            self.usage.bytes += metadata.size;
        }
    }
}

/// As far as one can see from outside.
fn differs(one: &Metadata, two: &Metadata) -> bool {
    let key = |metadata: &Metadata| (metadata.kind, metadata.mode, metadata.uid, metadata.gid, metadata.special);
    if key(one) != key(two) {
        return true;
    }
    match one.kind {
        FileKind::File => one.size != two.size || one.modified != two.modified,
        FileKind::Link => one.modified != two.modified || one.size != two.size,
        _ => one.is_dir() && one.modified != two.modified,
    }
}
