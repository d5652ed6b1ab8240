//! Who is told what, and who is not.

use std::collections::BTreeMap;

use shoal_proto::assignment::{AssignmentItem, AssignmentKey, AssignmentSet, EndpointOwner, EndpointRecord};
use shoal_proto::control::ControlRequest;
use shoal_proto::id::{NodeId, ServiceId};
use shoal_proto::spec::{ConfigReference, ConfigSpec, FileTarget, SecretReference, SecretSpec, ServiceSpec};
use shoal_proto::task_state::TaskState;

use super::{Hub, full};
use crate::testing::{World, global, image, on, overlay, port, replicated, with_task};

/// A cluster, its hub, and sessions with all its nodes.
struct Sessions {
    world: World,
    hub: Hub,
}

impl Sessions {
    fn of(world: World) -> Self {
        let mut hub = Hub::new(world.store.clone());
        for node in world.store.nodes() {
            let set = hub.attach(node.id);
            assert_eq!((set.complete, set.sequence), (true, 1));
        }
        Self { world, hub }
    }

    /// What each node is told of the changes since the last call.
    fn told(&mut self) -> BTreeMap<u128, AssignmentSet> {
        self.hub.advance(&self.world.store).into_iter().map(|(node, set)| (node.bits(), set)).collect()
    }
}

fn keys(set: &AssignmentSet) -> Vec<AssignmentKey> {
    let mut keys: Vec<AssignmentKey> = set.put.iter().map(AssignmentItem::key).collect();
    keys.sort_unstable();
    keys
}

fn endpoints(set: &AssignmentSet) -> Vec<EndpointRecord> {
    let endpoint = |item: &AssignmentItem| match item {
        AssignmentItem::Endpoint(endpoint) => Some(endpoint.clone()),
        _ => None,
    };
    set.put.iter().filter_map(endpoint).collect()
}

/// One replica, on this node.
fn pinned(name: &str, node: u128) -> ServiceSpec {
    with_task(replicated(name, 1), |task| task.placement.constraints = vec![format!("node.hostname==n{node}")])
}

#[test]
fn a_task_is_told_to_its_node_only_and_its_own_reports_are_no_news() {
    let mut sessions = Sessions::of(World::new(2));
    let web = sessions.world.create(pinned("web", 1));
    sessions.world.settle();
    let told = sessions.told();
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [1]);
    let task = sessions.world.runnable(web)[0].id;
    assert_eq!((keys(&told[&1]), told[&1].sequence, told[&1].complete), (vec![AssignmentKey::Task(task)], 2, false));
    sessions.world.agents();
    assert!(sessions.told().is_empty());
    sessions.world.scale(web, 0);
    sessions.world.settle();
    let told = sessions.told();
    let Some(AssignmentItem::Task(stopping)) = told[&1].put.first() else { panic!("not told to stop") };
    assert_eq!((stopping.desired_state, told[&1].sequence), (TaskState::Remove, 3));
    sessions.world.agents();
    assert!(sessions.told().is_empty());
    sessions.world.settle();
    assert_eq!(sessions.told()[&1].remove, [AssignmentKey::Task(task)]);
}

#[test]
fn ended_tasks_stay_until_they_are_history_no_more() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    world.pass(60);
    let task = world.running(web)[0].id;
    world.report(task, TaskState::Failed);
    world.run();
    let node = NodeId::from_bits(1);
    assert!(keys(&full(&world.store, node)).contains(&AssignmentKey::Task(task)), "its logs can still be read");
    for _ in 0..5 {
        world.update(web, |spec| {
            let number = world_number(spec);
            image(spec, &format!("web:{number}"));
        });
        world.run();
        world.pass(60);
        world.run();
    }
    assert!(!keys(&full(&world.store, node)).contains(&AssignmentKey::Task(task)));
}

fn world_number(spec: &ServiceSpec) -> u32 {
    spec.task.container.image.rsplit(':').next().and_then(|tag| tag.parse::<u32>().ok()).unwrap_or(0) + 1
}

