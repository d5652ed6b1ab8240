//! Subnets and VXLAN identifiers of networks, and the addresses of nodes on the routing mesh.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use shoal_proto::id::{NetworkId, NodeId};
use shoal_proto::object::{Network, NetworkAllocation};
use shoal_proto::spec::AddressPools;

use super::{FIRST_VNI, LAST_VNI, free_address, is_managed};
use crate::change::{Change, Expect, NodePatch};
use crate::draft::Draft;
use crate::store::Store;

/// Gives a subnet and an identifier to each of these networks that has none.
pub(crate) fn allocate_networks(draft: &mut Draft<'_>, networks: &[NetworkId]) {
    for id in networks {
        let Some(network) = draft.store.network(*id).cloned() else { continue };
        if network.allocation.is_some() || network.pending_delete || !is_managed(&network) {
            continue;
        }
        match allocate(&draft.store, &network) {
            Ok(allocation) => {
                let mut allocated = Network::clone(&network);
                allocated.allocation = Some(allocation);
                draft.push(Change::update(allocated));
            }
            Err(reason) => draft.wait(None, None, reason),
        }
    }
}

fn allocate(store: &Store, network: &Network) -> Result<NetworkAllocation, String> {
    let wanted = network.spec.ipam.iter().find_map(|ipam| ipam.subnet);
    let subnet = match wanted {
        Some(subnet) => match overlapping(store, subnet.trunc(), Some(network.id)) {
            None => subnet.trunc(),
            Some(other) => {
                return Err(format!("network {}: subnet {subnet} overlaps with network {other}", network.spec.name));
            }
        },
        None => find_subnet(store).map_err(|reason| format!("network {}: {reason}", network.spec.name))?,
    };
    let gateway = network.spec.ipam.iter().find_map(|ipam| ipam.gateway);
    let gateway = gateway.unwrap_or_else(|| (u32::from(subnet.network()) + 1).into());
    let vni = find_vni(store).ok_or("all VXLAN identifiers are in use")?;
    Ok(NetworkAllocation { subnet, gateway, vni })
}

/// Name of a network (but for `except`) whose subnet overlaps with this one.
pub(crate) fn overlapping(store: &Store, subnet: Ipv4Net, except: Option<NetworkId>) -> Option<String> {
    let overlaps = |other: &Network| {
        let taken = other.allocation.as_ref().map(|allocation| allocation.subnet);
        let asked = other.spec.ipam.iter().filter_map(|ipam| ipam.subnet);
        taken
            .into_iter()
            .chain(asked)
            .any(|other| other.network() <= subnet.broadcast() && subnet.network() <= other.broadcast())
    };
    store.networks().find(|other| Some(other.id) != except && overlaps(other)).map(|other| other.spec.name.clone())
}

/// The next free subnet of the cluster's pools, searched round-robin from the last one handed out.
pub(crate) fn find_subnet(store: &Store) -> Result<Ipv4Net, String> {
    let pools = store.cluster().map_or_else(AddressPools::default, |cluster| cluster.pools.clone());
    let taken: BTreeMap<u32, u32> = store
        .networks()
        .filter_map(|network| network.allocation.as_ref())
        .map(|allocation| (allocation.subnet.network().into(), allocation.subnet.broadcast().into()))
        .collect();
    let mut asked: Vec<(u32, u32)> = store
        .networks()
        .filter(|network| network.allocation.is_none())
        .flat_map(|network| network.spec.ipam.iter().filter_map(|ipam| ipam.subnet))
        .map(|subnet| (subnet.network().into(), subnet.broadcast().into()))
        .collect();
    asked.sort_unstable();
    let size = u64::from(1u32.checked_shl(32 - u32::from(pools.subnet_size.clamp(1, 30))).unwrap_or(u32::MAX));
    let cursor = u64::from(store.subnet_cursor());
    // Behind the cursor first, then from the beginning.
    for round in 0..2 {
        for pool in &pools.pools {
            let (first, last) = (u64::from(u32::from(pool.network())), u64::from(u32::from(pool.broadcast())));
            let mut start = first;
            if round == 0 && cursor != 0 {
                if last <= cursor {
                    continue;
                }
                if cursor >= first {
                    start = cursor + size - (cursor - first) % size;
                }
            }
            if let Some(found) = first_gap(start, last, size, &taken, &asked) {
                let subnet = Ipv4Net::new(found.into(), pools.subnet_size.clamp(1, 30));
                return subnet.map_err(|error| error.to_string());
            }
        }
    }
    let list: Vec<String> = pools.pools.iter().map(ToString::to_string).collect();
    Err(format!("no free subnet of size /{} is left in the address pools ({})", pools.subnet_size, list.join(", ")))
}

fn first_gap(first: u64, last: u64, size: u64, taken: &BTreeMap<u32, u32>, asked: &[(u32, u32)]) -> Option<u32> {
    let mut start = first;
    while start + size - 1 <= last {
        let end = start + size - 1;
        // Subnets do not overlap each other, so the one that begins last before `end` reaches furthest.
        let upper = u32::try_from(end).ok()?;
        let blocker = taken.range(..=upper).next_back().map(|(_, end)| u64::from(*end)).filter(|end| *end >= start);
        let blocker = blocker.or_else(|| {
            let hit = asked.iter().find(|(from, to)| u64::from(*from) <= end && u64::from(*to) >= start);
            hit.map(|(_, to)| u64::from(*to))
        });
        match blocker {
            None => return u32::try_from(start).ok(),
            Some(until) => start += ((until - start) / size + 1) * size,
        }
    }
    None
}

fn find_vni(store: &Store) -> Option<u32> {
    let start = store.vni_cursor().saturating_add(1).max(FIRST_VNI);
    (start..=LAST_VNI).chain(FIRST_VNI..start.min(LAST_VNI + 1)).find(|vni| store.vni_owner(*vni).is_none())
}

/// Gives nodes an address on the routing mesh as soon as some service needs it, and takes it away with the mesh.
pub(crate) fn allocate_nodes(draft: &mut Draft<'_>, nodes: &[NodeId]) {
    let ingress = draft.store.ingress_network().filter(|network| !network.pending_delete).cloned();
    let wanted = ingress.filter(|network| network.allocation.is_some() && draft.store.has_published_ports());
    let leaving = draft.store.ingress_network().is_none_or(|network| network.pending_delete);
    for id in nodes {
        let Some(node) = draft.store.node(*id) else { continue };
        let change = match (&wanted, node.ingress_address) {
            (Some(network), None) => match free_address(draft.base(), &draft.store, network) {
                Ok(addr) => Some(addr),
                Err(reason) => {
                    draft.wait(None, None, format!("node {id} is not on the routing mesh: {reason}"));
                    return;
                }
            },
            (None, Some(_)) if leaving => None,
            _ => continue,
        };
        let patch = NodePatch { ingress_address: Some(change), ..NodePatch::default() };
        draft.push(Change::Node { id: *id, patch: Box::new(patch), expect: Expect::Any });
    }
}
