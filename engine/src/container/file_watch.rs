//! Tells when something changes in a folder, by one inotify instance for the whole engine: the kernel allows a user
//! only 128 of them, and there may be more readers than that.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Watches folders. Cheap to clone. Ends when the last clone and the last watch are dropped.
#[derive(Debug, Clone)]
pub(crate) struct FileWatch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inotify: Arc<AsyncFd<OwnedFd>>,
    folders: Arc<Mutex<HashMap<i32, Folder>>>,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Folder {
    changes: watch::Sender<u64>,
    watchers: usize,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A watch on one folder.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    shared: Arc<Shared>,
    descriptor: i32,
    changes: watch::Receiver<u64>,
}

impl FolderWatch {
    /// Returns when something has changed since the last call.
    pub(crate) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for FolderWatch {
    fn drop(&mut self) {
        let mut folders = self.shared.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folders.get_mut(&self.descriptor) {
            folder.watchers -= 1;
            if folder.watchers == 0 {
                folders.remove(&self.descriptor);
                // The folder may be gone, and its watch with it.
                let _gone = inotify::remove_watch(self.shared.inotify.get_ref(), self.descriptor);
            }
        }
    }
}

impl FileWatch {
    /// Must be called on a tokio runtime.
    #[expect(
        deprecated,
        reason = "the descriptor is owned by what is registered and never replaced, so it stays valid"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let inotify = Arc::new(AsyncFd::new(fd)?);
        let folders = Arc::default();
        let reader = tokio::spawn(read_all(Arc::clone(&inotify), Arc::clone(&folders)));
        Ok(Self { shared: Arc::new(Shared { inotify, folders, reader }) })
    }

    /// Begins to watch a folder.
    pub(crate) fn watch(&self, folder: &Path) -> io::Result<FolderWatch> {
        let mut folders = self.shared.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::ONLYDIR;
        let descriptor = inotify::add_watch(self.shared.inotify.get_ref(), folder, flags)?;
        let entry = folders.entry(descriptor).or_insert_with(|| Folder { changes: watch::Sender::new(0), watchers: 0 });
        entry.watchers += 1;
        let changes = entry.changes.subscribe();
        drop(folders);
        Ok(FolderWatch { shared: Arc::clone(&self.shared), descriptor, changes })
    }
}

async fn read_all(inotify: Arc<AsyncFd<OwnedFd>>, folders: Arc<Mutex<HashMap<i32, Folder>>>) {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    loop {
        let Ok(mut ready) = inotify.readable().await else { return };
        let mut reader = inotify::Reader::new(inotify.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let folders = folders.lock().unwrap_or_else(PoisonError::into_inner);
                    if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                        folders.values().for_each(|folder| folder.changes.send_modify(|count| *count += 1));
                    } else if let Some(folder) = folders.get(&event.wd()) {
                        folder.changes.send_modify(|count| *count += 1);
                    }
                }
                Err(rustix::io::Errno::WOULDBLOCK) => break,
                Err(_) => return,
            }
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn changes_are_told_to_every_watcher() {
        let dir = tempfile::tempdir().unwrap();
        let watch = FileWatch::new().unwrap();
        let mut one = watch.watch(dir.path()).unwrap();
        let mut two = watch.watch(dir.path()).unwrap();
        std::fs::write(dir.path().join("file"), "text").unwrap();
        for watcher in [&mut one, &mut two] {
            tokio::time::timeout(Duration::from_secs(5), watcher.changed()).await.expect("no change seen");
        }
        drop(one);
        std::fs::write(dir.path().join("other"), "text").unwrap();
        tokio::time::timeout(Duration::from_secs(5), two.changed()).await.expect("no change seen");
        drop(two);
        assert!(watch.shared.folders.lock().unwrap().is_empty());
    }
}
