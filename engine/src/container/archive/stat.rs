//! What is said about one path: the header `X-Docker-Container-Path-Stat`.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use shoal_engine_sys::fs::{self, Directory, FileKind, Metadata};

use super::path::{self, AskedPath};

/// What is known about a path in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathStat {
    /// Last part of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Kind and permissions, as Go's `os.FileMode`.
    pub mode: u32,
    /// Last change, RFC 3339.
    pub mtime: String,
    /// Where a link leads in the end, absolute in the container; empty when it is none.
    pub link_target: String,
}

/// Looks at what a handle stands for.
pub(super) fn of(root: &Directory, handle: &OwnedFd, path: &AskedPath) -> io::Result<PathStat> {
    let metadata = fs::metadata(handle)?;
    let link_target = match metadata.kind {
        FileKind::Link => path::resolve(root, path.relative())?.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let (seconds, nanos) = metadata.modified;
    let mtime = jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).unwrap_or_default();
    Ok(PathStat {
        name: path.base().to_owned(),
        size: i64::try_from(metadata.size).unwrap_or(i64::MAX),
        mode: go_mode(&metadata),
        mtime: mtime.to_string(),
        link_target,
    })
}

/// As Go's `os.FileMode` has it.
fn go_mode(metadata: &Metadata) -> u32 {
    let kind = match metadata.kind {
        FileKind::File => 0,
        FileKind::Directory => 1 << 31,
        FileKind::Link => 1 << 27,
        FileKind::BlockDevice => 1 << 26,
        FileKind::CharacterDevice => 1 << 26 | 1 << 21,
        FileKind::Fifo => 1 << 25,
        FileKind::Socket => 1 << 24,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = special.iter().filter(|(bit, _)| metadata.mode & bit != 0).map(|(_, shown)| *shown).sum();
    kind | special | metadata.mode & 0o777
}
