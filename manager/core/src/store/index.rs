//! What is derived from the objects: the ways to find them, and what is in use.

mod usage;

use std::net::Ipv4Addr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use shoal_proto::id::{AttachmentId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use shoal_proto::object::{Attachment, Config, Network, Node, Secret, Service, Task};
use shoal_proto::spec::{EndpointMode, Protocol, PublishMode};
use shoal_proto::task_state::TaskState;

use super::address::AddressSpace;
use crate::change::ApplyError;
pub use usage::{NodeUsage, PlacementCount};
pub(crate) use usage::{host_ports, ingress_ports};

type Names<Id> = OrdMap<Arc<str>, Id>;

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Index {
    pub(super) service_names: Names<ServiceId>,
    pub(super) network_names: Names<NetworkId>,
    pub(super) secret_names: Names<SecretId>,
    pub(super) config_names: Names<ConfigId>,
    /// Names of services in the form that their tasks share.
    pub(super) shared_names: OrdMap<ServiceId, Arc<str>>,
    pub(super) by_slot: OrdSet<(ServiceId, u64, TaskId)>,
    pub(super) by_node: OrdSet<(NodeId, ServiceId, TaskId)>,
    /// Tasks that wait for their addresses.
    pub(super) unallocated: OrdSet<(ServiceId, TaskId)>,
    /// Tasks that have them and wait for a node.
    pub(super) unassigned: OrdSet<(ServiceId, u64, TaskId)>,
    pub(super) usage: OrdMap<NodeId, Arc<NodeUsage>>,
    pub(super) placement: OrdMap<(ServiceId, NodeId), PlacementCount>,
    pub(super) network_tasks: OrdSet<(NetworkId, TaskId)>,
    pub(super) network_nodes: OrdMap<(NetworkId, NodeId), u32>,
    pub(super) network_attachments: OrdSet<(NetworkId, AttachmentId)>,
    pub(super) node_attachments: OrdSet<(NodeId, AttachmentId)>,
    pub(super) network_services: OrdSet<(NetworkId, ServiceId)>,
    pub(super) spaces: OrdMap<NetworkId, AddressSpace>,
    pub(super) ports: OrdMap<(Protocol, u16), ServiceId>,
    pub(super) vnis: OrdMap<u32, NetworkId>,
    /// Services that may lack a virtual address or a port.
    pub(super) incomplete: OrdSet<ServiceId>,
    pub(super) ingress: Option<NetworkId>,
    pub(super) secret_users: OrdSet<(SecretId, ServiceId)>,
    pub(super) config_users: OrdSet<(ConfigId, ServiceId)>,
    pub(super) port_cursor: u16,
    pub(super) vni_cursor: u32,
    pub(super) subnet_cursor: u32,
}

/// Has the task a node, and may it use that node's resources?
fn occupied_node(task: &Task) -> Option<NodeId> {
    let occupies = task.status.state >= TaskState::Assigned && !task.status.state.is_terminal();
    task.node_id.filter(|_| occupies)
}

fn is_active(task: &Task) -> bool {
    task.desired_state <= TaskState::Running
}

/// Which queue the task stands in: `Some(true)` for its addresses, `Some(false)` for a node.
fn queue(task: &Task) -> Option<bool> {
    let waits = task.status.state < TaskState::Assigned && task.desired_state <= TaskState::Running;
    waits.then_some(task.status.state == TaskState::New)
}

fn failed_on(task: &Task) -> Option<NodeId> {
    task.node_id.filter(|_| matches!(task.status.state, TaskState::Failed | TaskState::Rejected))
}

impl Index {
    /// Follows a task from one shape to the next; `None` is "does not exist".
    pub(super) fn task_changed(&mut self, before: Option<&Task>, after: Option<&Task>) -> Result<(), ApplyError> {
        let (Some(old), Some(new)) = (before, after) else {
            if let Some(old) = before {
                self.remove_task(old);
            }
            return after.map_or(Ok(()), |new| self.add_task(new));
        };
        let same_shape = old.service_id == new.service_id
            && old.slot == new.slot
            && old.spec_version == new.spec_version
            && Arc::ptr_eq(&old.spec, &new.spec)
            && old.ports == new.ports;
        if !same_shape {
            self.remove_task(old);
            return self.add_task(new);
        }
        if old.node_id != new.node_id {
            self.unlink_node(old);
            self.link_node(new);
        }
        if queue(old) != queue(new) {
            self.leave_queue(old);
            self.enter_queue(new);
        }
        if (occupied_node(old), is_active(old)) != (occupied_node(new), is_active(new)) {
            self.vacate(old);
            self.occupy(new);
        }
        if failed_on(old) != failed_on(new) {
            self.forget_failure(old);
            self.remember_failure(new);
        }
        let terminal = (old.status.state.is_terminal(), new.status.state.is_terminal());
        let moved = old.networks != new.networks || terminal.0 != terminal.1;
        if moved || occupied_node(old) != occupied_node(new) {
            self.leave_networks(old);
            self.join_networks(new);
        }
        if moved {
            self.release_addresses(old);
            self.take_addresses(new)?;
        }
        Ok(())
    }

    fn add_task(&mut self, task: &Task) -> Result<(), ApplyError> {
        self.by_slot.insert((task.service_id, task.slot, task.id));
        self.link_node(task);
        self.enter_queue(task);
        self.occupy(task);
        self.remember_failure(task);
        self.join_networks(task);
        self.take_addresses(task)
    }

    fn remove_task(&mut self, task: &Task) {
        self.by_slot.remove(&(task.service_id, task.slot, task.id));
        self.unlink_node(task);
        self.leave_queue(task);
        self.vacate(task);
        self.forget_failure(task);
        self.leave_networks(task);
        self.release_addresses(task);
    }

    fn link_node(&mut self, task: &Task) {
        if let Some(node) = task.node_id {
            self.by_node.insert((node, task.service_id, task.id));
        }
    }

    fn unlink_node(&mut self, task: &Task) {
        if let Some(node) = task.node_id {
            self.by_node.remove(&(node, task.service_id, task.id));
        }
    }

    fn enter_queue(&mut self, task: &Task) {
        match queue(task) {
            Some(true) => self.unallocated.insert((task.service_id, task.id)).map(|_| ()),
            Some(false) => self.unassigned.insert((task.service_id, task.spec_version, task.id)).map(|_| ()),
            None => None,
        };
    }

    fn leave_queue(&mut self, task: &Task) {
        match queue(task) {
            Some(true) => self.unallocated.remove(&(task.service_id, task.id)).map(|_| ()),
            Some(false) => self.unassigned.remove(&(task.service_id, task.spec_version, task.id)).map(|_| ()),
            None => None,
        };
    }

    fn occupy(&mut self, task: &Task) {
        let Some(node) = occupied_node(task) else { return };
        Arc::make_mut(self.usage.entry(node).or_default()).add(task, is_active(task));
        if is_active(task) {
            self.placement.entry((task.service_id, node)).or_default().active += 1;
        }
    }

    fn vacate(&mut self, task: &Task) {
        let Some(node) = occupied_node(task) else { return };
        if let Some(usage) = self.usage.get_mut(&node) {
            let usage = Arc::make_mut(usage);
            usage.remove(task, is_active(task));
            if usage.tasks == 0 {
                self.usage.remove(&node);
            }
        }
        if is_active(task) {
            self.change_placement(task.service_id, node, |count| count.active -= 1);
        }
    }

    fn change_placement(&mut self, service: ServiceId, node: NodeId, change: impl FnOnce(&mut PlacementCount)) {
        if let Some(count) = self.placement.get_mut(&(service, node)) {
            change(count);
            if *count == PlacementCount::default() {
                self.placement.remove(&(service, node));
            }
        }
    }

    fn remember_failure(&mut self, task: &Task) {
        if let Some(node) = failed_on(task) {
            let count = self.placement.entry((task.service_id, node)).or_default();
            let failure = (task.ended_at, task.spec_version, task.id);
            let at = count.failures.partition_point(|known| *known < failure);
            count.failures.insert(at, failure);
        }
    }

    fn forget_failure(&mut self, task: &Task) {
        if let Some(node) = failed_on(task) {
            self.change_placement(task.service_id, node, |count| count.failures.retain(|(_, _, id)| *id != task.id));
        }
    }

    fn join_networks(&mut self, task: &Task) {
        if task.status.state.is_terminal() {
            return;
        }
        for attachment in &task.networks {
            self.network_tasks.insert((attachment.network, task.id));
            if let Some(node) = occupied_node(task) {
                self.join_network(attachment.network, node);
            }
        }
    }

    fn join_network(&mut self, network: NetworkId, node: NodeId) {
        *self.network_nodes.entry((network, node)).or_insert(0) += 1;
    }

    fn leave_network(&mut self, network: NetworkId, node: NodeId) {
        if let Some(count) = self.network_nodes.get_mut(&(network, node)) {
            *count -= 1;
            if *count == 0 {
                self.network_nodes.remove(&(network, node));
            }
        }
    }

    fn leave_networks(&mut self, task: &Task) {
        if task.status.state.is_terminal() {
            return;
        }
        for attachment in &task.networks {
            self.network_tasks.remove(&(attachment.network, task.id));
            if let Some(node) = occupied_node(task) {
                self.leave_network(attachment.network, node);
            }
        }
    }

    fn take_addresses(&mut self, task: &Task) -> Result<(), ApplyError> {
        if task.status.state.is_terminal() {
            return Ok(());
        }
        for attachment in &task.networks {
            if let Some(addr) = attachment.addr {
                self.take_address(attachment.network, addr.addr(), true)?;
            }
        }
        Ok(())
    }

    fn release_addresses(&mut self, task: &Task) {
        if task.status.state.is_terminal() {
            return;
        }
        for attachment in &task.networks {
            if let Some(addr) = attachment.addr {
                self.release_address(attachment.network, addr.addr());
            }
        }
    }

    /// Takes an address; one that was handed out just now moves the search on.
    fn take_address(&mut self, network: NetworkId, addr: Ipv4Addr, fresh: bool) -> Result<(), ApplyError> {
        let space = self.spaces.entry(network).or_default();
        if !space.take(addr) {
            return Err(ApplyError::AddressTaken { network, addr });
        }
        if fresh {
            space.cursor = addr.into();
        }
        Ok(())
    }

    fn release_address(&mut self, network: NetworkId, addr: Ipv4Addr) {
        if let Some(space) = self.spaces.get_mut(&network) {
            space.release(addr);
        }
    }

    /// Follows a service.
    pub(super) fn service_changed(
        &mut self,
        before: Option<&Service>,
        after: Option<&Service>,
    ) -> Result<(), ApplyError> {
        if let Some(old) = before {
            self.remove_service(old);
        }
        after.map_or(Ok(()), |new| self.add_service(before, new))
    }

    fn add_service(&mut self, before: Option<&Service>, service: &Service) -> Result<(), ApplyError> {
        let id = service.id;
        let known = before.map(|service| &service.endpoint);
        let name: Arc<str> = match self.shared_names.get(&id) {
            Some(name) if **name == *service.spec.name => Arc::clone(name),
            _ => Arc::from(service.spec.name.as_str()),
        };
        self.shared_names.insert(id, Arc::clone(&name));
        if !service.pending_delete {
            take_name(&mut self.service_names, &name, id, "service")?;
            for (protocol, port) in wanted_ports(service) {
                if let Some(owner) = self.ports.insert((protocol, port), id)
                    && owner != id
                {
                    return Err(ApplyError::PortTaken { protocol, port, service: owner });
                }
                let fresh = !known.is_some_and(|known| known.ports.iter().any(|old| old.published == port));
                if fresh && crate::reconcile::AUTOMATIC_PORTS.contains(&port) {
                    self.port_cursor = port;
                }
            }
            for secret in &service.spec.task.container.secrets {
                self.secret_users.insert((secret.id, id));
            }
            for config in &service.spec.task.container.configs {
                self.config_users.insert((config.id, id));
            }
        }
        if may_be_incomplete(service) {
            self.incomplete.insert(id);
        }
        for network in networks_of(service) {
            self.network_services.insert((network, id));
        }
        for vip in &service.endpoint.virtual_ips {
            let fresh = !known.is_some_and(|known| known.virtual_ips.contains(vip));
            self.take_address(vip.network, vip.addr, fresh)?;
        }
        Ok(())
    }

    fn remove_service(&mut self, service: &Service) {
        let id = service.id;
        self.shared_names.remove(&id);
        self.incomplete.remove(&id);
        if !service.pending_delete {
            self.service_names.remove(service.spec.name.as_str());
            for key in wanted_ports(service) {
                self.ports.remove(&key);
            }
            for secret in &service.spec.task.container.secrets {
                self.secret_users.remove(&(secret.id, id));
            }
            for config in &service.spec.task.container.configs {
                self.config_users.remove(&(config.id, id));
            }
        }
        for network in networks_of(service) {
            self.network_services.remove(&(network, id));
        }
        for vip in &service.endpoint.virtual_ips {
            self.release_address(vip.network, vip.addr);
        }
    }

    /// Follows an attachment. Of its address is handed out what it was handed out before: only fresh ones move the search on.
    pub(super) fn attachment_changed(
        &mut self,
        before: Option<&Attachment>,
        after: Option<&Attachment>,
    ) -> Result<(), ApplyError> {
        if let Some(old) = before {
            self.node_attachments.remove(&(old.node_id, old.id));
            self.network_attachments.remove(&(old.network, old.id));
            self.leave_network(old.network, old.node_id);
            self.release_address(old.network, old.addr.addr());
        }
        let Some(new) = after else { return Ok(()) };
        self.node_attachments.insert((new.node_id, new.id));
        self.network_attachments.insert((new.network, new.id));
        self.join_network(new.network, new.node_id);
        self.take_address(new.network, new.addr.addr(), before.is_none())
    }

    /// Follows a node.
    pub(super) fn node_changed(&mut self, before: Option<&Node>, after: Option<&Node>) -> Result<(), ApplyError> {
        let (old, new) = (before.and_then(|node| node.ingress_address), after.and_then(|node| node.ingress_address));
        let Some(ingress) = self.ingress.filter(|_| old != new) else { return Ok(()) };
        if let Some(addr) = old {
            self.release_address(ingress, addr);
        }
        new.map_or(Ok(()), |addr| self.take_address(ingress, addr, true))
    }

    /// Follows a network.
    pub(super) fn network_changed(
        &mut self,
        before: Option<&Network>,
        after: Option<&Network>,
    ) -> Result<(), ApplyError> {
        if let Some(old) = before {
            if !old.pending_delete {
                self.network_names.remove(old.spec.name.as_str());
            }
            if old.spec.ingress {
                self.ingress = None;
            }
            if let Some(allocation) = &old.allocation {
                self.vnis.remove(&allocation.vni);
                for addr in reserved_addresses(old) {
                    self.release_address(old.id, addr);
                }
            }
        }
        let Some(new) = after else {
            if let Some(old) = before {
                self.spaces.remove(&old.id);
            }
            return Ok(());
        };
        if !new.pending_delete {
            take_name(&mut self.network_names, &Arc::from(new.spec.name.as_str()), new.id, "network")?;
        }
        if new.spec.ingress {
            self.ingress = Some(new.id);
        }
        if let Some(allocation) = &new.allocation {
            if self.vnis.insert(allocation.vni, new.id).is_some() {
                return Err(ApplyError::VniTaken { vni: allocation.vni });
            }
            if before.is_none_or(|old| old.allocation.is_none()) {
                self.vni_cursor = allocation.vni;
                if new.spec.ipam.iter().all(|ipam| ipam.subnet.is_none()) {
                    self.subnet_cursor = allocation.subnet.network().into();
                }
            }
            let space = self.spaces.entry(new.id).or_default();
            for addr in reserved_addresses(new) {
                space.take(addr);
            }
        }
        Ok(())
    }

    /// Follows a secret.
    pub(super) fn secret_changed(&mut self, before: Option<&Secret>, after: Option<&Secret>) -> Result<(), ApplyError> {
        if let Some(old) = before {
            self.secret_names.remove(old.spec.name.as_str());
        }
        let Some(new) = after else { return Ok(()) };
        take_name(&mut self.secret_names, &Arc::from(new.spec.name.as_str()), new.id, "secret")
    }

    /// Follows a config.
    pub(super) fn config_changed(&mut self, before: Option<&Config>, after: Option<&Config>) -> Result<(), ApplyError> {
        if let Some(old) = before {
            self.config_names.remove(old.spec.name.as_str());
        }
        let Some(new) = after else { return Ok(()) };
        take_name(&mut self.config_names, &Arc::from(new.spec.name.as_str()), new.id, "config")
    }
}

fn take_name<Id: Copy>(names: &mut Names<Id>, name: &Arc<str>, id: Id, kind: &str) -> Result<(), ApplyError> {
    if names.contains_key(name) {
        return Err(ApplyError::NameTaken { kind: kind.to_owned(), name: name.to_string() });
    }
    names.insert(Arc::clone(name), id);
    Ok(())
}

/// The routing-mesh ports that a service has, or is about to get because its spec names them.
fn wanted_ports(service: &Service) -> impl Iterator<Item = (Protocol, u16)> + '_ {
    ingress_ports(&service.endpoint.ports).chain(ingress_ports(&service.spec.endpoint.ports))
}

