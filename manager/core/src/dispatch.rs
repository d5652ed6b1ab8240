//! What each node has to know: its tasks, and just the secrets, configs and network state that they need.
//!
//! ## Design notes
//! Nothing is remembered for a session but its sequence number: what a node knows is a function of the store at the
//! version the hub is at, so a difference is the same function of two stores, asked only for what the changes between
//! them touch. A changed endpoint is built once and handed to the nodes on its network; a node is looked at as a whole
//! only when tasks came to it or left it.
//!
//! A task stays in its node's set until it is deleted, also after it ended: the agent keeps the container, and its
//! logs, for as long. Statuses are not sent back to the node that they came from.

mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_proto::assignment::{AssignmentItem, AssignmentKey, AssignmentSet};
use shoal_proto::id::{AttachmentId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use shoal_proto::object::Task;

use crate::change::Object;
use crate::store::{Event, Store};

/// The whole assignment set of a node (sequence 0; sessions number their messages).
pub fn full(store: &Store, node: NodeId) -> AssignmentSet {
    let mut put: Vec<AssignmentItem> = Vec::new();
    let tasks = store.tasks_of_node(node).filter(|task| record::is_assigned(task));
    put.extend(tasks.cloned().map(AssignmentItem::Task));
    put.extend(store.attachments_of_node(node).cloned().map(AssignmentItem::Attachment));
    let needs = Needs::of(store, node);
    put.extend(needs.secrets.iter().filter_map(|id| store.secret(*id)).cloned().map(AssignmentItem::Secret));
    put.extend(needs.configs.iter().filter_map(|id| store.config(*id)).cloned().map(AssignmentItem::Config));
    for network in &needs.networks {
        put.extend(record::network(store, *network, node));
        put.extend(record::contents(store, *network));
    }
    AssignmentSet { complete: true, sequence: 0, version: store.version(), put, remove: Vec::new() }
}

/// What the tasks of a node need.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    secrets: BTreeSet<SecretId>,
    configs: BTreeSet<ConfigId>,
    networks: BTreeSet<NetworkId>,
}

impl Needs {
    fn of(store: &Store, node: NodeId) -> Self {
        let mut needs = Self::default();
        for task in store.tasks_of_node(node).filter(|task| record::is_alive_on_node(task)) {
            needs.secrets.extend(task.spec.container.secrets.iter().map(|secret| secret.id));
            needs.configs.extend(task.spec.container.configs.iter().map(|config| config.id));
            needs.networks.extend(task.networks.iter().map(|attachment| attachment.network));
        }
        needs.networks.extend(store.attachments_of_node(node).map(|attachment| attachment.network));
        if store.node(node).is_some_and(|node| node.ingress_address.is_some()) {
            needs.networks.extend(store.ingress_network().map(|network| network.id));
        }
        needs
    }
}

/// Follows the store for all sessions of one manager: who has to be told what.
#[derive(Debug, Default)]
pub struct Hub {
    store: Store,
    sequences: BTreeMap<NodeId, u64>,
}

/// Items to put (or, without an item, to forget) under their keys.
type Items = BTreeMap<AssignmentKey, Option<AssignmentItem>>;

