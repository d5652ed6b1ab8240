//! The state, the sockets, and the steps that everything else is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use shoal_engine_sys::netlink::{Family, NetlinkSocket, conntrack};
use shoal_engine_sys::netns::{self, Namespace};
use shoal_engine_sys::nft::Table;
use shoal_proto::id::NetworkId;
use shoal_proto::spec::Protocol;
use tokio::runtime::Handle;

use super::disk::Disk;
use super::dns::server::{NameServer, Shared, Sockets};
use super::error::{NetworkError, Result};
use super::overlay::device::Overlay;
use super::ports::PortKey;
use super::relay::Dial;
use super::rules::host::{BridgeRules, HostRules, MeshPort, lost_backends};
use super::spares::Fresh;
use super::state::{LiveSandbox, SandboxKernel, State, lock, rotation};
use super::types::{NetworkOptions, PublishedPort};

const DEFAULT_EXEC_ROOT: &str = "/run/shoal";
/// Name of the table in every sandbox.
const SANDBOX_TABLE: &str = "shoal";
const SETTING_FORWARD: &str = "ipv4/ip_forward";

/// All there is, shared by the handles and the periodic comparison.
///
/// Locks are taken in this order: `applying`, `overlays`, `rules`, a sandbox's `kernel` and then its `server`, `route`,
/// `ingress_applied`, `state`. Under the others nothing is taken.
#[derive(Debug)]
pub(super) struct Core {
    /// How it was set up.
    pub options: NetworkOptions,
    /// Name of the table, and mark of our rules in tables of others.
    pub owner: String,
    /// Ending of link names: empty for the default `exec_root`.
    pub tag: String,
    /// Device group of our links: by it the next daemon knows them.
    pub group: u32,
    /// The files.
    pub disk: Disk,
    /// The host's namespace.
    pub home: Namespace,
    home_is_elsewhere: bool,
    /// Links, addresses and routes of the host's namespace.
    pub route: Mutex<NetlinkSocket>,
    /// The table of the host's namespace.
    pub rules: Mutex<Table>,
    /// What is known.
    pub state: Mutex<State>,
    /// Cluster networks in the kernel.
    pub overlays: Mutex<BTreeMap<NetworkId, Overlay>>,
    /// Held while a state of the cluster is brought to the kernel.
    pub applying: Mutex<()>,
    /// The host's name servers.
    pub host_servers: Arc<ArcSwap<Vec<SocketAddr>>>,
    runtime: Handle,
    folder_ready: AtomicBool,
    /// Differences repaired that nobody had asked for.
    pub repaired: AtomicU64,
    /// What is not as it should be.
    pub problems: Mutex<BTreeSet<String>>,
    /// Is the state of the cluster to be written?
    pub cluster_dirty: AtomicBool,
    /// Ports of the routing mesh as they were last given to the kernel.
    mesh_applied: Mutex<Vec<MeshPort>>,
    /// The underlay address and what its link takes, as last looked up.
    pub underlay: Mutex<Option<(IpAddr, u32)>>,
    /// The host's place on the routing mesh as it was last seen to be right.
    pub ingress_applied: Mutex<Option<Ingress>>,
    /// Namespaces made before somebody needs them.
    pub spares: Mutex<Vec<Fresh>>,
    /// Are spares wanted? Not at the end.
    pub keeps_spares: AtomicBool,
}

/// The network of the routing mesh, this node's address on it, and the prefix length of its subnet.
pub(super) type Ingress = (NetworkId, Ipv4Addr, u8);

/// The ports of IPv6, and where they lead.
fn relays(published: &[(PublishedPort, Ipv4Addr)]) -> BTreeMap<PortKey, SocketAddrV4> {
    let of_version_6 = published.iter().filter(|(port, _)| port.host_ip.is_ipv6());
    let lead = of_version_6.map(|(port, addr)| {
        let key = PortKey { protocol: port.protocol, port: port.host_port, host_ip: port.host_ip };
        (key, SocketAddrV4::new(*addr, port.container_port))
    });
    lead.collect()
}