/// May the endpoint lack something? True also for services on networks that give no addresses.
fn may_be_incomplete(service: &Service) -> bool {
    let wanted = &service.spec.endpoint;
    let on_mesh = wanted.ports.iter().any(|port| port.mode == PublishMode::Ingress);
    let networks = service.spec.task.networks.len() + usize::from(on_mesh);
    let addresses = if wanted.mode == EndpointMode::Vip { networks } else { 0 };
    !service.pending_delete
        && (service.endpoint.virtual_ips.len() < addresses || service.endpoint.ports.len() != wanted.ports.len())
}

/// The networks that a service asks for or has an address on.
fn networks_of(service: &Service) -> impl Iterator<Item = NetworkId> + '_ {
    let wanted = service.spec.task.networks.iter().map(|attachment| attachment.target);
    wanted.chain(service.endpoint.virtual_ips.iter().map(|vip| vip.network))
}

/// Addresses of a network that nobody gets: its own, the broadcast address, the gateway, what the user set aside.
fn reserved_addresses(network: &Network) -> Vec<Ipv4Addr> {
    let Some(allocation) = &network.allocation else { return Vec::new() };
    let mut reserved = vec![allocation.subnet.network(), allocation.subnet.broadcast(), allocation.gateway];
    reserved.extend(network.spec.ipam.iter().flat_map(|ipam| ipam.reserved.values().copied()));
    reserved.sort_unstable();
    reserved.dedup();
    reserved
}
