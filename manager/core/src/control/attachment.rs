//! Containers that are no tasks, on cluster networks: a node asks for an address, and gives it up.
//!
//! ## Design notes
//! Swarm makes a task of each, with a runtime of its own, so that allocator and dispatcher know it. Here it is an object of
//! its own: there is nothing to schedule, to restart or to update about it, and no list of tasks has to leave it out. Its
//! address is chosen when the request is planned; the store refuses one that somebody took in between, and the request is
//! planned again. What names an attachment is its node, network and container, so a request may be repeated at will.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use shoal_proto::control::AttachmentWish;
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::{AttachmentId, IdSource, NodeId};
use shoal_proto::object::{Attachment, Network};

use super::{Planned, Reply, one};
use crate::allocator::free_address;
use crate::change::{Change, ObjectKey};
use crate::store::Store;

pub(super) fn attach(
    store: &Store,
    node: NodeId,
    wish: &AttachmentWish,
    ids: &mut dyn IdSource,
) -> Result<Planned, Failure> {
    if store.node(node).is_none() {
        return Err(Failure::not_found(format!("node {node} not found")));
    }
    check(wish)?;
    let network = find(store, &wish.network)?;
    let known = store.attachment_of(node, network.id, &wish.container_id);
    let attachment = Attachment {
        id: known.map_or_else(|| AttachmentId::generate(ids), |known| known.id),
        meta: known.map(|known| known.meta).unwrap_or_default(),
        node_id: node,
        network: network.id,
        container_id: wish.container_id.clone(),
        name: wish.name.clone(),
        aliases: wish.aliases.clone(),
        addr: address(store, network, wish, known.map(|known| known.addr.addr()))?,
    };
    let reply = Reply::Attachment(attachment.id);
    Ok(match known {
        Some(known) if **known == attachment => Planned { changes: Vec::new(), reply },
        Some(_) => one(Change::update(attachment), reply),
        None => one(Change::create(attachment), reply),
    })
}

pub(super) fn detach(store: &Store, node: NodeId, ids: &[AttachmentId]) -> Planned {
    let own = |id: &&AttachmentId| store.attachment(**id).is_some_and(|attachment| attachment.node_id == node);
    let changes = ids.iter().filter(own).map(|id| Change::delete(ObjectKey::Attachment(*id))).collect();
    Planned { changes, reply: Reply::Done }
}

/// The longest id or name.
const LONGEST: usize = 255;
/// Most aliases of one container on one network.
const MOST_ALIASES: usize = 64;

/// A node is believed what it says of its containers, but not at any length.
fn check(wish: &AttachmentWish) -> Result<(), Failure> {
    let texts = [&wish.container_id, &wish.name].into_iter().chain(&wish.aliases);
    if wish.container_id.is_empty() || wish.aliases.len() > MOST_ALIASES || texts.into_iter().any(|t| t.len() > LONGEST)
    {
        return Err(Failure::invalid(format!(
            "a container on a network has an id, a name and at most {MOST_ALIASES} aliases, none longer than {LONGEST} bytes"
        )));
    }
    Ok(())
}

/// The network of this id or name, if containers may attach to it.
fn find<'a>(store: &'a Store, text: &str) -> Result<&'a Arc<Network>, Failure> {
    let by_id = text.parse().ok().and_then(|id| store.network(id)).filter(|network| !network.pending_delete);
    let network = by_id.or_else(|| store.network_by_name(text)).filter(|network| !network.predefined);
    let network = network.ok_or_else(|| Failure::not_found(format!("network {text} not found")))?;
    if !network.spec.attachable {
        let message = format!("network {} not manually attachable", network.spec.name);
        return Err(Failure::new(ErrorKind::PermissionDenied, message));
    }
    Ok(network)
}

/// The address that was asked for; else the one there is, the one there was, or any.
fn address(store: &Store, network: &Network, wish: &AttachmentWish, now: Option<Ipv4Addr>) -> Result<Ipv4Net, Failure> {
    let name = &network.spec.name;
    let Some(allocation) = &network.allocation else {
        return Err(Failure::unavailable(format!("network {name} has no subnet yet")));
    };
    let is_usable = |addr: Ipv4Addr| {
        allocation.subnet.contains(&addr)
            && addr != allocation.subnet.network()
            && addr != allocation.subnet.broadcast()
    };
    let is_free = |addr: Ipv4Addr| is_usable(addr) && !store.is_address_taken(network.id, addr);
    let addr = match (wish.addr, now) {
        (Some(wanted), Some(now)) if wanted == now => now,
        (Some(wanted), _) if !is_usable(wanted) => {
            let subnet = allocation.subnet;
            return Err(Failure::invalid(format!("address {wanted} is not in the subnet {subnet} of network {name}")));
        }
        (Some(wanted), _) if !is_free(wanted) => {
            return Err(Failure::conflict(format!("address {wanted} is already in use on network {name}")));
        }
        (Some(wanted), _) => wanted,
        (None, Some(now)) => now,
        (None, None) => match wish.last_addr.filter(|last| is_free(*last)) {
            Some(last) => last,
            None => free_address(store, store, network).map_err(Failure::conflict)?,
        },
    };
    Ipv4Net::new(addr, allocation.subnet.prefix_len()).map_err(|error| Failure::internal(&error))
}
