//! Containers that are no tasks, on attachable networks.

use std::net::Ipv4Addr;

use shoal_proto::assignment::{AssignmentItem, AssignmentKey, EndpointOwner};
use shoal_proto::control::{AttachmentWish, ControlRequest};
use shoal_proto::error::ErrorKind;
use shoal_proto::id::{AttachmentId, NetworkId, NodeId};
use shoal_proto::object::Attachment;
use shoal_proto::spec::{IpamConfig, NetworkSpec};

use crate::change::{ApplyError, Change, ObjectKey};
use crate::dispatch::Hub;
use crate::testing::{World, attachable, joining, overlay};

fn world() -> (World, NetworkId) {
    let mut world = World::new(2);
    let ipam = IpamConfig { subnet: "10.5.0.0/29".parse().ok(), ..IpamConfig::default() };
    let app = world.create_network(NetworkSpec { ipam: vec![ipam], ..attachable("app") });
    world.create_network(overlay("closed"));
    world.settle();
    (world, app)
}

fn addr(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 5, 0, last)
}

fn at(last: u8, container: &str) -> AttachmentWish {
    AttachmentWish { addr: Some(addr(last)), ..joining("app", container) }
}

#[test]
fn an_attachment_is_made_once_and_keeps_its_address_whoever_leads() {
    let (mut world, app) = world();
    let first = world.attach(1, joining("app", "c")).expect("attached");
    assert_eq!((first.network, first.addr.to_string()), (app, "10.5.0.2/29".to_owned()));
    world.fail_over();
    let renamed = AttachmentWish { aliases: vec!["db".into()], ..joining(&app.to_string(), "c") };
    let again = world.attach(1, renamed.clone()).expect("there already");
    assert_eq!((again.id, again.addr, again.aliases.as_slice()), (first.id, first.addr, &["db".to_owned()][..]));
    let version = world.store.version();
    world.attach(1, renamed).expect("there already");
    assert_eq!(world.store.changes_since(version), Some(Vec::new()), "nothing is written for what is there");
    // The same container id on another node is another container.
    assert_ne!(world.attach(2, joining("app", "c")).expect("attached").addr, first.addr);
    assert_eq!(world.store.tasks().len(), 0);
}

#[test]
fn addresses_are_given_as_asked_for_and_never_twice() {
    let (mut world, _) = world();
    let first = world.attach(1, at(5, "a")).expect("free");
    assert_eq!(first.addr.addr(), addr(5));
    let failure = world.attach(2, at(5, "b")).expect_err("taken");
    assert_eq!(failure.message, "address 10.5.0.5 is already in use on network app");
    assert_eq!(world.attach(2, at(1, "b")).expect_err("the gateway").kind, ErrorKind::Conflict);
    for outside in [Ipv4Addr::new(10, 6, 0, 2), addr(0), addr(7)] {
        let wish = AttachmentWish { addr: Some(outside), ..joining("app", "b") };
        assert_eq!(world.attach(2, wish).expect_err("not an address of it").kind, ErrorKind::InvalidArgument);
    }
    // The last address comes back if it is free, else any.
    let last = AttachmentWish { last_addr: Some(addr(4)), ..joining("app", "b") };
    assert_eq!(world.attach(2, last.clone()).expect("free").addr.addr(), addr(4));
    let other = AttachmentWish { container_id: "d".into(), ..last };
    assert_ne!(world.attach(1, other).expect("another").addr.addr(), addr(4));
    world.attach(1, joining("app", "e")).expect("one left");
    world.attach(1, joining("app", "f")).expect("the last");
    let full = world.attach(1, joining("app", "g")).expect_err("full");
    assert_eq!(full.message, "network app has no free address left in 10.5.0.0/29");
    // Only its own node gives it up.
    world.detach(2, &[first.id]);
    assert!(world.store.attachment(first.id).is_some());
    world.detach(1, &[first.id, first.id]);
    assert_eq!(world.attach(1, joining("app", "g")).expect("room again").addr.addr(), addr(5));
}

#[test]
fn what_cannot_be_attached_to_is_refused_in_words() {
    let (mut world, _) = world();
    let failure = world.attach(1, joining("closed", "c")).expect_err("closed");
    assert_eq!(failure.kind, ErrorKind::PermissionDenied);
    assert_eq!(failure.message, "network closed not manually attachable");
    for missing in ["nosuch", "host"] {
        let failure = world.attach(1, joining(missing, "c")).expect_err("missing");
        assert_eq!((failure.kind, failure.message), (ErrorKind::NotFound, format!("network {missing} not found")));
    }
    let many = AttachmentWish { aliases: vec!["a".into(); 65], ..joining("app", "c") };
    for wish in [many, joining("app", &"c".repeat(256)), joining("app", "")] {
        assert_eq!(world.attach(1, wish).expect_err("out of bounds").kind, ErrorKind::InvalidArgument);
    }
    assert_eq!(world.attach(9, joining("app", "c")).expect_err("no such node").kind, ErrorKind::NotFound);
}

