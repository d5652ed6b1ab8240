//! Namespaces for sandboxes, made before they are needed: the kernel takes a millisecond or more for one, and longer while
//! others come and go.

use std::io;
use std::sync::atomic::Ordering;

use shoal_engine_sys::netlink::{Family, NetlinkSocket, link};
use shoal_engine_sys::netns::{self, Namespace};

use super::core::Core;
use super::dns::server::Sockets;
use super::error::{NetworkError, Result};
use super::state::lock;

/// How many are kept.
const SPARES: usize = 4;

/// Settings of a new namespace. As dockerd does: any user may ping and serve any port, since the namespace is the
/// container's own. Links made later get no IPv6 addresses of their own.
const SANDBOX_SETTINGS: [(&str, &str); 3] = [
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
];

/// A namespace that nobody uses yet, with its loopback link up, and the sockets that can only be opened in it.
#[derive(Debug)]
pub(super) struct Fresh {
    /// The namespace.
    pub namespace: Namespace,
    /// Links, addresses, routes.
    pub route: NetlinkSocket,
    /// Rules.
    pub netfilter: NetlinkSocket,
    /// For a name server.
    pub names: Sockets,
}

impl Fresh {
    fn make() -> Result<Self> {
        let (namespace, opened) = Namespace::create(|| {
            for (name, value) in SANDBOX_SETTINGS {
                // A kernel without the facility has no such setting.
                let _ = netns::write_setting(name, value);
            }
            let mut route = NetlinkSocket::open(Family::Route)?;
            // The first link of a namespace is loopback.
            route.request(link::set_up(1)).map_err(io::Error::other)?;
            Ok((route, NetlinkSocket::open(Family::Netfilter)?, Sockets::open(None)?))
        })
        .map_err(NetworkError::io("make a network namespace"))?;
        let (route, netfilter, names) =
            opened.map_err(|error: io::Error| NetworkError::io("set up a network namespace")(error))?;
        Ok(Self { namespace, route, netfilter, names })
    }
}

impl Core {
    /// A namespace: a spare one if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn fresh_namespace(&self) -> Result<Fresh> {
        let spare = lock(&self.spares).pop();
        spare.map_or_else(Fresh::make, Ok)
    }

    /// Makes spare ones for those that were taken. What fails here fails again, and is told, when one is needed.
    pub(super) fn refill_spares(&self) {
        while self.keeps_spares.load(Ordering::Acquire) && lock(&self.spares).len() < SPARES {
            let Ok(fresh) = Fresh::make() else { return };
            lock(&self.spares).push(fresh);
        }
    }

    /// Lets the spare ones go, and makes no more.
    pub(super) fn drop_spares(&self) {
        self.keeps_spares.store(false, Ordering::Release);
        lock(&self.spares).clear();
    }
}
