//! Logs of tasks on nodes whose sessions this manager holds.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_proto::id::NodeId;
use shoal_proto::wire::LogChunk;
use tokio::sync::mpsc;

/// Lines that wait for a slow reader. A full queue holds up the agent's log stream, nothing else.
const QUEUE: usize = 256;

#[derive(Debug)]
struct Subscription {
    node: NodeId,
    /// Tasks whose logs have not ended.
    open: HashSet<String>,
    sender: mpsc::Sender<LogChunk>,
}

/// The running subscriptions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogBroker {
    subscriptions: Arc<Mutex<HashMap<String, Subscription>>>,
}

impl LogBroker {
    /// Files a subscription to tasks of one node; its lines arrive at the receiver, which is closed when the logs of
    /// all tasks have ended. The caller sends the subscription to the agent.
    pub(crate) fn subscribe(&self, id: &str, node: NodeId, tasks: &[String]) -> mpsc::Receiver<LogChunk> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let subscription = Subscription { node, open: tasks.iter().cloned().collect(), sender };
        self.lock().insert(id.to_owned(), subscription);
        receiver
    }

    /// Ends a subscription.
    pub(crate) fn unsubscribe(&self, id: &str) {
        self.lock().remove(id);
    }

    /// A line from an agent. False when nobody waits for it: the agent may stop sending.
    pub(crate) async fn deliver(&self, node: NodeId, chunk: LogChunk) -> bool {
        let sender = {
            let mut subscriptions = self.lock();
            let Some(subscription) = subscriptions.get_mut(&chunk.subscription_id).filter(|known| known.node == node)
            else {
                return false;
            };
            let sender = subscription.sender.clone();
            if chunk.end {
                subscription.open.remove(&chunk.task_id);
                if subscription.open.is_empty() {
                    subscriptions.remove(&chunk.subscription_id);
                }
            }
            sender
        };
        sender.send(chunk).await.is_ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Subscription>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(task: &str, end: bool) -> LogChunk {
        LogChunk { subscription_id: "s".to_owned(), task_id: task.to_owned(), end, ..LogChunk::default() }
    }

    #[tokio::test]
    async fn a_subscription_ends_with_the_last_of_its_tasks() {
        let broker = LogBroker::default();
        let node = NodeId::from_bits(1);
        let mut lines = broker.subscribe("s", node, &["a".to_owned(), "b".to_owned()]);
        assert!(broker.deliver(node, chunk("a", false)).await);
        assert!(broker.deliver(node, chunk("a", true)).await);
        assert!(broker.deliver(node, chunk("b", true)).await);
        assert!(!broker.deliver(node, chunk("b", false)).await);
        let mut seen = 0;
        while lines.recv().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, 3);
    }

    #[tokio::test]
    async fn another_nodes_lines_are_not_taken() {
        let broker = LogBroker::default();
        let _lines = broker.subscribe("s", NodeId::from_bits(1), &["a".to_owned()]);
        assert!(!broker.deliver(NodeId::from_bits(2), chunk("a", false)).await);
    }
}
