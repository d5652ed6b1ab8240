//! Network links: bridges, veth pairs, VXLAN devices.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Message, NLM_F_CREATE, NLM_F_EXCL, NetlinkError, NetlinkSocket, Request, attributes, text_of, u32_of};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_GROUP: u16 = 27;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PROXY: u16 = 11;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFF_UP: u32 = 1;

/// A hardware address.
pub type Mac = [u8; 6];

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Number in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Set up?
    pub up: bool,
    /// Largest packet.
    pub mtu: u32,
    /// Hardware address; zero for links that have none.
    pub mac: Mac,
    /// Number of the bridge it is a port of; 0 for none.
    pub master: u32,
    /// `bridge`, `veth`, `vxlan`, ...; empty for physical links.
    pub kind: String,
    /// Device group: who made it.
    pub group: u32,
    /// VXLAN network identifier; 0 for other kinds.
    pub vni: u32,
    /// UDP port of VXLAN; 0 for other kinds.
    pub vxlan_port: u16,
    /// Own underlay address of VXLAN.
    pub vxlan_local: Option<IpAddr>,
}

fn header(index: u32, up: bool) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        bytes[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        bytes[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    bytes
}

fn create(name: &str, group: u32) -> Request {
    Request::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, format!("make link {name}"))
        .body(&header(0, true))
        .attr_str(IFLA_IFNAME, name)
        .attr_u32(IFLA_GROUP, group)
}

/// Makes a bridge, and sets it up.
pub fn create_bridge(name: &str, mac: Option<Mac>, mtu: u32, group: u32) -> Request {
    let mut request = create(name, group).attr_u32(IFLA_MTU, mtu);
    if let Some(mac) = mac {
        request.put(IFLA_ADDRESS, &mac);
    }
    request.nest(IFLA_LINKINFO, |info| info.put_str(IFLA_INFO_KIND, "bridge"))
}

/// A veth pair: one end here, the other in another namespace.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// Name of the end here.
    pub name: &'a str,
    /// Bridge that the end here becomes a port of; 0 for none.
    pub master: u32,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Hardware address of the other end.
    pub peer_mac: Option<Mac>,
    /// Namespace of the other end.
    pub peer_netns: BorrowedFd<'a>,
    /// Largest packet.
    pub mtu: u32,
    /// Device group of both ends.
    pub group: u32,
}

/// Makes a veth pair and sets the end here up. The other end cannot be set up before the pair is complete.
pub fn create_veth(veth: &Veth<'_>) -> Request {
    let mut request = create(veth.name, veth.group).attr_u32(IFLA_MTU, veth.mtu);
    if veth.master != 0 {
        request.put_u32(IFLA_MASTER, veth.master);
    }
    request.nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_KIND, "veth");
        info.put_nest(IFLA_INFO_DATA, |data| {
            data.put_nest(VETH_INFO_PEER, |peer| {
                peer.put_raw(&header(0, false));
                peer.put_str(IFLA_IFNAME, veth.peer_name);
                peer.put_u32(IFLA_MTU, veth.mtu);
                peer.put_u32(IFLA_GROUP, veth.group);
                peer.put_u32(IFLA_NET_NS_FD, veth.peer_netns.as_raw_fd().cast_unsigned());
                if let Some(mac) = veth.peer_mac {
                    peer.put(IFLA_ADDRESS, &mac);
                }
            });
        });
    })
}

/// A VXLAN device.
#[derive(Debug, Clone, Copy)]
pub struct Vxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Network identifier.
    pub vni: u32,
    /// Own underlay address.
    pub local: IpAddr,
    /// UDP port, here and there.
    pub port: u16,
    /// Largest packet inside.
    pub mtu: u32,
    /// Namespace that the device goes to. Its UDP socket stays in the namespace of the netlink socket.
    pub netns: BorrowedFd<'a>,
    /// Device group.
    pub group: u32,
}

