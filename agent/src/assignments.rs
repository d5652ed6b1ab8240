//! The agent's copy of what a manager assigned to this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_proto::assignment::{
    AssignmentItem, AssignmentKey, AssignmentSet, EndpointOwner, EndpointRecord, NetworkRecord, PublishedRecord,
    ServiceRecord,
};
use shoal_proto::id::{AttachmentId, ConfigId, NetworkId, SecretId, ServiceId, TaskId};
use shoal_proto::object::{Attachment, Config, Secret, Task};

use crate::executor::Dependencies;

/// Networks of the cluster as this node needs to know them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkView {
    /// Networks that a task or an attached container of this node is on, and the routing mesh.
    pub networks: BTreeMap<NetworkId, NetworkEntry>,
    /// Ports of the routing mesh.
    pub published: BTreeMap<ServiceId, PublishedRecord>,
    /// The containers of this node that are no tasks and on a network.
    pub attachments: BTreeMap<AttachmentId, Arc<Attachment>>,
}

/// One network and who is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkEntry {
    /// The network.
    pub record: NetworkRecord,
    /// Addresses on it, anywhere in the cluster.
    pub endpoints: BTreeMap<EndpointOwner, EndpointRecord>,
    /// Services on it.
    pub services: BTreeMap<ServiceId, ServiceRecord>,
}

/// What a message changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Tasks that are new or different.
    pub tasks: Vec<TaskId>,
    /// Tasks that are no longer assigned.
    pub gone: Vec<TaskId>,
    /// Did network state change?
    pub networks: bool,
    /// Networks that were not in the set before.
    pub new_networks: Vec<NetworkId>,
    /// Was it a whole set?
    pub complete: bool,
}

/// Why a message was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It does not follow the one before: some were lost, the whole set is needed.
    #[error("assignment {got} came when {expected} was expected")]
    OutOfSequence {
        /// Number that would have followed.
        expected: u64,
        /// Number that it has.
        got: u64,
    },
    /// It shows the cluster as it was before something that this node knows already: what runs must not be judged by it.
    #[error("the manager knows the cluster at version {got} only, this node was told version {newest} before")]
    Behind {
        /// Newest version seen.
        newest: u64,
        /// Version of the message.
        got: u64,
    },
}

/// The set, kept up to date from messages.
#[derive(Debug, Default)]
pub struct Assignments {
    sequence: u64,
    /// Newest version of the store that any manager showed.
    version: u64,
    items: BTreeMap<AssignmentKey, AssignmentItem>,
}

impl Assignments {
    /// Takes in a message and says what it changed.
    ///
    /// # Errors
    /// When a difference does not follow the last message, or a whole set is older than what was seen; the set is
    /// unchanged then.
    pub fn apply(&mut self, message: AssignmentSet) -> Result<Changed, Unusable> {
        if !message.complete && message.sequence != self.sequence + 1 {
            return Err(Unusable::OutOfSequence { expected: self.sequence + 1, got: message.sequence });
        }
        if message.version != 0 && message.version < self.version {
            return Err(Unusable::Behind { newest: self.version, got: message.version });
        }
        self.version = self.version.max(message.version);
        self.sequence = message.sequence;
        let mut changed = Changed { complete: message.complete, ..Changed::default() };
        let mut removed = message.remove;
        if message.complete {
            let kept: std::collections::BTreeSet<_> = message.put.iter().map(AssignmentItem::key).collect();
            removed = self.items.keys().filter(|key| !kept.contains(key)).copied().collect();
            changed.networks = true;
        }
        for key in removed {
            if self.items.remove(&key).is_none() {
                continue;
            }
            match key {
                AssignmentKey::Task(id) => changed.gone.push(id),
                AssignmentKey::Secret(_) | AssignmentKey::Config(_) => {}
                _ => changed.networks = true,
            }
        }
        for item in message.put {
            let key = item.key();
            if self.items.get(&key) == Some(&item) {
                continue;
            }
            match key {
                AssignmentKey::Task(id) => changed.tasks.push(id),
                AssignmentKey::Secret(_) | AssignmentKey::Config(_) => {}
                AssignmentKey::Network(id) if !self.items.contains_key(&key) => {
                    changed.networks = true;
                    changed.new_networks.push(id);
                }
                _ => changed.networks = true,
            }
            self.items.insert(key, item);
        }
        Ok(changed)
    }

