//! Tracked connections.

use std::net::Ipv4Addr;

use super::{NetlinkError, NetlinkSocket, Request, attributes};

const IPCTNL_MSG_CT_GET: u16 = 0x101;
const IPCTNL_MSG_CT_DELETE: u16 = 0x102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const AF_INET: u8 = 2;

/// A tracked IPv4 connection, as far as deciding about it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Number of the protocol.
    pub protocol: u8,
    /// Who opened it.
    pub source: Ipv4Addr,
    /// Whom it was opened to, before translation.
    pub destination: Ipv4Addr,
    /// Port it was opened to, before translation; 0 for protocols without.
    pub destination_port: u16,
    /// Who answers: the destination after translation.
    pub answers_from: Ipv4Addr,
}

/// Forgets the connections of the socket's namespace that `choose` picks. Their next packet is translated anew.
/// Returns how many were forgotten.
///
/// # Errors
/// The kernel's. A connection that ended meanwhile is no error.
pub fn forget(socket: &mut NetlinkSocket, choose: impl Fn(&Connection) -> bool) -> Result<usize, NetlinkError> {
    let request = Request::new(IPCTNL_MSG_CT_GET, 0, "list tracked connections").body(&[AF_INET, 0, 0, 0]);
    let mut requests = Vec::new();
    for message in socket.dump(&request)? {
        let attrs = message.body.get(4..).unwrap_or(&[]);
        if !parse(attrs).is_some_and(|connection| choose(&connection)) {
            continue;
        }
        let mut request =
            Request::new(IPCTNL_MSG_CT_DELETE, 0, "forget a tracked connection").body(&[AF_INET, 0, 0, 0]);
        for (kind, value) in attributes(attrs) {
            match kind {
                CTA_TUPLE_ORIG => request.put_nest(kind, |tuple| tuple.put_raw(value)),
                CTA_ID => request.put(kind, value),
                _ => {}
            }
        }
        requests.push(request);
    }
    let results = socket.batch(&requests);
    let failed = results.into_iter().filter_map(Result::err).find(|error| !error.missing());
    failed.map_or(Ok(requests.len()), Err)
}

fn parse(attrs: &[u8]) -> Option<Connection> {
    let find = |bytes, wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let original = find(attrs, CTA_TUPLE_ORIG)?;
    let reply = find(attrs, CTA_TUPLE_REPLY)?;
    let addr =
        |tuple, kind| find(find(tuple, CTA_TUPLE_IP)?, kind)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
    let protocol = find(original, CTA_TUPLE_PROTO)?;
    Some(Connection {
        protocol: *find(protocol, 1)?.first()?,
        source: addr(original, 1)?,
        destination: addr(original, 2)?,
        destination_port: find(protocol, 3).and_then(|b| b.first_chunk::<2>()).map_or(0, |b| u16::from_be_bytes(*b)),
        answers_from: addr(reply, 1)?,
    })
}
