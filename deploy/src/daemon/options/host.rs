//! `--host`: where the API listens.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};

/// Where the API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
    /// The sockets that a service manager passes.
    Passed,
}

/// Who may use TCP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Is there TLS?
    pub(crate) tls: bool,
    /// Must clients show a certificate, or did the user say with `--tls=false` or `--tlsverify=false` that they need not?
    pub(crate) open_on_purpose: bool,
    /// Must clients show a certificate?
    pub(crate) verifies: bool,
}

impl Guard {
    /// May the API listen at this address?
    ///
    /// # Errors
    /// When it would let in everybody without the user having said so.
    pub(crate) fn check(self, addr: &SocketAddr) -> anyhow::Result<()> {
        if self.verifies || self.open_on_purpose || addr.ip().is_loopback() {
            return Ok(());
        }
        bail!(
            "the API is root on this machine: without certificates of clients it listens on loopback only, not on tcp://{addr}; \
             use --tlsverify with --tlscacert, --tlscert and --tlskey, or say --tlsverify=false to let everybody in"
        )
    }
}

/// Reads one address.
///
/// # Errors
/// When it is none that can be listened at.
pub(super) fn parse(host: &str, guard: Guard) -> anyhow::Result<Listen> {
    if let Some(path) = host.strip_prefix("unix://") {
        if !path.starts_with('/') {
            bail!("host {host:?}: the socket's path must be absolute");
        }
        return Ok(Listen::Unix(PathBuf::from(path)));
    }
    // dockerd takes a number or name of a socket, too: all that were passed are served here.
    if host.starts_with("fd://") {
        return Ok(Listen::Passed);
    }
    let Some(addr) = host.strip_prefix("tcp://") else {
        bail!("host {host:?} is none of unix:///path, tcp://address:port and fd://");
    };
    let addr = parse_tcp(addr, guard.tls)
        .with_context(|| format!("host {host:?}: expected tcp://address:port; the address may be localhost"))?;
    guard.check(&addr)?;
    Ok(Listen::Tcp(addr))
}

/// As in dockerd no address is loopback, and the port is by default 2375, with TLS 2376.
fn parse_tcp(text: &str, has_tls: bool) -> Option<SocketAddr> {
    let text = text.trim_end_matches('/');
    if let Ok(addr) = text.parse() {
        return Some(addr);
    }
    let default_port = if has_tls { 2376 } else { 2375 };
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()?),
        None => (text, default_port),
    };
    let ip = match name {
        "" | "localhost" => Ipv4Addr::LOCALHOST,
        name => name.parse().ok()?,
    };
    Some(SocketAddr::new(ip.into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: Guard = Guard { tls: false, open_on_purpose: false, verifies: false };

    #[test]
    fn hosts_are_read_as_dockerd_reads_them() {
        let tcp = |addr: &str| Listen::Tcp(addr.parse().expect("address"));
        for (host, expected) in [
            ("fd://", Listen::Passed),
            ("tcp://127.0.0.1:2375", tcp("127.0.0.1:2375")),
            ("tcp://localhost:1234", tcp("127.0.0.1:1234")),
            ("tcp://localhost", tcp("127.0.0.1:2375")),
            ("tcp://:99/", tcp("127.0.0.1:99")),
            ("tcp://[::1]:2375", tcp("[::1]:2375")),
        ] {
            assert_eq!(parse(host, CLOSED).expect(host), expected);
        }
        let verifies = Guard { tls: true, verifies: true, ..CLOSED };
        assert_eq!(parse("tcp://0.0.0.0", verifies).expect("with TLS"), tcp("0.0.0.0:2376"));
    }

    #[test]
    fn nobody_is_let_in_by_accident() {
        let host = "tcp://0.0.0.0:2376";
        for (guard, is_allowed) in [
            (CLOSED, false),
            (Guard { tls: true, ..CLOSED }, false),
            (Guard { tls: true, verifies: true, ..CLOSED }, true),
            (Guard { tls: true, open_on_purpose: true, ..CLOSED }, true),
            (Guard { open_on_purpose: true, ..CLOSED }, true),
        ] {
            assert_eq!(parse(host, guard).is_ok(), is_allowed, "{guard:?}");
        }
    }
}
