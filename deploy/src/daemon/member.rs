//! A node that is in a cluster: its agent, its manager if it is one, and the changes between the two roles.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use shoal_agent::{Agent, AgentHandle, AgentOptions, SessionInfo};
use shoal_engine::Engine;
use shoal_engine::cluster::ClusterNetworks;
use shoal_kit::backoff::Backoff;
use shoal_kit::ca_client;
use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_kit::identity::NodeIdentity;
use shoal_kit::tls::{DialOptions, lazy_channel};
use shoal_manager::ca::Founding;
use shoal_manager::{BootstrapSpec, Manager, ManagerHandle, ManagerOptions};
use shoal_proto::error::{Failure, chain};
use shoal_proto::id::NodeId;
use shoal_proto::object::{Node, NodeState};
use shoal_proto::spec::NodeRole;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::executor::EngineExecutor;
use super::node::NodeFile;
use super::places::Places;

/// What a member is made of.
#[derive(Debug, Clone)]
pub(crate) struct MemberOptions {
    pub(crate) data_dir: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Entropy,
}

/// The member. Its parts run until [`Member::stop`].
#[derive(Debug)]
pub(crate) struct Member {
    core: Arc<Core>,
    agent: AgentHandle,
    places: Arc<Places>,
    tracker: TaskTracker,
}

#[derive(Debug)]
struct Core {
    options: MemberOptions,
    identity: Arc<NodeIdentity>,
    file: Mutex<NodeFile>,
    manager: RwLock<Option<Manager>>,
    stop: CancellationToken,
}

impl Member {
    /// The first manager of a new cluster.
    pub(crate) async fn first(
        options: MemberOptions,
        bootstrap: BootstrapSpec,
        file: NodeFile,
    ) -> Result<Self, Failure> {
        file.write(&options.data_dir)?;
        let directory = NodeIdentity::directory(&options.data_dir);
        let life = bootstrap.cluster.node_cert_expiry;
        let founding = Founding::new(&directory, &options.clock, options.entropy.clone(), life)
            .map_err(|error| Failure::internal(&error))?;
        let identity = founding.identity;
        let manager_options = manager_options(&options, Arc::clone(&identity), &file);
        let spec = BootstrapSpec { root: founding.root, ..bootstrap };
        let manager = Manager::bootstrap(manager_options, spec).await?;
        Ok(Self::start(options, identity, file, Some(manager)))
    }

    /// A node whose certificate was just issued. [`Member::wait_joined`] tells when it is a full member.
    pub(crate) async fn joined(
        options: MemberOptions,
        identity: Arc<NodeIdentity>,
        file: NodeFile,
    ) -> Result<Self, Failure> {
        let manager = match identity.role() {
            NodeRole::Manager => {
                let manager_options = manager_options(&options, Arc::clone(&identity), &file);
                Some(Manager::join(manager_options, file.managers.clone()).await?)
            }
            NodeRole::Worker => None,
        };
        Ok(Self::start(options, identity, file, manager))
    }

    /// A member that was one before this process.
    pub(crate) async fn restart(
        options: MemberOptions,
        identity: Arc<NodeIdentity>,
        file: NodeFile,
    ) -> Result<Self, Failure> {
        let manager = match identity.role() {
            NodeRole::Manager => {
                let manager_options = manager_options(&options, Arc::clone(&identity), &file);
                // A promotion that was cut short: the certificate is there, the membership is not. `supervise` goes on.
                if Manager::exists(&manager_options) { Some(Manager::start(manager_options).await?) } else { None }
            }
            NodeRole::Worker => None,
        };
        Ok(Self::start(options, identity, file, manager))
    }

