//! This manager's raft core: started from disk, watched, started again when its disk failed.
//!
//! ## Design notes
//! A disk that is full or broken stops the core: nothing that was not synced is ever acknowledged. The node then tries
//! with growing pauses to start a new core from the files. Until that works, requests on this manager fail with the
//! reason in words, the other managers elect a leader among them, and nothing on disk is touched but by redb's own
//! recovery. When space is back the node catches up like one that was away.
//!
//! Elections are staggered: when a leader's lease is over, its followers stand for election one after the other, in
//! the order of their ids, some milliseconds apart. So the first one usually wins at once, where random timeouts would
//! wait longer and split the vote now and then. Raft's own random timeouts stay as the fallback, and safety does not
//! depend on either.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use openraft::error::{ClientWriteError, Fatal, InitializeError, LinearizableReadError, RaftError};
use openraft::{Config, ConfigError, ReadPolicy, ServerState, SnapshotPolicy};
use shoal_kit::backoff::Backoff;
use shoal_kit::entropy::Entropy;
use shoal_proto::error::{Failure, chain};
use shoal_proto::id::NodeId;
use shoal_proto::spec::RaftSpec;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::peers::Peers;
use crate::raft::log_store::{LogStore, OpenDatabase};
use crate::raft::network::Network;
use crate::raft::snapshot_file::SnapshotFolder;
use crate::raft::state::StateCell;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Batch, BatchBody, Outcome, RaftMember, StoredMembership, TypeConfig};
use crate::seal::Keyring;

/// The raft core itself.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// How fast the consensus group reacts.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// Shortest random time that a follower waits, after the leader's lease is over, before it asks for votes though
    /// it is not its turn.
    pub election_min: Duration,
    /// Longest such time, and the leader's lease: while a follower has heard of a leader within it, it gives no vote.
    pub election_max: Duration,
    /// Between the turns of two followers.
    pub stagger: Duration,
}

impl Default for Timing {
    /// A lost leader is replaced after about half a second; one that is merely slow has 0.45 s to show itself.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(450),
            stagger: Duration::from_millis(60),
        }
    }
}

/// What the raft core of this manager is made from.
#[derive(Clone)]
pub struct RaftOptions {
    /// Its id: fresh for each join.
    pub id: u64,
    /// Holds the log and the snapshots.
    pub directory: PathBuf,
    /// Seals both.
    pub keyring: Arc<Keyring>,
    /// How fast it reacts.
    pub timing: Timing,
    /// How the log's file is opened.
    pub open_database: OpenDatabase,
    /// Jitter of restarts.
    pub entropy: Entropy,
}

impl std::fmt::Debug for RaftOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftOptions").field("id", &self.id).field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Where this manager stands in the consensus group.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Its term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<u64>,
    /// Does it lead?
    pub leads: bool,
    /// Has it a vote, and is it a follower?
    pub follows: bool,
    /// Members as it knows them, committed or not.
    pub membership: Arc<StoredMembership>,
    /// Members as they are committed.
    pub committed: Arc<StoredMembership>,
    /// Why the core does not run; `None` when it does.
    pub failure: Option<String>,
}

impl View {
    /// Is a change of members not committed yet?
    pub fn is_changing(&self) -> bool {
        self.membership.log_id() != self.committed.log_id()
    }

