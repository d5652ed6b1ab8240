//! Networks.

use std::net::Ipv4Addr;

use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::object::Network;
use shoal_proto::spec::{IpamConfig, NetworkSpec};

use super::{dns_name, size};
use crate::allocator;
use crate::store::Store;

/// Driver option for the MTU.
const MTU: &str = "com.docker.network.driver.mtu";

/// May a network be made of this spec?
///
/// # Errors
/// When it may not, with the reason. (That the name is free is checked where the change is made.)
pub fn network(spec: &NetworkSpec, store: &Store) -> Result<(), Failure> {
    dns_name(&spec.name)?;
    if spec.driver != "overlay" {
        let driver = &spec.driver;
        return Err(Failure::invalid(format!("invalid driver {driver:?}: only overlay networks span the cluster")));
    }
    if spec.ipv6 {
        return Err(Failure::new(ErrorKind::NotImplemented, "IPv6 is not offered on overlay networks"));
    }
    ingress(spec, store)?;
    options(spec)?;
    match spec.ipam.as_slice() {
        [] => {}
        [one] => ipam(one, store)?,
        _ => return Err(Failure::invalid("an overlay network has one IPv4 subnet: more than one was given")),
    }
    if spec.ipam.iter().all(|ipam| ipam.subnet.is_none()) {
        allocator::find_subnet(store).map_err(Failure::conflict)?;
    }
    size("network", spec)
}

fn ingress(spec: &NetworkSpec, store: &Store) -> Result<(), Failure> {
    if !spec.ingress {
        return Ok(());
    }
    if spec.attachable {
        return Err(Failure::invalid("the ingress network cannot be attachable"));
    }
    if spec.internal {
        return Err(Failure::invalid("the ingress network cannot be internal"));
    }
    match store.ingress_network() {
        Some(old) if old.pending_delete => Err(Failure::unavailable(
            "the removed ingress network is still in use by nodes: try again in a few seconds",
        )),
        Some(old) => Err(Failure::conflict(format!("ingress network ({}) is already present", old.id))),
        None => Ok(()),
    }
}

fn options(spec: &NetworkSpec) -> Result<(), Failure> {
    for (name, value) in &spec.driver_options {
        match name.as_str() {
            MTU => {
                let mtu = value.parse::<u32>().ok().filter(|mtu| *mtu == 0 || (576..=65_535).contains(mtu));
                if mtu.is_none() {
                    return Err(Failure::invalid(format!(
                        "invalid value {value:?} of {MTU}: 576 to 65535 are allowed"
                    )));
                }
            }
            // Whoever asks for encryption must not get a network without it.
            "encrypted" if value != "false" => {
                return Err(Failure::new(ErrorKind::NotImplemented, "encrypted overlay networks are not offered"));
            }
            "encrypted" => {}
            _ => {
                return Err(Failure::new(
                    ErrorKind::NotImplemented,
                    format!("driver option {name} is not offered on overlay networks: leave it out"),
                ));
            }
        }
    }
    Ok(())
}

fn ipam(ipam: &IpamConfig, store: &Store) -> Result<(), Failure> {
    let Some(subnet) = ipam.subnet else {
        if ipam.range.is_some() || ipam.gateway.is_some() || !ipam.reserved.is_empty() {
            return Err(Failure::invalid("a range, gateway or auxiliary address needs a subnet"));
        }
        return Ok(());
    };
    if !(8..=29).contains(&subnet.prefix_len()) {
        return Err(Failure::invalid(format!("invalid subnet {subnet}: a prefix length of 8 to 29 is needed")));
    }
    let first = subnet.network().octets()[0];
    if first == 0 || first == 127 || first >= 224 {
        return Err(Failure::invalid(format!("invalid subnet {subnet}: not a range of unicast addresses")));
    }
    if let Some(range) = ipam.range.filter(|range| !subnet.contains(range)) {
        return Err(Failure::invalid(format!("range {range} is not part of the subnet {subnet}")));
    }
    let usable = |addr: Ipv4Addr| subnet.contains(&addr) && addr != subnet.network() && addr != subnet.broadcast();
    if let Some(gateway) = ipam.gateway.filter(|gateway| !usable(*gateway)) {
        return Err(Failure::invalid(format!("gateway {gateway} is not an address of the subnet {subnet}")));
    }
    if let Some((name, addr)) = ipam.reserved.iter().find(|(_, addr)| !subnet.contains(*addr)) {
        return Err(Failure::invalid(format!("auxiliary address {name}={addr} is not in the subnet {subnet}")));
    }
    if let Some(other) = allocator::overlapping(store, subnet.trunc(), None) {
        return Err(Failure::conflict(format!(
            "invalid pool request: Pool overlaps with other one on this address space: {subnet} overlaps with network \
             {other}"
        )));
    }
    Ok(())
}

/// May the network be removed? What services that are being deleted still hold of it does not matter.
///
/// # Errors
/// When it may not, with the reason.
pub fn network_removal(network: &Network, store: &Store) -> Result<(), Failure> {
    let name = &network.spec.name;
    if network.predefined {
        return Err(Failure::invalid(format!("{name} is a pre-defined network and cannot be removed")));
    }
    if network.spec.ingress {
        let publishes = |ports| allocator::uses_ingress(ports);
        let user = store.services().find(|service| !service.pending_delete && publishes(&service.spec.endpoint.ports));
        return match user {
            Some(user) => Err(Failure::invalid(format!(
                "ingress network cannot be removed because service {} depends on it",
                user.spec.name
            ))),
            None => Ok(()),
        };
    }
    if let Some(attached) = store.attachments_on_network(network.id).next() {
        let hostname =
            store.node(attached.node_id).and_then(|node| node.description.as_ref()).map(|d| d.hostname.as_str());
        return Err(Failure::invalid(format!(
            "network {name} is in use by container {} on node {}",
            attached.name,
            hostname.unwrap_or_default()
        )));
    }
    match store.services_on_network(network.id).find(|service| !service.pending_delete) {
        Some(user) => Err(Failure::invalid(format!("network {name} is in use by service {}", user.spec.name))),
        None => Ok(()),
    }
}
