//! Cluster-wide networks and how services attach to them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::Labels;
use crate::id::NetworkId;

/// A cluster-wide network as its user made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Unique name.
    pub name: String,
    /// User labels.
    pub labels: Labels,
    /// `overlay`, or for the predefined ones `host` and `bridge`.
    pub driver: String,
    /// Driver options; known: `com.docker.network.driver.mtu`, `encrypted`.
    pub driver_options: BTreeMap<String, String>,
    /// No way out of the cluster?
    pub internal: bool,
    /// May plain containers attach to it?
    pub attachable: bool,
    /// Is this the routing-mesh network? At most one is.
    pub ingress: bool,
    /// IPv6 wanted; refused until the data path has it.
    pub ipv6: bool,
    /// Wanted subnets; empty means one from the cluster's pool.
    pub ipam: Vec<IpamConfig>,
}

/// One subnet that the user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    /// The subnet; `None` takes one from the pool.
    pub subnet: Option<Ipv4Net>,
    /// Hand out addresses of this part only.
    pub range: Option<Ipv4Net>,
    /// The gateway's address; `None` takes the first.
    pub gateway: Option<Ipv4Addr>,
    /// Addresses never handed out, by name.
    pub reserved: BTreeMap<String, Ipv4Addr>,
}

/// A service's wish to be on a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkAttachmentSpec {
    /// The network. The control API resolves names to ids before it stores a spec.
    pub target: NetworkId,
    /// More DNS names for the service on this network.
    pub aliases: Vec<String>,
    /// Driver options of the endpoint.
    pub driver_options: BTreeMap<String, String>,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where a published port is reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node: the routing mesh.
    #[default]
    Ingress,
    /// Only on nodes that run a task.
    Host,
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortConfig {
    /// Optional name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port inside the container, 1 to 65535.
    pub target: u16,
    /// Port on the node; 0 lets the allocator (ingress, 30000-32767) or the node (host) choose.
    pub published: u16,
    /// Where it is reachable.
    pub mode: PublishMode,
}

/// How clients find a service's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// One virtual address in front of all tasks.
    #[default]
    Vip,
    /// The service's name resolves to the addresses of the tasks.
    Dnsrr,
}

/// A service's endpoint as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    /// How clients find the tasks.
    pub mode: EndpointMode,
    /// Published ports.
    pub ports: Vec<PortConfig>,
}
