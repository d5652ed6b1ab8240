//! What the controller knows, apart from what the kernel knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use shoal_engine_sys::netlink::NetlinkSocket;
use shoal_engine_sys::netns::Namespace;
use shoal_engine_sys::nft::Table;
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::{NetworkId, ServiceId, TaskId};
use shoal_proto::spec::Protocol;

use super::definition::{Driver, GATEWAY_NETWORK, LocalNetwork};
use super::dns::server::{NameServer, Sockets};
use super::dns::zone::{SharedZone, View, Zone};
use super::ports::PortTable;
use super::rules::sandbox::SandboxRules;
use super::types::{ClusterNetwork, ClusterNetworkState, EndpointInfo, SandboxOptions};

/// Locks; a panic of another thread leaves data that is still good enough to go on with.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network that an endpoint is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Target {
    /// A local one, by id.
    Local(String),
    /// A cluster network.
    Cluster {
        /// Which.
        network: NetworkId,
        /// The task that the address was given to; `None` for a container that is none.
        task: Option<TaskId>,
        /// Its service.
        service: Option<ServiceId>,
    },
}

/// A sandbox's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    /// The network.
    pub target: Target,
    /// What callers see.
    pub info: EndpointInfo,
    /// Name of the link's other end, on the bridge; empty on `host` and `none`.
    pub link: String,
    /// For the choice of the default gateway.
    pub gateway_priority: i64,
}

/// What is known of a sandbox, kept in a file for the next daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    /// Id of the container.
    pub id: String,
    /// Has it a namespace of its own? Not on the host's network.
    pub own_namespace: bool,
    /// How names are resolved.
    pub options: SandboxOptions,
    /// Where it is attached.
    pub endpoints: Vec<Endpoint>,
    /// Ports of its name server.
    pub name_ports: Option<(u16, u16)>,
}

/// Sockets into a sandbox's namespace.
#[derive(Debug)]
pub(super) struct SandboxKernel {
    /// Links, addresses, routes.
    pub route: NetlinkSocket,
    /// Its table of rules; `None` until it needs one.
    pub rules: Option<Table>,
    /// What the rules were last made of.
    pub applied: SandboxRules,
    /// Sockets for a name server and for rules, opened with the namespace and not needed yet.
    pub unused: Option<(Sockets, NetlinkSocket)>,
}

/// A sandbox's namespace and what serves it.
#[derive(Debug)]
pub(super) struct LiveSandbox {
    /// Where the namespace is bound.
    pub path: PathBuf,
    /// The sockets.
    pub kernel: Mutex<SandboxKernel>,
    /// Its name server; `None` when it needs none.
    pub server: Mutex<Option<NameServer>>,
}

impl LiveSandbox {
    /// Opens the namespace.
    ///
    /// # Errors
    /// When it is not bound there.
    pub(super) fn namespace(&self) -> std::io::Result<Namespace> {
        Namespace::open(&self.path)
    }
}

/// What the controller knows.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Local networks by id.
    pub networks: BTreeMap<String, LocalNetwork>,
    /// Names by network id, local and cluster-wide.
    pub zones: BTreeMap<String, SharedZone>,
    /// Sandboxes by container id.
    pub records: BTreeMap<String, SandboxRecord>,
    /// Their namespaces.
    pub live: BTreeMap<String, Arc<LiveSandbox>>,
    /// Host ports.
    pub ports: PortTable,
    /// Ports of the routing mesh that are held.
    pub mesh: BTreeSet<(Protocol, u16)>,
    /// The cluster's networks; `None` until the agent brings them.
    pub cluster: Option<Arc<ClusterNetworkState>>,
    /// Who serves on them: follows from `cluster`, see [`State::note_serving`].
    pub serving: BTreeMap<NetworkId, Serving>,
}

/// Addresses of a network's endpoints that take traffic, by service, in order.
pub(super) type Serving = BTreeMap<ServiceId, Vec<Ipv4Addr>>;

/// Who serves on a network.
fn serving(network: &ClusterNetwork) -> Serving {
    let mut found: BTreeMap<ServiceId, BTreeSet<Ipv4Addr>> = BTreeMap::new();
    for endpoint in network.endpoints.values().filter(|endpoint| endpoint.serving) {
        if let Some(service) = endpoint.service {
            found.entry(service).or_default().insert(endpoint.addr);
        }
    }
    found.into_iter().map(|(service, addrs)| (service, addrs.into_iter().collect())).collect()
}

