//! The objects of the replicated store: a specification, and what the cluster made of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::id::{AttachmentId, ClusterId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use crate::spec::{
    AddressPools, ClusterSpec, ConfigSpec, EndpointMode, Labels, LogDriver, NetworkSpec, NodeRole, NodeSpec, Platform,
    PortConfig, ResourceAmount, SecretSpec, ServiceSpec, TaskSpec,
};
use crate::task_state::TaskState;
use crate::time::Timestamp;

/// What every object carries. The store sets it, nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Store version of the last change: an update must name it.
    pub version: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The cluster itself; exactly one exists once the first manager was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Identity: the organisation in every certificate.
    pub id: ClusterId,
    /// Version and times.
    pub meta: Meta,
    /// Wanted settings.
    pub spec: ClusterSpec,
    /// Pools for networks; fixed.
    pub pools: AddressPools,
    /// Trust root and tokens.
    pub root_ca: RootCa,
    /// Key that unlocks managers when `auto_lock_managers` is on; the text form `SWMKEY-1-…`.
    pub unlock_key: String,
}

/// The trust root of a cluster and the tokens that admit new nodes.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootCa {
    /// Root certificate, PEM.
    pub certificate_pem: String,
    /// Its key, PEM (PKCS#8). Encrypted at rest with the rest of the store; never printed.
    pub key_pem: String,
    /// Token that admits workers.
    pub worker_token: String,
    /// Token that admits managers.
    pub manager_token: String,
    /// SHA-256 of the last tokens that were rotated, hex: a joiner that shows one is told so.
    pub retired_tokens: Vec<String>,
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCa").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// Is a node alive, as its managers see it?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Not heard of since it was made.
    #[default]
    Unknown,
    /// Missed its heartbeats.
    Down,
    /// Has a live session.
    Ready,
    /// Left on purpose.
    Disconnected,
}

impl NodeState {
    /// `unknown`, `down`, `ready` or `disconnected`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Down => "down",
            Self::Ready => "ready",
            Self::Disconnected => "disconnected",
        }
    }
}

/// A node's liveness.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Alive?
    pub state: NodeState,
    /// Why it is in that state, in words.
    pub message: String,
    /// Address the node was seen at; `None` before its first session.
    pub addr: Option<IpAddr>,
    /// Raft id of the manager that holds its session; `None` when it has none.
    pub session_manager: Option<u64>,
    /// Since when it has been in this state.
    pub since: Timestamp,
    /// Did its daemon announce that it stops while its containers run on? The node has longer to return then.
    pub restarting: bool,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDescription {
    /// Host name.
    pub hostname: String,
    /// Architecture and operating system.
    pub platform: Platform,
    /// What it has: CPU, memory, generic resources.
    pub resources: ResourceAmount,
    /// Version of its engine.
    pub engine_version: String,
    /// Labels of its daemon, matched by `engine.labels.*` constraints.
    pub engine_labels: BTreeMap<String, String>,
    /// Drivers by kind, `Network/overlay` and the like.
    pub plugins: Vec<(String, String)>,
    /// Address that other nodes send overlay traffic to.
    pub data_path_addr: Option<IpAddr>,
    /// Trust root that the node believes in, PEM.
    pub trust_root_pem: String,
    /// Subject of the issuer of its certificate, DER.
    pub issuer_subject: Vec<u8>,
    /// Public key of that issuer, DER.
    pub issuer_public_key: Vec<u8>,
}

/// A manager's place in the consensus group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerMember {
    /// Its raft id: fresh for each join, never reused.
    pub raft_id: u64,
    /// Where other managers reach it.
    pub addr: SocketAddr,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Identity: the common name of its certificate.
    pub id: NodeId,
    /// Version and times.
    pub meta: Meta,
    /// What the operator wants.
    pub spec: NodeSpec,
    /// What the node says of itself; `None` before its first session.
    pub description: Option<NodeDescription>,
    /// Is it alive?
    pub status: NodeStatus,
    /// Role that its newest certificate was issued for.
    pub certificate_role: NodeRole,
    /// Its raft membership; `None` for workers.
    pub manager: Option<ManagerMember>,
    /// Its own address on the routing-mesh network; `None` until allocated.
    pub ingress_address: Option<Ipv4Addr>,
}

