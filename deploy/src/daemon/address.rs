//! Addresses of the cluster port, as users write them: an address or an interface, each perhaps with a port.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use shoal_proto::error::Failure;

/// The cluster port, as Swarm's.
pub(crate) const DEFAULT_PORT: u16 = 2377;

/// The addresses of this host by interface; loopback left out.
pub(crate) type Interfaces = BTreeMap<String, Vec<Ipv4Addr>>;

/// Reads them from the kernel.
pub(crate) fn interfaces() -> Result<Interfaces, Failure> {
    let mut interfaces = Interfaces::new();
    for entry in getifaddrs().map_err(|error| Failure::internal(&error))? {
        let addr = entry.address.and_then(|address| address.as_sockaddr_in().map(|addr| addr.ip()));
        if let Some(addr) = addr.filter(|addr| !addr.is_loopback()) {
            interfaces.entry(entry.interface_name).or_default().push(addr);
        }
    }
    Ok(interfaces)
}

/// Splits `host[:port]`; a port that is not a number from 1 to 65535 is an error.
fn split(text: &str, default_port: u16) -> Result<(&str, u16), Failure> {
    match text.rsplit_once(':') {
        None => Ok((text, default_port)),
        Some((host, port)) => match port.parse() {
            Ok(port) if port != 0 => Ok((host, port)),
            _ => Err(Failure::invalid(format!("invalid port {port:?} in address {text:?}"))),
        },
    }
}

/// An address or an interface's address.
fn host(host: &str, interfaces: &Interfaces, option: &str) -> Result<IpAddr, Failure> {
    if let Ok(addr) = host.parse() {
        return Ok(addr);
    }
    match interfaces.get(host).map(Vec::as_slice) {
        Some([addr]) => Ok((*addr).into()),
        Some([]) | None => Err(Failure::invalid(format!(
            "{option} {host:?} is neither an IP address nor an interface with an IPv4 address"
        ))),
        Some(several) => Err(Failure::invalid(format!(
            "interface {host} has {} IPv4 addresses: name one of them with {option}",
            several.len()
        ))),
    }
}

/// `--listen-addr`; the default is every address, port 2377.
pub(crate) fn listen(text: &str, interfaces: &Interfaces) -> Result<SocketAddr, Failure> {
    if text.is_empty() {
        return Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT));
    }
    let (name, port) = split(text, DEFAULT_PORT)?;
    Ok(SocketAddr::new(host(name, interfaces, "--listen-addr")?, port))
}

