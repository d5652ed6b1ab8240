//! Where tasks go.

use std::collections::BTreeMap;

use shoal_proto::id::{NodeId, ServiceId};
use shoal_proto::spec::{Platform, PortConfig, PublishMode, ServiceSpec};
use shoal_proto::task_state::TaskState;

use crate::testing::{Fate, World, port, replicated, with_task};

fn waits_because(world: &World, id: ServiceId) -> String {
    let tasks = world.runnable(id);
    let task = tasks.iter().find(|task| task.status.state == TaskState::Pending).expect("one that waits");
    task.status.error.clone()
}

#[test]
fn fewest_of_the_service_then_fewest_of_all() {
    let mut world = World::new(3);
    let first = world.create(replicated("first", 1));
    world.run();
    let taken = world.on_nodes(first).into_keys().next().expect("a node");
    let second = world.create(replicated("second", 2));
    world.run();
    assert!(!world.on_nodes(second).contains_key(&taken), "the emptier nodes come first");
    world.scale(second, 3);
    world.run();
    assert_eq!(world.on_nodes(second).len(), 3, "not two on one node");
}

#[test]
fn small_services_do_not_all_gather_on_one_node() {
    let mut world = World::new(10);
    let mut used = BTreeMap::new();
    for number in 0..10 {
        let id = world.create(replicated(&format!("s{number}"), 1));
        // Each is placed on an empty cluster of its own.
        let mut alone = World::new(10);
        alone.store = world.store.clone();
        alone.settle();
        for node in alone.on_nodes(id).into_keys() {
            *used.entry(node).or_insert(0) += 1;
        }
    }
    assert!(used.len() >= 4, "{used:?}");
}

#[test]
fn preferences_come_before_load() {
    let mut world = World::new(6);
    for number in 1..=6u128 {
        world.label(number, "zone", if number <= 4 { "a" } else { "b" });
        world.label(number, "rack", if number % 2 == 0 { "x" } else { "y" });
    }
    let by_zone = world.create(with_task(replicated("web", 8), |task| {
        task.placement.spread = vec!["node.labels.zone".into()];
    }));
    world.run();
    assert_eq!(world.on_nodes(by_zone).into_values().collect::<Vec<_>>(), [1, 1, 1, 1, 2, 2]);
    let by_both = world.create(with_task(replicated("both", 8), |task| {
        task.placement.spread = vec!["node.labels.zone".into(), "node.labels.rack".into()];
    }));
    world.run();
    assert_eq!(world.on_nodes(by_both).into_values().collect::<Vec<_>>(), [1, 1, 1, 1, 2, 2]);
    // What is there counts, also when a branch is full.
    world.scale(by_zone, 10);
    world.run();
    let counts = world.on_nodes(by_zone);
    assert_eq!((1..=4).map(|node| counts[&node]).sum::<usize>(), 5, "{counts:?}");
}

#[test]
fn a_full_branch_gives_way() {
    let mut world = World::new(2);
    world.label(1, "zone", "a");
    world.label(2, "zone", "b");
    let web = world.create(with_task(replicated("web", 8), |task| {
        task.placement.spread = vec!["node.labels.zone".into()];
        task.resources.reservations.memory_bytes = 1 << 30;
    }));
    world.change_node(1, |node| {
        if let Some(description) = &mut node.description {
            description.resources.memory_bytes = 2 << 30;
        }
    });
    world.run();
    assert_eq!(world.on_nodes(web).into_iter().collect::<Vec<_>>(), [(1, 2), (2, 6)]);
}

