//! Paths as clients give them, and where links lead.

use std::io;
use std::path::{Path, PathBuf};

use shoal_engine_sys::fs::{Directory, ProcLinks};
use shoal_proto::error::Failure;

use crate::container::mounts::clean;

const ELOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// An absolute path in a container. As dockerd keeps it: cleaned, but a slash or a dot at its end stays, because it says
/// that a directory is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AskedPath {
    given: String,
    text: String,
}

impl AskedPath {
    /// Reads a path; without a slash at its beginning it is below the root.
    ///
    /// # Errors
    /// When it is empty or has a NUL in it.
    pub(super) fn new(given: &str) -> Result<Self, Failure> {
        if given.is_empty() {
            return Err(Failure::invalid("bad parameter: pathcannot be empty"));
        }
        if given.contains('\0') {
            return Err(Failure::invalid(format!("invalid path {given:?}")));
        }
        let mut text = clean(given);
        let names_directory = |text: &str| text.trim_end_matches('/').rsplit('/').next() == Some(".");
        if names_directory(given) {
            if !text.ends_with('/') {
                text.push('/');
            }
            text.push('.');
        } else if given.ends_with('/') && !text.ends_with('/') {
            text.push('/');
        }
        Ok(Self { given: given.to_owned(), text })
    }

    /// As the client wrote it.
    pub(super) fn as_given(&self) -> &str {
        &self.given
    }

    /// The absolute path.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The same below the root; empty for the root itself.
    pub(super) fn relative(&self) -> &Path {
        Path::new(self.text.trim_start_matches('/'))
    }

    /// Its last part: `/` for the root, `.` when it ends so.
    pub(super) fn base(&self) -> &str {
        let trimmed = self.text.trim_end_matches('/');
        if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
    }
}

/// Where a path leads through all links, absolute in the container. Parts that do not exist are taken as they are. The
/// answer is a text, and true when it was given: whoever opens it has the kernel resolve it once more, in the root.
///
/// # Errors
/// When there are too many links, or something that is no directory is on the way.
pub(super) fn resolve(root: &Directory, path: &Path) -> io::Result<PathBuf> {
    match root.settle(path, ProcLinks::AsText) {
        Ok(settled) => Ok(Path::new("/").join(settled)),
        Err(error) if error.raw_os_error() == Some(ELOOP) => Err(io::Error::other("too many links")),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_path_is_kept() {
        for (given, text, base) in [
            ("/", "/", "/"),
            ("data", "/data", "data"),
            ("/data/", "/data/", "data"),
            ("/data/.", "/data/.", "."),
            ("/data/./", "/data/.", "."),
            ("/.", "/.", "."),
            (".", "/.", "."),
            ("/a/../../b//c", "/b/c", "c"),
        ] {
            let path = AskedPath::new(given).unwrap();
            assert_eq!((path.text(), path.base()), (text, base), "{given}");
        }
        assert!(AskedPath::new("").is_err() && AskedPath::new("a\0b").is_err());
    }

    #[test]
    fn links_lead_somewhere_inside_and_may_dangle() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let link = |text: &str, name: &str| std::os::unix::fs::symlink(text, folder.path().join(name)).unwrap();
        link("/a/b", "absolute");
        link("../../../../a", "up");
        link("/nowhere/x", "a/dangling");
        link("loop", "loop");
        let root = Directory::open(folder.path()).unwrap();
        let resolved = |path: &str| resolve(&root, Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(resolved("absolute/c").unwrap(), "/a/b/c");
        assert_eq!(resolved("up/b/../dangling/y").unwrap(), "/nowhere/x/y");
        assert_eq!(resolved("").unwrap(), "/");
        assert!(resolved("loop").is_err());
    }
}