/// Makes a VXLAN device that learns nothing and answers address requests from its neighbour table.
pub fn create_vxlan(vxlan: &Vxlan<'_>) -> Request {
    create(vxlan.name, vxlan.group)
        .attr_u32(IFLA_MTU, vxlan.mtu)
        .attr_u32(IFLA_NET_NS_FD, vxlan.netns.as_raw_fd().cast_unsigned())
        .nest(IFLA_LINKINFO, |info| {
            info.put_str(IFLA_INFO_KIND, "vxlan");
            info.put_nest(IFLA_INFO_DATA, |data| {
                data.put_u32(IFLA_VXLAN_ID, vxlan.vni);
                data.put(IFLA_VXLAN_LEARNING, &[0]);
                data.put(IFLA_VXLAN_PROXY, &[1]);
                data.put(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
                match vxlan.local {
                    IpAddr::V4(addr) => data.put(IFLA_VXLAN_LOCAL, &addr.octets()),
                    IpAddr::V6(addr) => data.put(IFLA_VXLAN_LOCAL6, &addr.octets()),
                }
            });
        })
}

fn change(index: u32, what: String) -> Request {
    Request::new(RTM_NEWLINK, 0, what).body(&header(index, false))
}

/// Sets a link up.
pub fn set_up(index: u32) -> Request {
    Request::new(RTM_NEWLINK, 0, format!("set up link {index}")).body(&header(index, true))
}

/// Makes a link a port of a bridge; 0 takes it off.
pub fn set_master(index: u32, master: u32) -> Request {
    change(index, format!("put link {index} on bridge {master}")).attr_u32(IFLA_MASTER, master)
}

/// Takes a link off its bridge, by name.
pub fn take_off(name: &str) -> Request {
    Request::new(RTM_NEWLINK, 0, format!("take link {name} off its bridge"))
        .body(&header(0, false))
        .attr_str(IFLA_IFNAME, name)
        .attr_u32(IFLA_MASTER, 0)
}

/// Changes the largest packet.
pub fn set_mtu(index: u32, mtu: u32) -> Request {
    change(index, format!("set MTU {mtu} of link {index}")).attr_u32(IFLA_MTU, mtu)
}

/// Renames a link, which must be down on old kernels.
pub fn set_name(index: u32, name: &str) -> Request {
    change(index, format!("rename link {index} to {name}")).attr_str(IFLA_IFNAME, name)
}

/// Changes the hardware address.
pub fn set_mac(index: u32, mac: Mac) -> Request {
    change(index, format!("set hardware address of link {index}")).attr(IFLA_ADDRESS, &mac)
}

/// Moves a link to another namespace.
pub fn set_netns(index: u32, netns: BorrowedFd<'_>) -> Request {
    change(index, format!("move link {index} to another namespace"))
        .attr_u32(IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned())
}

/// Keeps a bridge port from talking to other isolated ports.
pub fn set_isolated(name: &str, isolated: bool) -> Request {
    Request::new(RTM_NEWLINK, 0, format!("isolate bridge port {name}"))
        .body(&header(0, false))
        .attr_str(IFLA_IFNAME, name)
        .nest(IFLA_LINKINFO, |info| {
            info.put_str(IFLA_INFO_SLAVE_KIND, "bridge");
            info.put_nest(IFLA_INFO_SLAVE_DATA, |data| data.put(IFLA_BRPORT_ISOLATED, &[u8::from(isolated)]));
        })
}

/// Removes a link; the other end of a veth pair goes with it.
pub fn delete(index: u32) -> Request {
    Request::new(RTM_DELLINK, 0, format!("remove link {index}")).body(&header(index, false))
}

/// Removes a link by name.
pub fn delete_by_name(name: &str) -> Request {
    Request::new(RTM_DELLINK, 0, format!("remove link {name}")).body(&header(0, false)).attr_str(IFLA_IFNAME, name)
}

/// All links of the socket's namespace.
///
/// # Errors
/// The kernel's.
pub fn list(socket: &mut NetlinkSocket) -> Result<Vec<Link>, NetlinkError> {
    let request = Request::new(RTM_GETLINK, 0, "list links")
        .body(&header(0, false))
        .attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    Ok(socket.dump(&request)?.iter().filter_map(parse).collect())
}

/// A link by name; `None` if there is none.
///
/// # Errors
/// The kernel's.
pub fn find(socket: &mut NetlinkSocket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let request = Request::new(RTM_GETLINK, 0, format!("look up link {name}"))
        .body(&header(0, false))
        .attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        .attr_str(IFLA_IFNAME, name);
    match socket.get(&request) {
        Ok(message) => Ok(parse(&message)),
        Err(error) if error.missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(message: &Message) -> Option<Link> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let (head, rest) = message.body.split_at_checked(16)?;
    let mut link = Link { index: u32_of(&head[4..]), up: u32_of(&head[8..]) & IFF_UP != 0, ..Link::default() };
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_IFNAME => link.name = text_of(value),
            IFLA_MTU => link.mtu = u32_of(value),
            IFLA_MASTER => link.master = u32_of(value),
            IFLA_GROUP => link.group = u32_of(value),
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            IFLA_LINKINFO => parse_info(&mut link, value),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(link: &mut Link, bytes: &[u8]) {
    link.kind =
        attributes(bytes).find(|(kind, _)| *kind == IFLA_INFO_KIND).map(|(_, v)| text_of(v)).unwrap_or_default();
    if link.kind != "vxlan" {
        return;
    }
    let data = attributes(bytes).filter(|(kind, _)| *kind == IFLA_INFO_DATA).flat_map(|(_, data)| attributes(data));
    for (kind, value) in data {
        match kind {
            IFLA_VXLAN_ID => link.vni = u32_of(value),
            IFLA_VXLAN_PORT => link.vxlan_port = value.first_chunk::<2>().map_or(0, |b| u16::from_be_bytes(*b)),
            IFLA_VXLAN_LOCAL => {
                link.vxlan_local = value.first_chunk::<4>().map(|b| IpAddr::V4(Ipv4Addr::from(*b)));
            }
            IFLA_VXLAN_LOCAL6 => link.vxlan_local = value.first_chunk::<16>().map(|b| IpAddr::from(*b)),
            _ => {}
        }
    }
}
