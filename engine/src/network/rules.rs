//! The nftables rules of a host and of a sandbox, as values.
//!
//! ## Design notes
//! - Only destination translation decides where a published port leads. Ports of containers are elements of maps, those
//!   of the routing mesh lead to a chain each, so that a change touches one element or one chain.
//! - A virtual address is translated in the namespace of the client, in the way out: the server sees who really calls,
//!   and no node but the client's has to know about the connection.
//! - Backends are taken in turn. Each namespace starts the turn elsewhere (`rotation`), or else the first backend would
//!   get the first connection of every client.

pub mod host;
pub mod sandbox;

use std::net::Ipv4Addr;

use shoal_engine_sys::nft::{Action, Datum, Match, Rule, Verdict};
use shoal_proto::spec::Protocol;

const PRIORITY_RAW: i32 = -300;
const PRIORITY_DESTINATION: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE: i32 = 100;

/// The number of a protocol in IP headers.
pub const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn service_key(protocol: Protocol, port: u16) -> Vec<Datum> {
    vec![Datum::Protocol(protocol_number(protocol)), Datum::Port(port)]
}

fn accept(matches: impl Into<Vec<Match>>) -> Rule {
    Rule::new(matches, Action::Verdict(Verdict::Accept))
}

fn discard(matches: impl Into<Vec<Match>>) -> Rule {
    Rule::new(matches, Action::Verdict(Verdict::Drop))
}

/// The backends, starting elsewhere for each rotation; to a single one there is nothing to balance.
fn balance(backends: &[Ipv4Addr], rotation: u64, port: Option<u16>) -> Action {
    if let [only] = backends {
        return Action::Redirect(*only, port);
    }
    let mut turned = backends.to_vec();
    let start = usize::try_from(rotation % (backends.len().max(1) as u64)).unwrap_or(0);
    turned.rotate_left(start);
    Action::Balance(turned, port)
}
