//! A container's files as archives, in and out: `cp` and `export`.
//!
//! ## Design notes
//! What dockerd promises is kept: names in an archive begin with the last part of the path as it was given, a link at the
//! end of the path is itself what is archived, and an archive is unpacked where the path leads to, through links.
//! A container that runs may change everything meanwhile. So each name is opened once, without following it, and what is
//! said about it is read from that handle; paths are resolved by the kernel below the root handle of
//! [`file_access`](super::file_access). See there for what is seen of a container.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use shoal_engine_sys::fs::{self, Directory};
use shoal_proto::error::{ErrorKind, Failure};

use super::file_access::{self, ContainerFiles};
use super::instance::Container;
use super::record::{MountKind, Record};
use crate::engine::Inner;
use crate::image::bridge::{QUEUE, Sink, Source};
use crate::image::{ByteStream, layer};
use crate::runtime::user;

mod extract;
pub(crate) mod pack;
mod path;
mod stat;

pub use stat::PathStat;

use extract::Extraction;
use pack::{Kept, Packer};
use path::AskedPath;

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractOptions {
    /// Refuse to put a directory in the place of something else, and the other way round?
    pub no_overwrite_dir_non_dir: bool,
    /// Give everything to the container's user, instead of whom the archive says?
    pub copy_uid_gid: bool,
}

/// An error of the kernel in the words that Go has for it, which are dockerd's.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A failure of a lookup: `missing` is the container as it was named.
fn lookup_failed(error: &io::Error, path: &AskedPath, container: &str) -> Failure {
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::not_found(format!("Could not find the file {} in container {container}", path.as_given()));
    }
    Failure::invalid(format!("lstat {}: {}", path.text(), words(error)))
}

/// Is it a path at all? To be asked before anything else is.
pub(crate) fn check_path(path: &str) -> Result<(), Failure> {
    AskedPath::new(path).map(drop)
}

/// Looks at one path; a link at its end is not followed.
pub(crate) async fn path_stat(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    named: &str,
    path: &str,
) -> Result<PathStat, Failure> {
    let path = AskedPath::new(path)?;
    let files = file_access::open(inner, container).await?;
    let named = named.to_owned();
    blocking(move || find(&files, &path, &named).map(|(stat, _)| stat)).await
}

fn find(files: &ContainerFiles, path: &AskedPath, container: &str) -> Result<(PathStat, OwnedFd), Failure> {
    let handle =
        files.root().open_any(path.relative(), false).map_err(|error| lookup_failed(&error, path, container))?;
    let stat = stat::of(files.root(), &handle, path).map_err(|error| lookup_failed(&error, path, container))?;
    Ok((stat, handle))
}

/// Packs what is at a path.
pub(crate) async fn archive(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    named: &str,
    path: &str,
) -> Result<(PathStat, ByteStream), Failure> {
    let path = AskedPath::new(path)?;
    let files = file_access::open(inner, container).await?;
    let named = named.to_owned();
    let (files, path, stat, handle) = blocking(move || {
        let (stat, handle) = find(&files, &path, &named)?;
        Ok((files, path, stat, handle))
    })
    .await?;
    let map = inner.snapshots.id_map(&container.id);
    let stream = stream(move |output| {
        let mut packer = Packer::new(output, Kept::Capabilities, map);
        let name = path.base().as_bytes().to_vec();
        let packed = packer.handle(&handle, name);
        drop(files);
        packed.and_then(|()| packer.finish())
    });
    super::tell(inner, container, "archive-path", &[]);
    Ok((stat, stream))
}

/// Packs the whole root file system, without what is mounted in it.
pub(crate) async fn export(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<ByteStream, Failure> {
    let files = file_access::open(inner, container).await?;
    let root = files.bare()?;
    let map = inner.snapshots.id_map(&container.id);
    let stream = stream(move |output| {
        let mut packer = Packer::new(output, Kept::All, map);
        let packed = packer.contents(&root, b"");
        drop(root);
        drop(files);
        packed.and_then(|()| packer.finish())
    });
    super::tell(inner, container, "export", &[]);
    Ok(stream)
}

/// Unpacks an archive, compressed or not, into the directory at a path.
pub(crate) async fn extract(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    named: &str,
    path: &str,
    options: ExtractOptions,
    source: ByteStream,
) -> Result<(), Failure> {
    let path = AskedPath::new(path)?;
    let files = file_access::open(inner, container).await?;
    let (record, named, source) = (container.record().clone(), named.to_owned(), Source::new(source));
    let map = inner.snapshots.id_map(&container.id);
    blocking(move || {
        let target =
            path::resolve(files.root(), path.relative()).map_err(|error| lookup_failed(&error, &path, &named))?;
        let relative = target.strip_prefix("/").unwrap_or(&target);
        let handle = files.root().open_any(relative, false);
        let handle = handle.map_err(|error| lookup_failed(&error, &path, &named))?;
        if !fs::metadata(&handle).map_err(|error| Failure::internal(&error))?.is_dir() {
            return Err(Failure::invalid("extraction point is not a directory"));
        }
        check_writable(&record, &target)?;
        let owner = if options.copy_uid_gid { owner(files.root(), &record)? } else { None };
        let keep_kinds = options.no_overwrite_dir_non_dir;
        let extraction = Extraction::new(files.root(), target, owner, keep_kinds, map);
        extraction.run(layer::stream::uncompressed(source).map_err(|error| Failure::invalid(words(&error)))?)
    })
    .await?;
    super::tell(inner, container, "extract-to-dir", &[]);
    Ok(())
}

/// As dockerd: what is in a volume may be written when the volume may, and everything else when the root may.
fn check_writable(record: &Record, target: &Path) -> Result<(), Failure> {
    let volumes = record.mounts.iter().filter(|mount| mount.kind != MountKind::Tmpfs);
    let holding = volumes.filter(|mount| target.starts_with(&mount.destination));
    match holding.max_by_key(|mount| mount.destination.len()) {
        Some(mount) if !mount.writable => Err(Failure::invalid("mounted volume is marked read-only")),
        None if record.host_config.readonly_rootfs => Err(Failure::invalid("container rootfs is marked read-only")),
        _ => Ok(()),
    }
}

/// The container's user; `None` when it has none of its own.
fn owner(root: &Directory, record: &Record) -> Result<Option<(u32, u32)>, Failure> {
    if record.config.user.is_empty() {
        return Ok(None);
    }
    let found = user::resolve(root, &record.config.user, &[]);
    let found = found.map_err(|error| Failure::invalid(shoal_proto::error::chain(&error)))?;
    Ok(Some((found.uid, found.gid)))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Failure::internal(&error)))
}

/// A stream that is written on a blocking thread. Its reader's pace is its writer's.
fn stream(work: impl FnOnce(&mut Sink) -> io::Result<()> + Send + 'static) -> ByteStream {
    let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let mut output = Sink::new(sender);
        if let Err(error) = work(&mut output) {
            output.fail(error);
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

/// Bytes as a path.
fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A failure of writing into a container.
fn write_failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Internal, format!("{doing} {}: {}", path.display(), words(error)))
}
