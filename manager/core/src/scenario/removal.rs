//! What is deleted goes when nothing needs it any more, and not before.

use shoal_proto::control::ControlRequest;
use shoal_proto::error::ErrorKind;
use shoal_proto::id::{NetworkId, NodeId};
use shoal_proto::spec::{ConfigReference, ConfigSpec, FileTarget, SecretReference, SecretSpec, ServiceSpec};

use crate::testing::{World, on, overlay, replicated, with_task};

fn on_network(name: &str, network: NetworkId) -> ServiceSpec {
    with_task(replicated(name, 2), |task| task.networks = vec![on(network)])
}

#[test]
fn a_service_goes_when_its_last_task_has_stopped() {
    let mut world = World::new(1);
    let net = world.create_network(overlay("net"));
    let web = world.create(on_network("web", net));
    world.run();
    let vip = world.service(web).endpoint.virtual_ips[0].addr;
    world.stubborn = true;
    world.remove(web);
    world.run();
    assert!(world.service(web).pending_delete);
    assert!(world.store.is_address_taken(net, vip));
    assert_eq!(world.show(web), "1 n1 remove/running v1\n2 n1 remove/running v1");
    assert!(world.store.service_by_name("web").is_none(), "the name is free at once");
    let again = world.create(replicated("web", 1));
    world.stubborn = false;
    world.run();
    assert!(world.store.service(web).is_none());
    assert!(!world.store.is_address_taken(net, vip));
    assert_eq!(world.running(again).len(), 1);
    assert_eq!(world.request(ControlRequest::RemoveService(web)).expect_err("gone").kind, ErrorKind::NotFound);
}

#[test]
fn a_service_that_is_going_cannot_be_changed_or_removed_again() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    world.stubborn = true;
    world.remove(web);
    world.run();
    let service = world.service(web);
    let update =
        ControlRequest::UpdateService { id: web, version: service.meta.version, spec: Box::new(service.spec.clone()) };
    for request in [ControlRequest::RemoveService(web), update] {
        let failure = world.request(request).expect_err("refused");
        assert_eq!(failure.message, format!("service {web} not found"));
    }
}

#[test]
fn a_service_without_tasks_goes_at_once() {
    let mut world = World::new(0);
    let web = world.create(replicated("web", 2));
    world.settle();
    world.remove(web);
    world.settle();
    assert!(world.store.service(web).is_none());
    assert_eq!(world.store.task_count(), 0);
}

#[test]
fn a_deleted_service_waits_for_a_lost_node_but_not_for_ever() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    world.lose(1);
    world.remove(web);
    world.run();
    assert!(world.store.service(web).is_some());
    world.pass(24 * 3600);
    world.run();
    assert!(world.store.service(web).is_none());
}

#[test]
fn a_network_in_use_is_kept_and_one_whose_users_go_follows_them() {
    let mut world = World::new(1);
    let net = world.create_network(overlay("net"));
    let web = world.create(on_network("web", net));
    world.run();
    let failure = world.request(ControlRequest::RemoveNetwork(net)).expect_err("in use");
    assert_eq!(failure.message, "network net is in use by service web");
    world.stubborn = true;
    world.remove(web);
    world.run();
    // As `docker stack rm` does: networks right after services.
    world.request(ControlRequest::RemoveNetwork(net)).expect("accepted");
    world.run();
    assert!(world.store.network(net).is_some_and(|network| network.pending_delete), "containers are still on it");
    assert!(world.store.network_by_name("net").is_none());
    let again = world.create_network(overlay("net"));
    assert_ne!(again, net);
    let spec = on_network("other", net);
    let failure = world.request(ControlRequest::CreateService(Box::new(spec))).expect_err("it is going");
    assert_eq!(failure.message, format!("network {net} not found"));
    world.stubborn = false;
    world.run();
    assert!(world.store.network(net).is_none());
    world.settle();
    let subnets: std::collections::BTreeSet<_> =
        world.store.networks().filter_map(|network| network.allocation.as_ref()).map(|a| a.subnet).collect();
    assert_eq!(subnets.len(), 2);
}

#[test]
fn predefined_networks_stay() {
    let mut world = World::new(0);
    let host = world.store.network_by_name("host").expect("host").id;
    let failure = world.request(ControlRequest::RemoveNetwork(host)).expect_err("refused");
    assert_eq!(failure.message, "host is a pre-defined network and cannot be removed");
}

#[test]
fn secrets_and_configs_in_use_are_kept() {
    let mut world = World::new(1);
    let secret = SecretSpec { name: "key".into(), data: b"x".to_vec(), ..SecretSpec::default() };
    let config = ConfigSpec { name: "conf".into(), data: b"x".to_vec(), ..ConfigSpec::default() };
    world.request(ControlRequest::CreateSecret(secret.clone())).expect("made");
    world.request(ControlRequest::CreateConfig(config.clone())).expect("made");
    let failure = world.request(ControlRequest::CreateSecret(secret)).expect_err("twice");
    assert_eq!(failure.message, "name conflicts with an existing object: secret key already exists");
    let failure = world.request(ControlRequest::CreateConfig(config)).expect_err("twice");
    assert_eq!(failure.message, "name conflicts with an existing object: config conf already exists");
    let secret = world.store.secret_by_name("key").expect("it").id;
    let config = world.store.config_by_name("conf").expect("it").id;
    let web = world.create(with_task(replicated("web", 1), |task| {
        let file = |name: &str| FileTarget { name: name.into(), ..FileTarget::default() };
        task.container.secrets = vec![SecretReference { id: secret, name: "key".into(), target: file("key") }];
        task.container.configs = vec![ConfigReference { id: config, name: "conf".into(), target: file("/conf") }];
    }));
    world.run();
    let failure = world.request(ControlRequest::RemoveSecret(secret)).expect_err("used");
    assert_eq!(failure.message, "secret 'key' is in use by the following service: web");
    let failure = world.request(ControlRequest::RemoveConfig(config)).expect_err("used");
    assert_eq!(failure.message, "config 'conf' is in use by the following service: web");
    // Their labels can be changed, and nothing restarts.
    let version = world.store.secret(secret).expect("it").meta.version;
    let labels: shoal_proto::spec::Labels = [("a".to_owned(), "b".to_owned())].into();
    world.request(ControlRequest::UpdateSecret { id: secret, version, labels: labels.clone() }).expect("updated");
    let stale = world.request(ControlRequest::UpdateSecret { id: secret, version, labels }).expect_err("stale");
    assert_eq!(stale.kind, ErrorKind::StaleVersion);
    world.run();
    assert_eq!(world.running(web).len(), 1);
    world.remove(web);
    world.request(ControlRequest::RemoveSecret(secret)).expect("free");
    world.request(ControlRequest::RemoveConfig(config)).expect("free");
    world.run();
    assert!(world.store.secrets().next().is_none());
}

#[test]
fn removing_a_node_frees_what_its_tasks_held() {
    let mut world = World::new(1);
    let net = world.create_network(overlay("net"));
    let web = world.create(on_network("web", net));
    world.run();
    let used = world.store.addresses(net).map(|space| space.used());
    world.lose(1);
    world.run();
    world.request(ControlRequest::RemoveNode { id: NodeId::from_bits(1), force: false }).expect("removed");
    world.run();
    assert_eq!(world.runnable(web).len(), 2, "they wait for a node, with addresses");
    assert_eq!(world.store.addresses(net).map(|space| space.used()), used);
}
