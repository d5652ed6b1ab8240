//! Host ports: who has which, held by a socket so that nobody else on the host can take them.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use shoal_engine_sys::socket::{Transport, hold_port};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::spec::Protocol;

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
    pub host_ip: Ipv4Addr,
}

/// The host ports in use.
#[derive(Debug, Default)]
pub(super) struct PortTable {
    held: BTreeMap<PortKey, Option<OwnedFd>>,
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

impl PortTable {
    fn clashes(&self, key: PortKey) -> bool {
        let low = PortKey { host_ip: Ipv4Addr::UNSPECIFIED, ..key };
        let high = PortKey { host_ip: Ipv4Addr::BROADCAST, ..key };
        self.held.range(low..=high).any(|(other, _)| {
            other.host_ip == key.host_ip || other.host_ip.is_unspecified() || key.host_ip.is_unspecified()
        })
    }

    fn try_take(&mut self, key: PortKey) -> Result<(), Refusal> {
        if self.clashes(key) {
            return Err(Refusal::Ours);
        }
        match hold_port(transport(key.protocol), key.host_ip, key.port) {
            Ok(socket) => self.held.insert(key, Some(socket)),
            // Without SCTP sockets in the kernel there is nobody to hold the port against.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.held.insert(key, None),
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
                Ok(port) => taken.push(port),
                Err(failure) => {
                    self.give_back(&taken);
                    return Err(failure);
                }
            }
        }
        Ok(taken)
    }

    fn take_one(&mut self, wish: &PortPublish) -> Result<PublishedPort, Failure> {
        let host_ip = wish.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let key = |port| PortKey { protocol: wish.protocol, port, host_ip };
        let published = |host_port| PublishedPort {
            host_ip,
            host_port,
            container_port: wish.container_port,
            protocol: wish.protocol,
        };
        if wish.host_port == 0 {
            return self.choose(key).map(published);
        }
        let last = wish.host_port_end.max(wish.host_port);
        let mut refusal = None;
        for port in wish.host_port..=last {
            match self.try_take(key(port)) {
                Ok(()) => return Ok(published(port)),
                Err(why) => refusal = Some((port, why)),
            }
        }
        let (port, why) = refusal.unwrap_or((wish.host_port, Refusal::Ours));
        let why = match why {
            Refusal::Ours => "port is already allocated".to_owned(),
            Refusal::Others(error) if error.kind() == io::ErrorKind::AddrInUse => {
                "address already in use by another process".to_owned()
            }
            Refusal::Others(error) => error.to_string(),
        };
        let range = if last == port { port.to_string() } else { format!("{}-{last}", wish.host_port) };
        Err(Failure::new(ErrorKind::Internal, format!("Bind for {host_ip}:{range} failed: {why}")))
    }

    fn choose(&mut self, key: impl Fn(u16) -> PortKey) -> Result<u16, Failure> {
        let (first, last) = CHOSEN;
        for _ in first..=last {
            let port = self.next.clamp(first, last);
            self.next = if port == last { first } else { port + 1 };
            if self.try_take(key(port)).is_ok() {
                return Ok(port);
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
                self.held.entry(key).or_insert(None);
            }
        }
    }

    /// Takes a port of the routing mesh.
    ///
    /// # Errors
    /// When a container of this node publishes it, or another process has it.
    pub(super) fn take_mesh(&mut self, protocol: Protocol, port: u16) -> Result<(), String> {
        let key = PortKey { protocol, port, host_ip: Ipv4Addr::UNSPECIFIED };
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
        self.held.remove(&PortKey { protocol, port, host_ip: Ipv4Addr::UNSPECIFIED });
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
        let at =
            |addr: [u8; 4]| PortPublish { host_ip: Some(addr.into()), ..PortPublish::new(port, 80, Protocol::Tcp) };
        table.take(&[at([127, 0, 0, 1])]).unwrap();
        table.take(&[at([127, 0, 0, 2])]).unwrap();
        assert!(table.take(&[at([127, 0, 0, 1])]).is_err());
        assert!(table.take(&[PortPublish::new(port, 80, Protocol::Tcp)]).is_err());
        table.take(&[PortPublish::new(port, 80, Protocol::Udp)]).unwrap();
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
