//! A small cluster for tests: a store, a leader's planner, and agents that do what they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::control::{AttachmentWish, ControlRequest, ControlResponse, Report};
use shoal_proto::error::Failure;
use shoal_proto::id::{AttachmentId, ClusterId, IdSource, NetworkId, NodeId, SequentialIds, ServiceId, TaskId};
use shoal_proto::object::{
    Attachment, Cluster, ContainerStatus, ManagerMember, Node, NodeDescription, NodeState, NodeStatus, Service, Task,
    TaskStatus,
};
use shoal_proto::spec::{
    Availability, ContainerSpec, NetworkAttachmentSpec, NetworkSpec, NodeRole, NodeSpec, Platform, PortConfig,
    ResourceAmount, ServiceMode, ServiceSpec, TaskSpec,
};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use crate::change::Change;
use crate::control::{Context, initial_networks, plan_request};
use crate::reconcile::{Dirty, Planner, plan_all};
use crate::store::{Restore, Store};

/// What a pretended container does once it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Runs.
    Runs,
    /// Is rejected: its image is missing.
    Rejected,
    /// Fails at once.
    Fails,
    /// Ends at once with success.
    Completes,
    /// Never gets beyond preparing.
    Hangs,
}

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) planner: Planner,
    pub(crate) ids: SequentialIds,
    pub(crate) now: Timestamp,
    /// By image; others run.
    pub(crate) fates: BTreeMap<String, Fate>,
    /// Are agents slow to stop containers?
    pub(crate) stubborn: bool,
}

impl World {
    /// A cluster of so many ready worker nodes: `n1`, `n2`, ... with 4 cores and 8 GiB each.
    pub(crate) fn new(nodes: u128) -> Self {
        let mut ids = SequentialIds::default();
        for _ in 0..1_000 {
            ids.next_bits();
        }
        let mut world = Self {
            store: Store::new(),
            planner: Planner::new(),
            ids,
            now: Timestamp::from_seconds(1_000_000),
            fates: BTreeMap::new(),
            stubborn: false,
        };
        let cluster = Cluster { id: ClusterId::from_bits(1), ..Cluster::default() };
        let mut changes = vec![Change::create(cluster)];
        changes.extend(initial_networks(&mut world.ids));
        world.apply(&changes);
        for number in 1..=nodes {
            world.add_node(number);
        }
        world
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        self.store.apply(self.store.version() + 1, self.now, changes).expect("the changes fit");
    }

    pub(crate) fn add_node(&mut self, number: u128) -> NodeId {
        let id = NodeId::from_bits(number);
        let node = Node {
            id,
            spec: NodeSpec::default(),
            description: Some(NodeDescription {
                hostname: format!("n{number}"),
                platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
                resources: ResourceAmount {
                    nano_cpus: 4_000_000_000,
                    memory_bytes: 8 << 30,
                    ..ResourceAmount::default()
                },
                data_path_addr: format!("192.168.0.{}", number % 250 + 1).parse().ok(),
                ..NodeDescription::default()
            }),
            status: NodeStatus {
                state: NodeState::Ready,
                session_manager: Some(1),
                since: self.now,
                ..NodeStatus::default()
            },
            ..Node::default()
        };
        self.apply(&[Change::create(node)]);
        id
    }

    pub(crate) fn change_node(&mut self, number: u128, change: impl FnOnce(&mut Node)) {
        let mut node = Node::clone(self.store.node(NodeId::from_bits(number)).expect("the node"));
        change(&mut node);
        self.apply(&[Change::put(node)]);
    }

    pub(crate) fn label(&mut self, number: u128, name: &str, value: &str) {
        self.change_node(number, |node| {
            node.spec.labels.insert(name.into(), value.into());
        });
    }

    pub(crate) fn availability(&mut self, number: u128, availability: Availability) {
        self.change_node(number, |node| node.spec.availability = availability);
    }