/// A cluster-wide network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Identity.
    pub id: NetworkId,
    /// Version and times.
    pub meta: Meta,
    /// As its user made it.
    pub spec: NetworkSpec,
    /// Subnet and VNI; `None` until allocated, and for predefined networks of other drivers.
    pub allocation: Option<NetworkAllocation>,
    /// A predefined network (`host`, `bridge`) that cannot be removed?
    pub predefined: bool,
    /// Was the network deleted? Its name is free again; it goes when the last task has left it.
    pub pending_delete: bool,
}

/// What the allocator gave to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAllocation {
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// The gateway address in it.
    pub gateway: Ipv4Addr,
    /// VXLAN network identifier, 4096 and up.
    pub vni: u32,
}

/// A virtual address of a service on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualIp {
    /// The network.
    pub network: NetworkId,
    /// The address.
    pub addr: Ipv4Addr,
}

/// A service's endpoint as allocated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Published ports with the numbers chosen by the allocator.
    pub ports: Vec<PortConfig>,
    /// One address for each network; empty in DNS round-robin mode.
    pub virtual_ips: Vec<VirtualIp>,
}

/// Where an update or rollback stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// In progress.
    #[default]
    Updating,
    /// Stopped by a failure; the next update clears it.
    Paused,
    /// Done.
    Completed,
    /// Going back.
    RollbackStarted,
    /// Going back was stopped by a failure.
    RollbackPaused,
    /// Went back.
    RollbackCompleted,
}

impl UpdateState {
    /// The API's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Updating => "updating",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RollbackStarted => "rollback_started",
            Self::RollbackPaused => "rollback_paused",
            Self::RollbackCompleted => "rollback_completed",
        }
    }
}

/// Progress of an update: all that a new leader needs to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateStatus {
    /// Where it stands.
    pub state: UpdateState,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; "never" while it runs.
    pub completed_at: Timestamp,
    /// In words.
    pub message: String,
    /// Slots whose new task failed within the monitoring time.
    pub failed_slots: u64,
    /// Slots that this update had to change when it began.
    pub total_slots: u64,
    /// Not before this instant does the next batch begin (the delay of the update config).
    pub next_batch_at: Timestamp,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Identity.
    pub id: ServiceId,
    /// Version and times.
    pub meta: Meta,
    /// As its user wants it.
    pub spec: ServiceSpec,
    /// Raised by every change of what tasks run; tasks carry the value they were made for.
    pub spec_version: u64,
    /// The spec before the last update; `None` when there is none to go back to.
    pub previous_spec: Option<Arc<ServiceSpec>>,
    /// `spec_version` that belonged to `previous_spec`.
    pub previous_spec_version: u64,
    /// Addresses and ports.
    pub endpoint: Endpoint,
    /// The last update; `None` when there never was one.
    pub update_status: Option<UpdateStatus>,
    /// Was the service deleted? Its tasks are being stopped; then it goes.
    pub pending_delete: bool,
}

/// A task's address on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// The network.
    pub network: NetworkId,
    /// The address with the subnet's prefix length; `None` for predefined networks that have no cluster addresses.
    pub addr: Option<Ipv4Net>,
    /// More DNS names on this network.
    pub aliases: Vec<String>,
}

/// What the agent knows of a task's container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// The container's id; empty until created.
    pub container_id: String,
    /// Process id on its node; 0 when not running.
    pub pid: u32,
    /// Exit status; `None` while it runs.
    pub exit_code: Option<i32>,
}

