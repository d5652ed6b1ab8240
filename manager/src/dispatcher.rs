//! Sessions of agents. Every manager serves them; whoever holds a session tells the cluster that the node lives.
//!
//! ## Design notes
//! One lock guards the hub (who has to be told what) together with the sessions, so that the first message of a session
//! and the differences that follow it are queued in order. Nothing is awaited under it: queues are bounded, and a
//! session whose queue is full is closed; its agent comes back and gets the whole set.
//!
//! A node is down when its manager missed two and a half heartbeats of it. When the manager is the one that is lost, the
//! leader notices ([`sweep`]); when the manager is cut off from its leader, it closes its sessions, so that the
//! agents go where they can be heard.

mod fan_out;
mod reports;
mod session;
pub(crate) mod sweep;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use shoal_kit::entropy::Entropy;
use shoal_manager_core::dispatch::Hub;
use shoal_proto::control::Report;
use shoal_proto::error::Failure;
use shoal_proto::id::NodeId;
use shoal_proto::spec::NodeRole;
use shoal_proto::wire::{ManagerMessage, SessionState};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::log_broker::LogBroker;
use crate::raft::state::StateCell;

pub(crate) use reports::Reports;
pub(crate) use session::DispatcherService;

/// Messages that may wait for one agent.
const QUEUE: usize = 512;

/// What the dispatcher needs of the rest of its manager.
pub(crate) trait Cluster: Send + Sync + 'static {
    /// Brings what was learned of nodes and tasks into the replicated store, through the leader.
    fn report(&self, reports: Vec<Report>) -> BoxFuture<'_, Result<(), Failure>>;

    /// Is there a leader that this manager hears of?
    fn has_leader(&self) -> bool;

    /// On the leader: raft ids of the managers that answer, its own included. `None` elsewhere.
    fn reachable_managers(&self) -> Option<BTreeSet<u64>>;
}

/// What a dispatcher is made of.
#[derive(Clone)]
pub(crate) struct DispatcherOptions {
    /// The replicated state.
    pub(crate) cell: Arc<StateCell>,
    /// This manager's raft id.
    pub(crate) raft_id: u64,
    /// The rest of this manager.
    pub(crate) cluster: Arc<dyn Cluster>,
    /// Makes session ids.
    pub(crate) entropy: Entropy,
}

/// The sessions of one manager. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    inner: Arc<Inner>,
}

struct Inner {
    options: DispatcherOptions,
    table: Mutex<Table>,
    reports: Reports,
    logs: LogBroker,
    stop: CancellationToken,
}

/// Hub and sessions, always changed together.
struct Table {
    hub: Hub,
    sessions: HashMap<NodeId, Session>,
    /// What all agents were told of the cluster.
    common: SessionState,
}

/// One agent's session.
struct Session {
    id: u64,
    /// What is sent to the agent; `None` once its stream has ended.
    sender: Option<mpsc::Sender<Result<ManagerMessage, Status>>>,
    /// The node is down when nothing is heard of it until then.
    deadline: Instant,
    /// Role that the agent was told.
    role: NodeRole,
    /// Ends the stream.
    stop: CancellationToken,
}

impl Dispatcher {
    /// Starts serving; the loops run on the tracker until the token is cancelled.
    pub(crate) fn start(options: DispatcherOptions, stop: CancellationToken, tracker: &TaskTracker) -> Self {
        let reports = Reports::start(Arc::clone(&options.cluster), stop.clone(), tracker);
        let store = options.cell.store();
        let common = session::common_state(&store);
        let table = Mutex::new(Table { hub: Hub::new(store), sessions: HashMap::new(), common });
        let logs = LogBroker::default();
        let inner = Arc::new(Inner { options, table, reports, logs, stop });
        let dispatcher = Self { inner };
        tracker.spawn(fan_out::run(dispatcher.clone()));
        tracker.spawn(sweep::run(dispatcher.clone()));
        dispatcher
    }

    /// Log subscriptions of the agents with sessions here.
    pub(crate) fn logs(&self) -> &LogBroker {
        &self.inner.logs
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heartbeat_period(&self) -> Duration {
        let store = self.inner.options.cell.store();
        store.cluster().map_or(Duration::from_secs(1), |cluster| cluster.spec.heartbeat_period)
    }

    /// Sends a message to a node's agent; false when it has no session here, or does not keep up.
    pub(crate) fn send(&self, node: NodeId, message: ManagerMessage) -> bool {
        let table = self.table();
        let sender = table.sessions.get(&node).and_then(|session| session.sender.as_ref());
        sender.is_some_and(|sender| sender.try_send(Ok(message)).is_ok())
    }
}

impl Session {
    /// Queues a message; a session that cannot take it is over.
    fn send(&mut self, message: ManagerMessage) {
        if self.sender.as_ref().is_some_and(|sender| sender.try_send(Ok(message)).is_err()) {
            self.stop.cancel();
            self.sender = None;
        }
    }
}

/// So long after the last sign of life a node counts as lost.
fn grace(period: Duration) -> Duration {
    period.mul_f64(2.5)
}
