//! Local networks: made, removed, kept in the kernel.

use ipnet::Ipv4Net;
use shoal_engine_sys::netlink::address::{self, Address};
use shoal_engine_sys::netlink::link;
use shoal_proto::error::{ErrorKind, Failure};

use super::addresses::{default_pools, mac_of, pick_subnet};
use super::core::Core;
use super::definition::{
    Bridge, Driver, GATEWAY_NETWORK, LocalNetwork, Wish, check_overlap, default_bridge_options, gateway_options,
    read_request,
};
use super::error::Result;
use super::state::{State, lock};
use super::types::AddressPool;
use crate::model::network::{NetworkCreate, NetworkCreateResponse};

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

    fn ensure_default_bridge(&self) -> Result<()> {
        let link = self.options.bridge_name.clone().unwrap_or_else(|| self.link_name("shoal0", "sh"));
        let known = lock(&self.state).network("bridge").ok().cloned();
        if let Some(bridge) = known.as_ref().and_then(|network| network.bridge.as_ref()) {
            let as_wanted =
                self.options.bip.is_none_or(|bip| (bip.addr(), bip.trunc()) == (bridge.gateway, bridge.subnet));
            if as_wanted && bridge.link == link {
                return Ok(());
            }
        }
        let subnet = match self.options.bip {
            Some(bip) => bip.trunc(),
            None => {
                let used = self.used_subnets(Some(&link))?;
                pick_subnet(&self.pools(), &used)?
            }
        };
        let gateway = self.options.bip.map(|bip| bip.addr()).filter(|addr| *addr != subnet.network());
        let bridge = Wish { gateway, ..Wish::default() }.bridge(subnet, link, self.default_mtu()?);
        let mut network = known.unwrap_or_else(|| self.plain("bridge", Driver::Bridge));
        network.options = default_bridge_options(&bridge);
        network.bridge = Some(bridge);
        self.insert_network(network)
    }

    fn pools(&self) -> Vec<AddressPool> {
        if self.options.pools.is_empty() { default_pools() } else { self.options.pools.clone() }
    }

    fn default_mtu(&self) -> Result<u32> {
        if let Some(mtu) = self.options.mtu {
            return Ok(mtu);
        }
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
        let mut route = lock(&self.route);
        // A bridge that somebody else made is left to them.
        match link::find(&mut route, &bridge.link)? {
            Some(found) if found.group == self.group => match route.request(link::delete(found.index)) {
                Err(error) if !error.missing() => Err(error.into()),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
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
