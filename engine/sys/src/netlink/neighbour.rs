//! Neighbours (address to hardware address) and forwarding entries (hardware address to VXLAN peer).

use std::net::{IpAddr, Ipv4Addr};

use super::link::Mac;
use super::{NLM_F_CREATE, NLM_F_REPLACE, NetlinkError, NetlinkSocket, Request, attributes, u32_of};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
const NUD_PERMANENT: u16 = 0x80;
const NUD_NOARP: u16 = 0x40;
const NTF_SELF: u8 = 2;
const NTF_MASTER: u8 = 4;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;

fn header(family: u8, link: u32, flags: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&link.to_ne_bytes());
    bytes[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    bytes[10] = flags;
    bytes
}

/// Sets the hardware address of a neighbour, for good.
pub fn put(link: u32, addr: Ipv4Addr, mac: Mac) -> Request {
    Request::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, format!("set neighbour {addr} of link {link}"))
        .body(&header(AF_INET, link, 0))
        .attr(NDA_DST, &addr.octets())
        .attr(NDA_LLADDR, &mac)
}

/// Forgets a neighbour.
pub fn remove(link: u32, addr: Ipv4Addr) -> Request {
    Request::new(RTM_DELNEIGH, 0, format!("remove neighbour {addr} of link {link}"))
        .body(&header(AF_INET, link, 0))
        .attr(NDA_DST, &addr.octets())
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Sends frames for a hardware address to this VXLAN peer, for good.
pub fn put_forwarding(link: u32, mac: Mac, peer: IpAddr) -> Request {
    Request::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, format!("forward to {peer} on link {link}"))
        .body(&header(AF_BRIDGE, link, NTF_SELF))
        .attr(NDA_LLADDR, &mac)
        .attr(NDA_DST, &octets(peer))
}

/// Stops sending frames for a hardware address to this VXLAN peer.
pub fn remove_forwarding(link: u32, mac: Mac, peer: IpAddr) -> Request {
    Request::new(RTM_DELNEIGH, 0, format!("stop forwarding to {peer} on link {link}"))
        .body(&header(AF_BRIDGE, link, NTF_SELF))
        .attr(NDA_LLADDR, &mac)
        .attr(NDA_DST, &octets(peer))
}

/// Sends frames for a hardware address to this port of a bridge, whatever the bridge has learned.
pub fn put_port(port: u32, mac: Mac) -> Request {
    let mut head = header(AF_BRIDGE, port, NTF_MASTER);
    // A permanent one would be the bridge's own address.
    head[8..10].copy_from_slice(&NUD_NOARP.to_ne_bytes());
    Request::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, format!("lead a hardware address to port {port}"))
        .body(&head)
        .attr(NDA_LLADDR, &mac)
}

/// The permanent neighbours of a link.
///
/// # Errors
/// The kernel's.
pub fn list(socket: &mut NetlinkSocket, link: u32) -> Result<Vec<(Ipv4Addr, Mac)>, NetlinkError> {
    let mut head = [0; 12];
    head[0] = AF_INET;
    let request = Request::new(RTM_GETNEIGH, 0, "list neighbours").body(&head).attr_u32(NDA_IFINDEX, link);
    let parse = |body: &[u8]| {
        let (head, rest) = body.split_at_checked(12)?;
        let permanent = u16::from_ne_bytes([head[8], head[9]]) & NUD_PERMANENT != 0;
        if !permanent || u32_of(&head[4..]) != link {
            return None;
        }
        let addr = attributes(rest).find(|(kind, _)| *kind == NDA_DST)?.1.first_chunk::<4>()?;
        let mac: Mac = attributes(rest).find(|(kind, _)| *kind == NDA_LLADDR)?.1.try_into().ok()?;
        Some((Ipv4Addr::from(*addr), mac))
    };
    Ok(socket.dump(&request)?.iter().filter_map(|message| parse(&message.body)).collect())
}

/// The forwarding entries of a VXLAN device. A hardware address may have several peers.
///
/// # Errors
/// The kernel's.
pub fn list_forwarding(socket: &mut NetlinkSocket, link: u32) -> Result<Vec<(Mac, IpAddr)>, NetlinkError> {
    let mut head = [0; 12];
    head[0] = AF_BRIDGE;
    let request = Request::new(RTM_GETNEIGH, 0, "list forwarding entries").body(&head).attr_u32(NDA_IFINDEX, link);
    let parse = |body: &[u8]| {
        let (head, rest) = body.split_at_checked(12)?;
        if u32_of(&head[4..]) != link || head[10] & NTF_SELF == 0 {
            return None;
        }
        let mac: Mac = attributes(rest).find(|(kind, _)| *kind == NDA_LLADDR)?.1.try_into().ok()?;
        let peer = attributes(rest).find(|(kind, _)| *kind == NDA_DST)?.1;
        let peer = match peer.len() {
            4 => IpAddr::from(*peer.first_chunk::<4>()?),
            _ => IpAddr::from(*peer.first_chunk::<16>()?),
        };
        Some((mac, peer))
    };
    Ok(socket.dump(&request)?.iter().filter_map(|message| parse(&message.body)).collect())
}
