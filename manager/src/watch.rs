//! Following the store: events from a version on, or the word that too much was missed.

use std::sync::Arc;

use shoal_manager_core::store::{Event, Store};
use tokio::sync::watch;

use crate::raft::state::StateCell;

/// What a watcher gets.
#[derive(Debug)]
pub enum Watched {
    /// What changed, oldest first.
    Events(Vec<Event>),
    /// The watcher fell too far behind, or asked for a version that is forgotten: everything has to be looked at.
    Resync,
}

/// Follows the store. It holds no queue: whoever is slow reads more at once, or is told to resync.
#[derive(Debug)]
pub struct Watch {
    cell: Arc<StateCell>,
    changes: watch::Receiver<u64>,
    version: u64,
}

impl Watch {
    pub(crate) fn new(cell: Arc<StateCell>, version: u64) -> Self {
        let changes = cell.subscribe();
        Self { cell, changes, version }
    }

    /// Version up to which events were handed out: where another watch can go on.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Waits for the next events, and gives the store that they led to. `None` when the manager is gone.
    pub async fn next(&mut self) -> Option<(Watched, Store)> {
        loop {
            self.changes.borrow_and_update();
            let store = self.cell.store();
            if store.version() != self.version {
                let watched = match store.changes_since(self.version) {
                    Some(events) => Watched::Events(events),
                    None => Watched::Resync,
                };
                self.version = store.version();
                if !matches!(&watched, Watched::Events(events) if events.is_empty()) {
                    return Some((watched, store));
                }
            }
            self.changes.changed().await.ok()?;
        }
    }
}
