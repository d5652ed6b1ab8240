//! Local networks: made, removed, kept in the kernel.

use ipnet::Ipv4Net;
use shoal_engine_sys::netlink::address::{self, Address};
use shoal_engine_sys::netlink::link;
use shoal_proto::error::{ErrorKind, Failure};

use super::addresses::{default_pools, is_host, mac_of, pick_subnet};
use super::core::Core;
use super::definition::{
    Bridge, Driver, GATEWAY_NETWORK, LocalNetwork, Wish, check_overlap, default_bridge_options, gateway_options,
    read_request,
};
use super::error::Result;
use super::state::{State, lock};
use super::types::AddressPool;
use crate::model::network::{NetworkCreate, NetworkCreateResponse};
use crate::options::{DefaultBridge, LocalNetworkOptions};

const LARGEST_DEFAULT_MTU: u32 = 1500;

impl Core {
    /// Makes sure of the default networks, their bridges and those of all other local networks.
    ///
    /// # Errors
    /// When the default bridge cannot be made. Others that cannot are reported and tried again later.
    pub(super) fn ensure_local_networks(&self) -> Result<()> {
        let networks = self.disk.load_networks()?;
        lock(&self.state).networks = networks.into_iter().map(|network| (network.id.clone(), network)).collect();
        for (name, driver) in [("host", Driver::Host), ("none", Driver::Null)] {
            if lock(&self.state).network(name).is_err() {
                self.insert_network(self.plain(name, driver))?;
            }
        }
        self.ensure_default_bridge()?;
        for problem in self.ensure_bridges()? {
            tracing::warn!(problem, "a local network is not complete");
        }
        Ok(())
    }

    fn plain(&self, name: &str, driver: Driver) -> LocalNetwork {
        LocalNetwork {
            id: self.fresh_id(),
            name: name.to_owned(),
            created: self.options.clock.now(),
            driver,
            bridge: None,
            internal: false,
            attachable: false,
            options: Default::default(),
            labels: Default::default(),
        }
    }

    fn insert_network(&self, network: LocalNetwork) -> Result<()> {
        let mut state = lock(&self.state);
        let id = network.id.clone();
        state.networks.insert(id.clone(), network);
        if let Err(error) = self.disk.save_networks(state.networks.values()) {
            state.networks.remove(&id);
            return Err(error);
        }
        Ok(())
    }

    /// The default network as the options want it; what is open stays as it was before.
    fn ensure_default_bridge(&self) -> Result<()> {
        let local = &self.options.local;
        let known = lock(&self.state).network("bridge").ok().cloned();
        let mut network = known.clone().unwrap_or_else(|| self.plain("bridge", Driver::Bridge));
        if local.bridge == DefaultBridge::Absent {
            // Its name stands for no network at all then.
            (network.driver, network.options) = (Driver::Null, Default::default());
            let before = network.bridge.take();
            if known.as_ref() != Some(&network) {
                self.insert_network(network)?;
            }
            return before.map_or(Ok(()), |bridge| self.delete_link(&bridge.link));
        }
        let (link, given) = match &local.bridge {
            DefaultBridge::Existing(name) => (name.clone(), Some(self.subnet_of_link(name)?)),
            _ => (self.link_name("shoal0", "sh"), self.options.bip),
        };
        let before = network.bridge.as_ref().filter(|bridge| bridge.link == link);
        let subnet = match (given, local.fixed_cidr, before) {
            (Some(given), ..) => given.trunc(),
            (None, Some(fixed), _) => fixed.trunc(),
            (None, None, Some(before)) => before.subnet,
            (None, None, None) => pick_subnet(&self.pools(), &self.used_subnets(Some(&link))?)?,
        };
        let wish = Wish {
            gateway: given.map(|given| given.addr()).filter(|addr| *addr != subnet.network()),
            range: local.fixed_cidr.map(|range| range.trunc()),
            icc: Some(local.icc),
            masquerade: Some(local.masquerade),
            binding: Some(local.binding),
            ..Wish::default()
        };
        check_default_bridge(&subnet, local)?;
        let mtu = match (local.mtu, before) {
            (Some(mtu), _) => mtu,
            (None, Some(before)) if !before.mtu_given => before.mtu,
            (None, _) => self.default_mtu()?,
        };
        let bridge = Bridge {
            route_via: local.default_gateway,
            mtu_given: local.mtu.is_some(),
            ..wish.bridge(subnet, link, mtu)
        };
        network.driver = Driver::Bridge;
        network.options = default_bridge_options(&bridge);
        network.bridge = Some(bridge);
        if known.as_ref() == Some(&network) { Ok(()) } else { self.insert_network(network) }
    }

