//! What must be done so that the kernel's tables of cluster networks are as the store says. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use shoal_engine_sys::netlink::link::Mac;
use shoal_proto::id::NetworkId;

use crate::network::addresses::mac_of;
use crate::network::types::{ClusterNetwork, ClusterNetworkState};

/// What the VXLAN device of a network is made of. A change of any part needs a new device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's underlay address.
    pub local: IpAddr,
    /// Largest packet of the network.
    pub mtu: u32,
}

/// A network as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Its device.
    pub device: Device,
    /// Remote endpoints: address and node.
    pub endpoints: BTreeMap<Ipv4Addr, IpAddr>,
}

/// A network as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Its device; `None` when it is missing.
    pub device: Option<Device>,
    /// Forwarding entries.
    pub forwarding: BTreeSet<(Mac, IpAddr)>,
    /// Neighbour entries.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
}

/// One step. The steps of a plan are carried out in order; a step that fails does not stop the others, and the kernel
/// is looked at again before the next plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Take the whole network down.
    RemoveNetwork(NetworkId),
    /// Remove a device that is not as it should be, and its tables with it.
    RemoveDevice(NetworkId),
    /// Stop sending frames for this hardware address to this node.
    RemoveForwarding(NetworkId, Mac, IpAddr),
    /// Forget where an address is.
    RemoveNeighbour(NetworkId, Ipv4Addr),
    /// Make namespace and bridge.
    CreateNetwork(NetworkId, Device),
    /// Make the device.
    CreateDevice(NetworkId, Device),
    /// Send frames for this hardware address to this node, and to no other.
    PutForwarding(NetworkId, Mac, IpAddr),
    /// Answer requests for this address with this hardware address.
    PutNeighbour(NetworkId, Ipv4Addr, Mac),
}

impl Desired {
    /// What the kernel has when all is well.
    pub fn as_observed(&self) -> Observed {
        Observed {
            device: Some(self.device),
            forwarding: self.endpoints.iter().map(|(addr, node)| (mac_of(*addr), *node)).collect(),
            neighbours: self.endpoints.keys().map(|addr| (*addr, mac_of(*addr))).collect(),
        }
    }
}

impl Action {
    /// The network that it is for.
    pub fn network(&self) -> NetworkId {
        match self {
            Self::RemoveNetwork(id)
            | Self::RemoveDevice(id)
            | Self::RemoveForwarding(id, ..)
            | Self::RemoveNeighbour(id, ..)
            | Self::CreateNetwork(id, ..)
            | Self::CreateDevice(id, ..)
            | Self::PutForwarding(id, ..)
            | Self::PutNeighbour(id, ..) => *id,
        }
    }
}

/// What a network should be on this node.
pub fn desired(state: &ClusterNetworkState, network: &ClusterNetwork, underlay_mtu: u32) -> Desired {
    let record = &network.record;
    let mtu = if record.mtu == 0 { underlay_mtu.saturating_sub(overhead(state.data_path_addr)) } else { record.mtu };
    let device =
        Device { vni: record.vni, port: state.data_path_port, local: state.data_path_addr, mtu: mtu.max(MIN_MTU) };
    let remote = |endpoint: &&shoal_proto::assignment::EndpointRecord| endpoint.node != state.node_id;
    let endpoints = network
        .endpoints
        .values()
        .filter(remote)
        .filter_map(|endpoint| Some((endpoint.addr, endpoint.node_addr?)))
        .collect();
    Desired { device, endpoints }
}

const MIN_MTU: u32 = 68;

/// Bytes that VXLAN adds: inner Ethernet 14, VXLAN 8, UDP 8, IP 20 or 40.
const fn overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { 50 } else { 70 }
}

