//! The state machine under raft: applies committed entries to the state, writes and restores snapshots.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use shoal_manager_core::store::Restore;
use shoal_proto::codec;

use crate::raft::snapshot_file::{SnapshotFile, SnapshotFolder};
use crate::raft::state::{Requests, State, StateCell};
use crate::raft::types::{LogId, Outcome, RequestMark, SnapshotMeta, StoredMembership, TypeConfig};

type CurrentSnapshot = Arc<Mutex<Option<(SnapshotMeta, SnapshotFile)>>>;

/// Raft's side of the state.
pub struct StateMachine {
    state: State,
    cell: Arc<StateCell>,
    folder: SnapshotFolder,
    snapshot: CurrentSnapshot,
}

impl std::fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateMachine").field("applied", &self.state.applied).finish_non_exhaustive()
    }
}

impl StateMachine {
    /// Begins at the newest usable snapshot in the folder.
    ///
    /// # Errors
    /// When there are snapshots but none of them can be used: beginning without one would lose what it held.
    pub fn open(folder: SnapshotFolder, cell: Arc<StateCell>) -> io::Result<Self> {
        let files = folder.list()?;
        let mut damage = None;
        for file in files {
            match restore(&file) {
                Ok((meta, state)) => {
                    cell.publish(&state);
                    let snapshot = Arc::new(Mutex::new(Some((meta, file))));
                    return Ok(Self { state, cell, folder, snapshot });
                }
                Err(error) => {
                    tracing::error!(%error, "a snapshot cannot be used");
                    damage = Some(error);
                }
            }
        }
        match damage {
            Some(error) => Err(error),
            None => Ok(Self { state: State::default(), cell, folder, snapshot: CurrentSnapshot::default() }),
        }
    }
}

fn restore(file: &SnapshotFile) -> io::Result<(SnapshotMeta, State)> {
    let invalid = |error: Box<dyn std::error::Error + Send + Sync>| io::Error::new(io::ErrorKind::InvalidData, error);
    let (meta, mut records) = file.records()?;
    let requests = match records.next() {
        None => Requests::default(),
        Some(record) => {
            let marks: Vec<RequestMark> = codec::decode(&record?).map_err(|error| invalid(error.into()))?;
            Requests::from_marks(&marks)
        }
    };
    let mut restoring = Restore::new();
    for record in records {
        restoring.push(&record?).map_err(|error| invalid(error.into()))?;
    }
    let store = restoring.finish().map_err(|error| invalid(error.into()))?;
    let state = State { store, applied: meta.last_log_id, membership: meta.last_membership.clone(), requests };
    Ok((meta, state))
}

/// Writes one snapshot of the state as it was.
#[derive(Debug)]
pub struct SnapshotBuilder {
    state: State,
    folder: SnapshotFolder,
    snapshot: CurrentSnapshot,
    cell: Arc<StateCell>,
    /// Bytes of the entries that it will be the first snapshot of.
    bytes: u64,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let meta = SnapshotMeta { last_log_id: self.state.applied, last_membership: self.state.membership.clone() };
        let (state, folder) = (self.state.clone(), self.folder.clone());
        let covered = meta.clone();
        let file = tokio::task::spawn_blocking(move || {
            let requests = codec::encode(&state.requests.to_marks());
            folder.write(&covered, std::iter::once(requests).chain(state.store.snapshot()))
        })
        .await
        .map_err(io::Error::other)??;
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some((meta.clone(), file.clone()));
        self.cell.saved(self.bytes);
        Ok(Snapshot { meta, snapshot: file })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.state.applied, self.state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // Answered only when the state is published: whoever gets the answer can read what it wrote.
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let log_id = entry.log_id;
            let outcome = match &entry.payload {
                EntryPayload::Blank => Outcome::Nothing,
                EntryPayload::Membership(membership) => {
                    self.state.membership = StoredMembership::new(Some(log_id), membership.clone());
                    Outcome::Nothing
                }
                EntryPayload::Normal(batch) => {
                    self.cell.add_unsaved(batch.encoded_len() as u64);
                    self.state.apply(log_id.committed_leader_id().term, log_id.index, batch.body())
                }
            };
            self.state.applied = Some(log_id);
            if let Some(responder) = responder {
                answers.push((responder, outcome));
            }
        }
        self.cell.publish(&self.state);
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            state: self.state.clone(),
            folder: self.folder.clone(),
            snapshot: Arc::clone(&self.snapshot),
            cell: Arc::clone(&self.cell),
            bytes: self.cell.unsaved_bytes(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let (folder, meta) = (self.folder.clone(), meta.clone());
        let (file, meta, mut state) = tokio::task::spawn_blocking(move || {
            let (_, state) = restore(&snapshot)?;
            let file = folder.adopt(&snapshot, &meta)?;
            io::Result::Ok((file, meta, state))
        })
        .await
        .map_err(io::Error::other)??;
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        self.state = state;
        self.cell.publish(&self.state);
        self.cell.saved(u64::MAX);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some((meta, file));
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        let current = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