    /// Address and subnet of a bridge that somebody else has made; `--bip` gives it another.
    fn subnet_of_link(&self, name: &str) -> Result<Ipv4Net> {
        let mut route = lock(&self.route);
        let Some(found) = link::find(&mut route, name)?.filter(|found| found.kind == "bridge") else {
            let message = format!("bridge device with non default name {name} must be created manually");
            return Err(Failure::invalid(message).into());
        };
        let addresses = address::list(&mut route)?;
        let own = addresses.iter().find(|address| address.link == found.index);
        let net = own.and_then(|own| Ipv4Net::new(own.addr, own.prefix_len).ok());
        Ok(net.ok_or_else(|| Failure::invalid(format!("bridge device {name} has no IPv4 address: give it one")))?)
    }

    fn pools(&self) -> Vec<AddressPool> {
        let pools = &self.options.local.pools;
        if pools.is_empty() { default_pools() } else { pools.clone() }
    }

    fn default_mtu(&self) -> Result<u32> {
        let mut route = lock(&self.route);
        let routes = address::list_routes(&mut route)?;
        let Some(default) = routes.iter().find(|route| route.prefix_len == 0) else { return Ok(LARGEST_DEFAULT_MTU) };
        let links = link::list(&mut route)?;
        let mtu = links.iter().find(|link| link.index == default.link).map_or(LARGEST_DEFAULT_MTU, |link| link.mtu);
        Ok(mtu.min(LARGEST_DEFAULT_MTU))
    }

    /// Subnets that a new network must not overlap with: those of other networks and the host's routes, but those of
    /// the link that is to be taken over.
    fn used_subnets(&self, except_link: Option<&str>) -> Result<Vec<Ipv4Net>> {
        let (routes, links) = {
            let mut route = lock(&self.route);
            (address::list_routes(&mut route)?, link::list(&mut route)?)
        };
        let except = links.iter().find(|link| Some(link.name.as_str()) == except_link).map(|link| link.index);
        let net = |route: &address::Route| Ipv4Net::new(route.destination, route.prefix_len).ok();
        let routed = routes.iter().filter(|route| route.prefix_len > 0 && Some(route.link) != except).filter_map(net);
        let state = lock(&self.state);
        let local = state.bridges().filter(|(_, b)| Some(b.link.as_str()) != except_link).map(|(_, b)| b.subnet);
        let cluster = state.cluster.iter().flat_map(|cluster| cluster.networks.values());
        let cluster = cluster.filter_map(|network| network.record.subnet);
        Ok(routed.chain(local).chain(cluster).collect())
    }

