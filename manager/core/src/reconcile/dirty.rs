//! What a change makes worth a look.

use shoal_proto::object::{Network, Node, Service, Task};
use shoal_proto::task_state::TaskState;

use super::{Dirty, Due};
use crate::change::Object;
use crate::orchestrator::slot_key;
use crate::restart::is_lost;
use crate::store::{Event, Store};
use crate::update;

impl Dirty {
    /// What these events make worth a look.
    pub fn of(store: &Store, events: &[Event]) -> Self {
        let mut dirty = Self::default();
        for event in events {
            match (&event.before, &event.after) {
                (_, Some(Object::Cluster(_))) => dirty.everything = true,
                (before, Some(Object::Node(after))) => {
                    let before = before.as_ref().and_then(as_node);
                    dirty.node(store, before, Some(after));
                }
                (Some(Object::Node(before)), None) => dirty.node(store, Some(before), None),
                (before, Some(Object::Service(after))) => {
                    let before = match before {
                        Some(Object::Service(before)) => Some(&**before),
                        _ => None,
                    };
                    dirty.service(before, after);
                }
                (before, Some(Object::Task(after))) => {
                    let before = before.as_ref().and_then(as_task);
                    dirty.task(store, before, after);
                }
                (Some(Object::Task(before)), None) => dirty.deleted_task(store, before),
                (_, Some(Object::Network(network))) => dirty.network(store, network),
                (Some(Object::Service(_)), None) => dirty.capacity = true,
                (Some(Object::Network(_)), None) => {
                    dirty.capacity = true;
                    // There is a subnet for one that had none.
                    let waiting = store.networks().filter(|network| network.allocation.is_none());
                    dirty.networks.extend(waiting.map(|network| network.id));
                }
                // An address is free for those who wait for one.
                (Some(Object::Attachment(_)), None) => dirty.capacity = true,
                (_, None | Some(Object::Secret(_) | Object::Config(_) | Object::Attachment(_))) => {}
            }
        }
        dirty
    }

    /// Adds what became due.
    pub fn add(&mut self, due: Due) {
        match due {
            Due::Service(id) => {
                self.services.insert(id);
            }
            Due::Slot(key) => {
                self.slots.insert(key);
            }
            Due::Node(id) => {
                self.nodes.insert(id);
            }
            Due::Placement => self.capacity = true,
        }
    }

    /// Will it be looked at?
    pub(super) fn covers(&self, due: Due) -> bool {
        match due {
            Due::Service(id) => self.services.contains(&id),
            Due::Slot(key) => self.slots.contains(&key) || self.services.contains(&key.service),
            Due::Node(id) => self.nodes.contains(&id),
            Due::Placement => self.capacity,
        }
    }

    /// Turns "everything" into lists.
    pub(super) fn widen(&mut self, store: &Store) {
        self.services = store.services().map(|service| service.id).collect();
        self.nodes = store.nodes().map(|node| node.id).collect();
        // Nodes that were removed may have left tasks behind.
        self.nodes
            .extend(store.tasks().filter(|task| !task.status.state.is_terminal()).filter_map(|task| task.node_id));
        self.networks = store.networks().map(|network| network.id).collect();
        self.slots.clear();
        self.capacity = true;
    }

    fn node(&mut self, store: &Store, before: Option<&Node>, after: Option<&Node>) {
        let Some(id) = before.or(after).map(|node| node.id) else { return };
        if let (Some(old), Some(new)) = (before, after)
            && !matters(old, new)
        {
            return;
        }
        self.nodes.insert(id);
        self.capacity = true;
        // Tasks that were kept through a change of placement may have to go now.
        let outdated = store.tasks_of_node(id).filter(|task| {
            store.service(task.service_id).is_some_and(|service| service.spec_version != task.spec_version)
        });
        self.services.extend(outdated.map(|task| task.service_id));
    }

    fn service(&mut self, before: Option<&Service>, after: &Service) {
        self.services.insert(after.id);
        self.groups.insert(after.id);
        // Addresses or ports may have become free.
        self.capacity |= before.is_some_and(|before| before.endpoint != after.endpoint);
    }

    fn task(&mut self, store: &Store, before: Option<&Task>, after: &Task) {
        let ended = after.status.state.is_terminal();
        let same = before.is_some_and(|old| {
            old.desired_state == after.desired_state
                && old.status.state.is_terminal() == ended
                && old.node_id == after.node_id
                && old.spec_version == after.spec_version
        });
        if before.is_none_or(|old| old.node_id != after.node_id) || after.status.state < TaskState::Assigned {
            self.groups.insert(after.service_id);
        }
        // That a task was made, or got its node, leaves nothing to do for its slot.
        let well = !ended
            && after.desired_state == TaskState::Running
            && before.is_none_or(|old| old.desired_state == after.desired_state)
            && !is_lost(store, after);
        let moved = before.is_none_or(|old| old.status.state != after.status.state);
        let service = store.service(after.service_id);
        // A task that runs takes over from the one that a start-first update kept.
        let takes_over = moved
            && after.status.state == TaskState::Running
            && service.is_some_and(|service| service.update_status.is_some());
        if (!same && !well) || takes_over {
            self.slots.insert(slot_key(after));
        }
        self.capacity |= ended && !same;
        if (moved || !same) && service.is_some_and(|service| update::is_running(service) || service.pending_delete) {
            self.services.insert(after.service_id);
        }
    }

    fn deleted_task(&mut self, store: &Store, task: &Task) {
        self.capacity |= !task.status.state.is_terminal();
        self.slots.insert(slot_key(task));
        if store.service(task.service_id).is_some_and(|s| s.pending_delete || update::is_running(s)) {
            self.services.insert(task.service_id);
        }
    }

    fn network(&mut self, store: &Store, network: &Network) {
        self.networks.insert(network.id);
        self.capacity = true;
        self.services.extend(store.services_on_network(network.id).map(|service| service.id));
        if network.spec.ingress {
            self.services.extend(
                store.services().filter(|service| !service.spec.endpoint.ports.is_empty()).map(|service| service.id),
            );
        }
    }
}

/// Does the difference matter to any planner?
fn matters(old: &Node, new: &Node) -> bool {
    let resources = |node: &Node| node.description.as_ref().map(|d| (d.resources.clone(), d.platform.clone()));
    let words = |node: &Node| node.description.as_ref().map(|d| (d.hostname.clone(), d.engine_labels.clone()));
    old.status.state != new.status.state
        || old.spec != new.spec
        || old.status.addr != new.status.addr
        || old.certificate_role != new.certificate_role
        || resources(old) != resources(new)
        || words(old) != words(new)
        || (old.ingress_address.is_some() && new.ingress_address.is_none())
}

fn as_node(object: &Object) -> Option<&Node> {
    match object {
        Object::Node(node) => Some(node),
        _ => None,
    }
}

fn as_task(object: &Object) -> Option<&Task> {
    match object {
        Object::Task(task) => Some(task),
        _ => None,
    }
}
