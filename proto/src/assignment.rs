//! What a manager tells one node: a keyed set of things, sent whole once and then as differences.
//!
//! The set holds the node's tasks and attachments, and just the secrets, configs and network records that these need. Every item has a
//! key, a put replaces what stood under it, and an agent that has missed a difference asks for the whole set again.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::id::{AttachmentId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use crate::object::{Attachment, Config, Secret, Task};
use crate::spec::{EndpointMode, PortConfig};

/// What an item of the set is filed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AssignmentKey {
    /// A secret.
    Secret(SecretId),
    /// A config.
    Config(ConfigId),
    /// A network that a task or an attached container of this node is on, and the routing mesh.
    Network(NetworkId),
    /// An address on such a network, of a task, an attached container or a node anywhere in the cluster.
    Endpoint(NetworkId, EndpointOwner),
    /// A service's name and virtual address on such a network.
    Service(NetworkId, ServiceId),
    /// Ports that a service publishes on every node.
    Published(ServiceId),
    /// A task.
    Task(TaskId),
    /// A container of this node that is no task, on a network.
    Attachment(AttachmentId),
}

/// Who holds an address on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EndpointOwner {
    /// A task.
    Task(TaskId),
    /// A node, on the routing mesh.
    Node(NodeId),
    /// A container that is no task.
    Attachment(AttachmentId),
}

/// An item of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignmentItem {
    /// A secret, payload included.
    Secret(Arc<Secret>),
    /// A config, payload included.
    Config(Arc<Config>),
    /// A network.
    Network(NetworkRecord),
    /// An address on a network.
    Endpoint(EndpointRecord),
    /// A service on a network.
    Service(ServiceRecord),
    /// A service's published ports.
    Published(PublishedRecord),
    /// A task to run, or to stop: see its desired state.
    Task(Arc<Task>),
    /// A container of this node that is no task, on a network.
    Attachment(Arc<Attachment>),
}

impl AssignmentItem {
    /// What the item is filed under.
    pub fn key(&self) -> AssignmentKey {
        match self {
            Self::Secret(secret) => AssignmentKey::Secret(secret.id),
            Self::Config(config) => AssignmentKey::Config(config.id),
            Self::Network(network) => AssignmentKey::Network(network.id),
            Self::Endpoint(endpoint) => AssignmentKey::Endpoint(endpoint.network, endpoint.owner),
            Self::Service(service) => AssignmentKey::Service(service.network, service.service),
            Self::Published(published) => AssignmentKey::Published(published.service),
            Self::Task(task) => AssignmentKey::Task(task.id),
            Self::Attachment(attachment) => AssignmentKey::Attachment(attachment.id),
        }
    }
}

/// A network as a node needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Identity.
    pub id: NetworkId,
    /// Name, for display and DNS.
    pub name: String,
    /// `overlay`, `host` or `bridge`.
    pub driver: String,
    /// Subnet; `None` for predefined networks.
    pub subnet: Option<Ipv4Net>,
    /// Gateway address in the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// VXLAN network identifier; 0 for predefined networks.
    pub vni: u32,
    /// MTU of the containers' interfaces; 0 derives it from the underlay (its MTU less 50).
    pub mtu: u32,
    /// No way out of the cluster?
    pub internal: bool,
    /// Is it the routing mesh?
    pub ingress: bool,
    /// May plain containers attach?
    pub attachable: bool,
    /// This node's own address on it (routing mesh only).
    pub node_address: Option<Ipv4Addr>,
}

/// An address on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The network.
    pub network: NetworkId,
    /// Who holds it.
    pub owner: EndpointOwner,
    /// The address. The hardware address follows from it: 02:42 and its four bytes.
    pub addr: Ipv4Addr,
    /// Node it lives on.
    pub node: NodeId,
    /// Where overlay frames for that node go; `None` until the node said so.
    pub node_addr: Option<IpAddr>,
    /// The service it serves; `None` for nodes and attached containers.
    pub service: Option<ServiceId>,
    /// DNS name of the task, `<service>.<slot>.<task id>`, or of the attached container; empty for nodes.
    pub name: String,
    /// More DNS names: of an attached container those that it was given, of a running task its container's short id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Does it take traffic: is the task running, and wanted so?
    pub serving: bool,
}

/// A service on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// The network.
    pub network: NetworkId,
    /// The service.
    pub service: ServiceId,
    /// Its name: resolves to the virtual address, or to all tasks in DNS round-robin mode.
    pub name: String,
    /// More names for it on this network.
    pub aliases: Vec<String>,
    /// How clients find it.
    pub mode: EndpointMode,
    /// Its virtual address; `None` in DNS round-robin mode.
    pub virtual_ip: Option<Ipv4Addr>,
}

/// A service's ports on the routing mesh. Its backends are its endpoints on the routing-mesh network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRecord {
    /// The service.
    pub service: ServiceId,
    /// Its ports in ingress mode.
    pub ports: Vec<PortConfig>,
}

/// A whole set, or a difference to the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AssignmentSet {
    /// Is this the whole set, which replaces everything known?
    pub complete: bool,
    /// Number of this message in its session, from 1 without gaps.
    pub sequence: u64,
    /// Version of the store that it leads to. It never goes back, whichever manager sends it; 0 is not known.
    pub version: u64,
    /// Items to add or replace.
    pub put: Vec<AssignmentItem>,
    /// Items to forget.
    pub remove: Vec<AssignmentKey>,
}
