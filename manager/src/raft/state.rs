//! What the manager knows: the store as of some entry, shared with everything that reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use imbl::{OrdMap, Vector};
use shoal_manager_core::store::Store;
use tokio::sync::watch;

use crate::raft::types::{BatchBody, LogId, Outcome, RequestMark, StoredMembership};

/// Requests remembered. More than can be under way at one time, so that no retry outlives its mark.
const REQUESTS: usize = 8192;

/// The last requests that were applied, oldest forgotten first. Part of the replicated state.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    marks: OrdMap<u128, Arc<RequestMark>>,
    order: Vector<u128>,
}

impl Requests {
    /// The request, if it was applied.
    pub fn get(&self, id: u128) -> Option<&Arc<RequestMark>> {
        self.marks.get(&id)
    }

    fn remember(&mut self, mark: &RequestMark) {
        if self.marks.insert(mark.id, Arc::new(mark.clone())).is_none() {
            self.order.push_back(mark.id);
        }
        while self.order.len() > REQUESTS {
            if let Some(oldest) = self.order.pop_front() {
                self.marks.remove(&oldest);
            }
        }
    }

    /// As a record of a snapshot.
    pub(crate) fn to_marks(&self) -> Vec<Arc<RequestMark>> {
        self.order.iter().filter_map(|id| self.marks.get(id).cloned()).collect()
    }

    pub(crate) fn from_marks(marks: &[RequestMark]) -> Self {
        let mut requests = Self::default();
        for mark in marks {
            requests.remember(mark);
        }
        requests
    }
}

/// The replicated state as of one entry. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The objects.
    pub store: Store,
    /// The last entry that is in it.
    pub applied: Option<LogId>,
    /// The members of the consensus group as of then.
    pub membership: StoredMembership,
    /// Requests that were applied.
    pub requests: Requests,
}

impl State {
    /// Index of the last entry that is in it; 0 when there is none.
    pub fn index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
    }

    /// Applies a batch that was proposed in `term` as the entry with this index.
    pub(crate) fn apply(&mut self, term: u64, index: u64, body: &BatchBody) -> Outcome {
        if body.fence != 0 && body.fence != term {
            return Outcome::Fenced;
        }
        if let Some(mark) = body.request.as_ref().and_then(|request| self.requests.get(request.id)) {
            return Outcome::Repeated((**mark).clone());
        }
        match self.store.apply(index, body.time, &body.changes) {
            Err(error) => Outcome::Refused(error),
            Ok(_) => {
                if let Some(mark) = &body.request {
                    self.requests.remember(mark);
                }
                Outcome::Applied { version: index }
            }
        }
    }
}

/// Where readers find the newest state. It only moves forward: a raft core that is started again from disk is not
/// shown before it has caught up with what was seen.
#[derive(Debug)]
pub struct StateCell {
    current: ArcSwap<State>,
    index: watch::Sender<u64>,
    /// Bytes of the entries that were applied and that no snapshot covers.
    unsaved_bytes: AtomicU64,
}

impl Default for StateCell {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(State::default()),
            index: watch::Sender::new(0),
            unsaved_bytes: AtomicU64::new(0),
        }
    }
}

impl StateCell {
    /// The newest state.
    pub fn load(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// The newest store.
    pub fn store(&self) -> Store {
        self.current.load().store.clone()
    }

    /// Changes whenever the state does; the value is the index of the last entry.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    /// Bytes of the entries that were applied and that no snapshot covers.
    pub(crate) fn unsaved_bytes(&self) -> u64 {
        self.unsaved_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn add_unsaved(&self, bytes: u64) {
        self.unsaved_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A snapshot covers these bytes.
    pub(crate) fn saved(&self, bytes: u64) {
        let _ = self
            .unsaved_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |unsaved| Some(unsaved.saturating_sub(bytes)));
    }

    pub(crate) fn publish(&self, state: &State) {
        if state.index() < self.current.load().index() {
            return;
        }
        self.current.store(Arc::new(state.clone()));
        self.index.send_replace(state.index());
    }

    /// Waits until the entry with this index is in it.
    pub async fn wait_for(&self, index: u64) {
        let mut seen = self.index.subscribe();
        // The sender lives in this very cell, so the channel cannot close while it is waited for.
        let _ = seen.wait_for(|applied| *applied >= index).await;
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_core::change::{ApplyError, Change};
    use shoal_proto::id::SecretId;
    use shoal_proto::object::Secret;
    use shoal_proto::spec::SecretSpec;

    use super::*;

    fn body(name: &str, fence: u64, request: Option<u128>) -> BatchBody {
        let spec = SecretSpec { name: name.to_owned(), ..SecretSpec::default() };
        let id = SecretId::from_bits(name.bytes().fold(0, |bits, byte| bits * 256 + u128::from(byte)));
        let request = request.map(|id| RequestMark { id, object: None, warnings: Vec::new() });
        BatchBody {
            fence,
            request,
            changes: vec![Change::create(Secret { id, spec, ..Secret::default() })],
            ..BatchBody::default()
        }
    }

    #[test]
    fn a_deposed_leaders_entry_changes_nothing() {
        let mut state = State::default();
        assert_eq!(state.apply(3, 1, &body("a", 2, Some(1))), Outcome::Fenced);
        assert_eq!(state.store.secrets().len(), 0);
        assert_eq!(state.apply(3, 2, &body("a", 3, Some(1))), Outcome::Applied { version: 2 });
        assert_eq!(state.apply(3, 3, &body("b", 0, None)), Outcome::Applied { version: 3 });
    }

    #[test]
    fn a_request_that_is_sent_again_is_applied_once() {
        let mut state = State::default();
        assert_eq!(state.apply(1, 1, &body("a", 1, Some(7))), Outcome::Applied { version: 1 });
        assert!(matches!(state.apply(2, 2, &body("a", 2, Some(7))), Outcome::Repeated(mark) if mark.id == 7));
        assert!(matches!(
            state.apply(2, 3, &body("a", 2, Some(8))),
            Outcome::Refused(ApplyError::Exists { .. } | ApplyError::NameTaken { .. })
        ));
        assert!(state.requests.get(8).is_none(), "what was refused may be tried again");
    }

    #[test]
    fn only_so_many_requests_are_remembered() {
        let mut requests = Requests::default();
        for id in 0..REQUESTS as u128 + 10 {
            requests.remember(&RequestMark { id, object: None, warnings: Vec::new() });
        }
        assert!(requests.get(9).is_none() && requests.get(10).is_some());
        assert_eq!(requests.to_marks().len(), REQUESTS);
    }

    #[test]
    fn the_cell_never_goes_back() {
        let cell = StateCell::default();
        let at = |index| State {
            applied: Some(openraft::testing::log_id::<crate::raft::types::TypeConfig>(1, 0, index)),
            ..State::default()
        };
        cell.publish(&at(5));
        cell.publish(&at(3));
        assert_eq!(cell.load().index(), 5);
    }
}