    /// Makes a network as requested.
    ///
    /// # Errors
    /// Name taken, subnet in use, bad option, or the kernel refuses the bridge.
    pub(super) fn create_network(&self, request: NetworkCreate) -> Result<NetworkCreateResponse> {
        let mut request = request;
        let defaults = self.options.local.driver_options.get("bridge").into_iter().flatten();
        let options = request.options.get_or_insert_default();
        for (name, value) in defaults {
            options.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let wish = read_request(&request)?;
        if !matches!(request.driver.as_str(), "" | "bridge" | "default") {
            return Err(unknown_driver(&request.driver).into());
        }
        let mut network = self.plain(&request.name, Driver::Bridge);
        network.internal = request.internal;
        network.attachable = request.attachable;
        network.options = request.options.unwrap_or_default();
        network.labels = request.labels.unwrap_or_default();
        let ipam_options = request.ipam.and_then(|ipam| ipam.options);
        let id = self.define(network, wish, ipam_options, None)?;
        Ok(NetworkCreateResponse { id, warning: String::new() })
    }

    /// Chooses what is open, notes the network, and makes its bridge.
    fn define(
        &self,
        mut network: LocalNetwork,
        wish: Wish,
        ipam_options: Option<std::collections::BTreeMap<String, String>>,
        link: Option<String>,
    ) -> Result<String> {
        if lock(&self.state).networks.values().any(|other| other.name == network.name) {
            let message = format!("network with name {} already exists", network.name);
            return Err(Failure::conflict(message).into());
        }
        let link = link.unwrap_or_else(|| format!("br-{}", &network.id[..12]));
        self.check_link(wish.link.as_deref())?;
        let subnet = match wish.subnet {
            Some(subnet) => {
                check_overlap(&subnet, lock(&self.state).networks.values())?;
                subnet
            }
            None => pick_subnet(&self.pools(), &self.used_subnets(None)?)?,
        };
        let mut bridge = wish.bridge(subnet, link, self.default_mtu()?);
        bridge.ipam_options = ipam_options;
        if network.name == GATEWAY_NETWORK {
            network.options = gateway_options(&bridge);
        }
        let id = network.id.clone();
        network.bridge = Some(bridge.clone());
        self.insert_network(network)?;
        if let Err(error) = self.ensure_bridge(&bridge).and_then(|_| self.sync_host_rules()) {
            let _ = self.forget_network(&id, &bridge);
            return Err(error);
        }
        Ok(id)
    }

    /// A wanted link name must be that of no link, or of a bridge that no other network uses.
    fn check_link(&self, name: Option<&str>) -> Result<()> {
        let Some(name) = name else { return Ok(()) };
        let taken = lock(&self.state)
            .bridges()
            .find(|(_, bridge)| bridge.link == name)
            .map(|(network, _)| network.name.clone());
        if let Some(other) = taken {
            let message = format!("link {name} belongs to network {other} already");
            return Err(Failure::new(ErrorKind::PermissionDenied, message).into());
        }
        match link::find(&mut lock(&self.route), name)? {
            Some(found) if found.kind != "bridge" => {
                Err(Failure::new(ErrorKind::PermissionDenied, format!("link {name} exists and is no bridge")).into())
            }
            _ => Ok(()),
        }
    }

    /// The network that overlay tasks leave the cluster by; made when it is first needed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn ensure_gateway_network(&self) -> Result<String> {
        if let Ok(network) = lock(&self.state).network(GATEWAY_NETWORK) {
            return Ok(network.id.clone());
        }
        let wish = Wish { icc: Some(false), ..Wish::default() };
        let link = self.link_name("shoal_gwbridge", "gw");
        match self.define(self.plain(GATEWAY_NETWORK, Driver::Bridge), wish, None, Some(link)) {
            Ok(id) => Ok(id),
            // Another task was faster.
            Err(error) => {
                lock(&self.state).network(GATEWAY_NETWORK).map(|network| network.id.clone()).map_err(|_| error)
            }
        }
    }

