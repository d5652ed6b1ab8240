//! Updates and rollbacks.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::control::ControlRequest;
use shoal_proto::error::ErrorKind;
use shoal_proto::id::ServiceId;
use shoal_proto::spec::{EndpointMode, FailureAction, ServiceSpec, TaskSpec, UpdateConfig, UpdateOrder};
use shoal_proto::task_state::TaskState;

use crate::testing::{Fate, World, image, port, replicated};

fn config() -> UpdateConfig {
    UpdateConfig { monitor: Duration::ZERO, ..UpdateConfig::default() }
}

fn with(update: UpdateConfig, replicas: u64) -> ServiceSpec {
    ServiceSpec { update: Some(update), rollback: Some(config()), ..replicated("web", replicas) }
}

fn started(update: UpdateConfig, replicas: u64) -> (World, ServiceId) {
    let mut world = World::new(3);
    let web = world.create(with(update, replicas));
    world.run();
    world.pass(100);
    (world, web)
}

fn task(spec: &mut ServiceSpec) -> &mut TaskSpec {
    Arc::make_mut(&mut spec.task)
}

fn message(world: &World, id: ServiceId) -> String {
    world.service(id).update_status.clone().map(|status| status.message).unwrap_or_default()
}

#[test]
fn stop_first_goes_slot_by_slot() {
    let (mut world, web) = started(config(), 3);
    world.update(web, |spec| image(spec, "web:2"));
    world.settle();
    assert_eq!(world.update_state(web), "updating");
    assert_eq!(message(&world, web), "update in progress");
    let mut most = 0;
    for _ in 0..20 {
        let running = world.running(web).len();
        assert!(running >= 2, "{}", world.show(web));
        most = most.max(3 - running);
        world.turn();
    }
    assert_eq!(most, 1);
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 2).count(), 3);
    let status = world.service(web).update_status.clone().expect("a status");
    assert_eq!((status.state.as_str(), status.message.as_str()), ("completed", "update completed"));
    assert_eq!((status.total_slots, status.failed_slots), (3, 0));
    assert_eq!(status.completed_at, world.now);
}

#[test]
fn the_new_task_is_prepared_but_waits_for_the_old_one_to_stop() {
    let (mut world, web) = started(config(), 1);
    world.stubborn = true;
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    let lines: Vec<String> = world.show(web).lines().map(|line| line[5..].to_owned()).collect();
    assert_eq!(lines, ["shutdown/running v1", "ready/ready v2"]);
    world.stubborn = false;
    world.run();
    assert_eq!(world.running(web).len(), 1);
}

#[test]
fn parallelism_bounds_what_is_away_and_zero_is_all() {
    for (parallelism, expected) in [(2, 2), (0, 5), (9, 5)] {
        let (mut world, web) = started(UpdateConfig { parallelism, ..config() }, 5);
        world.update(web, |spec| image(spec, "web:2"));
        world.settle();
        assert_eq!(world.show(web).matches("v2").count(), expected);
        world.run();
        assert_eq!(world.update_state(web), "completed");
    }
}

#[test]
fn start_first_keeps_the_old_task_until_the_new_one_runs() {
    let (mut world, web) = started(UpdateConfig { order: UpdateOrder::StartFirst, ..config() }, 2);
    world.update(web, |spec| image(spec, "web:2"));
    for _ in 0..10 {
        world.settle();
        assert!(world.running(web).len() >= 2, "{}", world.show(web));
        assert!(world.runnable(web).len() <= 3);
        world.agents();
    }
    world.run();
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 2).count(), 2);
    assert_eq!(world.runnable(web).len(), 2);
}

#[test]
fn the_delay_lies_between_batches() {
    let (mut world, web) = started(UpdateConfig { delay: Duration::from_secs(10), ..config() }, 3);
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    assert_eq!(world.show(web).matches("running/running v2").count(), 1);
    assert_eq!(world.planner.wake_at(), Some(world.now.after(Duration::from_secs(10))));
    world.pass(9);
    world.run();
    assert_eq!(world.show(web).matches("running/running v2").count(), 1);
    world.pass(1);
    world.run();
    assert_eq!(world.show(web).matches("running/running v2").count(), 2);
    // A new leader knows how long it has to wait still.
    world.pass(4);
    world.fail_over();
    world.run();
    assert_eq!(world.show(web).matches("running/running v2").count(), 2);
    world.pass(6);
    world.run();
    assert_eq!(world.show(web).matches("running/running v2").count(), 3);
    world.pass(10);
    world.run();
    assert_eq!(world.update_state(web), "completed");
}

