//! Nodes that come, go, and are drained.

use shoal_proto::control::ControlRequest;
use shoal_proto::id::NodeId;
use shoal_proto::spec::{Availability, NodeRole};
use shoal_proto::task_state::TaskState;

use crate::testing::{World, replicated, with_task};

fn remove(id: u128, force: bool) -> ControlRequest {
    ControlRequest::RemoveNode { id: NodeId::from_bits(id), force }
}

#[test]
fn the_tasks_of_a_lost_node_run_elsewhere_at_once_and_stop_when_it_returns() {
    let mut world = World::new(3);
    let web = world.create(replicated("web", 6));
    world.run();
    world.lose(2);
    world.plan();
    let lines = world.show(web);
    assert_eq!(lines.matches("shutdown/running").count(), 2);
    assert_eq!(lines.matches("running/assigned").count(), 2, "one pass, no delay: {lines}");
    world.run();
    assert_eq!(world.running(web).len(), 6);
    assert!(!world.on_nodes(web).contains_key(&2));
    world.back(2);
    world.run();
    assert_eq!(world.show(web).matches("n2 shutdown/shutdown").count(), 2);
    assert_eq!(world.running(web).len(), 6, "nothing moves back");
}

#[test]
fn a_drained_node_is_emptied_without_delay_but_in_order() {
    let mut world = World::new(2);
    world.availability(2, Availability::Pause);
    let web = world.create(replicated("web", 2));
    world.run();
    assert_eq!(world.on_nodes(web).into_iter().collect::<Vec<_>>(), [(1, 2)]);
    world.availability(2, Availability::Active);
    world.availability(1, Availability::Drain);
    world.settle();
    assert_eq!(
        world.show(web),
        "1 n1 shutdown/running v1\n1 n2 ready/assigned v1\n2 n1 shutdown/running v1\n2 n2 ready/assigned v1",
        "the new ones wait until the old ones stopped"
    );
    world.run();
    assert_eq!(world.on_nodes(web).into_iter().collect::<Vec<_>>(), [(2, 2)]);
    assert_eq!(world.running(web).len(), 2);
}

#[test]
fn a_paused_node_keeps_its_tasks_and_gets_no_new_ones() {
    let mut world = World::new(2);
    let web = world.create(replicated("web", 2));
    world.run();
    world.availability(1, Availability::Pause);
    world.scale(web, 4);
    world.run();
    assert_eq!(world.on_nodes(web).into_iter().collect::<Vec<_>>(), [(1, 1), (2, 3)]);
}

#[test]
fn without_another_node_tasks_of_a_lost_one_wait() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    world.lose(1);
    world.run();
    assert_eq!(world.show(web), "1 n1 shutdown/running v1\n1 - running/pending v1");
    assert_eq!(world.runnable(web)[0].status.error, "no suitable node: 1 node not available");
    world.back(1);
    world.run();
    assert_eq!(world.show(web), "1 n1 shutdown/shutdown v1\n1 n1 running/running v1");
}

#[test]
fn tasks_of_a_node_that_stays_away_become_orphans() {
    let mut world = World::new(2);
    let net = world.create_network(crate::testing::overlay("net"));
    let web = world.create(with_task(replicated("web", 2), |task| task.networks = vec![crate::testing::on(net)]));
    world.run();
    let lost = world.running(web).into_iter().find(|task| task.node_id == Some(NodeId::from_bits(2))).expect("one");
    let addr = lost.networks[0].addr.expect("an address").addr();
    world.lose(2);
    world.run();
    assert!(world.store.is_address_taken(net, addr), "it may still run there");
    let due = world.planner.wake_at().expect("a timer");
    assert_eq!(due.since(world.now).as_secs(), 24 * 3600);
    world.pass(24 * 3600);
    world.run();
    assert_eq!(world.store.task(lost.id).map(|task| task.status.state), Some(TaskState::Orphaned));
    assert!(!world.store.is_address_taken(net, addr));
    world.back(2);
    world.run();
    assert_eq!(world.running(web).len(), 2);
    assert_eq!(crate::dispatch::full(&world.store, NodeId::from_bits(2)).put.len(), 0, "it forgets the task");
}

#[test]
fn a_live_node_is_only_removed_by_force() {
    let mut world = World::new(2);
    let web = world.create(replicated("web", 2));
    world.run();
    let failure = world.request(remove(2, false)).expect_err("refused");
    assert_eq!(failure.message, format!("node {} is not down and can't be removed", NodeId::from_bits(2)));
    world.request(remove(2, true)).expect("removed");
    world.run();
    assert_eq!(world.on_nodes(web).into_iter().collect::<Vec<_>>(), [(1, 2)]);
    assert_eq!(world.running(web).len(), 2);
    assert!(world.store.tasks().any(|task| task.status.state == TaskState::Orphaned));
    assert_eq!(world.request(remove(2, true)).expect_err("gone").kind, shoal_proto::error::ErrorKind::NotFound);
}

