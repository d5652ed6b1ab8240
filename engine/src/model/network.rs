//! Networks as the API shows and takes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::container::EndpointSettings;
use super::{model, null_as_default};

model! {
    /// A request to make a network.
    pub struct NetworkCreate {
        /// Unique name.
        pub name: String,
        /// Historic; names are always unique.
        pub check_duplicate: bool,
        /// `bridge` when empty.
        pub driver: String,
        /// `local` or `swarm`; empty follows from the driver.
        pub scope: String,
        /// IPv4 wanted; null means yes.
        #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
        pub enable_ipv4: Option<bool>,
        /// IPv6 wanted.
        #[serde(rename = "EnableIPv6")]
        pub enable_ipv6: Option<bool>,
        /// Addresses.
        #[serde(rename = "IPAM")]
        pub ipam: Option<Ipam>,
        /// No way out?
        pub internal: bool,
        /// May plain containers attach (cluster networks)?
        pub attachable: bool,
        /// Is it the routing mesh?
        pub ingress: bool,
        /// Only a template for other networks?
        pub config_only: bool,
        /// The template to use.
        pub config_from: Option<ConfigReference>,
        /// Options of the driver.
        pub options: Option<BTreeMap<String, String>>,
        /// User labels.
        pub labels: Option<BTreeMap<String, String>>,
    }
}

model! {
    /// Name of a network that is a template.
    pub struct ConfigReference {
        /// Its name; empty for none.
        pub network: String,
    }
}

model! {
    /// How addresses are handed out.
    pub struct Ipam {
        /// `default`.
        pub driver: String,
        /// Options of the driver.
        pub options: Option<BTreeMap<String, String>>,
        /// Subnets.
        pub config: Option<Vec<IpamPool>>,
    }
}

model! {
    /// One subnet.
    pub struct IpamPool {
        /// In CIDR form.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub subnet: String,
        /// Part of the subnet that addresses are taken from, in CIDR form.
        #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
        pub ip_range: String,
        /// Address of the gateway.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub gateway: String,
        /// Addresses never handed out, by name.
        #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "Option::is_none")]
        pub auxiliary_addresses: Option<BTreeMap<String, String>>,
    }
}

/// Answer to [`NetworkCreate`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkCreateResponse {
    /// Id of the network.
    pub id: String,
    /// What was ignored, in words.
    pub warning: String,
}

model! {
    /// A network.
    pub struct NetworkInspect {
        /// Name.
        pub name: String,
        /// Id: 64 hex digits, or 25 base-36 digits for cluster networks.
        pub id: String,
        /// When it was made, RFC 3339.
        pub created: String,
        /// `local` or `swarm`.
        pub scope: String,
        /// `bridge`, `host`, `null` or `overlay`.
        pub driver: String,
        /// IPv4?
        #[serde(rename = "EnableIPv4")]
        pub enable_ipv4: bool,
        /// IPv6?
        #[serde(rename = "EnableIPv6")]
        pub enable_ipv6: bool,
        /// Addresses.
        #[serde(rename = "IPAM")]
        pub ipam: Ipam,
        /// No way out?
        pub internal: bool,
        /// May plain containers attach?
        pub attachable: bool,
        /// Is it the routing mesh?
        pub ingress: bool,
        /// The template it was made of.
        pub config_from: ConfigReference,
        /// Only a template?
        pub config_only: bool,
        /// Containers on it, by container id.
        pub containers: BTreeMap<String, NetworkContainer>,
        /// Options of the driver.
        pub options: BTreeMap<String, String>,
        /// User labels.
        pub labels: BTreeMap<String, String>,
        /// Nodes on it (overlay only).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub peers: Option<Vec<NetworkPeer>>,
    }
}

model! {
    /// A container on a network.
    pub struct NetworkContainer {
        /// Name of the container.
        pub name: String,
        /// Id of the endpoint.
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        /// Hardware address.
        pub mac_address: String,
        /// Address in CIDR form.
        #[serde(rename = "IPv4Address")]
        pub ipv4_address: String,
        /// Empty.
        #[serde(rename = "IPv6Address")]
        pub ipv6_address: String,
    }
}

model! {
    /// A node on an overlay network.
    pub struct NetworkPeer {
        /// Id of the node.
        pub name: String,
        /// Its underlay address.
        #[serde(rename = "IP")]
        pub ip: String,
    }
}

model! {
    /// A request to connect a container.
    pub struct NetworkConnect {
        /// Name or id.
        pub container: String,
        /// Addresses and aliases.
        pub endpoint_config: Option<EndpointSettings>,
    }
}

model! {
    /// A request to disconnect a container.
    pub struct NetworkDisconnect {
        /// Name or id.
        pub container: String,
        /// Also when it does not run?
        pub force: bool,
    }
}

/// Answer to a prune.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworksPruneReport {
    /// Names of the removed networks; null when there was none.
    #[serde(deserialize_with = "null_as_default")]
    pub networks_deleted: Option<Vec<String>>,
}
