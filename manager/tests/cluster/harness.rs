//! Managers and agents for the tests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_kit::ca_client::{self, CaError, Issued, JoinRequest};
use shoal_kit::clock::{Clock, SystemClock};
use shoal_kit::entropy::Entropy;
use shoal_kit::identity::NodeIdentity;
use shoal_kit::tls::{self, DialOptions};
use shoal_manager::ca::Founding;
use shoal_manager::{BootstrapSpec, Manager, ManagerHandle, ManagerOptions};
use shoal_manager_core::store::Store;
use shoal_proto::assignment::{AssignmentItem, AssignmentKey, AssignmentSet};
use shoal_proto::codec;
use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::error::Failure;
use shoal_proto::id::{NodeId, TaskId};
use shoal_proto::object::{Node, NodeDescription, NodeState, Task, TaskStatus};
use shoal_proto::spec::{AddressPools, Availability, ClusterSpec, NodeRole, SecretSpec};
use shoal_proto::task_state::TaskState;
use shoal_proto::wire::agent_message::Message as ToManager;
use shoal_proto::wire::dispatcher_client::DispatcherClient;
use shoal_proto::wire::manager_message::Message as FromManager;
use shoal_proto::wire::{self, AgentMessage, SessionState};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// A loopback address that nobody listens on.
pub(crate) fn free_addr() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until the check gives something.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn test_spec() -> ClusterSpec {
    ClusterSpec { heartbeat_period: Duration::from_millis(400), ..ClusterSpec::default() }
}

/// A node that runs a manager, or did.
pub(crate) struct Member {
    pub(crate) root: PathBuf,
    pub(crate) options: ManagerOptions,
    pub(crate) manager: Option<Manager>,
}

impl Member {
    pub(crate) fn handle(&self) -> ManagerHandle {
        self.manager.as_ref().expect("this member is down").handle()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.manager.is_some()
    }

    pub(crate) async fn kill(&mut self) {
        if let Some(manager) = self.manager.take() {
            manager.abandon().await;
        }
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(manager) = self.manager.take() {
            manager.shutdown().await;
        }
    }

    pub(crate) async fn start(&mut self) {
        // As a daemon would: the identity is read from disk.
        let directory = NodeIdentity::directory(&self.root);
        let identity = NodeIdentity::load(&directory, clock()).unwrap().expect("an identity");
        self.options.identity = Arc::new(identity);
        self.manager = Some(Manager::start(self.options.clone()).await.expect("restart"));
    }
}

pub(crate) fn options(root: &Path, identity: Arc<NodeIdentity>) -> ManagerOptions {
    let addr = free_addr();
    ManagerOptions::new(root.join("cluster"), identity, addr, addr)
}

/// Managers of one cluster; the folder goes with it.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) folder: TempDir,
}

impl Cluster {
    pub(crate) async fn new(size: usize) -> Self {
        Self::with_spec(size, test_spec()).await
    }

    pub(crate) async fn with_spec(size: usize, spec: ClusterSpec) -> Self {
        Self::with(size, spec, |options| options).await
    }

    pub(crate) async fn with(
        size: usize,
        spec: ClusterSpec,
        adjust: impl Fn(ManagerOptions) -> ManagerOptions,
    ) -> Self {
        Self::found(size, BootstrapSpec { cluster: spec, ..BootstrapSpec::default() }, adjust).await
    }

    pub(crate) async fn with_data_path_port(port: u16) -> Self {
        let pools = AddressPools { data_path_port: port, ..AddressPools::default() };
        Self::found(1, BootstrapSpec { cluster: test_spec(), pools, ..BootstrapSpec::default() }, |options| options)
            .await
    }

    async fn found(size: usize, bootstrap: BootstrapSpec, adjust: impl Fn(ManagerOptions) -> ManagerOptions) -> Self {
        // With RUST_LOG set, a failing test tells what the managers did.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("node0");
        let directory = NodeIdentity::directory(&root);
        let life = bootstrap.cluster.node_cert_expiry;
        let founding = Founding::new(&directory, &clock(), Entropy::from_system(), life).unwrap();
        let options = adjust(options(&root, founding.identity));
        let bootstrap = BootstrapSpec { root: founding.root, ..bootstrap };
        let manager = Manager::bootstrap(options.clone(), bootstrap).await.expect("bootstrap");
        let members = vec![Member { root, options, manager: Some(manager) }];
        let mut cluster = Self { members, folder };
        for _ in 1..size {
            cluster.add_manager().await;
        }
        cluster
    }

