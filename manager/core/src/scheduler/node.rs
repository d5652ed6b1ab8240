//! The nodes as the scheduler sees them, and what a group of tasks needs of one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use shoal_proto::id::{NodeId, ServiceId};
use shoal_proto::object::{Node, NodeState, Task};
use shoal_proto::spec::{Availability, Platform, Protocol};
use shoal_proto::time::Timestamp;

use crate::constraint::{self, Constraint};
use crate::store::{NodeUsage, Store};

/// What each task of a group needs.
pub(super) struct Needs {
    pub(super) nano_cpus: i64,
    pub(super) memory_bytes: i64,
    pub(super) generic: BTreeMap<String, i64>,
    /// `None` when they cannot be read: no node satisfies them.
    pub(super) constraints: Option<Vec<Constraint>>,
    pub(super) platforms: Vec<Platform>,
    pub(super) host_ports: Vec<(Protocol, u16)>,
    pub(super) max_replicas: u64,
}

impl Needs {
    pub(super) fn of(task: &Task) -> Self {
        let reserved = &task.spec.resources.reservations;
        let placement = &task.spec.placement;
        Self {
            nano_cpus: reserved.nano_cpus,
            memory_bytes: reserved.memory_bytes,
            generic: reserved.generic.clone(),
            constraints: constraint::parse_all(&placement.constraints).ok(),
            platforms: placement.platforms.clone(),
            host_ports: crate::store::host_ports(&task.ports).collect(),
            max_replicas: placement.max_replicas,
        }
    }
}

/// A node with what is free on it. Placements of this pass are taken off.
pub(super) struct Candidate {
    pub(super) node: Arc<Node>,
    usage: Option<Arc<NodeUsage>>,
    pub(super) ready: bool,
    pub(super) nano_cpus: i64,
    pub(super) memory_bytes: i64,
    /// Generic resources and host ports taken in this pass.
    taken_generic: BTreeMap<String, i64>,
    taken_ports: Vec<(Protocol, u16)>,
    active: u32,
    /// Of the group at hand: tasks of its service, and whether its spec keeps failing here.
    of_service: u32,
    failing: bool,
    tie: u32,
}

impl Candidate {
    pub(super) fn generic(&self, kind: &str) -> i64 {
        let amount = |amounts: &BTreeMap<String, i64>| amounts.get(kind).copied().unwrap_or(0);
        let have = self.node.description.as_ref().map_or(0, |description| amount(&description.resources.generic));
        have - self.usage.as_ref().map_or(0, |usage| amount(&usage.generic)) - amount(&self.taken_generic)
    }

    pub(super) fn has_port(&self, port: (Protocol, u16)) -> bool {
        self.taken_ports.contains(&port)
            || self.usage.as_ref().is_some_and(|usage| usage.host_ports.binary_search(&port).is_ok())
    }

    pub(super) fn of_service(&self) -> u32 {
        self.of_service
    }

    /// What does not change while a group is placed.
    pub(super) fn suits(&self, needs: &Needs) -> bool {
        self.ready
            && needs.constraints.as_ref().is_some_and(|all| all.iter().all(|c| c.matches(&self.node)))
            && constraint::platform_fits(&needs.platforms, &self.node)
    }

    /// What does.
    pub(super) fn has_room(&self, needs: &Needs) -> bool {
        (needs.nano_cpus == 0 || self.nano_cpus >= needs.nano_cpus)
            && (needs.memory_bytes == 0 || self.memory_bytes >= needs.memory_bytes)
            && (needs.max_replicas == 0 || u64::from(self.of_service) < needs.max_replicas)
            && needs.generic.iter().all(|(kind, amount)| self.generic(kind) >= *amount)
            && !needs.host_ports.iter().any(|port| self.has_port(*port))
    }

    /// The smallest is the best node.
    pub(super) fn rank(&self) -> u128 {
        (u128::from(self.failing) << 96)
            | (u128::from(self.of_service) << 64)
            | (u128::from(self.active) << 32)
            | u128::from(self.tie)
    }
}

/// All nodes.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Candidate>,
    index: HashMap<NodeId, usize>,
    /// Nodes that have something to forget when the next group comes.
    touched: Vec<usize>,
}

impl Cluster {
    pub(super) fn observe(store: &Store) -> Self {
        let nodes: Vec<Candidate> = store.nodes().map(|node| candidate(store, node)).collect();
        let index = nodes.iter().enumerate().map(|(index, candidate)| (candidate.node.id, index)).collect();
        Self { nodes, index, touched: Vec::new() }
    }

    pub(super) fn index_of(&self, id: NodeId) -> Option<usize> {
        self.index.get(&id).copied()
    }

    /// Looks at the nodes from the view of another group.
    pub(super) fn enter_group(&mut self, store: &Store, service: ServiceId, spec_version: u64, now: Timestamp) {
        for index in self.touched.drain(..) {
            if let Some(candidate) = self.nodes.get_mut(index) {
                candidate.of_service = 0;
                candidate.failing = false;
            }
        }
        for (node, count) in store.placement_of(service) {
            let Some(index) = self.index.get(&node).copied() else { continue };
            let Some(candidate) = self.nodes.get_mut(index) else { continue };
            candidate.of_service = count.active;
            candidate.failing = super::keeps_failing(&count.failures, spec_version, now);
            self.touched.push(index);
        }
        let salt = service.bits();
        for candidate in &mut self.nodes {
            candidate.tie = mix(candidate.node.id.bits() ^ salt);
        }
    }

    pub(super) fn accepts(&self, index: usize, needs: &Needs) -> bool {
        self.nodes.get(index).is_some_and(|candidate| candidate.suits(needs) && candidate.has_room(needs))
    }

    /// Puts a task on a node.
    pub(super) fn take(&mut self, index: usize, needs: &Needs) -> NodeId {
        let Some(candidate) = self.nodes.get_mut(index) else { return NodeId::default() };
        candidate.nano_cpus -= needs.nano_cpus;
        candidate.memory_bytes -= needs.memory_bytes;
        for (kind, amount) in &needs.generic {
            *candidate.taken_generic.entry(kind.clone()).or_default() += amount;
        }
        candidate.taken_ports.extend_from_slice(&needs.host_ports);
        if candidate.of_service == 0 {
            self.touched.push(index);
        }
        candidate.of_service += 1;
        candidate.active += 1;
        candidate.node.id
    }
}

fn candidate(store: &Store, node: &Arc<Node>) -> Candidate {
    let usage = store.node_usage(node.id).cloned();
    let ready = node.status.state == NodeState::Ready && node.spec.availability == Availability::Active;
    let (mut nano_cpus, mut memory_bytes) = (0, 0);
    if let Some(description) = &node.description {
        nano_cpus = description.resources.nano_cpus;
        memory_bytes = description.resources.memory_bytes;
    }
    if let Some(usage) = &usage {
        nano_cpus -= usage.nano_cpus;
        memory_bytes -= usage.memory_bytes;
    }
    Candidate {
        node: Arc::clone(node),
        ready: ready && node.description.is_some(),
        nano_cpus,
        memory_bytes,
        taken_generic: BTreeMap::new(),
        taken_ports: Vec::new(),
        active: usage.as_ref().map_or(0, |usage| usage.active),
        usage,
        of_service: 0,
        failing: false,
        tie: 0,
    }
}

/// Spreads the bits of an id over 32 (the finaliser of splitmix64).
fn mix(bits: u128) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
    let mut hash = (bits as u64) ^ ((bits >> 64) as u64);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash >> 32) as u32
}
