//! What each node has to know: its tasks, and just the secrets, configs and network state that they need.

use std::collections::BTreeMap;

use shoal_proto::assignment::AssignmentSet;
use shoal_proto::id::NodeId;

use crate::store::Store;

/// The whole assignment set of a node (sequence 0; sessions number their messages).
pub fn full(store: &Store, node: NodeId) -> AssignmentSet {
    let _ = (store, node);
    AssignmentSet { complete: true, ..AssignmentSet::default() }
}

/// Follows the store for all sessions of one manager: who has to be told what.
#[derive(Debug, Default)]
pub struct Hub {
    store: Store,
    sequences: BTreeMap<NodeId, u64>,
}

impl Hub {
    /// Begins at this state of the store.
    pub fn new(store: Store) -> Self {
        Self { store, sequences: BTreeMap::new() }
    }

    /// A session began: its first message, number 1, as of the state that the hub is at.
    pub fn attach(&mut self, node: NodeId) -> AssignmentSet {
        self.sequences.insert(node, 1);
        AssignmentSet { sequence: 1, ..full(&self.store, node) }
    }

    /// A session ended.
    pub fn detach(&mut self, node: NodeId) {
        self.sequences.remove(&node);
    }

    /// Goes on to a newer state of the store: the messages for those nodes that are concerned.
    pub fn advance(&mut self, store: &Store) -> Vec<(NodeId, AssignmentSet)> {
        self.store = store.clone();
        Vec::new()
    }

    /// Version of the store that the sessions know.
    pub fn version(&self) -> u64 {
        self.store.version()
    }
}
