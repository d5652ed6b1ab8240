//! A file or a tree of this machine as a tar on its way to the daemon.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::mpsc;

/// Pieces on their way, and bytes of one.
const QUEUE: usize = 16;
const CHUNK: usize = 128 * 1024;

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Packs what is at a path under a name; counts the bytes of the archive.
pub(super) fn pack(path: PathBuf, name: String) -> (Chunks, Arc<AtomicU64>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let bytes = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&bytes);
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(Sender { sender, buffer: BytesMut::new(), count });
        archive.follow_symlinks(false);
        let packed = add(&mut archive, &path, Path::new(&name)).and_then(|()| archive.into_inner());
        match packed {
            Ok(mut output) => drop(output.flush()),
            Err(error) => tracing::debug!(%error, "packing ended"),
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    (Box::pin(stream), bytes)
}

fn add(archive: &mut tar::Builder<Sender>, path: &Path, name: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let result = if metadata.is_dir() {
        archive.append_dir_all(name, path)
    } else if is_socket(&metadata) {
        Ok(())
    } else {
        archive.append_path_with_name(path, name)
    };
    match result.map_err(told) {
        Err(error) => {
            archive.get_ref().fail(&error);
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

fn is_socket(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
}

struct Sender {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
    count: Arc<AtomicU64>,
}

impl Sender {
    /// Cuts the request off: the daemon must not take half of a tree for the whole.
    fn fail(&self, error: &io::Error) {
        drop(self.sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string()))));
    }
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(self.buffer.split().freeze())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
