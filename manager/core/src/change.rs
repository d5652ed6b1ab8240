//! What can happen to the store: the vocabulary of a raft entry.
//!
//! ## Design notes
//! Whole objects are put with a guard (the version they were read at), so that no update is lost. What planners and
//! agents change all the time has patches instead: they are small, and they commute with each other, because task
//! states only ever go forward. A patch of a task that is gone does nothing: reports may arrive after the task was
//! reaped, and one late report must not fail a batch.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::{AttachmentId, ClusterId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use shoal_proto::object::{
    Attachment, Cluster, Config, Endpoint, ManagerMember, Meta, Network, NetworkAttachment, Node, NodeDescription,
    NodeStatus, RestartTrack, Secret, Service, Task, TaskStatus, UpdateStatus,
};
use shoal_proto::spec::{NodeRole, NodeSpec, Protocol};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

/// An object of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Object {
    /// The cluster.
    Cluster(Arc<Cluster>),
    /// A node.
    Node(Arc<Node>),
    /// A service.
    Service(Arc<Service>),
    /// A task.
    Task(Arc<Task>),
    /// A network.
    Network(Arc<Network>),
    /// A secret.
    Secret(Arc<Secret>),
    /// A config.
    Config(Arc<Config>),
    /// A container that is no task, on a network.
    Attachment(Arc<Attachment>),
}

impl Object {
    /// What the object is filed under.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Cluster(cluster) => ObjectKey::Cluster(cluster.id),
            Self::Node(node) => ObjectKey::Node(node.id),
            Self::Service(service) => ObjectKey::Service(service.id),
            Self::Task(task) => ObjectKey::Task(task.id),
            Self::Network(network) => ObjectKey::Network(network.id),
            Self::Secret(secret) => ObjectKey::Secret(secret.id),
            Self::Config(config) => ObjectKey::Config(config.id),
            Self::Attachment(attachment) => ObjectKey::Attachment(attachment.id),
        }
    }

    /// Version and times.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Cluster(cluster) => &cluster.meta,
            Self::Node(node) => &node.meta,
            Self::Service(service) => &service.meta,
            Self::Task(task) => &task.meta,
            Self::Network(network) => &network.meta,
            Self::Secret(secret) => &secret.meta,
            Self::Config(config) => &config.meta,
            Self::Attachment(attachment) => &attachment.meta,
        }
    }
}

macro_rules! into_object {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        }
        impl From<Arc<$kind>> for Object {
            fn from(object: Arc<$kind>) -> Self {
                Self::$kind(object)
            }
        }
    )*};
}
into_object!(Cluster, Node, Service, Task, Network, Secret, Config, Attachment);

/// What an object is filed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKey {
    /// The cluster.
    Cluster(ClusterId),
    /// A node.
    Node(NodeId),
    /// A service.
    Service(ServiceId),
    /// A task.
    Task(TaskId),
    /// A network.
    Network(NetworkId),
    /// A secret.
    Secret(SecretId),
    /// A config.
    Config(ConfigId),
    /// A container that is no task, on a network.
    Attachment(AttachmentId),
}

impl ObjectKey {
    /// The word for this kind of object.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Cluster(_) => "cluster",
            Self::Node(_) => "node",
            Self::Service(_) => "service",
            Self::Task(_) => "task",
            Self::Network(_) => "network",
            Self::Secret(_) => "secret",
            Self::Config(_) => "config",
            Self::Attachment(_) => "attachment",
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(id) => write!(f, "cluster {id}"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Service(id) => write!(f, "service {id}"),
            Self::Task(id) => write!(f, "task {id}"),
            Self::Network(id) => write!(f, "network {id}"),
            Self::Secret(id) => write!(f, "secret {id}"),
            Self::Config(id) => write!(f, "config {id}"),
            Self::Attachment(id) => write!(f, "attachment {id}"),
        }
    }
}

/// What must be true of the object before the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing: the object may exist or not.
    #[default]
    Any,
    /// It does not exist yet.
    Absent,
    /// It exists at this version.
    Version(u64),
}