    pub(crate) fn addrs(&self) -> Vec<String> {
        self.members.iter().filter(|m| m.is_up()).map(|m| m.options.advertise_addr.to_string()).collect()
    }

    pub(crate) async fn token(&self, role: NodeRole) -> String {
        let info = self.any().join_info().await.expect("tokens");
        match role {
            NodeRole::Worker => info.worker_token,
            NodeRole::Manager => info.manager_token,
        }
    }

    pub(crate) async fn issue(&self, role: NodeRole) -> Result<Issued, CaError> {
        let token = self.token(role).await;
        join_with(&token, self.addrs()).await
    }

    pub(crate) async fn add_manager(&mut self) -> usize {
        let root = self.folder.path().join(format!("node{}", self.members.len()));
        let issued = self.issue(NodeRole::Manager).await.expect("a manager's certificate");
        let directory = NodeIdentity::directory(&root);
        let identity = Arc::new(NodeIdentity::create(&directory, clock(), issued.material).unwrap());
        let options = options(&root, identity);
        let manager = Manager::join(options.clone(), self.addrs()).await.expect("join");
        manager.handle().wait_voting().await.expect("a vote");
        self.members.push(Member { root, options, manager: Some(manager) });
        self.members.len() - 1
    }

    /// An identity of a worker, in memory.
    pub(crate) async fn worker(&self) -> Arc<NodeIdentity> {
        let issued = self.issue(NodeRole::Worker).await.expect("a worker's certificate");
        Arc::new(NodeIdentity::in_memory(clock(), issued.material).unwrap())
    }

    pub(crate) fn any(&self) -> ManagerHandle {
        self.members.iter().find(|member| member.is_up()).expect("somebody is up").handle()
    }

    /// Who leads, once somebody does.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader", async || {
            self.members.iter().position(|member| member.is_up() && member.handle().is_leader())
        })
        .await
    }

    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.members.len()).find(|index| *index != leader && self.members[*index].is_up()).unwrap()
    }

    pub(crate) async fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.any().read().await.ok()?.node(id).cloned()
    }

    pub(crate) async fn wait_node(&self, id: NodeId, state: NodeState) -> Arc<Node> {
        eventually(&format!("node {id} {}", state.as_str()), async || {
            self.node(id).await.filter(|node| node.status.state == state)
        })
        .await
    }

    pub(crate) async fn shutdown(mut self) {
        for member in &mut self.members {
            member.stop().await;
        }
    }
}

pub(crate) async fn join_with(token: &str, remotes: Vec<String>) -> Result<Issued, CaError> {
    let request = JoinRequest {
        token: token.parse().expect("a token"),
        remotes,
        availability: Availability::Active,
        timeout: Duration::from_secs(5),
    };
    ca_client::join(&request, &clock()).await
}

pub(crate) fn secret(name: &str) -> ControlRequest {
    ControlRequest::CreateSecret(SecretSpec { name: name.to_owned(), data: vec![1], ..SecretSpec::default() })
}

