//! From wanted to done: the pipeline of all planners, and the cursor that a leader keeps.
//!
//! ## Design notes
//! All planners work on one scratch copy of the store, one after the other, so that one pass takes a new service to
//! tasks with addresses and nodes. What is removed or given up comes first. A plan that was applied leaves nothing to
//! plan: the next pass over everything is empty (until time passes), and a property test holds the planners to it.

mod batch;
mod dirty;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use shoal_proto::id::{IdSource, NetworkId, NodeId, ServiceId, TaskId};
use shoal_proto::object::Task;
use shoal_proto::spec::ServiceMode;
use shoal_proto::time::Timestamp;

use crate::change::Change;
use crate::draft::Draft;
use crate::store::Store;
use crate::{allocator, enforcer, orchestrator, reaper, scheduler};

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
        batch::cut(self.changes)
    }
}

/// One pass of all planners over a snapshot. The entry that carries the changes must not be older than `now`.
pub fn plan_all(store: &Store, dirty: &Dirty, now: Timestamp, ids: &mut dyn IdSource) -> Plan {
    let mut draft = Draft::new(store, now, ids);
    let mut dirty = dirty.clone();
    if dirty.everything {
        dirty.widen(store);
    }
    for node in &dirty.nodes {
        enforcer::orphan(&mut draft, *node);
    }
    let networks: Vec<NetworkId> = dirty.networks.iter().copied().collect();
    allocator::allocate_networks(&mut draft, &networks);
    for service in &dirty.services {
        allocator::allocate_service(&mut draft, *service);
    }
    let nodes: Vec<NodeId> = nodes_for_ingress(store, &dirty);
    allocator::allocate_nodes(&mut draft, &nodes);
    enforcer::enforce(&mut draft, &dirty.nodes);
    orchestrate(&mut draft, &mut dirty);
    place(&mut draft, &dirty);
    reaper::delete_networks(&mut draft, &networks_to_delete(store, &dirty));
    draft.finish()
}

/// Which nodes may lack an address on the routing mesh, or have one too many.
fn nodes_for_ingress(store: &Store, dirty: &Dirty) -> Vec<NodeId> {
    let publishes = |id: &ServiceId| store.service(*id).is_some_and(|service| !service.spec.endpoint.ports.is_empty());
    if !dirty.networks.is_empty() || dirty.services.iter().any(publishes) {
        store.nodes().map(|node| node.id).collect()
    } else {
        dirty.nodes.iter().copied().collect()
    }
}

fn networks_to_delete(store: &Store, dirty: &Dirty) -> Vec<NetworkId> {
    if dirty.networks.is_empty() && dirty.services.is_empty() && !dirty.capacity {
        return Vec::new();
    }
    store.networks().filter(|network| network.pending_delete).map(|network| network.id).collect()
}

/// Looks at services, then at the single slots that are left.
fn orchestrate(draft: &mut Draft<'_>, dirty: &mut Dirty) {
    // In a pass over everything each slot is looked at with its service.
    for node in dirty.nodes.iter().filter(|_| !dirty.everything) {
        dirty.slots.extend(draft.store.tasks_of_node(*node).map(|task| orchestrator::slot_key(task)));
        let global = draft.store.services().filter(|service| service.spec.mode == ServiceMode::Global);
        dirty.slots.extend(global.map(|service| SlotKey { service: service.id, slot: 0, node: Some(*node) }));
    }
    for service in &dirty.services {
        orchestrator::reconcile_service(draft, *service);
        dirty.groups.insert(*service);
    }
    let mut emptied = BTreeSet::new();
    for key in &dirty.slots {
        if !dirty.services.contains(&key.service) {
            if orchestrator::reconcile_slot(draft, *key) {
                emptied.insert(key.service);
            }
            dirty.groups.insert(key.service);
        }
    }
    for service in emptied {
        orchestrator::rescale(draft, service);
    }
}

/// Gives addresses and nodes to the tasks that wait for them.
fn place(draft: &mut Draft<'_>, dirty: &Dirty) {
    let mut groups: Vec<ServiceId> = dirty.groups.iter().copied().collect();
    if dirty.capacity || dirty.everything {
        let unallocated = draft.store.tasks_unallocated().map(|(service, _)| service);
        groups = unallocated.chain(draft.store.tasks_unassigned().map(|(service, _, _)| service)).collect();
        groups.sort_unstable();
        groups.dedup();
        // What there was no room for may fit now.
        let incomplete: Vec<ServiceId> = draft.store.services_incomplete().collect();
        for service in incomplete {
            allocator::allocate_service(draft, service);
        }
    }
    for service in &groups {
        allocator::allocate_tasks(draft, *service);
    }
    scheduler::schedule(draft, &groups);
}

/// Does the task run what its service wants now? As Swarm's `IsTaskDirty`, the other way round; a task without a service
/// does not.
pub fn is_up_to_date(store: &Store, task: &Task) -> bool {
    store.service(task.service_id).is_some_and(|service| !orchestrator::Freshness::new(service).is_dirty(store, task))
}

/// A pass over everything at least this often, should a cause of work have been overlooked.
const FULL_PASS_INTERVAL: Duration = Duration::from_secs(600);

/// The cursor of a leader: what it has planned for already, and when to look again. Made anew at each election;
/// everything that must outlive it is in the store.
#[derive(Debug, Default)]
pub struct Planner {
    seen: Option<u64>,
    full_at: Timestamp,
    timers: BTreeMap<Due, Timestamp>,
}

impl Planner {
    /// Begins with a pass over everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans for what changed since the last call, and for what became due. The changes are to be committed before
    /// the next call, which gets the store that they were applied to; when one batch is refused, drop the rest and
    /// call [`Planner::reset`].
    pub fn plan(&mut self, store: &Store, now: Timestamp, ids: &mut dyn IdSource) -> Plan {
        let dirty = self.dirty(store, now);
        self.seen = Some(store.version());
        if dirty.is_empty() {
            return Plan::default();
        }
        if dirty.everything {
            self.timers.clear();
            self.full_at = now;
        }
        // What is looked at now names its next instant anew.
        self.timers.retain(|due, _| !dirty.covers(*due));
        let plan = plan_all(store, &dirty, now, ids);
        self.timers.extend(plan.timers.iter().map(|(due, at)| (*due, *at)));
        plan
    }

    fn dirty(&mut self, store: &Store, now: Timestamp) -> Dirty {
        let events = self.seen.and_then(|seen| store.changes_since(seen));
        let Some(events) = events.filter(|_| now.since(self.full_at) < FULL_PASS_INTERVAL) else {
            return Dirty::all();
        };
        let mut dirty = Dirty::of(store, &events);
        self.timers.retain(|due, at| {
            if *at <= now {
                dirty.add(*due);
            }
            *at > now
        });
        dirty
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
