//! The replicated store: every object of the cluster, immutable behind `Arc`, in persistent maps.
//!
//! ## Design notes
//! `Clone` is O(1): a clone is a consistent snapshot, and a planner's scratch copy. A batch is applied to a clone that
//! replaces the original when all of it fitted, so a bad change leaves nothing behind. Every index is derived from
//! the objects, by the same code on every manager; the one thing that is not (where the allocators went on from last)
//! travels in the snapshot. The store itself refuses what must never happen, whoever asks: two objects of one name, an
//! address or a port handed out twice, a change based on an old version.

mod address;
mod apply;
mod index;
mod log;
mod snapshot;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use shoal_proto::id::{AttachmentId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use shoal_proto::object::{Attachment, Cluster, Config, Network, Node, Secret, Service, Task};
use shoal_proto::spec::Protocol;

pub use address::AddressSpace;
pub use apply::Applied;
pub use index::{NodeUsage, PlacementCount};
pub(crate) use index::{host_ports, ingress_ports};
pub use log::Event;
pub use snapshot::{Restore, RestoreError, SnapshotChunks};

#[cfg(test)]
pub(crate) use tests::check_indexes;

use crate::change::{Object, ObjectKey};
use index::Index;
use log::ChangeLog;

/// The objects of the cluster and the ways to find them.
#[derive(Debug, Clone, Default)]
pub struct Store {
    version: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    services: OrdMap<ServiceId, Arc<Service>>,
    tasks: OrdMap<TaskId, Arc<Task>>,
    networks: OrdMap<NetworkId, Arc<Network>>,
    secrets: OrdMap<SecretId, Arc<Secret>>,
    configs: OrdMap<ConfigId, Arc<Config>>,
    attachments: OrdMap<AttachmentId, Arc<Attachment>>,
    index: Index,
    log: ChangeLog,
}

impl Store {
    /// An empty store, as before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Version of the last batch applied.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The cluster; `None` before it was made.
    pub const fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// A service; also one that is pending deletion.
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// All services, by id; also those that are pending deletion.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The services whose endpoint may lack a virtual address or a port.
    pub fn services_incomplete(&self) -> impl Iterator<Item = ServiceId> {
        self.index.incomplete.iter().copied()
    }

    /// The service of this name; none that is pending deletion.
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(self.index.service_names.get(name)?)
    }