/// One change. A batch of them is applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Makes or replaces an object. Its `meta` is set by the store.
    Put {
        /// The object.
        object: Object,
        /// Guard.
        expect: Expect,
    },
    /// Deletes an object; deleting what is gone does nothing, unless the guard says otherwise.
    Delete {
        /// Which.
        key: ObjectKey,
        /// Guard.
        expect: Expect,
    },
    /// Makes a task of a service's current spec.
    NewTask(Box<NewTask>),
    /// Changes a task. Does nothing when the task is gone.
    Task {
        /// Which.
        id: TaskId,
        /// What.
        patch: Box<TaskPatch>,
    },
    /// Changes what the cluster knows of a service.
    Service {
        /// Which.
        id: ServiceId,
        /// What.
        patch: Box<ServicePatch>,
        /// Guard.
        expect: Expect,
    },
    /// Changes a node. Does nothing when the node is gone, unless the guard says otherwise.
    Node {
        /// Which.
        id: NodeId,
        /// What.
        patch: Box<NodePatch>,
        /// Guard.
        expect: Expect,
    },
}

impl Change {
    /// Makes an object that must not exist yet.
    pub fn create(object: impl Into<Object>) -> Self {
        Self::Put { object: object.into(), expect: Expect::Absent }
    }

    /// Replaces an object read at the version in its `meta`.
    pub fn update(object: impl Into<Object>) -> Self {
        let object = object.into();
        let expect = Expect::Version(object.meta().version);
        Self::Put { object, expect }
    }

    /// Puts an object whatever is there.
    pub fn put(object: impl Into<Object>) -> Self {
        Self::Put { object: object.into(), expect: Expect::Any }
    }

    /// Deletes an object whatever its version.
    pub const fn delete(key: ObjectKey) -> Self {
        Self::Delete { key, expect: Expect::Any }
    }

    /// The object that the change is about.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Put { object, .. } => object.key(),
            Self::Delete { key, .. } => *key,
            Self::NewTask(task) => ObjectKey::Task(task.id),
            Self::Task { id, .. } => ObjectKey::Task(*id),
            Self::Service { id, .. } => ObjectKey::Service(*id),
            Self::Node { id, .. } => ObjectKey::Node(*id),
        }
    }
}

/// A task to be made of the current spec of its service: refused when that has another `spec_version` by then.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// Its service.
    pub service_id: ServiceId,
    /// Its slot; 0 for global services.
    pub slot: u64,
    /// Its node, when known from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// The spec version it is made for.
    pub spec_version: u64,
    /// What is wanted of it.
    pub desired_state: TaskState,
    /// First status.
    pub status: TaskStatus,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachment>,
    /// Not started before.
    pub not_before: Timestamp,
    /// Restarts of its slot.
    pub restart: RestartTrack,
    /// Made by an update?
    pub by_update: bool,
}

/// Changes of one task; `None` leaves a field as it is. States never go back: an older one is dropped.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskPatch {
    /// The node it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// What is wanted of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_state: Option<TaskState>,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<NetworkAttachment>>,
}

/// Changes of what the cluster knows of a service; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServicePatch {
    /// Its ports and virtual addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Where its update stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_status: Option<UpdateStatus>,
}

/// Changes of one node; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodePatch {
    /// Do nothing unless this manager (raft id) holds the node's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_session_manager: Option<u64>,
    /// What is wanted of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<NodeSpec>,
    /// Is it alive?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
    /// What it says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<NodeDescription>,
    /// Its address on the routing mesh; `Some(None)` takes it away.
    #[serde(skip_serializing_if = "Option::is_none", with = "nested_option")]
    pub ingress_address: Option<Option<Ipv4Addr>>,
    /// Role of its newest certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_role: Option<NodeRole>,
    /// Its raft membership; `Some(None)` ends it.
    #[serde(skip_serializing_if = "Option::is_none", with = "nested_option")]
    pub manager: Option<Option<ManagerMember>>,
}

