//! Global services.

use shoal_proto::spec::{Availability, Platform};
use shoal_proto::task_state::TaskState;

use crate::testing::{World, global, image, with_task};

#[test]
fn every_node_gets_one_also_those_that_come_later() {
    let mut world = World::new(2);
    let web = world.create(global("web"));
    world.run();
    assert_eq!(world.show(web), "0 n1 running/running v1\n0 n2 running/running v1");
    world.add_node(3);
    world.run();
    assert_eq!(world.running(web).len(), 3);
}

#[test]
fn only_nodes_that_match_count() {
    let mut world = World::new(3);
    world.label(2, "zone", "a");
    world.change_node(3, |node| {
        node.spec.labels.insert("zone".into(), "a".into());
        if let Some(description) = &mut node.description {
            description.platform.architecture = "aarch64".into();
        }
    });
    let web = world.create(with_task(global("web"), |task| {
        task.placement.constraints = vec!["node.labels.zone==a".into()];
        task.placement.platforms = vec![Platform { architecture: "amd64".into(), os: "linux".into() }];
    }));
    world.run();
    assert_eq!(world.show(web), "0 n2 running/running v1");
    world.label(1, "zone", "a");
    world.run();
    assert_eq!(world.running(web).len(), 2);
    world.label(2, "zone", "b");
    world.run();
    assert_eq!(world.show(web), "0 n1 running/running v1\n0 n2 shutdown/shutdown v1");
}

#[test]
fn drained_and_lost_nodes_are_left_paused_ones_keep_what_they_have() {
    let mut world = World::new(3);
    let web = world.create(global("web"));
    world.run();
    world.availability(1, Availability::Drain);
    world.availability(2, Availability::Pause);
    world.lose(3);
    world.run();
    assert_eq!(world.show(web), "0 n1 shutdown/shutdown v1\n0 n2 running/running v1\n0 n3 shutdown/running v1");
    world.availability(1, Availability::Active);
    world.availability(2, Availability::Active);
    world.back(3);
    world.run();
    assert_eq!(
        world.show(web),
        "0 n1 shutdown/shutdown v1\n0 n1 running/running v1\n0 n2 running/running v1\n\
         0 n3 shutdown/shutdown v1\n0 n3 running/running v1"
    );
}

#[test]
fn a_returning_node_stops_the_old_task_before_it_starts_the_new_one() {
    let mut world = World::new(1);
    let web = world.create(global("web"));
    world.run();
    world.lose(1);
    world.settle();
    world.stubborn = true;
    world.back(1);
    world.settle();
    assert_eq!(world.show(web), "0 n1 shutdown/running v1\n0 n1 ready/assigned v1");
    world.agents();
    world.settle();
    assert_eq!(world.show(web), "0 n1 shutdown/running v1\n0 n1 ready/ready v1");
    world.stubborn = false;
    world.run();
    assert_eq!(world.show(web), "0 n1 shutdown/shutdown v1\n0 n1 running/running v1");
}

#[test]
fn a_node_that_is_full_keeps_its_task_waiting_and_says_why() {
    let mut world = World::new(1);
    let web = world.create(with_task(global("web"), |task| {
        task.resources.reservations.nano_cpus = 5_000_000_000;
    }));
    world.run();
    let task = &world.runnable(web)[0];
    assert_eq!(task.status.state, TaskState::Pending);
    assert_eq!(task.status.error, "no suitable node: 1 node has insufficient CPU (needs 5, 4 free)");
}

#[test]
fn updates_go_node_by_node() {
    let mut world = World::new(3);
    let web = world.create(global("web"));
    world.run();
    world.update(web, |spec| {
        image(spec, "web:2");
        spec.update = Some(shoal_proto::spec::UpdateConfig {
            monitor: std::time::Duration::ZERO,
            ..shoal_proto::spec::UpdateConfig::default()
        });
    });
    world.settle();
    assert_eq!(world.show(web).matches("v2").count(), 1, "one at a time");
    world.run();
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 2).count(), 3);
    assert_eq!(world.update_state(web), "completed");
}

#[test]
fn the_tasks_of_a_removed_node_leave_nothing_behind() {
    let mut world = World::new(2);
    let web = world.create(global("web"));
    world.run();
    world.lose(2);
    world.settle();
    world
        .request(shoal_proto::control::ControlRequest::RemoveNode {
            id: shoal_proto::id::NodeId::from_bits(2),
            force: false,
        })
        .expect("removed");
    world.run();
    assert_eq!(world.show(web), "0 n1 running/running v1");
}
