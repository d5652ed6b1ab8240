//! Tasks that end.

use std::time::Duration;

use shoal_proto::spec::{RestartCondition, RestartPolicy, ServiceSpec};
use shoal_proto::task_state::TaskState;

use crate::testing::{Fate, World, replicated, with_task};

fn restarting(policy: RestartPolicy) -> ServiceSpec {
    with_task(replicated("web", 1), |task| task.restart = Some(policy))
}

#[test]
fn a_failed_task_is_replaced_after_its_delay() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    world.pass(60);
    let task = world.running(web)[0].id;
    world.report(task, TaskState::Failed);
    world.settle();
    assert_eq!(world.show(web), "1 n1 shutdown/failed v1\n1 n1 ready/assigned v1");
    let due = world.planner.wake_at().expect("a timer");
    assert_eq!(due, world.now.after(Duration::from_secs(5)));
    world.run();
    assert_eq!(world.show(web), "1 n1 shutdown/failed v1\n1 n1 ready/ready v1", "prepared, and held");
    world.pass(4);
    world.run();
    assert_eq!(world.show(web), "1 n1 shutdown/failed v1\n1 n1 ready/ready v1");
    world.pass(1);
    world.run();
    assert_eq!(world.show(web), "1 n1 shutdown/failed v1\n1 n1 running/running v1");
}

#[test]
fn a_new_leader_keeps_to_the_delay() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    world.run();
    world.pass(60);
    world.report(world.running(web)[0].id, TaskState::Failed);
    world.settle();
    world.fail_over();
    world.pass(3);
    world.run();
    assert_eq!(world.show(web), "1 n1 shutdown/failed v1\n1 n1 ready/ready v1");
    assert_eq!(world.planner.wake_at(), Some(world.now.after(Duration::from_secs(2))));
    world.pass(2);
    world.run();
    assert_eq!(world.running(web).len(), 1);
}

#[test]
fn attempts_are_counted_across_leaders() {
    let policy = RestartPolicy { max_attempts: 2, delay: Duration::ZERO, ..RestartPolicy::default() };
    let mut world = World::new(1);
    world.fates.insert("web:1".into(), Fate::Fails);
    let web = world.create(restarting(policy));
    for _ in 0..20 {
        world.run();
        world.fail_over();
        world.pass(60);
    }
    world.run();
    assert_eq!(
        world.show(web),
        "1 n1 shutdown/failed v1\n1 n1 shutdown/failed v1\n1 n1 shutdown/failed v1",
        "the first and two restarts"
    );
}

#[test]
fn on_failure_leaves_success_alone() {
    let policy = RestartPolicy { condition: RestartCondition::OnFailure, ..RestartPolicy::default() };
    let mut world = World::new(1);
    world.fates.insert("web:1".into(), Fate::Completes);
    let web = world.create(restarting(policy));
    world.run();
    world.pass(100);
    world.run();
    assert_eq!(world.show(web), "1 n1 shutdown/complete v1");
}

#[test]
fn a_crash_loop_backs_off_and_shows_it() {
    let mut world = World::new(1);
    world.fates.insert("web:1".into(), Fate::Fails);
    let web = world.create(replicated("web", 1));
    world.run();
    let mut delays = Vec::new();
    for _ in 0..6 {
        let held = world.runnable(web).pop().expect("the replacement");
        delays.push(held.not_before.since(held.meta.created_at).as_secs());
        if held.restart.crash_streak >= 2 {
            let started = world.store.tasks_of_service(web).count();
            assert!(started > 1);
        }
        world.now = held.not_before;
        world.run();
    }
    assert_eq!(delays, [5, 10, 20, 40, 60, 60]);
}

#[test]
fn the_words_of_a_crash_loop_stay_until_the_agent_takes_over() {
    let mut world = World::new(1);
    world.fates.insert("web:1".into(), Fate::Rejected);
    let web = world.create(replicated("web", 1));
    world.settle();
    world.agents();
    world.settle();
    world.agents();
    world.settle();
    world.pass(5);
    world.settle();
    let message = world.runnable(web)[0].status.message.clone();
    assert_eq!(
        message,
        "crash loop: ended 2 times in a row within 10 s of its start, waiting 10 s before the next start"
    );
    assert_eq!(world.runnable(web)[0].status.state, TaskState::Assigned);
}

#[test]
fn rejected_tasks_are_tried_again_with_back_off() {
    let mut world = World::new(2);
    world.fates.insert("web:1".into(), Fate::Rejected);
    let web = world.create(replicated("web", 1));
    world.run();
    world.pass(5);
    world.run();
    world.fates.clear();
    world.pass(10);
    world.run();
    world.pass(60);
    world.run();
    assert_eq!(world.running(web).len(), 1);
}

#[test]
fn history_is_limited_per_slot() {
    let mut world = World::new(1);
    world.fates.insert("web:1".into(), Fate::Fails);
    let web = world.create(with_task(replicated("web", 2), |task| {
        task.restart = Some(RestartPolicy { delay: Duration::ZERO, ..RestartPolicy::default() });
    }));
    for _ in 0..12 {
        world.run();
        world.pass(61);
    }
    for slot in [1, 2] {
        assert_eq!(world.store.tasks_of_slot(web, slot).count(), 5, "{}", world.show(web));
    }
}

#[test]
fn a_history_limit_of_zero_keeps_only_what_runs() {
    let mut world = World::new(1);
    let mut cluster = (**world.store.cluster().expect("a cluster")).clone();
    cluster.spec.task_history_limit = 0;
    world.apply(&[crate::change::Change::update(cluster)]);
    let web = world.create(replicated("web", 1));
    world.run();
    world.pass(60);
    world.report(world.running(web)[0].id, TaskState::Failed);
    world.run();
    world.pass(5);
    world.run();
    assert_eq!(world.show(web), "1 n1 running/running v1");
}

#[test]
fn a_replacement_waits_for_a_task_that_does_not_stop_but_not_for_ever() {
    let mut world = World::new(2);
    world.stubborn = true;
    let web = world.create(replicated("web", 1));
    world.run();
    let node = world.running(web)[0].node_id.expect("a node").bits();
    world.availability(node, shoal_proto::spec::Availability::Drain);
    world.run();
    let other = 3 - node;
    assert_eq!(world.show(web), format!("1 n{node} shutdown/running v1\n1 n{other} ready/ready v1"));
    world.pass(69);
    world.run();
    assert_eq!(world.running(web).len(), 0);
    world.pass(1);
    world.run();
    assert_eq!(world.show(web), format!("1 n{node} shutdown/running v1\n1 n{other} running/running v1"));
}

#[test]
fn reports_never_go_back_and_only_the_tasks_node_may_report() {
    use shoal_proto::control::{ControlRequest, Report};
    use shoal_proto::id::NodeId;
    let mut world = World::new(2);
    let web = world.create(replicated("web", 1));
    world.run();
    let task = world.running(web)[0].clone();
    let other = NodeId::from_bits(3 - task.node_id.expect("a node").bits());
    let status = |state| crate::testing::status(state, world.now);
    let reports = vec![
        Report::Task { node: other, id: task.id, status: status(TaskState::Failed) },
        Report::Task { node: task.node_id.expect("a node"), id: task.id, status: status(TaskState::Preparing) },
        Report::Task { node: task.node_id.expect("a node"), id: task.id, status: status(TaskState::Orphaned) },
        Report::Task { node: other, id: shoal_proto::id::TaskId::from_bits(12), status: status(TaskState::Running) },
    ];
    world.request(ControlRequest::Report(reports)).expect("accepted");
    assert_eq!(world.show(web).matches("running/running").count(), 1);
}
