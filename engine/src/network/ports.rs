//! Host ports: who has which, held by a socket so that nobody else on the host can take them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use shoal_engine_sys::socket::{Transport, hold_port, serve_port};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::spec::Protocol;
use tokio::runtime::Handle;

use super::relay::{Dial, Relay};
use super::types::{PortPublish, PublishedPort};

/// First and last port that the node chooses itself.
const CHOSEN: (u16, u16) = (32768, 60999);

/// A host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortKey {
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// Host address; unspecified is every address.
    pub host_ip: IpAddr,
}

/// What keeps a port.
#[derive(Debug)]
enum Held {
    /// Nothing: somebody else has it, or there are no such sockets.
    Noted,
    /// A socket that nobody serves, of IPv6 not yet.
    Socket(OwnedFd),
    /// Its relay.
    Relay(Relay),
}

/// The host ports in use.
#[derive(Debug, Default)]
pub(super) struct PortTable {
    held: BTreeMap<PortKey, Held>,
    next: u16,
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

enum Refusal {
    Ours,
    Others(io::Error),
}

/// Has the host no such version of IP, or no protocol for it?
fn has_no_version(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
}

impl PortTable {
    fn clashes(&self, key: PortKey) -> bool {
        let low = PortKey { host_ip: Ipv4Addr::UNSPECIFIED.into(), ..key };
        let high = PortKey { host_ip: Ipv6Addr::from([0xff; 16]).into(), ..key };
        self.held.range(low..=high).filter(|(other, _)| other.host_ip.is_ipv4() == key.host_ip.is_ipv4()).any(
            |(other, _)| other.host_ip == key.host_ip || other.host_ip.is_unspecified() || key.host_ip.is_unspecified(),
        )
    }

    fn try_take(&mut self, key: PortKey) -> Result<(), Refusal> {
        if self.clashes(key) {
            return Err(Refusal::Ours);
        }
        let taken = match key.host_ip {
            IpAddr::V4(addr) => hold_port(transport(key.protocol), addr, key.port),
            IpAddr::V6(addr) => serve_port(transport(key.protocol), addr, key.port),
        };
        match taken {
            Ok(socket) => self.held.insert(key, Held::Socket(socket)),
            // Without SCTP sockets in the kernel there is nobody to hold the port against.
            Err(error) if error.kind() == io::ErrorKind::Unsupported && key.host_ip.is_ipv4() => {
                self.held.insert(key, Held::Noted)
            }
            Err(error) => return Err(Refusal::Others(error)),
        };
        Ok(())
    }

    /// Takes a host port for each wish; all or none.
    ///
    /// # Errors
    /// As dockerd's, when one is taken.
    pub(super) fn take(&mut self, wishes: &[PortPublish]) -> Result<Vec<PublishedPort>, Failure> {
        let mut taken = Vec::with_capacity(wishes.len());
        for wish in wishes {
            match self.take_one(wish) {
                Ok(ports) => taken.extend(ports),
                Err(failure) => {
                    self.give_back(&taken);
                    return Err(failure);
                }
            }
        }
        Ok(taken)
    }

    /// The same port on all of these addresses; one where the host has none of the version is left out, if it is not the only
    /// one.
    fn try_all(&mut self, wish: &PortPublish, addrs: &[IpAddr], port: u16) -> Result<Vec<PublishedPort>, Refusal> {
        let mut taken = Vec::new();
        for host_ip in addrs.iter().copied() {
            match self.try_take(PortKey { protocol: wish.protocol, port, host_ip }) {
                Ok(()) => taken.push(PublishedPort {
                    host_ip,
                    host_port: port,
                    container_port: wish.container_port,
                    protocol: wish.protocol,
                }),
                Err(Refusal::Others(error)) if !taken.is_empty() && has_no_version(&error) => {}
                Err(why) => {
                    self.give_back(&taken);
                    return Err(why);
                }
            }
        }
        Ok(taken)
    }

