//! What the names of a network mean.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use shoal_proto::assignment::EndpointOwner;
use shoal_proto::spec::EndpointMode;

use crate::network::types::ClusterNetwork;

/// The names of one network. All names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zone {
    /// Name of the network: a suffix that names may carry.
    pub network: String,
    names: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    owners: BTreeMap<Ipv4Addr, String>,
}

/// A zone that changes under its readers.
pub type SharedZone = Arc<ArcSwap<Zone>>;

impl Zone {
    /// A zone without names.
    pub fn new(network: impl Into<String>) -> Self {
        Self { network: network.into(), ..Self::default() }
    }

    /// Lets a name resolve to an address, among others it may have.
    pub fn add(&mut self, name: &str, addr: Ipv4Addr) {
        if !name.is_empty() {
            self.names.entry(name.to_ascii_lowercase()).or_default().insert(addr);
        }
    }

    /// Makes a name known, even if it has no address.
    pub fn announce(&mut self, name: &str) {
        if !name.is_empty() {
            self.names.entry(name.to_ascii_lowercase()).or_default();
        }
    }

    /// Names the owner of an address, for reverse look-ups. The first one stays.
    pub fn own(&mut self, addr: Ipv4Addr, name: &str) {
        if !name.is_empty() {
            self.owners.entry(addr).or_insert_with(|| name.to_owned());
        }
    }

    /// The addresses of a name, with or without the network's name as suffix; `None` when it is not known here.
    pub fn resolve(&self, name: &str) -> Option<&BTreeSet<Ipv4Addr>> {
        self.names.get(name).or_else(|| {
            let suffix = self.network.to_ascii_lowercase();
            self.names.get(name.strip_suffix(&suffix)?.strip_suffix('.')?)
        })
    }

    /// The name of an address's owner, with the network's name as suffix.
    pub fn owner(&self, addr: Ipv4Addr) -> Option<String> {
        self.owners.get(&addr).map(|name| format!("{name}.{}", self.network))
    }

    /// The names of a cluster network: services by virtual address or by their tasks, `tasks.<service>`, tasks, and attached
    /// containers with their aliases.
    pub fn of_cluster(network: &ClusterNetwork) -> Self {
        let mut zone = Self::new(network.record.name.clone());
        let serving = network.endpoints.values().filter(|endpoint| endpoint.serving);
        let mut backends: BTreeMap<_, Vec<Ipv4Addr>> = BTreeMap::new();
        for endpoint in serving {
            if let Some(service) = endpoint.service {
                backends.entry(service).or_default().push(endpoint.addr);
            }
        }
        for (id, service) in &network.services {
            let tasks = backends.get(id).map(Vec::as_slice).unwrap_or_default();
            let names = std::iter::once(&service.name).chain(&service.aliases);
            for name in names {
                let own = format!("tasks.{name}");
                zone.announce(name);
                zone.announce(&own);
                match (service.mode, service.virtual_ip) {
                    (EndpointMode::Vip, Some(addr)) => zone.add(name, addr),
                    _ => tasks.iter().for_each(|addr| zone.add(name, *addr)),
                }
                tasks.iter().for_each(|addr| zone.add(&own, *addr));
            }
            if let Some(addr) = service.virtual_ip {
                zone.own(addr, &service.name);
            }
        }
        for (owner, endpoint) in &network.endpoints {
            if matches!(owner, EndpointOwner::Task(_) | EndpointOwner::Attachment(_)) {
                zone.add(&endpoint.name, endpoint.addr);
                endpoint.aliases.iter().for_each(|alias| zone.add(alias, endpoint.addr));
                zone.own(endpoint.addr, &endpoint.name);
            }
        }
        zone
    }
}

/// What one sandbox sees: the zones of its networks, in order.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The zones.
    pub zones: Vec<SharedZone>,
    /// Names of its own for others.
    pub links: BTreeMap<String, String>,
    /// May other names be asked of the host's name servers?
    pub forward: bool,
}

impl View {
    /// The addresses of a name; `None` when no zone knows it.
    pub fn resolve(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let name = self.links.get(name).map_or(name, String::as_str);
        let mut known = None;
        for zone in &self.zones {
            let zone = zone.load();
            if let Some(addrs) = zone.resolve(name) {
                if !addrs.is_empty() {
                    return Some(addrs.iter().copied().collect());
                }
                known = Some(Vec::new());
            }
        }
        known
    }

    /// The name of an address's owner.
    pub fn owner(&self, addr: Ipv4Addr) -> Option<String> {
        self.zones.iter().find_map(|zone| zone.load().owner(addr))
    }
}