    fn start(options: MemberOptions, identity: Arc<NodeIdentity>, file: NodeFile, manager: Option<Manager>) -> Self {
        let executor = EngineExecutor::new(
            options.engine.clone(),
            Arc::clone(&identity),
            file.data_path_addr,
            file.data_path_port,
        );
        let dialer_identity = Arc::clone(&identity);
        let agent_options = AgentOptions {
            dialer: Arc::new(move |addr| {
                let options = DialOptions {
                    connect_timeout: Duration::from_secs(2),
                    keepalive_interval: Duration::from_secs(1),
                    keepalive_timeout: Duration::from_secs(2),
                    ..DialOptions::default()
                };
                lazy_channel(&dialer_identity, addr, options).map_err(|error| Failure::unavailable(chain(&error)))
            }),
            managers: file.managers.clone(),
            clock: Arc::clone(&options.clock),
            entropy: options.entropy.clone(),
        };
        let held = executor.held();
        let (agent, handle) = Agent::new(agent_options, Arc::new(executor));
        let places = Places::new(options.engine.clone(), handle.clone(), held);
        options.engine.enter_cluster(Arc::clone(&places) as Arc<dyn ClusterNetworks>);
        let stop = CancellationToken::new();
        let core = Arc::new(Core {
            identity: Arc::clone(&identity),
            file: Mutex::new(file),
            manager: RwLock::new(manager),
            stop: stop.clone(),
            options: options.clone(),
        });
        let tracker = TaskTracker::new();
        tracker.spawn(agent.run(stop.clone()));
        tracker.spawn(Arc::clone(&places).run(options.entropy.clone(), stop.clone()));
        tracker.spawn(supervise(Arc::clone(&core), handle.clone()));
        let remotes = Arc::clone(&core);
        let renewal =
            ca_client::keep_renewed(identity, move || remotes.managers(), options.entropy.clone(), stop.clone());
        tracker.spawn(renewal);
        Self { core, agent: handle, places, tracker }
    }

    /// A join is done when a manager has its vote, and when a manager has accepted the node's session. Until then, and
    /// after a failure, the node goes on trying: what it became must not be erased, because the other managers may
    /// count its vote by now.
    pub(crate) async fn wait_joined(&self) -> Result<(), Failure> {
        if let Some(manager) = self.manager() {
            manager.wait_voting().await?;
        }
        let mut session = self.agent.session();
        let connected = async { session.wait_for(|info| info.connected).await.is_ok() };
        match tokio::time::timeout(Duration::from_secs(20), connected).await {
            Ok(true) => Ok(()),
            _ => {
                let reason = self.session().error;
                Err(Failure::unavailable(format!(
                    "the node was admitted, but no manager accepted its session within 20 s: {reason}"
                )))
            }
        }
    }

    /// A new cluster is made when its first node is known to it: until then every description of it is out of date at once,
    /// and a change that is based on it is refused. As in dockerd, what takes too long goes on by itself.
    pub(crate) async fn wait_known(&self) {
        let Some(manager) = self.manager() else { return };
        let mut changes = manager.changes();
        let is_there = || manager.local().node(self.node_id()).is_some_and(|node| is_known(node));
        let known = async { while !is_there() && changes.changed().await.is_ok() {} };
        if tokio::time::timeout(Duration::from_secs(20), known).await.is_err() {
            tracing::warn!("the node has made a cluster, but is not ready in it yet");
        }
    }

    pub(crate) fn node_id(&self) -> NodeId {
        self.core.identity.node_id()
    }

    pub(crate) fn advertise_addr(&self) -> SocketAddr {
        self.core.file().advertise_addr
    }

    pub(crate) fn managers(&self) -> Vec<String> {
        self.core.managers()
    }

    pub(crate) fn session(&self) -> SessionInfo {
        self.agent.session().borrow().clone()
    }

    pub(crate) fn manager(&self) -> Option<ManagerHandle> {
        self.core.manager()
    }

    /// Ends the member's parts; its containers run on.
    pub(crate) async fn stop(&self) {
        self.core.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        let manager = self.core.manager.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(manager) = manager {
            manager.shutdown().await;
        }
    }

    /// Leaves the cluster. A manager leaves consensus first.
    pub(crate) async fn leave(&self, force: bool) -> Result<(), Failure> {
        let manager = self.manager();
        if let Some(manager) = manager.as_ref().filter(|_| !force) {
            return Err(Failure::unavailable(leave_warning(manager).await));
        }
        self.places.give_up_all().await;
        if let Some(manager) = manager
            && let Err(failure) = manager.leave(true).await
        {
            tracing::warn!(error = failure.message, "leaving without the other managers' consent, as asked");
        }
        self.agent.announce_leave();
        self.stop().await;
        Ok(())
    }
}

/// Has all been written that the cluster writes of a node which comes to it?
fn is_known(node: &Node) -> bool {
    let member = node.spec.role == NodeRole::Worker || node.manager.is_some();
    member && node.description.is_some() && node.status.state == NodeState::Ready
}