/// Is it a bridge that an engine, Docker's or this one, makes for containers? Nobody reaches a node by its address.
fn is_bridge_of_containers(interface: &str) -> bool {
    let named = |prefix: &str, digits: usize| {
        let rest = interface.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.len() == digits && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    matches!(interface, "docker0" | "docker_gwbridge" | "shoal0" | "shoal_gwbridge")
        || named("br-", 12)
        // Those of one daemon of several.
        || named("sh_", 8)
        || named("gw_", 8)
}

/// `--advertise-addr`; the default is this host's only address.
pub(crate) fn advertise(text: &str, port: u16, interfaces: &Interfaces) -> Result<SocketAddr, Failure> {
    if !text.is_empty() {
        let (name, port) = split(text, port)?;
        let addr = host(name, interfaces, "--advertise-addr")?;
        if addr.is_unspecified() {
            return Err(Failure::invalid("advertise address must be a non-zero IP address or network interface"));
        }
        return Ok(SocketAddr::new(addr, port));
    }
    let outward = interfaces.iter().filter(|(name, _)| !is_bridge_of_containers(name));
    let all: Vec<(&String, &Ipv4Addr)> =
        outward.flat_map(|(name, addrs)| addrs.iter().map(move |addr| (name, addr))).collect();
    match all.as_slice() {
        [(_, addr)] => Ok(SocketAddr::new((**addr).into(), port)),
        [] => Err(Failure::invalid("could not find the system's IP address - specify one with --advertise-addr")),
        several => {
            let list: Vec<String> = several.iter().map(|(name, addr)| format!("{addr} on {name}")).collect();
            Err(Failure::invalid(format!(
                "could not choose an IP address to advertise since this system has multiple addresses ({}) - specify one with --advertise-addr",
                list.join(", ")
            )))
        }
    }
}

/// `--data-path-addr`; the default is the advertised address.
pub(crate) fn data_path(text: &str, advertised: IpAddr, interfaces: &Interfaces) -> Result<IpAddr, Failure> {
    if text.is_empty() { Ok(advertised) } else { host(text, interfaces, "--data-path-addr") }
}

/// A manager to join; the default port is 2377.
pub(crate) fn remote(text: &str) -> Result<String, Failure> {
    let (name, port) = split(text, DEFAULT_PORT)?;
    if name.is_empty() {
        return Err(Failure::invalid(format!("invalid manager address {text:?}")));
    }
    Ok(format!("{name}:{port}"))
}

/// The address from which this host talks to one of these remote ones. Sends nothing.
///
/// # Errors
/// When there is a way to none of them: why not to the first.
pub(crate) fn toward(remotes: &[String]) -> Result<Option<IpAddr>, Failure> {
    let way = |remote: &String| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(remote)?;
        Ok(socket.local_addr()?.ip())
    };
    let mut first_refusal = None;
    for remote in remotes {
        match way(remote) {
            Ok(addr) => return Ok(Some(addr).filter(|addr| !addr.is_unspecified())),
            Err(error) => first_refusal = first_refusal.or(Some((remote, error))),
        }
    }
    first_refusal.map_or(Ok(None), |(remote, error): (_, std::io::Error)| {
        Err(Failure::unavailable(format!("no way to the manager {remote}: {error}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Interfaces {
        Interfaces::from([
            ("eth0".to_owned(), vec![Ipv4Addr::new(10, 0, 0, 1)]),
            ("eth1".to_owned(), vec![Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 1, 2)]),
        ])
    }

    #[test]
    fn addresses_and_interfaces_are_understood() {
        assert_eq!(advertise("eth0", 2377, &two()).map(|a| a.to_string()), Ok("10.0.0.1:2377".to_owned()));
        assert_eq!(advertise("10.0.1.2:99", 2377, &two()).map(|a| a.to_string()), Ok("10.0.1.2:99".to_owned()));
        assert_eq!(listen("", &two()).map(|a| a.to_string()), Ok("0.0.0.0:2377".to_owned()));
        assert_eq!(remote("m1"), Ok("m1:2377".to_owned()));
    }

    #[test]
    fn what_cannot_be_chosen_is_said() {
        for (text, expected) in [
            ("", "multiple addresses"),
            ("eth1", "2 IPv4"),
            ("eth9", "neither"),
            ("eth0:x", "port"),
            ("0.0.0.0", "non-zero"),
        ] {
            let failure = advertise(text, 2377, &two()).expect_err(text);
            assert!(failure.message.contains(expected), "{text:?}: {}", failure.message);
        }
        assert!(advertise("", 2377, &Interfaces::new()).is_err());
    }

    #[test]
    fn bridges_of_containers_are_no_choice() {
        let mut interfaces = Interfaces::from([("eth0".to_owned(), vec![Ipv4Addr::new(10, 0, 0, 1)])]);
        for (number, name) in
            ["docker0", "docker_gwbridge", "br-0123456789ab", "shoal0", "shoal_gwbridge", "sh_72ca7e70", "gw_72ca7e70"]
                .into_iter()
                .enumerate()
        {
            interfaces.insert(name.to_owned(), vec![Ipv4Addr::new(172, 17, u8::try_from(number).unwrap(), 1)]);
        }
        assert_eq!(advertise("", 2377, &interfaces).map(|a| a.to_string()), Ok("10.0.0.1:2377".to_owned()));
        assert_eq!(advertise("docker0", 1, &interfaces).map(|a| a.to_string()), Ok("172.17.0.1:1".to_owned()));
        interfaces.insert("br-lan".to_owned(), vec![Ipv4Addr::new(10, 0, 9, 1)]);
        assert!(advertise("", 2377, &interfaces).is_err());
    }

    #[test]
    fn a_manager_that_cannot_be_found_is_named() {
        // A place that no packet can be sent to, without a question to a name server.
        let nowhere = "255.255.255.255:2377".to_owned();
        let failure = toward(std::slice::from_ref(&nowhere)).expect_err("no such place");
        assert!(failure.message.starts_with("no way to the manager 255.255.255.255:2377: "), "{}", failure.message);
        let found = toward(&[nowhere, "127.0.0.1:2377".to_owned()]);
        assert_eq!(found, Ok(Some(IpAddr::from(Ipv4Addr::LOCALHOST))));
        assert_eq!(toward(&[]), Ok(None));
    }
}
