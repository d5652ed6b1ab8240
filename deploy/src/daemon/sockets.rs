//! Binding the sockets of the HTTP API.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::unistd::{Gid, Group};
use rustix::net::AddressFamily;
use rustls::ServerConfig;
use shoal_api::Listener;
use shoal_engine_sys::process::adopt;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::options::{Guard, Listen, Settings};
use super::tls::TlsFiles;

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST_PASSED: i32 = 3;

/// What a start would refuse before it binds anything.
pub(crate) fn check(settings: &Settings) -> anyhow::Result<()> {
    settings.tls.as_ref().map(TlsFiles::server_config).transpose()?;
    group(settings.group.as_deref()).map(drop)
}

/// Binds them all, or none. With TLS every TCP socket has it.
pub(crate) async fn bind(settings: &Settings) -> anyhow::Result<Vec<Listener>> {
    let tls = settings.tls.as_ref().map(TlsFiles::server_config).transpose()?;
    let (group, guard) = (group(settings.group.as_deref())?, settings.guard);
    let mut bound = Vec::new();
    for address in &settings.listen {
        match address {
            Listen::Unix(path) => bound.push(Listener::Unix(bind_unix(path, group).await?, Some(path.clone()))),
            Listen::Tcp(addr) => {
                let socket = TcpListener::bind(addr).await.with_context(|| format!("cannot listen on tcp://{addr}"))?;
                bound.push(tcp(socket, tls.as_ref(), guard)?);
            }
            Listen::Passed => bound.extend(passed(tls.as_ref(), guard)?),
        }
    }
    Ok(bound)
}

fn tcp(socket: TcpListener, tls: Option<&Arc<ServerConfig>>, guard: Guard) -> anyhow::Result<Listener> {
    let addr = socket.local_addr().context("address of a socket")?;
    guard.check(&addr)?;
    if !guard.verifies {
        tracing::warn!(%addr, "the API asks clients for no certificate: whoever reaches it is root on this machine");
    }
    Ok(match tls {
        Some(config) => Listener::Tls(socket, Arc::clone(config)),
        None => Listener::Tcp(socket),
    })
}

/// The group that unix sockets belong to. One that was named must exist.
fn group(named: Option<&str>) -> anyhow::Result<Option<Gid>> {
    let name = named.unwrap_or("docker");
    let of_number = || name.parse().ok().map(Gid::from_raw);
    match Group::from_name(name).ok().flatten().map(|group| group.gid).or_else(of_number) {
        None if named.is_some() => bail!("group {name} not found"),
        found => Ok(found),
    }
}

/// The sockets that a service manager has bound for this process. It also owns the files of unix sockets.
fn passed(tls: Option<&Arc<ServerConfig>>, guard: Guard) -> anyhow::Result<Vec<Listener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let count = match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if u32::try_from(pid) == Ok(std::process::id()) && count > 0 => count,
        _ => bail!("host fd://: no socket was passed to this process; is shoal.socket enabled?"),
    };
    let mut listeners = Vec::new();
    for number in FIRST_PASSED..FIRST_PASSED.saturating_add(count) {
        let socket = adopt(number).with_context(|| format!("the passed socket {number}"))?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).context("a passed socket")?;
        rustix::io::ioctl_fionbio(&socket, true).context("a passed socket")?;
        let domain = rustix::net::sockopt::socket_domain(&socket).context("a passed descriptor is no socket")?;
        listeners.push(if domain == AddressFamily::UNIX {
            Listener::Unix(UnixListener::from_std(socket.into()).context("a passed socket")?, None)
        } else if domain == AddressFamily::INET || domain == AddressFamily::INET6 {
            tcp(TcpListener::from_std(socket.into()).context("a passed socket")?, tls, guard)?
        } else {
            bail!("the passed socket {number} is neither a unix nor a TCP socket");
        });
    }
    Ok(listeners)
}

/// A socket file that nobody serves is left from a crash and replaced.
async fn bind_unix(path: &Path, group: Option<Gid>) -> anyhow::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        bail!("another process serves {}", path.display());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    if let Some(group) = group {
        nix::unistd::chown(path, None, Some(group))
            .with_context(|| format!("cannot give {} to group {group}", path.display()))?;
    }
    Ok(listener)
}

/// Tells a service manager that waits for it (`NOTIFY_SOCKET`, as systemd sets it).
pub(crate) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"READY=1", &path));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell the service manager that the daemon is ready");
    }
}
