//! Published ports: `[ip:][host[-host]:]container[-container][/protocol]` for containers, and Swarm's long form
//! `published=8080,target=80,protocol=tcp,mode=ingress` for services.

use serde_json::{Value, json};

use super::csv;

/// A port of a container and where the host publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Address of the host; empty for all.
    pub(crate) host_ip: String,
    /// Port of the host, or a range from which one is taken; empty to let the daemon choose.
    pub(crate) host_port: String,
    /// Port of the container.
    pub(crate) container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: String,
}

/// The mappings of one `--publish` flag of `run`.
pub(crate) fn mappings(text: &str) -> Result<Vec<Mapping>, String> {
    let invalid =
        |why: &str| format!("invalid port '{text}': {why} (want [[ip:]host:]container[/protocol], as in 8080:80/tcp)");
    let (address, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(invalid("unknown protocol"));
    }
    let (left, container) = address.rsplit_once(':').unwrap_or(("", address));
    let (host_ip, host) = split_host(left).ok_or_else(|| invalid("bad address"))?;
    let (first, last) = range(container).ok_or_else(|| invalid("bad container port"))?;
    let count = last - first;
    if host.is_empty() {
        let one = |port| Mapping {
            host_ip: host_ip.clone(),
            host_port: String::new(),
            container_port: port,
            protocol: protocol.clone(),
        };
        return Ok((first..=last).map(one).collect());
    }
    let (host_first, host_last) = range_from_zero(&host).ok_or_else(|| invalid("bad host port"))?;
    if host_last - host_first != count && count != 0 {
        return Err(invalid("the two ranges have different lengths"));
    }
    let one = |offset: u16| Mapping {
        host_ip: host_ip.clone(),
        host_port: if count == 0 { host.clone() } else { (host_first + offset).to_string() },
        container_port: first + offset,
        protocol: protocol.clone(),
    };
    Ok((0..=count).map(one).collect())
}

/// `ip:port`, `[ip6]:port`, `port`, or `ip:` (any port), into the address and the port.
fn split_host(text: &str) -> Option<(String, String)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        return Some((address.to_owned(), port.strip_prefix(':').unwrap_or(port).to_owned()));
    }
    match text.rsplit_once(':') {
        Some((address, port)) => {
            address.parse::<std::net::IpAddr>().ok()?;
            Some((address.to_owned(), port.to_owned()))
        }
        None if text.parse::<std::net::Ipv4Addr>().is_ok() => Some((text.to_owned(), String::new())),
        None => Some((String::new(), text.to_owned())),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    range_from_zero(text).filter(|(first, _)| *first > 0)
}

fn range_from_zero(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// The ports of `--expose`: `80`, `80/udp`, `7000-7010`.
pub(crate) fn exposed(text: &str) -> Result<Vec<String>, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range(ports).ok_or_else(|| format!("invalid range format for --expose: '{text}'"))?;
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// The `PortConfig`s of one `--publish` flag of `service create`.
pub(crate) fn service_ports(text: &str) -> Result<Vec<Value>, String> {
    if text.contains('=') {
        return long_form(text).map(|port| vec![port]);
    }
    let mut ports = Vec::new();
    for mapping in mappings(text)? {
        if !mapping.host_ip.is_empty() {
            return Err(format!("invalid port '{text}': hostip is not supported; a service publishes on every node"));
        }
        let published: u16 = match mapping.host_port.as_str() {
            "" => 0,
            port => {
                port.parse().map_err(|_| format!("invalid port '{text}': a service publishes one port, not a range"))?
            }
        };
        ports.push(config(&mapping.protocol, mapping.container_port, published, "ingress"));
    }
    Ok(ports)
}

fn config(protocol: &str, target: u16, published: u16, mode: &str) -> Value {
    let mut port = json!({"Protocol": protocol, "TargetPort": target, "PublishMode": mode});
    if published > 0 {
        super::super::look::set(&mut port, "PublishedPort", published);
    }
    port
}

fn long_form(text: &str) -> Result<Value, String> {
    let (mut protocol, mut mode, mut target, mut published) = ("tcp".to_owned(), "ingress".to_owned(), 0, 0);
    for (key, value) in csv::pairs(text)? {
        let value = value.ok_or_else(|| format!("invalid field '{key}' in '{text}': want key=value"))?;
        let port = || value.parse::<u16>().map_err(|_| format!("invalid {key} port '{value}': want 0 to 65535"));
        match key.as_str() {
            "protocol" if ["tcp", "udp", "sctp"].contains(&value.as_str()) => protocol = value,
            "protocol" => return Err(format!("invalid protocol value '{value}' (tcp, udp or sctp)")),
            "mode" if ["ingress", "host"].contains(&value.as_str()) => mode = value,
            "mode" => return Err(format!("invalid publish mode value '{value}' (ingress or host)")),
            "target" => target = port()?,
            "published" => published = port()?,
            _ => return Err(format!("invalid field key '{key}' (published, target, protocol, mode)")),
        }
    }
    if target == 0 {
        return Err(format!("missing mandatory field \"target\" in '{text}'"));
    }
    Ok(config(&protocol, target, published, &mode))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(text: &str) -> Vec<String> {
        let line = |m: Mapping| format!("{}|{}|{}/{}", m.host_ip, m.host_port, m.container_port, m.protocol);
        mappings(text).unwrap().into_iter().map(line).collect()
    }

    #[test]
    fn short_forms() {
        assert_eq!(show("80"), ["||80/tcp"]);
        assert_eq!(show("8080:80"), ["|8080|80/tcp"]);
        assert_eq!(show("127.0.0.1:8080:80/udp"), ["127.0.0.1|8080|80/udp"]);
        assert_eq!(show("127.0.0.1::80"), ["127.0.0.1||80/tcp"]);
        assert_eq!(show("[::1]:8080:80"), ["::1|8080|80/tcp"]);
        assert_eq!(show("8000-8001:80-81"), ["|8000|80/tcp", "|8001|81/tcp"]);
        assert_eq!(show("8000-8010:80"), ["|8000-8010|80/tcp"]);
        for text in ["", "0", "x", "80:", "8000-8002:80-81", "70000", "80/icmp", "1.2.3:80:80", "90-80"] {
            assert!(mappings(text).is_err(), "{text}");
        }
        assert_eq!(exposed("7000-7001/udp").unwrap(), ["7000/udp", "7001/udp"]);
    }

    #[test]
    fn service_forms() {
        let short = service_ports("8080:80").unwrap();
        assert_eq!(
            short,
            [json!({"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"})]
        );
        assert_eq!(service_ports("published=8080,target=80").unwrap(), short);
        assert_eq!(
            service_ports("target=80,mode=host,protocol=udp").unwrap(),
            [json!({"Protocol": "udp", "TargetPort": 80, "PublishMode": "host"})]
        );
        assert_eq!(service_ports("8000-8001:80-81").unwrap().len(), 2);
        for text in ["127.0.0.1:80:80", "published=80", "target=80,mode=x", "target=80,what=1", "target=x", "target"] {
            assert!(service_ports(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9:/.\\[\\]a-z=,-]{0,20}") {
            let _ = (mappings(&text), service_ports(&text), exposed(&text));
        }
    }
}
