//! Replicated services.

use shoal_proto::control::ControlRequest;
use shoal_proto::spec::{Availability, ServiceMode};
use shoal_proto::task_state::TaskState;

use crate::testing::{Fate, World, image, replicated, with_task};

#[test]
fn one_pass_takes_a_service_to_assigned_tasks() {
    let mut world = World::new(2);
    world.settle();
    let web = world.create(replicated("web", 3));
    assert_eq!(world.plan(), 3, "one change for each task, with its node in it");
    let lines = world.show(web);
    assert_eq!(lines.matches("running/assigned v1").count(), 3, "{lines}");
    world.run();
    assert_eq!(world.running(web).len(), 3);
    let counts: Vec<usize> = world.on_nodes(web).into_values().collect();
    assert_eq!(counts.iter().sum::<usize>(), 3);
    assert_eq!(counts.len(), 2, "spread over both nodes");
}

#[test]
fn scaling_up_fills_free_slots_and_down_takes_the_fullest_nodes() {
    let mut world = World::new(3);
    let web = world.create(replicated("web", 9));
    world.run();
    assert_eq!(world.on_nodes(web).into_values().collect::<Vec<_>>(), [3, 3, 3]);
    world.scale(web, 4);
    world.run();
    let mut counts: Vec<usize> = world.on_nodes(web).into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 2]);
    assert_eq!(world.store.tasks_of_service(web).count(), 4, "tasks of removed slots are not history");
    world.scale(web, 6);
    world.run();
    let mut slots: Vec<u64> = world.running(web).iter().map(|task| task.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots.len(), 6);
    slots.dedup();
    assert_eq!(slots.len(), 6);
    assert_eq!(world.update_state(web), "none", "scaling is no update");
}

#[test]
fn scaling_down_takes_what_does_not_run_first() {
    let mut world = World::new(1);
    let web = world.create(with_task(replicated("web", 4), |task| {
        task.resources.reservations.memory_bytes = 3 << 30;
    }));
    world.run();
    assert_eq!(world.running(web).len(), 2, "8 GiB hold two of 3 GiB");
    let running: Vec<_> = world.running(web).iter().map(|task| task.id).collect();
    world.scale(web, 2);
    world.run();
    assert_eq!(world.running(web).iter().map(|task| task.id).collect::<Vec<_>>(), running);
    assert_eq!(world.store.tasks_of_service(web).count(), 2);
}

#[test]
fn scaling_to_zero_and_back() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 2));
    world.run();
    world.scale(web, 0);
    world.run();
    assert_eq!(world.show(web), "");
    world.scale(web, 1);
    world.run();
    assert_eq!(world.show(web), "1 n1 running/running v1");
}

#[test]
fn finished_tasks_stay_finished_until_the_service_is_updated() {
    use shoal_proto::spec::{RestartCondition, RestartPolicy};
    let mut world = World::new(1);
    world.fates.insert("web:1".into(), Fate::Completes);
    world.fates.insert("web:2".into(), Fate::Completes);
    let once = with_task(replicated("once", 1), |task| {
        task.restart = Some(RestartPolicy { condition: RestartCondition::None, ..RestartPolicy::default() });
    });
    let once = world.create(once);
    world.run();
    assert_eq!(world.show(once), "1 n1 shutdown/complete v1");
    world.pass(3600);
    world.fail_over();
    world.run();
    assert_eq!(world.show(once), "1 n1 shutdown/complete v1", "also for a new leader");
    world.update(once, |spec| image(spec, "web:2"));
    world.run();
    assert_eq!(world.show(once), "1 n1 shutdown/complete v1\n1 n1 shutdown/complete v2");
    assert_eq!(world.update_state(once), "completed", "a task that is meant to end has not failed");
}

#[test]
fn equal_specs_are_shared_by_all_tasks() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 3));
    world.run();
    let spec = world.service(web).spec.task.clone();
    world.fail_over();
    assert!(world.running(web).iter().all(|task| *task.spec == *spec));
    let shared = world.service(web).spec.task.clone();
    assert!(world.running(web).iter().all(|task| std::sync::Arc::ptr_eq(&task.spec, &shared)));
}

#[test]
fn a_request_for_more_than_there_is_room_for_waits_and_says_why() {
    let mut world = World::new(3);
    world.availability(2, Availability::Drain);
    world.availability(3, Availability::Pause);
    let web = world.create(with_task(replicated("web", 5), |task| {
        task.resources.reservations.memory_bytes = 5 << 29;
    }));
    world.run();
    assert_eq!(world.running(web).len(), 3);
    let waiting: Vec<_> =
        world.runnable(web).into_iter().filter(|task| task.status.state == TaskState::Pending).collect();
    assert_eq!(waiting.len(), 2);
    for task in waiting {
        assert_eq!(
            task.status.error,
            "no suitable node: 2 nodes not available, 1 node has insufficient memory (needs 2.5 GiB, 512 MiB free)"
        );
        assert_eq!(task.status.message, "pending task scheduling");
    }
    world.availability(3, Availability::Active);
    world.run();
    assert_eq!(world.running(web).len(), 5);
    assert!(world.running(web).iter().all(|task| task.status.error.is_empty()));
}

#[test]
fn a_large_service_is_cut_into_batches() {
    let mut world = World::new(5);
    world.settle();
    let web = world.create(replicated("web", 4_500));
    let plan = world.planner.plan(&world.store, world.now, &mut world.ids);
    let batches = plan.into_batches();
    assert!(batches.len() >= 3 && batches.iter().all(|batch| batch.len() <= 2_000));
    for batch in &batches[..1] {
        world.apply(batch);
    }
    // The leader is lost here: the next one goes on from the prefix.
    world.fail_over();
    world.run();
    assert_eq!(world.running(web).len(), 4_500);
    assert_eq!(world.on_nodes(web).into_values().collect::<Vec<_>>(), [900; 5]);
}

#[test]
fn modes_and_names_cannot_be_changed() {
    let mut world = World::new(1);
    let web = world.create(replicated("web", 1));
    let service = world.service(web);
    let mut refuse = |change: fn(&mut shoal_proto::spec::ServiceSpec), expected: &str| {
        let mut spec = service.spec.clone();
        change(&mut spec);
        let version = service.meta.version;
        let failure =
            world.request(ControlRequest::UpdateService { id: web, version, spec: Box::new(spec) }).unwrap_err();
        assert_eq!(failure.message, expected);
    };
    refuse(|spec| spec.mode = ServiceMode::Global, "service mode change is not allowed");
    refuse(|spec| spec.name = "web2".into(), "renaming services is not supported");
}