    /// Is the last change of members committed, but only half done: do both the old and the new members decide? Whoever
    /// began it may be gone, and anybody who leads can complete it.
    pub fn is_joint(&self) -> bool {
        !self.is_changing() && self.committed.membership().get_joint_config().len() > 1
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.term, self.leader, self.leads, self.follows) == (other.term, other.leader, other.leads, other.follows)
            && self.membership.log_id() == other.membership.log_id()
            && self.committed.log_id() == other.committed.log_id()
            && self.failure == other.failure
    }

    /// Has it a vote, for certain and without a change under way?
    pub fn is_settled_voter(&self, id: u64) -> bool {
        let [config] = self.committed.membership().get_joint_config().as_slice() else { return false };
        config.contains(&id)
    }

    /// A member, by raft id.
    pub fn member(&self, id: u64) -> Option<&RaftMember> {
        self.membership.membership().get_node(&id)
    }

    /// The members, by raft id.
    pub fn members(&self) -> BTreeMap<u64, RaftMember> {
        self.membership.nodes().map(|(id, member)| (*id, member.clone())).collect()
    }

    /// Is it a member with a vote?
    pub fn is_voter(&self, id: u64) -> bool {
        self.membership.membership().voter_ids().any(|voter| voter == id)
    }
}

/// Why the core could not be started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Log(#[from] crate::raft::log_store::OpenError),
    #[error("open the snapshots")]
    Snapshots(#[source] io::Error),
    #[error("invalid raft timing")]
    Config(#[source] ConfigError),
    #[error("start the raft core")]
    Core(#[source] Box<Fatal<TypeConfig>>),
}

/// Why an entry was not, or may not have been, written.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// This manager does not lead. Surely not written.
    #[error("this manager is not the leader")]
    NotLeader,
    /// It may have been written, or may still be.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// The core does not run here. Surely not written.
    #[error("{0}")]
    Down(String),
}

/// A core that runs, and the folder that its snapshots go to.
#[derive(Debug)]
struct Running {
    raft: Arc<Raft>,
    folder: SnapshotFolder,
}

/// This manager's raft core and its supervision.
pub struct RaftNode {
    options: RaftOptions,
    peers: Arc<Peers>,
    cell: Arc<StateCell>,
    running: ArcSwapOption<Running>,
    view: watch::Sender<View>,
    /// When a leader was heard of last.
    heard: Mutex<Instant>,
    /// When it was last certain that a majority follows a leader that this manager hears of, or is.
    contact: Mutex<Option<Instant>>,
    /// Node of the leader that was heard of last.
    followed: Mutex<Option<NodeId>>,
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode").field("id", &self.options.id).finish_non_exhaustive()
    }
}

impl RaftNode {
    pub(crate) fn new(options: RaftOptions, peers: Arc<Peers>) -> Self {
        let view = View { failure: Some("this manager is starting".to_owned()), ..View::default() };
        Self {
            options,
            peers,
            cell: Arc::default(),
            running: ArcSwapOption::empty(),
            view: watch::Sender::new(view),
            heard: Mutex::new(Instant::now()),
            contact: Mutex::default(),
            followed: Mutex::default(),
        }
    }

    /// Its raft id.
    pub fn id(&self) -> u64 {
        self.options.id
    }

    /// The replicated state.
    pub fn cell(&self) -> &Arc<StateCell> {
        &self.cell
    }

