//! Paths of archive entries, taken apart without looking at any file system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Prefix of names that stand for a removal.
const WHITEOUT: &[u8] = b".wh.";

/// Prefix of names that older storage drivers kept for themselves.
const RESERVED: &[u8] = b".wh..wh.";

/// The name that says: nothing of this directory comes from below.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path of an entry is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It climbs out.
    #[error("{path:?} is outside of the archive's root")]
    Outside {
        /// As it stands in the archive.
        path: String,
    },
    /// It is a marker that marks nothing one may remove.
    #[error("{path:?} is not a valid whiteout")]
    Whiteout {
        /// As it stands in the archive.
        path: String,
    },
    /// It has a NUL in it, or a part is too long.
    #[error("{path:?} is not a valid path")]
    Invalid {
        /// As it stands in the archive.
        path: String,
    },
}

/// What an entry's path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The root itself.
    Root,
    /// Something of this name in this directory.
    Name {
        /// Below the root, without `..` and without leading slash; empty for the root.
        parent: PathBuf,
        /// One name.
        name: Vec<u8>,
    },
    /// A name in a lower layer is gone.
    Whiteout {
        /// Directory.
        parent: PathBuf,
        /// The name that is gone.
        name: Vec<u8>,
    },
    /// Nothing of this directory comes from lower layers.
    Opaque {
        /// Directory.
        parent: PathBuf,
    },
    /// Left over by an older storage driver: to be ignored.
    Reserved,
}

/// As Go's `filepath.Clean`, and an error when the result climbs out: dockerd refuses those, too.
///
/// # Errors
/// When it leads outside or is no path.
pub fn clean(path: &[u8]) -> Result<Vec<&[u8]>, PathError> {
    let absolute = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() && !absolute {
                    return Err(PathError::Outside { path: String::from_utf8_lossy(path).into_owned() });
                }
            }
            _ if part.contains(&0) || part.len() > 255 => {
                return Err(PathError::Invalid { path: String::from_utf8_lossy(path).into_owned() });
            }
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// What the path of an entry asks for. With `whiteouts` false every name is just a name.
///
/// # Errors
/// When the path is not acceptable.
pub fn place(path: &[u8], whiteouts: bool) -> Result<Place, PathError> {
    let parts = clean(path)?;
    let Some((name, above)) = parts.split_last() else { return Ok(Place::Root) };
    let parent: PathBuf = above.iter().map(|part| Path::new(OsStr::from_bytes(part))).collect();
    if !whiteouts {
        return Ok(Place::Name { parent, name: name.to_vec() });
    }
    let invalid = || PathError::Whiteout { path: String::from_utf8_lossy(path).into_owned() };
    if parts[0].starts_with(RESERVED) && parts[0] != OPAQUE {
        return Ok(Place::Reserved);
    }
    if above.iter().any(|part| part.starts_with(WHITEOUT)) {
        return Err(invalid());
    }
    if *name == OPAQUE {
        return Ok(Place::Opaque { parent });
    }
    if name.starts_with(RESERVED) {
        return Ok(Place::Reserved);
    }
    match name.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err(invalid()),
        Some(gone) => Ok(Place::Whiteout { parent, name: gone.to_vec() }),
        None => Ok(Place::Name { parent, name: name.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(parent: &str, name: &str) -> Place {
        Place::Name { parent: PathBuf::from(parent), name: name.as_bytes().to_vec() }
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        assert_eq!(place(b"a/b", true), Ok(named("a", "b")));
        assert_eq!(place(b"./a/./b//", true), Ok(named("a", "b")));
        assert_eq!(place(b"/etc/passwd", true), Ok(named("etc", "passwd")));
        assert_eq!(place(b"/../../x", true), Ok(named("", "x")));
        assert_eq!(place(b"a/../b", true), Ok(named("", "b")));
        assert_eq!(place(b"./", true), Ok(Place::Root));
        for path in ["../x", "..", "a/../../x", "./../x"] {
            assert!(matches!(place(path.as_bytes(), true), Err(PathError::Outside { .. })), "{path}");
        }
    }

    #[test]
    fn whiteouts_never_name_the_directory_itself_or_its_parent() {
        for path in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b", "x/.wh.y/z"] {
            assert!(matches!(place(path.as_bytes(), true), Err(PathError::Whiteout { .. })), "{path}");
        }
        let gone = Place::Whiteout { parent: PathBuf::from("a"), name: b"b".to_vec() };
        assert_eq!(place(b"a/.wh.b", true), Ok(gone));
        assert_eq!(place(b"a/.wh..wh..opq", true), Ok(Place::Opaque { parent: PathBuf::from("a") }));
        assert_eq!(place(b".wh..wh..opq", true), Ok(Place::Opaque { parent: PathBuf::new() }));
        assert_eq!(place(b".wh..wh.plnk/1.2", true), Ok(Place::Reserved));
        assert_eq!(place(b".wh..wh.aufs", true), Ok(Place::Reserved));
        assert_eq!(place(b"a/.wh.b", false), Ok(named("a", ".wh.b")));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_below_the_root(path in "[a./\\x00]{0,24}|(\\.\\.|\\.|a|\\.wh\\.|b|/){0,12}") {
            if let Ok(place) = place(path.as_bytes(), true) {
                let (parent, name) = match place {
                    Place::Name { parent, name } | Place::Whiteout { parent, name } => (parent, name),
                    Place::Opaque { parent } => (parent, b"x".to_vec()),
                    Place::Root | Place::Reserved => return Ok(()),
                };
                prop_assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/'));
                prop_assert!(parent.is_relative());
                prop_assert!(parent.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
