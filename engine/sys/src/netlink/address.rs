//! Addresses and routes.

use std::net::Ipv4Addr;

use super::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkError, NetlinkSocket, Request, attributes, u32_of};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;

/// An IPv4 address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Number of the link.
    pub link: u32,
    /// The address.
    pub addr: Ipv4Addr,
    /// Prefix length of its subnet.
    pub prefix_len: u8,
}

/// An IPv4 route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// First address of the destination; 0.0.0.0 with length 0 is the default route.
    pub destination: Ipv4Addr,
    /// Prefix length of the destination.
    pub prefix_len: u8,
    /// Next hop; `None` when the destination is on the link.
    pub gateway: Option<Ipv4Addr>,
    /// Number of the link; 0 if there is none.
    pub link: u32,
}

fn address_request(kind: u16, flags: u16, what: &str, address: Address) -> Request {
    let Address { link, addr, prefix_len } = address;
    let mut head = [AF_INET, prefix_len, 0, 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&link.to_ne_bytes());
    let host_bits = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    let request = Request::new(kind, flags, format!("{what} {addr}/{prefix_len} of link {link}"))
        .body(&head)
        .attr(IFA_LOCAL, &addr.octets())
        .attr(IFA_ADDRESS, &addr.octets());
    if kind == RTM_NEWADDR && prefix_len < 31 {
        request.attr(IFA_BROADCAST, &Ipv4Addr::from(u32::from(addr) | host_bits).octets())
    } else {
        request
    }
}

/// Adds an address.
pub fn add(address: Address) -> Request {
    address_request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, "add address", address)
}

/// Removes an address.
pub fn remove(address: Address) -> Request {
    address_request(RTM_DELADDR, 0, "remove address", address)
}

/// All IPv4 addresses of the socket's namespace.
///
/// # Errors
/// The kernel's.
pub fn list(socket: &mut NetlinkSocket) -> Result<Vec<Address>, NetlinkError> {
    let request = Request::new(RTM_GETADDR, 0, "list addresses").body(&[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
    let parse = |body: &[u8]| {
        let (head, rest) = body.split_at_checked(8)?;
        let local = attributes(rest).find(|(kind, _)| *kind == IFA_LOCAL)?.1.first_chunk::<4>()?;
        Some(Address { link: u32_of(&head[4..]), addr: Ipv4Addr::from(*local), prefix_len: head[1] })
    };
    Ok(socket.dump(&request)?.iter().filter_map(|message| parse(&message.body)).collect())
}

fn route_request(kind: u16, flags: u16, what: &str, route: Route) -> Request {
    let scope = if route.gateway.is_some() { 0 } else { 253 };
    let head = [AF_INET, route.prefix_len, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0];
    let mut request =
        Request::new(kind, flags, format!("{what} route {}/{}", route.destination, route.prefix_len)).body(&head);
    if route.prefix_len > 0 {
        request.put(RTA_DST, &route.destination.octets());
    }
    if let Some(gateway) = route.gateway {
        request.put(RTA_GATEWAY, &gateway.octets());
    }
    if route.link != 0 {
        request.put_u32(RTA_OIF, route.link);
    }
    request
}

/// Adds a route, or replaces the one to the same destination.
pub fn put_route(route: Route) -> Request {
    route_request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "add", route)
}

/// Removes a route.
pub fn remove_route(route: Route) -> Request {
    route_request(RTM_DELROUTE, 0, "remove", route)
}

/// The default route over this gateway.
pub const fn default_route(gateway: Ipv4Addr, link: u32) -> Route {
    Route { destination: Ipv4Addr::UNSPECIFIED, prefix_len: 0, gateway: Some(gateway), link }
}

/// All IPv4 routes of the main table of the socket's namespace.
///
/// # Errors
/// The kernel's.
pub fn list_routes(socket: &mut NetlinkSocket) -> Result<Vec<Route>, NetlinkError> {
    let request = Request::new(RTM_GETROUTE, 0, "list routes").body(&[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let addr = |value: &[u8]| value.first_chunk::<4>().map(|b| Ipv4Addr::from(*b));
    let parse = |body: &[u8]| {
        let (head, rest) = body.split_at_checked(12)?;
        let mut route = Route { destination: Ipv4Addr::UNSPECIFIED, prefix_len: head[1], gateway: None, link: 0 };
        let mut table = u32::from(head[4]);
        for (kind, value) in attributes(rest) {
            match kind {
                RTA_DST => route.destination = addr(value)?,
                RTA_GATEWAY => route.gateway = addr(value),
                RTA_OIF => route.link = u32_of(value),
                RTA_TABLE => table = u32_of(value),
                _ => {}
            }
        }
        (table == u32::from(RT_TABLE_MAIN) && head[7] == RTN_UNICAST).then_some(route)
    };
    Ok(socket.dump(&request)?.iter().filter_map(|message| parse(&message.body)).collect())
}