    /// Where it stands now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Changes when its place in the group does.
    pub fn views(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// The term in which this manager leads and knows all that earlier leaders committed; `None` when it does not.
    pub fn leading(&self) -> Option<u64> {
        let view = self.view.borrow();
        let applied = self.cell.load().applied.map_or(0, |id| id.committed_leader_id().term);
        (view.leads && applied == view.term).then_some(view.term)
    }

    /// The core, while it runs.
    ///
    /// # Errors
    /// When it does not: why, in words.
    pub fn raft(&self) -> Result<Arc<Raft>, Failure> {
        match self.running.load().as_ref() {
            Some(running) => Ok(Arc::clone(&running.raft)),
            None => Err(self.not_running()),
        }
    }

    /// Where received snapshots go.
    pub(crate) fn snapshots(&self) -> Result<SnapshotFolder, Failure> {
        match self.running.load().as_ref() {
            Some(running) => Ok(running.folder.clone()),
            None => Err(self.not_running()),
        }
    }

    fn not_running(&self) -> Failure {
        let reason = self.view.borrow().failure.clone().unwrap_or_else(|| "it is stopping".to_owned());
        Failure::unavailable(format!("this manager cannot take part in the cluster now: {reason}"))
    }

    /// A message of the leader on this node was accepted: it lives.
    pub(crate) fn heard_of_leader(&self, node: NodeId) {
        let now = Instant::now();
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = now;
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
    }

    /// Node of the leader that this manager heard of last.
    pub(crate) fn followed(&self) -> Option<NodeId> {
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When this manager was last in contact with a leader that has a majority, itself included; `None` when it never
    /// was since it started. To be asked often while it leads: what the majority confirmed is only noted here.
    pub(crate) fn contact(&self) -> Option<Instant> {
        let confirmed = self.majority_confirmed();
        let mut contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        *contact = (*contact).max(confirmed);
        *contact
    }

    /// When a majority last confirmed that this manager leads.
    fn majority_confirmed(&self) -> Option<Instant> {
        let now = Instant::now();
        let view = self.view.borrow();
        if !view.leads {
            return None;
        }
        if view.membership.membership().voter_ids().all(|id| id == self.options.id) {
            return Some(now);
        }
        let raft = self.raft().ok()?;
        let acknowledged = raft.metrics().borrow_watched().last_quorum_acked.as_ref()?.elapsed();
        now.checked_sub(acknowledged)
    }

    /// When it is this follower's turn to stand for election; `None` when it is not one to stand.
    fn turn(&self) -> Option<Instant> {
        let view = self.view.borrow();
        if !view.follows {
            return None;
        }
        let mut rivals: Vec<u64> =
            view.membership.membership().voter_ids().filter(|id| view.leader != Some(*id)).collect();
        rivals.sort_unstable();
        let place = u32::try_from(rivals.iter().position(|id| *id == self.options.id)?).ok()?;
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // A moment more than the lease: the others may have heard of the leader a little later.
        Some(heard + self.options.timing.election_max + Duration::from_millis(5) + self.options.timing.stagger * place)
    }

    /// Stands for election in turn. A round that fails is repeated when all others had theirs.
    pub(crate) async fn run_elections(&self, stop: CancellationToken) {
        let mut views = self.view.subscribe();
        let mut last_try: Option<Instant> = None;
        while !stop.is_cancelled() {
            let voters = u32::try_from(self.view.borrow().membership.membership().voter_ids().count()).unwrap_or(1);
            let again = last_try.map(|at| at + self.options.timing.stagger * voters.max(2));
            let Some(at) = self.turn().map(|turn| again.map_or(turn, |again| turn.max(again))) else {
                last_try = None;
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = views.changed() => if changed.is_err() { return },
                }
                continue;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(at) => {}
            }
            // Heard of a leader meanwhile, or not a follower any more?
            if self.turn().is_none_or(|turn| turn > Instant::now()) {
                continue;
            }
            last_try = Some(Instant::now());
            if let Ok(raft) = self.raft() {
                let _ = raft.trigger().elect(true).await;
            }
        }
    }

    /// Appends an entry and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, body: BatchBody, timeout: Duration) -> Result<Outcome, ProposeError> {
        let raft = self.raft().map_err(|failure| ProposeError::Down(failure.message))?;
        match tokio::time::timeout(timeout, raft.client_write(Batch::new(body))).await {
            Err(_) => Err(ProposeError::Unknown(format!(
                "no majority of the managers confirmed it within {} s",
                timeout.as_secs_f32()
            ))),
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(ProposeError::NotLeader),
            Ok(Err(RaftError::APIError(error))) => Err(ProposeError::Unknown(chain(&error))),
            Ok(Err(RaftError::Fatal(error))) => Err(ProposeError::Unknown(chain(&error))),
        }
    }

