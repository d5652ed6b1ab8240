//! The store against a model, its guards, and its snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use shoal_proto::id::{ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use shoal_proto::object::{
    Cluster, Config, Network, NetworkAllocation, NetworkAttachment, Node, Secret, Service, Task, TaskStatus,
};
use shoal_proto::spec::{
    ClusterSpec, ConfigReference, ConfigSpec, ContainerSpec, Labels, LogDriver, NetworkSpec, SecretSpec, ServiceSpec,
    TaskSpec,
};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use super::index::Index;
use super::{Restore, RestoreError, Store};
use crate::change::{ApplyError, Change, Expect, NewTask, ObjectKey, ServicePatch, TaskPatch};

/// The indexes are what they would be if they were made anew from the objects.
pub(crate) fn check_indexes(store: &Store) {
    let mut fresh = Index::default();
    for network in store.networks() {
        fresh.network_changed(None, Some(network)).expect("networks fit");
    }
    for node in store.nodes() {
        fresh.node_changed(None, Some(node)).expect("nodes fit");
    }
    for secret in store.secrets() {
        fresh.secret_changed(None, Some(secret)).expect("secrets fit");
    }
    for config in store.configs() {
        fresh.config_changed(None, Some(config)).expect("configs fit");
    }
    for service in store.services() {
        fresh.service_changed(None, Some(service)).expect("services fit");
    }
    for task in store.tasks() {
        fresh.task_changed(None, Some(task)).expect("tasks fit");
    }
    for attachment in store.attachments() {
        fresh.attachment_changed(None, Some(attachment)).expect("attachments fit");
    }
    // Where to go on from is no property of the objects.
    fresh.port_cursor = store.index.port_cursor;
    fresh.vni_cursor = store.index.vni_cursor;
    fresh.subnet_cursor = store.index.subnet_cursor;
    assert_eq!(fresh, store.index);
}

fn apply(store: &mut Store, changes: &[Change]) -> Result<(), ApplyError> {
    store.apply(store.version() + 1, Timestamp::from_seconds(100), changes).map(|_| ())
}

fn service(bits: u128, name: &str) -> Service {
    Service {
        id: ServiceId::from_bits(bits),
        spec: ServiceSpec { name: name.into(), ..ServiceSpec::default() },
        spec_version: 1,
        ..Service::default()
    }
}

fn new_task(bits: u128, service: u128) -> Change {
    Change::NewTask(Box::new(NewTask {
        id: TaskId::from_bits(bits),
        service_id: ServiceId::from_bits(service),
        slot: 1,
        spec_version: 1,
        desired_state: TaskState::Running,
        ..NewTask::default()
    }))
}

fn patch(bits: u128, patch: TaskPatch) -> Change {
    Change::Task { id: TaskId::from_bits(bits), patch: Box::new(patch) }
}

fn in_state(state: TaskState) -> TaskPatch {
    TaskPatch { status: Some(TaskStatus { state, ..TaskStatus::default() }), ..TaskPatch::default() }
}

#[test]
fn a_batch_is_applied_whole_or_not_at_all() {
    let mut store = Store::new();
    apply(&mut store, &[Change::create(service(1, "web"))]).expect("fits");
    let before = store.clone();
    let batch = [Change::create(service(2, "api")), Change::create(service(3, "web"))];
    assert_eq!(apply(&mut store, &batch), Err(ApplyError::NameTaken { kind: "service".into(), name: "web".into() }));
    assert_eq!(store.version(), before.version());
    assert!(store.service(ServiceId::from_bits(2)).is_none());
    assert_eq!(store.index, before.index);
    assert_eq!(store.changes_since(1), Some(Vec::new()));
    store.skip_to(2);
    assert_eq!(store.version(), 2);
    assert_eq!(store.apply(2, Timestamp::ZERO, &[]), Err(ApplyError::OldEntry { version: 2, at: 2 }));
}

