//! Local networks: what one is, and how a request becomes one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::time::Timestamp;

use super::addresses::{first_host, is_host, overlap};
use crate::model::network::NetworkCreate;

/// Name of the network that overlay tasks leave the cluster by.
pub(super) const GATEWAY_NETWORK: &str = "docker_gwbridge";
const OPTION_BRIDGE: &str = "com.docker.network.bridge.name";
const OPTION_ICC: &str = "com.docker.network.bridge.enable_icc";
const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const OPTION_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const OPTION_MTU: &str = "com.docker.network.driver.mtu";

/// How a local network is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Driver {
    /// A bridge of its own.
    Bridge,
    /// The host's own network.
    Host,
    /// No network.
    Null,
}

impl Driver {
    /// The name that Docker shows.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
        }
    }
}

/// A local network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LocalNetwork {
    /// 64 hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// How it is made.
    pub driver: Driver,
    /// Addresses and link; `None` for `host` and `none`.
    pub bridge: Option<Bridge>,
    /// No way out?
    pub internal: bool,
    /// As the user said; has no effect.
    pub attachable: bool,
    /// Options as the user gave them.
    pub options: BTreeMap<String, String>,
    /// User labels.
    pub labels: BTreeMap<String, String>,
}

/// What a network of driver `bridge` consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bridge {
    /// Name of the link.
    pub link: String,
    /// Addresses.
    pub subnet: Ipv4Net,
    /// Part of the subnet that addresses are taken from.
    pub range: Ipv4Net,
    /// Was a range given?
    pub range_given: bool,
    /// Did the user choose the subnet? Only then may endpoints ask for an address.
    pub subnet_given: bool,
    /// Address of the bridge.
    pub gateway: Ipv4Addr,
    /// Was it given?
    pub gateway_given: bool,
    /// Addresses never handed out.
    pub reserved: BTreeMap<String, Ipv4Addr>,
    /// Options of the address driver, only shown.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Largest packet.
    pub mtu: u32,
    /// May its containers talk to each other?
    pub icc: bool,
    /// Are its containers' addresses hidden from others?
    pub masquerade: bool,
    /// Address that ports without one are published at.
    pub binding: Ipv4Addr,
    /// Was the largest packet given? If not, it stays as it was when the bridge was made.
    #[serde(default)]
    pub mtu_given: bool,
    /// Where its containers send what leaves it; `None` is the bridge.
    #[serde(default)]
    pub route_via: Option<Ipv4Addr>,
}

impl LocalNetwork {
    /// Made by the daemon itself, not to be removed.
    pub(super) fn is_predefined(&self) -> bool {
        matches!(self.name.as_str(), "bridge" | "host" | "none")
    }

    /// Does it only keep the name of the default bridge, of which there is none?
    pub(super) fn is_absent(&self) -> bool {
        self.name == "bridge" && self.driver == Driver::Null
    }

    /// Has it an embedded name server? The default bridge has none, as in Docker.
    pub(super) fn has_names(&self) -> bool {
        self.driver == Driver::Bridge && !self.is_predefined() && self.name != GATEWAY_NETWORK
    }
}

/// What a request asks for, before a subnet and a link are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wish {
    /// Subnet; `None` takes one from the pools.
    pub subnet: Option<Ipv4Net>,
    /// Part of it to hand out.
    pub range: Option<Ipv4Net>,
    /// Address of the bridge.
    pub gateway: Option<Ipv4Addr>,
    /// Addresses never handed out.
    pub reserved: BTreeMap<String, Ipv4Addr>,
    /// Name of the link.
    pub link: Option<String>,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Talk to each other?
    pub icc: Option<bool>,
    /// Hide addresses?
    pub masquerade: Option<bool>,
    /// Where ports are published.
    pub binding: Option<Ipv4Addr>,
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::invalid(message)
}

fn parse<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| invalid(format!("invalid {what}: {text}")))
}

/// Reads an optional address in either form, `10.0.0.1` or `10.0.0.1/24`.
fn parse_addr(what: &str, text: &str) -> Result<Option<Ipv4Addr>, Failure> {
    let addr = text.split('/').next().unwrap_or(text);
    if addr.is_empty() { Ok(None) } else { parse(what, addr).map(Some) }
}

/// Checks a request as far as it can be checked alone.
///
/// # Errors
/// What is wrong with it, in dockerd's words where it has some.
pub(super) fn read_request(request: &NetworkCreate) -> Result<Wish, Failure> {
    check_name(&request.name)?;
    if request.ingress || request.scope == "swarm" {
        return Err(invalid("a local network can be neither ingress nor of scope swarm"));
    }
    if request.config_only || request.config_from.as_ref().is_some_and(|from| !from.network.is_empty()) {
        return Err(Failure::new(ErrorKind::NotImplemented, "config-only networks are not offered"));
    }
    if request.enable_ipv6 == Some(true) || request.enable_ipv4 == Some(false) {
        return Err(Failure::new(ErrorKind::NotImplemented, "networks without IPv4 or with IPv6 are not offered yet"));
    }
    let mut wish = Wish::default();
    read_ipam(request, &mut wish)?;
    for (name, value) in request.options.iter().flatten() {
        read_option(name, value, &mut wish)?;
    }
    Ok(wish)
}

