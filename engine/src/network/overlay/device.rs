//! The kernel's part of a cluster network: a namespace, a bridge in it, a VXLAN device on that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use shoal_engine_sys::netlink::link::{self, Link, Mac, Vxlan};
use shoal_engine_sys::netlink::{Family, NetlinkError, NetlinkSocket, neighbour};
use shoal_engine_sys::netns::{self, Namespace};

use super::plan::{Device, Observed};
use crate::network::error::{NetworkError, Result};

const BRIDGE: &str = "br0";
const DEVICE: &str = "vxlan0";

/// An open cluster network.
#[derive(Debug)]
pub struct Overlay {
    /// Where the namespace is bound.
    pub path: PathBuf,
    namespace: Namespace,
    /// A socket in the namespace.
    pub route: NetlinkSocket,
    /// Number of the bridge.
    pub bridge: u32,
    device: u32,
    group: u32,
    /// What the tables hold by all that is known here; `None` when the kernel has to be asked.
    pub known: Option<Observed>,
    /// Links of the last look that belong to nobody.
    strays: BTreeSet<String>,
}

fn open_socket() -> Result<NetlinkSocket> {
    NetlinkSocket::open(Family::Route).map_err(NetworkError::io("open a netlink socket"))
}

impl Overlay {
    /// Makes namespace and bridge, or takes over those of the daemon before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path, mtu: u32, group: u32) -> Result<Self> {
        let (namespace, mut route) = if netns::is_bound(path) {
            let namespace = Namespace::open(path).map_err(NetworkError::io(format!("open {}", path.display())))?;
            let route =
                namespace.enter(open_socket).map_err(NetworkError::io(format!("enter {}", path.display())))??;
            (namespace, route)
        } else {
            netns::unbind(path).map_err(NetworkError::io(format!("clear {}", path.display())))?;
            let (namespace, route) = Namespace::create(|| {
                settings();
                open_socket()
            })
            .map_err(NetworkError::io("make a network namespace"))?;
            namespace.bind(path).map_err(NetworkError::io(format!("bind {}", path.display())))?;
            (namespace, route?)
        };
        let _ = route.request(link::set_up(1));
        let bridge = ensure_bridge(&mut route, mtu, group)?;
        Ok(Self {
            path: path.to_owned(),
            namespace,
            route,
            bridge,
            device: 0,
            group,
            known: None,
            strays: BTreeSet::new(),
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Reads the tables. A bridge that somebody removed is made again, and `ports`, the links of those that are on the network,
    /// are put back on it. Adds to `repaired` what that took.
    ///
    /// # Errors
    /// The kernel's.
    pub fn observe(&mut self, ports: impl FnOnce() -> BTreeSet<String>, repaired: &mut usize) -> Result<Observed> {
        let links = link::list(&mut self.route)?;
        if !links.iter().any(|link| link.index == self.bridge && link.name == BRIDGE && link.up) {
            let mtu = links.iter().find(|link| link.name == DEVICE).map_or(1450, |device| device.mtu);
            self.bridge = ensure_bridge(&mut self.route, mtu, self.group)?;
        }
        // Links before knowledge: a link made in between is known by then.
        *repaired += self.repair_ports(&links, &ports())?;
        let Some(device) = links.iter().find(|link| link.name == DEVICE) else {
            self.device = 0;
            return Ok(Observed::default());
        };
        self.device = device.index;
        Ok(Observed {
            device: Some(self.describe(device)),
            forwarding: neighbour::list_forwarding(&mut self.route, device.index)?.into_iter().collect::<BTreeSet<_>>(),
            neighbours: neighbour::list(&mut self.route, device.index)?.into_iter().collect::<BTreeMap<_, _>>(),
        })
    }

    /// Puts ports on the bridge that should be there, and removes links that were nobody's at the last look already: most of
    /// those go by themselves, with the namespace of a container that has ended.
    fn repair_ports(&mut self, links: &[Link], ports: &BTreeSet<String>) -> Result<usize> {
        let mut strays = BTreeSet::new();
        let mut requests = Vec::new();
        for link in links.iter().filter(|link| link.kind == "veth") {
            if ports.contains(&link.name) {
                if link.master != self.bridge {
                    requests.push(link::set_master(link.index, self.bridge));
                }
            } else if self.strays.contains(&link.name) {
                requests.push(link::delete(link.index));
            } else {
                strays.insert(link.name.clone());
            }
        }
        self.strays = strays;
        let refusals = self.route.batch(&requests).into_iter().filter_map(Result::err);
        match refusals.filter(|error| !error.missing()).map(NetworkError::from).next() {
            Some(error) => Err(error),
            None => Ok(requests.len()),
        }
    }

    /// A device that is down or not on the bridge is described as none that is ever wanted.
    fn describe(&self, device: &Link) -> Device {
        let usable = device.up && device.master == self.bridge;
        Device {
            vni: if usable { device.vni } else { 0 },
            port: device.vxlan_port,
            local: device.vxlan_local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            mtu: device.mtu,
        }
    }

    /// Makes the device. `home` is a socket in the namespace of the underlay.
    ///
    /// # Errors
    /// The kernel's; when another device of this host has the network identifier, it says so.
    pub fn create_device(&mut self, home: &mut NetlinkSocket, device: Device) -> Result<()> {
        let request = link::create_vxlan(&Vxlan {
            name: DEVICE,
            vni: device.vni,
            local: device.local,
            port: device.port,
            mtu: device.mtu,
            netns: self.namespace.as_fd(),
            group: self.group,
        });
        home.request(request)?;
        let made = link::find(&mut self.route, DEVICE)?.ok_or_else(|| vanished(DEVICE))?;
        self.device = made.index;
        self.route
            .batch(&[link::set_mtu(self.bridge, device.mtu), link::set_master(made.index, self.bridge)])
            .into_iter()
            .collect::<Result<(), NetlinkError>>()?;
        Ok(())
    }

    /// Removes the device.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_device(&mut self) -> Result<()> {
        Ok(self.route.request(link::delete_by_name(DEVICE))?)
    }

    /// Changes entries of the device: those to remove are `(.., false)`.
    ///
    /// # Errors
    /// The first refusal; the others were carried out. An entry to remove that is gone already is no error.
    pub fn change(&mut self, forwarding: &[(Mac, IpAddr, bool)], neighbours: &[(Ipv4Addr, Mac, bool)]) -> Result<()> {
        let device = self.device;
        let forwarding = forwarding.iter().map(|(mac, node, put)| match put {
            true => neighbour::put_forwarding(device, *mac, *node),
            false => neighbour::remove_forwarding(device, *mac, *node),
        });
        let neighbours = neighbours.iter().map(|(addr, mac, put)| match put {
            true => neighbour::put(device, *addr, *mac),
            false => neighbour::remove(device, *addr),
        });
        let requests: Vec<_> = forwarding.chain(neighbours).collect();
        let refusals = self.route.batch(&requests).into_iter().filter_map(Result::err);
        refusals.filter(|error| !error.missing()).map(Into::into).next().map_or(Ok(()), Err)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// When the namespace cannot be unbound.
    pub fn remove(mut self) -> Result<()> {
        // The device goes now and not when the namespace is swept up, so that its identifier is free at once.
        let _ = self.remove_device();
        let _ = self.route.request(link::delete_by_name(BRIDGE));
        netns::unbind(&self.path).map_err(NetworkError::io(format!("unbind {}", self.path.display())))
    }
}

/// Nothing in the namespace is to speak IPv6 or to be filtered on its way over the bridge.
fn settings() {
    for (name, value) in [
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("bridge/bridge-nf-call-iptables", "0"),
    ] {
        // A kernel without the facility has no such setting.
        let _ = netns::write_setting(name, value);
    }
}

fn ensure_bridge(route: &mut NetlinkSocket, mtu: u32, group: u32) -> Result<u32> {
    if let Some(found) = link::find(route, BRIDGE)? {
        if !found.up {
            route.request(link::set_up(found.index))?;
        }
        return Ok(found.index);
    }
    route.request(link::create_bridge(BRIDGE, None, mtu, group))?;
    Ok(link::find(route, BRIDGE)?.ok_or_else(|| vanished(BRIDGE))?.index)
}

/// A link that was just made is gone.
pub fn vanished(name: &str) -> NetworkError {
    NetworkError::io(format!("find link {name}, which was just made"))(std::io::ErrorKind::NotFound.into())
}