    pub(crate) fn make_manager(&mut self, number: u128) {
        self.change_node(number, |node| {
            node.spec.role = NodeRole::Manager;
            node.certificate_role = NodeRole::Manager;
            let raft_id = u64::try_from(number).expect("small");
            node.manager = Some(ManagerMember { raft_id, addr: "10.0.0.1:2377".parse().expect("address") });
        });
    }

    pub(crate) fn lose(&mut self, number: u128) {
        self.request(ControlRequest::Report(vec![Report::NodeGone {
            id: NodeId::from_bits(number),
            state: NodeState::Down,
            message: "heartbeat failure".into(),
            session_manager: 1,
        }]))
        .expect("reported");
    }

    pub(crate) fn back(&mut self, number: u128) {
        let id = NodeId::from_bits(number);
        let description = self.store.node(id).and_then(|node| node.description.clone()).expect("described");
        self.request(ControlRequest::Report(vec![Report::NodeReady {
            id,
            description: Arc::new(description),
            addr: None,
            session_manager: 1,
        }]))
        .expect("reported");
    }

    pub(crate) fn request(&mut self, request: ControlRequest) -> Result<ControlResponse, Failure> {
        let managers: Vec<NodeId> =
            self.store.nodes().filter(|n| n.status.state == NodeState::Ready).map(|node| node.id).collect();
        let voters: Vec<NodeId> =
            self.store.nodes().filter(|node| node.manager.is_some()).map(|node| node.id).collect();
        let context = Context { now: self.now, reachable_managers: &managers, voters: &voters };
        let planned = plan_request(&self.store, &request, context, &mut self.ids)?;
        self.store.apply(self.store.version() + 1, self.now, &planned.changes)?;
        planned.reply.resolve(&self.store)
    }

    pub(crate) fn create(&mut self, spec: ServiceSpec) -> ServiceId {
        match self.request(ControlRequest::CreateService(Box::new(spec))) {
            Ok(ControlResponse::Service(service, _)) => service.id,
            other => panic!("no service: {other:?}"),
        }
    }

    pub(crate) fn create_network(&mut self, spec: NetworkSpec) -> NetworkId {
        match self.request(ControlRequest::CreateNetwork(Box::new(spec))) {
            Ok(ControlResponse::Network(network)) => network.id,
            other => panic!("no network: {other:?}"),
        }
    }

    /// Asks for a place on a network, as a node does for one of its containers.
    pub(crate) fn attach(&mut self, node: u128, wish: AttachmentWish) -> Result<Arc<Attachment>, Failure> {
        let request = ControlRequest::Attach { node: NodeId::from_bits(node), wish: Box::new(wish) };
        match self.request(request)? {
            ControlResponse::Attachment(attachment) => Ok(attachment),
            other => panic!("no attachment: {other:?}"),
        }
    }

    pub(crate) fn detach(&mut self, node: u128, ids: &[AttachmentId]) {
        let request = ControlRequest::Detach { node: NodeId::from_bits(node), ids: ids.to_vec() };
        self.request(request).expect("detached");
    }

    pub(crate) fn update(&mut self, id: ServiceId, change: impl FnOnce(&mut ServiceSpec)) {
        let service = self.service(id);
        let mut spec = service.spec.clone();
        change(&mut spec);
        self.request(ControlRequest::UpdateService { id, version: service.meta.version, spec: Box::new(spec) })
            .expect("updated");
    }

    pub(crate) fn scale(&mut self, id: ServiceId, replicas: u64) {
        self.update(id, |spec| spec.mode = ServiceMode::Replicated { replicas });
    }

    pub(crate) fn remove(&mut self, id: ServiceId) {
        self.request(ControlRequest::RemoveService(id)).expect("removed");
    }

    pub(crate) fn service(&self, id: ServiceId) -> Arc<Service> {
        self.store.service(id).expect("the service").clone()
    }

