//! What is on disk: after a kill, and when it is full.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageBackend};
use shoal_manager::ManagerOptions;
use shoal_manager::raft::log_store::OpenDatabase;
use shoal_proto::error::ErrorKind;

use crate::harness::{Cluster, eventually, has_secret, test_spec, write};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_in_the_files_at_that_moment() {
    let mut cluster = Cluster::new(1).await;
    for number in 0..30 {
        write(&cluster.any(), &format!("kept-{number}")).await.unwrap();
        if number % 10 == 9 {
            // The files as a kill at this moment would leave them.
            let image = cluster.folder.path().join(format!("image-{number}"));
            copy(&cluster.members[0].root, &image);
        }
    }
    cluster.members[0].kill().await;
    for number in [9, 19, 29] {
        let image = cluster.folder.path().join(format!("image-{number}"));
        cluster.members[0].root = image.clone();
        cluster.members[0].options.data_dir = image.join("cluster");
        cluster.members[0].options.key_encryption =
            shoal_manager::seal::KeyEncryption::File(image.join("cluster/certificates/raft-kek"));
        cluster.members[0].start().await;
        let store = cluster.any().read().await.unwrap();
        for kept in 0..=number {
            assert!(has_secret(&store, &format!("kept-{kept}")), "{kept} is lost in image {number}");
        }
        write(&cluster.any(), "after").await.unwrap();
        cluster.members[0].kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_readable_is_on_disk() {
    let mut cluster = Cluster::new(1).await;
    write(&cluster.any(), "a-name-one-would-find").await.unwrap();
    cluster.members[0].stop().await;
    let raft = cluster.members[0].root.join("cluster/raft");
    for entry in std::fs::read_dir(&raft).unwrap().filter_map(Result::ok) {
        if entry.file_type().unwrap().is_file() {
            let content = std::fs::read(entry.path()).unwrap();
            let name = b"a-name-one-would-find";
            assert!(!content.windows(name.len()).any(|window| window == name), "{:?}", entry.path());
            assert!(!content.windows(11).any(|window| window == b"PRIVATE KEY"), "{:?}", entry.path());
        }
    }
}

#[derive(Debug)]
struct Filling {
    inner: FileBackend,
    full: Arc<AtomicBool>,
}

impl Filling {
    fn check(&self) -> std::io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

impl StorageBackend for Filling {
    fn len(&self) -> std::io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.check()?;
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.check()?;
        self.inner.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.inner.close()
    }
}

fn filling(full: &Arc<AtomicBool>) -> OpenDatabase {
    let full = Arc::clone(full);
    Arc::new(move |path| {
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let inner = FileBackend::new(file.map_err(|error| DatabaseError::Storage(error.into()))?)?;
        Database::builder().create_with_backend(Filling { inner, full: Arc::clone(&full) })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_clearly_and_survived() {
    let full = Arc::new(AtomicBool::new(false));
    let adjust = |options| ManagerOptions { open_database: filling(&full), ..options };
    let cluster = Cluster::with(1, test_spec(), adjust).await;
    write(&cluster.any(), "before").await.unwrap();
    full.store(true, Ordering::SeqCst);
    let failure = write(&cluster.any(), "refused").await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    assert!(failure.message.contains("disk is full"), "{failure}");
    assert!(has_secret(&cluster.any().local(), "before"), "what was known stays readable");
    tokio::time::sleep(Duration::from_secs(1)).await;
    full.store(false, Ordering::SeqCst);
    eventually("it works again", async || write(&cluster.any(), "after").await.ok()).await;
    assert!(has_secret(&cluster.any().read().await.unwrap(), "before"));
    assert_eq!(cluster.any().failure(), None);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_full_disk_is_replaced_and_comes_back() {
    let full = Arc::new(AtomicBool::new(false));
    let adjust = |options| ManagerOptions { open_database: filling(&full), ..options };
    let cluster = Cluster::with(3, test_spec(), adjust).await;
    // Only the first member has the disk that fills up.
    eventually("the first one leads", async || {
        let leader = cluster.leader().await;
        if leader == 0 {
            return Some(());
        }
        let _ = cluster.members[leader].handle().step_down().await;
        None
    })
    .await;
    full.store(true, Ordering::SeqCst);
    let others = cluster.members[1].handle();
    write(&others, "while-full").await.unwrap();
    assert!(!cluster.members[0].handle().is_leader());
    full.store(false, Ordering::SeqCst);
    eventually("it caught up", async || {
        has_secret(&cluster.members[0].handle().read().await.ok()?, "while-full").then_some(())
    })
    .await;
    cluster.shutdown().await;
}
