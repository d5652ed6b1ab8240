//! Addresses: subnets for networks, addresses for endpoints. Pure: what is in use is an argument.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use shoal_engine_sys::netlink::link::Mac;
use shoal_proto::error::{ErrorKind, Failure};

use super::types::AddressPool;

/// Docker's own pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in pieces of /20.
pub(super) fn default_pools() -> Vec<AddressPool> {
    let net = |a, b, length| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), length);
    let mut pools = vec![AddressPool { base: net(172, 17, 16), size: 16 }];
    pools.push(AddressPool { base: net(172, 18, 15), size: 16 });
    pools.push(AddressPool { base: net(172, 20, 14), size: 16 });
    pools.push(AddressPool { base: net(172, 24, 13), size: 16 });
    pools.push(AddressPool { base: net(192, 168, 16), size: 20 });
    pools
}

/// Do two subnets have an address in common?
pub(super) fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first subnet of the pools that overlaps with none in use.
///
/// # Errors
/// As dockerd's, when all are taken.
pub(super) fn pick_subnet(pools: &[AddressPool], used: &[Ipv4Net]) -> Result<Ipv4Net, Failure> {
    let free = |candidate: &Ipv4Net| !used.iter().any(|other| overlap(candidate, other));
    for pool in pools {
        let size = pool.size.clamp(pool.base.prefix_len(), 30);
        if let Some(found) = pool.base.subnets(size).ok().and_then(|mut all| all.find(|candidate| free(candidate))) {
            return Ok(found);
        }
    }
    Err(Failure::new(
        ErrorKind::Internal,
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
    ))
}

/// The subnet's first host address, which the gateway gets by default.
pub(super) fn first_host(subnet: &Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// The lowest free address of `range` within `subnet`; never its network or broadcast address.
///
/// # Errors
/// When none is left.
pub(super) fn pick_address(subnet: &Ipv4Net, range: &Ipv4Net, used: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, Failure> {
    let (low, high) = hosts(subnet);
    let from = u32::from(range.network()).max(low);
    let to = u32::from(range.broadcast()).min(high);
    let mut candidate = from;
    for taken in used.range(Ipv4Addr::from(from)..).map(|addr| u32::from(*addr)) {
        if taken > candidate {
            break;
        }
        candidate = candidate.saturating_add(1);
    }
    if candidate <= to {
        Ok(Ipv4Addr::from(candidate))
    } else {
        Err(Failure::new(
            ErrorKind::Internal,
            format!("no available IPv4 addresses on this network's address pool {range}"),
        ))
    }
}

fn hosts(subnet: &Ipv4Net) -> (u32, u32) {
    let (low, high) = (u32::from(subnet.network()), u32::from(subnet.broadcast()));
    if subnet.prefix_len() >= 31 { (low, high) } else { (low + 1, high - 1) }
}

/// Is this an address that a host of the subnet may have?
pub(super) fn is_host(subnet: &Ipv4Net, addr: Ipv4Addr) -> bool {
    let (low, high) = hosts(subnet);
    (low..=high).contains(&u32::from(addr))
}

/// The hardware address that goes with an address: 02:42 and its bytes, as Docker makes it. An address that is handed
/// out again keeps its hardware address, so that no neighbour table is ever wrong.
pub(super) const fn mac_of(addr: Ipv4Addr) -> Mac {
    let [a, b, c, d] = addr.octets();
    [0x02, 0x42, a, b, c, d]
}

/// `02:42:ac:11:00:02`.
pub(super) fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads `02:42:ac:11:00:02`.
///
/// # Errors
/// When it is no unicast hardware address.
pub(crate) fn parse_mac(text: &str) -> Result<Mac, Failure> {
    let invalid = || Failure::invalid(format!("invalid MAC address: {text}"));
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten())
        .collect::<Option<_>>()
        .ok_or_else(invalid)?;
    let mac: Mac = bytes.try_into().map_err(|_| invalid())?;
    if mac[0] & 1 == 1 || mac == [0; 6] { Err(invalid()) } else { Ok(mac) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_taken_in_dockers_order() {
        let pools = default_pools();
        let mut used = Vec::new();
        for _ in 0..31 {
            used.push(pick_subnet(&pools, &used).unwrap());
        }
        assert_eq!(used[0], net("172.17.0.0/16"));
        assert_eq!(used[1], net("172.18.0.0/16"));
        assert_eq!(used[14], net("172.31.0.0/16"));
        assert_eq!(used[15], net("192.168.0.0/20"));
        assert_eq!(used[30], net("192.168.240.0/20"));
        assert!(pick_subnet(&pools, &used).unwrap_err().message.contains("non-overlapping"));
    }

    #[test]
    fn used_routes_are_avoided_whatever_their_size() {
        let used = [net("172.16.0.0/12"), net("192.168.3.0/24")];
        assert_eq!(pick_subnet(&default_pools(), &used).unwrap(), net("192.168.16.0/20"));
    }

    #[test]
    fn the_lowest_gap_is_filled() {
        let subnet = net("10.0.0.0/29");
        let mut used = BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.3")]);
        assert_eq!(pick_address(&subnet, &subnet, &used).unwrap(), ip("10.0.0.2"));
        used.insert(ip("10.0.0.2"));
        assert_eq!(pick_address(&subnet, &subnet, &used).unwrap(), ip("10.0.0.4"));
        let range = net("10.0.0.4/31");
        used.insert(ip("10.0.0.4"));
        used.insert(ip("10.0.0.5"));
        assert!(pick_address(&subnet, &range, &used).is_err());
    }

    #[test]
    fn hardware_addresses_are_read_and_written() {
        assert_eq!(format_mac(mac_of(ip("172.17.0.2"))), "02:42:ac:11:00:02");
        assert_eq!(parse_mac("02:42:AC:11:00:02").unwrap(), mac_of(ip("172.17.0.2")));
        for text in ["", "02:42", "02:42:ac:11:00:0g", "01:00:00:00:00:00", "00:00:00:00:00:00", "2:42:ac:11:00:02"] {
            assert!(parse_mac(text).is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn addresses_are_hosts_in_range_and_free(base in any::<u32>(), length in 16u8..31, taken in prop::collection::btree_set(0u32..600, 0..300)) {
            let subnet = Ipv4Net::new(Ipv4Addr::from(base), length).unwrap().trunc();
            let used: BTreeSet<_> = taken.iter().map(|n| Ipv4Addr::from(u32::from(subnet.network()).saturating_add(*n))).collect();
            if let Ok(addr) = pick_address(&subnet, &subnet, &used) {
                prop_assert!(is_host(&subnet, addr) && !used.contains(&addr));
            } else {
                let size = u32::from(subnet.broadcast()) - u32::from(subnet.network()) - 1;
                prop_assert!(used.iter().filter(|addr| is_host(&subnet, **addr)).count() as u32 == size);
            }
        }
    }
}
