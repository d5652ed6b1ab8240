//! The agent as a component: options, the service that runs, the handle that others hold.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_kit::backoff::Backoff;
use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_proto::error::Failure;
use shoal_proto::wire;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::attachments::Door;
use crate::executor::Executor;
use crate::reporter::Reporter;
use crate::session::{self, Context, SessionError};
use crate::worker::Worker;

/// Makes a channel to the manager at this address, which presents the node's certificate and checks the manager's.
pub type Dialer = Arc<dyn Fn(&str) -> Result<Channel, Failure> + Send + Sync>;

/// What an agent is made of.
#[derive(Clone)]
pub struct AgentOptions {
    /// Connects to managers.
    pub dialer: Dialer,
    /// Managers to try first; the session tells of others.
    pub managers: Vec<String>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Chooses managers and jitter.
    pub entropy: Entropy,
}

/// What the agent knows of its session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionInfo {
    /// Is there a session now?
    pub connected: bool,
    /// Its identifier.
    pub session_id: String,
    /// Addresses of all managers.
    pub managers: Vec<String>,
    /// `worker` or `manager`: the role that the cluster wants for this node; empty before the first session.
    pub desired_role: String,
    /// Trust bundle, PEM; empty before the first session.
    pub root_pem: String,
    /// The cluster's life of certificates; zero before the first session.
    pub certificate_expiry: Duration,
    /// Why there is no session; empty when there is one.
    pub error: String,
}

impl SessionInfo {
    pub(crate) fn from_state(state: wire::SessionState) -> Self {
        Self {
            connected: true,
            session_id: state.session_id,
            managers: state.managers,
            desired_role: state.desired_role,
            root_pem: state.root_pem,
            certificate_expiry: Duration::from_millis(state.certificate_expiry_ms),
            error: String::new(),
        }
    }
}

/// The running part.
pub struct Agent<E: Executor> {
    options: AgentOptions,
    executor: Arc<E>,
    info: watch::Sender<SessionInfo>,
    door: watch::Sender<Door>,
    reconnect: Arc<Mutex<CancellationToken>>,
    leave: CancellationToken,
}

/// What the rest of the node holds of its agent.
#[derive(Debug, Clone)]
pub struct AgentHandle {
    info: watch::Receiver<SessionInfo>,
    door: watch::Receiver<Door>,
    reconnect: Arc<Mutex<CancellationToken>>,
    leave: CancellationToken,
}

impl AgentHandle {
    /// The session, and its changes.
    pub fn session(&self) -> watch::Receiver<SessionInfo> {
        self.info.clone()
    }

    pub(crate) fn door(&self) -> watch::Receiver<Door> {
        self.door.clone()
    }

    /// Ends the session and begins another, with the certificate that the node has now.
    pub fn reconnect(&self) {
        self.reconnect.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// The node leaves the cluster: the end of the session is announced, so that nobody waits for its heartbeat.
    pub fn announce_leave(&self) {
        self.leave.cancel();
    }
}

impl<E: Executor> Agent<E> {
    /// An agent for this engine.
    pub fn new(options: AgentOptions, executor: Arc<E>) -> (Self, AgentHandle) {
        let (info, receiver) = watch::channel(SessionInfo::default());
        let (door, open_door) = watch::channel(None);
        let reconnect = Arc::new(Mutex::new(CancellationToken::new()));
        let leave = CancellationToken::new();
        let handle =
            AgentHandle { info: receiver, door: open_door, reconnect: Arc::clone(&reconnect), leave: leave.clone() };
        (Self { options, executor, info, door, reconnect, leave }, handle)
    }

    /// Runs until shutdown. Containers go on running after that.
    pub async fn run(self, shutdown: CancellationToken) {
        let reporter = Arc::new(Reporter::default());
        let mut worker = Worker::new(
            Arc::clone(&self.executor),
            Arc::clone(&reporter),
            Arc::clone(&self.options.clock),
            self.options.entropy.clone(),
            shutdown.clone(),
        );
        let mut last = String::new();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(4), self.options.entropy.clone());
        while !shutdown.is_cancelled() {
            let until = self.session_token(&shutdown);
            let manager = self.choose_manager(&last);
            let context = Context {
                executor: &self.executor,
                worker: &mut worker,
                reporter: &reporter,
                info: &self.info,
                door: &self.door,
                until: &until,
                shutdown: &shutdown,
                leave: &self.leave,
            };
            let ended = match (self.options.dialer)(&manager) {
                Ok(channel) => {
                    let ended = session::run(channel, context).await;
                    if ended.as_ref().is_err_and(SessionError::is_removal) {
                        worker.forget_all();
                    }
                    ended.map_err(|error| session::describe(&error))
                }
                Err(failure) => Err(failure.message),
            };
            self.door.send_replace(None);
            let had_session = self.info.borrow().connected;
            let reason = ended.err().unwrap_or_default();
            self.info.send_modify(|info| {
                info.connected = false;
                info.error.clone_from(&reason);
            });
            if had_session {
                backoff.reset();
            }
            // The one that failed is not the next to be asked.
            last = if reason.is_empty() { String::new() } else { manager.clone() };
            if !reason.is_empty() {
                tracing::info!(manager, reason, "no session with a manager");
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
        worker.drain().await;
    }

    /// A token that ends the next session only.
    fn session_token(&self, shutdown: &CancellationToken) -> CancellationToken {
        let token = shutdown.child_token();
        *self.reconnect.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
        token
    }

    /// Any manager: one that the last session named, or one that we were given.
    fn choose_manager(&self, failed: &str) -> String {
        let info = self.info.borrow();
        let known = if info.managers.is_empty() { &self.options.managers } else { &info.managers };
        choose(known, failed, self.options.entropy.next_u64())
    }
}

/// One of the managers, but not the one that just failed when there are others. Empty when none is known.
fn choose(known: &[String], failed: &str, random: u64) -> String {
    let others: Vec<&String> = known.iter().filter(|manager| *manager != failed).collect();
    let Some(count) = std::num::NonZeroU64::new(others.len() as u64) else {
        return known.first().cloned().unwrap_or_default();
    };
    usize::try_from(random % count)
        .ok()
        .and_then(|index| others.get(index))
        .map(|one| (*one).clone())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_failed_is_not_asked_again_at_once() {
        let known = ["a", "b", "c"].map(str::to_owned);
        for random in 0..9 {
            assert_ne!(choose(&known, "b", random), "b");
        }
        assert_eq!(choose(&known[..1], "a", 5), "a", "there is no other");
        assert_eq!(choose(&[], "", 5), "");
    }
}
