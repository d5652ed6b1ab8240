//! The log, the vote and the commit position on disk: one redb file, written by one thread.
//!
//! ## Design notes
//! Votes, appends, truncations and purges go through one queue to one thread, which gives raft's ordering rule for
//! free. The thread takes everything that waits, writes it in one transaction and syncs once: that is group commit.
//! Completion is reported after the sync, never before. Entries are readable from memory from the moment they are
//! queued (raft asks for that), and leave memory only when they are durable.
//!
//! redb refuses everything after an I/O error until the file is opened again. So does this store: the raft core stops
//! with the error, and the manager starts it again from disk, with pauses, until writing works (see `raft::node`).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use shoal_proto::codec;
use tokio::sync::{mpsc, oneshot};

use crate::raft::types::{Entry, LogId, TypeConfig, Vote};
use crate::seal::Keyring;

const ENTRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
/// Commands that may wait for the thread.
const QUEUE: usize = 1024;
/// Commands in one transaction.
const GROUP_LIMIT: usize = 512;
/// Entries and bytes kept in memory for followers and the state machine, once they are durable.
const CACHED_ENTRIES: usize = 8192;
const CACHED_BYTES: usize = 32 << 20;
/// Bytes of one read for replication; a single larger entry is read all the same.
const READ_LIMIT: usize = 2 << 20;

/// How the database file is opened. Tests inject disks that fill up.
pub type OpenDatabase = Arc<dyn Fn(&Path) -> Result<Database, DatabaseError> + Send + Sync>;

/// Opens the file with redb's own file access.
pub fn open_file() -> OpenDatabase {
    Arc::new(|path| Database::builder().set_cache_size(16 << 20).create(path))
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the raft log {}", path.display())]
pub struct OpenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

#[derive(Debug)]
enum Command {
    Append { entries: Vec<Entry>, done: Flushed },
    SaveVote { vote: Vote, done: oneshot::Sender<io::Result<()>> },
    Truncate { from: u64, done: oneshot::Sender<io::Result<()>> },
    Purge { upto: LogId, done: oneshot::Sender<io::Result<()>> },
}

struct Flushed(IOFlushed<TypeConfig>);

impl Debug for Flushed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flushed")
    }
}

impl Command {
    fn finish(self, result: &Result<(), (io::ErrorKind, String)>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err((kind, message)) => Err(io::Error::new(*kind, message.clone())),
        };
        match self {
            Self::Append { done, .. } => done.0.io_completed(result),
            Self::SaveVote { done, .. } | Self::Truncate { done, .. } | Self::Purge { done, .. } => {
                let _ = done.send(result);
            }
        }
    }
}

/// What is known without reading the file.
#[derive(Debug, Default)]
struct Memory {
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
    /// Entries below this index are durable.
    durable_next: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    committed_on_disk: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
}

fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(batch) => batch.encoded_len() + 64,
        _ => 256,
    }
}

impl Memory {
    fn insert(&mut self, entry: Entry) {
        self.bytes += weight(&entry);
        self.last = Some(entry.log_id());
        if let Some(old) = self.entries.insert(entry.log_id().index, entry) {
            self.bytes = self.bytes.saturating_sub(weight(&old));
        }
    }

