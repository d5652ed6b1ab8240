//! Ports: parsing what users write, and showing what was published.

use std::collections::BTreeMap;

use shoal_proto::error::Failure;
use shoal_proto::spec::Protocol;

use crate::model::{ContainerConfig, HostConfig, Port, PortBinding};
use crate::network::{PortPublish, PublishedPort};

/// Ports by `number/protocol` and where they are published.
pub type PublishedMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// Reads `80`, `80/tcp`, `8000-8010/udp`: first, last, protocol.
///
/// # Errors
/// When it is none of these.
pub fn parse_port(text: &str) -> Result<(u16, u16, Protocol), Failure> {
    let invalid = || Failure::invalid(format!("invalid port specification: \"{text}\""));
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = parse_protocol(protocol).ok_or_else(invalid)?;
    let (first, last) = parse_range(numbers).filter(|(first, _)| *first > 0).ok_or_else(invalid)?;
    Ok((first, last, protocol))
}

fn parse_protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// `tcp`, `udp` or `sctp`.
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// What to publish: the bindings, and with `publish_all_ports` every exposed port that has none.
///
/// # Errors
/// When a port or address is wrong.
pub fn publish_list(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<PortPublish>, Failure> {
    let mut list = Vec::new();
    let bindings = host.port_bindings.iter().flatten();
    for (port, bindings) in bindings {
        let (container_port, _, protocol) = parse_port(port)?;
        let bindings = bindings.as_deref().unwrap_or_default();
        let chosen_by_node = [PortBinding::default()];
        let bindings = if bindings.is_empty() { &chosen_by_node[..] } else { bindings };
        // Every address of one version, beside every address of both, is said twice.
        let beside = |binding: &PortBinding| {
            let same = |other: &PortBinding| other.host_ip.is_empty() && other.host_port == binding.host_port;
            matches!(binding.host_ip.as_str(), "0.0.0.0" | "::") && bindings.iter().any(same)
        };
        for binding in bindings.iter().filter(|binding| !beside(binding)) {
            list.push(publish_one(container_port, protocol, binding)?);
        }
    }
    if host.publish_all_ports {
        for port in config.exposed_ports.iter().flatten().map(|(port, _)| port) {
            let (first, last, protocol) = parse_port(port)?;
            for container_port in first..=last {
                if !list.iter().any(|one| one.container_port == container_port && one.protocol == protocol) {
                    list.push(PortPublish::new(0, container_port, protocol));
                }
            }
        }
    }
    Ok(list)
}

fn publish_one(container_port: u16, protocol: Protocol, binding: &PortBinding) -> Result<PortPublish, Failure> {
    let host_ip = match binding.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Failure::invalid(format!("invalid IP address: {text}")))?),
    };
    let (host_port, host_port_end) = match binding.host_port.as_str() {
        "" => (0, 0),
        text => parse_range(text).ok_or_else(|| Failure::invalid(format!("invalid port specification: \"{text}\"")))?,
    };
    Ok(PortPublish { host_ip, host_port, host_port_end, container_port, protocol })
}

/// As `inspect` shows the ports of a running container: exposed ones that are not published are null.
pub fn published_map<'a>(
    config: &ContainerConfig,
    published: impl IntoIterator<Item = &'a PublishedPort>,
) -> PublishedMap {
    let mut map: PublishedMap =
        config.exposed_ports.iter().flatten().map(|(port, _)| (with_protocol(port), None)).collect();
    for port in published {
        let key = format!("{}/{}", port.container_port, protocol_name(port.protocol));
        let binding = PortBinding { host_ip: port.host_ip.to_string(), host_port: port.host_port.to_string() };
        map.entry(key).or_default().get_or_insert_default().push(binding);
    }
    map
}

fn with_protocol(port: &str) -> String {
    if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") }
}

/// As `ps` lists them.
pub fn summary(ports: &PublishedMap) -> Vec<Port> {
    let mut list = Vec::new();
    for (port, bindings) in ports {
        let Ok((private_port, _, protocol)) = parse_port(port) else { continue };
        let kind = protocol_name(protocol).to_owned();
        match bindings.as_deref() {
            None | Some([]) => list.push(Port { private_port, kind, ..Port::default() }),
            Some(bindings) => list.extend(bindings.iter().map(|binding| Port {
                ip: binding.host_ip.clone(),
                private_port,
                public_port: binding.host_port.parse().unwrap_or(0),
                kind: kind.clone(),
            })),
        }
    }
    list
}