    /// An assigned task.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        match self.items.get(&AssignmentKey::Task(id)) {
            Some(AssignmentItem::Task(task)) => Some(task),
            _ => None,
        }
    }

    /// All assigned tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.items.values().filter_map(|item| match item {
            AssignmentItem::Task(task) => Some(task),
            _ => None,
        })
    }

    /// Is a network in the set?
    pub fn has_network(&self, id: NetworkId) -> bool {
        self.items.contains_key(&AssignmentKey::Network(id))
    }

    fn secret(&self, id: SecretId) -> Option<Arc<Secret>> {
        match self.items.get(&AssignmentKey::Secret(id)) {
            Some(AssignmentItem::Secret(secret)) => Some(Arc::clone(secret)),
            _ => None,
        }
    }

    fn config(&self, id: ConfigId) -> Option<Arc<Config>> {
        match self.items.get(&AssignmentKey::Config(id)) {
            Some(AssignmentItem::Config(config)) => Some(Arc::clone(config)),
            _ => None,
        }
    }

    /// The payloads that a task's spec names, as far as they were sent.
    pub fn dependencies(&self, task: &Task) -> Dependencies {
        let container = &task.spec.container;
        Dependencies {
            secrets: container.secrets.iter().filter_map(|reference| self.secret(reference.id)).collect(),
            configs: container.configs.iter().filter_map(|reference| self.config(reference.id)).collect(),
        }
    }

    /// The network part, put together.
    pub fn network_view(&self) -> NetworkView {
        let mut view = NetworkView::default();
        // Keys are ordered: all networks come before the first endpoint.
        for item in self.items.values() {
            match item {
                AssignmentItem::Network(record) => {
                    let entry =
                        NetworkEntry { record: record.clone(), endpoints: BTreeMap::new(), services: BTreeMap::new() };
                    view.networks.insert(record.id, entry);
                }
                AssignmentItem::Endpoint(endpoint) => {
                    if let Some(entry) = view.networks.get_mut(&endpoint.network) {
                        entry.endpoints.insert(endpoint.owner, endpoint.clone());
                    }
                }
                AssignmentItem::Service(service) => {
                    if let Some(entry) = view.networks.get_mut(&service.network) {
                        entry.services.insert(service.service, service.clone());
                    }
                }
                AssignmentItem::Published(published) => {
                    view.published.insert(published.service, published.clone());
                }
                AssignmentItem::Attachment(attachment) => {
                    view.attachments.insert(attachment.id, Arc::clone(attachment));
                }
                AssignmentItem::Secret(_) | AssignmentItem::Config(_) | AssignmentItem::Task(_) => {}
            }
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(bits: u128, slot: u64) -> AssignmentItem {
        AssignmentItem::Task(Arc::new(Task { id: TaskId::from_bits(bits), slot, ..Task::default() }))
    }

    fn message(complete: bool, sequence: u64, put: Vec<AssignmentItem>, remove: Vec<AssignmentKey>) -> AssignmentSet {
        AssignmentSet { complete, sequence, version: 0, put, remove }
    }

    #[test]
    fn a_manager_that_is_behind_is_not_believed() {
        let mut set = Assignments::default();
        let at = |version, sequence, complete| AssignmentSet { version, ..message(complete, sequence, vec![], vec![]) };
        set.apply(AssignmentSet { version: 7, ..message(true, 1, vec![task(1, 1)], vec![]) }).expect("first");
        set.apply(at(9, 2, false)).expect("second");
        assert_eq!(set.apply(at(8, 1, true)), Err(Unusable::Behind { newest: 9, got: 8 }));
        assert_eq!(set.tasks().count(), 1, "what runs goes on running");
        set.apply(at(9, 1, true)).expect("as new as what was seen");
        assert_eq!(set.tasks().count(), 0);
    }

    #[test]
    fn a_whole_set_replaces_and_names_what_went() {
        let mut set = Assignments::default();
        set.apply(message(true, 1, vec![task(1, 1), task(2, 2)], vec![])).expect("first");
        let changed = set.apply(message(true, 1, vec![task(2, 2), task(3, 3)], vec![])).expect("second");
        assert_eq!(changed.tasks, vec![TaskId::from_bits(3)]);
        assert_eq!(changed.gone, vec![TaskId::from_bits(1)]);
        assert!(changed.complete);
    }

    #[test]
    fn differences_must_follow_each_other() {
        let mut set = Assignments::default();
        set.apply(message(true, 1, vec![task(1, 1)], vec![])).expect("whole");
        assert!(set.apply(message(false, 3, vec![task(2, 1)], vec![])).is_err());
        assert_eq!(set.tasks().count(), 1);
        let changed = set.apply(message(false, 2, vec![task(1, 9)], vec![])).expect("next");
        assert_eq!(changed.tasks, vec![TaskId::from_bits(1)]);
        assert_eq!(set.task(TaskId::from_bits(1)).map(|task| task.slot), Some(9));
    }

    #[test]
    fn an_equal_item_changes_nothing() {
        let mut set = Assignments::default();
        set.apply(message(true, 1, vec![task(1, 1)], vec![])).expect("whole");
        let changed = set.apply(message(false, 2, vec![task(1, 1)], vec![])).expect("same");
        assert_eq!(changed, Changed::default());
    }
}