/// Bytes of a network's name. Enough for anybody, and no burden for whoever keeps it in memory.
const LONGEST_NAME: usize = 255;

fn check_name(name: &str) -> Result<(), Failure> {
    // As dockerd, which takes all that is not blank.
    if name.trim().is_empty() {
        return Err(invalid("invalid network name: name is empty"));
    }
    if name.len() > LONGEST_NAME {
        return Err(invalid(format!("invalid network name: it has more than {LONGEST_NAME} bytes")));
    }
    if matches!(name, "bridge" | "host" | "none" | "default" | "container") {
        let message = format!("operation is not permitted on predefined {name} network ");
        return Err(Failure::new(ErrorKind::PermissionDenied, message));
    }
    Ok(())
}

fn read_ipam(request: &NetworkCreate, wish: &mut Wish) -> Result<(), Failure> {
    let Some(ipam) = &request.ipam else { return Ok(()) };
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(Failure::not_found(format!("ipam driver {} not found", ipam.driver)));
    }
    let pools = ipam.config.as_deref().unwrap_or_default();
    let [pool] = pools else {
        return if pools.is_empty() { Ok(()) } else { Err(invalid("bridge driver supports only one IPv4 subnet")) };
    };
    if !pool.subnet.is_empty() {
        let subnet: Ipv4Net = parse("subnet", &pool.subnet)?;
        if subnet.addr() != subnet.network() {
            let message = format!("invalid subnet {subnet}: it should be {}", subnet.trunc());
            return Err(invalid(message));
        }
        if subnet.prefix_len() > 30 {
            return Err(invalid(format!("invalid subnet {subnet}: too small for a gateway and a container")));
        }
        wish.subnet = Some(subnet);
    }
    if !pool.ip_range.is_empty() {
        wish.range = Some(parse::<Ipv4Net>("ip-range", &pool.ip_range)?.trunc());
    }
    wish.gateway = parse_addr("gateway", &pool.gateway)?;
    for (name, addr) in pool.auxiliary_addresses.iter().flatten() {
        wish.reserved.extend(parse_addr("auxiliary address", addr)?.map(|addr| (name.clone(), addr)));
    }
    let Some(subnet) = wish.subnet else {
        let alone = wish.range.is_some() || wish.gateway.is_some() || !wish.reserved.is_empty();
        return if alone { Err(invalid("ip-range, gateway and auxiliary addresses need a subnet")) } else { Ok(()) };
    };
    if wish.range.is_some_and(|range| !subnet.contains(&range)) {
        return Err(invalid(format!("no matching subnet for range {}", pool.ip_range)));
    }
    if let Some(gateway) = wish.gateway.filter(|gateway| !is_host(&subnet, *gateway)) {
        return Err(invalid(format!("no matching subnet for gateway {gateway}")));
    }
    if let Some(addr) = wish.reserved.values().find(|addr| !subnet.contains(*addr)) {
        return Err(invalid(format!("no matching subnet for aux-address {addr}")));
    }
    Ok(())
}

fn read_option(name: &str, value: &str, wish: &mut Wish) -> Result<(), Failure> {
    let boolean = || match value {
        "1" | "true" | "True" | "TRUE" | "t" | "T" => Ok(true),
        "0" | "false" | "False" | "FALSE" | "f" | "F" => Ok(false),
        _ => Err(invalid(format!("invalid value {value:?} of option {name}"))),
    };
    match name {
        OPTION_BRIDGE => {
            let length_ok = (1..=15).contains(&value.len());
            if !length_ok || value.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control() || c == '"') {
                return Err(invalid(format!("invalid link name {value:?}: at most 15 characters, no slash or space")));
            }
            wish.link = Some(value.to_owned());
        }
        OPTION_ICC => wish.icc = Some(boolean()?),
        OPTION_MASQUERADE => wish.masquerade = Some(boolean()?),
        OPTION_BINDING => wish.binding = parse_addr(name, value)?,
        OPTION_MTU => {
            let mtu: u32 = parse("MTU", value)?;
            if mtu != 0 && !(68..=65535).contains(&mtu) {
                return Err(invalid(format!("invalid MTU {mtu}: must be between 68 and 65535")));
            }
            wish.mtu = Some(mtu).filter(|mtu| *mtu != 0);
        }
        // dockerd ignores what a driver does not know.
        _ => {}
    }
    Ok(())
}

/// Is a wanted subnet free?
///
/// # Errors
/// As dockerd's, when it is not.
pub(super) fn check_overlap<'a>(
    subnet: &Ipv4Net,
    networks: impl IntoIterator<Item = &'a LocalNetwork>,
) -> Result<(), Failure> {
    let clash = networks.into_iter().any(|other| other.bridge.as_ref().is_some_and(|b| overlap(&b.subnet, subnet)));
    if clash {
        let message = "invalid pool request: Pool overlaps with other one on this address space";
        return Err(Failure::new(ErrorKind::PermissionDenied, message));
    }
    Ok(())
}