/// What changed between two stores, before it is known whom it concerns.
#[derive(Default)]
struct Touched {
    tasks: BTreeSet<TaskId>,
    /// Nodes whose address, liveness or place on the routing mesh changed.
    nodes: BTreeSet<NodeId>,
    /// Nodes to which tasks came, or which lost some.
    populations: BTreeSet<NodeId>,
    services: BTreeSet<ServiceId>,
    networks: BTreeSet<NetworkId>,
    secrets: BTreeSet<SecretId>,
    configs: BTreeSet<ConfigId>,
    attachments: BTreeSet<AttachmentId>,
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
        let old = std::mem::replace(&mut self.store, store.clone());
        let items = match store.changes_since(old.version()) {
            Some(events) => self.differences(&old, &events),
            None => {
                // Too far behind for differences: everybody gets everything.
                let nodes: Vec<NodeId> = self.sequences.keys().copied().collect();
                return nodes.into_iter().map(|node| self.number(node, full(store, node))).collect();
            }
        };
        let mut sets = Vec::with_capacity(items.len());
        for (node, items) in items {
            let mut set = AssignmentSet::default();
            for (key, item) in items {
                match item {
                    Some(item) => set.put.push(item),
                    None => set.remove.push(key),
                }
            }
            if !set.put.is_empty() || !set.remove.is_empty() {
                sets.push(self.number(node, set));
            }
        }
        sets
    }

    /// Version of the store that the sessions know.
    pub fn version(&self) -> u64 {
        self.store.version()
    }

    fn number(&mut self, node: NodeId, set: AssignmentSet) -> (NodeId, AssignmentSet) {
        let sequence = self.sequences.entry(node).or_insert(0);
        *sequence += 1;
        (node, AssignmentSet { sequence: *sequence, version: self.store.version(), ..set })
    }

    fn differences(&self, old: &Store, events: &[Event]) -> BTreeMap<NodeId, Items> {
        let new = &self.store;
        let mut touched = Touched::default();
        for event in events {
            touched.event(event);
        }
        touched.spread_nodes(old, new);
        let mut per_node: BTreeMap<NodeId, Items> = BTreeMap::new();
        // First what belongs to a network and is the same for all on it, then what is special to a node.
        for (network, items) in network_items(old, new, &touched) {
            for node in members(new, network).into_iter().filter(|node| self.sequences.contains_key(node)) {
                per_node.entry(node).or_default().extend(items.clone());
            }
        }
        for network in &touched.networks {
            self.network_record(old, *network, &mut per_node);
        }
        for task in &touched.tasks {
            self.own_task(old, *task, &mut per_node);
        }
        for attachment in &touched.attachments {
            self.own_attachment(old, *attachment, &mut per_node);
        }
        for node in touched.populations.iter().filter(|node| self.sequences.contains_key(node)) {
            population(old, new, *node, per_node.entry(*node).or_default());
        }
        self.payloads(&touched, &mut per_node);
        per_node
    }

    /// The record of a network that changed itself.
    fn network_record(&self, old: &Store, id: NetworkId, per_node: &mut BTreeMap<NodeId, Items>) {
        for node in members(&self.store, id).into_iter().filter(|node| self.sequences.contains_key(node)) {
            let after = record::network(&self.store, id, node);
            if after != record::network(old, id, node) {
                per_node.entry(node).or_default().insert(AssignmentKey::Network(id), after);
            }
        }
    }

    /// The task itself, for the node it is or was on.
    fn own_task(&self, old: &Store, id: TaskId, per_node: &mut BTreeMap<NodeId, Items>) {
        let before = old.task(id).filter(|task| record::is_assigned(task));
        let after = self.store.task(id).filter(|task| record::is_assigned(task));
        let node_of = |task: Option<&Arc<Task>>| task.and_then(|task| task.node_id);
        let key = AssignmentKey::Task(id);
        if let Some(left) = node_of(before).filter(|node| node_of(after) != Some(*node))
            && self.sequences.contains_key(&left)
        {
            per_node.entry(left).or_default().insert(key, None);
        }
        if let (Some(node), Some(task)) = (node_of(after), after)
            && self.sequences.contains_key(&node)
            && !before.is_some_and(|old| record::is_same_assignment(old, task))
        {
            per_node.entry(node).or_default().insert(key, Some(AssignmentItem::Task(Arc::clone(task))));
        }
    }

    /// The attachment itself, for its node. It never changes its node.
    fn own_attachment(&self, old: &Store, id: AttachmentId, per_node: &mut BTreeMap<NodeId, Items>) {
        let after = self.store.attachment(id);
        let Some(node) = after.or(old.attachment(id)).map(|attachment| attachment.node_id) else { return };
        if self.sequences.contains_key(&node) {
            let item = after.cloned().map(AssignmentItem::Attachment);
            per_node.entry(node).or_default().insert(AssignmentKey::Attachment(id), item);
        }
    }

    /// Secrets and configs whose labels changed, for the nodes that have them.
    fn payloads(&self, touched: &Touched, per_node: &mut BTreeMap<NodeId, Items>) {
        if touched.secrets.is_empty() && touched.configs.is_empty() {
            return;
        }
        for node in self.sequences.keys() {
            let needs = Needs::of(&self.store, *node);
            let secrets = needs.secrets.intersection(&touched.secrets).filter_map(|id| self.store.secret(*id));
            let configs = needs.configs.intersection(&touched.configs).filter_map(|id| self.store.config(*id));
            let items = secrets
                .map(|secret| AssignmentItem::Secret(Arc::clone(secret)))
                .chain(configs.map(|config| AssignmentItem::Config(Arc::clone(config))));
            for item in items {
                per_node.entry(*node).or_default().insert(item.key(), Some(item));
            }
        }
    }
}

