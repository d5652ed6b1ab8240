//! What callers of the network controller give and get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use shoal_kit::clock::{Clock, SystemClock};
use shoal_kit::entropy::Entropy;
use shoal_proto::assignment::{EndpointOwner, EndpointRecord, NetworkRecord, PublishedRecord, ServiceRecord};
use shoal_proto::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_proto::spec::Protocol;

use crate::options::LocalNetworkOptions;
use crate::remap::IdMap;

/// How the controller is set up.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Definitions of local networks live in `<data_root>/network`.
    pub data_root: PathBuf,
    /// Namespaces (`netns/`) and what is attached (`network/`) live here; lost with the machine's memory.
    pub exec_root: PathBuf,
    /// Address and subnet of the default bridge; `None` takes the first free pool, 172.17.0.0/16 before all.
    pub bip: Option<Ipv4Net>,
    /// Ids of the user namespaces that sandboxes may have.
    pub id_map: Option<IdMap>,
    /// The rest of what local networks are made of. The link of the engine's own default bridge is `shoal0`, with a suffix
    /// for daemons whose `exec_root` is not `/run/shoal`.
    pub local: LocalNetworkOptions,
    /// Name servers to forward to; empty means those of `resolv_conf`.
    pub dns: Vec<IpAddr>,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Namespace that counts as the host's; `None` is that of the daemon. For several hosts in one process.
    pub host_netns: Option<PathBuf>,
    /// How often the kernel's tables are compared with what they should be.
    pub resync: Duration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes ids and picks.
    pub entropy: Entropy,
}

impl NetworkOptions {
    /// The defaults for a daemon with these folders.
    pub fn new(data_root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>) -> Self {
        Self {
            data_root: data_root.into(),
            exec_root: exec_root.into(),
            bip: None,
            id_map: None,
            local: LocalNetworkOptions::default(),
            dns: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            host_netns: None,
            resync: Duration::from_secs(2),
            clock: Arc::new(SystemClock),
            entropy: Entropy::from_system(),
        }
    }
}

/// Subnets to take for networks made without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    /// All addresses.
    pub base: Ipv4Net,
    /// Prefix length of each subnet.
    pub size: u8,
}

/// A network namespace that a container joins by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Id of the container.
    pub id: String,
    /// The namespace: a file to open and `setns` to, or the path in an OCI spec.
    pub path: PathBuf,
    /// The user namespace that it belongs to, when that is not the host's.
    pub user: Option<PathBuf>,
}

/// The user namespace that a sandbox's network belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SandboxUser {
    /// The host's.
    #[default]
    Host,
    /// One of its own, with the ids of [`NetworkOptions::id_map`].
    Own,
    /// The one that is bound to this path.
    Of(PathBuf),
}

/// How names are resolved in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxOptions {
    /// Name of the container without the slash, shown by network inspect and resolved on user-defined networks.
    pub name: String,
    /// Name servers (`--dns`); empty means the host's.
    pub dns: Vec<String>,
    /// Search domains (`--dns-search`); empty means the host's, a single `.` none.
    pub dns_search: Vec<String>,
    /// Resolver options (`--dns-option`).
    pub dns_options: Vec<String>,
    /// Names that only this container knows, and what each stands for; in lower case.
    pub links: BTreeMap<String, String>,
}

/// How a sandbox is put on a local network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointOptions {
    /// Wanted address; `None` takes the next free one.
    pub ip: Option<Ipv4Addr>,
    /// Wanted hardware address, `02:42:ac:11:00:02`; `None` derives it from the address.
    pub mac: Option<String>,
    /// More DNS names on this network (user-defined networks only).
    pub aliases: Vec<String>,
    /// Host name of the container, one more DNS name.
    pub hostname: String,
    /// Ports to publish.
    pub ports: Vec<PortPublish>,
    /// The endpoint with the highest value is the default gateway; among equals the first.
    pub gateway_priority: i64,
    /// Name of the link in the sandbox; `None` takes the next `eth<n>`.
    pub interface: Option<String>,
    /// More addresses of the link, of 169.254.0.0/16.
    pub link_local: Vec<Ipv4Addr>,
    /// Kernel settings of the link: paths below `/proc/sys`, with `IFNAME` for its name, and values.
    pub sysctls: Vec<(String, String)>,
}

/// A wish to publish a port of a container on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPublish {
    /// Host address; `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// First host port; 0 lets the node choose one.
    pub host_port: u16,
    /// Last host port of a range to choose from; equal to `host_port` for exactly that port.
    pub host_port_end: u16,
    /// Port in the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl PortPublish {
    /// Publishes `container_port` as `host_port` (0: any) on every address of the host.
    pub fn new(host_port: u16, container_port: u16, protocol: Protocol) -> Self {
        Self { host_ip: None, host_port, host_port_end: host_port, container_port, protocol }
    }
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Host address; `0.0.0.0` is every address.
    pub host_ip: IpAddr,
    /// Host port.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// A sandbox's place on a network, local or cluster-wide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// Id of the network.
    pub network_id: String,
    /// Its name.
    pub network_name: String,
    /// Id of this endpoint: 64 hex digits.
    pub endpoint_id: String,
    /// Link in the sandbox, `eth0`; empty on `host` and `none`.
    pub interface: String,
    /// Address; `None` on `host` and `none`.
    pub ip: Option<Ipv4Addr>,
    /// Prefix length of the address's subnet.
    pub prefix_len: u8,
    /// Gateway; `None` on internal and cluster networks.
    pub gateway: Option<Ipv4Addr>,
    /// Hardware address, `02:42:ac:11:00:02`; empty on `host` and `none`.
    pub mac: String,
    /// Names other than the container's.
    pub aliases: Vec<String>,
    /// All names that resolve to it on this network.
    pub dns_names: Vec<String>,
    /// Published ports.
    pub ports: Vec<PublishedPort>,
}

/// A task's place on a cluster network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayAttachment {
    /// The network. It must be part of the state given to `apply_cluster` before.
    pub network: NetworkId,
    /// The address that the cluster's allocator gave.
    pub addr: Ipv4Addr,
    /// The task; `None` for a container that is none, on an attachable network.
    pub task: Option<TaskId>,
    /// The service, if any.
    pub service: Option<ServiceId>,
    /// More DNS names.
    pub aliases: Vec<String>,
    /// Host name of the container, a DNS name on this node.
    pub hostname: String,
}

/// All that a node must know of the cluster's networks. Level-triggered: each call replaces what was known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetworkState {
    /// This node.
    pub node_id: NodeId,
    /// Its underlay address.
    pub data_path_addr: IpAddr,
    /// UDP port of VXLAN, 4789 by default.
    pub data_path_port: u16,
    /// Cluster networks that matter here.
    pub networks: BTreeMap<NetworkId, ClusterNetwork>,
    /// Ports of the routing mesh.
    pub published: BTreeMap<ServiceId, PublishedRecord>,
}

/// A cluster network, its endpoints anywhere in the cluster, and its services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetwork {
    /// The network.
    pub record: NetworkRecord,
    /// Addresses on it.
    pub endpoints: BTreeMap<EndpointOwner, EndpointRecord>,
    /// Services on it.
    pub services: BTreeMap<ServiceId, ServiceRecord>,
}

/// What the last comparison with the kernel found, and what it could not repair.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Differences repaired since the start that no caller had asked for.
    pub repaired: u64,
    /// What is still not as it should be, in words; empty when all is well.
    pub problems: BTreeSet<String>,
}
