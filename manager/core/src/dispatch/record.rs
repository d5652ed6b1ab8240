//! Objects of the store as nodes need to know them.

use std::collections::BTreeSet;

use shoal_proto::assignment::{
    AssignmentItem, EndpointOwner, EndpointRecord, NetworkRecord, PublishedRecord, ServiceRecord,
};
use shoal_proto::id::{NetworkId, NodeId};
use shoal_proto::object::{Attachment, Node, NodeState, Service, Task};
use shoal_proto::spec::{PortConfig, PublishMode};
use shoal_proto::task_state::TaskState;

use crate::store::Store;

/// Digits of a container's short id.
const SHORT_ID: usize = 12;

/// Is the task one that its node has to know? It stays so when it has ended, until it is deleted; but not when it was
/// given up, for then the node that returns has to forget it.
pub(super) fn is_assigned(task: &Task) -> bool {
    task.node_id.is_some() && task.status.state >= TaskState::Assigned && task.status.state != TaskState::Orphaned
}

/// Does the task run on a node, or will it?
pub(super) fn is_alive_on_node(task: &Task) -> bool {
    is_assigned(task) && !task.status.state.is_terminal()
}

/// Are the two the same for the agent? Its own reports are not news to it.
pub(super) fn is_same_assignment(old: &Task, new: &Task) -> bool {
    old.node_id == new.node_id
        && old.desired_state == new.desired_state
        && old.networks == new.networks
        && old.ports == new.ports
        && old.not_before == new.not_before
        && old.spec_version == new.spec_version
        && (std::sync::Arc::ptr_eq(&old.spec, &new.spec) || old.spec == new.spec)
        && old.service_name == new.service_name
}

/// Where overlay frames for a node go.
fn data_address(node: &Node) -> Option<std::net::IpAddr> {
    node.description.as_ref().and_then(|description| description.data_path_addr).or(node.status.addr)
}

fn is_reachable(node: &Node) -> bool {
    !matches!(node.status.state, NodeState::Down | NodeState::Disconnected)
}

/// Do the node's endpoints look different to others?
pub(super) fn is_other_place(old: &Node, new: &Node) -> bool {
    data_address(old) != data_address(new)
        || is_reachable(old) != is_reachable(new)
        || old.ingress_address != new.ingress_address
}

/// A network, for one node.
pub(super) fn network(store: &Store, id: NetworkId, node: NodeId) -> Option<AssignmentItem> {
    let network = store.network(id)?;
    let spec = &network.spec;
    let mtu = spec.driver_options.get("com.docker.network.driver.mtu").and_then(|mtu| mtu.parse().ok());
    let own_address = store.node(node).and_then(|node| node.ingress_address);
    Some(AssignmentItem::Network(NetworkRecord {
        id,
        name: spec.name.clone(),
        driver: spec.driver.clone(),
        subnet: network.allocation.as_ref().map(|allocation| allocation.subnet),
        gateway: network.allocation.as_ref().map(|allocation| allocation.gateway),
        vni: network.allocation.as_ref().map_or(0, |allocation| allocation.vni),
        mtu: mtu.unwrap_or(0),
        internal: spec.internal,
        ingress: spec.ingress,
        attachable: spec.attachable,
        node_address: own_address.filter(|_| spec.ingress),
    }))
}

/// Everything on a network that is the same for all nodes.
pub(super) fn contents(store: &Store, id: NetworkId) -> Vec<AssignmentItem> {
    let mut items: Vec<AssignmentItem> =
        store.tasks_on_network(id).filter_map(|task| task_endpoint(store, task, id)).collect();
    items.extend(store.services_on_network(id).filter_map(|known| service(known, id)));
    items.extend(store.attachments_on_network(id).map(|attachment| attachment_endpoint(store, attachment)));
    if store.network(id).is_some_and(|network| network.spec.ingress) {
        items.extend(store.nodes().filter_map(|node| node_endpoint(store, node, id)));
        items.extend(store.services().filter_map(|known| published(known)));
    }
    items
}