impl Touched {
    fn event(&mut self, event: &Event) {
        let Event { before, after, .. } = event;
        match before.as_ref().or(after.as_ref()) {
            Some(Object::Task(task)) => self.task(task.id, before.as_ref(), after.as_ref()),
            Some(Object::Node(node)) => {
                let changed = match (before, after) {
                    (Some(Object::Node(old)), Some(Object::Node(new))) => record::is_other_place(old, new),
                    _ => true,
                };
                if changed {
                    self.nodes.insert(node.id);
                }
            }
            Some(Object::Service(service)) => {
                self.services.insert(service.id);
            }
            Some(Object::Network(network)) => {
                self.networks.insert(network.id);
            }
            Some(Object::Secret(secret)) => {
                self.secrets.insert(secret.id);
            }
            Some(Object::Config(config)) => {
                self.configs.insert(config.id);
            }
            Some(Object::Attachment(attachment)) => {
                self.attachments.insert(attachment.id);
                // One that stays changes its names at most.
                if before.is_none() || after.is_none() {
                    self.populations.insert(attachment.node_id);
                }
            }
            Some(Object::Cluster(_)) | None => {}
        }
    }

    fn task(&mut self, id: TaskId, before: Option<&Object>, after: Option<&Object>) {
        self.tasks.insert(id);
        let task = |object: Option<&Object>| match object {
            Some(Object::Task(task)) => Some(Arc::clone(task)),
            _ => None,
        };
        let (before, after) = (task(before), task(after));
        let alive = |task: &Option<Arc<Task>>| task.as_ref().is_some_and(|task| record::is_alive_on_node(task));
        let same = match (&before, &after) {
            (Some(old), Some(new)) => {
                alive(&before) == alive(&after)
                    && old.node_id == new.node_id
                    && Arc::ptr_eq(&old.spec, &new.spec)
                    && old.networks == new.networks
            }
            _ => false,
        };
        if !same {
            let nodes = [&before, &after].into_iter().flatten().filter_map(|task| task.node_id);
            self.populations.extend(nodes);
        }
    }

    /// A node that moved takes the endpoints of its tasks and attached containers along.
    fn spread_nodes(&mut self, old: &Store, new: &Store) {
        for node in &self.nodes {
            self.populations.insert(*node);
            let alive = |store: &Store| -> Vec<TaskId> {
                let tasks = store.tasks_of_node(*node).filter(|task| record::is_alive_on_node(task));
                tasks.map(|task| task.id).collect()
            };
            self.tasks.extend(alive(old));
            self.tasks.extend(alive(new));
            for store in [old, new] {
                self.attachments.extend(store.attachments_of_node(*node).map(|attachment| attachment.id));
            }
        }
    }
}

/// The nodes that are to know a network.
fn members(store: &Store, network: NetworkId) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = store.nodes_on_network(network).collect();
    if store.network(network).is_some_and(|network| network.spec.ingress) {
        nodes.extend(store.nodes().filter(|node| node.ingress_address.is_some()).map(|node| node.id));
        nodes.sort_unstable();
        nodes.dedup();
    }
    nodes
}

