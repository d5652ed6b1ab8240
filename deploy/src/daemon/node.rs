//! The node's life in its cluster: init, join, leave, changes of role, and coming back after a restart.
//!
//! ## Design notes
//! What the node is lives on disk: its certificates (who it is, in which role) and `node.json` (where it listens, whom it
//! knows). A member is made from these alone, so a restart, a join and an init all end in the same [`Member::start`].
//! One operation at a time changes membership; a second one is refused, not queued.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use shoal_api::node::{InitRequest, JoinRequest, LocalNodeState, LocalNodeStatus, NodeControl, RemoteManager};
use shoal_engine::Engine;
use shoal_engine::network::ClusterNetworkState;
use shoal_kit::ca_client;
use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_kit::identity::NodeIdentity;
use shoal_manager::{BootstrapSpec, ManagerHandle};
use shoal_proto::error::{ErrorKind, Failure, chain};
use shoal_proto::id::NodeId;
use tokio::sync::Mutex;

use super::address;
use super::member::{Member, MemberOptions};

/// What a node needs of the daemon.
#[derive(Debug, Clone)]
pub(crate) struct NodeOptions {
    /// Folder for certificates, raft and `node.json`.
    pub(crate) data_dir: PathBuf,
    /// Advertised address when init and join name none.
    pub(crate) default_advertise_addr: String,
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Entropy,
}

/// What a member remembers besides its certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeFile {
    pub(crate) listen_addr: SocketAddr,
    pub(crate) advertise_addr: SocketAddr,
    pub(crate) data_path_addr: IpAddr,
    #[serde(default = "default_data_path_port")]
    pub(crate) data_path_port: u16,
    /// Managers known last.
    pub(crate) managers: Vec<String>,
}

fn default_data_path_port() -> u16 {
    4789
}

impl NodeFile {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("node.json")
    }

    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| Failure::internal(&error))?;
        std::fs::create_dir_all(data_dir.join("certificates")).map_err(|error| Failure::internal(&error))?;
        shoal_kit::identity::write_private(&Self::path(data_dir), &text).map_err(|error| Failure::internal(&error))
    }

    fn read(data_dir: &Path) -> Result<Option<Self>, Failure> {
        let path = Self::path(data_dir);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Failure::new(ErrorKind::Internal, format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::new(ErrorKind::Internal, format!("{}: {error}", path.display()))),
        }
    }
}

/// Where the node stands.
#[derive(Debug, Clone, Default)]
enum Membership {
    /// In no cluster.
    #[default]
    None,
    /// Starting.
    Pending,
    /// A member.
    Member(Arc<Member>),
    /// A member that could not be started, and why.
    Broken(String),
}

/// The node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: NodeOptions,
    membership: RwLock<Membership>,
    /// Held by the one operation that changes membership.
    operation: Mutex<()>,
}

impl Node {
    /// The node as it was left: in no cluster, or starting as a member.
    pub(crate) async fn open(options: NodeOptions) -> Self {
        let node =
            Self { shared: Arc::new(Shared { options, membership: RwLock::default(), operation: Mutex::new(()) }) };
        if let Err(failure) = node.restore().await {
            tracing::error!(error = failure.message, "this node is in a cluster, but cannot take part in it");
            node.set(Membership::Broken(failure.message));
        }
        if node.member().is_none() {
            node.shared.options.engine.stay_outside();
        }
        node
    }

    async fn restore(&self) -> Result<(), Failure> {
        let options = &self.shared.options;
        let directory = NodeIdentity::directory(&options.data_dir);
        let identity =
            NodeIdentity::load(&directory, Arc::clone(&options.clock)).map_err(|error| Failure::internal(&error))?;
        let (Some(identity), Some(file)) = (identity, NodeFile::read(&options.data_dir)?) else {
            // A crash in the middle of a join or a leave: half a membership is none.
            return self.erase().await;
        };
        self.set(Membership::Pending);
        let member = Member::restart(self.member_options(), Arc::new(identity), file).await?;
        self.set(Membership::Member(Arc::new(member)));
        Ok(())
    }

    /// Ends the node's part in its cluster for this process; it stays a member.
    pub(crate) async fn stop(&self) {
        if let Some(member) = self.member() {
            member.stop().await;
        }
    }

    fn member_options(&self) -> MemberOptions {
        let options = &self.shared.options;
        MemberOptions {
            data_dir: options.data_dir.clone(),
            engine: options.engine.clone(),
            clock: Arc::clone(&options.clock),
            entropy: options.entropy.clone(),
        }
    }

    fn membership(&self) -> Membership {
        self.shared.membership.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, membership: Membership) {
        *self.shared.membership.write().unwrap_or_else(PoisonError::into_inner) = membership;
    }

    fn member(&self) -> Option<Arc<Member>> {
        match self.membership() {
            Membership::Member(member) => Some(member),
            _ => None,
        }
    }

