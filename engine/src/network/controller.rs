//! The controller: the one object through which the engine uses networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use shoal_engine_sys::netns;
use shoal_proto::assignment::NetworkRecord;
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::NetworkId;
use tokio::task::AbortHandle;

use super::core::Core;
use super::definition::{Driver, GATEWAY_NETWORK};
use super::error::Result as NetworkResult;
use super::state::{Target, lock};
use super::types::{
    ClusterNetworkState, EndpointInfo, EndpointOptions, NetworkOptions, NetworkStatus, OverlayAttachment, PortPublish,
    Sandbox, SandboxOptions, SandboxUser,
};
use super::{files, inspect, resync};
use crate::model::Filters;
use crate::model::network::{
    NetworkContainer, NetworkCreate, NetworkCreateResponse, NetworkInspect, NetworksPruneReport,
};

/// Networks of this node. A cheap clone.
///
/// A container's life: [`create_sandbox`](Self::create_sandbox), then [`attach`](Self::attach) or
/// [`attach_cluster`](Self::attach_cluster), run, [`destroy_sandbox`](Self::destroy_sandbox). All of it is carried out
/// when the call returns. A controller that is dropped or shut down leaves everything in the kernel; the next one with
/// the same folders takes it over.
#[derive(Debug, Clone)]
pub struct NetworkController {
    core: Arc<Core>,
    timer: Arc<Mutex<Option<AbortHandle>>>,
}