/// What changed on each network.
fn network_items(old: &Store, new: &Store, touched: &Touched) -> BTreeMap<NetworkId, Items> {
    let mut changed: BTreeMap<NetworkId, Items> = BTreeMap::new();
    let mut compare = |network: NetworkId, before: Option<AssignmentItem>, after: Option<AssignmentItem>| {
        if before != after
            && let Some(key) = after.as_ref().or(before.as_ref()).map(AssignmentItem::key)
        {
            changed.entry(network).or_default().insert(key, after);
        }
    };
    for id in &touched.tasks {
        let networks = |store: &Store| -> Vec<NetworkId> {
            store.task(*id).map(|task| task.networks.iter().map(|a| a.network).collect()).unwrap_or_default()
        };
        for network in networks(old).into_iter().chain(networks(new)).collect::<BTreeSet<_>>() {
            let item = |store: &Store| store.task(*id).and_then(|task| record::task_endpoint(store, task, network));
            compare(network, item(old), item(new));
        }
    }
    for id in &touched.attachments {
        let Some(attachment) = new.attachment(*id).or(old.attachment(*id)) else { continue };
        let item = |store: &Store| store.attachment(*id).map(|found| record::attachment_endpoint(store, found));
        compare(attachment.network, item(old), item(new));
    }
    let ingress: BTreeSet<NetworkId> =
        [old, new].into_iter().filter_map(|store| store.ingress_network().map(|network| network.id)).collect();
    for id in &touched.nodes {
        for network in &ingress {
            let item = |store: &Store| store.node(*id).and_then(|node| record::node_endpoint(store, node, *network));
            compare(*network, item(old), item(new));
        }
    }
    for id in &touched.services {
        let networks: BTreeSet<NetworkId> = [old, new]
            .into_iter()
            .filter_map(|store| store.service(*id))
            .flat_map(|service| record::networks_of(service))
            .collect();
        for network in networks {
            let item = |store: &Store| store.service(*id).and_then(|service| record::service(service, network));
            compare(network, item(old), item(new));
        }
        for network in &ingress {
            let item = |store: &Store| store.service(*id).and_then(|service| record::published(service));
            compare(*network, item(old), item(new));
        }
    }
    changed
}

/// A node to which tasks came, or which lost some, or which itself changed: what it needs now, and no longer.
fn population(old: &Store, new: &Store, node: NodeId, items: &mut Items) {
    let (before, after) = (Needs::of(old, node), Needs::of(new, node));
    for id in after.secrets.difference(&before.secrets) {
        let item = new.secret(*id).cloned().map(AssignmentItem::Secret);
        items.insert(AssignmentKey::Secret(*id), item);
    }
    for id in before.secrets.difference(&after.secrets) {
        items.insert(AssignmentKey::Secret(*id), None);
    }
    for id in after.configs.difference(&before.configs) {
        let item = new.config(*id).cloned().map(AssignmentItem::Config);
        items.insert(AssignmentKey::Config(*id), item);
    }
    for id in before.configs.difference(&after.configs) {
        items.insert(AssignmentKey::Config(*id), None);
    }
    for id in before.networks.difference(&after.networks) {
        items.insert(AssignmentKey::Network(*id), None);
        let known = record::contents(old, *id);
        items.extend(known.into_iter().map(|item| (item.key(), None)));
    }
    for id in after.networks.difference(&before.networks) {
        let contents = record::network(new, *id, node).into_iter().chain(record::contents(new, *id));
        items.extend(contents.map(|item| (item.key(), Some(item))));
    }
    // Its own address on the routing mesh is part of the network's record.
    let own_address = |store: &Store| store.node(node).and_then(|node| node.ingress_address);
    if own_address(old) != own_address(new) {
        for id in before.networks.intersection(&after.networks) {
            let record = record::network(new, *id, node);
            items.extend(record.map(|item| (item.key(), Some(item))));
        }
    }
}