    pub(crate) fn update_state(&self, id: ServiceId) -> &'static str {
        self.store
            .service(id)
            .and_then(|service| service.update_status.as_ref().map(|status| status.state.as_str()))
            .unwrap_or("none")
    }

    /// One pass of the leader. Gives the number of changes.
    pub(crate) fn plan(&mut self) -> usize {
        let plan = self.planner.plan(&self.store, self.now, &mut self.ids);
        let mut changes = 0;
        for batch in plan.into_batches() {
            changes += batch.len();
            self.apply(&batch);
        }
        changes
    }

    /// Passes until there is nothing to do, and then nothing when looking at everything either.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10 {
            if self.plan() == 0 {
                let rest = plan_all(&self.store, &Dirty::all(), self.now, &mut self.ids);
                assert!(rest.changes.is_empty(), "overlooked: {:#?}", rest.changes);
                return;
            }
        }
        let rest = plan_all(&self.store, &Dirty::all(), self.now, &mut self.ids);
        panic!("the planners do not come to rest: {:#?}", rest.changes);
    }

    /// The agents of all live nodes do what they are told, as far as it goes at once.
    pub(crate) fn agents(&mut self) {
        let live: Vec<NodeId> =
            self.store.nodes().filter(|n| n.status.state == NodeState::Ready).map(|node| node.id).collect();
        let mut reports = Vec::new();
        for node in live {
            for task in self.store.tasks_of_node(node) {
                if let Some(state) = self.outcome(task) {
                    reports.push(Report::Task { node, id: task.id, status: status(state, self.now) });
                }
            }
        }
        self.request(ControlRequest::Report(reports)).expect("reported");
    }

    fn outcome(&self, task: &Task) -> Option<TaskState> {
        let state = task.status.state;
        if state < TaskState::Assigned || state.is_terminal() {
            return None;
        }
        if task.desired_state > TaskState::Running {
            return (!self.stubborn).then_some(TaskState::Shutdown);
        }
        let fate = self.fates.get(&task.spec.container.image).copied().unwrap_or(Fate::Runs);
        let next = match (fate, task.desired_state) {
            (Fate::Rejected, _) => TaskState::Rejected,
            (Fate::Hangs, _) => TaskState::Preparing,
            (_, TaskState::Ready) => TaskState::Ready,
            (Fate::Runs, _) => TaskState::Running,
            // Like a real one, it runs before it ends.
            (Fate::Fails | Fate::Completes, _) if state < TaskState::Running => TaskState::Running,
            (Fate::Fails, _) => TaskState::Failed,
            (Fate::Completes, _) => TaskState::Complete,
        };
        (next > state).then_some(next)
    }

    /// Leader and agents take turns until nothing happens any more.
    pub(crate) fn run(&mut self) {
        for _ in 0..200 {
            let version = self.store.version();
            self.settle();
            self.agents();
            let quiet = self.store.changes_since(version).is_some_and(|events| events.is_empty());
            if quiet {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// One turn of leader and agents.
    pub(crate) fn turn(&mut self) {
        self.settle();
        self.agents();
        self.settle();
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    /// Sets a task's state as its agent would.
    pub(crate) fn report(&mut self, id: TaskId, state: TaskState) {
        let node = self.store.task(id).and_then(|task| task.node_id).expect("assigned");
        let report = Report::Task { node, id, status: status(state, self.now) };
        self.request(ControlRequest::Report(vec![report])).expect("reported");
    }

    /// The tasks of a service that are wanted to run.
    pub(crate) fn runnable(&self, id: ServiceId) -> Vec<Arc<Task>> {
        self.store.tasks_of_service(id).filter(|task| task.desired_state <= TaskState::Running).cloned().collect()
    }

    /// Those of them that run.
    pub(crate) fn running(&self, id: ServiceId) -> Vec<Arc<Task>> {
        self.runnable(id).into_iter().filter(|task| task.status.state == TaskState::Running).collect()
    }

    /// How many of them are on each node.
    pub(crate) fn on_nodes(&self, id: ServiceId) -> BTreeMap<u128, usize> {
        let mut counts = BTreeMap::new();
        for task in self.runnable(id) {
            if let Some(node) = task.node_id {
                *counts.entry(node.bits()).or_insert(0) += 1;
            }
        }
        counts
    }

    /// The tasks of a service in lines like `1 n2 running/running v1`, oldest first in each slot.
    pub(crate) fn show(&self, id: ServiceId) -> String {
        let mut tasks: Vec<&Arc<Task>> = self.store.tasks_of_service(id).collect();
        tasks.sort_by_key(|task| (task.slot, task.node_id.filter(|_| task.slot == 0), task.meta.created_at, task.id));
        let line = |task: &&Arc<Task>| {
            let node = task.node_id.map_or("-".to_owned(), |node| format!("n{}", node.bits()));
            format!("{} {node} {}/{} v{}", task.slot, task.desired_state, task.status.state, task.spec_version)
        };
        tasks.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The store written to a snapshot and read again, with a new leader.
    pub(crate) fn fail_over(&mut self) {
        let mut restore = Restore::new();
        for chunk in self.store.snapshot() {
            restore.push(&chunk).expect("a chunk");
        }
        self.store = restore.finish().expect("a store");
        self.planner = Planner::new();
    }
}

pub(crate) fn status(state: TaskState, now: Timestamp) -> TaskStatus {
    let exit_code = match state {
        TaskState::Complete => Some(0),
        TaskState::Failed => Some(1),
        _ => None,
    };
    let container = ContainerStatus { container_id: "c".repeat(64), pid: 1, exit_code };
    TaskStatus {
        state,
        timestamp: now,
        message: state.to_string(),
        container: Some(container),
        ..TaskStatus::default()
    }
}

/// A replicated service of the image `web:1`.
pub(crate) fn replicated(name: &str, replicas: u64) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        task: Arc::new(TaskSpec {
            container: ContainerSpec { image: "web:1".into(), ..ContainerSpec::default() },
            ..TaskSpec::default()
        }),
        mode: ServiceMode::Replicated { replicas },
        ..ServiceSpec::default()
    }
}

/// A global service of the image `web:1`.
pub(crate) fn global(name: &str) -> ServiceSpec {
    ServiceSpec { mode: ServiceMode::Global, ..replicated(name, 0) }
}

/// Changes what the tasks of a spec run.
pub(crate) fn with_task(mut spec: ServiceSpec, change: impl FnOnce(&mut TaskSpec)) -> ServiceSpec {
    change(Arc::make_mut(&mut spec.task));
    spec
}

/// Another image.
pub(crate) fn image(spec: &mut ServiceSpec, image: &str) {
    Arc::make_mut(&mut spec.task).container.image = image.into();
}

/// A published port.
pub(crate) fn port(published: u16, target: u16) -> PortConfig {
    PortConfig { target, published, ..PortConfig::default() }
}

/// An overlay network.
pub(crate) fn overlay(name: &str) -> NetworkSpec {
    NetworkSpec { name: name.into(), driver: "overlay".into(), ..NetworkSpec::default() }
}

/// An overlay network that containers may attach to.
pub(crate) fn attachable(name: &str) -> NetworkSpec {
    NetworkSpec { attachable: true, ..overlay(name) }
}

/// A container's wish to be on a network.
pub(crate) fn joining(network: &str, container: &str) -> AttachmentWish {
    AttachmentWish {
        network: network.into(),
        container_id: container.into(),
        name: format!("{container}-name"),
        ..AttachmentWish::default()
    }
}

/// A wish to be on a network.
pub(crate) fn on(network: NetworkId) -> NetworkAttachmentSpec {
    NetworkAttachmentSpec { target: network, ..NetworkAttachmentSpec::default() }
}