    /// Makes a bridge, or completes it. Returns whether anything was missing.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn ensure_bridge(&self, bridge: &Bridge) -> Result<bool> {
        let mut changed = self.ensure_forwarding()?;
        let mut route = lock(&self.route);
        let found = match link::find(&mut route, &bridge.link)? {
            Some(found) => found,
            None => {
                let mac = mac_of(bridge.gateway);
                route.request(link::create_bridge(&bridge.link, Some(mac), bridge.mtu, self.group))?;
                changed = true;
                link::find(&mut route, &bridge.link)?.ok_or_else(|| super::overlay::device::vanished(&bridge.link))?
            }
        };
        if found.kind != "bridge" {
            let message = format!("link {} exists and is no bridge", bridge.link);
            return Err(Failure::conflict(message).into());
        }
        let mut requests = Vec::new();
        if !found.up {
            requests.push(link::set_up(found.index));
        }
        if found.mtu != bridge.mtu {
            requests.push(link::set_mtu(found.index, bridge.mtu));
        }
        let own = Address { link: found.index, addr: bridge.gateway, prefix_len: bridge.subnet.prefix_len() };
        let addresses = address::list(&mut route)?;
        if !addresses.contains(&own) {
            // Of an earlier default bridge with another subnet.
            let stale = addresses.iter().filter(|address| address.link == found.index && found.group == self.group);
            requests.extend(stale.map(|address| address::remove(*address)));
            requests.push(address::add(own));
        }
        changed |= !requests.is_empty();
        route.batch(&requests).into_iter().collect::<Result<(), _>>()?;
        drop(route);
        if changed {
            self.link_settings(&bridge.link)?;
        }
        Ok(changed)
    }

    /// Makes sure of all bridges; returns what could not be done.
    ///
    /// # Errors
    /// Never for a single bridge.
    pub(super) fn ensure_bridges(&self) -> Result<Vec<String>> {
        let bridges: Vec<_> =
            lock(&self.state).bridges().map(|(network, bridge)| (network.name.clone(), bridge.clone())).collect();
        let mut problems = Vec::new();
        for (name, bridge) in bridges {
            if let Err(error) = self.ensure_bridge(&bridge) {
                problems.push(format!("network {name}: {}", Failure::from(error).message));
            }
        }
        Ok(problems)
    }

    /// Removes a network. Returns its name and id.
    ///
    /// # Errors
    /// Unknown, predefined, or in use.
    pub(super) fn remove_network(&self, wanted: &str) -> Result<(String, String)> {
        let (name, id, bridge) = {
            let state = lock(&self.state);
            let network = state.network(wanted)?;
            if network.is_predefined() {
                let message = format!("{} is a pre-defined network and cannot be removed", network.name);
                return Err(Failure::new(ErrorKind::PermissionDenied, message).into());
            }
            if state.is_used(&network.id) {
                return Err(in_use(&state, network).into());
            }
            (network.name.clone(), network.id.clone(), network.bridge.clone())
        };
        if let Some(bridge) = &bridge {
            self.forget_network(&id, bridge)?;
        }
        Ok((name, id))
    }

    fn forget_network(&self, id: &str, bridge: &Bridge) -> Result<()> {
        {
            let mut state = lock(&self.state);
            if state.is_used(id) {
                let network = state.network(id)?;
                return Err(in_use(&state, network).into());
            }
            let Some(network) = state.networks.remove(id) else { return Ok(()) };
            if let Err(error) = self.disk.save_networks(state.networks.values()) {
                state.networks.insert(id.to_owned(), network);
                return Err(error);
            }
            state.zones.remove(id);
        }
        self.sync_host_rules()?;
        self.delete_link(&bridge.link)
    }

    /// Removes a bridge; one that somebody else made is left to them.
    fn delete_link(&self, name: &str) -> Result<()> {
        let mut route = lock(&self.route);
        match link::find(&mut route, name)? {
            Some(found) if found.group == self.group => match route.request(link::delete(found.index)) {
                Err(error) if !error.missing() => Err(error.into()),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn check_default_bridge(subnet: &Ipv4Net, local: &LocalNetworkOptions) -> Result<()> {
    if let Some(fixed) = local.fixed_cidr.filter(|fixed| !subnet.contains(&fixed.trunc())) {
        return Err(Failure::invalid(format!("no matching subnet for range {fixed}")).into());
    }
    match local.default_gateway.filter(|gateway| !is_host(subnet, *gateway)) {
        Some(gateway) => Err(Failure::invalid(format!("no matching subnet for gateway {gateway}")).into()),
        None => Ok(()),
    }
}

fn in_use(state: &State, network: &LocalNetwork) -> Failure {
    let users: Vec<_> = state
        .on_network(&network.id)
        .map(|(record, endpoint)| {
            let name = if record.options.name.is_empty() { &record.id } else { &record.options.name };
            format!("name:\"{name}\" id:\"{}\"", endpoint.info.endpoint_id.get(..12).unwrap_or_default())
        })
        .collect();
    let message =
        format!("error while removing network: network {} has active endpoints ({})", network.name, users.join(", "));
    Failure::new(ErrorKind::PermissionDenied, message)
}

fn unknown_driver(driver: &str) -> Failure {
    match driver {
        "host" | "null" => {
            Failure::new(ErrorKind::PermissionDenied, format!("only one instance of \"{driver}\" network is allowed"))
        }
        "overlay" => Failure::unavailable(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
        ),
        other => Failure::not_found(format!("could not find plugin {other} in v1 plugin registry: plugin not found")),
    }
}