/// `Some(None)` as a list of nothing, because the codec writes both levels of `None` alike.
mod nested_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::option_option, clippy::ref_option, reason = "the shape serde asks for")]
    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let list: Option<Vec<&T>> = value.as_ref().map(|inner| inner.iter().collect());
        list.serialize(serializer)
    }

    #[expect(clippy::option_option, reason = "the shape serde asks for")]
    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        let list: Option<Vec<T>> = Option::deserialize(deserializer)?;
        Ok(list.map(|mut list| list.pop()))
    }
}

/// Why a batch was refused. Nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ApplyError {
    /// The change was based on another version of the object.
    #[error("update out of sequence: {key} is at version {found}, the change was based on {expected}")]
    Stale {
        /// The object.
        key: ObjectKey,
        /// Version that the change was based on.
        expected: u64,
        /// Its version now; 0 when it does not exist.
        found: u64,
    },
    /// The object does not exist.
    #[error("{key} not found")]
    Missing {
        /// The object.
        key: ObjectKey,
    },
    /// The object exists already.
    #[error("{key} already exists")]
    Exists {
        /// The object.
        key: ObjectKey,
    },
    /// Another object has the name.
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    NameTaken {
        /// Kind of the objects.
        kind: String,
        /// The name.
        name: String,
    },
    /// Somebody else holds the address.
    #[error("address {addr} of {network} is already in use", network = ObjectKey::Network(*network))]
    AddressTaken {
        /// The network.
        network: NetworkId,
        /// The address.
        addr: Ipv4Addr,
    },
    /// Another service publishes the port.
    #[error("port '{port}/{}' is already in use by {} as an ingress port", protocol.as_str(), ObjectKey::Service(*service))]
    PortTaken {
        /// Protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// Who has it.
        service: ServiceId,
    },
    /// Another network has the VXLAN identifier.
    #[error("VXLAN identifier {vni} is already in use")]
    VniTaken {
        /// The identifier.
        vni: u32,
    },
    /// Something still uses the object.
    #[error("{key} is in use by {user}")]
    InUse {
        /// The object.
        key: ObjectKey,
        /// One of its users.
        user: ObjectKey,
    },
    /// The entry's version is not newer than the store's.
    #[error("entry {version} was applied already: the store is at {at}")]
    OldEntry {
        /// The entry's version.
        version: u64,
        /// The store's version.
        at: u64,
    },
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        let kind = match &error {
            ApplyError::Stale { .. } => return Self::new(ErrorKind::StaleVersion, "update out of sequence"),
            ApplyError::Missing { .. } => ErrorKind::NotFound,
            ApplyError::Exists { .. } | ApplyError::NameTaken { .. } | ApplyError::InUse { .. } => ErrorKind::Conflict,
            ApplyError::PortTaken { .. } => ErrorKind::InvalidArgument,
            ApplyError::AddressTaken { .. } | ApplyError::VniTaken { .. } | ApplyError::OldEntry { .. } => {
                ErrorKind::Internal
            }
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::codec;

    #[test]
    fn an_ended_membership_survives_the_codec() {
        for manager in
            [None, Some(None), Some(Some(ManagerMember { raft_id: 7, addr: "10.0.0.1:2377".parse().unwrap() }))]
        {
            let patch = NodePatch { manager, ..NodePatch::default() };
            assert_eq!(codec::decode::<NodePatch>(&codec::encode(&patch)).unwrap(), patch);
        }
    }

    #[test]
    fn a_status_patch_is_small() {
        let status = TaskStatus { state: TaskState::Running, message: "started".into(), ..TaskStatus::default() };
        let change = Change::Task {
            id: TaskId::from_bits(1),
            patch: Box::new(TaskPatch { status: Some(status), ..TaskPatch::default() }),
        };
        let bytes = codec::encode(&change);
        assert!(bytes.len() < 160, "{} bytes", bytes.len());
        assert_eq!(codec::decode::<Change>(&bytes).unwrap(), change);
    }

    #[test]
    fn a_stale_change_reads_as_swarm_puts_it() {
        let failure: Failure =
            ApplyError::Stale { key: ObjectKey::Service(ServiceId::from_bits(1)), expected: 3, found: 4 }.into();
        assert_eq!(failure.message, "update out of sequence");
        assert_eq!(failure.kind, ErrorKind::StaleVersion);
    }
}
