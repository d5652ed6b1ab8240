//! The lowest layer of every container: what is there whatever the image has.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use shoal_engine_sys::fs::{self, Directory};

/// Its short name among the layers.
pub(super) const NAME: &str = "init";

/// As dockerd's init layer.
const DIRECTORIES: [&str; 4] = ["dev/pts", "dev/shm", "proc", "sys"];
const FILES: [&str; 5] = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Makes it in the image store's directory, if it is not there yet.
pub(super) fn make(root: &Directory) -> io::Result<()> {
    let layer = root.make_path(Path::new(NAME), 0o755)?;
    fs::set_mode(&layer, 0o755)?;
    for directory in DIRECTORIES {
        layer.make_path(Path::new(directory), 0o755)?;
    }
    layer.make_path(Path::new("etc"), 0o755)?;
    for file in FILES {
        let path = Path::new(file);
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        exists(layer.open_dir(parent)?.create_file(name, 0o755).map(drop))?;
    }
    exists(layer.open_dir(Path::new("etc"))?.make_link(OsStr::new("mtab"), OsStr::new("/proc/mounts")))?;
    exists(root.make_path(Path::new("l"), 0o700)?.make_link(OsStr::new(NAME), OsStr::new("../init")))
}

fn exists(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// The files of it.
pub(super) fn open(root: &Directory) -> io::Result<Directory> {
    root.enter(OsStr::new(NAME))
}