#[test]
fn a_task_that_waited_for_a_removed_node_goes_elsewhere() {
    let mut world = World::new(1);
    let web = world.create(crate::testing::global("web"));
    world.availability(1, Availability::Active);
    world.settle();
    world.lose(1);
    world.settle();
    world.request(remove(1, false)).expect("removed");
    world.run();
    assert_eq!(world.show(web), "");
    world.add_node(2);
    world.run();
    assert_eq!(world.show(web), "0 n2 running/running v1");
}

fn demote(world: &World, number: u128) -> ControlRequest {
    let node = world.store.node(NodeId::from_bits(number)).expect("the node");
    let mut spec = node.spec.clone();
    spec.role = NodeRole::Worker;
    ControlRequest::UpdateNode { id: node.id, version: node.meta.version, spec }
}

#[test]
fn managers_are_guarded() {
    let mut world = World::new(4);
    world.make_manager(1);
    let request = demote(&world, 1);
    let failure = world.request(request).expect_err("refused");
    assert_eq!(failure.message, "attempting to demote the last manager of the swarm");
    world.make_manager(2);
    world.make_manager(3);
    let failure = world.request(remove(2, true)).expect_err("refused");
    assert!(failure.message.ends_with("It must be demoted to worker before removal"), "{failure}");
    world.lose(3);
    let request = demote(&world, 2);
    let failure = world.request(request).expect_err("refused");
    assert!(failure.message.contains("this would result in a loss of quorum"), "{failure}");
    let request = demote(&world, 3);
    world.request(request).expect("the dead one may go");
}

#[test]
fn a_changed_label_takes_tasks_off_their_node() {
    let mut world = World::new(2);
    world.label(1, "disk", "ssd");
    let web = world.create(with_task(replicated("web", 2), |task| {
        task.placement.constraints = vec!["node.labels.disk == ssd".into()];
    }));
    world.run();
    assert_eq!(world.on_nodes(web).into_iter().collect::<Vec<_>>(), [(1, 2)]);
    world.label(2, "disk", "ssd");
    world.label(1, "disk", "none");
    world.settle();
    let left: Vec<_> = world.store.tasks_of_node(NodeId::from_bits(1)).cloned().collect();
    assert!(left.iter().all(|task| task.status.state == TaskState::Running), "they run until they have stopped");
    assert!(left.iter().all(|task| task.status.error == "assigned node no longer meets constraints"));
    world.run();
    assert_eq!(world.on_nodes(web).into_iter().collect::<Vec<_>>(), [(2, 2)]);
    assert_eq!(world.running(web).len(), 2);
}

#[test]
fn a_node_that_shrinks_loses_the_youngest_tasks() {
    let mut world = World::new(1);
    let gpu = with_task(replicated("gpu", 1), |task| {
        task.resources.reservations.generic = [("gpu".to_owned(), 1)].into();
    });
    world.change_node(1, |node| {
        if let Some(description) = &mut node.description {
            description.resources.generic = [("gpu".to_owned(), 2)].into();
        }
    });
    let first = world.create(gpu.clone());
    world.run();
    world.pass(1);
    let second = world.create(shoal_proto::spec::ServiceSpec { name: "gpu2".into(), ..gpu });
    let plain = world.create(replicated("plain", 1));
    world.run();
    world.change_node(1, |node| {
        if let Some(description) = &mut node.description {
            description.resources.generic = [("gpu".to_owned(), 1)].into();
        }
    });
    world.run();
    assert_eq!((world.running(first).len(), world.running(second).len(), world.running(plain).len()), (1, 0, 1));
    let waiting = world.runnable(second);
    assert_eq!(waiting[0].status.error, "no suitable node: 1 node has insufficient gpu (needs 1, 0 free)");
}

#[test]
fn a_session_that_moved_on_is_not_ended_by_its_old_manager() {
    use shoal_proto::control::Report;
    use shoal_proto::object::NodeState;
    let mut world = World::new(1);
    let id = NodeId::from_bits(1);
    let gone = |session_manager| {
        ControlRequest::Report(vec![Report::NodeGone {
            id,
            state: NodeState::Down,
            message: "heartbeat failure".into(),
            session_manager,
        }])
    };
    world.request(gone(7)).expect("heard");
    assert_eq!(world.store.node(id).map(|node| node.status.state), Some(NodeState::Ready));
    world.request(gone(1)).expect("heard");
    assert_eq!(world.store.node(id).map(|node| node.status.state), Some(NodeState::Down));
}