#[test]
fn a_task_carries_what_its_spec_leaves_to_cluster_and_service() {
    let mut store = Store::new();
    let default = Some(LogDriver { name: "none".into(), ..LogDriver::default() });
    let cluster = Cluster {
        spec: ClusterSpec { default_log_driver: default.clone(), ..ClusterSpec::default() },
        ..Cluster::default()
    };
    let labels = Labels::from([("tier".to_owned(), "front".to_owned())]);
    let mut plain = service(1, "plain");
    plain.spec.labels = labels.clone();
    let mut particular = service(2, "particular");
    particular.spec.labels = labels.clone();
    let task = Arc::make_mut(&mut particular.spec.task);
    task.log_driver = Some(LogDriver { name: "json-file".into(), ..LogDriver::default() });
    task.container.env = vec!["TIER={{.Service.Labels.tier}}".to_owned()];
    // Its own texts say nothing, but a file of it may.
    let mut filled = service(3, "filled");
    filled.spec.labels = labels.clone();
    let page = ConfigSpec { name: "page".into(), is_template: true, ..ConfigSpec::default() };
    let page = Config { id: ConfigId::from_bits(9), spec: page, ..Config::default() };
    let reference = ConfigReference { id: page.id, ..ConfigReference::default() };
    Arc::make_mut(&mut filled.spec.task).container.configs = vec![reference];
    let made = [
        Change::create(cluster),
        Change::create(page),
        Change::create(plain),
        Change::create(particular),
        Change::create(filled),
    ];
    apply(&mut store, &made).expect("fits");
    apply(&mut store, &[new_task(11, 1), new_task(12, 2), new_task(13, 3)]).expect("fits");
    let carried = |store: &Store, bits| {
        let task = store.task(TaskId::from_bits(bits)).expect("task");
        (task.default_log_driver.as_deref().cloned(), task.service_labels.as_deref().cloned())
    };
    assert_eq!(carried(&store, 11), (default, None));
    assert_eq!(carried(&store, 12), (None, Some(labels.clone())));
    assert_eq!(carried(&store, 13).1, Some(labels));
    let restored = restored(&store);
    assert_eq!(carried(&restored, 11), carried(&store, 11));
    assert_eq!(carried(&restored, 12), carried(&store, 12));
}

#[test]
fn guards_name_the_object() {
    let mut store = Store::new();
    let key = ObjectKey::Service(ServiceId::from_bits(1));
    assert_eq!(apply(&mut store, &[Change::update(service(1, "web"))]), Err(ApplyError::Missing { key }));
    apply(&mut store, &[Change::create(service(1, "web"))]).expect("fits");
    assert_eq!(apply(&mut store, &[Change::create(service(1, "web"))]), Err(ApplyError::Exists { key }));
    let mut stale = service(1, "web");
    stale.meta.version = 7;
    assert_eq!(apply(&mut store, &[Change::update(stale)]), Err(ApplyError::Stale { key, expected: 7, found: 1 }));
    let patch = |version| Change::Service {
        id: ServiceId::from_bits(1),
        patch: Box::new(ServicePatch { update_status: Some(Default::default()), ..Default::default() }),
        expect: Expect::Version(version),
    };
    apply(&mut store, &[patch(1)]).expect("fits");
    assert_eq!(apply(&mut store, &[patch(1)]), Err(ApplyError::Stale { key, expected: 1, found: 2 }));
    assert_eq!(
        apply(&mut store, &[Change::Delete { key, expect: Expect::Version(1) }]),
        Err(ApplyError::Stale { key, expected: 1, found: 2 })
    );
    apply(&mut store, &[Change::delete(key), Change::delete(key)]).expect("deleting what is gone is nothing");
}

#[test]
fn a_task_is_made_only_of_the_spec_it_was_planned_for() {
    let mut store = Store::new();
    apply(&mut store, &[Change::create(service(1, "web")), new_task(10, 1)]).expect("fits");
    let spec = &store.service(ServiceId::from_bits(1)).expect("it").spec.task;
    assert!(Arc::ptr_eq(spec, &store.task(TaskId::from_bits(10)).expect("it").spec));
    let mut updated = service(1, "web");
    updated.spec_version = 2;
    apply(&mut store, &[Change::put(updated)]).expect("fits");
    let key = ObjectKey::Service(ServiceId::from_bits(1));
    assert_eq!(apply(&mut store, &[new_task(11, 1)]), Err(ApplyError::Stale { key, expected: 1, found: 2 }));
    let gone = ObjectKey::Service(ServiceId::from_bits(9));
    assert_eq!(apply(&mut store, &[new_task(11, 9)]), Err(ApplyError::Missing { key: gone }));
    assert_eq!(
        apply(&mut store, &[Change::delete(key)]),
        Err(ApplyError::InUse { key, user: ObjectKey::Task(TaskId::from_bits(10)) })
    );
}