    fn take_one(&mut self, wish: &PortPublish) -> Result<Vec<PublishedPort>, Failure> {
        const ALL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let one = wish.host_ip.map(|addr| [addr]);
        let addrs = one.as_ref().map_or(&ALL[..], |one| &one[..]);
        if wish.host_port == 0 {
            return self.choose(wish, addrs);
        }
        let last = wish.host_port_end.max(wish.host_port);
        let mut refusal = None;
        for port in wish.host_port..=last {
            match self.try_all(wish, addrs, port) {
                Ok(taken) => return Ok(taken),
                Err(why) => refusal = Some((port, why)),
            }
        }
        let (port, why) = refusal.unwrap_or((wish.host_port, Refusal::Ours));
        let why = match why {
            Refusal::Ours => "port is already allocated".to_owned(),
            Refusal::Others(error) if error.kind() == io::ErrorKind::AddrInUse => {
                "address already in use by another process".to_owned()
            }
            Refusal::Others(error) if error.kind() == io::ErrorKind::Unsupported => {
                "the host cannot serve it there (SCTP is published on addresses of IPv4 alone)".to_owned()
            }
            Refusal::Others(error) => error.to_string(),
        };
        let host_ip = addrs[0];
        let host_ip = if host_ip.is_ipv6() { format!("[{host_ip}]") } else { host_ip.to_string() };
        let range = if last == port { port.to_string() } else { format!("{}-{last}", wish.host_port) };
        Err(Failure::new(ErrorKind::Internal, format!("Bind for {host_ip}:{range} failed: {why}")))
    }

    fn choose(&mut self, wish: &PortPublish, addrs: &[IpAddr]) -> Result<Vec<PublishedPort>, Failure> {
        let (first, last) = CHOSEN;
        for _ in first..=last {
            let port = self.next.clamp(first, last);
            self.next = if port == last { first } else { port + 1 };
            match self.try_all(wish, addrs, port) {
                Ok(taken) => return Ok(taken),
                // It is no better with any other port.
                Err(Refusal::Others(error)) if has_no_version(&error) => {
                    return Err(Failure::new(ErrorKind::Internal, format!("cannot publish on {}: {error}", addrs[0])));
                }
                Err(_) => {}
            }
        }
        Err(Failure::new(ErrorKind::Internal, "all ports are allocated"))
    }

    /// Takes ports that were published before a restart. A port that somebody else has bound meanwhile still leads to
    /// the container, so that it is only noted as taken.
    pub(super) fn take_again(&mut self, ports: &[PublishedPort]) {
        for port in ports {
            let key = PortKey { protocol: port.protocol, port: port.host_port, host_ip: port.host_ip };
            if self.try_take(key).is_err() {
                self.held.entry(key).or_insert(Held::Noted);
            }
        }
    }

    /// Serves the ports of IPv6: each leads to an address of IPv4.
    pub(super) fn relay(&mut self, wanted: &BTreeMap<PortKey, SocketAddrV4>, dial: &Dial, runtime: &Handle) {
        for (key, held) in &mut self.held {
            let (IpAddr::V6(addr), Some(target)) = (key.host_ip, wanted.get(key)) else { continue };
            let socket = match std::mem::replace(held, Held::Noted) {
                Held::Relay(relay) if relay.target() == *target => {
                    *held = Held::Relay(relay);
                    continue;
                }
                Held::Socket(socket) => Ok(socket),
                // It led elsewhere: its socket goes first.
                Held::Relay(other) => {
                    drop(other);
                    serve_port(transport(key.protocol), addr, key.port)
                }
                // Somebody else had the port when it was taken.
                Held::Noted => serve_port(transport(key.protocol), addr, key.port),
            };
            let relay = socket.and_then(|socket| Relay::start(socket, key.protocol, *target, dial.clone(), runtime));
            match relay {
                Ok(relay) => *held = Held::Relay(relay),
                Err(error) => tracing::warn!(port = key.port, %addr, %error, "a published port is not served"),
            }
        }
    }

    /// Takes a port of the routing mesh.
    ///
    /// # Errors
    /// When a container of this node publishes it, or another process has it.
    pub(super) fn take_mesh(&mut self, protocol: Protocol, port: u16) -> Result<(), String> {
        let key = PortKey { protocol, port, host_ip: Ipv4Addr::UNSPECIFIED.into() };
        match self.try_take(key) {
            Ok(()) => Ok(()),
            Err(Refusal::Ours) => {
                Err(format!("port {port}/{} is published by a container of this node", protocol.as_str()))
            }
            Err(Refusal::Others(error)) => Err(format!("port {port}/{}: {error}", protocol.as_str())),
        }
    }

    /// Gives ports back.
    pub(super) fn give_back(&mut self, ports: &[PublishedPort]) {
        for port in ports {
            self.held.remove(&PortKey { protocol: port.protocol, port: port.host_port, host_ip: port.host_ip });
        }
    }