/// A task's address on a network.
pub(super) fn task_endpoint(store: &Store, task: &Task, network: NetworkId) -> Option<AssignmentItem> {
    if !is_alive_on_node(task) {
        return None;
    }
    let addr = task.networks.iter().find(|attachment| attachment.network == network)?.addr?.addr();
    let id = task.node_id?;
    let node = store.node(id);
    let serving = task.status.state == TaskState::Running
        && task.desired_state <= TaskState::Running
        && node.is_some_and(|node| is_reachable(node));
    // The container's short id is its host name unless it was given one, by which programs tell others where they are.
    let container = task.status.container.as_ref().filter(|_| serving);
    let short_id = container.and_then(|container| container.container_id.get(..SHORT_ID));
    Some(AssignmentItem::Endpoint(EndpointRecord {
        network,
        owner: EndpointOwner::Task(task.id),
        addr,
        node: id,
        node_addr: node.and_then(|node| data_address(node)),
        service: Some(task.service_id),
        name: task.name(),
        aliases: short_id.map(str::to_owned).into_iter().collect(),
        serving,
    }))
}

/// An attached container's address on its network.
pub(super) fn attachment_endpoint(store: &Store, attachment: &Attachment) -> AssignmentItem {
    AssignmentItem::Endpoint(EndpointRecord {
        network: attachment.network,
        owner: EndpointOwner::Attachment(attachment.id),
        addr: attachment.addr.addr(),
        node: attachment.node_id,
        node_addr: store.node(attachment.node_id).and_then(|node| data_address(node)),
        service: None,
        name: attachment.name.clone(),
        aliases: attachment.aliases.clone(),
        serving: false,
    })
}

/// A node's address on the routing mesh.
pub(super) fn node_endpoint(store: &Store, node: &Node, network: NetworkId) -> Option<AssignmentItem> {
    if !store.network(network).is_some_and(|network| network.spec.ingress) {
        return None;
    }
    Some(AssignmentItem::Endpoint(EndpointRecord {
        network,
        owner: EndpointOwner::Node(node.id),
        addr: node.ingress_address?,
        node: node.id,
        node_addr: data_address(node),
        service: None,
        name: String::new(),
        aliases: Vec::new(),
        serving: false,
    }))
}

/// The networks on which a service has a name.
pub(super) fn networks_of(service: &Service) -> BTreeSet<NetworkId> {
    let wanted = service.spec.task.networks.iter().map(|attachment| attachment.target);
    wanted.chain(service.endpoint.virtual_ips.iter().map(|vip| vip.network)).collect()
}

/// A service's name and virtual address on a network.
pub(super) fn service(service: &Service, network: NetworkId) -> Option<AssignmentItem> {
    let attachment = service.spec.task.networks.iter().find(|attachment| attachment.target == network);
    let vip = service.endpoint.virtual_ips.iter().find(|vip| vip.network == network);
    if service.pending_delete || (attachment.is_none() && vip.is_none()) {
        return None;
    }
    Some(AssignmentItem::Service(ServiceRecord {
        network,
        service: service.id,
        name: service.spec.name.clone(),
        aliases: attachment.map(|attachment| attachment.aliases.clone()).unwrap_or_default(),
        mode: service.spec.endpoint.mode,
        virtual_ip: vip.map(|vip| vip.addr),
    }))
}

/// A service's ports on the routing mesh.
pub(super) fn published(service: &Service) -> Option<AssignmentItem> {
    let on_mesh = |port: &&PortConfig| port.mode == PublishMode::Ingress && port.published != 0;
    let ports: Vec<PortConfig> = service.endpoint.ports.iter().filter(on_mesh).cloned().collect();
    if service.pending_delete || ports.is_empty() {
        return None;
    }
    Some(AssignmentItem::Published(PublishedRecord { service: service.id, ports }))
}