/// What dockerd tells a manager that wants to leave.
async fn leave_warning(manager: &ManagerHandle) -> String {
    let mut text = "You are attempting to leave the swarm on a node that is participating as a manager. ".to_owned();
    let members = manager.members().await;
    let reachable = members.iter().filter(|member| member.reachable).count();
    if members.len() <= 1 {
        text.push_str(
            "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ",
        );
    } else if reachable.saturating_sub(1) <= members.len().saturating_sub(1) / 2 {
        text.push_str(
            "Removing this node leaves the swarm without a quorum of managers. Use `--force` to ignore this message. ",
        );
    } else {
        text.push_str("The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.");
    }
    text.trim_end().to_owned()
}

impl Core {
    fn file(&self) -> NodeFile {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn managers(&self) -> Vec<String> {
        self.file().managers
    }

    fn manager(&self) -> Option<ManagerHandle> {
        self.manager.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(Manager::handle)
    }

    fn set_manager(&self, manager: Option<Manager>) -> Option<Manager> {
        std::mem::replace(&mut *self.manager.write().unwrap_or_else(PoisonError::into_inner), manager)
    }

    /// Remembers the managers for the next start.
    fn remember_managers(&self, managers: &[String]) {
        let changed = {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = !managers.is_empty() && file.managers != managers;
            if changed {
                file.managers = managers.to_vec();
            }
            changed.then(|| file.clone())
        };
        if let Some(Err(failure)) = changed.map(|file| file.write(&self.options.data_dir)) {
            tracing::warn!(error = failure.message, "cannot remember the cluster's managers");
        }
    }

    /// Makes the node what its certificate says.
    async fn settle_role(&self) -> Result<(), Failure> {
        match (self.identity.role(), self.manager()) {
            (NodeRole::Manager, None) => {
                let file = self.file();
                let options = manager_options(&self.options, Arc::clone(&self.identity), &file);
                let manager = tokio::select! {
                    () = self.stop.cancelled() => return Ok(()),
                    manager = Manager::join(options, file.managers.clone()) => manager?,
                };
                tracing::info!("this node is a manager now");
                self.set_manager(Some(manager));
            }
            (NodeRole::Worker, Some(_)) => {
                if let Some(manager) = self.set_manager(None) {
                    manager.shutdown().await;
                    Manager::erase(&manager_options(&self.options, Arc::clone(&self.identity), &self.file()))?;
                    tracing::info!("this node is a worker now");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Follows what the session tells: managers, trust, and the role that the cluster wants.
async fn supervise(core: Arc<Core>, agent: AgentHandle) {
    let mut session = agent.session();
    let mut reconfigurations = core.options.engine.reconfigurations();
    let mut labels = core.options.engine.options().labels.clone();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5), core.options.entropy.clone());
    loop {
        let info = session.borrow_and_update().clone();
        core.remember_managers(&info.managers);
        let followed = follow(&core, &agent, &info).await;
        let pause = match followed {
            Ok(()) => {
                backoff.reset();
                Duration::from_secs(3600)
            }
            Err(reason) => {
                tracing::warn!(reason, "cannot follow what the cluster wants of this node; trying again");
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = session.changed() => if changed.is_err() { return },
            Ok(()) = reconfigurations.changed() => {
                // A node describes itself when a session begins.
                let now = core.options.engine.options().labels.clone();
                if now != labels {
                    labels = now;
                    agent.reconnect();
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn follow(core: &Core, agent: &AgentHandle, info: &SessionInfo) -> Result<(), String> {
    if !info.root_pem.is_empty() && info.root_pem != core.identity.current().material.trust_pem {
        core.identity.set_trust(&info.root_pem).map_err(|error| chain(&error))?;
    }
    let wanted = match info.desired_role.as_str() {
        "manager" => NodeRole::Manager,
        "worker" => NodeRole::Worker,
        _ => core.identity.role(),
    };
    if info.connected && wanted != core.identity.role() {
        ca_client::renew(&core.identity, &core.managers(), Duration::from_secs(5))
            .await
            .map_err(|error| chain(&error))?;
        if wanted != core.identity.role() {
            return Err("the new certificate is not yet for the wanted role".to_owned());
        }
        agent.reconnect();
    }
    core.settle_role().await.map_err(|failure| failure.message)
}

fn manager_options(options: &MemberOptions, identity: Arc<NodeIdentity>, file: &NodeFile) -> ManagerOptions {
    ManagerOptions {
        data_path_addr: Some(file.data_path_addr),
        clock: Arc::clone(&options.clock),
        entropy: options.entropy.clone(),
        ..ManagerOptions::new(options.data_dir.clone(), identity, file.advertise_addr, file.listen_addr)
    }
}
