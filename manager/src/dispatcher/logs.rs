//! Log subscriptions: what agents publish goes to whoever asked.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_proto::id::NodeId;
use shoal_proto::wire::manager_message::Message;
use shoal_proto::wire::{LogChunk, LogSubscription};
use tokio::sync::mpsc;
use tonic::Status;

use crate::dispatcher::{Dispatcher, Outbound, message};

/// Lines that wait for a slow reader; then the agents wait.
const QUEUE: usize = 256;

#[derive(Debug)]
struct Subscription {
    node: NodeId,
    session: u64,
    chunks: mpsc::Sender<LogChunk>,
    outbound: Outbound,
}

/// The subscriptions that run through this manager.
#[derive(Debug, Default)]
pub(crate) struct LogBroker {
    subscriptions: Mutex<HashMap<String, Subscription>>,
}

impl LogBroker {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Subscription>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what an agent publishes. Waits while the reader is slow; an error tells the agent to stop.
    pub(crate) async fn publish(&self, node: NodeId, chunk: LogChunk) -> Result<(), Status> {
        let sender = match self.lock().get(&chunk.subscription_id) {
            Some(subscription) if subscription.node == node => subscription.chunks.clone(),
            _ => return Err(Status::not_found("nobody listens to this subscription any more")),
        };
        sender.send(chunk).await.map_err(|_| Status::not_found("nobody listens to this subscription any more"))
    }

    /// A session is over: its subscriptions end, and readers are told by the end of their stream.
    pub(crate) fn session_ended(&self, node: NodeId, session: u64) {
        self.lock().retain(|_, subscription| (subscription.node, subscription.session) != (node, session));
    }
}

/// The chunks of one subscription at one node. Dropping it ends the subscription.
#[derive(Debug)]
pub(crate) struct Chunks {
    id: String,
    /// Tasks that have not ended yet.
    open: HashSet<String>,
    chunks: mpsc::Receiver<LogChunk>,
    broker: Arc<LogBroker>,
}

impl Chunks {
    /// The next chunk; `None` when all tasks have ended. Tasks whose node went away end with an error.
    pub(crate) async fn next(&mut self) -> Option<LogChunk> {
        if self.open.is_empty() {
            return None;
        }
        match self.chunks.recv().await {
            Some(chunk) => {
                if chunk.end {
                    self.open.remove(&chunk.task_id);
                }
                Some(chunk)
            }
            None => {
                let task_id = self.open.iter().next().cloned()?;
                self.open.remove(&task_id);
                Some(broken(&self.id, &task_id, "the connection to its node was lost"))
            }
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if let Some(subscription) = self.broker.lock().remove(&self.id) {
            let _ = subscription.outbound.try_send(Ok(message(Message::UnsubscribeLogs(self.id.clone()))));
        }
    }
}

/// The end of a task's logs that came too early.
pub(crate) fn broken(subscription: &str, task: &str, reason: &str) -> LogChunk {
    LogChunk {
        subscription_id: subscription.to_owned(),
        task_id: task.to_owned(),
        end: true,
        error: reason.to_owned(),
        ..LogChunk::default()
    }
}

impl Dispatcher {
    /// Asks a node that has its session here for logs.
    pub(crate) fn subscribe(&self, node: NodeId, subscription: LogSubscription) -> Result<Chunks, Status> {
        let session = self.session(node).ok_or_else(|| Status::not_found("the node is not connected here"))?;
        let (sender, chunks) = mpsc::channel(QUEUE);
        let id = subscription.id.clone();
        let open = subscription.task_ids.iter().cloned().collect();
        let entry = Subscription { node, session: session.id, chunks: sender, outbound: session.outbound.clone() };
        {
            let mut subscriptions = self.logs.lock();
            if subscriptions.contains_key(&id) {
                return Err(Status::already_exists("this subscription exists"));
            }
            subscriptions.insert(id.clone(), entry);
        }
        let chunks = Chunks { id, open, chunks, broker: Arc::clone(&self.logs) };
        session
            .outbound
            .try_send(Ok(message(Message::SubscribeLogs(subscription))))
            .map_err(|_| Status::unavailable("the node does not read what it is sent"))?;
        Ok(chunks)
    }
}
