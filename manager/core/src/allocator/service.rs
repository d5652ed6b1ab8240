//! Virtual addresses and published ports of services.

use std::collections::BTreeSet;

use shoal_proto::id::{NetworkId, ServiceId};
use shoal_proto::object::{Endpoint, Network, Service, VirtualIp};
use shoal_proto::spec::{EndpointMode, PortConfig, Protocol, PublishMode};

use super::{free_address, is_managed, uses_ingress};
use crate::change::ServicePatch;
use crate::draft::Draft;
use crate::reconcile::AUTOMATIC_PORTS;
use crate::store::{Store, ingress_ports};

/// Brings a service's endpoint up to its spec, as far as there is room.
pub(crate) fn allocate_service(draft: &mut Draft<'_>, id: ServiceId) {
    let Some(service) = draft.store.service(id).cloned() else { return };
    if service.pending_delete {
        return;
    }
    let mut reasons = Vec::new();
    let ports = wanted_ports(draft, &service, &mut reasons);
    let kept = kept_addresses(&draft.store, &service);
    let mut endpoint = Endpoint { ports, virtual_ips: kept };
    if endpoint != service.endpoint {
        draft.patch_service(id, ServicePatch { endpoint: Some(endpoint.clone()), ..ServicePatch::default() });
    }
    let before = endpoint.virtual_ips.len();
    for network in wanted_networks(&draft.store, &service) {
        if endpoint.virtual_ips.iter().any(|vip| vip.network == network) {
            continue;
        }
        let Some(network) = draft.store.network(network) else { continue };
        match free_address(draft.base(), &draft.store, network) {
            Ok(addr) => endpoint.virtual_ips.push(VirtualIp { network: network.id, addr }),
            Err(reason) => reasons.push(reason),
        }
    }
    if endpoint.virtual_ips.len() != before {
        draft.patch_service(id, ServicePatch { endpoint: Some(endpoint), ..ServicePatch::default() });
    }
    for reason in reasons {
        draft.wait(Some(id), None, reason);
    }
}

/// Why the service's tasks cannot have their addresses yet; `None` when its endpoint is complete.
pub(crate) fn incomplete_reason(store: &Store, service: &Service) -> Option<String> {
    if service.spec.endpoint.ports.len() != service.endpoint.ports.len() {
        return Some(no_port_left());
    }
    if uses_ingress(&service.spec.endpoint.ports) && usable_ingress(store).is_none() {
        return Some("service needs ingress network, but no ingress network is present".to_owned());
    }
    let missing = wanted_networks(store, service)
        .into_iter()
        .find(|network| service.endpoint.virtual_ips.iter().all(|vip| vip.network != *network))?;
    let network = store.network(missing)?;
    Some(free_address(store, store, network).err().unwrap_or_else(|| {
        format!("service {} waits for its virtual address on network {}", service.spec.name, network.spec.name)
    }))
}

fn usable_ingress(store: &Store) -> Option<&std::sync::Arc<Network>> {
    store.ingress_network().filter(|network| !network.pending_delete)
}

fn no_port_left() -> String {
    format!(
        "no port from {} to {} is left to publish: name one, or remove a service that publishes",
        AUTOMATIC_PORTS.start(),
        AUTOMATIC_PORTS.end()
    )
}

/// The networks on which a service is to have a virtual address.
fn wanted_networks(store: &Store, service: &Service) -> Vec<NetworkId> {
    if service.spec.endpoint.mode == EndpointMode::Dnsrr {
        return Vec::new();
    }
    let ingress =
        usable_ingress(store).filter(|_| uses_ingress(&service.spec.endpoint.ports)).map(|network| network.id);
    let mut wanted: Vec<NetworkId> = ingress.into_iter().collect();
    for attachment in &service.spec.task.networks {
        if store.network(attachment.target).is_some_and(|network| is_managed(network))
            && !wanted.contains(&attachment.target)
        {
            wanted.push(attachment.target);
        }
    }
    wanted
}

/// The virtual addresses that stay as they are.
fn kept_addresses(store: &Store, service: &Service) -> Vec<VirtualIp> {
    let wanted = wanted_networks(store, service);
    service.endpoint.virtual_ips.iter().filter(|vip| wanted.contains(&vip.network)).cloned().collect()
}

/// Is this port of the endpoint what the spec asks for?
fn serves(have: &PortConfig, wanted: &PortConfig) -> bool {
    let automatic = wanted.published == 0 && wanted.mode == PublishMode::Ingress;
    (&have.name, have.protocol, have.target, have.mode) == (&wanted.name, wanted.protocol, wanted.target, wanted.mode)
        && if automatic { AUTOMATIC_PORTS.contains(&have.published) } else { have.published == wanted.published }
}

/// The ports of the spec with numbers. One that cannot get a number is missing.
fn wanted_ports(draft: &Draft<'_>, service: &Service, reasons: &mut Vec<String>) -> Vec<PortConfig> {
    let (have, wanted) = (&service.endpoint.ports, &service.spec.endpoint.ports);
    if have.len() == wanted.len() && have.iter().zip(wanted).all(|(have, wanted)| serves(have, wanted)) {
        return have.clone();
    }
    let mut own: BTreeSet<(Protocol, u16)> = ingress_ports(wanted).collect();
    let mut chosen: Vec<PortConfig> = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        if wanted.published != 0 || wanted.mode == PublishMode::Host {
            chosen.push(wanted.clone());
            continue;
        }
        let known = have.iter().find(|port| serves(port, wanted) && !own.contains(&(port.protocol, port.published)));
        let published = match known {
            Some(port) => Some(port.published),
            None => find_port(draft, wanted.protocol, &own, &chosen),
        };
        match published {
            Some(published) => {
                own.insert((wanted.protocol, published));
                chosen.push(PortConfig { published, ..wanted.clone() });
            }
            None => reasons.push(no_port_left()),
        }
    }
    chosen
}

/// A free port, searched round-robin; not one that this service is being given or asks for itself.
fn find_port(
    draft: &Draft<'_>,
    protocol: Protocol,
    own: &BTreeSet<(Protocol, u16)>,
    chosen: &[PortConfig],
) -> Option<u16> {
    let (first, last) = (*AUTOMATIC_PORTS.start(), *AUTOMATIC_PORTS.end());
    let last_chosen = chosen.iter().rev().map(|port| port.published).find(|port| AUTOMATIC_PORTS.contains(port));
    let start = match last_chosen.unwrap_or(draft.store.port_cursor()) {
        cursor if cursor >= first && cursor < last => cursor + 1,
        _ => first,
    };
    let free = |port: &u16| {
        draft.store.port_owner(protocol, *port).is_none()
            && draft.base().port_owner(protocol, *port).is_none()
            && !own.contains(&(protocol, *port))
    };
    (start..=last).chain(first..start).find(free)
}
