//! Sessions with agents: one stream each, on whichever manager the agent chose.
//!
//! ## Design notes
//! Three kinds of task. A session ([`session`]) reads one stream and guards its heartbeats. The hub ([`hub`]) follows
//! the store for all sessions of this manager at once, so that a change costs what it concerns and not a scan of all
//! nodes. The reporter ([`reporter`]) merges what all sessions learned into few requests to the leader. Whether a node
//! counts as alive is decided by level ([`sweep`]): what the store says of nodes is compared with the sessions that
//! are there. Every queue is bounded; a session that does not keep up is closed, and its agent begins anew.

pub(crate) mod hub;
pub(crate) mod logs;
pub(crate) mod reporter;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod standing;
pub(crate) mod sweep;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use shoal_proto::id::NodeId;
use shoal_proto::object::NodeDescription;
use shoal_proto::wire::ManagerMessage;
use shoal_proto::wire::manager_message::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::dispatcher::hub::Command;
use crate::dispatcher::logs::LogBroker;
use crate::dispatcher::reporter::Item;
use crate::dispatcher::standing::Standing;

/// Messages that may wait for an agent to read them.
pub(crate) const OUTBOUND: usize = 64;

pub(crate) type Outbound = mpsc::Sender<Result<ManagerMessage, Status>>;

/// The message that carries this.
pub(crate) fn message(message: Message) -> ManagerMessage {
    ManagerMessage { message: Some(message) }
}

/// A live session, as the rest of the manager sees it.
#[derive(Debug, Clone)]
pub(crate) struct SessionHandle {
    /// Tells sessions of one node apart.
    pub(crate) id: u64,
    pub(crate) outbound: Outbound,
    /// Set once: why the session is to end.
    pub(crate) closing: watch::Sender<Option<Status>>,
    /// What the node said of itself last.
    pub(crate) description: Arc<NodeDescription>,
    /// Address the session comes from.
    pub(crate) addr: std::net::IpAddr,
    /// Has the leader confirmed that the node is ready?
    pub(crate) confirmed: bool,
}

impl SessionHandle {
    pub(crate) fn close(&self, status: Status) {
        self.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            if first {
                *closing = Some(status);
            }
            first
        });
    }
}

/// How the last session of a node ended here.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) at: Instant,
    /// Its heartbeats stopped: there is nothing to wait for.
    pub(crate) silent: bool,
    pub(crate) message: String,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) live: HashMap<NodeId, SessionHandle>,
    pub(crate) ended: HashMap<NodeId, Ended>,
}

/// The sessions of this manager and the queues of its tasks.
#[derive(Debug, Default)]
pub(crate) struct Dispatcher {
    sessions: Mutex<Sessions>,
    next_id: AtomicU64,
    standing: Mutex<Standing>,
    pub(crate) hub: OnceLock<mpsc::Sender<Command>>,
    pub(crate) reports: OnceLock<mpsc::Sender<Item>>,
    pub(crate) logs: Arc<LogBroker>,
}

impl Dispatcher {
    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when, if at all, this manager may judge whether nodes are gone.
    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new_session_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Number of live sessions.
    pub(crate) fn session_count(&self) -> usize {
        self.sessions().live.len()
    }

    pub(crate) fn session(&self, node: NodeId) -> Option<SessionHandle> {
        self.sessions().live.get(&node).cloned()
    }

    /// Ends all sessions: the manager stops, or cannot speak for the cluster.
    pub(crate) fn close_all(&self, status: &Status) {
        for session in self.sessions().live.values() {
            session.close(status.clone());
        }
    }
}