impl Core {
    /// Opens sockets and folders. Must run inside a runtime.
    ///
    /// # Errors
    /// When the host's namespace or the folders cannot be used.
    pub(super) fn new(options: NetworkOptions) -> Result<Self> {
        let home = match &options.host_netns {
            Some(path) => Namespace::open(path).map_err(NetworkError::io(format!("open {}", path.display())))?,
            None => Namespace::current().map_err(NetworkError::io("open the network namespace"))?,
        };
        let home_is_elsewhere = options.host_netns.is_some();
        let open = || Ok((NetlinkSocket::open(Family::Route)?, NetlinkSocket::open(Family::Netfilter)?));
        let sockets = if home_is_elsewhere { home.enter(open) } else { Ok(open()) };
        let (route, netfilter) = sockets.and_then(|opened| opened).map_err(NetworkError::io("open netlink sockets"))?;
        let tag = if options.exec_root.as_os_str() == DEFAULT_EXEC_ROOT {
            String::new()
        } else {
            format!("{:08x}", hash(options.exec_root.as_os_str().as_bytes()))
        };
        let owner = if tag.is_empty() { "shoal".to_owned() } else { format!("shoal_{tag}") };
        Ok(Self {
            group: hash(owner.as_bytes()) | 1,
            disk: Disk::open(&options.data_root, &options.exec_root)?,
            home,
            home_is_elsewhere,
            route: Mutex::new(route),
            rules: Mutex::new(Table::new(netfilter, owner.clone())),
            state: Mutex::default(),
            overlays: Mutex::default(),
            applying: Mutex::default(),
            host_servers: Arc::default(),
            runtime: Handle::current(),
            folder_ready: AtomicBool::new(false),
            repaired: AtomicU64::new(0),
            problems: Mutex::default(),
            cluster_dirty: AtomicBool::new(false),
            mesh_applied: Mutex::default(),
            underlay: Mutex::default(),
            ingress_applied: Mutex::default(),
            spares: Mutex::default(),
            keeps_spares: AtomicBool::new(true),
            owner,
            tag,
            options,
        })
    }