#[test]
fn an_update_is_complete_when_the_last_task_was_watched() {
    let (mut world, web) = started(UpdateConfig { monitor: Duration::from_secs(5), ..config() }, 2);
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 2).count(), 2);
    assert_eq!(world.update_state(web), "updating");
    world.pass(5);
    world.run();
    assert_eq!(world.update_state(web), "completed");
}

#[test]
fn a_missing_image_pauses_the_update() {
    let (mut world, web) = started(config(), 4);
    world.fates.insert("web:2".into(), Fate::Rejected);
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    assert_eq!(world.update_state(web), "paused");
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 1).count(), 3);
    let culprit = world.store.tasks_of_service(web).find(|task| task.status.state == TaskState::Rejected).expect("one");
    assert_eq!(
        message(&world, web),
        format!("update paused due to failure or early termination of task {}", culprit.id)
    );
    world.pass(1000);
    world.run();
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 1).count(), 3, "it stays paused");
    world.update(web, |spec| image(spec, "web:3"));
    world.run();
    assert_eq!(world.update_state(web), "completed");
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 3).count(), 4);
}

#[test]
fn an_early_failure_counts_and_a_late_one_does_not() {
    for (after_s, expected) in [(5, "paused"), (6, "updating")] {
        let update = UpdateConfig { monitor: Duration::from_secs(5), delay: Duration::from_secs(3600), ..config() };
        let (mut world, web) = started(update, 2);
        world.update(web, |spec| image(spec, "web:2"));
        world.run();
        let new = world.running(web).into_iter().find(|task| task.spec_version == 2).expect("a new one");
        world.pass(after_s);
        world.report(new.id, TaskState::Failed);
        world.run();
        assert_eq!(world.update_state(web), expected, "after {after_s} s");
    }
}

#[test]
fn the_failure_ratio_is_of_the_slots_to_change() {
    let update = UpdateConfig { max_failure_ratio: 0.25, parallelism: 1, ..config() };
    let (mut world, web) = started(update, 4);
    world.fates.insert("web:2".into(), Fate::Rejected);
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    assert_eq!(world.update_state(web), "paused");
    let status = world.service(web).update_status.clone().expect("a status");
    assert_eq!((status.failed_slots, status.total_slots), (2, 4), "a quarter is tolerated, half is not");
    assert_eq!(world.running(web).len(), 2);
}

#[test]
fn continue_goes_on_whatever_happens() {
    let update = UpdateConfig { failure_action: FailureAction::Continue, ..config() };
    let (mut world, web) = started(update, 3);
    world.fates.insert("web:2".into(), Fate::Rejected);
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    assert_eq!(world.runnable(web).iter().filter(|task| task.spec_version == 2).count(), 3);
    assert_eq!(world.update_state(web), "completed");
    assert_eq!(world.service(web).update_status.as_ref().map(|status| status.failed_slots), Some(3));
}

#[test]
fn a_failed_update_rolls_back_by_itself() {
    let update = UpdateConfig { failure_action: FailureAction::Rollback, ..config() };
    let (mut world, web) = started(update, 4);
    let before = world.running(web);
    world.fates.insert("web:2".into(), Fate::Fails);
    world.update(web, |spec| image(spec, "web:2"));
    world.settle();
    world.agents();
    world.settle();
    world.agents();
    world.agents();
    world.settle();
    assert_eq!(world.update_state(web), "rollback_started");
    assert!(message(&world, web).starts_with("update rolled back due to failure or early termination of task "));
    assert!(world.service(web).previous_spec.is_none(), "as in Swarm");
    world.run();
    assert_eq!(world.update_state(web), "rollback_completed", "{} {:?}", world.show(web), world.planner.wake_at());
    assert_eq!(message(&world, web), "rollback completed");
    assert_eq!(world.service(web).spec.task.container.image, "web:1");
    assert_eq!(world.running(web).len(), 4);
    let kept = world.running(web).iter().filter(|task| before.iter().any(|old| old.id == task.id)).count();
    assert_eq!(kept, 3, "only the slot that failed was touched");
    let version = world.service(web).meta.version;
    let failure = world.request(ControlRequest::RollbackService { id: web, version }).expect_err("nothing there");
    assert_eq!(failure.message, format!("service {web} does not have a previous spec"));
}