    /// The position that a linearizable read must wait for. Only the leader can tell.
    ///
    /// # Errors
    /// When this manager does not lead, or cannot reach a majority.
    pub async fn read_index(&self, timeout: Duration) -> Result<u64, ProposeError> {
        let raft = self.raft().map_err(|failure| ProposeError::Down(failure.message))?;
        match tokio::time::timeout(timeout, raft.get_read_log_id(ReadPolicy::ReadIndex)).await {
            Err(_) => Err(ProposeError::Unknown("no majority of the managers answers".to_owned())),
            Ok(Ok((read, _applied))) => Ok(read.index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => Err(ProposeError::NotLeader),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(missing)))) => {
                let answering = missing.got.len();
                Err(ProposeError::Unknown(format!("{answering} of the managers answer, which is no majority")))
            }
            Ok(Err(RaftError::Fatal(error))) => Err(ProposeError::Unknown(chain(&error))),
        }
    }

    /// Makes the first member of a new group. Repeating it on a group that exists does nothing.
    ///
    /// # Errors
    /// When the core does not run.
    pub async fn initialize(&self, member: RaftMember) -> Result<(), Failure> {
        let members = BTreeMap::from([(self.options.id, member)]);
        match self.raft()?.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Failure::internal(&error)),
        }
    }

    /// Waits until the core runs.
    ///
    /// # Errors
    /// When it failed to start: why, in words.
    pub async fn wait_running(&self) -> Result<Arc<Raft>, Failure> {
        let mut views = self.view.subscribe();
        loop {
            if let Ok(raft) = self.raft() {
                return Ok(raft);
            }
            if views.changed().await.is_err() {
                return self.raft();
            }
            let failure = views.borrow_and_update().failure.clone();
            if let Some(failure) = failure
                && self.running.load().is_none()
            {
                return Err(Failure::unavailable(failure));
            }
        }
    }

    /// Keeps a core running until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let entropy = self.options.entropy.clone();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), entropy);
        while !stop.is_cancelled() {
            let reason = match self.start().await {
                Err(error) => explain(chain(&error)),
                Ok(running) => {
                    let running = Arc::new(running);
                    self.running.store(Some(Arc::clone(&running)));
                    let began = Instant::now();
                    let reason = explain(self.watch(&running, &stop).await);
                    self.running.store(None);
                    self.view.send_modify(|view| {
                        view.failure = Some(reason.clone());
                        (view.leads, view.follows, view.leader) = (false, false, None);
                    });
                    if let Err(error) = running.raft.shutdown().await {
                        tracing::warn!(%error, "the raft core did not stop cleanly");
                    }
                    if began.elapsed() > Duration::from_secs(10) {
                        backoff.reset();
                    }
                    reason
                }
            };
            if stop.is_cancelled() {
                break;
            }
            tracing::error!(reason, "the raft core stopped; it will be started again from disk");
            self.view.send_modify(|view| view.failure = Some(reason));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
        self.view.send_modify(|view| {
            view.failure = Some("this manager was stopped".to_owned());
            (view.leads, view.follows, view.leader) = (false, false, None);
        });
    }

    async fn start(&self) -> Result<Running, StartError> {
        let options = self.options.clone();
        let cell = Arc::clone(&self.cell);
        let opened = tokio::task::spawn_blocking(move || {
            let log =
                LogStore::open(&options.directory.join("log"), Arc::clone(&options.keyring), &options.open_database)?;
            let folder = SnapshotFolder::open(&options.directory.join("snapshots"), options.keyring, 0)
                .map_err(StartError::Snapshots)?;
            let machine = StateMachine::open(folder.clone(), cell).map_err(StartError::Snapshots)?;
            Ok::<_, StartError>((log, machine, folder))
        });
        let (log, machine, folder) = opened.await.map_err(|error| StartError::Snapshots(io::Error::other(error)))??;
        let config = Arc::new(config(&self.options.timing).validate().map_err(StartError::Config)?);
        let network = Network { own: self.options.id, peers: Arc::clone(&self.peers) };
        let raft = Raft::new(self.options.id, config, network, log, machine)
            .await
            .map_err(|error| StartError::Core(Box::new(error)))?;
        Ok(Running { raft: Arc::new(raft), folder })
    }

    /// Mirrors the core's metrics, takes snapshots and purges the log, until the core stops. Returns why it did.
    async fn watch(&self, running: &Running, stop: &CancellationToken) -> String {
        let raft = &*running.raft;
        let mut server = raft.server_metrics();
        let mut metrics = raft.metrics();
        let mut compaction = tokio::time::interval(Duration::from_millis(500));
        compaction.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            {
                let now = server.borrow_watched();
                let seen = View {
                    term: now.vote.leader_id.term,
                    leader: now.current_leader,
                    leads: now.state == ServerState::Leader,
                    follows: now.state == ServerState::Follower,
                    membership: Arc::clone(&now.membership_config),
                    committed: Arc::clone(&now.committed_membership_config),
                    failure: None,
                };
                // The metrics change with every entry; who follows the view wants to hear of the group only.
                self.view.send_if_modified(|view| {
                    let changed = !view.is_same(&seen);
                    if changed {
                        *view = seen;
                    }
                    changed
                });
            }
            tokio::select! {
                () = stop.cancelled() => return "this manager was stopped".to_owned(),
                changed = server.changed() => if changed.is_err() { return stop_reason(raft) },
                changed = metrics.changed() => {
                    if changed.is_err() || metrics.borrow_watched().running_state.is_err() {
                        return stop_reason(raft);
                    }
                }
                _ = compaction.tick() => compact(running, &self.cell).await,
            }
        }
    }
}