impl State {
    /// Finds a local network by name, id or unambiguous prefix of the id.
    ///
    /// # Errors
    /// As dockerd's.
    pub(super) fn network(&self, wanted: &str) -> Result<&LocalNetwork, Failure> {
        let wanted = if wanted == "default" { "bridge" } else { wanted };
        if let Some(network) = self.networks.get(wanted) {
            return Ok(network);
        }
        if let Some(network) = self.networks.values().find(|network| network.name == wanted) {
            return Ok(network);
        }
        let mut matching =
            self.networks.values().filter(|network| !wanted.is_empty() && network.id.starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some(network), None) => Ok(network),
            (Some(_), Some(_)) => Err(Failure::invalid(format!(
                "network {wanted} is ambiguous (several networks have ids that begin so)"
            ))),
            (None, _) => Err(Failure::not_found(format!("network {wanted} not found"))),
        }
    }

    /// A sandbox.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn record(&self, id: &str) -> Result<&SandboxRecord, Failure> {
        self.records.get(id).ok_or_else(|| no_sandbox(id))
    }

    /// The endpoints on a network, with their sandboxes.
    pub(super) fn on_network<'a>(&'a self, id: &'a str) -> impl Iterator<Item = (&'a SandboxRecord, &'a Endpoint)> {
        let on = move |endpoint: &&Endpoint| endpoint.info.network_id == id;
        self.records.values().flat_map(move |record| record.endpoints.iter().filter(on).map(move |e| (record, e)))
    }

    /// The cluster networks that sandboxes are on.
    pub(super) fn cluster_networks_in_use(&self) -> BTreeSet<NetworkId> {
        let network = |endpoint: &Endpoint| match endpoint.target {
            Target::Cluster { network, .. } => Some(network),
            Target::Local(_) => None,
        };
        self.records.values().flat_map(|record| record.endpoints.iter().filter_map(network)).collect()
    }

    /// A cluster network, if the agent has brought it.
    pub(super) fn cluster_network(&self, id: NetworkId) -> Option<&ClusterNetwork> {
        self.cluster.as_ref()?.networks.get(&id)
    }

    /// The names of a network, for all who read them.
    pub(super) fn zone(&mut self, id: &str, name: &str) -> SharedZone {
        let fresh = || Arc::new(ArcSwap::from_pointee(Zone::new(name)));
        Arc::clone(self.zones.entry(id.to_owned()).or_insert_with(fresh))
    }

    /// Makes the names anew that this node's containers have on a network: all of a local one, and of a cluster network those
    /// that the cluster does not know, such as host names.
    pub(super) fn rebuild_zone(&mut self, id: &str) {
        let local = self.networks.get(id).filter(|network| network.has_names()).map(|network| network.name.clone());
        let cluster = || {
            let network = self.cluster_network(id.parse().ok()?)?;
            (!network.record.ingress).then(|| network.record.name.clone())
        };
        let is_local = local.is_some();
        let (key, name) = match local {
            Some(name) => (id.to_owned(), name),
            None => match cluster() {
                Some(name) => (own_names(id), name),
                None => return,
            },
        };
        let mut zone = Zone::new(name.clone());
        for (_, endpoint) in self.on_network(id) {
            let Some(addr) = endpoint.info.ip else { continue };
            // Aliases on a cluster network are the service's, and lead to whoever serves.
            let own = |name: &&String| is_local || !endpoint.info.aliases.contains(name);
            endpoint.info.dns_names.iter().filter(own).for_each(|name| zone.add(name, addr));
            if let Some(name) = endpoint.info.dns_names.first() {
                zone.own(addr, name);
            }
        }
        self.zone(&key, &name).store(Arc::new(zone));
    }

    /// Does an endpoint's network have names?
    fn has_names(&self, endpoint: &Endpoint) -> bool {
        match &endpoint.target {
            Target::Local(id) => self.networks.get(id).is_some_and(LocalNetwork::has_names),
            Target::Cluster { network, .. } => !self.cluster_network(*network).is_some_and(|n| n.record.ingress),
        }
    }

    /// What a sandbox sees of names; `None` when it needs no name server.
    pub(super) fn view(&mut self, id: &str) -> Option<View> {
        let record = self.records.get(id)?;
        let named: Vec<_> = record
            .endpoints
            .iter()
            .filter(|endpoint| self.has_names(endpoint))
            .flat_map(|endpoint| {
                let (id, name) = (&endpoint.info.network_id, &endpoint.info.network_name);
                let own = matches!(endpoint.target, Target::Cluster { .. }).then(|| (own_names(id), name.clone()));
                std::iter::once((id.clone(), name.clone())).chain(own)
            })
            .collect();
        let forward = record.endpoints.iter().any(|endpoint| self.leads_out(endpoint));
        if named.is_empty() {
            return None;
        }
        let links = record.options.links.clone();
        Some(View { zones: named.into_iter().map(|(id, name)| self.zone(&id, &name)).collect(), links, forward })
    }

    fn leads_out(&self, endpoint: &Endpoint) -> bool {
        match &endpoint.target {
            Target::Local(id) => self.networks.get(id).is_some_and(|network| !network.internal),
            Target::Cluster { .. } => false,
        }
    }

    /// The endpoint that the default route of a sandbox goes through.
    pub(super) fn gateway<'a>(&'a self, record: &'a SandboxRecord) -> Option<&'a Endpoint> {
        let usable = |endpoint: &&Endpoint| endpoint.info.gateway.is_some();
        record.endpoints.iter().filter(usable).min_by_key(|endpoint| {
            let last_resort = endpoint.info.network_name == GATEWAY_NETWORK;
            (std::cmp::Reverse(endpoint.gateway_priority), last_resort, endpoint.info.network_name.clone())
        })
    }

    /// The endpoint on the gateway network of a sandbox that is on no other network any more, by id. One that publishes ports
    /// stays.
    pub(super) fn idle_gateway(&self, id: &str) -> Option<String> {
        let [only] = self.records.get(id)?.endpoints.as_slice() else { return None };
        let idle = only.info.network_name == GATEWAY_NETWORK && only.info.ports.is_empty();
        idle.then(|| only.info.endpoint_id.clone())
    }

    /// Is a sandbox on a cluster network that leads out, and has lost its own way?
    pub(super) fn lacks_way_out(&self, id: &str) -> bool {
        let Some(record) = self.records.get(id) else { return false };
        let leads_out = |endpoint: &Endpoint| match endpoint.target {
            Target::Cluster { network, .. } => {
                self.cluster_network(network).is_some_and(|network| !network.record.internal)
            }
            Target::Local(_) => false,
        };
        record.endpoints.iter().any(leads_out) && self.gateway(record).is_none()
    }

    /// Containers that are no tasks, and the cluster networks that they are on without a place there, by name.
    pub(super) fn lost_places(&self, held: &BTreeSet<(String, NetworkId, Ipv4Addr)>) -> Vec<(String, String)> {
        let is_lost = |record: &SandboxRecord, endpoint: &Endpoint| match (&endpoint.target, endpoint.info.ip) {
            (Target::Cluster { network, task: None, .. }, Some(addr)) => {
                !held.contains(&(record.id.clone(), *network, addr))
            }
            _ => false,
        };
        let endpoints = self.records.values().flat_map(|record| record.endpoints.iter().map(move |e| (record, e)));
        let lost = endpoints.filter(|(record, endpoint)| is_lost(record, endpoint));
        lost.map(|(record, endpoint)| (record.id.clone(), endpoint.info.network_name.clone())).collect()
    }

    /// What a sandbox's rules follow from, apart from its name server.
    pub(super) fn sandbox_rules(&self, id: &str) -> SandboxRules {
        let mut rules = SandboxRules { rotation: rotation(id), ..SandboxRules::default() };
        let Some(record) = self.records.get(id) else { return rules };
        for endpoint in &record.endpoints {
            let Target::Cluster { network, .. } = endpoint.target else { continue };
            let Some(network) = self.cluster_network(network).filter(|network| !network.record.ingress) else {
                continue;
            };
            let serving = self.serving.get(&network.record.id);
            for (service, record) in &network.services {
                let Some(addr) = record.virtual_ip else { continue };
                let behind = serving.and_then(|serving| serving.get(service)).cloned().unwrap_or_default();
                rules.virtual_addresses.insert(addr, behind);
            }
        }
        rules
    }

    /// Counts anew who serves on a network, or forgets one that is no more: once for all sandboxes.
    pub(super) fn note_serving(&mut self, id: NetworkId) {
        match self.cluster_network(id).map(serving) {
            Some(serving) => self.serving.insert(id, serving),
            None => self.serving.remove(&id),
        };
    }

    /// Is anything attached to a network?
    pub(super) fn is_used(&self, id: &str) -> bool {
        self.on_network(id).next().is_some()
    }

    /// Bridges of local networks.
    pub(super) fn bridges(&self) -> impl Iterator<Item = (&LocalNetwork, &super::definition::Bridge)> {
        self.networks
            .values()
            .filter(|network| network.driver == Driver::Bridge)
            .filter_map(|network| Some((network, network.bridge.as_ref()?)))
    }
}

/// Key of the zone that holds what only this node knows of a cluster network.
pub(super) fn own_names(id: &str) -> String {
    format!("{id}/own")
}

/// There is no such sandbox.
pub(super) fn no_sandbox(id: &str) -> Failure {
    Failure::new(ErrorKind::NotFound, format!("container {id} has no network namespace"))
}

/// Where a namespace starts its turns: spread by its id, the same after a restart.
pub(super) fn rotation(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
