//! Other people's chains that would drop forwarded packets of ours.
//!
//! ## Design notes
//! A packet must pass every base chain of a hook, so that our own acceptance does not outweigh a chain of somebody else
//! whose policy is to drop: Docker and ufw set that policy on FORWARD. Rules that accept our links are put at the end
//! of such a chain: whatever its owner wrote there explicitly goes first, only the policy is overridden. They carry a
//! comment by which they are found again.

use std::collections::BTreeSet;

use super::expression::interface_bytes;
use super::wire;
use crate::netlink::{NLM_F_APPEND, NLM_F_CREATE, NetlinkError, NetlinkSocket, Request, attributes, text_of, u32_of};

const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
const FAMILIES: [u8; 2] = [1, 2];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    family: u8,
    table: String,
    chain: String,
}

/// Makes chains of others that drop forwarded packets by policy accept those of these links, and forgets links that are
/// no longer given. `owner` tells our rules from those of other daemons. Returns how many rules were changed.
///
/// # Errors
/// The kernel's.
pub fn accept_forwarding(
    socket: &mut NetlinkSocket,
    owner: &str,
    links: &BTreeSet<String>,
) -> Result<usize, NetlinkError> {
    let mut messages = Vec::new();
    for found in dropping_chains(socket)? {
        let ours = our_rules(socket, &found, owner)?;
        let have: BTreeSet<&String> = ours.iter().map(|(comment, _)| comment).collect();
        let wanted: BTreeSet<String> = links.iter().flat_map(|link| comments(owner, link)).collect();
        for (comment, handle) in &ours {
            if !wanted.contains(comment) {
                messages.push(remove_rule(&found, *handle));
            }
        }
        for link in links {
            for (comment, input) in comments(owner, link).into_iter().zip([true, false]) {
                if !have.contains(&comment) {
                    messages.push(accept_rule(&found, link, input, &comment));
                }
            }
        }
    }
    if messages.is_empty() {
        return Ok(0);
    }
    let count = messages.len();
    let mut batch = vec![wire::begin(0)];
    batch.extend(messages);
    batch.push(wire::end());
    socket.transact(&batch)?;
    Ok(count)
}

fn comments(owner: &str, link: &str) -> [String; 2] {
    [format!("{owner} from {link}"), format!("{owner} to {link}")]
}

fn message(family: u8, kind: u16, flags: u16, what: String) -> Request {
    Request::new(kind, flags, what).body(&[family, 0, 0, 0])
}

fn be32(value: &[u8]) -> u32 {
    u32::from_be(u32_of(value))
}

fn dropping_chains(socket: &mut NetlinkSocket) -> Result<BTreeSet<Found>, NetlinkError> {
    let mut chains = BTreeSet::new();
    for family in FAMILIES {
        for answer in socket.dump(&message(family, wire::GETCHAIN, 0, "list chains".to_owned()))? {
            let body = answer.body.get(4..).unwrap_or(&[]);
            let find = |wanted| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
            let Some(hook) = find(4) else { continue };
            let number = attributes(hook).find(|(kind, _)| *kind == 1).map(|(_, value)| be32(value));
            let policy = find(5).map(be32);
            if number == Some(HOOK_FORWARD) && policy == Some(POLICY_DROP) {
                let text = |kind| find(kind).map(text_of).unwrap_or_default();
                chains.insert(Found { family, table: text(1), chain: text(3) });
            }
        }
    }
    Ok(chains)
}

/// Our rules in a chain: comment and handle.
fn our_rules(socket: &mut NetlinkSocket, found: &Found, owner: &str) -> Result<Vec<(String, u64)>, NetlinkError> {
    let request = message(found.family, wire::GETRULE, 0, format!("list rules of {}", found.table))
        .attr_str(1, &found.table)
        .attr_str(2, &found.chain);
    let mut rules = Vec::new();
    for answer in socket.dump(&request)? {
        let body = answer.body.get(4..).unwrap_or(&[]);
        let find = |wanted| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let Some([0, _, comment @ ..]) = find(7) else { continue };
        let comment = text_of(comment);
        let handle = find(3).and_then(|value| value.first_chunk::<8>()).map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let here = find(2).map(text_of).is_some_and(|chain| chain == found.chain);
        if here && comment.strip_prefix(owner).is_some_and(|rest| rest.starts_with(' ')) {
            rules.push((comment, handle));
        }
    }
    Ok(rules)
}

fn remove_rule(found: &Found, handle: u64) -> Request {
    message(found.family, wire::DELRULE, 0, format!("remove rule {handle} of {}", found.chain))
        .attr_str(1, &found.table)
        .attr_str(2, &found.chain)
        .attr(3, &handle.to_be_bytes())
}

fn accept_rule(found: &Found, link: &str, input: bool, comment: &str) -> Request {
    let what = format!("accept link {link} in {}", found.chain);
    let mut request = message(found.family, wire::NEWRULE, NLM_F_CREATE | NLM_F_APPEND, what)
        .attr_str(1, &found.table)
        .attr_str(2, &found.chain);
    request.put_nest(4, |list| {
        list.put_nest(1, |element| {
            element.put_str(1, "meta");
            element.put_nest(2, |attrs| {
                attrs.put_be32(2, if input { 6 } else { 7 });
                attrs.put_be32(1, 1);
            });
        });
        list.put_nest(1, |element| {
            element.put_str(1, "cmp");
            element.put_nest(2, |attrs| {
                attrs.put_be32(1, 1);
                attrs.put_be32(2, 0);
                attrs.put_nest(3, |data| data.put(1, &interface_bytes(link)));
            });
        });
        list.put_nest(1, |element| {
            element.put_str(1, "immediate");
            element.put_nest(2, |attrs| {
                attrs.put_be32(1, 0);
                attrs.put_nest(2, |data| data.put_nest(2, |verdict| verdict.put_be32(1, 1)));
            });
        });
    });
    let mut userdata = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    userdata.extend_from_slice(comment.as_bytes());
    userdata.push(0);
    request.put(7, &userdata);
    request
}