    /// A task.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id)
    }

    /// All tasks, by id.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    /// How many tasks there are.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// The tasks of a service, by slot.
    pub fn tasks_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (id, 0, TaskId::from_bits(0))..=(id, u64::MAX, TaskId::from_bits(u128::MAX));
        self.index.by_slot.range(range).filter_map(|(_, _, task)| self.tasks.get(task))
    }

    /// The tasks of one slot of a replicated service, dead ones included.
    pub fn tasks_of_slot(&self, id: ServiceId, slot: u64) -> impl Iterator<Item = &Arc<Task>> {
        let range = (id, slot, TaskId::from_bits(0))..=(id, slot, TaskId::from_bits(u128::MAX));
        self.index.by_slot.range(range).filter_map(|(_, _, task)| self.tasks.get(task))
    }

    /// The tasks that were given to a node, by service; dead ones included.
    pub fn tasks_of_node(&self, id: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (id, ServiceId::from_bits(0), TaskId::from_bits(0))
            ..=(id, ServiceId::from_bits(u128::MAX), TaskId::from_bits(u128::MAX));
        self.index.by_node.range(range).filter_map(|(_, _, task)| self.tasks.get(task))
    }

    /// The tasks of a service that were given to a node, dead ones included.
    pub fn tasks_of_service_on(&self, service: ServiceId, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (node, service, TaskId::from_bits(0))..=(node, service, TaskId::from_bits(u128::MAX));
        self.index.by_node.range(range).filter_map(|(_, _, task)| self.tasks.get(task))
    }

    /// Tasks that wait for their addresses, grouped by service.
    pub fn tasks_unallocated(&self) -> impl Iterator<Item = (ServiceId, TaskId)> {
        self.index.unallocated.iter().copied()
    }

    /// Such tasks of one service.
    pub fn tasks_unallocated_of(&self, id: ServiceId) -> impl Iterator<Item = TaskId> {
        let range = (id, TaskId::from_bits(0))..=(id, TaskId::from_bits(u128::MAX));
        self.index.unallocated.range(range).map(|(_, task)| *task)
    }

    /// Tasks that have their addresses and wait for a node, grouped by service and spec version.
    pub fn tasks_unassigned(&self) -> impl Iterator<Item = (ServiceId, u64, TaskId)> {
        self.index.unassigned.iter().copied()
    }

    /// Such tasks of one service.
    pub fn tasks_unassigned_of(&self, id: ServiceId) -> impl Iterator<Item = (ServiceId, u64, TaskId)> {
        let range = (id, 0, TaskId::from_bits(0))..=(id, u64::MAX, TaskId::from_bits(u128::MAX));
        self.index.unassigned.range(range).copied()
    }

    /// The tasks that are on a network and have not ended.
    pub fn tasks_on_network(&self, id: NetworkId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (id, TaskId::from_bits(0))..=(id, TaskId::from_bits(u128::MAX));
        self.index.network_tasks.range(range).filter_map(|(_, task)| self.tasks.get(task))
    }

    /// The nodes that have such tasks, or attached containers.
    pub fn nodes_on_network(&self, id: NetworkId) -> impl Iterator<Item = NodeId> {
        let range = (id, NodeId::from_bits(0))..=(id, NodeId::from_bits(u128::MAX));
        self.index.network_nodes.range(range).map(|((_, node), _)| *node)
    }

    /// Has the node a task or an attached container on the network?
    pub fn is_node_on_network(&self, node: NodeId, network: NetworkId) -> bool {
        self.index.network_nodes.contains_key(&(network, node))
    }

    /// The services that ask for a network, or have an address on it; also those that are pending deletion.
    pub fn services_on_network(&self, id: NetworkId) -> impl Iterator<Item = &Arc<Service>> {
        let range = (id, ServiceId::from_bits(0))..=(id, ServiceId::from_bits(u128::MAX));
        self.index.network_services.range(range).filter_map(|(_, service)| self.services.get(service))
    }

    /// A container that is no task, on a network.
    pub fn attachment(&self, id: AttachmentId) -> Option<&Arc<Attachment>> {
        self.attachments.get(&id)
    }

    /// All of these, by id.
    pub fn attachments(&self) -> impl ExactSizeIterator<Item = &Arc<Attachment>> {
        self.attachments.values()
    }

    /// Those of a node.
    pub fn attachments_of_node(&self, id: NodeId) -> impl Iterator<Item = &Arc<Attachment>> {
        let range = (id, AttachmentId::from_bits(0))..=(id, AttachmentId::from_bits(u128::MAX));
        self.index.node_attachments.range(range).filter_map(|(_, attachment)| self.attachments.get(attachment))
    }

    /// Those on a network.
    pub fn attachments_on_network(&self, id: NetworkId) -> impl Iterator<Item = &Arc<Attachment>> {
        let range = (id, AttachmentId::from_bits(0))..=(id, AttachmentId::from_bits(u128::MAX));
        self.index.network_attachments.range(range).filter_map(|(_, attachment)| self.attachments.get(attachment))
    }

    /// The one of a container on a network.
    pub fn attachment_of(&self, node: NodeId, network: NetworkId, container_id: &str) -> Option<&Arc<Attachment>> {
        let is_it =
            |attachment: &&Arc<Attachment>| attachment.network == network && attachment.container_id == container_id;
        self.attachments_of_node(node).find(is_it)
    }

    /// A network; also one that is pending deletion.
    pub fn network(&self, id: NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(&id)
    }

    /// All networks, by id; also those that are pending deletion.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// The network of this name; none that is pending deletion.
    pub fn network_by_name(&self, name: &str) -> Option<&Arc<Network>> {
        self.networks.get(self.index.network_names.get(name)?)
    }

    /// The routing mesh; `None` when it was removed. It may be pending deletion.
    pub fn ingress_network(&self) -> Option<&Arc<Network>> {
        self.networks.get(self.index.ingress.as_ref()?)
    }

    /// A secret.
    pub fn secret(&self, id: SecretId) -> Option<&Arc<Secret>> {
        self.secrets.get(&id)
    }

    /// All secrets, by id.
    pub fn secrets(&self) -> impl ExactSizeIterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }

    /// The secret of this name.
    pub fn secret_by_name(&self, name: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(self.index.secret_names.get(name)?)
    }

    /// The services whose current spec uses a secret; none that is pending deletion.
    pub fn services_using_secret(&self, id: SecretId) -> impl Iterator<Item = &Arc<Service>> {
        let range = (id, ServiceId::from_bits(0))..=(id, ServiceId::from_bits(u128::MAX));
        self.index.secret_users.range(range).filter_map(|(_, service)| self.services.get(service))
    }

    /// A config.
    pub fn config(&self, id: ConfigId) -> Option<&Arc<Config>> {
        self.configs.get(&id)
    }

    /// All configs, by id.
    pub fn configs(&self) -> impl ExactSizeIterator<Item = &Arc<Config>> {
        self.configs.values()
    }

    /// The config of this name.
    pub fn config_by_name(&self, name: &str) -> Option<&Arc<Config>> {
        self.configs.get(self.index.config_names.get(name)?)
    }

    /// The services whose current spec uses a config; none that is pending deletion.
    pub fn services_using_config(&self, id: ConfigId) -> impl Iterator<Item = &Arc<Service>> {
        let range = (id, ServiceId::from_bits(0))..=(id, ServiceId::from_bits(u128::MAX));
        self.index.config_users.range(range).filter_map(|(_, service)| self.services.get(service))
    }

    /// The service that has a port on the routing mesh.
    pub fn port_owner(&self, protocol: Protocol, port: u16) -> Option<ServiceId> {
        self.index.ports.get(&(protocol, port)).copied()
    }

    /// The ports in use on the routing mesh, in order.
    pub fn ports_from(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = u16> {
        let range = (Bound::Included((protocol, port)), Bound::Included((protocol, u16::MAX)));
        self.index.ports.range(range).map(|((_, port), _)| *port)
    }

    /// Is any service published on the routing mesh?
    pub fn has_published_ports(&self) -> bool {
        !self.index.ports.is_empty()
    }

    /// The network that has a VXLAN identifier.
    pub fn vni_owner(&self, vni: u32) -> Option<NetworkId> {
        self.index.vnis.get(&vni).copied()
    }

    /// Addresses in use on a network; `None` when it has no subnet.
    pub fn addresses(&self, id: NetworkId) -> Option<&AddressSpace> {
        self.index.spaces.get(&id)
    }

    /// Is an address of a network in use or reserved?
    pub fn is_address_taken(&self, id: NetworkId, addr: Ipv4Addr) -> bool {
        self.index.spaces.get(&id).is_some_and(|space| space.contains(addr))
    }

    /// What runs on a node; `None` when nothing does.
    pub fn node_usage(&self, id: NodeId) -> Option<&Arc<NodeUsage>> {
        self.index.usage.get(&id)
    }

    /// How many tasks of a service are on each node that has any, or where some failed.
    pub fn placement_of(&self, id: ServiceId) -> impl Iterator<Item = (NodeId, &PlacementCount)> {
        let range = (id, NodeId::from_bits(0))..=(id, NodeId::from_bits(u128::MAX));
        self.index.placement.range(range).map(|((_, node), count)| (*node, count))
    }

    /// Any object.
    pub fn get(&self, key: ObjectKey) -> Option<Object> {
        match key {
            ObjectKey::Cluster(id) => {
                self.cluster.as_ref().filter(|cluster| cluster.id == id).cloned().map(Object::Cluster)
            }
            ObjectKey::Node(id) => self.nodes.get(&id).cloned().map(Object::Node),
            ObjectKey::Service(id) => self.services.get(&id).cloned().map(Object::Service),
            ObjectKey::Task(id) => self.tasks.get(&id).cloned().map(Object::Task),
            ObjectKey::Network(id) => self.networks.get(&id).cloned().map(Object::Network),
            ObjectKey::Secret(id) => self.secrets.get(&id).cloned().map(Object::Secret),
            ObjectKey::Config(id) => self.configs.get(&id).cloned().map(Object::Config),
            ObjectKey::Attachment(id) => self.attachments.get(&id).cloned().map(Object::Attachment),
        }
    }

    /// What changed after `version`, oldest first; `None` when that is too long ago (or never was): look at everything.
    pub fn changes_since(&self, version: u64) -> Option<Vec<Event>> {
        if version > self.version {
            return None;
        }
        self.log.since(version)
    }

    /// Where the port allocator goes on.
    pub(crate) const fn port_cursor(&self) -> u16 {
        self.index.port_cursor
    }

    /// Where the allocator of VXLAN identifiers goes on.
    pub(crate) const fn vni_cursor(&self) -> u32 {
        self.index.vni_cursor
    }

    /// Where the subnet allocator goes on.
    pub(crate) const fn subnet_cursor(&self) -> u32 {
        self.index.subnet_cursor
    }
}
