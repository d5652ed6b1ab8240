//! Where a copy goes and under which name: the rules of `docker cp`, which are those of `cp -a`, as one function.

use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;

use crate::cli::exit::fail;

/// What is copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Base {
    /// Where it is. A slash or a dot at its end says that a directory is meant.
    pub(super) path: String,
    pub(super) is_directory: bool,
    /// The name it was asked for by, when a link was followed.
    pub(super) renamed: Option<String>,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) exists: bool,
    pub(super) is_directory: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The directory that the archive is unpacked in.
    pub(super) directory: String,
    /// The first part of the names in the archive.
    pub(super) old: String,
    /// What it becomes; `None` when it stays.
    pub(super) new: Option<String>,
}

impl Plan {
    /// The first part of the names in an archive that is made for this plan.
    pub(super) fn name(&self, source: &Base) -> String {
        let asked = source.renamed.clone().unwrap_or_else(|| directory_and_base(&source.path).1);
        self.new.clone().unwrap_or(asked)
    }
}

/// Directory and last part of a path, where a dot at the end is a part.
pub(super) fn directory_and_base(path: &str) -> (String, String) {
    let cleaned = clean(Path::new(path));
    if names_current(path) {
        return (cleaned.display().to_string(), ".".to_owned());
    }
    match (cleaned.parent(), cleaned.file_name()) {
        (Some(parent), Some(name)) => (parent.display().to_string(), name.to_string_lossy().into_owned()),
        _ => ("/".to_owned(), "/".to_owned()),
    }
}

fn names_current(path: &str) -> bool {
    path.trim_end_matches('/').rsplit('/').next() == Some(".")
}

fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            _ => {}
        }
    }
    cleaned
}

/// The absolute form of a path of this machine; what it ends with stays.
pub(super) fn absolute(path: &str) -> anyhow::Result<String> {
    let whole = if path.starts_with('/') {
        PathBuf::from(path)
    } else {
        std::env::current_dir().context("the current directory is gone")?.join(path)
    };
    let mut text = clean(&whole).display().to_string();
    if names_current(path) {
        text.push_str("/.");
    } else if path.ends_with('/') && text != "/" {
        text.push('/');
    }
    Ok(text)
}

/// A source on this machine.
pub(super) fn local(path: &str, follow: bool) -> anyhow::Result<Base> {
    let whole = absolute(path)?;
    // With a slash or a dot at its end the kernel follows a link.
    let metadata = std::fs::symlink_metadata(&whole).map_err(|error| missing(&whole, &error))?;
    if !follow || !metadata.is_symlink() {
        return Ok(Base { path: whole, is_directory: metadata.is_dir(), renamed: None });
    }
    let real = std::fs::canonicalize(&whole).map_err(|error| missing(&whole, &error))?;
    let renamed = Some(directory_and_base(&whole).1);
    Ok(Base { is_directory: real.is_dir(), path: real.display().to_string(), renamed })
}

fn missing(path: &str, error: &std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => fail(1, format!("lstat {path}: no such file or directory")),
        std::io::ErrorKind::NotADirectory => fail(1, format!("lstat {path}: not a directory")),
        _ => fail(1, format!("lstat {path}: {error}")),
    }
}

/// The rules.
pub(super) fn plan(source: &Base, place: &Place) -> anyhow::Result<Plan> {
    let (above, name) = directory_and_base(&place.path);
    let (_, in_archive) = directory_and_base(&source.path);
    let asserts_directory = place.path.ends_with('/') || names_current(&place.path);
    if place.exists && place.is_directory {
        return Ok(Plan { directory: place.path.clone(), old: in_archive, new: source.renamed.clone() });
    }
    if place.exists && source.is_directory {
        return Err(fail(1, "cannot copy directory"));
    }
    if !place.exists && !source.is_directory && asserts_directory {
        return Err(fail(1, "no such directory"));
    }
    Ok(Plan { directory: above, old: in_archive, new: Some(name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, is_directory: bool) -> Base {
        Base { path: path.to_owned(), is_directory, renamed: None }
    }

    fn place(path: &str, what: &str) -> Place {
        Place { path: path.to_owned(), exists: what != "missing", is_directory: what == "directory" }
    }

    #[test]
    fn copies_go_where_cp_puts_them() {
        let planned = |source: &Base, place: &Place| {
            plan(source, place)
                .map(|plan| (plan.directory.clone(), plan.name(source)))
                .map_err(|error| error.to_string())
        };
        let to = |directory: &str, name: &str| Ok((directory.to_owned(), name.to_owned()));
        let (file, folder, inside) = (source("/a/f", false), source("/a/d", true), source("/a/d/.", true));
        assert_eq!(planned(&file, &place("/x", "directory")), to("/x", "f"));
        assert_eq!(planned(&file, &place("/x", "file")), to("/", "x"));
        assert_eq!(planned(&file, &place("/x/y", "missing")), to("/x", "y"));
        assert_eq!(planned(&file, &place("/x/y/", "missing")), Err("no such directory".to_owned()));
        assert_eq!(planned(&folder, &place("/x", "directory")), to("/x", "d"));
        assert_eq!(planned(&folder, &place("/x/new", "missing")), to("/x", "new"));
        assert_eq!(planned(&folder, &place("/x", "file")), Err("cannot copy directory".to_owned()));
        assert_eq!(planned(&inside, &place("/x", "directory")), to("/x", "."));
        assert_eq!(planned(&inside, &place("/x/new", "missing")), to("/x", "new"));
        let followed = Base { renamed: Some("link".to_owned()), ..file };
        assert_eq!(planned(&followed, &place("/x", "directory")), to("/x", "link"));
    }

    #[test]
    fn what_ends_a_path_is_kept() {
        assert_eq!(absolute("/a/../b/").unwrap(), "/b/");
        assert_eq!(absolute("/a/.").unwrap(), "/a/.");
        assert_eq!(directory_and_base("/"), ("/".to_owned(), "/".to_owned()));
        assert_eq!(directory_and_base("/a/b/."), ("/a/b".to_owned(), ".".to_owned()));
        assert_eq!(directory_and_base("a/b/"), ("/a".to_owned(), "b".to_owned()));
    }
}
