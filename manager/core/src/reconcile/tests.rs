//! The cursor: what is looked at, and when.

use std::time::Duration;

use shoal_proto::id::{NodeId, ServiceId};
use shoal_proto::object::Node;
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use super::{Dirty, Due, Planner, SlotKey, is_up_to_date, plan_all};
use crate::change::Change;
use crate::testing::{World, global, image, replicated};

fn dirty_since(world: &World, version: u64) -> Dirty {
    Dirty::of(&world.store, &world.store.changes_since(version).expect("not too far back"))
}

#[test]
fn nothing_changed_nothing_is_looked_at() {
    let mut world = World::new(2);
    world.create(replicated("web", 2));
    world.run();
    assert!(dirty_since(&world, world.store.version()).is_empty());
    assert_eq!(world.plan(), 0);
    assert_eq!(world.planner.wake_at(), None);
}

#[test]
fn progress_of_healthy_tasks_is_no_work() {
    let mut world = World::new(2);
    world.create(replicated("web", 4));
    world.settle();
    let version = world.store.version();
    world.agents();
    assert!(world.store.version() > version);
    let dirty = dirty_since(&world, version);
    assert!(dirty.is_empty(), "{dirty:?}");
}

#[test]
fn a_new_task_that_got_its_node_leaves_its_slot_alone() {
    let mut world = World::new(2);
    world.settle();
    world.create(replicated("web", 4));
    world.plan();
    let version = world.store.version();
    let events = world.store.changes_since(version - 1).expect("recent");
    assert_eq!(events.len(), 4);
    let dirty = Dirty::of(&world.store, &events);
    assert!(dirty.slots.is_empty() && dirty.services.is_empty() && !dirty.capacity, "{dirty:?}");
}

#[test]
fn the_end_of_a_task_concerns_its_slot_and_makes_room() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 3));
    world.run();
    let version = world.store.version();
    let task = world.running(web)[1].clone();
    world.report(task.id, TaskState::Failed);
    let dirty = dirty_since(&world, version);
    assert_eq!(dirty.slots.into_iter().collect::<Vec<_>>(), [SlotKey { service: web, slot: task.slot, node: None }]);
    assert!(dirty.capacity && dirty.services.is_empty());
}

#[test]
fn only_what_matters_of_a_node_is_looked_at() {
    let mut world = World::new(1);
    world.settle();
    let version = world.store.version();
    let node = NodeId::from_bits(1);
    world.change_node(1, |node| node.status.message = "busy".into());
    world.change_node(1, |node| node.status.session_manager = Some(9));
    assert!(dirty_since(&world, version).is_empty());
    world.change_node(1, |node| node.status.session_manager = Some(1));
    world.label(1, "a", "b");
    assert!(dirty_since(&world, version).nodes.contains(&node));
    let version = world.store.version();
    world.lose(1);
    assert!(dirty_since(&world, version).nodes.contains(&node));
    let version = world.store.version();
    world.apply(&[Change::create(Node { id: NodeId::from_bits(9), ..Node::default() })]);
    assert!(dirty_since(&world, version).nodes.contains(&NodeId::from_bits(9)));
}

#[test]
fn timers_come_due_once_and_are_made_anew() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    world.pass(60);
    world.report(world.running(web)[0].id, TaskState::Failed);
    world.settle();
    let due = world.planner.wake_at().expect("a timer");
    assert_eq!(due, world.now.after(Duration::from_secs(5)));
    world.pass(2);
    assert_eq!(world.plan(), 0, "not yet");
    assert_eq!(world.planner.wake_at(), Some(due));
    world.now = due;
    assert_eq!(world.plan(), 1);
    assert_eq!(world.planner.wake_at(), None);
}

#[test]
fn a_leader_that_was_refused_looks_at_everything() {
    let mut world = World::new(1);
    world.settle();
    let web = world.create(replicated("web", 1));
    let lost = world.planner.plan(&world.store, world.now, &mut world.ids);
    assert_eq!(lost.changes.len(), 1);
    // Nothing of it was committed, and nothing new happened.
    assert_eq!(world.plan(), 0);
    world.planner.reset();
    assert_eq!(world.plan(), 1);
    world.run();
    assert_eq!(world.running(web).len(), 1);
}

#[test]
fn everything_is_looked_at_now_and_then() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    // A task disappears behind the planner's back.
    let task = world.running(web)[0].id;
    world.apply(&[Change::delete(crate::change::ObjectKey::Task(task))]);
    let mut planner = Planner::new();
    planner.plan(&world.store, world.now, &mut world.ids);
    world.planner = planner;
    assert_eq!(world.plan(), 0, "its first plan was not committed");
    world.pass(600);
    assert_eq!(world.plan(), 1);
}

#[test]
fn a_plan_is_the_same_for_the_same_store_time_and_ids() {
    use shoal_proto::id::SequentialIds;
    let mut world = World::new(7);
    for number in 0..5 {
        world.create(replicated(&format!("s{number}"), 9));
    }
    world.create(global("g"));
    let plan = |world: &World| plan_all(&world.store, &Dirty::all(), world.now, &mut SequentialIds::default());
    let first = plan(&world);
    assert_eq!(first, plan(&world));
    world.fail_over();
    assert_eq!(first, plan(&world), "also when the store was read from a snapshot");
}

#[test]
fn a_plan_wakes_at_its_earliest_timer() {
    let mut plan = super::Plan::default();
    assert_eq!(plan.wake_at(), None);
    plan.timers.insert(Due::Placement, Timestamp::from_seconds(9));
    plan.timers.insert(Due::Service(ServiceId::from_bits(1)), Timestamp::from_seconds(4));
    assert_eq!(plan.wake_at(), Some(Timestamp::from_seconds(4)));
}

#[test]
fn up_to_date_is_the_opposite_of_dirty() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    let task = world.running(web)[0].clone();
    assert!(is_up_to_date(&world.store, &task));
    world.update(web, |spec| image(spec, "web:2"));
    assert!(!is_up_to_date(&world.store, &task));
    world.update(web, |spec| image(spec, "web:1"));
    assert!(is_up_to_date(&world.store, &task), "back to what it runs");
    world.remove(web);
    world.run();
    assert!(!is_up_to_date(&world.store, &task));
}