#[test]
fn secrets_and_configs_reach_only_the_nodes_that_use_them() {
    let mut world = World::new(2);
    let secret = SecretSpec { name: "key".into(), data: b"x".to_vec(), ..SecretSpec::default() };
    let config = ConfigSpec { name: "conf".into(), data: b"x".to_vec(), ..ConfigSpec::default() };
    world.request(ControlRequest::CreateSecret(secret)).expect("made");
    world.request(ControlRequest::CreateConfig(config)).expect("made");
    let secret = world.store.secret_by_name("key").expect("it").id;
    let config = world.store.config_by_name("conf").expect("it").id;
    let mut sessions = Sessions::of(world);
    let file = |name: &str| FileTarget { name: name.into(), ..FileTarget::default() };
    let web = sessions.world.create(with_task(pinned("web", 2), |task| {
        task.container.secrets = vec![SecretReference { id: secret, name: "key".into(), target: file("key") }];
        task.container.configs = vec![ConfigReference { id: config, name: "conf".into(), target: file("/conf") }];
    }));
    sessions.world.settle();
    let told = sessions.told();
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [2]);
    let task = sessions.world.runnable(web)[0].id;
    let expected = [AssignmentKey::Secret(secret), AssignmentKey::Config(config), AssignmentKey::Task(task)];
    assert_eq!(keys(&told[&2]), expected);
    sessions.world.run();
    sessions.told();
    // New labels are told to those who have it.
    let version = sessions.world.store.secret(secret).expect("it").meta.version;
    let labels = [("a".to_owned(), "b".to_owned())].into();
    sessions.world.request(ControlRequest::UpdateSecret { id: secret, version, labels }).expect("updated");
    let told = sessions.told();
    assert_eq!((told.len(), keys(&told[&2])), (1, vec![AssignmentKey::Secret(secret)]));
    // The payloads go when the last task that used them has stopped, not when it is told to.
    sessions.world.stubborn = true;
    sessions.world.remove(web);
    sessions.world.run();
    assert!(sessions.told()[&2].remove.is_empty());
    sessions.world.stubborn = false;
    sessions.world.run();
    let mut removed = sessions.told()[&2].remove.clone();
    removed.sort_unstable();
    assert_eq!(removed, expected);
}

#[test]
fn endpoints_follow_their_tasks_and_reach_only_nodes_on_the_network() {
    let mut world = World::new(3);
    let net = world.create_network(overlay("net"));
    let mut sessions = Sessions::of(world);
    let networked = |name: &str, node| with_task(pinned(name, node), |task| task.networks = vec![on(net)]);
    let a = sessions.world.create(networked("a", 1));
    sessions.world.run();
    let told = sessions.told();
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [1], "nobody else is on the network");
    assert!(keys(&told[&1]).contains(&AssignmentKey::Network(net)));
    assert!(keys(&told[&1]).contains(&AssignmentKey::Service(net, a)));
    // The second node on the network is told of everything that is there, the first of what is new.
    let b = sessions.world.create(networked("b", 2));
    sessions.world.settle();
    let told = sessions.told();
    let (task_a, task_b) = (sessions.world.runnable(a)[0].id, sessions.world.runnable(b)[0].id);
    let endpoint = |task| AssignmentKey::Endpoint(net, EndpointOwner::Task(task));
    assert_eq!(keys(&told[&1]), [endpoint(task_b), AssignmentKey::Service(net, b)]);
    assert!([endpoint(task_a), endpoint(task_b)].iter().all(|key| keys(&told[&2]).contains(key)));
    assert!(!endpoints(&told[&1])[0].serving, "it does not run yet");
    sessions.world.agents();
    let told = sessions.told();
    let record = &endpoints(&told[&1])[0];
    assert!(record.serving);
    assert_eq!(record.aliases, ["c".repeat(12)], "its container's short id");
    assert_eq!(record.name, sessions.world.runnable(b)[0].name());
    assert_eq!((record.node, record.service), (NodeId::from_bits(2), Some(b)));
    assert_eq!(record.node_addr, "192.168.0.3".parse().ok());
    assert_eq!(endpoints(&told[&2]).len(), 1, "also where it runs");
    // Told to stop: no more traffic. Stopped: gone, and with it the network from its node.
    sessions.world.stubborn = true;
    sessions.world.remove(b);
    sessions.world.run();
    let told = sessions.told();
    assert!(!endpoints(&told[&1])[0].serving);
    assert_eq!(told[&1].remove, [AssignmentKey::Service(net, b)]);
    sessions.world.stubborn = false;
    sessions.world.run();
    let told = sessions.told();
    assert_eq!(told[&1].remove, [endpoint(task_b)]);
    for key in [AssignmentKey::Network(net), AssignmentKey::Service(net, a), endpoint(task_a), endpoint(task_b)] {
        assert!(told[&2].remove.contains(&key), "{key:?}");
    }
    assert!(!told.contains_key(&3));
}

#[test]
fn a_lost_node_serves_no_more_and_one_that_moved_takes_its_endpoints_along() {
    let mut world = World::new(2);
    let net = world.create_network(overlay("net"));
    world.create(with_task(global("a"), |task| task.networks = vec![on(net)]));
    world.run();
    let mut sessions = Sessions::of(world);
    sessions.world.change_node(2, |node| {
        if let Some(description) = &mut node.description {
            description.data_path_addr = "192.168.7.7".parse().ok();
        }
    });
    let told = sessions.told();
    assert_eq!(
        endpoints(&told[&1]).iter().map(|record| record.node_addr).collect::<Vec<_>>(),
        ["192.168.7.7".parse().ok()]
    );
    sessions.world.lose(2);
    let told = sessions.told();
    assert!(!endpoints(&told[&1])[0].serving, "before any planner has looked");
    sessions.world.back(2);
    assert!(endpoints(&sessions.told()[&1])[0].serving);
}

