//! openraft's own conformance suite on our log store and state machine, and crash tests of the log.

use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftLogReader, StorageError};
use shoal_kit::entropy::Entropy;
use tempfile::TempDir;

use crate::raft::log_store::{LogStore, OpenDatabase, open_file};
use crate::raft::snapshot_file::SnapshotFolder;
use crate::raft::state::StateCell;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Batch, BatchBody, Entry, TypeConfig};
use crate::seal::Keyring;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::ephemeral(Entropy::from_seed(1)));
        let log = LogStore::open(&directory.path().join("log"), Arc::clone(&keyring), &open_file()).unwrap();
        let folder = SnapshotFolder::open(&directory.path().join("snapshots"), keyring, 0).unwrap();
        let machine = StateMachine::open(folder, Arc::new(StateCell::default())).unwrap();
        Ok((directory, log, machine))
    }
}

#[tokio::test]
async fn openraft_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn log_id(term: u64, index: u64) -> crate::raft::types::LogId {
    openraft::testing::log_id::<TypeConfig>(term, 0, index)
}

fn entry(index: u64) -> Entry {
    let batch = Batch::new(BatchBody { fence: index, ..BatchBody::default() });
    Entry { log_id: log_id(1, index), payload: openraft::EntryPayload::Normal(batch) }
}

fn open(directory: &TempDir, keyring: &Arc<Keyring>) -> LogStore {
    open_with(directory, keyring, &open_file())
}

/// Waits for the file when the thread of the store before has not closed it yet.
fn open_with(directory: &TempDir, keyring: &Arc<Keyring>, database: &OpenDatabase) -> LogStore {
    for _ in 0..500 {
        match LogStore::open(&directory.path().join("log"), Arc::clone(keyring), database) {
            Ok(store) => return store,
            Err(_) => std::thread::yield_now(),
        }
    }
    LogStore::open(&directory.path().join("log"), Arc::clone(keyring), database).unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_copy_of_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let keyring = Arc::new(Keyring::ephemeral(Entropy::from_seed(2)));
    let mut store = open(&directory, &keyring);
    store.blocking_append((0..50).map(entry)).await.unwrap();
    store.save_vote(&openraft::Vote::new(3, 7)).await.unwrap();
    store.truncate_after(Some(log_id(1, 39))).await.unwrap();
    store.purge(log_id(1, 9)).await.unwrap();
    // As after a kill: the files as they are on disk at this moment, while the first store still runs.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(directory.path().join("log"), copy.path().join("log")).unwrap();
    let mut again = open(&copy, &keyring);
    let state = again.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 9)));
    assert_eq!(state.last_log_id, Some(log_id(1, 39)));
    assert_eq!(again.read_vote().await.unwrap(), Some(openraft::Vote::new(3, 7)));
    let entries = again.try_get_log_entries(0..100).await.unwrap();
    assert_eq!(entries, (10..40).map(entry).collect::<Vec<_>>());
    drop(store);
}

#[tokio::test]
async fn another_key_does_not_open_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let keyring = Arc::new(Keyring::ephemeral(Entropy::from_seed(2)));
    let mut store = open(&directory, &keyring);
    store.blocking_append([entry(0)]).await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(directory.path().join("log"), copy.path().join("log")).unwrap();
    let other = Arc::new(Keyring::ephemeral(Entropy::from_seed(3)));
    assert!(LogStore::open(&copy.path().join("log"), other, &open_file()).is_err());
    let plain = std::fs::read(copy.path().join("log")).unwrap();
    assert!(!plain.windows(7).any(|window| window == b"changes"), "entries are sealed");
}

mod full_disk {
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::backends::FileBackend;
    use std::io::Error as BackendIoError;

    use redb::{Database, StorageBackend};

    use super::*;

    #[derive(Debug)]
    struct Filling {
        inner: FileBackend,
        full: Arc<AtomicBool>,
    }

    impl Filling {
        fn check(&self) -> Result<(), BackendIoError> {
            if self.full.load(Ordering::SeqCst) {
                return Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
            }
            Ok(())
        }
    }

    impl StorageBackend for Filling {
        fn len(&self) -> Result<u64, BackendIoError> {
            self.inner.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BackendIoError> {
            self.inner.read(offset, out)
        }
        fn set_len(&self, len: u64) -> Result<(), BackendIoError> {
            self.check()?;
            self.inner.set_len(len)
        }
        fn sync_data(&self) -> Result<(), BackendIoError> {
            self.inner.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> Result<(), BackendIoError> {
            self.check()?;
            self.inner.write(offset, data)
        }
        fn close(&self) -> Result<(), BackendIoError> {
            self.inner.close()
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_of_that_kind_and_loses_nothing_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::ephemeral(Entropy::from_seed(4)));
        let full = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&full);
        let database: OpenDatabase = Arc::new(move |path| {
            let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let inner = FileBackend::new(file.map_err(|error| redb::DatabaseError::Storage(error.into()))?)?;
            Database::builder().create_with_backend(Filling { inner, full: Arc::clone(&switch) })
        });
        let mut store = open_with(&directory, &keyring, &database);
        store.blocking_append((0..10).map(entry)).await.unwrap();
        full.store(true, Ordering::SeqCst);
        let refused = store.save_vote(&openraft::Vote::new(9, 9)).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
        assert!(store.blocking_append([entry(10)]).await.is_err(), "stays failed until opened again");
        full.store(false, Ordering::SeqCst);
        drop(store);
        let mut again = open_with(&directory, &keyring, &database);
        assert_eq!(again.read_vote().await.unwrap(), None);
        assert_eq!(again.try_get_log_entries(0..100).await.unwrap(), (0..10).map(entry).collect::<Vec<_>>());
        again.blocking_append([entry(10)]).await.unwrap();
    }
}