#[test]
fn a_rollback_that_fails_pauses() {
    let update = UpdateConfig { failure_action: FailureAction::Rollback, ..config() };
    let (mut world, web) = started(update, 3);
    world.fates.insert("web:2".into(), Fate::Rejected);
    world.fates.insert("web:1".into(), Fate::Rejected);
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    assert_eq!(world.update_state(web), "rollback_paused");
    assert!(message(&world, web).starts_with("rollback paused due to failure or early termination of task "));
}

#[test]
fn without_a_previous_spec_rollback_is_a_pause() {
    let update = UpdateConfig { failure_action: FailureAction::Rollback, ..config() };
    let (mut world, web) = started(update, 1);
    world.fates.insert("web:2".into(), Fate::Rejected);
    world.update(web, |spec| image(spec, "web:2"));
    let mut service = (*world.service(web)).clone();
    service.previous_spec = None;
    world.apply(&[crate::change::Change::update(service)]);
    world.run();
    assert_eq!(world.update_state(web), "paused");
}

#[test]
fn a_manual_rollback_swaps_the_specs() {
    let (mut world, web) = started(config(), 2);
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    let service = world.service(web);
    world.request(ControlRequest::RollbackService { id: web, version: service.meta.version }).expect("accepted");
    assert_eq!(message(&world, web), "manually requested rollback");
    world.settle();
    assert_eq!(world.update_state(web), "rollback_started");
    assert_eq!(world.service(web).update_status.as_ref().map(|status| status.total_slots), Some(2));
    world.run();
    assert_eq!(world.update_state(web), "rollback_completed");
    let service = world.service(web);
    assert_eq!(service.spec.task.container.image, "web:1");
    assert_eq!(service.previous_spec.as_ref().map(|spec| spec.task.container.image.as_str()), Some("web:2"));
    assert!(service.spec_version > 2, "a number is never used again");
    // And forth again.
    world.request(ControlRequest::RollbackService { id: web, version: service.meta.version }).expect("accepted");
    world.run();
    assert_eq!(world.service(web).spec.task.container.image, "web:2");
    assert_eq!(world.running(web).len(), 2);
}

#[test]
fn a_rollback_uses_its_own_config() {
    let (mut world, web) = started(UpdateConfig { parallelism: 1, ..config() }, 3);
    world.update(web, |spec| {
        image(spec, "web:2");
        spec.rollback = Some(UpdateConfig { parallelism: 0, ..config() });
    });
    world.run();
    // The config that counts is that of the spec gone back to.
    world.update(web, |spec| {
        image(spec, "web:3");
        spec.rollback = Some(config());
    });
    world.run();
    let version = world.service(web).meta.version;
    world.request(ControlRequest::RollbackService { id: web, version }).expect("accepted");
    world.settle();
    assert_eq!(world.show(web).matches(&format!("ready/assigned v{}", world.service(web).spec_version)).count(), 3);
}

#[test]
fn an_update_survives_leaders_at_every_step() {
    let (mut world, web) = started(UpdateConfig { parallelism: 2, ..config() }, 6);
    world.update(web, |spec| image(spec, "web:2"));
    for _ in 0..30 {
        world.plan();
        world.fail_over();
        assert!(world.running(web).len() >= 4, "{}", world.show(web));
        world.agents();
    }
    world.run();
    assert_eq!(world.update_state(web), "completed");
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 2).count(), 6);
}

#[test]
fn a_new_update_in_the_middle_of_one_takes_over() {
    let (mut world, web) = started(config(), 4);
    world.update(web, |spec| image(spec, "web:2"));
    world.turn();
    world.turn();
    world.update(web, |spec| image(spec, "web:3"));
    world.run();
    assert_eq!(world.running(web).iter().filter(|task| task.spec.container.image == "web:3").count(), 4);
    assert_eq!(
        world.service(web).previous_spec.as_ref().map(|spec| spec.task.container.image.clone()),
        Some("web:2".into())
    );
}

#[test]
fn a_start_first_update_that_is_repeated_goes_on_where_it_was() {
    let (mut world, web) = started(UpdateConfig { order: UpdateOrder::StartFirst, ..config() }, 2);
    world.update(web, |spec| image(spec, "web:2"));
    world.settle();
    world.pass(1);
    let on_its_way: Vec<_> = world.runnable(web).iter().filter(|t| t.spec_version == 2).map(|t| t.id).collect();
    world.update(web, |spec| {
        spec.labels.insert("a".into(), "b".into());
    });
    world.settle();
    assert_eq!(world.update_state(web), "updating");
    assert_eq!(world.runnable(web).len(), 3, "the one on its way is not replaced");
    world.run();
    assert_eq!(world.update_state(web), "completed");
    assert!(world.running(web).iter().all(|task| task.spec_version == 2));
    assert!(world.running(web).iter().any(|task| on_its_way.contains(&task.id)));
}