#[test]
fn published_ports_and_the_mesh_reach_every_node() {
    let mut sessions = Sessions::of(World::new(3));
    let mut spec = pinned("web", 1);
    spec.endpoint.ports = vec![port(8080, 80)];
    let web = sessions.world.create(spec);
    sessions.world.run();
    let ingress = sessions.world.store.ingress_network().expect("the mesh").id;
    let task = sessions.world.running(web)[0].id;
    let told = sessions.told();
    assert_eq!(told.len(), 3);
    for (number, set) in &told {
        let keys = keys(set);
        for key in [
            AssignmentKey::Network(ingress),
            AssignmentKey::Published(web),
            AssignmentKey::Endpoint(ingress, EndpointOwner::Task(task)),
            AssignmentKey::Endpoint(ingress, EndpointOwner::Node(NodeId::from_bits(1))),
            AssignmentKey::Endpoint(ingress, EndpointOwner::Node(NodeId::from_bits(3))),
        ] {
            assert!(keys.contains(&key), "{key:?} on {number}");
        }
        let own = set.put.iter().find_map(|item| match item {
            AssignmentItem::Network(network) if network.ingress => network.node_address,
            _ => None,
        });
        assert_eq!(own, sessions.world.store.node(NodeId::from_bits(*number)).and_then(|node| node.ingress_address));
    }
    sessions.world.update(web, |spec| spec.endpoint.ports = vec![port(9090, 80)]);
    sessions.world.settle();
    let told = sessions.told();
    assert!(told.values().all(|set| keys(set).contains(&AssignmentKey::Published(web))));
    sessions.world.run();
    sessions.told();
    sessions.world.stubborn = true;
    sessions.world.remove(web);
    let told = sessions.told();
    assert!(told.values().all(|set| set.remove.contains(&AssignmentKey::Published(web))), "at once");
}

#[test]
fn a_node_that_joins_is_told_of_the_mesh() {
    let mut world = World::new(1);
    let mut spec = replicated("web", 1);
    spec.endpoint.ports = vec![port(8080, 80)];
    let web = world.create(spec);
    world.run();
    let mut sessions = Sessions::of(world);
    let id = sessions.world.add_node(2);
    sessions.told();
    let first = sessions.hub.attach(id);
    assert!(first.put.is_empty());
    sessions.world.settle();
    let told = sessions.told();
    assert!(keys(&told[&2]).contains(&AssignmentKey::Published(web)));
    assert_eq!(told[&2].sequence, 2);
    let ingress = sessions.world.store.ingress_network().expect("the mesh").id;
    assert_eq!(keys(&told[&1]), [AssignmentKey::Endpoint(ingress, EndpointOwner::Node(id))]);
}

#[test]
fn given_up_tasks_are_forgotten_and_detached_nodes_left_alone() {
    let mut world = World::new(2);
    let web = world.create(replicated("web", 2));
    world.run();
    let mut sessions = Sessions::of(world);
    sessions.world.lose(2);
    sessions.hub.detach(NodeId::from_bits(1));
    sessions.world.run();
    sessions.world.pass(24 * 3600);
    sessions.world.run();
    let told = sessions.told();
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [2]);
    let lost = sessions.world.store.tasks_of_service(web).find(|task| task.status.state == TaskState::Orphaned);
    assert_eq!(told[&2].remove, [AssignmentKey::Task(lost.expect("one").id)]);
}

#[test]
fn whoever_is_too_far_behind_gets_everything() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 3));
    let mut sessions = Sessions::of(world);
    sessions.world.run();
    // A restored store remembers no changes.
    sessions.world.fail_over();
    let told = sessions.told();
    assert!(told[&1].complete);
    assert_eq!((told[&1].sequence, told[&1].put.len()), (2, sessions.world.running(web).len()));
    assert_eq!(sessions.hub.version(), sessions.world.store.version());
    assert!(sessions.told().is_empty());
}

#[test]
fn aliases_and_round_robin_are_part_of_the_service() {
    let mut world = World::new(1);
    let net = world.create_network(overlay("net"));
    let mut spec = with_task(replicated("db", 1), |task| {
        task.networks = vec![on(net)];
        task.networks[0].aliases = vec!["database".into()];
    });
    spec.endpoint.mode = shoal_proto::spec::EndpointMode::Dnsrr;
    let db: ServiceId = world.create(spec);
    world.run();
    let set = full(&world.store, NodeId::from_bits(1));
    let record = set.put.iter().find_map(|item| match item {
        AssignmentItem::Service(record) if record.service == db => Some(record.clone()),
        _ => None,
    });
    let record = record.expect("the service");
    assert_eq!((record.name.as_str(), record.virtual_ip), ("db", None));
    assert_eq!(record.aliases, ["database"]);
}