pub(crate) async fn write(handle: &ManagerHandle, name: &str) -> Result<(), Failure> {
    match handle.control(secret(name)).await? {
        ControlResponse::Secret(made) => {
            assert_eq!(made.spec.name, name);
            Ok(())
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn has_secret(store: &Store, name: &str) -> bool {
    store.secret_by_name(name).is_some()
}

/// What a fake agent knows.
#[derive(Default)]
pub(crate) struct AgentState {
    pub(crate) session: Option<SessionState>,
    pub(crate) sequence: u64,
    pub(crate) items: HashMap<AssignmentKey, AssignmentItem>,
    pub(crate) accepted: u64,
    pub(crate) closed: Option<tonic::Status>,
    pub(crate) subscriptions: Vec<wire::LogSubscription>,
}

impl AgentState {
    pub(crate) fn tasks(&self) -> Vec<Arc<Task>> {
        let tasks = self.items.values().filter_map(|item| match item {
            AssignmentItem::Task(task) => Some(Arc::clone(task)),
            _ => None,
        });
        tasks.collect()
    }
}

/// An agent that speaks the protocol, and pretends that every task runs.
pub(crate) struct Agent {
    pub(crate) state: Arc<Mutex<AgentState>>,
    pub(crate) changed: watch::Receiver<u64>,
    sender: mpsc::Sender<AgentMessage>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

pub(crate) fn to_manager(message: ToManager) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

impl Agent {
    /// Opens a session with heartbeats.
    pub(crate) async fn connect(identity: &Arc<NodeIdentity>, addr: &str) -> Result<Self, tonic::Status> {
        Self::connect_with(identity, addr, Duration::from_millis(100)).await
    }

    pub(crate) async fn connect_with(
        identity: &Arc<NodeIdentity>,
        addr: &str,
        heartbeat: Duration,
    ) -> Result<Self, tonic::Status> {
        let channel = tls::connect(identity, addr, DialOptions::default())
            .await
            .map_err(|error| tonic::Status::unavailable(shoal_proto::error::chain(&error)))?;
        let mut client = DispatcherClient::new(channel).max_decoding_message_size(64 << 20);
        let (sender, receiver) = mpsc::channel(64);
        let description = NodeDescription {
            hostname: format!("host-{}", identity.node_id()),
            resources: shoal_proto::spec::ResourceAmount {
                nano_cpus: 8_000_000_000,
                memory_bytes: 64 << 30,
                ..shoal_proto::spec::ResourceAmount::default()
            },
            platform: shoal_proto::spec::Platform { os: "linux".to_owned(), architecture: "x86_64".to_owned() },
            plugins: vec![("Network".to_owned(), "overlay".to_owned()), ("Log".to_owned(), "json-file".to_owned())],
            ..NodeDescription::default()
        };
        let hello = wire::Hello { description: codec::encode(&description).into() };
        sender.send(to_manager(ToManager::Hello(hello))).await.unwrap();
        let stream = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        let state = Arc::new(Mutex::new(AgentState::default()));
        let (notify, changed) = watch::channel(0);
        let beats = sender.clone();
        let tasks = vec![
            tokio::spawn(listen(stream, Arc::clone(&state), sender.clone(), notify)),
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(heartbeat).await;
                    if beats.send(to_manager(ToManager::Heartbeat(wire::Heartbeat {}))).await.is_err() {
                        return;
                    }
                }
            }),
        ];
        Ok(Self { state, changed, sender, tasks })
    }

    pub(crate) async fn send(&self, message: ToManager) {
        self.sender.send(to_manager(message)).await.unwrap();
    }

    pub(crate) async fn wait<T>(&self, what: &str, check: impl Fn(&AgentState) -> Option<T>) -> T {
        eventually(what, async || check(&self.state.lock().unwrap())).await
    }
}

fn status_update(task: &Task, state: TaskState) -> wire::TaskStatusUpdate {
    let status =
        TaskStatus { state, timestamp: clock().now(), message: "pretended".to_owned(), ..TaskStatus::default() };
    wire::TaskStatusUpdate { task_id: task.id.to_string(), status: codec::encode(&status).into() }
}

async fn listen(
    mut stream: tonic::Streaming<wire::ManagerMessage>,
    state: Arc<Mutex<AgentState>>,
    sender: mpsc::Sender<AgentMessage>,
    notify: watch::Sender<u64>,
) {
    let mut number = 0;
    let mut running: HashMap<TaskId, TaskState> = HashMap::new();
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message.message,
            Ok(None) => {
                state.lock().unwrap().closed = Some(tonic::Status::ok("closed"));
                break;
            }
            Err(status) => {
                state.lock().unwrap().closed = Some(status);
                break;
            }
        };
        let mut updates = Vec::new();
        match message {
            Some(FromManager::Session(session)) => state.lock().unwrap().session = Some(session),
            Some(FromManager::StatusesAccepted(number)) => state.lock().unwrap().accepted = number,
            Some(FromManager::Assignments(bytes)) => {
                let set: AssignmentSet = codec::decode(&bytes).unwrap();
                let mut state = state.lock().unwrap();
                if set.complete {
                    state.items.clear();
                } else {
                    assert_eq!(set.sequence, state.sequence + 1, "differences come without gaps");
                }
                state.sequence = set.sequence;
                for item in set.put {
                    if let AssignmentItem::Task(task) = &item {
                        let target = task.desired_state.min(TaskState::Shutdown);
                        let known = running.get(&task.id).copied().unwrap_or(task.status.state);
                        if known < target && target >= TaskState::Running {
                            running.insert(task.id, target);
                            updates.push(status_update(task, target));
                        }
                    }
                    state.items.insert(item.key(), item);
                }
                for key in set.remove {
                    state.items.remove(&key);
                }
            }
            Some(FromManager::SubscribeLogs(subscription)) => state.lock().unwrap().subscriptions.push(subscription),
            Some(FromManager::UnsubscribeLogs(_)) | None => {}
        }
        if !updates.is_empty() {
            number += 1;
            let batch = wire::StatusBatch { number, updates };
            if sender.send(to_manager(ToManager::Statuses(batch))).await.is_err() {
                break;
            }
        }
        notify.send_modify(|count| *count += 1);
    }
    notify.send_modify(|count| *count += 1);
}