#[test]
fn states_only_go_forward() {
    let mut store = Store::new();
    apply(&mut store, &[Change::create(service(1, "web")), new_task(10, 1)]).expect("fits");
    let id = TaskId::from_bits(10);
    let state = |store: &Store| store.task(id).map(|task| task.status.state);
    apply(&mut store, &[patch(10, in_state(TaskState::Running))]).expect("fits");
    assert_eq!(store.task(id).map(|task| task.running_since), Some(Timestamp::from_seconds(100)));
    apply(&mut store, &[patch(10, in_state(TaskState::Preparing))]).expect("dropped");
    assert_eq!(state(&store), Some(TaskState::Running));
    apply(&mut store, &[patch(10, in_state(TaskState::Failed))]).expect("fits");
    assert_eq!(store.task(id).map(|task| task.ended_at), Some(Timestamp::from_seconds(100)));
    apply(&mut store, &[patch(10, in_state(TaskState::Orphaned))]).expect("dropped");
    assert_eq!(state(&store), Some(TaskState::Failed), "an end is final");
    let desired = |state| TaskPatch { desired_state: Some(state), ..TaskPatch::default() };
    apply(&mut store, &[patch(10, desired(TaskState::Remove))]).expect("fits");
    apply(&mut store, &[patch(10, desired(TaskState::Running))]).expect("dropped");
    assert_eq!(store.task(id).map(|task| task.desired_state), Some(TaskState::Remove));
    let before = store.version();
    apply(&mut store, &[patch(99, in_state(TaskState::Running))]).expect("a late report of a reaped task");
    assert_eq!(store.changes_since(before), Some(Vec::new()));
}

fn attached(bits: u128, addr: &str) -> Change {
    let attachment =
        NetworkAttachment { network: NetworkId::from_bits(5), addr: addr.parse().ok(), aliases: Vec::new() };
    patch(bits, TaskPatch { networks: Some(vec![attachment]), ..TaskPatch::default() })
}

fn network(bits: u128, name: &str, vni: u32) -> Network {
    Network {
        id: NetworkId::from_bits(bits),
        spec: NetworkSpec { name: name.into(), driver: "overlay".into(), ..NetworkSpec::default() },
        allocation: Some(NetworkAllocation {
            subnet: "10.1.0.0/24".parse().expect("a subnet"),
            gateway: "10.1.0.1".parse().expect("an address"),
            vni,
        }),
        ..Network::default()
    }
}

#[test]
fn nothing_is_handed_out_twice_whoever_asks() {
    let mut store = Store::new();
    let batch = [
        Change::create(network(5, "net", 4096)),
        Change::create(service(1, "web")),
        new_task(10, 1),
        new_task(11, 1),
        attached(10, "10.1.0.2/24"),
    ];
    apply(&mut store, &batch).expect("fits");
    let taken = |addr: &str| ApplyError::AddressTaken {
        network: NetworkId::from_bits(5),
        addr: addr.parse().expect("an address"),
    };
    assert_eq!(apply(&mut store, &[attached(11, "10.1.0.2/24")]), Err(taken("10.1.0.2")));
    assert_eq!(apply(&mut store, &[attached(11, "10.1.0.1/24")]), Err(taken("10.1.0.1")), "the gateway");
    assert_eq!(apply(&mut store, &[Change::create(network(6, "net2", 4096))]), Err(ApplyError::VniTaken { vni: 4096 }));
    let key = ObjectKey::Network(NetworkId::from_bits(5));
    assert_eq!(
        apply(&mut store, &[Change::delete(key)]),
        Err(ApplyError::InUse { key, user: ObjectKey::Task(TaskId::from_bits(10)) })
    );
    // Told to stop is not stopped.
    let desired = TaskPatch { desired_state: Some(TaskState::Remove), ..TaskPatch::default() };
    apply(&mut store, &[patch(10, desired)]).expect("fits");
    assert_eq!(apply(&mut store, &[attached(11, "10.1.0.2/24")]), Err(taken("10.1.0.2")));
    apply(&mut store, &[patch(10, in_state(TaskState::Shutdown))]).expect("fits");
    apply(&mut store, &[attached(11, "10.1.0.2/24")]).expect("free now");
    check_indexes(&store);
}

#[test]
fn a_snapshot_is_not_touched_by_what_comes_after() {
    let mut store = Store::new();
    apply(&mut store, &[Change::create(service(1, "web")), new_task(10, 1)]).expect("fits");
    let snapshot = store.clone();
    apply(&mut store, &[patch(10, in_state(TaskState::Running)), Change::create(service(2, "api"))]).expect("fits");
    assert_eq!(snapshot.services().len(), 1);
    assert_eq!(snapshot.task(TaskId::from_bits(10)).map(|task| task.status.state), Some(TaskState::New));
    let events = store.changes_since(snapshot.version()).expect("known");
    assert_eq!(
        events.iter().filter_map(|event| event.key()).collect::<Vec<_>>(),
        [ObjectKey::Task(TaskId::from_bits(10)), ObjectKey::Service(ServiceId::from_bits(2)),]
    );
    assert!(store.changes_since(99).is_none(), "that is another history");
}

