//! Hands out what must be unique: subnets, VXLAN identifiers, virtual addresses, published ports, task addresses.
//!
//! ## Design notes
//! There is no allocation state beside the objects: what is in use is derived from them by the store, which also
//! refuses a double use. So nothing can leak, and a new leader knows everything. Searches go round-robin, so that
//! what was given back rests for as long as possible: stale caches of it elsewhere die first. The address of a task is
//! given back when its end was reported (or its node is known to be gone), never when it was only told to stop.

mod network;
mod service;
mod task;

use std::net::Ipv4Addr;

use shoal_proto::object::Network;
use shoal_proto::spec::{PortConfig, PublishMode};

use crate::store::Store;

pub(crate) use network::{allocate_networks, allocate_nodes, find_subnet, overlapping};
pub(crate) use service::{allocate_service, incomplete_reason};
pub(crate) use task::{allocate_tasks, first_status};

/// The first VXLAN identifier, as in Swarm.
pub(crate) const FIRST_VNI: u32 = 4_096;
/// The last one: they have 24 bits.
pub(crate) const LAST_VNI: u32 = (1 << 24) - 1;

/// Does the allocator care for the network, or is it one of those that every node has by itself?
pub(crate) fn is_managed(network: &Network) -> bool {
    !network.predefined && network.spec.driver == "overlay"
}

/// Is one of the ports on the routing mesh?
pub(crate) fn uses_ingress(ports: &[PortConfig]) -> bool {
    ports.iter().any(|port| port.mode == PublishMode::Ingress)
}

/// The first and last address that may be handed out on a network.
fn usable_range(network: &Network) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let subnet = network.allocation.as_ref()?.subnet;
    let (mut first, mut last) = (u32::from(subnet.network()) + 1, u32::from(subnet.broadcast()).saturating_sub(1));
    if let Some(range) = network.spec.ipam.iter().find_map(|ipam| ipam.range) {
        first = first.max(range.network().into());
        last = last.min(range.broadcast().into());
    }
    Some((first.into(), last.into()))
}

/// An address of a network that is free in both stores (as it is, and as it is being changed), or why there is none.
pub(crate) fn free_address(base: &Store, store: &Store, network: &Network) -> Result<Ipv4Addr, String> {
    let name = &network.spec.name;
    let Some((first, last)) = usable_range(network) else {
        return Err(format!("network {name} has no subnet: none is left in the address pools"));
    };
    let free = match store.addresses(network.id) {
        Some(space) => space.next_free(base.addresses(network.id), first, last),
        None => Some(first),
    };
    free.ok_or_else(|| {
        let subnet = network.allocation.as_ref().map(|allocation| allocation.subnet.to_string()).unwrap_or_default();
        format!("network {name} has no free address left in {subnet}")
    })
}
