//! One manager: made, joined or started again, and stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_kit::backoff::Backoff;
use shoal_kit::reason::describe;
use shoal_kit::tls::{self, DialOptions, Listener, ListenerOptions};
use shoal_manager_core::change::Change;
use shoal_manager_core::control::{initial_networks, refuse_autolock};
use shoal_proto::error::{Failure, chain};
use shoal_proto::object::{Cluster, ManagerMember, Node, RootCa};
use shoal_proto::spec::{AddressPools, Availability, ClusterSpec, NodeRole, NodeSpec};
use shoal_proto::wire::ca_server::CaServer;
use shoal_proto::wire::dispatcher_server::DispatcherServer;
use shoal_proto::wire::manager_peer_server::ManagerPeerServer;
use shoal_proto::wire::{JoinRaftRequest, JoinRaftResponse};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::ca::service::CaService;
use crate::dispatcher::service::DispatcherService;
use crate::dispatcher::{hub, reporter, sweep};
use crate::handle::ManagerHandle;
use crate::inner::{Inner, ManagerOptions};
use crate::member_file::MemberFile;
use crate::peer_service::PeerService;
use crate::peers::{MESSAGE_LIMIT, Peers, client_over};
use crate::raft::node::{RaftNode, RaftOptions};
use crate::raft::types::{BatchBody, Outcome, RaftMember};
use crate::seal::Keyring;

/// How long a manager that joins may take to be taken in, and then to get its vote.
pub(crate) const JOIN: Duration = Duration::from_secs(30);

/// What a new cluster begins with.
#[derive(Debug, Clone, Default)]
pub struct BootstrapSpec {
    /// Its settings.
    pub cluster: ClusterSpec,
    /// Where its networks' subnets come from.
    pub pools: AddressPools,
    /// Availability of the first node.
    pub availability: Availability,
    /// The root and tokens, from [`crate::ca::Founding`].
    pub root: RootCa,
}

/// A manager's tasks. Dropping it ends them; [`Manager::shutdown`] ends them in order.
#[derive(Debug)]
pub struct Manager {
    handle: ManagerHandle,
    tasks: JoinSet<()>,
    listen_addr: SocketAddr,
}

fn internal(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::internal(error)
}

impl Manager {
    /// Makes a new cluster with this node as its first manager.
    ///
    /// # Errors
    /// When the node is a manager already, the port cannot be bound, or the disk fails.
    pub async fn bootstrap(options: ManagerOptions, spec: BootstrapSpec) -> Result<Self, Failure> {
        refuse_autolock(&spec.cluster)?;
        let raft_id = (options.entropy.next_u64() >> 1).max(1);
        let manager = Self::launch(options, raft_id, true).await?;
        let inner = Arc::clone(&manager.handle.inner);
        let made = async {
            inner.raft.wait_running().await?;
            let member = RaftMember { node_id: inner.node_id(), addr: inner.options.advertise_addr };
            inner.raft.initialize(member).await?;
            let term = inner.wait_leading(Duration::from_secs(10)).await?;
            inner.write_first_objects(spec, term).await
        };
        match made.await {
            Ok(()) => Ok(manager),
            Err(failure) => {
                manager.shutdown().await;
                Err(failure)
            }
        }
    }

    /// Starts this node's manager again from disk.
    ///
    /// # Errors
    /// When this node is no manager, the port cannot be bound, or its keys do not open its files.
    pub async fn start(options: ManagerOptions) -> Result<Self, Failure> {
        let file = MemberFile::load(&options.raft_dir()).map_err(|error| internal(&error))?;
        let file = file.ok_or_else(|| Failure::not_found("this node was never a manager: there is no membership"))?;
        let cluster = options.identity.cluster_id();
        if file.cluster_id != cluster || file.node_id != options.identity.node_id() {
            return Err(Failure::conflict(format!(
                "the raft files in {} belong to node {} of cluster {}, not to this one",
                options.raft_dir().display(),
                file.node_id,
                file.cluster_id
            )));
        }
        let manager = Self::launch(options, file.raft_id, false).await?;
        let inner = Arc::clone(&manager.handle.inner);
        let recovered = async {
            let raft = inner.raft.wait_running().await?;
            // A full disk is no reason to give up: the raft node keeps trying.
            let _ = raft.wait_for_recovery(Some(Duration::from_secs(10))).await;
            Ok::<(), Failure>(())
        };
        if let Err(failure) = recovered.await {
            tracing::warn!(%failure, "this manager's raft core does not run yet");
        }
        Ok(manager)
    }

    /// Is there something on disk that [`Manager::start`] can start?
    pub fn exists(options: &ManagerOptions) -> bool {
        matches!(MemberFile::load(&options.raft_dir()), Ok(Some(_)))
    }