    /// Runs something in the host's namespace.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub(super) fn at_home<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        if !self.home_is_elsewhere {
            return Ok(work());
        }
        self.home.enter(work).map_err(NetworkError::io("enter the host's network namespace"))
    }

    /// The folder that namespaces are bound in.
    pub(super) fn netns_folder(&self) -> PathBuf {
        self.options.exec_root.join("netns")
    }

    /// Makes that folder ready.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn prepare_netns_folder(&self) -> Result<()> {
        if self.folder_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let folder = self.netns_folder();
        netns::prepare_folder(&folder).map_err(NetworkError::io(format!("prepare {}", folder.display())))?;
        self.folder_ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Name of a link of ours: `shoal_gwbridge`, or with the ending for other daemons `gw_1a2b3c4d`.
    pub(super) fn link_name(&self, plain: &str, short: &str) -> String {
        if self.tag.is_empty() { plain.to_owned() } else { format!("{short}_{}", self.tag) }
    }

    /// A fresh name for the end of a veth pair.
    pub(super) fn veth_name(&self) -> String {
        format!("veth{:07x}", self.options.entropy.next_u64() & 0x0fff_ffff)
    }

    /// A fresh 64-digit id.
    pub(super) fn fresh_id(&self) -> String {
        (0..4).map(|_| format!("{:016x}", self.options.entropy.next_u64())).collect()
    }

    /// Lets the host forward packets.
    ///
    /// # Errors
    /// When the setting cannot be written.
    pub(super) fn ensure_forwarding(&self) -> Result<bool> {
        if !self.options.local.forwarding {
            return Ok(false);
        }
        let work = || {
            if netns::read_setting(SETTING_FORWARD)? == "1" {
                return Ok(false);
            }
            netns::write_setting(SETTING_FORWARD, "1").map(|()| true)
        };
        self.at_home(work)?.map_err(NetworkError::io("switch on net.ipv4.ip_forward"))
    }

    /// Sets a link of the host up for what is published on loopback, and off from IPv6.
    ///
    /// # Errors
    /// When loopback routing cannot be switched on.
    pub(super) fn link_settings(&self, name: &str) -> Result<()> {
        let work = || {
            // Absent on kernels without IPv6.
            let _ = netns::write_setting(&format!("ipv6/conf/{name}/disable_ipv6"), "1");
            netns::write_setting(&format!("ipv4/conf/{name}/route_localnet"), "1")
        };
        self.at_home(work)?.map_err(NetworkError::io(format!("switch on net.ipv4.conf.{name}.route_localnet")))
    }

    /// What the host's rules are to follow from.
    fn host_rules(&self, state: &State) -> HostRules {
        if !self.options.local.rules {
            return HostRules::default();
        }
        let bridges = state.bridges().map(|(network, bridge)| BridgeRules {
            link: bridge.link.clone(),
            subnet: bridge.subnet,
            internal: network.internal,
            icc: bridge.icc,
            masquerade: bridge.masquerade,
        });
        let endpoints = state.records.values().flat_map(|record| &record.endpoints);
        let published = endpoints.flat_map(|endpoint| {
            let addr = endpoint.info.ip;
            endpoint.info.ports.iter().filter_map(move |port| Some((port.clone(), addr?)))
        });
        let mut rules = HostRules {
            bridges: bridges.collect(),
            published: published.collect(),
            rotation: rotation(&self.owner),
            ..HostRules::default()
        };
        let Some(cluster) = &state.cluster else { return rules };
        let ingress = cluster.networks.values().find(|network| network.record.ingress);
        let Some(ingress) = ingress.filter(|network| network.record.node_address.is_some()) else { return rules };
        rules.ingress = Some(self.ingress_link());
        rules.rotation = rules.rotation.wrapping_add(rotation(&cluster.node_id.to_string()));
        let serving = state.serving.get(&ingress.record.id);
        for (service, record) in &cluster.published {
            let backends = serving.and_then(|serving| serving.get(service)).cloned().unwrap_or_default();
            rules.mesh.extend(record.ports.iter().filter(|port| port.published != 0).map(|port| MeshPort {
                protocol: port.protocol,
                published: port.published,
                target: port.target,
                backends: backends.clone(),
            }));
        }
        rules
    }

    /// Name of the host's link into the routing mesh.
    pub(super) fn ingress_link(&self) -> String {
        self.link_name("shoal_ingress", "ing")
    }

    /// Brings the host's rules in line with what is known.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn sync_host_rules(&self) -> Result<()> {
        let mut table = lock(&self.rules);
        let dial = Dial { namespace: self.options.host_netns.clone() };
        let wanted = self.at_home(|| {
            let mut state = lock(&self.state);
            let wanted = self.host_rules(&state);
            state.ports.relay(&relays(&wanted.published), &dial, &self.runtime);
            wanted
        })?;
        table.apply(&wanted.ruleset())?;
        let mut applied = lock(&self.mesh_applied);
        let lost = lost_backends(&applied, &wanted.mesh);
        *applied = wanted.mesh;
        drop(applied);
        if lost.is_empty() {
            return Ok(());
        }
        let forgotten = conntrack::forget(table.socket(), |connection| {
            let gone = lost.get(&connection.destination_port);
            connection.protocol == 17 && gone.is_some_and(|gone| gone.contains(&connection.answers_from))
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, "old connections to UDP ports of the routing mesh may go astray");
        }
        Ok(())
    }

    /// Forgets connections that would go on leading to where these UDP ports led before.
    pub(super) fn forget_connections(&self, ports: &[PublishedPort]) {
        let udp: Vec<_> = ports.iter().filter(|port| port.protocol == Protocol::Udp).map(|p| p.host_port).collect();
        if udp.is_empty() {
            return;
        }
        let mut table = lock(&self.rules);
        let forgotten = conntrack::forget(table.socket(), |connection| {
            connection.protocol == 17 && udp.contains(&connection.destination_port)
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, "old connections to published UDP ports may go astray");
        }
    }

    /// Brings a sandbox's name server and rules in line with what is known.
    ///
    /// # Errors
    /// When sockets cannot be opened in it, or the kernel refuses the rules.
    pub(super) fn sync_sandbox(&self, id: &str) -> Result<()> {
        let Some(live) = lock(&self.state).live.get(id).cloned() else { return Ok(()) };
        // Before the look at what is wanted: whoever looks later, applies later.
        let mut kernel = lock(&live.kernel);
        let (view, mut rules, wanted_ports, dns) = {
            let mut state = lock(&self.state);
            let view = state.view(id);
            // Gone meanwhile.
            let Some(record) = state.records.get(id) else { return Ok(()) };
            (view, state.sandbox_rules(id), record.name_ports, record.options.dns.clone())
        };
        let mut server = lock(&live.server);
        match (view, server.as_ref()) {
            (None, _) => (*server, kernel.unused) = (None, None),
            (Some(view), Some(server)) => server.show(view),
            (Some(view), None) => {
                let (sockets, table) = match kernel.unused.take().filter(|_| wanted_ports.is_none()) {
                    Some((sockets, netfilter)) => (sockets, Some(Table::new(netfilter, SANDBOX_TABLE))),
                    None => self.open_in(&live, wanted_ports, kernel.rules.is_none())?,
                };
                kernel.rules = kernel.rules.take().or(table);
                let ports = sockets.ports().map_err(NetworkError::io("read the name server's ports"))?;
                let shared = Shared {
                    view: ArcSwap::from_pointee(view),
                    servers: dns
                        .iter()
                        .filter_map(|addr| addr.parse().ok())
                        .map(|addr| SocketAddr::new(addr, 53))
                        .collect(),
                    host_servers: Arc::clone(&self.host_servers),
                    entropy: self.options.entropy.clone(),
                };
                let started = NameServer::start(sockets, Arc::new(shared), &self.runtime);
                *server = Some(started.map_err(NetworkError::io("start the name server"))?);
                if let Some(record) = lock(&self.state).records.get_mut(id) {
                    record.name_ports = Some(ports);
                }
            }
        }
        let name_ports = lock(&self.state).records.get(id).and_then(|record| record.name_ports);
        rules.names = name_ports.filter(|_| server.is_some());
        drop(server);
        let SandboxKernel { rules: table, applied, .. } = &mut *kernel;
        if let Some(table) = table {
            if *applied == rules && table.applied().is_some() {
                return Ok(());
            }
            table.apply(&rules.ruleset())?;
            let before = std::mem::replace(&mut kernel.applied, rules);
            self.forget_backends(&mut kernel, &before);
        }
        Ok(())
    }

    /// Opens the sockets of a name server, and of the rules if wanted, in a sandbox.
    fn open_in(&self, live: &LiveSandbox, ports: Option<(u16, u16)>, rules: bool) -> Result<(Sockets, Option<Table>)> {
        let what = || format!("open sockets in {}", live.path.display());
        let namespace = live.namespace().map_err(NetworkError::io(what()))?;
        let opened = namespace.enter(|| {
            let netfilter = rules.then(|| NetlinkSocket::open(Family::Netfilter)).transpose()?;
            Ok((Sockets::open(ports)?, netfilter))
        });
        let (sockets, netfilter) = opened.and_then(|opened| opened).map_err(NetworkError::io(what()))?;
        Ok((sockets, netfilter.map(|socket| Table::new(socket, SANDBOX_TABLE))))
    }

    /// UDP has no end of a connection: forgets those that lead to backends which are no more.
    fn forget_backends(&self, kernel: &mut SandboxKernel, before: &super::rules::sandbox::SandboxRules) {
        let after = &kernel.applied.virtual_addresses;
        let lost = before.virtual_addresses.iter().any(|(addr, behind)| {
            behind.iter().any(|backend| after.get(addr).is_none_or(|now| !now.contains(backend)))
        });
        let (true, Some(table)) = (lost, &mut kernel.rules) else { return };
        let old = &before.virtual_addresses;
        let forgotten = conntrack::forget(table.socket(), |connection| {
            let behind = after.get(&connection.destination);
            connection.protocol == 17
                && old.contains_key(&connection.destination)
                && behind.is_none_or(|now| !now.contains(&connection.answers_from))
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, "old connections to a virtual address may go astray");
        }
    }

    /// Writes a sandbox's record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn save_sandbox(&self, id: &str) -> Result<()> {
        let record = lock(&self.state).records.get(id).cloned();
        record.map_or(Ok(()), |record| self.disk.save_sandbox(&record))
    }
}

fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
