//! Sandboxes on networks of the cluster.

use shoal_engine_sys::netlink::{link, neighbour};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::NetworkId;

use super::note::{already, dns_names, interface_name, push};
use super::veth;
use crate::network::addresses::{format_mac, is_host, mac_of};
use crate::network::core::Core;
use crate::network::definition::GATEWAY_NETWORK;
use crate::network::error::{NetworkError, Result};
use crate::network::overlay::device::vanished;
use crate::network::state::{Endpoint, State, Target, lock};
use crate::network::types::{EndpointInfo, EndpointOptions, OverlayAttachment, PortPublish};

impl Core {
    /// Puts a sandbox on cluster networks and on the gateway network.
    ///
    /// # Errors
    /// Unknown sandbox, unknown network, address or port in use, or the kernel refuses. Nothing is attached then.
    pub(in crate::network) fn attach_cluster(
        &self,
        id: &str,
        attachments: &[OverlayAttachment],
        ports: &[PortPublish],
    ) -> Result<Vec<EndpointInfo>> {
        let mut infos = Vec::new();
        match self.attach_each(id, attachments, ports, &mut infos) {
            Ok(()) => Ok(infos),
            Err(error) => {
                for info in &infos {
                    let _ = self.detach_endpoint(id, &info.endpoint_id);
                }
                Err(error)
            }
        }
    }

    fn attach_each(
        &self,
        id: &str,
        attachments: &[OverlayAttachment],
        ports: &[PortPublish],
        infos: &mut Vec<EndpointInfo>,
    ) -> Result<()> {
        for attachment in attachments {
            infos.push(self.attach_overlay(id, attachment)?);
        }
        let (leads_out, has_way) = {
            let state = lock(&self.state);
            let leads_out = |a: &OverlayAttachment| {
                state.cluster_network(a.network).is_some_and(|network| !network.record.internal)
            };
            (attachments.iter().any(leads_out), state.records.get(id).is_some_and(|r| state.gateway(r).is_some()))
        };
        if leads_out && !has_way || !ports.is_empty() {
            self.ensure_gateway_network()?;
            let options = EndpointOptions { ports: ports.to_vec(), ..EndpointOptions::default() };
            infos.push(self.attach_local(id, GATEWAY_NETWORK, &options)?);
        }
        self.settle(id)
    }

    fn attach_overlay(&self, id: &str, attachment: &OverlayAttachment) -> Result<EndpointInfo> {
        let link = self.veth_name();
        let endpoint_id = self.fresh_id();
        let endpoint = note_cluster_endpoint(&mut lock(&self.state), id, attachment, link, endpoint_id)?;
        let work = || {
            self.plug_overlay(id, attachment, &endpoint)?;
            lock(&self.state).rebuild_zone(&endpoint.info.network_id);
            Ok(())
        };
        self.keep_if(work(), id, endpoint.info)
    }

    fn plug_overlay(&self, id: &str, attachment: &OverlayAttachment, endpoint: &Endpoint) -> Result<()> {
        let live = self.live(id)?;
        let namespace = live.namespace().map_err(NetworkError::io(format!("open {}", live.path.display())))?;
        {
            let mut overlays = lock(&self.overlays);
            let overlay = overlays.get_mut(&attachment.network).ok_or_else(|| not_ready(attachment))?;
            let mtu = link::find(&mut overlay.route, "br0")?.ok_or_else(|| vanished("br0"))?.mtu;
            let mac = mac_of(attachment.addr);
            let veth = veth(endpoint, overlay.bridge, mac, &namespace, mtu, self.group);
            overlay.route.request(link::create_veth(&veth))?;
            // The address may have been another node's until now: the bridge would go on sending its frames there.
            let port = link::find(&mut overlay.route, &endpoint.link)?.ok_or_else(|| vanished(&endpoint.link))?;
            overlay.route.request(neighbour::put_port(port.index, mac))?;
        }
        self.configure(id, &live, endpoint)
    }

    pub(super) fn take_off_overlay(&self, network: NetworkId, name: &str) -> Result<()> {
        let mut overlays = lock(&self.overlays);
        let Some(overlay) = overlays.get_mut(&network) else { return Ok(()) };
        match overlay.route.request(link::take_off(name)) {
            Err(error) if !error.missing() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn not_ready(attachment: &OverlayAttachment) -> Failure {
    Failure::unavailable(format!("cluster network {} is not ready on this node yet", attachment.network))
}

fn note_cluster_endpoint(
    state: &mut State,
    id: &str,
    attachment: &OverlayAttachment,
    link: String,
    endpoint_id: String,
) -> Result<Endpoint> {
    let network_id = attachment.network.to_string();
    let network = state.cluster_network(attachment.network).ok_or_else(|| not_ready(attachment))?;
    let (name, ingress) = (network.record.name.clone(), network.record.ingress);
    let subnet = network.record.subnet.ok_or_else(|| Failure::invalid(format!("network {name} has no subnet")))?;
    if !is_host(&subnet, attachment.addr) {
        let message = format!("address {} is not in subnet {subnet} of network {name}", attachment.addr);
        return Err(Failure::invalid(message).into());
    }
    if state.on_network(&network_id).any(|(_, other)| other.info.ip == Some(attachment.addr)) {
        let message = format!("Address {} already in use on network {name}", attachment.addr);
        return Err(Failure::new(ErrorKind::PermissionDenied, message).into());
    }
    let record = state.record(id)?;
    if !record.own_namespace {
        return Err(Failure::invalid("a container on the host's network cannot join a cluster network").into());
    }
    if record.endpoints.iter().any(|other| other.info.network_id == network_id) {
        return Err(already(id, &name).into());
    }
    let (aliases, hostname) = (attachment.aliases.clone(), attachment.hostname.clone());
    let options = EndpointOptions { aliases, hostname, ..EndpointOptions::default() };
    let endpoint = Endpoint {
        target: Target::Cluster { network: attachment.network, task: attachment.task, service: attachment.service },
        info: EndpointInfo {
            network_id,
            network_name: name,
            endpoint_id,
            interface: interface_name(record, None)?,
            ip: Some(attachment.addr),
            prefix_len: subnet.prefix_len(),
            gateway: None,
            mac: format_mac(mac_of(attachment.addr)),
            aliases: attachment.aliases.clone(),
            dns_names: if ingress { Vec::new() } else { dns_names(record, &options) },
            ports: Vec::new(),
        },
        link,
        gateway_priority: 0,
    };
    push(state, id, endpoint.clone());
    Ok(endpoint)
}