    /// Makes this node, which has a manager's certificate, a member of its cluster's consensus group. It gets its vote
    /// in the background, when it has caught up: see [`ManagerHandle::wait_voting`]. From here on the others may count on
    /// its files: whoever erases them makes it leave first.
    ///
    /// # Errors
    /// When no manager takes it in: the reasons of all that were asked.
    pub async fn join(options: ManagerOptions, remotes: Vec<String>) -> Result<Self, Failure> {
        // What a former membership left behind must not be mixed with the new one.
        remove_raft_files(&options)?;
        let answer = ask_to_join(&options, remotes).await?;
        let manager = Self::launch(options, answer.raft_id, true).await?;
        let running = manager.handle.inner.raft.wait_running().await;
        match running {
            Ok(_) => Ok(manager),
            // Never run, it never answered, so that it cannot have got a vote.
            Err(failure) => {
                manager.shutdown().await;
                Err(failure)
            }
        }
    }

    /// Removes what this node's manager left on disk (after it left its cluster or was demoted).
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn erase(options: &ManagerOptions) -> Result<(), Failure> {
        remove_raft_files(options)
    }

    async fn launch(options: ManagerOptions, raft_id: u64, fresh: bool) -> Result<Self, Failure> {
        if options.identity.role() != NodeRole::Manager {
            return Err(Failure::new(
                shoal_proto::error::ErrorKind::PermissionDenied,
                "this node's certificate is that of a worker",
            ));
        }
        let directory = options.raft_dir();
        let (file_directory, kek, entropy) =
            (directory.clone(), options.key_encryption.clone(), options.entropy.clone());
        let member =
            MemberFile { raft_id, node_id: options.identity.node_id(), cluster_id: options.identity.cluster_id() };
        let prepared = tokio::task::spawn_blocking(move || {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&file_directory)
                .map_err(|error| internal(&error))?;
            if fresh {
                if MemberFile::load(&file_directory).map_err(|error| internal(&error))?.is_some() {
                    return Err(Failure::conflict("this node is a manager of a cluster already"));
                }
                member.store(&file_directory).map_err(|error| internal(&error))?;
            }
            Keyring::open(&file_directory, &kek, entropy).map_err(|error| internal(&error))
        });
        let keyring = Arc::new(prepared.await.map_err(|error| internal(&error))??);
        let raft_options = RaftOptions {
            id: raft_id,
            directory,
            keyring,
            timing: options.timing.clone(),
            open_database: Arc::clone(&options.open_database),
            entropy: options.entropy.clone(),
        };
        let listener = Listener::bind(options.listen_addr, Arc::clone(&options.identity), ListenerOptions::default());
        let listener = listener.map_err(|error| {
            Failure::unavailable(format!("the cluster port {} cannot be bound: {error}", options.listen_addr))
        })?;
        let listen_addr = listener.local_addr().map_err(|error| internal(&error))?;
        let connect_timeout = (options.timing.election_max * 2).max(Duration::from_millis(500));
        let peers = Arc::new(Peers::new(Arc::clone(&options.identity), connect_timeout));
        let raft = Arc::new(RaftNode::new(raft_options, Arc::clone(&peers)));
        let inner = Arc::new(Inner::new(options, raft, peers));
        let tasks = spawn_all(&inner, listener);
        Ok(Self { handle: ManagerHandle { inner }, tasks, listen_addr })
    }

    /// A handle to it.
    pub fn handle(&self) -> ManagerHandle {
        self.handle.clone()
    }

    /// The address its cluster port is bound to.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen_addr
    }

    /// Stops it: agents are told to go to another manager, a leader hands its office over, files are closed.
    pub async fn shutdown(mut self) {
        let inner = Arc::clone(&self.handle.inner);
        if inner.raft.leading().is_some() {
            let _ = tokio::time::timeout(Duration::from_secs(1), inner.step_down()).await;
        }
        inner.dispatcher.close_all(&Status::unavailable("this manager is stopping"));
        inner.stop.cancel();
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), ending).await.is_err() {
            tracing::warn!("some of the manager's tasks did not end in time");
            self.tasks.shutdown().await;
        }
    }

    /// Ends it at once: nothing is handed over, nobody is told. To the others it looks like a crash; only the files
    /// are closed, so that this process can open them again.
    pub async fn abandon(mut self) {
        self.handle.inner.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.handle.inner.stop.cancel();
    }
}

fn remove_raft_files(options: &ManagerOptions) -> Result<(), Failure> {
    match std::fs::remove_dir_all(options.raft_dir()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(internal(&error)),
        _ => Ok(()),
    }
}

fn spawn_all(inner: &Arc<Inner>, listener: Listener) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (hub_sender, hub_queue) = hub::queue();
    let (report_sender, report_queue) = reporter::queue();
    // Set once, here, before anything runs that looks at them.
    let _ = inner.dispatcher.hub.set(hub_sender);
    let _ = inner.dispatcher.reports.set(report_sender);
    let (raft, stop) = (Arc::clone(&inner.raft), inner.stop.clone());
    tasks.spawn(async move { raft.run(stop).await });
    let (raft, stop) = (Arc::clone(&inner.raft), inner.stop.clone());
    tasks.spawn(async move { raft.run_elections(stop).await });
    tasks.spawn(Arc::clone(inner).run_leadership());
    tasks.spawn(hub::run(Arc::clone(inner), hub_queue));
    tasks.spawn(reporter::run(Arc::clone(inner), report_queue));
    tasks.spawn(Arc::clone(inner).run_confirmations());
    tasks.spawn(sweep::run(Arc::clone(inner)));
    tasks.spawn(serve(Arc::clone(inner), listener));
    tasks
}