fn restored(store: &Store) -> Store {
    let mut restore = Restore::new();
    for chunk in store.snapshot() {
        restore.push(&chunk).expect("a chunk");
    }
    restore.finish().expect("a store")
}

#[test]
fn a_large_snapshot_comes_back_with_shared_specs() {
    let mut store = Store::new();
    let spec = TaskSpec {
        container: ContainerSpec { env: vec!["A=b".repeat(1_000)], ..ContainerSpec::default() },
        ..TaskSpec::default()
    };
    let mut web = service(1, "web");
    web.spec.task = Arc::new(spec);
    let mut changes = vec![Change::create(web), Change::create(network(5, "net", 4096))];
    changes.extend((100..2_600).map(|bits| new_task(bits, 1)));
    apply(&mut store, &changes).expect("fits");
    let bytes: usize = store.snapshot().map(|chunk| chunk.len()).sum();
    assert!(bytes < 2_500 * 700, "{bytes} bytes: each chunk carries a spec once");
    let copy = restored(&store);
    assert_eq!(copy.version(), store.version());
    assert_eq!(copy.index, store.index);
    assert!(copy.tasks().eq(store.tasks()));
    let spec = &copy.service(ServiceId::from_bits(1)).expect("it").spec.task;
    assert!(copy.tasks().all(|task| Arc::ptr_eq(&task.spec, spec)));
    assert!(copy.changes_since(0).is_none(), "the log begins anew");
    assert_eq!(copy.changes_since(copy.version()), Some(Vec::new()));
}

#[test]
fn broken_snapshots_are_refused() {
    let mut store = Store::new();
    apply(&mut store, &[Change::create(service(1, "web")), new_task(10, 1)]).expect("fits");
    let chunks: Vec<Vec<u8>> = store.snapshot().collect();
    for missing in 0..chunks.len() {
        let mut restore = Restore::new();
        let mut kept = chunks.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, chunk)| chunk);
        let outcome = kept.try_for_each(|chunk| restore.push(chunk)).and_then(|()| restore.finish().map(|_| ()));
        assert!(outcome.is_err(), "chunk {missing} was not missed");
    }
    let mut restore = Restore::new();
    assert!(matches!(restore.push(b"nonsense"), Err(RestoreError::Malformed { number: 0, .. })));
    let mut restore = Restore::new();
    restore.push(&chunks[0]).expect("the header");
    assert!(matches!(restore.push(&chunks[0]), Err(RestoreError::Incomplete { .. })));
}

