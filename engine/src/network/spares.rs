//! Namespaces for sandboxes, made before they are needed: the kernel takes a millisecond or more for one, and longer while
//! others come and go.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use shoal_engine_sys::netlink::{Family, NetlinkSocket, link};
use shoal_engine_sys::netns::{self, Namespace};
use shoal_engine_sys::user_namespace::UserNamespace;
use shoal_proto::error::Failure;

use super::core::Core;
use super::dns::server::Sockets;
use super::error::{NetworkError, Result};
use super::state::lock;
use super::types::SandboxUser;
use crate::remap::IdMap;

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
    /// The user namespace that it belongs to, when that is not the host's.
    pub user: Option<UserNamespace>,
    /// Links, addresses, routes.
    pub route: NetlinkSocket,
    /// Rules.
    pub netfilter: NetlinkSocket,
    /// For a name server.
    pub names: Sockets,
}

impl Fresh {
    /// In the host's user namespace.
    fn of_host() -> Result<Self> {
        let (namespace, opened) =
            Namespace::create(Opened::here).map_err(NetworkError::io("make a network namespace"))?;
        Self::of(namespace, None, opened)
    }

    /// In a user namespace with these ids.
    fn mapped(map: &IdMap) -> Result<Self> {
        let made = map.with_text(UserNamespace::create_with_network);
        let (user, namespace) = made.map_err(NetworkError::io("make a user namespace"))?;
        let opened = namespace.enter(Opened::here).map_err(NetworkError::io("enter a network namespace"))?;
        Self::of(namespace, Some(user), opened)
    }

    /// In the user namespace that is bound to a path.
    fn beside(path: &Path) -> Result<Self> {
        let user = UserNamespace::open(path).map_err(NetworkError::io(format!("open {}", path.display())))?;
        let namespace = user.new_network().map_err(NetworkError::io("make a network namespace"))?;
        let opened = namespace.enter(Opened::here).map_err(NetworkError::io("enter a network namespace"))?;
        Self::of(namespace, Some(user), opened)
    }

    fn of(namespace: Namespace, user: Option<UserNamespace>, opened: io::Result<Opened>) -> Result<Self> {
        let Opened { route, netfilter, names } = opened.map_err(NetworkError::io("set up a network namespace"))?;
        Ok(Self { namespace, user, route, netfilter, names })
    }
}

/// Sockets of a namespace.
struct Opened {
    route: NetlinkSocket,
    netfilter: NetlinkSocket,
    names: Sockets,
}

impl Opened {
    /// Sets up the namespace of this thread.
    fn here() -> io::Result<Self> {
        for (name, value) in SANDBOX_SETTINGS {
            // A kernel without the facility has no such setting.
            let _ = netns::write_setting(name, value);
        }
        let mut route = NetlinkSocket::open(Family::Route)?;
        // The first link of a namespace is loopback.
        route.request(link::set_up(1)).map_err(io::Error::other)?;
        Ok(Self { route, netfilter: NetlinkSocket::open(Family::Netfilter)?, names: Sockets::open(None)? })
    }
}

impl Core {
    /// A namespace: a spare one if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn fresh_namespace(&self, user: &SandboxUser) -> Result<Fresh> {
        let map = match user {
            SandboxUser::Of(path) => return Fresh::beside(path),
            // Spare ones are of the other kind.
            SandboxUser::Host if self.options.id_map.is_some() => return Fresh::of_host(),
            SandboxUser::Host => None,
            SandboxUser::Own => {
                let missing = || Failure::invalid("this engine has no ids for user namespaces");
                Some(self.options.id_map.as_ref().ok_or_else(missing)?)
            }
        };
        let spare = lock(&self.spares).pop();
        spare.map_or_else(|| map.map_or_else(Fresh::of_host, Fresh::mapped), Ok)
    }

    /// Makes spare ones for those that were taken. What fails here fails again, and is told, when one is needed.
    pub(super) fn refill_spares(&self) {
        while self.keeps_spares.load(Ordering::Acquire) && lock(&self.spares).len() < SPARES {
            let made = self.options.id_map.as_ref().map_or_else(Fresh::of_host, Fresh::mapped);
            let Ok(fresh) = made else { return };
            lock(&self.spares).push(fresh);
        }
    }

    /// Lets the spare ones go, and makes no more.
    pub(super) fn drop_spares(&self) {
        self.keeps_spares.store(false, Ordering::Release);
        lock(&self.spares).clear();
    }
}