impl NetworkController {
    /// Reads the local networks, makes the default bridge, takes over the sandboxes of an earlier run, starts the
    /// comparison with the kernel. Call [`Self::restore`] next.
    ///
    /// # Errors
    /// When the folders or the kernel's network cannot be used.
    pub async fn open(options: NetworkOptions) -> Result<Self, Failure> {
        let every = options.resync;
        let open = move || {
            let core = Core::new(options)?;
            core.take_over()?;
            Ok(core)
        };
        let core = Arc::new(blocking(open).await?);
        let timer = tokio::spawn(resync::run(Arc::downgrade(&core), every)).abort_handle();
        Ok(Self { core, timer: Arc::new(Mutex::new(Some(timer))) })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Core) -> NetworkResult<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let core = Arc::clone(&self.core);
        blocking(move || work(&core)).await
    }

    /// After a restart: keeps the sandboxes of these containers as they are, destroys all others.
    ///
    /// # Errors
    /// When something could not be taken down; the rest was.
    pub async fn restore(&self, live: &BTreeSet<String>) -> Result<(), Failure> {
        let live = live.clone();
        self.run(move |core| core.restore(&live)).await
    }

    /// Makes a local network.
    ///
    /// # Errors
    /// Name taken, subnet in use, bad option.
    pub async fn create_network(&self, request: NetworkCreate) -> Result<NetworkCreateResponse, Failure> {
        self.run(move |core| core.create_network(request)).await
    }

    /// Removes a local network by name, id or prefix of the id. Returns its name and id.
    ///
    /// # Errors
    /// Unknown, predefined, or in use.
    pub async fn remove_network(&self, name: &str) -> Result<(String, String), Failure> {
        let name = name.to_owned();
        self.run(move |core| core.remove_network(&name)).await
    }

    /// A local network by name, id or prefix of the id, with its containers.
    ///
    /// # Errors
    /// Unknown or ambiguous.
    pub fn inspect_network(&self, name: &str) -> Result<NetworkInspect, Failure> {
        let state = lock(&self.core.state);
        let network = state.network(name)?;
        if network.is_absent() {
            return Err(Failure::not_found(format!("network {name} not found")));
        }
        Ok(NetworkInspect { containers: inspect::containers(&state, &network.id), ..network.inspect() })
    }

    /// Is there a local network of this name, id or beginning of an id?
    pub fn has_network(&self, name: &str) -> bool {
        lock(&self.core.state).network(name).is_ok()
    }

    /// Containers that are no tasks, and the cluster networks that they are on without a place there, by name. All places
    /// that there are on this node are `held`.
    pub fn lost_places(&self, held: &BTreeSet<(String, NetworkId, Ipv4Addr)>) -> Vec<(String, String)> {
        lock(&self.core.state).lost_places(held)
    }

    /// The containers of this node on a cluster network, by container id.
    pub fn cluster_containers(&self, network: NetworkId) -> BTreeMap<String, NetworkContainer> {
        inspect::cluster_containers(&lock(&self.core.state), &network.to_string())
    }

    /// The cluster networks that this node was told of.
    pub fn cluster_networks(&self) -> Vec<NetworkRecord> {
        let cluster = lock(&self.core.state).cluster.clone();
        cluster.iter().flat_map(|cluster| cluster.networks.values()).map(|network| network.record.clone()).collect()
    }

    /// The local networks that pass the filters (`dangling driver id label name scope type`), without containers.
    ///
    /// # Errors
    /// Unknown filter.
    pub fn list_networks(&self, filters: &Filters) -> Result<Vec<NetworkInspect>, Failure> {
        let state = lock(&self.core.state);
        let mut list = Vec::new();
        for network in state.networks.values().filter(|network| !network.is_absent()) {
            if inspect::passes(network, &state, filters)? {
                list.push(network.inspect());
            }
        }
        Ok(list)
    }

    /// Removes unused local networks that pass the filters (`label label! until`).
    ///
    /// # Errors
    /// Unknown filter.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<NetworksPruneReport, Failure> {
        let filters = filters.clone();
        self.run(move |core| {
            let mut names = Vec::new();
            {
                let state = lock(&core.state);
                for network in state.networks.values() {
                    if inspect::prunable(network, &state, &filters, core.options.clock.now())? {
                        names.push(network.name.clone());
                    }
                }
            }
            // One that came into use meanwhile is left.
            names.retain(|name| core.remove_network(name).is_ok());
            Ok(NetworksPruneReport { networks_deleted: (!names.is_empty()).then_some(names) })
        })
        .await
    }

    /// Makes a namespace with its loopback link up, at `<exec_root>/netns/<id>`.
    ///
    /// # Errors
    /// The id is in use, or the kernel refuses.
    pub async fn create_sandbox(
        &self,
        id: &str,
        options: SandboxOptions,
        user: SandboxUser,
    ) -> Result<Sandbox, Failure> {
        let id = id.to_owned();
        let made = self.run(move |core| core.create_sandbox(&id, options, &user)).await;
        refill(&self.core);
        made
    }

    /// A sandbox that exists and has a namespace of its own.
    pub fn sandbox(&self, id: &str) -> Option<Sandbox> {
        let live = lock(&self.core.state).live.get(id).cloned()?;
        let user = self.core.user_path(id);
        Some(Sandbox { id: id.to_owned(), path: live.path.clone(), user: netns::is_bound(&user).then_some(user) })
    }

    /// Puts a sandbox on a local network and publishes its ports. On `host` and `none` it is only noted, and for `host`
    /// no sandbox needs to be made before.
    ///
    /// # Errors
    /// Unknown sandbox or network, address or port in use, no address left.
    pub async fn attach(&self, id: &str, network: &str, options: EndpointOptions) -> Result<EndpointInfo, Failure> {
        let (id, network) = (id.to_owned(), network.to_owned());
        self.run(move |core| core.attach(&id, &network, &options)).await
    }

    /// Puts a sandbox on cluster networks, and on the gateway bridge for the way out (unless all are internal), where
    /// `ports` (host mode) are published. The gateway's endpoint comes last in the answer.
    ///
    /// # Errors
    /// Unknown sandbox, a network that `apply_cluster` has not brought, port in use. Nothing is attached then.
    pub async fn attach_cluster(
        &self,
        id: &str,
        attachments: Vec<OverlayAttachment>,
        ports: Vec<PortPublish>,
    ) -> Result<Vec<EndpointInfo>, Failure> {
        let id = id.to_owned();
        self.run(move |core| core.attach_cluster(&id, &attachments, &ports)).await
    }

    /// Takes a sandbox off a network (name or id).
    ///
    /// # Errors
    /// Not connected.
    pub async fn detach(&self, id: &str, network: &str) -> Result<EndpointInfo, Failure> {
        let (id, network) = (id.to_owned(), network.to_owned());
        self.run(move |core| core.detach(&id, &network)).await
    }

    /// Takes a sandbox off all networks and removes its namespace. No error if there is none.
    ///
    /// # Errors
    /// When something could not be taken down; the rest was.
    pub async fn destroy_sandbox(&self, id: &str) -> Result<(), Failure> {
        let id = id.to_owned();
        self.run(move |core| core.destroy_sandbox(&id)).await
    }

    /// Names that only this container knows, and what each stands for: they hold from its next attachment on.
    pub fn set_links(&self, id: &str, links: BTreeMap<String, String>) {
        self.core.set_links(id, links);
    }

    /// Gives the container a new name, for DNS and inspect.
    pub fn rename(&self, id: &str, name: &str) {
        self.core.rename(id, name);
    }

    /// Where a sandbox is attached, in the order of attachment.
    pub fn endpoints(&self, id: &str) -> Vec<EndpointInfo> {
        let state = lock(&self.core.state);
        let endpoints = state.records.get(id).map(|record| record.endpoints.as_slice()).unwrap_or_default();
        endpoints.iter().map(|endpoint| endpoint.info.clone()).collect()
    }

    /// The network that a sandbox's default route goes through, by name.
    pub fn default_gateway(&self, id: &str) -> Option<String> {
        let state = lock(&self.core.state);
        state.gateway(state.records.get(id)?).map(|endpoint| endpoint.info.network_name.clone())
    }

    /// Contents of the container's `/etc/hosts`: loopback, `extra_hosts` (`name:address`, where `host-gateway` stands
    /// for the host), own addresses.
    pub fn hosts_file(&self, id: &str, hostname: &str, domain: &str, extra_hosts: &[String]) -> String {
        let state = lock(&self.core.state);
        let bridge = || state.network("bridge").ok().and_then(|network| Some(network.bridge.as_ref()?.gateway));
        let gateway = self.core.options.local.host_gateway.or_else(bridge);
        files::hosts(&own_addresses(&state, id), hostname, domain, extra_hosts, gateway)
    }

    /// Contents of the container's `/etc/resolv.conf`. A container on the host's network gets the host's.
    pub fn resolv_conf(&self, id: &str, options: &SandboxOptions) -> String {
        let read = |path: &std::path::Path| std::fs::read_to_string(path);
        let mut host = read(&self.core.options.resolv_conf).unwrap_or_default();
        let mut state = lock(&self.core.state);
        let on_host = state.records.get(id).is_none_or(|record| !record.own_namespace);
        let plain = options.dns.is_empty() && options.dns_search.is_empty() && options.dns_options.is_empty();
        if on_host && plain {
            return host;
        }
        if host.lines().any(|line| line.trim() == "nameserver 127.0.0.53") {
            host = read(files::SYSTEMD_RESOLV_CONF.as_ref()).unwrap_or(host);
        }
        files::resolv_conf(&host, options, state.view(id).is_some())
    }

    /// Replaces what is known of the cluster's networks, and brings the kernel in line before it returns.
    ///
    /// # Errors
    /// When the kernel could not be brought in line; it is tried again with every resync.
    pub async fn apply_cluster(&self, state: ClusterNetworkState) -> Result<(), Failure> {
        self.run(move |core| core.apply_cluster(state)).await
    }

    /// Compares kernel and desired tables now, and repairs.
    pub async fn resync(&self) -> NetworkStatus {
        self.run(|core| Ok(core.resync())).await.unwrap_or_default()
    }

    /// What the last comparison found.
    pub fn status(&self) -> NetworkStatus {
        let repaired = self.core.repaired.load(std::sync::atomic::Ordering::Relaxed);
        NetworkStatus { repaired, problems: lock(&self.core.problems).clone() }
    }

    /// Stops the name servers and the comparison. Namespaces, links and rules stay for the next daemon.
    pub async fn shutdown(&self) {
        if let Some(timer) = lock(&self.timer).take() {
            timer.abort();
        }
        let _ = self
            .run(|core| {
                core.drop_spares();
                let _applying = lock(&core.applying);
                let live: Vec<_> = lock(&core.state).live.values().cloned().collect();
                live.iter().for_each(|sandbox| *lock(&sandbox.server) = None);
                let cluster = lock(&core.state).cluster.clone();
                cluster.map_or(Ok(()), |cluster| core.disk.save_cluster(&cluster))
            })
            .await;
    }

    /// Takes down everything of this instance: sandboxes, bridges, rules, mounts. For the end of a node's life.
    ///
    /// # Errors
    /// When something could not be taken down; the rest was.
    pub async fn purge(&self) -> Result<(), Failure> {
        if let Some(timer) = lock(&self.timer).take() {
            timer.abort();
        }
        self.run(|core| {
            core.drop_spares();
            core.purge()
        })
        .await
    }
}

