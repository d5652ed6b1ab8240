//! What is noted of a sandbox's way into a network, before anything of it is made.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use shoal_proto::error::{ErrorKind, Failure};

use super::check_id;
use crate::network::addresses::{format_mac, is_host, mac_of, parse_mac, pick_address};
use crate::network::definition::{Bridge, LocalNetwork};
use crate::network::error::Result;
use crate::network::state::{Endpoint, SandboxRecord, State, Target};
use crate::network::types::{EndpointInfo, EndpointOptions, PortPublish, SandboxOptions};

/// Notes that a container is on `host` or `none`.
pub(super) fn note_plain(state: &mut State, id: &str, network: &LocalNetwork, endpoint_id: String) -> Result<Endpoint> {
    check_id(id)?;
    let info = EndpointInfo {
        network_id: network.id.clone(),
        network_name: network.name.clone(),
        endpoint_id,
        interface: String::new(),
        ip: None,
        prefix_len: 0,
        gateway: None,
        mac: String::new(),
        aliases: Vec::new(),
        dns_names: Vec::new(),
        ports: Vec::new(),
    };
    let endpoint =
        Endpoint { target: Target::Local(network.id.clone()), info, link: String::new(), gateway_priority: 0 };
    let fresh = || SandboxRecord {
        id: id.to_owned(),
        own_namespace: false,
        options: SandboxOptions::default(),
        endpoints: Vec::new(),
        name_ports: None,
    };
    let record = state.records.entry(id.to_owned()).or_insert_with(fresh);
    if record.endpoints.iter().any(|other| other.info.network_id == network.id) {
        return Err(already(id, &network.name).into());
    }
    record.endpoints.push(endpoint.clone());
    Ok(endpoint)
}

pub(super) fn interface_name(record: &SandboxRecord, wanted: Option<&String>) -> Result<String> {
    let taken: BTreeSet<&str> = record.endpoints.iter().map(|endpoint| endpoint.info.interface.as_str()).collect();
    match wanted {
        Some(name) if name.is_empty() || name.len() > 15 || name == "lo" || name.contains(['/', ' ']) => {
            Err(Failure::invalid(format!("invalid interface name {name:?}")).into())
        }
        Some(name) if taken.contains(name.as_str()) => {
            Err(Failure::conflict(format!("interface name {name} is in use in the container")).into())
        }
        Some(name) => Ok(name.clone()),
        None => Ok((0..).map(|n| format!("eth{n}")).find(|name| !taken.contains(name.as_str())).unwrap_or_default()),
    }
}

pub(super) fn dns_names(record: &SandboxRecord, options: &EndpointOptions) -> Vec<String> {
    let short = record.id.get(..12).unwrap_or(&record.id);
    let mut names: Vec<String> = Vec::new();
    let all = std::iter::once(record.options.name.as_str())
        .chain(options.aliases.iter().map(String::as_str))
        .chain([short, options.hostname.as_str()]);
    for name in all {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn choose_address(
    state: &State,
    network: &LocalNetwork,
    bridge: &Bridge,
    wanted: Option<Ipv4Addr>,
) -> Result<Ipv4Addr> {
    let mut used: BTreeSet<Ipv4Addr> = state.on_network(&network.id).filter_map(|(_, e)| e.info.ip).collect();
    used.insert(bridge.gateway);
    used.extend(bridge.route_via);
    used.extend(bridge.reserved.values());
    let Some(wanted) = wanted else { return Ok(pick_address(&bridge.subnet, &bridge.range, &used)?) };
    if network.is_predefined() {
        let message = "user specified IP address is supported on user defined networks only";
        return Err(Failure::invalid(message).into());
    }
    if !bridge.subnet_given {
        let message =
            "user specified IP address is supported only when connecting to networks with user configured subnets";
        return Err(Failure::invalid(message).into());
    }
    if !is_host(&bridge.subnet, wanted) {
        let message = format!("no configured subnet or ip-range contain the IP address {wanted}");
        return Err(Failure::invalid(message).into());
    }
    if used.contains(&wanted) {
        let message = format!("Address {wanted} already in use on network {}", network.name);
        return Err(Failure::new(ErrorKind::PermissionDenied, message).into());
    }
    Ok(wanted)
}

pub(super) fn note_endpoint(
    state: &mut State,
    id: &str,
    network: &LocalNetwork,
    options: &EndpointOptions,
    link: String,
    endpoint_id: String,
) -> Result<Endpoint> {
    let bridge = network.bridge.as_ref().ok_or_else(|| Failure::invalid("not a bridge network"))?;
    let record = state.record(id)?;
    if !record.own_namespace {
        let message = "container cannot be disconnected from host network or connected to host network";
        return Err(Failure::new(ErrorKind::PermissionDenied, message).into());
    }
    if record.endpoints.iter().any(|other| other.info.network_id == network.id) {
        return Err(already(id, &network.name).into());
    }
    let interface = interface_name(record, options.interface.as_ref())?;
    let addr = choose_address(state, network, bridge, options.ip)?;
    let mac = options.mac.as_deref().filter(|mac| !mac.is_empty()).map_or(Ok(mac_of(addr)), parse_mac)?;
    let dns_names = if network.has_names() { dns_names(record, options) } else { Vec::new() };
    let wishes: Vec<_> = options
        .ports
        .iter()
        .filter(|_| !network.internal)
        .map(|wish| PortPublish {
            host_ip: wish.host_ip.or(Some(bridge.binding.into()).filter(|_| !bridge.binding.is_unspecified())),
            ..wish.clone()
        })
        .collect();
    let ports = state.ports.take(&wishes)?;
    let endpoint = Endpoint {
        target: Target::Local(network.id.clone()),
        info: EndpointInfo {
            network_id: network.id.clone(),
            network_name: network.name.clone(),
            endpoint_id,
            interface,
            ip: Some(addr),
            prefix_len: bridge.subnet.prefix_len(),
            gateway: (!network.internal).then(|| bridge.route_via.unwrap_or(bridge.gateway)),
            mac: format_mac(mac),
            aliases: options.aliases.clone(),
            dns_names,
            ports,
        },
        link,
        gateway_priority: options.gateway_priority,
    };
    push(state, id, endpoint.clone());
    Ok(endpoint)
}

pub(super) fn push(state: &mut State, id: &str, endpoint: Endpoint) {
    if let Some(record) = state.records.get_mut(id) {
        record.endpoints.push(endpoint);
    }
}

pub(super) fn already(id: &str, network: &str) -> Failure {
    let message = format!("endpoint with name {id} already exists in network {network}");
    Failure::new(ErrorKind::PermissionDenied, message)
}
