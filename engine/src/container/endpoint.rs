//! What a user asks for on one network: read from the API's settings, or refused.

use std::net::{IpAddr, Ipv4Addr};

use shoal_proto::error::Failure;

use crate::model::{EndpointIpamConfig, EndpointSettings};
use crate::network::{EndpointOptions, parse_mac};

/// Names the link inside the container.
const INTERFACE_OPTION: &str = "com.docker.network.endpoint.ifname";
/// Kernel settings of that link: `net.ipv4.conf.IFNAME.log_martians=1`, several with commas between them.
const SYSCTLS_OPTION: &str = "com.docker.network.endpoint.sysctls";
/// How the names of options of endpoints begin.
const OPTIONS: &str = "com.docker.network.endpoint.";
/// Stands for the link's name in those.
const INTERFACE_WORD: &str = "IFNAME";

/// Checks a hardware address; an empty one is none.
///
/// # Errors
/// When it is not one.
pub(super) fn check_mac(text: &str) -> Result<(), Failure> {
    if text.is_empty() { Ok(()) } else { parse_mac(text).map(|_| ()) }
}

/// Checks what is asked for on a network of that name.
///
/// # Errors
/// With what cannot be had there.
pub(super) fn check(network: &str, settings: &EndpointSettings) -> Result<(), Failure> {
    let predefined = matches!(network, "bridge" | "host" | "none");
    let ipam = settings.ipam_config.as_ref();
    let wants_address = ipam.is_some_and(|ipam| !ipam.ipv4_address.is_empty() || !ipam.ipv6_address.is_empty());
    if predefined && wants_address {
        return Err(Failure::invalid(format!(
            "invalid config for network {network}: user specified IP address is supported on user defined networks only"
        )));
    }
    if predefined && settings.aliases.as_ref().is_some_and(|aliases| !aliases.is_empty()) {
        return Err(Failure::invalid(format!(
            "invalid config for network {network}: network-scoped aliases are only supported for user-defined networks"
        )));
    }
    super::links::check_endpoint(settings.links.as_ref())?;
    if predefined && settings.links.as_ref().is_some_and(|links| !links.is_empty()) {
        return Err(Failure::invalid(format!(
            "invalid config for network {network}: links of an endpoint need a user-defined network, the container's own do not"
        )));
    }
    let wants_link = !settings.mac_address.is_empty()
        || settings.driver_opts.as_ref().is_some_and(|options| !options.is_empty())
        || ipam.is_some_and(|ipam| ipam.link_local_ips.as_ref().is_some_and(|list| !list.is_empty()));
    if matches!(network, "host" | "none") && wants_link {
        return Err(Failure::invalid(format!(
            "invalid config for network {network}: there is no link of the container's own to set an address or option of"
        )));
    }
    options(settings, &[]).map(|_| ())
}

/// What the network is asked for, with more names for the container.
///
/// # Errors
/// When an address or option is wrong, or not offered.
pub(super) fn options(settings: &EndpointSettings, names: &[&str]) -> Result<EndpointOptions, Failure> {
    check_mac(&settings.mac_address)?;
    let none = EndpointIpamConfig::default();
    let ipam = settings.ipam_config.as_ref().unwrap_or(&none);
    if !ipam.ipv6_address.is_empty() {
        return Err(Failure::invalid(format!(
            "cannot use the address {}: networks have no IPv6 addresses",
            ipam.ipv6_address
        )));
    }
    let mut aliases: Vec<String> = settings.aliases.clone().unwrap_or_default();
    aliases.extend(names.iter().filter(|name| !name.is_empty()).map(|name| (*name).to_owned()));
    let mut options = EndpointOptions {
        ip: address(&ipam.ipv4_address)?,
        mac: (!settings.mac_address.is_empty()).then(|| settings.mac_address.clone()),
        aliases,
        gateway_priority: settings.gw_priority,
        link_local: link_local(ipam)?,
        ..EndpointOptions::default()
    };
    for (name, value) in settings.driver_opts.iter().flatten() {
        match name.as_str() {
            INTERFACE_OPTION => options.interface = Some(value.clone()),
            SYSCTLS_OPTION => options.sysctls = sysctls(value)?,
            // For other drivers, or for nobody: as in dockerd they are kept, shown, and of no effect.
            other if !other.starts_with(OPTIONS) => {}
            other => {
                return Err(Failure::invalid(format!(
                    "unknown endpoint option {other}: {INTERFACE_OPTION} and {SYSCTLS_OPTION} are known"
                )));
            }
        }
    }
    Ok(options)
}

