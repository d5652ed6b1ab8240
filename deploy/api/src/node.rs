//! What the API needs of the daemon it runs in: the life of this node in its cluster.

use std::net::IpAddr;

use futures::future::BoxFuture;
use shoal_manager::ManagerHandle;
use shoal_proto::error::Failure;
use shoal_proto::id::NodeId;
use shoal_proto::spec::{AddressPools, Availability, ClusterSpec};

/// Where this node stands towards a cluster, in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalNodeState {
    /// Belongs to none.
    #[default]
    Inactive,
    /// Joining, or starting as a member.
    Pending,
    /// A working member.
    Active,
    /// A member that could not start.
    Error,
    /// A manager whose store waits for the unlock key.
    Locked,
}

impl LocalNodeState {
    /// `inactive`, `pending`, `active`, `error` or `locked`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Error => "error",
            Self::Locked => "locked",
        }
    }
}

/// A manager that this node knows, and where it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteManager {
    /// Its node id; `None` when only its address is known so far.
    pub node_id: Option<NodeId>,
    /// `host:port` of its cluster port.
    pub addr: String,
}

/// The `Swarm` block of `docker info`, as far as the node itself knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalNodeStatus {
    /// Where the node stands.
    pub state: LocalNodeState,
    /// Its id; `None` while it belongs to no cluster.
    pub node_id: Option<NodeId>,
    /// The address it advertises.
    pub node_addr: Option<IpAddr>,
    /// What went wrong, in words; empty when all is well.
    pub error: String,
    /// Is it a manager that can answer cluster requests?
    pub control_available: bool,
    /// Managers it may talk to.
    pub remote_managers: Vec<RemoteManager>,
}

/// `swarm init`. Addresses are as the user gave them (`address`, `interface`, either with `:port`); empty is default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitRequest {
    /// Where the cluster port listens; Docker's default is `0.0.0.0:2377`.
    pub listen_addr: String,
    /// What others are told.
    pub advertise_addr: String,
    /// Address for overlay traffic; empty is the advertised one.
    pub data_path_addr: String,
    /// Start again from the local store with this node as the only manager?
    pub force_new_cluster: bool,
    /// Availability of this node.
    pub availability: Availability,
    /// Where subnets come from, and the overlay port.
    pub pools: AddressPools,
    /// Settings of the cluster.
    pub spec: ClusterSpec,
}

/// `swarm join`. Addresses as in [`InitRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JoinRequest {
    /// Where the cluster port listens.
    pub listen_addr: String,
    /// What others are told.
    pub advertise_addr: String,
    /// Address for overlay traffic; empty is the advertised one.
    pub data_path_addr: String,
    /// Managers to ask, `host:port`; never empty.
    pub remote_addrs: Vec<String>,
    /// The secret that admits this node, and says in which role.
    pub join_token: String,
    /// Availability of this node.
    pub availability: Availability,
}

/// The daemon's side of the `/swarm` routes. One value serves all requests, for as long as the API runs.
///
/// Calls are not serialised by the API: the daemon refuses what clashes with a change that is under way.
pub trait NodeControl: Send + Sync + 'static {
    /// Where the node stands now, from what it knows itself: it is part of every `_ping`, and of requests that must be
    /// answered while no leader can be reached.
    fn status(&self) -> LocalNodeStatus;

    /// Makes a cluster with this node as its first manager; returns when the node is active.
    fn init(&self, request: InitRequest) -> BoxFuture<'_, Result<NodeId, Failure>>;

    /// Joins a cluster; returns when the node is active.
    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<(), Failure>>;

    /// Leaves the cluster and forgets it. A manager leaves only with `force`.
    fn leave(&self, force: bool) -> BoxFuture<'_, Result<(), Failure>>;

    /// Opens the store of a locked manager.
    fn unlock(&self, key: String) -> BoxFuture<'_, Result<(), Failure>>;

    /// The key that unlocks managers after a restart; empty when they are not locked.
    fn unlock_key(&self) -> BoxFuture<'_, Result<String, Failure>>;

    /// The manager that runs on this node; `None` on workers, on standalone nodes and while it is locked.
    fn manager(&self) -> Option<ManagerHandle>;
}
