//! A tar of the daemon, made files of this machine.
//!
//! ## Design notes
//! What is in it comes out of a container: nothing is written through a link that it brings, and no name leads out of the
//! directory that was asked for. Owners are not taken over, as with docker.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::plan::Plan;
use crate::cli::client::stream::Source;

/// Unpacks; gives the bytes of the archive.
pub(super) async fn unpack(body: Incoming, plan: Plan) -> anyhow::Result<u64> {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(16);
    let work = tokio::task::spawn_blocking(move || {
        let mut source = Receiver { receiver, current: Bytes::new(), count: 0 };
        unpack_all(&mut source, &plan).map(|()| source.count)
    });
    let mut body = Source::Body(body);
    loop {
        let piece = match body.chunk().await {
            Ok(Some(chunk)) => Ok(chunk),
            Ok(None) => break,
            Err(error) => Err(io::Error::other(format!("{error:#}"))),
        };
        let ended = piece.is_err();
        // The work has ended with an error of its own.
        if sender.send(piece).await.is_err() || ended {
            break;
        }
    }
    drop(sender);
    work.await.context("unpacking failed")?
}

struct Receiver {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    count: u64,
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(buffer.get_mut(..length).unwrap_or_default());
        self.count += length as u64;
        Ok(length)
    }
}

fn unpack_all(source: impl Read, plan: &Plan) -> anyhow::Result<()> {
    let root = Path::new(&plan.directory);
    let mut archive = tar::Archive::new(source);
    // Set when nothing is put into them any more.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry.context("read the archive")?;
        let named = rename(&entry.path().context("read the archive")?, plan)?;
        if named.as_os_str().is_empty() {
            continue;
        }
        let path = root.join(&named);
        one(&mut entry, root, &named, plan).with_context(|| format!("write {}", path.display()))?;
        if entry.header().entry_type().is_dir() {
            directories.push((path, entry.header().mode()?, modified(&entry)?));
        }
    }
    for (path, mode, time) in directories.into_iter().rev() {
        let directory = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        directory.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        directory.set_modified(time)?;
    }
    Ok(())
}

fn modified(entry: &tar::Entry<'_, impl Read>) -> io::Result<SystemTime> {
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(entry.header().mtime()?))
}

/// The name of an entry below the directory, with its first part replaced.
fn rename(path: &Path, plan: &Plan) -> anyhow::Result<PathBuf> {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => bail!("the archive has the name {}, which leads out of it", path.display()),
            _ => {}
        }
    }
    let Some(new) = plan.new.as_deref().filter(|new| !matches!(*new, "." | "/")) else { return Ok(parts) };
    // Of the root and of what a dot stands for, the archive's names have no first part.
    let rest = if matches!(plan.old.as_str(), "." | "/") { parts } else { parts.components().skip(1).collect() };
    Ok(if rest.as_os_str().is_empty() { PathBuf::from(new) } else { Path::new(new).join(rest) })
}

fn one(entry: &mut tar::Entry<'_, impl Read>, root: &Path, named: &Path, plan: &Plan) -> anyhow::Result<()> {
    make_parents(root, named)?;
    let path = root.join(named);
    let kind = entry.header().entry_type();
    if let Ok(existing) = fs::symlink_metadata(&path) {
        match (existing.is_dir(), kind.is_dir()) {
            (true, true) => return Ok(()),
            (true, false) => bail!("cannot overwrite directory {path:?} with non-directory {:?}", root),
            (false, true) => bail!("cannot overwrite non-directory {path:?} with directory {:?}", root),
            (false, false) => fs::remove_file(&path)?,
        }
    }
    let mode = entry.header().mode()? & 0o7777;
    if kind.is_dir() {
        return Ok(fs::create_dir(&path)?);
    }
    if kind.is_symlink() || kind.is_hard_link() {
        let target = entry.link_name()?.context("a link without a target")?.into_owned();
        if kind.is_symlink() {
            return Ok(symlink(target, &path)?);
        }
        let target = rename(&target, plan)?;
        make_parents(root, &target)?;
        return Ok(fs::hard_link(root.join(target), &path)?);
    }
    if kind.is_file() {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o777).open(&path)?;
        io::copy(entry, &mut file)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        return Ok(file.set_modified(modified(entry)?)?);
    }
    special(entry.header(), &path, mode)
}

fn special(header: &tar::Header, path: &Path, mode: u32) -> anyhow::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    let kind = match header.entry_type() {
        tar::EntryType::Char => FileType::CharacterDevice,
        tar::EntryType::Block => FileType::BlockDevice,
        tar::EntryType::Fifo => FileType::Fifo,
        other => bail!("an entry of the unknown kind {other:?}"),
    };
    let device = makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device)?;
    Ok(())
}

/// All directories above a name, none of which may be a link.
fn make_parents(root: &Path, named: &Path) -> anyhow::Result<()> {
    let mut path = root.to_owned();
    for part in named.parent().into_iter().flat_map(Path::components) {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => bail!("{} is not a directory", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&path)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(if kind.is_dir() { 0o750 } else { 0o640 });
            header.set_mtime(1_000_000);
            match kind {
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    header.set_size(0);
                    archive.append_link(&mut header, name, content).unwrap();
                }
                _ => {
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, name, content.as_bytes()).unwrap();
                }
            }
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn names_are_replaced_and_links_kept() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};

        let folder = tempfile::tempdir().unwrap();
        let plan = Plan { directory: folder.path().display().to_string(), old: "d".into(), new: Some("new".into()) };
        let entries = [("d/", Directory, ""), ("d/f", Regular, "x"), ("d/g", Link, "d/f"), ("d/l", Symlink, "/etc")];
        unpack_all(&archive(&entries)[..], &plan).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("new/g")).unwrap(), "x");
        assert_eq!(fs::read_link(folder.path().join("new/l")).unwrap(), Path::new("/etc"));
        let metadata = fs::metadata(folder.path().join("new")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o750);
        assert_eq!(metadata.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        assert!(unpack_all(&archive(&[("d", Regular, "")])[..], &plan).is_err(), "a directory was overwritten");
    }

    #[test]
    fn what_a_container_sends_stays_where_it_was_asked_for() {
        use tar::EntryType::{Regular, Symlink};

        let host = tempfile::tempdir().unwrap();
        let inside = host.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let plan = Plan { directory: inside.display().to_string(), old: "d".into(), new: None };
        let link = host.path().display().to_string();
        let through = archive(&[("d", Symlink, &link), ("d/f", Regular, "x")]);
        assert!(unpack_all(&through[..], &plan).is_err());
        let replaced = archive(&[("d", Symlink, &format!("{link}/f")), ("d", Regular, "x")]);
        unpack_all(&replaced[..], &plan).unwrap();
        assert!(!host.path().join("f").exists() && inside.join("d").is_file());
    }
}