#[test]
fn every_filter_explains_itself() {
    let mut world = World::new(4);
    world.lose(1);
    world.label(2, "zone", "a");
    world.change_node(3, |node| {
        if let Some(description) = &mut node.description {
            description.platform.architecture = "aarch64".into();
        }
        node.spec.labels.insert("zone".into(), "a".into());
    });
    world.change_node(4, |node| {
        if let Some(description) = &mut node.description {
            description.resources.memory_bytes = 1 << 29;
        }
        node.spec.labels.insert("zone".into(), "a".into());
    });
    let picky = with_task(replicated("picky", 2), |task| {
        task.resources.reservations.memory_bytes = 2 << 30;
        task.placement.constraints = vec!["node.labels.zone==a".into()];
        task.placement.platforms = vec![Platform { architecture: "x86_64".into(), os: "linux".into() }];
        task.placement.max_replicas = 1;
    });
    let picky = world.create(picky);
    world.run();
    assert_eq!(
        waits_because(&world, picky),
        "no suitable node: 1 node not available, 1 node has insufficient memory (needs 2 GiB, 512 MiB free), 1 node \
         has an unsupported platform (linux/arm64), 1 node has the maximum of 1 replica"
    );
    let elsewhere = world.create(with_task(replicated("elsewhere", 1), |task| {
        task.placement.constraints = vec!["node.labels.zone==b".into()];
    }));
    world.run();
    assert_eq!(
        waits_because(&world, elsewhere),
        "no suitable node: 1 node not available, 3 nodes do not match constraint node.labels.zone==b"
    );
    let host = |name: &str| {
        let mut spec = with_task(replicated(name, 3), |task| {
            task.placement.constraints = vec!["node.labels.zone==a".into()];
        });
        spec.endpoint.ports = vec![PortConfig { mode: PublishMode::Host, ..port(80, 80) }];
        spec
    };
    let first = world.create(host("first"));
    let second = world.create(host("second"));
    world.run();
    assert_eq!((world.running(first).len(), world.running(second).len()), (3, 0));
    assert_eq!(
        waits_because(&world, second),
        "no suitable node: 1 node not available, 3 nodes have port 80/tcp in use"
    );
    world.remove(first);
    world.run();
    assert_eq!(world.running(second).len(), 3);
}

#[test]
fn without_nodes_it_says_so() {
    let mut world = World::new(0);
    let web = world.create(replicated("web", 1));
    world.settle();
    assert_eq!(waits_because(&world, web), "no suitable node: the cluster has no nodes");
    world.add_node(1);
    world.run();
    assert_eq!(world.running(web).len(), 1);
}

#[test]
fn a_changed_explanation_is_written_but_not_too_often() {
    let mut world = World::new(1);
    let big = |name: &str, gib: i64| -> ServiceSpec {
        with_task(replicated(name, 1), |task| task.resources.reservations.memory_bytes = gib << 30)
    };
    let huge = world.create(big("huge", 20));
    world.run();
    let before = waits_because(&world, huge);
    assert_eq!(before, "no suitable node: 1 node has insufficient memory (needs 20 GiB, 8 GiB free)");
    world.pass(1);
    world.create(big("small", 1));
    world.run();
    world.label(1, "a", "b");
    world.run();
    assert_eq!(waits_because(&world, huge), before, "too soon");
    let due = world.planner.wake_at().expect("a timer");
    world.now = due;
    world.run();
    assert_eq!(
        waits_because(&world, huge),
        "no suitable node: 1 node has insufficient memory (needs 20 GiB, 7 GiB free)"
    );
    let version = world.store.version();
    world.pass(100);
    world.label(1, "a", "c");
    world.run();
    assert_eq!(
        world.store.changes_since(version).map(|events| events.len()),
        Some(1),
        "the same words are not written"
    );
}

#[test]
fn a_node_where_a_spec_keeps_failing_is_the_last_choice() {
    let mut world = World::new(2);
    world.availability(2, shoal_proto::spec::Availability::Pause);
    world.fates.insert("web:1".into(), Fate::Rejected);
    let web = world.create(replicated("web", 5));
    world.settle();
    world.agents();
    world.settle();
    world.fates.clear();
    world.availability(2, shoal_proto::spec::Availability::Active);
    // The replacements went to the only node there was; three more are wanted now.
    let before = world.on_nodes(web);
    assert_eq!(before.get(&1), Some(&5));
    world.scale(web, 8);
    world.settle();
    assert_eq!(world.on_nodes(web).get(&2), Some(&3));
    // For another service the node is as good as any.
    let other = world.create(replicated("other", 2));
    world.settle();
    assert_eq!(world.on_nodes(other).len(), 2);
}

#[test]
fn reservations_are_kept_until_the_container_is_gone() {
    let mut world = World::new(1);
    let big = |name: &str| with_task(replicated(name, 1), |task| task.resources.reservations.memory_bytes = 6 << 30);
    let first = world.create(big("first"));
    world.run();
    world.stubborn = true;
    world.remove(first);
    let second = world.create(big("second"));
    world.run();
    assert_eq!(
        waits_because(&world, second),
        "no suitable node: 1 node has insufficient memory (needs 6 GiB, 2 GiB free)"
    );
    world.stubborn = false;
    world.run();
    assert_eq!(world.running(second).len(), 1);
    let usage = world.store.node_usage(NodeId::from_bits(1)).expect("used").clone();
    assert_eq!((usage.tasks, usage.active, usage.memory_bytes), (1, 1, 6 << 30));
}
