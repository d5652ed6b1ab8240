//! A small cluster for tests: a node, the service `web` on network `net`, three tasks, a secret.

use std::sync::Arc;

use shoal_manager_core::change::Change;
use shoal_manager_core::store::Store;
use shoal_proto::id::{NetworkId, NodeId, SecretId, ServiceId, TaskId};
use shoal_proto::object::{
    Network, NetworkAllocation, NetworkAttachment, Node, NodeDescription, Secret, Service, Task, TaskStatus, VirtualIp,
};
use shoal_proto::spec::{NetworkAttachmentSpec, NetworkSpec, SecretSpec, ServiceMode, ServiceSpec, TaskSpec};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

pub(super) const NODE: NodeId = NodeId::from_bits(1);
pub(super) const SERVICE: ServiceId = ServiceId::from_bits(2);
pub(super) const NETWORK: NetworkId = NetworkId::from_bits(3);
pub(super) const SECRET: SecretId = SecretId::from_bits(4);

fn task_spec() -> Arc<TaskSpec> {
    let networks = vec![NetworkAttachmentSpec { target: NETWORK, ..NetworkAttachmentSpec::default() }];
    let mut spec = TaskSpec { networks, ..TaskSpec::default() };
    spec.container.image = "bb:2".to_owned();
    Arc::new(spec)
}

fn task(number: u8, slot: u64, state: TaskState, desired_state: TaskState, spec_version: u64) -> Task {
    let addr = format!("10.0.1.{}/24", number).parse().expect("address");
    let mut spec = task_spec();
    if spec_version < 2 {
        Arc::make_mut(&mut spec).container.image = "bb:1".to_owned();
    }
    Task {
        id: TaskId::from_bits(u128::from(number)),
        service_id: SERVICE,
        service_name: "web".into(),
        slot,
        node_id: Some(NODE),
        spec,
        spec_version,
        desired_state,
        status: TaskStatus { state, ..TaskStatus::default() },
        networks: vec![NetworkAttachment { network: NETWORK, addr: Some(addr), aliases: Vec::new() }],
        ..Task::default()
    }
}

/// The store of that cluster. Task 10 was replaced by task 11; task 12 is being prepared.
pub(super) fn store() -> Store {
    let service = Service {
        id: SERVICE,
        spec: ServiceSpec {
            name: "web".to_owned(),
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            mode: ServiceMode::Replicated { replicas: 2 },
            task: task_spec(),
            ..ServiceSpec::default()
        },
        spec_version: 2,
        endpoint: shoal_proto::object::Endpoint {
            ports: Vec::new(),
            virtual_ips: vec![VirtualIp { network: NETWORK, addr: [10, 0, 1, 2].into() }],
        },
        ..Service::default()
    };
    let network = Network {
        id: NETWORK,
        spec: NetworkSpec { name: "net".to_owned(), driver: "overlay".to_owned(), ..NetworkSpec::default() },
        allocation: Some(NetworkAllocation {
            subnet: "10.0.1.0/24".parse().expect("subnet"),
            gateway: [10, 0, 1, 1].into(),
            vni: 4097,
        }),
        ..Network::default()
    };
    let node = Node {
        id: NODE,
        description: Some(NodeDescription { hostname: "one".to_owned(), ..NodeDescription::default() }),
        ..Node::default()
    };
    let secret = Secret {
        id: SECRET,
        spec: SecretSpec { name: "token".to_owned(), data: b"x".to_vec(), ..SecretSpec::default() },
        ..Secret::default()
    };
    let changes = [
        Change::create(Arc::new(node)),
        Change::create(Arc::new(network)),
        Change::create(Arc::new(secret)),
        Change::create(Arc::new(service)),
        Change::create(Arc::new(task(10, 1, TaskState::Shutdown, TaskState::Shutdown, 1))),
        Change::create(Arc::new(task(11, 1, TaskState::Running, TaskState::Running, 2))),
        Change::create(Arc::new(task(12, 2, TaskState::Preparing, TaskState::Running, 2))),
    ];
    let mut store = Store::new();
    store.apply(1, Timestamp::from_seconds(1), &changes).expect("the changes fit");
    store
}