impl Wish {
    /// The bridge, with what was chosen for it.
    pub(super) fn bridge(self, subnet: Ipv4Net, link: String, mtu: u32) -> Bridge {
        Bridge {
            link: self.link.unwrap_or(link),
            subnet,
            range: self.range.unwrap_or(subnet),
            range_given: self.range.is_some(),
            subnet_given: self.subnet.is_some(),
            gateway: self.gateway.unwrap_or_else(|| first_host(&subnet)),
            gateway_given: self.gateway.is_some(),
            reserved: self.reserved,
            ipam_options: None,
            mtu: self.mtu.unwrap_or(mtu),
            icc: self.icc.unwrap_or(true),
            masquerade: self.masquerade.unwrap_or(true),
            binding: self.binding.unwrap_or(Ipv4Addr::UNSPECIFIED),
            mtu_given: self.mtu.is_some(),
            route_via: None,
        }
    }
}

/// The options that Docker shows for the default bridge.
pub(super) fn default_bridge_options(bridge: &Bridge) -> BTreeMap<String, String> {
    [
        ("com.docker.network.bridge.default_bridge", "true".to_owned()),
        (OPTION_ICC, bridge.icc.to_string()),
        (OPTION_MASQUERADE, bridge.masquerade.to_string()),
        (OPTION_BINDING, bridge.binding.to_string()),
        (OPTION_BRIDGE, bridge.link.clone()),
        (OPTION_MTU, bridge.mtu.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The options that Docker shows for the gateway network.
pub(super) fn gateway_options(bridge: &Bridge) -> BTreeMap<String, String> {
    [
        (OPTION_ICC, bridge.icc.to_string()),
        (OPTION_MASQUERADE, bridge.masquerade.to_string()),
        (OPTION_BRIDGE, bridge.link.clone()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::network::{Ipam, IpamPool};

    fn request(pool: IpamPool, options: &[(&str, &str)]) -> NetworkCreate {
        NetworkCreate {
            name: "lan".to_owned(),
            ipam: Some(Ipam { config: Some(vec![pool]), ..Ipam::default() }),
            options: Some(options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
            ..NetworkCreate::default()
        }
    }

    fn pool(subnet: &str, range: &str, gateway: &str) -> IpamPool {
        IpamPool {
            subnet: subnet.to_owned(),
            ip_range: range.to_owned(),
            gateway: gateway.to_owned(),
            auxiliary_addresses: None,
        }
    }

    #[test]
    fn a_full_request_is_read() {
        let options = [(OPTION_BRIDGE, "lan0"), (OPTION_ICC, "false"), (OPTION_MTU, "1400"), ("other", "x")];
        let wish = read_request(&request(pool("10.9.0.0/16", "10.9.8.0/24", "10.9.0.254"), &options)).unwrap();
        let bridge = wish.bridge("10.9.0.0/16".parse().unwrap(), "br-x".to_owned(), 1500);
        assert_eq!((bridge.link.as_str(), bridge.icc, bridge.mtu, bridge.masquerade), ("lan0", false, 1400, true));
        assert_eq!(bridge.gateway, Ipv4Addr::new(10, 9, 0, 254));
        assert_eq!(bridge.range, "10.9.8.0/24".parse().unwrap());
    }

    #[test]
    fn wrong_requests_say_what_is_wrong() {
        let cases = [
            (request(pool("10.9.0.1/16", "", ""), &[]), "it should be 10.9.0.0/16"),
            (request(pool("10.9.0.0/31", "", ""), &[]), "too small"),
            (request(pool("10.9.0.0/16", "10.8.0.0/24", ""), &[]), "no matching subnet for range"),
            (request(pool("10.9.0.0/16", "", "10.8.0.1"), &[]), "no matching subnet for gateway"),
            (request(pool("10.9.0.0/16", "", "10.9.0.0"), &[]), "no matching subnet for gateway"),
            (request(pool("", "", "10.8.0.1"), &[]), "need a subnet"),
            (request(pool("nonsense", "", ""), &[]), "invalid subnet: nonsense"),
            (request(pool("10.9.0.0/16", "", ""), &[(OPTION_ICC, "maybe")]), "maybe"),
            (request(pool("10.9.0.0/16", "", ""), &[(OPTION_BRIDGE, "a-name-that-is-too-long")]), "at most 15"),
            (request(pool("10.9.0.0/16", "", ""), &[(OPTION_MTU, "12")]), "between 68"),
            (NetworkCreate::default(), "name is empty"),
            (
                NetworkCreate { name: " \t".to_owned(), ..NetworkCreate::default() },
                "invalid network name: name is empty",
            ),
            (NetworkCreate { name: "x".repeat(256), ..NetworkCreate::default() }, "more than 255 bytes"),
            (NetworkCreate { name: "host".to_owned(), ..NetworkCreate::default() }, "predefined host network"),
        ];
        for (request, expected) in cases {
            let failure = read_request(&request).unwrap_err();
            assert!(failure.message.contains(expected), "{} has no {expected:?}", failure.message);
        }
    }
}