/// Makes spare namespaces, and does not wait for them. Not before the first container: a daemon that is killed as soon as it
/// has started would hold its locks until the kernel has made the namespace.
fn refill(core: &Arc<Core>) {
    let core = Arc::clone(core);
    tokio::task::spawn_blocking(move || core.refill_spares());
}

/// The addresses that a container's name stands for: not those that only serve the way out or the routing mesh, unless
/// it has no others.
fn own_addresses(state: &super::state::State, id: &str) -> Vec<Ipv4Addr> {
    let Some(record) = state.records.get(id) else { return Vec::new() };
    let serves_itself = |endpoint: &&super::state::Endpoint| match &endpoint.target {
        Target::Local(network) => {
            state.networks.get(network).is_some_and(|n| n.driver == Driver::Bridge && n.name != GATEWAY_NETWORK)
        }
        Target::Cluster { network, .. } => !state.cluster_network(*network).is_some_and(|n| n.record.ingress),
    };
    let own: Vec<_> = record.endpoints.iter().filter(serves_itself).filter_map(|endpoint| endpoint.info.ip).collect();
    if own.is_empty() { record.endpoints.iter().filter_map(|endpoint| endpoint.info.ip).take(1).collect() } else { own }
}

/// Kernel work blocks: it is done on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> NetworkResult<T> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Failure::from),
        Err(error) => Err(Failure::new(ErrorKind::Internal, format!("a step of the network failed: {error}"))),
    }
}