async fn serve(inner: Arc<Inner>, listener: Listener) {
    let stop = inner.stop.clone();
    let incoming = listener.incoming(stop.clone());
    let peer = ManagerPeerServer::new(PeerService(Arc::clone(&inner)))
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let dispatcher = DispatcherServer::new(DispatcherService(Arc::clone(&inner)))
        .max_decoding_message_size(16 << 20)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let ca = CaServer::new(CaService(inner)).max_decoding_message_size(64 << 10);
    let server = tonic::transport::Server::builder()
        // Agents are guarded by their heartbeats; this is for connections that nothing else guards.
        .http2_keepalive_interval(Some(tls::KEEPALIVE_INTERVAL * 5))
        .http2_keepalive_timeout(Some(tls::KEEPALIVE_TIMEOUT * 5))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(Some(1024))
        .add_service(ca)
        .add_service(dispatcher)
        .add_service(peer);
    let serving = server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    // Open streams are given a moment; then the connections are cut.
    let cut = async {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    tokio::select! {
        () = cut => {}
        result = serving => if let Err(error) = result {
            tracing::error!(error = chain(&error), "the cluster port is not served any more");
        },
    }
}

/// Asks the managers, and whoever they say leads, to be taken in.
async fn ask_to_join(options: &ManagerOptions, remotes: Vec<String>) -> Result<JoinRaftResponse, Failure> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1), options.entropy.clone());
    let deadline = Instant::now() + JOIN;
    let addr = options.advertise_addr.to_string();
    loop {
        let mut reasons = Vec::new();
        let mut queue: std::collections::VecDeque<String> = remotes.iter().cloned().collect();
        let mut asked = std::collections::HashSet::new();
        while let Some(remote) = queue.pop_front() {
            if remote == addr || !asked.insert(remote.clone()) {
                continue;
            }
            match ask_one_to_join(options, &remote, &addr).await {
                Ok(answer) => return Ok(answer),
                Err(status) if status.code() == Code::Unavailable || status.code() == Code::DeadlineExceeded => {
                    if let Ok(leader) = std::str::from_utf8(status.details())
                        && !leader.is_empty()
                    {
                        queue.push_front(leader.to_owned());
                    }
                    reasons.push(format!("{remote}: {}", describe(&status)));
                }
                Err(status) => {
                    let kind = shoal_proto::error::ErrorKind::PermissionDenied;
                    return Err(Failure::new(kind, format!("{remote} refused: {}", status.message())));
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(Failure::unavailable(format!("no manager took this one in: {}", reasons.join("; "))));
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn ask_one_to_join(options: &ManagerOptions, remote: &str, addr: &str) -> Result<JoinRaftResponse, Status> {
    let dial = DialOptions::default();
    let channel =
        tls::connect(&options.identity, remote, dial).await.map_err(|error| Status::unavailable(chain(&error)))?;
    let asking = async move {
        let request = JoinRaftRequest { addr: addr.to_owned() };
        client_over(channel).join_raft(request).await.map(tonic::Response::into_inner)
    };
    tokio::time::timeout(Duration::from_secs(10), asking)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

impl Inner {
    async fn wait_leading(&self, timeout: Duration) -> Result<u64, Failure> {
        let deadline = Instant::now() + timeout;
        let mut states = self.raft.cell().subscribe();
        loop {
            states.borrow_and_update();
            if let Some(term) = self.raft.leading() {
                return Ok(term);
            }
            if Instant::now() >= deadline {
                self.raft.raft()?;
                return Err(Failure::unavailable("this manager did not become the leader in time"));
            }
            let _ = tokio::time::timeout(Duration::from_millis(20), states.changed()).await;
        }
    }

    /// The cluster, its first node and its networks, in one entry.
    async fn write_first_objects(&self, spec: BootstrapSpec, term: u64) -> Result<(), Failure> {
        let member = ManagerMember { raft_id: self.raft.id(), addr: self.options.advertise_addr };
        let cluster = Cluster {
            id: self.identity().cluster_id(),
            spec: spec.cluster,
            pools: spec.pools,
            root_ca: spec.root,
            ..Cluster::default()
        };
        let node = Node {
            id: self.node_id(),
            spec: NodeSpec { role: NodeRole::Manager, availability: spec.availability, ..NodeSpec::default() },
            certificate_role: NodeRole::Manager,
            manager: Some(member),
            ..Node::default()
        };
        let mut changes = vec![Change::create(cluster), Change::create(node)];
        changes.extend(initial_networks(&mut self.entropy()));
        let body = BatchBody { time: self.now(), fence: term, request: None, changes };
        match self.raft.propose(body, Duration::from_secs(10)).await {
            Ok(Outcome::Applied { .. }) => Ok(()),
            Ok(Outcome::Refused(error)) => Err(error.into()),
            Ok(outcome) => Err(Failure::unavailable(format!("the cluster could not be made: {outcome}"))),
            Err(error) => Err(Failure::unavailable(error.to_string())),
        }
    }
}
