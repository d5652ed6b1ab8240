//! Subnets, addresses, ports.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::id::{NetworkId, NodeId};
use shoal_proto::spec::{EndpointMode, IpamConfig, NetworkSpec, Protocol, PublishMode, ServiceSpec};
use shoal_proto::task_state::TaskState;

use crate::testing::{World, on, overlay, port, replicated, with_task};

fn on_network(name: &str, replicas: u64, network: NetworkId) -> ServiceSpec {
    with_task(replicated(name, replicas), |task| task.networks = vec![on(network)])
}

fn with_subnet(name: &str, subnet: &str) -> NetworkSpec {
    let ipam = IpamConfig { subnet: Some(subnet.parse().expect("a subnet")), ..IpamConfig::default() };
    NetworkSpec { ipam: vec![ipam], ..overlay(name) }
}

fn subnet(world: &World, id: NetworkId) -> String {
    let network = world.store.network(id).expect("the network");
    network.allocation.as_ref().map(|allocation| allocation.subnet.to_string()).unwrap_or_default()
}

#[test]
fn networks_get_subnets_and_identifiers() {
    let mut world = World::new(0);
    let a = world.create_network(overlay("a"));
    let b = world.create_network(overlay("b"));
    world.settle();
    let mut subnets = BTreeSet::new();
    let mut vnis = BTreeSet::new();
    for network in world.store.networks().filter(|network| !network.predefined) {
        let allocation = network.allocation.as_ref().expect("allocated");
        assert!(subnets.insert(allocation.subnet.to_string()));
        assert!(vnis.insert(allocation.vni) && allocation.vni >= 4096);
        assert_eq!(u32::from(allocation.gateway), u32::from(allocation.subnet.network()) + 1);
    }
    assert_eq!(subnets, ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"].map(str::to_owned).into());
    assert!(world.store.network_by_name("host").is_some_and(|host| host.predefined && host.allocation.is_none()));
    // What is given back rests.
    let old = subnet(&world, a);
    world.request(ControlRequest::RemoveNetwork(a)).expect("removed");
    let c = world.create_network(overlay("c"));
    world.settle();
    assert_ne!(subnet(&world, c), old);
    assert_ne!(subnet(&world, c), subnet(&world, b));
}

#[test]
fn subnets_of_users_are_respected_and_do_not_overlap() {
    let mut world = World::new(0);
    let mine = world.create_network(with_subnet("mine", "10.0.1.0/24"));
    let other = world.create_network(overlay("other"));
    world.settle();
    assert_eq!(subnet(&world, mine), "10.0.1.0/24");
    assert_ne!(subnet(&world, other), "10.0.1.0/24");
    let request = ControlRequest::CreateNetwork(Box::new(with_subnet("clash", "10.0.0.0/16")));
    let failure = world.request(request).expect_err("overlaps");
    assert!(failure.message.starts_with("invalid pool request: Pool overlaps with other one"), "{failure}");
}

#[test]
fn an_empty_pool_is_refused_at_once() {
    let mut world = World::new(0);
    let mut cluster = (**world.store.cluster().expect("a cluster")).clone();
    cluster.pools.pools = vec!["10.9.0.0/22".parse().expect("a pool")];
    world.apply(&[crate::change::Change::update(cluster)]);
    world.settle();
    for name in ["a", "b", "c"] {
        world.create_network(overlay(name));
        world.settle();
    }
    let failure = world.request(ControlRequest::CreateNetwork(Box::new(overlay("d")))).expect_err("full");
    assert_eq!(failure.message, "no free subnet of size /24 is left in the address pools (10.9.0.0/22)");
    // A gap in the middle is found again.
    let b = world.store.network_by_name("b").expect("b").id;
    world.request(ControlRequest::RemoveNetwork(b)).expect("removed");
    let d = world.create_network(overlay("d"));
    world.settle();
    assert!(!subnet(&world, d).is_empty());
}

#[test]
fn services_and_tasks_get_addresses() {
    let mut world = World::new(2);
    let net = world.create_network(overlay("net"));
    let spec = on_network("web", 3, net);
    let web = world.create(ServiceSpec {
        endpoint: shoal_proto::spec::EndpointSpec { ports: vec![port(8080, 80)], ..Default::default() },
        ..spec
    });
    world.run();
    let ingress = world.store.ingress_network().expect("the mesh").id;
    let service = world.service(web);
    assert_eq!(service.endpoint.ports, [port(8080, 80)]);
    assert_eq!(service.endpoint.virtual_ips.iter().map(|vip| vip.network).collect::<Vec<_>>(), [ingress, net]);
    let mut addresses: BTreeSet<(NetworkId, Ipv4Addr)> =
        service.endpoint.virtual_ips.iter().map(|vip| (vip.network, vip.addr)).collect();
    for task in world.running(web) {
        assert_eq!(task.networks.iter().map(|a| a.network).collect::<Vec<_>>(), [ingress, net], "the mesh comes first");
        for attachment in &task.networks {
            let addr = attachment.addr.expect("an address");
            assert_eq!(addr.prefix_len(), 24);
            assert!(addresses.insert((attachment.network, addr.addr())));
        }
    }
    for node in world.store.nodes() {
        assert!(addresses.insert((ingress, node.ingress_address.expect("on the mesh"))));
    }
    assert_eq!(addresses.len(), 2 + 6 + 2);
}

#[test]
fn nodes_join_the_mesh_only_when_something_is_published() {
    let mut world = World::new(2);
    let web = world.create(replicated("web", 1));
    world.run();
    assert!(world.store.nodes().all(|node| node.ingress_address.is_none()));
    world.update(web, |spec| spec.endpoint.ports = vec![port(0, 80)]);
    world.run();
    assert!(world.store.nodes().all(|node| node.ingress_address.is_some()));
    world.add_node(3);
    world.run();
    assert!(world.store.nodes().all(|node| node.ingress_address.is_some()));
}

#[test]
fn dns_round_robin_has_no_virtual_address() {
    let mut world = World::new(1);
    let net = world.create_network(overlay("net"));
    let mut spec = on_network("web", 1, net);
    spec.endpoint.mode = EndpointMode::Dnsrr;
    let web = world.create(spec);
    world.run();
    assert!(world.service(web).endpoint.virtual_ips.is_empty());
    world.update(web, |spec| spec.endpoint.mode = EndpointMode::Vip);
    world.run();
    assert_eq!(world.service(web).endpoint.virtual_ips.len(), 1);
    world.update(web, |spec| spec.endpoint.mode = EndpointMode::Dnsrr);
    world.run();
    assert!(world.service(web).endpoint.virtual_ips.is_empty());
}

#[test]
fn a_virtual_address_stays_through_updates() {
    let mut world = World::new(1);
    let net = world.create_network(overlay("net"));
    let web = world.create(on_network("web", 1, net));
    world.run();
    let before = world.service(web).endpoint.clone();
    world.update(web, |spec| {
        crate::testing::image(spec, "web:2");
        spec.endpoint.ports = vec![port(0, 80)];
    });
    world.run();
    let after = world.service(web).endpoint.clone();
    assert!(after.virtual_ips.contains(&before.virtual_ips[0]));
    let published = after.ports[0].published;
    assert!(crate::reconcile::AUTOMATIC_PORTS.contains(&published));
    world.update(web, |spec| spec.endpoint.ports.push(port(0, 443)));
    world.run();
    let ports = world.service(web).endpoint.ports.clone();
    assert_eq!(ports[0].published, published, "an automatic port stays");
    assert_ne!(ports[1].published, published);
}

#[test]
fn an_exhausted_network_is_visible_and_heals() {
    let mut world = World::new(1);
    let net = world.create_network(with_subnet("tiny", "10.9.0.0/29"));
    let web = world.create(on_network("web", 6, net));
    world.run();
    // Six usable addresses: the gateway, the virtual address, four tasks.
    assert_eq!(world.running(web).len(), 4);
    let waiting: Vec<_> = world.runnable(web).into_iter().filter(|task| task.status.state == TaskState::New).collect();
    assert_eq!(waiting.len(), 2);
    assert_eq!(waiting[0].status.error, "network tiny has no free address left in 10.9.0.0/29");
    let other = world.create(on_network("other", 1, net));
    world.run();
    assert_eq!(world.runnable(other)[0].status.error, "network tiny has no free address left in 10.9.0.0/29");
    world.scale(web, 2);
    world.run();
    assert_eq!((world.running(web).len(), world.running(other).len()), (2, 1));
    assert!(world.running(other)[0].status.error.is_empty());
}

#[test]
fn an_address_is_kept_while_its_task_stops_and_rests_afterwards() {
    let mut world = World::new(1);
    let net = world.create_network(overlay("net"));
    let web = world.create(on_network("web", 1, net));
    world.run();
    let first = world.running(web)[0].networks[0].addr.expect("an address").addr();
    world.stubborn = true;
    world.update(web, |spec| crate::testing::image(spec, "web:2"));
    world.run();
    assert!(world.store.is_address_taken(net, first));
    world.stubborn = false;
    world.run();
    assert!(!world.store.is_address_taken(net, first));
    world.fail_over();
    for round in 3..10 {
        world.update(web, |spec| crate::testing::image(spec, &format!("web:{round}")));
        world.run();
        world.pass(10);
        world.run();
        assert_ne!(world.running(web)[0].networks[0].addr.expect("an address").addr(), first);
    }
}

#[test]
fn ranges_gateways_and_reserved_addresses_are_kept_to() {
    let mut world = World::new(1);
    let ipam = IpamConfig {
        subnet: "10.9.0.0/24".parse().ok(),
        range: "10.9.0.64/29".parse().ok(),
        gateway: "10.9.0.65".parse().ok(),
        reserved: [("printer".to_owned(), "10.9.0.66".parse().expect("an address"))].into(),
    };
    let net = world.create_network(NetworkSpec { ipam: vec![ipam], ..overlay("net") });
    let web = world.create(on_network("web", 10, net));
    world.run();
    let mut used: Vec<u8> = world
        .running(web)
        .iter()
        .filter_map(|task| task.networks[0].addr)
        .map(|addr| addr.addr().octets()[3])
        .chain(world.service(web).endpoint.virtual_ips.iter().map(|vip| vip.addr.octets()[3]))
        .collect();
    used.sort_unstable();
    assert_eq!(used, [64, 67, 68, 69, 70, 71]);
}

#[test]
fn automatic_ports_are_distinct_and_run_out() {
    let mut world = World::new(1);
    let many = |count: usize| -> Vec<_> {
        (0..count).map(|index| port(0, u16::try_from(index + 1).expect("small"))).collect()
    };
    let all = world.create(ServiceSpec {
        endpoint: shoal_proto::spec::EndpointSpec { ports: many(2_768), ..Default::default() },
        ..replicated("all", 1)
    });
    world.run();
    let numbers: BTreeSet<u16> = world.service(all).endpoint.ports.iter().map(|port| port.published).collect();
    assert_eq!(numbers.len(), 2_768);
    let spec = ServiceSpec {
        endpoint: shoal_proto::spec::EndpointSpec { ports: many(1), ..Default::default() },
        ..replicated("one", 1)
    };
    let failure = world.request(ControlRequest::CreateService(Box::new(spec.clone()))).expect_err("none left");
    assert_eq!(failure.message, "no tcp port from 30000 to 32767 is left to publish: name one");
    let mut udp = spec;
    udp.endpoint.ports[0].protocol = Protocol::Udp;
    let udp = world.create(udp);
    world.run();
    assert_eq!(world.service(udp).endpoint.ports.len(), 1);
    assert_eq!(world.running(udp).len(), 1);
}

#[test]
fn clashing_ports_are_refused_in_swarms_words() {
    let mut world = World::new(1);
    let publishing = |name: &str, mode: PublishMode| {
        let mut spec = replicated(name, 1);
        spec.endpoint.ports = vec![shoal_proto::spec::PortConfig { mode, ..port(80, 8080) }];
        ControlRequest::CreateService(Box::new(spec))
    };
    let Ok(ControlResponse::Service(web, _)) = world.request(publishing("web", PublishMode::Ingress)) else {
        panic!("not created")
    };
    // Even before the allocator has seen it.
    for mode in [PublishMode::Ingress, PublishMode::Host] {
        let failure = world.request(publishing("other", mode)).expect_err("taken");
        assert_eq!(
            failure.message,
            format!("port '80' is already in use by service 'web' ({}) as an ingress port", web.id)
        );
    }
    world.run();
    world.remove(web.id);
    let Ok(ControlResponse::Service(host, _)) = world.request(publishing("host", PublishMode::Host)) else {
        panic!("the port is free at once")
    };
    let failure = world.request(publishing("mesh", PublishMode::Ingress)).expect_err("taken");
    assert_eq!(
        failure.message,
        format!("port '80' is already in use by service 'host' ({}) as a host-published port", host.id)
    );
    world.request(publishing("host2", PublishMode::Host)).expect("on another node");
}

#[test]
fn tasks_on_predefined_networks_have_no_cluster_address() {
    let mut world = World::new(1);
    let host = world.store.network_by_name("host").expect("host").id;
    let web = world.create(on_network("web", 1, host));
    world.run();
    let task = &world.running(web)[0];
    assert_eq!((task.networks.len(), task.networks[0].addr), (1, None));
    assert!(world.service(web).endpoint.virtual_ips.is_empty());
}

#[test]
fn the_mesh_can_be_replaced_when_nothing_is_published() {
    let mut world = World::new(2);
    let mut spec = replicated("web", 1);
    spec.endpoint.ports = vec![port(80, 80)];
    let web = world.create(spec.clone());
    world.run();
    let ingress = world.store.ingress_network().expect("the mesh").id;
    let failure = world.request(ControlRequest::RemoveNetwork(ingress)).expect_err("in use");
    assert_eq!(failure.message, "ingress network cannot be removed because service web depends on it");
    world.remove(web);
    world.run();
    world.request(ControlRequest::RemoveNetwork(ingress)).expect("removed");
    world.run();
    assert!(world.store.ingress_network().is_none());
    assert!(world.store.nodes().all(|node| node.ingress_address.is_none()));
    let failure = world.request(ControlRequest::CreateService(Box::new(spec.clone()))).expect_err("no mesh");
    assert_eq!(failure.message, "service needs ingress network, but no ingress network is present");
    let mine = NetworkSpec { ingress: true, ..with_subnet("mesh", "10.200.0.0/20") };
    world.create_network(mine.clone());
    let web = world.create(spec);
    world.run();
    assert_eq!(world.running(web).len(), 1);
    assert!(
        world
            .store
            .node(NodeId::from_bits(1))
            .and_then(|node| node.ingress_address)
            .is_some_and(|addr| addr.octets()[1] == 200)
    );
    let failure = world.request(ControlRequest::CreateNetwork(Box::new(NetworkSpec { name: "two".into(), ..mine })));
    assert!(failure.expect_err("one is enough").message.ends_with("is already present"));
}