#[test]
fn overtaken_start_first_updates_leave_one_old_task() {
    let (mut world, web) = started(UpdateConfig { order: UpdateOrder::StartFirst, ..config() }, 1);
    for number in 2..6 {
        world.update(web, |spec| image(spec, &format!("web:{number}")));
        world.settle();
        assert!(world.runnable(web).len() <= 2, "{}", world.show(web));
    }
    world.run();
    assert_eq!(world.show(web).matches("running/running v5").count(), 1);
}

#[test]
fn a_task_that_never_gets_to_start_is_a_failure_in_the_end() {
    let (mut world, web) = started(config(), 3);
    world.fates.insert("web:2".into(), Fate::Hangs);
    world.update(web, |spec| image(spec, "web:2"));
    world.run();
    assert_eq!(world.update_state(web), "updating");
    assert_eq!(world.planner.wake_at(), Some(world.now.after(Duration::from_secs(600))));
    world.pass(600);
    world.run();
    assert_eq!(world.update_state(web), "paused");
    assert_eq!(world.running(web).len(), 2);
}

#[test]
fn scaling_in_an_update_is_no_obstacle() {
    let (mut world, web) = started(config(), 2);
    world.update(web, |spec| {
        image(spec, "web:2");
        spec.mode = shoal_proto::spec::ServiceMode::Replicated { replicas: 4 };
    });
    world.settle();
    assert_eq!(world.service(web).update_status.as_ref().map(|status| status.total_slots), Some(2));
    world.run();
    assert_eq!(world.running(web).iter().filter(|task| task.spec_version == 2).count(), 4);
    assert_eq!(world.update_state(web), "completed");
}

#[test]
fn what_restarts_tasks_and_what_does_not() {
    let touches = |change: fn(&mut ServiceSpec)| {
        let (mut world, web) = started(config(), 1);
        let before = world.running(web)[0].id;
        world.update(web, change);
        world.run();
        assert_eq!(world.running(web).len(), 1);
        world.running(web)[0].id != before
    };
    assert!(touches(|spec| image(spec, "web:2")));
    assert!(touches(|spec| task(spec).force_update += 1));
    assert!(touches(|spec| task(spec).container.env.push("A=1".into())));
    assert!(touches(|spec| task(spec).resources.limits.pids = 5));
    assert!(touches(|spec| spec.endpoint.ports.push(port(8080, 80))));
    assert!(touches(|spec| spec.endpoint.mode = EndpointMode::Dnsrr));
    assert!(!touches(|spec| {
        spec.labels.insert("a".into(), "b".into());
    }));
    assert!(!touches(|spec| spec.update = None));
    assert!(!touches(|spec| {
        task(spec).placement.constraints = vec!["node.platform.os==linux".into()];
    }));
    assert!(!touches(|spec| task(spec).placement.spread = vec!["node.labels.a".into()]));
}

#[test]
fn a_constraint_kept_through_an_update_acts_when_the_node_changes() {
    let mut world = World::new(2);
    world.label(1, "disk", "ssd");
    world.label(2, "disk", "ssd");
    let web = world.create(with(config(), 1));
    world.run();
    let node = world.running(web)[0].node_id.expect("a node").bits();
    world.update(web, |spec| {
        task(spec).placement.constraints = vec!["node.labels.disk==ssd".into()];
    });
    world.run();
    assert_eq!(world.running(web)[0].spec_version, 1);
    world.label(node, "disk", "none");
    world.run();
    assert_eq!(world.on_nodes(web).into_iter().collect::<Vec<_>>(), [(3 - node, 1)]);
    assert_eq!(world.running(web)[0].spec_version, 2);
}

#[test]
fn stale_updates_are_refused() {
    let (mut world, web) = started(config(), 1);
    let service = world.service(web);
    world.update(web, |spec| image(spec, "web:2"));
    let request =
        ControlRequest::UpdateService { id: web, version: service.meta.version, spec: Box::new(service.spec.clone()) };
    let failure = world.request(request).expect_err("stale");
    assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::StaleVersion, "update out of sequence"));
}