    fn begin(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Failure> {
        self.shared
            .operation
            .try_lock()
            .map_err(|_| Failure::unavailable("another init, join or leave of this node is under way"))
    }

    fn must_be_outside(&self) -> Result<(), Failure> {
        match self.membership() {
            Membership::None => Ok(()),
            _ => Err(Failure::unavailable(
                "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
            )),
        }
    }

    async fn erase(&self) -> Result<(), Failure> {
        let data_dir = self.shared.options.data_dir.clone();
        let erased = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&data_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::new(ErrorKind::Internal, format!("cannot remove {}: {error}", data_dir.display())))
            }
            _ => Ok(()),
        });
        erased.await.map_err(|error| Failure::internal(&error))?
    }

    fn file(
        &self,
        listen: &str,
        advertise: &str,
        data_path: &str,
        toward: Option<IpAddr>,
    ) -> Result<NodeFile, Failure> {
        let interfaces = address::interfaces()?;
        let listen_addr = address::listen(listen, &interfaces)?;
        let wanted = if advertise.is_empty() { &self.shared.options.default_advertise_addr } else { advertise };
        let advertise_addr = match toward {
            Some(addr) => SocketAddr::new(addr, listen_addr.port()),
            None => address::advertise(wanted, listen_addr.port(), &interfaces)?,
        };
        let data_path_addr = address::data_path(data_path, advertise_addr.ip(), &interfaces)?;
        Ok(NodeFile {
            listen_addr,
            advertise_addr,
            data_path_addr,
            data_path_port: default_data_path_port(),
            managers: Vec::new(),
        })
    }

    async fn do_init(&self, request: InitRequest) -> Result<NodeId, Failure> {
        let _operation = self.begin()?;
        if request.force_new_cluster {
            return Err(Failure::new(ErrorKind::NotImplemented, "--force-new-cluster is not available yet"));
        }
        self.must_be_outside()?;
        let mut file = self.file(&request.listen_addr, &request.advertise_addr, &request.data_path_addr, None)?;
        file.data_path_port = request.pools.data_path_port;
        file.managers = vec![file.advertise_addr.to_string()];
        self.set(Membership::Pending);
        let started = self.start_first(request, file).await;
        let member = self.settle(started).await?;
        member.wait_known().await;
        Ok(member.node_id())
    }

    async fn start_first(&self, request: InitRequest, file: NodeFile) -> Result<Member, Failure> {
        let bootstrap = BootstrapSpec {
            cluster: request.spec,
            pools: request.pools,
            availability: request.availability,
            ..BootstrapSpec::default()
        };
        Member::first(self.member_options(), bootstrap, file).await
    }

    async fn do_join(&self, request: JoinRequest) -> Result<(), Failure> {
        let _operation = self.begin()?;
        self.must_be_outside()?;
        let remotes = request.remote_addrs.iter().map(|addr| address::remote(addr)).collect::<Result<Vec<_>, _>>()?;
        let toward = if request.advertise_addr.is_empty() && self.shared.options.default_advertise_addr.is_empty() {
            // Asks for names.
            let remotes = remotes.clone();
            let found = tokio::task::spawn_blocking(move || address::toward(&remotes));
            found.await.map_err(|error| Failure::internal(&error))??
        } else {
            None
        };
        let mut file = self.file(&request.listen_addr, &request.advertise_addr, &request.data_path_addr, toward)?;
        file.managers.clone_from(&remotes);
        let token = request
            .join_token
            .parse()
            .map_err(|error: shoal_kit::join_token::InvalidJoinToken| Failure::invalid(error.to_string()))?;
        let asked = ca_client::JoinRequest {
            token,
            remotes,
            availability: request.availability,
            timeout: Duration::from_secs(10),
        };
        let issued = ca_client::join(&asked, &self.shared.options.clock).await.map_err(|error| ca_failure(&error))?;
        self.set(Membership::Pending);
        let started = self.start_joined(issued, file).await;
        let member = self.settle(started).await?;
        member.wait_joined().await.map_err(|failure| {
            let message = format!(
                "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. \
                 Use the \"docker info\" command to see the current swarm status of your node. ({})",
                failure.message
            );
            Failure::new(failure.kind, message)
        })
    }

    async fn start_joined(&self, issued: ca_client::Issued, mut file: NodeFile) -> Result<Member, Failure> {
        let options = &self.shared.options;
        // Every node must send and expect overlay traffic on the port that the cluster was made with.
        file.data_path_port = issued.data_path_port;
        file.write(&options.data_dir)?;
        let directory = NodeIdentity::directory(&options.data_dir);
        let identity = NodeIdentity::create(&directory, Arc::clone(&options.clock), issued.material)
            .map_err(|error| Failure::internal(&error))?;
        Member::joined(self.member_options(), Arc::new(identity), file).await
    }

    /// A new member is one when all of its parts were started; otherwise nothing of it stays.
    async fn settle(&self, started: Result<Member, Failure>) -> Result<Arc<Member>, Failure> {
        match started {
            Ok(member) => {
                let member = Arc::new(member);
                self.set(Membership::Member(Arc::clone(&member)));
                Ok(member)
            }
            Err(failure) => {
                self.shared.options.engine.stay_outside();
                self.erase().await?;
                self.set(Membership::None);
                Err(failure)
            }
        }
    }

    async fn do_leave(&self, force: bool) -> Result<(), Failure> {
        let _operation = self.begin()?;
        match self.membership() {
            Membership::None => return Err(Failure::unavailable("This node is not part of a swarm")),
            Membership::Member(member) => member.leave(force).await?,
            Membership::Broken(_) | Membership::Pending if !force => {
                return Err(Failure::unavailable(
                    "this node cannot reach its cluster: use --force to forget it nevertheless",
                ));
            }
            Membership::Broken(_) | Membership::Pending => {}
        }
        self.shared.options.engine.stay_outside();
        self.remove_task_containers().await;
        self.erase().await?;
        self.set(Membership::None);
        Ok(())
    }

    /// A node outside of the cluster runs none of its tasks and is on none of its networks.
    async fn remove_task_containers(&self) {
        let engine = &self.shared.options.engine;
        engine.leave_lost_places(&BTreeSet::new()).await;
        let options = shoal_engine::container::RemoveOptions { force: true, volumes: true, link: false };
        for container in engine.list_task_containers() {
            if let Err(failure) = engine.containers().remove(&container.id, options).await {
                tracing::warn!(container = container.id, error = failure.message, "cannot remove a task's container");
            }
        }
        let nothing = ClusterNetworkState {
            node_id: NodeId::default(),
            data_path_addr: Ipv4Addr::UNSPECIFIED.into(),
            data_path_port: default_data_path_port(),
            networks: BTreeMap::new(),
            published: BTreeMap::new(),
        };
        if let Err(failure) = engine.networks().apply_cluster(nothing).await {
            tracing::warn!(error = failure.message, "cannot remove the cluster's networks from this node");
        }
    }
}

