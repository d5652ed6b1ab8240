//! What the parts of one manager share.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_kit::identity::NodeIdentity;
use shoal_kit::tls::PeerInfo;
use shoal_manager_core::store::Store;
use shoal_proto::error::Failure;
use shoal_proto::id::NodeId;
use shoal_proto::spec::NodeRole;
use shoal_proto::time::Timestamp;
use shoal_proto::wire::manager_peer_client::ManagerPeerClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::ca::AuthorityCache;
use crate::confirm::Confirmations;
use crate::dispatcher::{Dispatcher, standing};
use crate::peers::{Lane, Peers};
use crate::raft::log_store::{OpenDatabase, open_file};
use crate::raft::node::{RaftNode, Timing};
use crate::seal::KeyEncryption;

/// What a manager is made with.
#[derive(Clone)]
pub struct ManagerOptions {
    /// The node's cluster folder, `<data-root>/cluster`: the manager keeps its raft files in `raft/` below it.
    pub data_dir: PathBuf,
    /// The node's identity, with a manager's certificate.
    pub identity: Arc<NodeIdentity>,
    /// Where other nodes reach the cluster port.
    pub advertise_addr: SocketAddr,
    /// Where the cluster port is bound.
    pub listen_addr: SocketAddr,
    /// Where other nodes send overlay traffic; `None` is the advertised address.
    pub data_path_addr: Option<IpAddr>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes ids, keys and jitter.
    pub entropy: Entropy,
    /// How fast the consensus group reacts.
    pub timing: Timing,
    /// Where the key comes from that the data keys are sealed with.
    pub key_encryption: KeyEncryption,
    /// How the log's file is opened.
    pub open_database: OpenDatabase,
}

impl std::fmt::Debug for ManagerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagerOptions")
            .field("data_dir", &self.data_dir)
            .field("advertise_addr", &self.advertise_addr)
            .field("listen_addr", &self.listen_addr)
            .finish_non_exhaustive()
    }
}

impl ManagerOptions {
    /// Options with the usual settings: the key file beside the certificates, default timing, system randomness.
    pub fn new(
        data_dir: PathBuf,
        identity: Arc<NodeIdentity>,
        advertise_addr: SocketAddr,
        listen_addr: SocketAddr,
    ) -> Self {
        let key_encryption = KeyEncryption::File(data_dir.join("certificates/raft-kek"));
        let clock = Arc::clone(identity.clock());
        Self {
            data_dir,
            identity,
            advertise_addr,
            listen_addr,
            data_path_addr: None,
            clock,
            entropy: Entropy::from_system(),
            timing: Timing::default(),
            key_encryption,
            open_database: open_file(),
        }
    }

    pub(crate) fn raft_dir(&self) -> PathBuf {
        self.data_dir.join("raft")
    }
}

/// Health of the leader-only loops, in words; empty when all is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// What the reconcile loop failed with last.
    pub reconcile: Option<String>,
    /// What the membership loop failed with last.
    pub membership: Option<String>,
}

/// One manager, as its parts see it.
pub(crate) struct Inner {
    pub(crate) options: ManagerOptions,
    pub(crate) raft: Arc<RaftNode>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) authorities: AuthorityCache,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) stop: CancellationToken,
    pub(crate) health: watch::Sender<Health>,
    last_time: Mutex<Timestamp>,
    /// Held by the one change of members that is driven from here.
    pub(crate) changing_members: tokio::sync::Mutex<()>,
    pub(crate) confirmations: Confirmations,
}

impl Inner {
    pub(crate) fn new(options: ManagerOptions, raft: Arc<RaftNode>, peers: Arc<Peers>) -> Self {
        Self {
            options,
            raft,
            peers,
            authorities: AuthorityCache::default(),
            dispatcher: Dispatcher::default(),
            stop: CancellationToken::new(),
            health: watch::Sender::new(Health::default()),
            last_time: Mutex::new(Timestamp::ZERO),
            changing_members: tokio::sync::Mutex::default(),
            confirmations: Confirmations::default(),
        }
    }

