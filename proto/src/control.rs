//! Requests that change desired state. Any manager takes them; a follower forwards them to the leader as they are.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{AttachmentId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use crate::object::{
    Attachment, Cluster, Config, Network, Node, NodeDescription, NodeState, Secret, Service, TaskStatus,
};
use crate::spec::{ClusterSpec, ConfigSpec, Labels, NetworkSpec, NodeSpec, SecretSpec, ServiceSpec};

/// A change that somebody asks for. `version` is the object version the change is based on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Makes a service.
    CreateService(Box<ServiceSpec>),
    /// Changes a service.
    UpdateService {
        /// Which.
        id: ServiceId,
        /// Based on this version.
        version: u64,
        /// The new spec.
        spec: Box<ServiceSpec>,
    },
    /// Takes a service back to its previous spec.
    RollbackService {
        /// Which.
        id: ServiceId,
        /// Based on this version.
        version: u64,
    },
    /// Deletes a service and its tasks.
    RemoveService(ServiceId),
    /// Makes a network.
    CreateNetwork(Box<NetworkSpec>),
    /// Deletes a network that nothing uses.
    RemoveNetwork(NetworkId),
    /// Makes a secret.
    CreateSecret(SecretSpec),
    /// Changes a secret's labels.
    UpdateSecret {
        /// Which.
        id: SecretId,
        /// Based on this version.
        version: u64,
        /// The new labels.
        labels: Labels,
    },
    /// Deletes a secret that nothing uses.
    RemoveSecret(SecretId),
    /// Makes a config.
    CreateConfig(ConfigSpec),
    /// Changes a config's labels.
    UpdateConfig {
        /// Which.
        id: ConfigId,
        /// Based on this version.
        version: u64,
        /// The new labels.
        labels: Labels,
    },
    /// Deletes a config that nothing uses.
    RemoveConfig(ConfigId),
    /// Changes what is wanted of a node (labels, availability, role).
    UpdateNode {
        /// Which.
        id: NodeId,
        /// Based on this version.
        version: u64,
        /// The new spec.
        spec: NodeSpec,
    },
    /// Forgets a node.
    RemoveNode {
        /// Which.
        id: NodeId,
        /// Even when it is alive?
        force: bool,
    },
    /// Changes cluster settings, and rotates what is asked for.
    UpdateCluster {
        /// Based on this version.
        version: u64,
        /// The new settings.
        spec: Box<ClusterSpec>,
        /// New worker token?
        rotate_worker_token: bool,
        /// New manager token?
        rotate_manager_token: bool,
        /// New unlock key?
        rotate_unlock_key: bool,
    },
    /// Puts a container of a node on a network. Asked for by that node only: not part of the user's API. Asked again it
    /// gives what there is, with the names of the last request.
    Attach {
        /// The node that asks.
        node: NodeId,
        /// What for.
        wish: Box<AttachmentWish>,
    },
    /// Takes containers of a node off their networks. Asked for by that node only; what is gone already is fine.
    Detach {
        /// The node that asks. What belongs to another one is left alone.
        node: NodeId,
        /// Which.
        ids: Vec<AttachmentId>,
    },
    /// What a dispatcher learned from the agents it serves. Not part of the user's API.
    Report(Vec<Report>),
}

/// A wish to put a container on a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachmentWish {
    /// The network, by id or name.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// Its name.
    pub name: String,
    /// More DNS names.
    pub aliases: Vec<String>,
    /// The address it must have; `None` takes any.
    pub addr: Option<Ipv4Addr>,
    /// The address it had last and gets again if it is free; `None` when it had none.
    pub last_addr: Option<Ipv4Addr>,
}

/// What a node asks a manager to do about its attachments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachmentRequest {
    /// Put a container on a network.
    Attach(AttachmentWish),
    /// Take containers off their networks.
    Detach(Vec<AttachmentId>),
}

/// Something a dispatcher learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// A task's status, from its node.
    Task {
        /// The node that says so; the task must be assigned to it.
        node: NodeId,
        /// The task.
        id: TaskId,
        /// What it is now. States that go backwards are dropped.
        status: TaskStatus,
    },
    /// A node's session began, or its description changed.
    NodeReady {
        /// The node.
        id: NodeId,
        /// What it says of itself.
        description: Arc<NodeDescription>,
        /// Address its session comes from.
        addr: Option<std::net::IpAddr>,
        /// Raft id of the manager that holds the session.
        session_manager: u64,
    },
    /// A node's session ended.
    NodeGone {
        /// The node.
        id: NodeId,
        /// `Down` or `Disconnected`.
        state: NodeState,
        /// Why, in words.
        message: String,
        /// Raft id of the manager that says so: ignored unless it still holds the session.
        session_manager: u64,
    },
    /// A node's daemon stops, and means to come back; its containers run on.
    NodeRestarting {
        /// The node.
        id: NodeId,
        /// Raft id of the manager that says so: ignored unless it still holds the session.
        session_manager: u64,
    },
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ControlResponse {
    /// Done; nothing to show.
    Done,
    /// The service as it is now, and warnings for the user.
    Service(Arc<Service>, Vec<String>),
    /// The network as it is now.
    Network(Arc<Network>),
    /// The attachment as it is now.
    Attachment(Arc<Attachment>),
    /// The secret as it is now.
    Secret(Arc<Secret>),
    /// The config as it is now.
    Config(Arc<Config>),
    /// The node as it is now.
    Node(Arc<Node>),
    /// The cluster as it is now.
    Cluster(Arc<Cluster>),
}
