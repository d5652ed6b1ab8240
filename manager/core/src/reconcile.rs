//! From wanted to done: the pipeline of all planners, and the cursor that a leader keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use shoal_proto::id::{IdSource, NetworkId, NodeId, ServiceId, TaskId};
use shoal_proto::time::Timestamp;

use crate::change::Change;
use crate::store::{Event, Store};

/// Ports that the allocator gives to services that name none.
pub const AUTOMATIC_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// A place that one task at a time fills: a slot of a replicated service, or a node for a global one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// The service.
    pub service: ServiceId,
    /// The slot; 0 for global services.
    pub slot: u64,
    /// The node; `None` for replicated services.
    pub node: Option<NodeId>,
}

/// What a pass of the planners has to look at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dirty {
    /// Everything: after an election, and now and then.
    pub everything: bool,
    /// Services whose spec, scale or update may need work.
    pub services: BTreeSet<ServiceId>,
    /// Single slots.
    pub slots: BTreeSet<SlotKey>,
    /// Nodes that changed.
    pub nodes: BTreeSet<NodeId>,
    /// Networks that changed.
    pub networks: BTreeSet<NetworkId>,
    /// Services with new tasks to place.
    pub groups: BTreeSet<ServiceId>,
    /// May tasks that waited for room fit now?
    pub capacity: bool,
}

impl Dirty {
    /// Everything is.
    pub fn all() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Is there nothing to look at?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// When to look at something again though nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    /// A service's update.
    Service(ServiceId),
    /// A slot: a restart delay ends.
    Slot(SlotKey),
    /// A node: its tasks become orphans.
    Node(NodeId),
    /// The tasks that wait for a node.
    Placement,
}

/// Why something could not be done yet, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The service that waits.
    pub service: Option<ServiceId>,
    /// The task that waits, when it is one.
    pub task: Option<TaskId>,
    /// Why.
    pub reason: String,
}

/// What a pass decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Changes to commit, in order. Every prefix leaves a valid state.
    pub changes: Vec<Change>,
    /// What could not be done.
    pub waiting: Vec<Waiting>,
    /// What to look at again, and when.
    pub timers: BTreeMap<Due, Timestamp>,
}

impl Plan {
    /// The next instant at which a pass is needed though nothing changed; `None` is never.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.timers.values().min().copied()
    }

    /// The changes in batches that fit one raft entry: at most 2,000 changes and about 1.5 MiB each.
    pub fn into_batches(self) -> Vec<Vec<Change>> {
        vec![self.changes]
    }
}

/// One pass of all planners over a snapshot.
pub fn plan_all(store: &Store, dirty: &Dirty, now: Timestamp, ids: &mut dyn IdSource) -> Plan {
    let _ = (store, dirty, now, ids);
    Plan::default()
}

/// The cursor of a leader: what it has planned for already, and when to look again. Made anew at each election;
/// everything that must outlive it is in the store.
#[derive(Debug, Default)]
pub struct Planner {
    seen: Option<u64>,
    timers: BTreeMap<Due, Timestamp>,
}

impl Planner {
    /// Begins with a pass over everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans for what changed since the last call, and for what became due. The changes are to be committed before
    /// the next call, with the store that they were applied to.
    pub fn plan(&mut self, store: &Store, now: Timestamp, ids: &mut dyn IdSource) -> Plan {
        self.seen = Some(store.version());
        plan_all(store, &Dirty::all(), now, ids)
    }

    /// To be called when a batch of the last plan was refused: the next pass looks at everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The next instant at which [`Planner::plan`] is to be called though nothing changed.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.timers.values().min().copied()
    }
}

impl Dirty {
    /// What these events make worth a look.
    pub fn of(store: &Store, events: &[Event]) -> Self {
        let _ = store;
        if events.is_empty() { Self::default() } else { Self::all() }
    }
}