/// Does one of the ports match a filter such as `80`, `80/udp` or `8000-8010`?
pub fn matches<'a>(wanted: &str, mut ports: impl Iterator<Item = &'a str>) -> bool {
    let Ok((first, last, protocol)) = parse_port(wanted) else { return false };
    ports.any(|port| parse_port(port).is_ok_and(|(have, _, of)| of == protocol && (first..=last).contains(&have)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(bindings: &[(&str, &str, &str)]) -> HostConfig {
        let mut map = BTreeMap::new();
        for (port, host_ip, host_port) in bindings {
            let binding = PortBinding { host_ip: (*host_ip).to_owned(), host_port: (*host_port).to_owned() };
            map.entry((*port).to_owned()).or_insert_with(|| Some(Vec::new())).get_or_insert_default().push(binding);
        }
        HostConfig { port_bindings: Some(map), ..HostConfig::default() }
    }

    #[test]
    fn bindings_become_publications() {
        let list = publish_list(
            &ContainerConfig::default(),
            &host(&[("80/tcp", "", "8080"), ("80/tcp", "127.0.0.1", "9000-9010"), ("80/tcp", "::", "8080")]),
        )
        .unwrap();
        assert_eq!(list.len(), 2, "every address of version 6 is among every address: {list:?}");
        assert_eq!((list[0].host_port, list[0].container_port), (8080, 80));
        assert_eq!((list[1].host_port, list[1].host_port_end), (9000, 9010));
        let addrs: Vec<_> = list.iter().map(|one| one.host_ip).collect();
        assert_eq!(addrs, [None, Some("127.0.0.1".parse().unwrap())]);
        let split = host(&[("80/tcp", "0.0.0.0", "1"), ("80/tcp", "::", "1"), ("80/tcp", "::1", "2")]);
        let list = publish_list(&ContainerConfig::default(), &split).unwrap();
        let addrs: Vec<_> = list.iter().filter_map(|one| one.host_ip).map(|addr| addr.to_string()).collect();
        assert_eq!(addrs, ["0.0.0.0", "::", "::1"]);
    }

    #[test]
    fn publish_all_takes_what_is_exposed() {
        let exposed = [("80/tcp".to_owned(), Default::default()), ("53/udp".to_owned(), Default::default())];
        let config = ContainerConfig { exposed_ports: Some(exposed.into()), ..ContainerConfig::default() };
        let host = HostConfig { publish_all_ports: true, ..host(&[("80/tcp", "", "1")]) };
        let list = publish_list(&config, &host).unwrap();
        assert_eq!(list.iter().map(|one| (one.host_port, one.container_port)).collect::<Vec<_>>(), [(1, 80), (0, 53)]);
    }

    #[test]
    fn nonsense_is_refused() {
        for port in ["", "x", "0", "70000", "80/icmp", "90-80"] {
            assert!(parse_port(port).is_err(), "{port}");
        }
        assert!(publish_list(&ContainerConfig::default(), &host(&[("80/tcp", "", "x")])).is_err());
        assert!(publish_list(&ContainerConfig::default(), &host(&[("80/tcp", "nope", "1")])).is_err());
    }

    #[test]
    fn shown_as_docker_shows_them() {
        let exposed = [("80/tcp".to_owned(), Default::default()), ("443/tcp".to_owned(), Default::default())];
        let config = ContainerConfig { exposed_ports: Some(exposed.into()), ..ContainerConfig::default() };
        let at = |addr: &str| PublishedPort {
            host_ip: addr.parse().unwrap(),
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let published = [at("0.0.0.0"), at("::")];
        let map = published_map(&config, &published);
        assert_eq!(map["443/tcp"], None);
        let ports = summary(&map);
        assert_eq!(ports[0], Port { private_port: 443, kind: "tcp".to_owned(), ..Port::default() });
        assert_eq!((ports[1].ip.as_str(), ports[1].public_port), ("0.0.0.0", 8080));
        assert_eq!((ports[2].ip.as_str(), ports[2].public_port), ("::", 8080));
        assert!(matches("80", map.keys().map(String::as_str)));
        assert!(matches("400-500/tcp", map.keys().map(String::as_str)));
        assert!(!matches("80/udp", map.keys().map(String::as_str)));
    }
}