#[test]
fn a_network_with_attachments_stays_and_a_removed_node_leaves_none() {
    let (mut world, app) = world();
    let kept = world.attach(1, joining("app", "c")).expect("attached");
    world.attach(2, joining("app", "d")).expect("attached");
    let failure = world.request(ControlRequest::RemoveNetwork(app)).expect_err("in use");
    assert_eq!(failure.message, "network app is in use by container c-name on node n1");
    let used = |world: &World| world.store.addresses(app).map(|space| space.used());
    assert_eq!(used(&world), Some(5));
    world.lose(2);
    world.settle();
    world.pass(48 * 3600);
    world.settle();
    assert_eq!(used(&world), Some(5), "a node that is away keeps its addresses");
    world.request(ControlRequest::RemoveNode { id: NodeId::from_bits(2), force: false }).expect("removed");
    assert_eq!(used(&world), Some(4));
    world.detach(1, &[kept.id]);
    world.request(ControlRequest::RemoveNetwork(app)).expect("unused");
}

#[test]
fn what_crosses_a_removal_or_another_request_is_refused_by_the_store() {
    let (mut world, app) = world();
    let first = world.attach(1, joining("app", "c")).expect("attached");
    let twin =
        Attachment { id: AttachmentId::from_bits(77), addr: "10.5.0.6/29".parse().expect("one"), ..(*first).clone() };
    let try_out = |world: &World, change: Change| {
        let mut store = world.store.clone();
        store.apply(store.version() + 1, world.now, &[change]).map(|_| ())
    };
    let exists = ApplyError::Exists { key: ObjectKey::Attachment(first.id) };
    assert_eq!(try_out(&world, Change::create(twin.clone())), Err(exists), "the same container twice");
    let taken = Attachment { container_id: "d".into(), addr: first.addr, ..twin.clone() };
    let network = app;
    let refused = ApplyError::AddressTaken { network, addr: first.addr.addr() };
    assert_eq!(try_out(&world, Change::create(taken)), Err(refused));
    for key in [ObjectKey::Network(app), ObjectKey::Node(NodeId::from_bits(1))] {
        let user = ObjectKey::Attachment(first.id);
        assert_eq!(try_out(&world, Change::delete(key)), Err(ApplyError::InUse { key, user }));
    }
    let stray = Attachment { node_id: NodeId::from_bits(9), ..twin };
    let missing = ApplyError::Missing { key: ObjectKey::Node(NodeId::from_bits(9)) };
    assert_eq!(try_out(&world, Change::create(stray)), Err(missing));
    world.detach(1, &[first.id]);
    world.request(ControlRequest::RemoveNetwork(app)).expect("removed");
    let missing = ApplyError::Missing { key: ObjectKey::Network(app) };
    assert_eq!(try_out(&world, Change::create((*first).clone())), Err(missing));
}

#[test]
fn a_node_is_told_of_its_attachments_and_of_the_others_on_its_networks() {
    let (mut world, app) = world();
    let mut hub = Hub::new(world.store.clone());
    let nodes = [NodeId::from_bits(1), NodeId::from_bits(2)];
    nodes.iter().for_each(|node| drop(hub.attach(*node)));
    let near = world.attach(1, AttachmentWish { aliases: vec!["db".into()], ..joining("app", "c") }).expect("attached");
    let told = hub.advance(&world.store);
    let [(node, set)] = told.as_slice() else { panic!("one node is told: {told:?}") };
    let keys: Vec<AssignmentKey> = set.put.iter().map(AssignmentItem::key).collect();
    let endpoint = |id| AssignmentKey::Endpoint(app, EndpointOwner::Attachment(id));
    assert_eq!((*node, keys.len()), (nodes[0], 3));
    for key in [AssignmentKey::Network(app), endpoint(near.id), AssignmentKey::Attachment(near.id)] {
        assert!(keys.contains(&key), "{key:?}");
    }
    let far = world.attach(2, joining("app", "d")).expect("attached");
    let told = hub.advance(&world.store);
    let first = told.iter().find(|(node, _)| *node == nodes[0]).map(|(_, set)| set).expect("told");
    let [AssignmentItem::Endpoint(record)] = first.put.as_slice() else { panic!("one endpoint: {first:?}") };
    assert_eq!((record.owner, record.name.as_str()), (EndpointOwner::Attachment(far.id), "d-name"));
    assert_eq!((record.node, record.node_addr), (nodes[1], "192.168.0.3".parse().ok()));
    world.detach(1, &[near.id]);
    let told = hub.advance(&world.store);
    let first = told.iter().find(|(node, _)| *node == nodes[0]).map(|(_, set)| set).expect("told");
    for key in [AssignmentKey::Network(app), endpoint(far.id), endpoint(near.id), AssignmentKey::Attachment(near.id)] {
        assert!(first.remove.contains(&key), "{key:?}");
    }
}
