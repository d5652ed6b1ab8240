//! Binding the sockets of the HTTP API.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use anyhow::{Context, bail};
use shoal_api::Listener;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::options::Listen;

/// Binds them all, or none.
pub(crate) async fn bind(listen: &[Listen]) -> anyhow::Result<Vec<Listener>> {
    let mut bound = Vec::new();
    for address in listen {
        bound.push(match address {
            Listen::Unix(path) => Listener::Unix(bind_unix(path).await?, Some(path.clone())),
            Listen::Tcp(addr) => {
                tracing::warn!(%addr, "the API listens on TCP without TLS: whoever reaches it is root on this machine");
                Listener::Tcp(TcpListener::bind(addr).await.with_context(|| format!("cannot listen on tcp://{addr}"))?)
            }
        });
    }
    Ok(bound)
}

/// A socket file that nobody serves is left from a crash and replaced.
async fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
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
    if let Ok(Some(group)) = nix::unistd::Group::from_name("docker") {
        nix::unistd::chown(path, None, Some(group.gid))
            .with_context(|| format!("cannot give {} to group docker", path.display()))?;
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