fn stop_reason(raft: &Raft) -> String {
    match &raft.metrics().borrow_watched().running_state {
        Ok(()) => "the raft core ended".to_owned(),
        Err(error) => chain(error),
    }
}

/// Says first what an operator has to do.
fn explain(reason: String) -> String {
    // The kind of the error is lost on its way through the raft core; these are its words.
    if ["No space left on device", "no storage space", "quota exceeded"].iter().any(|words| reason.contains(words)) {
        return format!("the disk is full: free some space ({reason})");
    }
    reason
}

/// Bytes of entries after which a snapshot is taken however few they are, if that is not less than a snapshot takes.
const SNAPSHOT_BYTES: u64 = 64 << 20;

/// Takes a snapshot when enough entries came since the last one, or large ones, then drops entries that no one should need.
async fn compact(running: &Running, cell: &StateCell) {
    let raft = &*running.raft;
    let spec = cell.load().store.cluster().map_or_else(RaftSpec::default, |cluster| cluster.spec.raft.clone());
    running.folder.set_keep_old(spec.keep_old_snapshots);
    let (applied, snapshot, purged) = {
        let metrics = raft.metrics();
        let now = metrics.borrow_watched();
        let index = |id: &Option<crate::raft::types::LogId>| id.map_or(0, |id| id.index);
        (index(&now.last_applied), index(&now.snapshot), index(&now.purged))
    };
    let many = applied.saturating_sub(snapshot) >= spec.snapshot_interval.max(1);
    if many || cell.unsaved_bytes() >= running.folder.newest_bytes().max(SNAPSHOT_BYTES) {
        let _ = raft.trigger().snapshot().await;
    }
    let keep_from = snapshot.saturating_sub(spec.log_entries_for_slow_followers);
    if keep_from > purged.saturating_add(100) {
        let _ = raft.trigger().purge_log(keep_from).await;
    }
}

fn config(timing: &Timing) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "shoal".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        enable_pre_vote: Some(true),
        // Both are decided by `compact`, because their settings belong to the cluster and change while it runs.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: 60_000,
        broadcast_submitted_on_append: Some(true),
        backoff: "50ms 100ms 200ms ...1s".to_owned(),
        ..Config::default()
    }
}