/// What is known of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskStatus {
    /// Its state.
    pub state: TaskState,
    /// When the agent or manager set it.
    pub timestamp: Timestamp,
    /// What is happening, in words.
    pub message: String,
    /// Why it cannot go on, or why it ended; empty when all is well.
    pub error: String,
    /// Its container; `None` before one was created.
    pub container: Option<ContainerStatus>,
    /// Ports published in host mode, with the node's choice of numbers.
    pub ports: Vec<PortConfig>,
}

/// What restarts of a slot have been, handed from a task to its replacement so that no leader has to remember.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartTrack {
    /// Restarts counted in the current window.
    pub attempts: u64,
    /// When that window began.
    pub window_start: Timestamp,
    /// Tasks of this slot that ended in a row soon after their start.
    pub crash_streak: u32,
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    /// Identity.
    pub id: TaskId,
    /// Version and times.
    pub meta: Meta,
    /// The service it belongs to.
    pub service_id: ServiceId,
    /// That service's name when the task was made.
    pub service_name: Arc<str>,
    /// Its slot, from 1; 0 for global services.
    pub slot: u64,
    /// Its node; `None` until scheduled. Global tasks have it from the start.
    pub node_id: Option<NodeId>,
    /// What it runs. Shared with the service.
    pub spec: Arc<TaskSpec>,
    /// The service's `spec_version` it was made for.
    pub spec_version: u64,
    /// What is wanted of it.
    pub desired_state: TaskState,
    /// What it does.
    pub status: TaskStatus,
    /// Addresses, in the order of the spec's networks; the routing mesh, if used, comes first.
    pub networks: Vec<NetworkAttachment>,
    /// Published ports of the service, for the ones in host mode.
    pub ports: Vec<PortConfig>,
    /// Not started before this instant (restart delay); "never" is at once.
    pub not_before: Timestamp,
    /// Restarts of its slot.
    pub restart: RestartTrack,
    /// How clients found the service when the task was made.
    pub endpoint_mode: EndpointMode,
    /// Was it made by an update or rollback (or is it the restart of such a task)? Then its fate decides that update.
    pub by_update: bool,
    /// When the managers learned that it runs, by their clock; "never" when it has not run.
    pub running_since: Timestamp,
    /// When the managers learned that it ended, by their clock; "never" while it lives.
    pub ended_at: Timestamp,
    /// The cluster's log driver when the task was made, if its spec names none; `None` is the node's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_log_driver: Option<Arc<LogDriver>>,
    /// The service's labels when the task was made; `None` when it has none, or no placeholder of the task wants them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_labels: Option<Arc<Labels>>,
}

impl Task {
    /// `<service>.<slot>.<task id>`, or `<service>.<node id>.<task id>` for global services, as Swarm names tasks.
    pub fn name(&self) -> String {
        match (self.slot, self.node_id) {
            (0, Some(node)) => format!("{}.{}.{}", self.service_name, node, self.id),
            (slot, _) => format!("{}.{}.{}", self.service_name, slot, self.id),
        }
    }
}

/// A container that is no task, on an attachable network. Its node asks for it, and gives it up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Identity.
    pub id: AttachmentId,
    /// Version and times.
    pub meta: Meta,
    /// The node that the container is on.
    pub node_id: NodeId,
    /// The network.
    pub network: NetworkId,
    /// The container: one that is on a network once.
    pub container_id: String,
    /// Its name, which resolves to its address on this network.
    pub name: String,
    /// More DNS names on this network.
    pub aliases: Vec<String>,
    /// Its address with the subnet's prefix length.
    pub addr: Ipv4Net,
}

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Secret {
    /// Identity.
    pub id: SecretId,
    /// Version and times.
    pub meta: Meta,
    /// Name, labels, payload.
    pub spec: SecretSpec,
}

/// A config.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Identity.
    pub id: ConfigId,
    /// Version and times.
    pub meta: Meta,
    /// Name, labels, payload.
    pub spec: ConfigSpec,
}