/// A change of the model.
#[derive(Debug, Clone)]
enum Step {
    Node(u8),
    Secret(u8, u8),
    Config(u8, u8),
    Service(u8, u8),
    Task(u8, u8),
    Assign(u8, u8),
    State(u8, u8),
    Desired(u8, u8),
    Address(u8, u8),
    DeleteService(u8),
    DeleteTask(u8),
    DeleteSecret(u8),
    DeleteNode(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let pair = || (0..6u8, 0..6u8);
    prop_oneof![
        1 => (0..6u8).prop_map(Step::Node),
        1 => pair().prop_map(|(a, b)| Step::Secret(a, b)),
        1 => pair().prop_map(|(a, b)| Step::Config(a, b)),
        1 => pair().prop_map(|(a, b)| Step::Service(a, b)),
        3 => pair().prop_map(|(a, b)| Step::Task(a, b)),
        2 => pair().prop_map(|(a, b)| Step::Assign(a, b)),
        2 => (0..6u8, 0..14u8).prop_map(|(a, b)| Step::State(a, b)),
        1 => (0..6u8, 0..14u8).prop_map(|(a, b)| Step::Desired(a, b)),
        2 => pair().prop_map(|(a, b)| Step::Address(a, b)),
        1 => (0..6u8).prop_map(Step::DeleteService),
        1 => (0..6u8).prop_map(Step::DeleteTask),
        1 => (0..6u8).prop_map(Step::DeleteSecret),
        1 => (0..6u8).prop_map(Step::DeleteNode),
    ]
}

fn change(step: &Step) -> Change {
    let bits = |value: &u8| u128::from(*value) + 1;
    match step {
        Step::Node(id) => Change::put(Node { id: NodeId::from_bits(bits(id)), ..Node::default() }),
        Step::Secret(id, name) => {
            let spec = SecretSpec { name: format!("s{name}"), ..SecretSpec::default() };
            Change::put(Secret { id: SecretId::from_bits(bits(id)), spec, ..Secret::default() })
        }
        Step::Config(id, name) => {
            let mut config = Config { id: ConfigId::from_bits(bits(id)), ..Config::default() };
            config.spec.name = format!("c{name}");
            Change::put(config)
        }
        Step::Service(id, name) => Change::put(service(bits(id), &format!("web{name}"))),
        Step::Task(id, service) => new_task(bits(id), bits(service)),
        Step::Assign(id, node) => {
            let node_id = Some(NodeId::from_bits(bits(node)));
            patch(bits(id), TaskPatch { node_id, ..in_state(TaskState::Assigned) })
        }
        Step::State(id, state) => patch(bits(id), in_state(TaskState::ALL[usize::from(*state)])),
        Step::Desired(id, state) => {
            let desired_state = Some(TaskState::ALL[usize::from(*state)]);
            patch(bits(id), TaskPatch { desired_state, ..TaskPatch::default() })
        }
        Step::Address(id, addr) => attached(bits(id), &format!("10.1.0.{}/24", addr + 2)),
        Step::DeleteService(id) => Change::delete(ObjectKey::Service(ServiceId::from_bits(bits(id)))),
        Step::DeleteTask(id) => Change::delete(ObjectKey::Task(TaskId::from_bits(bits(id)))),
        Step::DeleteSecret(id) => Change::delete(ObjectKey::Secret(SecretId::from_bits(bits(id)))),
        Step::DeleteNode(id) => Change::delete(ObjectKey::Node(NodeId::from_bits(bits(id)))),
    }
}

/// Objects in ordinary maps, changed by the events that the store tells of.
#[derive(Default)]
struct Model(BTreeMap<ObjectKey, crate::change::Object>);

impl Model {
    fn follow(&mut self, store: &Store, since: u64) {
        for event in store.changes_since(since).expect("not too far back") {
            let key = event.key().expect("an object");
            assert_eq!(self.0.get(&key), event.before.as_ref(), "an event begins where the last one ended");
            match event.after {
                Some(object) => self.0.insert(key, object),
                None => self.0.remove(&key),
            };
        }
    }

    fn check(&self, store: &Store) {
        for (key, object) in &self.0 {
            assert_eq!(store.get(*key).as_ref(), Some(object));
        }
        let objects = store.nodes().len()
            + store.services().len()
            + store.tasks().len()
            + store.networks().len()
            + store.secrets().len()
            + store.configs().len();
        assert_eq!(objects, self.0.len());
        for service in store.services() {
            assert_eq!(store.service_by_name(&service.spec.name).map(|found| found.id), Some(service.id));
        }
        for node in 1..=6 {
            let node = NodeId::from_bits(node);
            let slow: Vec<&Arc<Task>> = store.tasks().filter(|task| task.node_id == Some(node)).collect();
            assert_eq!(store.tasks_of_node(node).count(), slow.len());
            let occupying =
                |task: &&&Arc<Task>| task.status.state >= TaskState::Assigned && !task.status.state.is_terminal();
            let busy = slow.iter().filter(occupying).count();
            assert_eq!(store.node_usage(node).map_or(0, |usage| usage.tasks as usize), busy);
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_plain_maps(batches in prop::collection::vec(prop::collection::vec(step(), 1..5), 0..40)) {
        let mut store = Store::new();
        let mut model = Model::default();
        apply(&mut store, &[Change::create(network(5, "net", 4096))]).expect("fits");
        model.follow(&store, 0);
        for batch in batches {
            let before = store.clone();
            let changes: Vec<Change> = batch.iter().map(change).collect();
            match store.apply(before.version() + 1, Timestamp::from_seconds(7), &changes) {
                Ok(_) => model.follow(&store, before.version()),
                Err(_) => {
                    prop_assert_eq!(store.version(), before.version());
                    prop_assert_eq!(&store.index, &before.index);
                }
            }
            model.check(&store);
            check_indexes(&store);
        }
        let copy = restored(&store);
        prop_assert_eq!(&copy.index, &store.index);
        prop_assert!(copy.tasks().eq(store.tasks()));
    }
}