/// The steps from what is to what should be: removals first. A network that is observed but not desired is removed
/// unless a sandbox still uses it.
pub fn plan(
    desired: &BTreeMap<NetworkId, Desired>,
    observed: &BTreeMap<NetworkId, Observed>,
    in_use: &BTreeSet<NetworkId>,
) -> Vec<Action> {
    let (mut removals, mut additions) = (Vec::new(), Vec::new());
    for id in observed.keys() {
        if !desired.contains_key(id) && !in_use.contains(id) {
            removals.push(Action::RemoveNetwork(*id));
        }
    }
    let nothing = Observed::default();
    for (id, wanted) in desired {
        let mut have = observed.get(id).unwrap_or_else(|| {
            additions.push(Action::CreateNetwork(*id, wanted.device));
            &nothing
        });
        if have.device != Some(wanted.device) {
            if have.device.is_some() {
                removals.push(Action::RemoveDevice(*id));
                have = &nothing;
            }
            additions.push(Action::CreateDevice(*id, wanted.device));
        }
        tables(*id, wanted, have, &mut removals, &mut additions);
    }
    removals.append(&mut additions);
    removals
}

fn tables(id: NetworkId, wanted: &Desired, have: &Observed, removals: &mut Vec<Action>, additions: &mut Vec<Action>) {
    let forwarding: BTreeMap<Mac, IpAddr> =
        wanted.endpoints.iter().map(|(addr, node)| (mac_of(*addr), *node)).collect();
    for (mac, node) in &have.forwarding {
        if forwarding.get(mac) != Some(node) {
            removals.push(Action::RemoveForwarding(id, *mac, *node));
        }
    }
    for addr in have.neighbours.keys() {
        // A wrong hardware address is replaced by the addition below.
        if !wanted.endpoints.contains_key(addr) {
            removals.push(Action::RemoveNeighbour(id, *addr));
        }
    }
    for (mac, node) in &forwarding {
        if !have.forwarding.contains(&(*mac, *node)) {
            additions.push(Action::PutForwarding(id, *mac, *node));
        }
    }
    for addr in wanted.endpoints.keys() {
        if have.neighbours.get(addr) != Some(&mac_of(*addr)) {
            additions.push(Action::PutNeighbour(id, *addr, mac_of(*addr)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Networks = BTreeMap<NetworkId, Observed>;

    fn device(vni: u32) -> Device {
        Device { vni, port: 4789, local: IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1)), mtu: 1450 }
    }

    /// The kernel's part, as far as the tables go.
    fn carry_out(networks: &mut Networks, action: Action) {
        let get = |networks: &mut Networks, id| networks.get_mut(&id).map(std::mem::take).unwrap_or_default();
        match action {
            Action::RemoveNetwork(id) => {
                networks.remove(&id);
            }
            Action::RemoveDevice(id) => {
                networks.insert(id, Observed::default());
            }
            Action::CreateNetwork(id, _) => assert!(networks.insert(id, Observed::default()).is_none(), "made twice"),
            Action::CreateDevice(id, device) => {
                let mut network = get(networks, id);
                assert_eq!(network.device, None, "device exists");
                network.device = Some(device);
                networks.insert(id, network);
            }
            Action::RemoveForwarding(id, mac, node) => {
                let mut network = get(networks, id);
                assert!(network.forwarding.remove(&(mac, node)), "no such entry");
                networks.insert(id, network);
            }
            Action::RemoveNeighbour(id, addr) => {
                let mut network = get(networks, id);
                assert!(network.neighbours.remove(&addr).is_some(), "no such neighbour");
                networks.insert(id, network);
            }
            Action::PutForwarding(id, mac, node) => {
                let mut network = get(networks, id);
                assert!(network.device.is_some(), "an entry without a device");
                network.forwarding.insert((mac, node));
                networks.insert(id, network);
            }
            Action::PutNeighbour(id, addr, mac) => {
                let mut network = get(networks, id);
                assert!(network.device.is_some(), "a neighbour without a device");
                network.neighbours.insert(addr, mac);
                networks.insert(id, network);
            }
        }
    }

    fn node(n: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 168, 0, n))
    }

    fn addr(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 1, n)
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let wanted = Desired { device: device(4097), endpoints: [(addr(5), node(2))].into() };
        let id = NetworkId::from_bits(1);
        let observed = [(id, wanted.as_observed())].into();
        assert_eq!(plan(&[(id, wanted)].into(), &observed, &BTreeSet::new()), []);
    }

    #[test]
    fn an_endpoint_that_moved_leaves_no_trace_at_its_old_node() {
        let (id, moved) = (NetworkId::from_bits(1), addr(5));
        let before = Desired { device: device(4097), endpoints: [(moved, node(2))].into() };
        let after = Desired { device: device(4097), endpoints: [(moved, node(3))].into() };
        let actions = plan(&[(id, after)].into(), &[(id, before.as_observed())].into(), &BTreeSet::new());
        let mac = mac_of(moved);
        assert_eq!(actions, [Action::RemoveForwarding(id, mac, node(2)), Action::PutForwarding(id, mac, node(3))]);
    }

    #[test]
    fn a_network_in_use_outlives_its_record() {
        let id = NetworkId::from_bits(1);
        let observed = [(id, Observed::default())].into();
        assert_eq!(plan(&BTreeMap::new(), &observed, &[id].into()), []);
        assert_eq!(plan(&BTreeMap::new(), &observed, &BTreeSet::new()), [Action::RemoveNetwork(id)]);
    }

    fn some_desired() -> impl Strategy<Value = BTreeMap<NetworkId, Desired>> {
        let endpoints = prop::collection::btree_map(2u8..20, 1u8..6, 0..12);
        prop::collection::btree_map(1u128..5, (4096u32..4099, endpoints), 0..4).prop_map(|networks| {
            let desired = |(vni, endpoints): (u32, BTreeMap<u8, u8>)| Desired {
                device: device(vni),
                endpoints: endpoints.into_iter().map(|(a, n)| (addr(a), node(n))).collect(),
            };
            networks.into_iter().map(|(id, network)| (NetworkId::from_bits(id), desired(network))).collect()
        })
    }

    /// VNI, forwarding entries, neighbours.
    type Tables = (Option<u32>, BTreeSet<(u8, u8)>, BTreeMap<u8, u8>);

    fn some_observed() -> impl Strategy<Value = Networks> {
        let forwarding = prop::collection::btree_set((2u8..20, 1u8..6), 0..12);
        let neighbours = prop::collection::btree_map(2u8..20, 2u8..20, 0..12);
        let network = (prop::option::of(4096u32..4099), forwarding, neighbours);
        prop::collection::btree_map(1u128..6, network, 0..5).prop_map(|networks| {
            let observed = |(vni, forwarding, neighbours): Tables| match vni {
                None => Observed::default(),
                Some(vni) => Observed {
                    device: Some(device(vni)),
                    forwarding: forwarding.into_iter().map(|(a, n)| (mac_of(addr(a)), node(n))).collect(),
                    neighbours: neighbours.into_iter().map(|(a, m)| (addr(a), mac_of(addr(m)))).collect(),
                },
            };
            networks.into_iter().map(|(id, network)| (NetworkId::from_bits(id), observed(network))).collect()
        })
    }

    proptest! {
        #[test]
        fn from_anything_the_plan_leads_to_what_is_wanted(wanted in some_desired(), start in some_observed()) {
            let mut networks = start;
            for action in plan(&wanted, &networks, &BTreeSet::new()) {
                carry_out(&mut networks, action);
            }
            let expected: Networks = wanted.iter().map(|(id, network)| (*id, network.as_observed())).collect();
            prop_assert_eq!(&networks, &expected);
            prop_assert_eq!(plan(&wanted, &networks, &BTreeSet::new()), []);
        }

        #[test]
        fn after_any_part_of_a_plan_the_next_plan_still_leads_there(
            wanted in some_desired(), start in some_observed(), cut in 0usize..40,
        ) {
            let mut networks = start;
            for action in plan(&wanted, &networks, &BTreeSet::new()).into_iter().take(cut) {
                carry_out(&mut networks, action);
            }
            for action in plan(&wanted, &networks, &BTreeSet::new()) {
                carry_out(&mut networks, action);
            }
            let expected: Networks = wanted.iter().map(|(id, network)| (*id, network.as_observed())).collect();
            prop_assert_eq!(networks, expected);
        }

        #[test]
        fn removals_go_first(wanted in some_desired(), start in some_observed()) {
            let actions = plan(&wanted, &start, &BTreeSet::new());
            let removal = |action: &Action| matches!(action, Action::RemoveNetwork(_) | Action::RemoveDevice(_)
                | Action::RemoveForwarding(..) | Action::RemoveNeighbour(..));
            let first_addition = actions.iter().position(|action| !removal(action)).unwrap_or(actions.len());
            prop_assert!(actions[first_addition..].iter().all(|action| !removal(action)));
        }
    }
}