fn address(text: &str) -> Result<Option<Ipv4Addr>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Failure::invalid(format!("invalid IPv4 address: {text}")))
}

fn link_local(ipam: &EndpointIpamConfig) -> Result<Vec<Ipv4Addr>, Failure> {
    let one = |text: &String| match text.parse() {
        Ok(IpAddr::V4(address)) if address.is_link_local() => Ok(address),
        Ok(IpAddr::V6(_)) => Err(Failure::invalid(format!("cannot use {text}: networks have no IPv6 addresses"))),
        Ok(_) => Err(Failure::invalid(format!("{text} is not a link-local address: these begin with 169.254."))),
        Err(_) => Err(Failure::invalid(format!("invalid link-local IP address: {text}"))),
    };
    ipam.link_local_ips.iter().flatten().map(one).collect()
}

/// Pairs of a path below `/proc/sys`, with [`INTERFACE_WORD`] for the link's name, and a value.
fn sysctls(text: &str) -> Result<Vec<(String, String)>, Failure> {
    let invalid =
        |entry: &str| Failure::invalid(format!("invalid endpoint sysctl \"{entry}\": use net.X.Y.IFNAME.Z=value"));
    let one = |entry: &str| {
        let (name, value) = entry.split_once('=').ok_or_else(|| invalid(entry))?;
        let parts: Vec<&str> = name.split('.').collect();
        let plain =
            |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if parts.len() != 5 || parts[0] != "net" || parts[3] != INTERFACE_WORD || !parts.iter().all(plain) {
            return Err(invalid(entry));
        }
        Ok((parts.join("/"), value.to_owned()))
    };
    text.split(',').map(|entry| one(entry.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_option(name: &str, value: &str) -> EndpointSettings {
        EndpointSettings {
            driver_opts: Some([(name.to_owned(), value.to_owned())].into()),
            ..EndpointSettings::default()
        }
    }

    #[test]
    fn options_of_the_link_are_read() {
        let found = options(&with_option(INTERFACE_OPTION, "lan0"), &["short"]).unwrap();
        assert_eq!((found.interface.as_deref(), found.aliases), (Some("lan0"), vec!["short".to_owned()]));
        let text = "net.ipv4.conf.IFNAME.log_martians=1, net.ipv4.conf.IFNAME.rp_filter=2";
        let found = options(&with_option(SYSCTLS_OPTION, text), &[]).unwrap().sysctls;
        assert_eq!(found[1], ("net/ipv4/conf/IFNAME/rp_filter".to_owned(), "2".to_owned()));
        for text in
            ["net.ipv4.conf.eth0.x=1", "kernel.a.b.IFNAME.x=1", "net.ipv4.conf.IFNAME", "net.ipv4.../x.IFNAME.x=1"]
        {
            assert!(options(&with_option(SYSCTLS_OPTION, text), &[]).is_err(), "{text}");
        }
        assert!(options(&with_option("com.docker.network.endpoint.colour", "red"), &[]).is_err());
        for name in ["com.example.colour", "colour"] {
            assert!(options(&with_option(name, "red"), &[]).is_ok(), "{name} is another driver's");
        }
    }

    #[test]
    fn what_a_network_cannot_give_is_refused() {
        let ipam =
            |ipam: EndpointIpamConfig| EndpointSettings { ipam_config: Some(ipam), ..EndpointSettings::default() };
        let v4 = ipam(EndpointIpamConfig { ipv4_address: "10.0.0.9".to_owned(), ..Default::default() });
        assert!(check("bridge", &v4).is_err() && check("lan", &v4).is_ok());
        let v6 = ipam(EndpointIpamConfig { ipv6_address: "fd00::1".to_owned(), ..Default::default() });
        assert!(check("lan", &v6).unwrap_err().message.contains("IPv6"));
        for (address, good) in [("169.254.7.7", true), ("10.0.0.1", false), ("fe80::1", false), ("x", false)] {
            let list =
                ipam(EndpointIpamConfig { link_local_ips: Some(vec![address.to_owned()]), ..Default::default() });
            assert_eq!(check("lan", &list).is_ok(), good, "{address}");
            assert!(check("host", &list).is_err());
        }
        let alias = EndpointSettings { aliases: Some(vec!["db".to_owned()]), ..EndpointSettings::default() };
        assert!(check("bridge", &alias).is_err() && check("lan", &alias).is_ok());
        assert!(check_mac("zz").is_err() && check_mac("").is_ok() && check_mac("02:42:ac:11:00:02").is_ok());
    }
}
