//! Sockets that std does not offer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt};

/// A transport protocol that ports belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Keeps a port from being used by anybody else, without serving it: a TCP connection to it is refused. The port is
/// free again when the descriptor is closed.
///
/// # Errors
/// `AddrInUse` when somebody listens there or holds it; `Unsupported` when the kernel has no such protocol.
pub fn hold_port(transport: Transport, addr: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (SocketType::STREAM, Some(ipproto::TCP)),
        Transport::Udp => (SocketType::DGRAM, Some(ipproto::UDP)),
        Transport::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, protocol).map_err(
        |error| match error {
            rustix::io::Errno::PROTONOSUPPORT | rustix::io::Errno::SOCKTNOSUPPORT => io::ErrorKind::Unsupported.into(),
            other => io::Error::from(other),
        },
    )?;
    if transport == Transport::Udp {
        // A small buffer: nothing is ever read from it.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, 1);
        rustix::net::bind(&socket, &SocketAddrV4::new(addr, port))?;
        return Ok(socket);
    }
    // With address reuse, connections in TIME_WAIT do not count as users. To listen makes the kernel compare with every
    // other user of the port; to shut down ends the listening and keeps the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(addr, port))?;
    rustix::net::listen(&socket, 1)?;
    rustix::net::shutdown(&socket, Shutdown::Read)?;
    sockopt::set_socket_reuseaddr(&socket, false)?;
    Ok(socket)
}

/// As `ioctl(SIOCOUTQ)`, which libc has under the terminals' name.
#[expect(clippy::cast_possible_truncation, reason = "the number of a request has 32 bits")]
const OUTPUT_LEFT: Opcode = libc::TIOCOUTQ as Opcode;

/// Has the peer of a unix socket read all that was written to it? Whoever waits for that is woken by its becoming writable
/// again. Only for unix sockets: others tell what arrived, not what was read.
///
/// # Errors
/// When it is no socket.
#[expect(unsafe_code, reason = "this request has no safe wrapper")]
pub fn is_read_by_peer(socket: impl AsFd) -> io::Result<bool> {
    // SAFETY: this request writes one int.
    let left = unsafe { ioctl(socket, Getter::<OUTPUT_LEFT, libc::c_int>::new()) }?;
    // Who waits is woken when all but one of the bytes accounted for are given back, and not again for the last.
    Ok(left <= 1)
}

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 1024;

/// Takes a port of IPv6 alone, to be served: a TCP socket listens. It does not block.
///
/// # Errors
/// `AddrInUse` when somebody has it; `Unsupported` when the kernel has no IPv6, or for SCTP.
pub fn serve_port(transport: Transport, addr: Ipv6Addr, port: u16) -> io::Result<OwnedFd> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (SocketType::STREAM, ipproto::TCP),
        Transport::Udp => (SocketType::DGRAM, ipproto::UDP),
        Transport::Sctp => return Err(io::ErrorKind::Unsupported.into()),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::INET6, kind, flags, Some(protocol)).map_err(|error| match error {
            rustix::io::Errno::AFNOSUPPORT => io::ErrorKind::Unsupported.into(),
            other => io::Error::from(other),
        })?;
    sockopt::set_ipv6_v6only(&socket, true)?;
    if transport == Transport::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddrV6::new(addr, port, 0, 0))?;
    if transport == Transport::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn free_port() -> u16 {
        TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn what_the_peer_has_read_is_known() {
        let (mut here, mut there) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(is_read_by_peer(&here).unwrap());
        here.write_all(b"head").unwrap();
        assert!(!is_read_by_peer(&here).unwrap());
        there.read_exact(&mut [0; 2]).unwrap();
        assert!(!is_read_by_peer(&here).unwrap(), "half of it is left");
        there.read_exact(&mut [0; 2]).unwrap();
        assert!(is_read_by_peer(&here).unwrap());
        assert!(is_read_by_peer(std::fs::File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn a_held_port_is_taken_and_refuses() {
        let port = free_port();
        let held = hold_port(Transport::Tcp, Ipv4Addr::UNSPECIFIED, port).unwrap();
        assert_eq!(hold_port(Transport::Tcp, HOST, port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpListener::bind((HOST, port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpStream::connect((HOST, port)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(held);
        TcpListener::bind((HOST, port)).unwrap();
    }

    #[test]
    fn a_listened_port_cannot_be_held() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(hold_port(Transport::Tcp, HOST, port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn connections_that_wait_to_die_do_not_count() {
        let listener = TcpListener::bind((HOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((HOST, port)).unwrap();
        drop(listener.accept().unwrap());
        drop(client);
        drop(listener);
        hold_port(Transport::Tcp, HOST, port).unwrap();
    }

    #[test]
    fn udp_ports_are_held_too() {
        let socket = UdpSocket::bind((HOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(hold_port(Transport::Udp, HOST, port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        let _held = hold_port(Transport::Udp, HOST, port).unwrap();
        assert!(UdpSocket::bind((HOST, port)).is_err());
    }
}