    pub(crate) fn identity(&self) -> &Arc<NodeIdentity> {
        &self.options.identity
    }

    pub(crate) fn node_id(&self) -> NodeId {
        self.options.identity.node_id()
    }

    pub(crate) fn entropy(&self) -> Entropy {
        self.options.entropy.clone()
    }

    /// The clock's time, but never earlier than what this manager said before.
    pub(crate) fn now(&self) -> Timestamp {
        let mut last = self.last_time.lock().unwrap_or_else(PoisonError::into_inner);
        *last = self.options.clock.now().max(*last);
        *last
    }

    /// The newest store known here, not linearizable.
    pub(crate) fn store(&self) -> Store {
        self.raft.cell().store()
    }

    /// The cluster's heartbeat period.
    pub(crate) fn heartbeat_period(&self) -> Duration {
        self.store().cluster().map_or(Duration::from_secs(1), |cluster| cluster.spec.heartbeat_period)
    }

    /// Was a leader with a majority heard of lately?
    pub(crate) fn in_contact(&self, period: Duration) -> bool {
        let limit = standing::limit(period, self.options.timing.election_max);
        self.raft.contact().is_some_and(|at| at.elapsed() < limit)
    }

    /// The leader, when it is another manager.
    pub(crate) fn leader_client(&self, lane: Lane) -> Option<ManagerPeerClient<Channel>> {
        let view = self.raft.view();
        let leader = view.leader.filter(|id| *id != self.raft.id())?;
        let member = view.member(leader)?;
        self.peers.client(member.node_id, member.addr, lane).ok()
    }

    /// Managers that answered this leader lately, itself included.
    pub(crate) fn reachable(&self) -> Vec<u64> {
        let mut reachable = vec![self.raft.id()];
        let Ok(raft) = self.raft.raft() else { return reachable };
        let limit = self.options.timing.election_max * 3;
        let metrics = raft.metrics();
        let now = metrics.borrow_watched();
        for (id, heard) in now.heartbeat.iter().flatten() {
            if *id != self.raft.id() && heard.as_ref().is_some_and(|heard| heard.elapsed() < limit) {
                reachable.push(*id);
            }
        }
        reachable
    }

    /// The same as nodes.
    pub(crate) fn reachable_nodes(&self) -> Vec<NodeId> {
        let view = self.raft.view();
        self.reachable().into_iter().filter_map(|id| view.member(id).map(|member| member.node_id)).collect()
    }

    /// Nodes whose manager has a vote.
    pub(crate) fn voting_nodes(&self) -> Vec<NodeId> {
        let view = self.raft.view();
        let voters = view.membership.membership().voter_ids();
        voters.filter_map(|id| view.member(id).map(|member| member.node_id)).collect()
    }

    /// The caller of a request, if it showed a certificate of this cluster that is still valid.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<(PeerInfo, NodeId, NodeRole), Status> {
        let info = request
            .extensions()
            .get::<PeerInfo>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection has no peer information"))?;
        let subject = info
            .subject
            .as_ref()
            .ok_or_else(|| Status::unauthenticated("this call needs a certificate of the cluster"))?;
        if subject.cluster_id != self.options.identity.cluster_id() {
            return Err(Status::unauthenticated("the certificate belongs to another cluster"));
        }
        // Connections outlive certificates: each request checks anew.
        if self.options.clock.now() > subject.not_after {
            return Err(Status::unauthenticated("the certificate has expired: reconnect with a new one"));
        }
        let (node, role) = (subject.node_id, subject.role);
        Ok((info, node, role))
    }

    /// The same, for calls that only managers may make.
    pub(crate) fn manager_caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let (_, node, role) = self.caller(request)?;
        if role != NodeRole::Manager {
            return Err(Status::permission_denied("only managers may call this"));
        }
        Ok(node)
    }
}

/// A failure on its way to another manager, which puts it back together.
pub(crate) fn unavailable(failure: &Failure) -> Status {
    Status::unavailable(failure.message.clone())
}