fn ca_failure(error: &ca_client::CaError) -> Failure {
    let kind = match error {
        ca_client::CaError::Unreachable { .. } => ErrorKind::Unavailable,
        ca_client::CaError::Answer(_) | ca_client::CaError::Identity(_) => ErrorKind::Internal,
        _ => ErrorKind::PermissionDenied,
    };
    Failure::new(kind, chain(error))
}

impl NodeControl for Node {
    fn status(&self) -> LocalNodeStatus {
        match self.membership() {
            Membership::None => LocalNodeStatus::default(),
            Membership::Pending => LocalNodeStatus { state: LocalNodeState::Pending, ..LocalNodeStatus::default() },
            Membership::Broken(error) => {
                LocalNodeStatus { state: LocalNodeState::Error, error, ..LocalNodeStatus::default() }
            }
            Membership::Member(member) => member_status(&member),
        }
    }

    fn init(&self, request: InitRequest) -> BoxFuture<'_, Result<NodeId, Failure>> {
        self.do_init(request).boxed()
    }

    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<(), Failure>> {
        self.do_join(request).boxed()
    }

    fn leave(&self, force: bool) -> BoxFuture<'_, Result<(), Failure>> {
        self.do_leave(force).boxed()
    }

    fn unlock(&self, _key: String) -> BoxFuture<'_, Result<(), Failure>> {
        std::future::ready(Err(Failure::conflict("swarm is not locked"))).boxed()
    }

    fn unlock_key(&self) -> BoxFuture<'_, Result<String, Failure>> {
        async move {
            let manager = self.manager().ok_or_else(|| Failure::unavailable("this node is not a swarm manager"))?;
            let store = manager.read().await?;
            let locking = store.cluster().filter(|cluster| cluster.spec.auto_lock_managers);
            Ok(locking.map(|cluster| cluster.unlock_key.clone()).unwrap_or_default())
        }
        .boxed()
    }

    fn manager(&self) -> Option<ManagerHandle> {
        self.member().and_then(|member| member.manager())
    }
}

fn member_status(member: &Member) -> LocalNodeStatus {
    let session = member.session();
    let manager = member.manager();
    let managers = match &manager {
        Some(manager) => {
            let store = manager.local();
            let members = store.nodes().filter_map(|node| {
                let addr = node.manager.as_ref()?.addr;
                Some(RemoteManager { node_id: Some(node.id), addr: addr.to_string() })
            });
            members.collect()
        }
        None => member.managers().into_iter().map(|addr| RemoteManager { node_id: None, addr }).collect(),
    };
    LocalNodeStatus {
        state: LocalNodeState::Active,
        node_id: Some(member.node_id()),
        node_addr: Some(member.advertise_addr().ip()),
        error: session.error,
        control_available: manager.is_some(),
        remote_managers: managers,
    }
}