    fn trim(&mut self) {
        while self.entries.len() > CACHED_ENTRIES || self.bytes > CACHED_BYTES {
            match self.entries.first_key_value() {
                Some((index, _)) if *index < self.durable_next => {}
                _ => return,
            }
            if let Some((_, entry)) = self.entries.pop_first() {
                self.bytes = self.bytes.saturating_sub(weight(&entry));
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let mut freed = 0;
        self.entries.retain(|index, entry| {
            let kept = keep(*index);
            if !kept {
                freed += weight(entry);
            }
            kept
        });
        self.bytes = self.bytes.saturating_sub(freed);
    }
}

struct Shared {
    database: Database,
    keyring: Arc<Keyring>,
    memory: Mutex<Memory>,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seal(&self, plaintext: &[u8], place: &str) -> io::Result<Vec<u8>> {
        self.keyring.seal(plaintext, place.as_bytes()).map_err(io::Error::other)
    }

    fn unseal<T: serde::de::DeserializeOwned>(&self, sealed: &[u8], place: &str) -> io::Result<T> {
        let plaintext = self
            .keyring
            .open_record(sealed, place.as_bytes(), "a record of the raft log")
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        codec::decode(&plaintext).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn read(&self, from: u64, to: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let transaction = self.database.begin_read().map_err(io_error)?;
        let table = transaction.open_table(ENTRIES).map_err(io_error)?;
        let mut found = Vec::new();
        let mut size = 0;
        for item in table.range(from..to).map_err(io_error)? {
            let (index, sealed) = item.map_err(io_error)?;
            let entry: Entry = self.unseal(sealed.value(), &entry_place(index.value()))?;
            size += weight(&entry);
            found.push(entry);
            if size >= limit {
                break;
            }
        }
        Ok(found)
    }
}

fn entry_place(index: u64) -> String {
    format!("log/{index}")
}

/// Keeps the kind of an I/O error, so that a full disk is recognised further up.
fn io_error(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// The log. Clones share it; the last one that is dropped ends the thread and closes the file.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens the log, or makes an empty one.
    ///
    /// # Errors
    /// When the file cannot be opened or read, or is sealed with another key.
    pub fn open(path: &Path, keyring: Arc<Keyring>, open: &OpenDatabase) -> Result<Self, OpenError> {
        let fail = |source: io::Error| OpenError { path: path.to_owned(), source };
        let database = open(path).map_err(|error| fail(io_error(error)))?;
        let shared = Shared { database, keyring, memory: Mutex::default() };
        let memory = recover(&shared).map_err(fail)?;
        *shared.memory() = memory;
        let shared = Arc::new(shared);
        let (commands, queue) = mpsc::channel(QUEUE);
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || write_loop(&writer, queue))
            .map_err(fail)?;
        Ok(Self { shared, commands })
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Command) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let stopped = || io::Error::other("the log's thread has ended");
        self.commands.send(command(done)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn entries(&self, from: u64, to: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let (mut cached, first_cached) = {
            let memory = self.shared.memory();
            let mut size = 0;
            let mut cached = Vec::new();
            for entry in memory.entries.range(from..to.max(from)).map(|(_, entry)| entry) {
                size += weight(entry);
                cached.push(entry.clone());
                if size >= limit {
                    break;
                }
            }
            let first = cached.first().map(|entry: &Entry| entry.log_id().index);
            (cached, first)
        };
        let gap_end = first_cached.unwrap_or(to);
        if gap_end <= from {
            return Ok(cached);
        }
        let shared = Arc::clone(&self.shared);
        let mut found = tokio::task::spawn_blocking(move || shared.read(from, gap_end, limit))
            .await
            .map_err(io::Error::other)??;
        // Only a gapless run may be returned: entries from memory follow when the file gave all before them.
        let complete = found.last().is_none_or(|entry| entry.log_id().index + 1 == gap_end);
        if complete {
            found.append(&mut cached);
        }
        Ok(found)
    }
}

fn recover(shared: &Shared) -> io::Result<Memory> {
    let transaction = shared.database.begin_write().map_err(io_error)?;
    transaction.open_table(ENTRIES).map_err(io_error)?;
    transaction.open_table(META).map_err(io_error)?;
    transaction.commit().map_err(io_error)?;
    let transaction = shared.database.begin_read().map_err(io_error)?;
    let meta = transaction.open_table(META).map_err(io_error)?;
    let mut memory = Memory::default();
    if let Some(sealed) = meta.get(VOTE).map_err(io_error)? {
        memory.vote = Some(shared.unseal(sealed.value(), VOTE)?);
    }
    if let Some(sealed) = meta.get(COMMITTED).map_err(io_error)? {
        memory.committed = Some(shared.unseal(sealed.value(), COMMITTED)?);
        memory.committed_on_disk = memory.committed;
    }
    if let Some(sealed) = meta.get(PURGED).map_err(io_error)? {
        memory.purged = Some(shared.unseal(sealed.value(), PURGED)?);
    }
    let entries = transaction.open_table(ENTRIES).map_err(io_error)?;
    memory.last = match entries.last().map_err(io_error)? {
        None => memory.purged,
        Some((index, sealed)) => {
            let entry: Entry = shared.unseal(sealed.value(), &entry_place(index.value()))?;
            Some(entry.log_id())
        }
    };
    memory.durable_next = memory.last.map_or(0, |last| last.index + 1);
    Ok(memory)
}

fn write_loop(shared: &Shared, mut queue: mpsc::Receiver<Command>) {
    let mut failed: Option<(io::ErrorKind, String)> = None;
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_LIMIT {
            match queue.try_recv() {
                Ok(command) => group.push(command),
                Err(_) => break,
            }
        }
        let result = match &failed {
            Some(error) => Err(error.clone()),
            None => write_group(shared, &group).map_err(|error| (error.kind(), error.to_string())),
        };
        if let Err(error) = &result {
            if failed.is_none() {
                tracing::error!(error = error.1, "the raft log cannot be written");
            }
            failed = Some(error.clone());
        }
        for command in group {
            command.finish(&result);
        }
    }
    // Written on the way out so that a restart need not ask a leader how far the log was committed.
    if failed.is_none() {
        let _ = write_group(shared, &[]);
    }
}

fn write_group(shared: &Shared, group: &[Command]) -> io::Result<()> {
    let committed = {
        let memory = shared.memory();
        memory.committed.filter(|committed| memory.committed_on_disk.as_ref() != Some(committed))
    };
    if group.is_empty() && committed.is_none() {
        return Ok(());
    }
    let transaction = shared.database.begin_write().map_err(io_error)?;
    let mut appended_to = None;
    {
        let mut entries = transaction.open_table(ENTRIES).map_err(io_error)?;
        let mut meta = transaction.open_table(META).map_err(io_error)?;
        let mut put_meta = |key: &'static str, bytes: Vec<u8>| -> io::Result<()> {
            let sealed = shared.seal(&bytes, key)?;
            meta.insert(key, sealed.as_slice()).map_err(io_error).map(|_| ())
        };
        if let Some(committed) = &committed {
            put_meta(COMMITTED, codec::encode(committed))?;
        }
        for command in group {
            match command {
                Command::Append { entries: new, .. } => {
                    for entry in new {
                        let index = entry.log_id().index;
                        let sealed = shared.seal(&codec::encode(entry), &entry_place(index))?;
                        entries.insert(index, sealed.as_slice()).map_err(io_error)?;
                        appended_to = Some(index);
                    }
                }
                Command::SaveVote { vote, .. } => put_meta(VOTE, codec::encode(vote))?,
                Command::Truncate { from, .. } => {
                    entries.retain_in(*from.., |_, _| false).map_err(io_error)?;
                }
                Command::Purge { upto, .. } => {
                    put_meta(PURGED, codec::encode(upto))?;
                    entries.retain_in(..=upto.index, |_, _| false).map_err(io_error)?;
                }
            }
        }
    }
    transaction.commit().map_err(io_error)?;
    let mut memory = shared.memory();
    if committed.is_some() {
        memory.committed_on_disk = committed;
    }
    if let Some(index) = appended_to {
        memory.durable_next = memory.durable_next.max(index + 1);
    }
    memory.trim();
    Ok(())
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.entries(start, end, READ_LIMIT).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.memory().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let memory = self.shared.memory();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.ask(|done| Command::SaveVote { vote, done }).await?;
        self.shared.memory().vote = Some(vote);
        Ok(())
    }

    /// Kept in memory and written along with the next append: losing it costs a restarted node a question to the
    /// leader, and saves a sync for each commit.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.memory().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut memory = self.shared.memory();
            for entry in &entries {
                memory.insert(entry.clone());
            }
        }
        let command = Command::Append { entries, done: Flushed(callback) };
        self.commands.send(command).await.map_err(|_| io::Error::other("the log's thread has ended"))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |log_id| log_id.index + 1);
        {
            let mut memory = self.shared.memory();
            memory.retain(|index| index < from);
            if memory.last.is_some_and(|last| last.index >= from) {
                memory.last = last_log_id.or(memory.purged);
            }
        }
        self.ask(|done| Command::Truncate { from, done }).await?;
        // Set last: an append that was queued before may have raised it meanwhile.
        let mut memory = self.shared.memory();
        memory.durable_next = memory.durable_next.min(from);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut memory = self.shared.memory();
            memory.retain(|index| index > log_id.index);
            memory.purged = Some(log_id);
            if memory.last.is_none_or(|last| last.index < log_id.index) {
                memory.last = Some(log_id);
                memory.durable_next = memory.durable_next.max(log_id.index + 1);
            }
        }
        self.ask(|done| Command::Purge { upto: log_id, done }).await
    }
}