    /// Gives a port of the routing mesh back.
    pub(super) fn give_back_mesh(&mut self, protocol: Protocol, port: u16) {
        self.held.remove(&PortKey { protocol, port, host_ip: Ipv4Addr::UNSPECIFIED.into() });
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn a_port_is_given_once_and_all_or_none() {
        let mut table = PortTable::default();
        let (one, two) = (free_port(), free_port());
        let first = table.take(&[PortPublish::new(one, 80, Protocol::Tcp)]).unwrap();
        let wishes = [PortPublish::new(two, 81, Protocol::Tcp), PortPublish::new(one, 80, Protocol::Tcp)];
        let failure = table.take(&wishes).unwrap_err();
        assert_eq!(failure.message, format!("Bind for 0.0.0.0:{one} failed: port is already allocated"));
        table.take(&[PortPublish::new(two, 81, Protocol::Tcp)]).unwrap();
        table.give_back(&first);
        table.take(&[PortPublish::new(one, 80, Protocol::Tcp)]).unwrap();
    }

    #[test]
    fn one_address_clashes_with_all_addresses_but_not_with_another() {
        let mut table = PortTable::default();
        let port = free_port();
        let at = |addr: [u8; 4]| PortPublish {
            host_ip: Some(Ipv4Addr::from(addr).into()),
            ..PortPublish::new(port, 80, Protocol::Tcp)
        };
        table.take(&[at([127, 0, 0, 1])]).unwrap();
        table.take(&[at([127, 0, 0, 2])]).unwrap();
        assert!(table.take(&[at([127, 0, 0, 1])]).is_err());
        assert!(table.take(&[PortPublish::new(port, 80, Protocol::Tcp)]).is_err());
        table.take(&[PortPublish::new(port, 80, Protocol::Udp)]).unwrap();
    }

    #[test]
    fn every_address_is_of_both_versions() {
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("SKIPPED: this host has no IPv6");
            return;
        }
        let mut table = PortTable::default();
        let port = free_port();
        let shown =
            |ports: &[PublishedPort]| -> Vec<String> { ports.iter().map(|port| port.host_ip.to_string()).collect() };
        let both = table.take(&[PortPublish::new(port, 80, Protocol::Tcp)]).unwrap();
        assert_eq!(shown(&both), ["0.0.0.0", "::"]);
        let local =
            PortPublish { host_ip: Some(Ipv6Addr::LOCALHOST.into()), ..PortPublish::new(port, 80, Protocol::Tcp) };
        let failure = table.take(std::slice::from_ref(&local)).unwrap_err();
        assert_eq!(failure.message, format!("Bind for [::1]:{port} failed: port is already allocated"));
        table.give_back(&both);
        let one = table.take(&[local]).unwrap();
        assert_eq!(shown(&one), ["::1"]);
        // A chosen port is the same for both, and SCTP is there for one only.
        let chosen = table.take(&[PortPublish::new(0, 80, Protocol::Udp)]).unwrap();
        assert!(chosen.len() == 2 && chosen[0].host_port == chosen[1].host_port, "{chosen:?}");
        assert_eq!(shown(&table.take(&[PortPublish::new(port, 80, Protocol::Sctp)]).unwrap()), ["0.0.0.0"]);
        let sctp =
            PortPublish { host_ip: Some(Ipv6Addr::LOCALHOST.into()), ..PortPublish::new(port, 80, Protocol::Sctp) };
        assert!(table.take(&[sctp]).unwrap_err().message.contains("SCTP is published on addresses of IPv4 alone"));
    }

    #[test]
    fn other_processes_count() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let failure = PortTable::default().take(&[PortPublish::new(port, 80, Protocol::Tcp)]).unwrap_err();
        assert_eq!(
            failure.message,
            format!("Bind for 0.0.0.0:{port} failed: address already in use by another process")
        );
    }

    #[test]
    fn ranges_and_free_choice_skip_what_is_taken() {
        let mut table = PortTable::default();
        let chosen: Vec<_> =
            (0..3).map(|_| table.take(&[PortPublish::new(0, 80, Protocol::Tcp)]).unwrap()[0].host_port).collect();
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen[0] >= 32768, "{chosen:?}");
        let first = chosen[0];
        let range =
            PortPublish { host_port: first, host_port_end: first + 20, ..PortPublish::new(0, 80, Protocol::Tcp) };
        let port = table.take(&[range]).unwrap()[0].host_port;
        assert!(!chosen.contains(&port) && port > first);
    }
}
