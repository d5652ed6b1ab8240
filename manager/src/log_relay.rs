//! Logs of tasks wherever they run: asked of the managers that hold the nodes' sessions, merged into one stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_kit::reason::describe;
use shoal_proto::id::{NodeId, TaskId};
use shoal_proto::wire::{LogChunk, LogSubscription, RelayLogsRequest};
use tokio::sync::mpsc;

use crate::dispatcher::logs::broken;
use crate::inner::Inner;
use crate::peers::Lane;

/// Lines that wait for the reader of the merged stream.
const QUEUE: usize = 256;

/// The merged chunks of many tasks. A task whose logs cannot be had ends with an error; the others go on.
#[derive(Debug)]
pub struct ServiceLogs {
    chunks: mpsc::Receiver<LogChunk>,
}

impl ServiceLogs {
    /// The next chunk; `None` when every task has ended.
    pub async fn next(&mut self) -> Option<LogChunk> {
        self.chunks.recv().await
    }
}

impl futures::Stream for ServiceLogs {
    type Item = LogChunk;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<LogChunk>> {
        self.chunks.poll_recv(cx)
    }
}

impl Inner {
    /// Begins to collect. `options` says what is wanted; its id and tasks are set here.
    pub(crate) fn service_logs(self: &Arc<Self>, tasks: &[TaskId], options: &LogSubscription) -> ServiceLogs {
        let (sender, chunks) = mpsc::channel(QUEUE);
        let store = self.store();
        let mut by_node: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for id in tasks {
            // Tasks without a node never ran: they have no logs, which is no error.
            if let Some(node) = store.task(*id).and_then(|task| task.node_id) {
                by_node.entry(node).or_default().push(id.to_string());
            }
        }
        for (node, task_ids) in by_node {
            let id = format!("{:016x}{:016x}", self.options.entropy.next_u64(), self.options.entropy.next_u64());
            let subscription = LogSubscription { id, task_ids, ..options.clone() };
            let manager = store.node(node).and_then(|node| node.status.session_manager);
            tokio::spawn(collect(Arc::clone(self), node, manager, subscription, sender.clone()));
        }
        ServiceLogs { chunks }
    }
}

/// Collects from one node until its tasks have ended or nobody listens.
async fn collect(
    inner: Arc<Inner>,
    node: NodeId,
    manager: Option<u64>,
    subscription: LogSubscription,
    sender: mpsc::Sender<LogChunk>,
) {
    let fail = async |reason: &str, tasks: &[String]| {
        for task in tasks {
            if sender.send(broken(&subscription.id, task, reason)).await.is_err() {
                return;
            }
        }
    };
    // A session that is here now wins over what the store says: it may be newer.
    match inner.dispatcher.subscribe(node, subscription.clone()) {
        Ok(mut chunks) => loop {
            let chunk = tokio::select! {
                () = sender.closed() => return,
                chunk = chunks.next() => chunk,
            };
            match chunk {
                None => return,
                Some(chunk) => {
                    if sender.send(chunk).await.is_err() {
                        return;
                    }
                }
            }
        },
        Err(_) if manager != Some(inner.raft.id()) => {}
        Err(status) => return fail(&format!("node {node}: {}", status.message()), &subscription.task_ids).await,
    }
    let view = inner.raft.view();
    let Some(member) = manager.and_then(|id| view.member(id).cloned()) else {
        return fail(&format!("node {node} is not connected"), &subscription.task_ids).await;
    };
    let mut open = subscription.task_ids.clone();
    let reason = match inner.peers.client(member.node_id, member.addr, Lane::Bulk) {
        Err(error) => error.to_string(),
        Ok(mut client) => {
            let request = RelayLogsRequest { node_id: node.to_string(), subscription: Some(subscription.clone()) };
            match client.relay_logs(request).await {
                Err(status) => format!("the manager it is connected to: {}", describe(&status)),
                Ok(response) => {
                    let mut stream = response.into_inner();
                    loop {
                        let chunk = tokio::select! {
                            () = sender.closed() => return,
                            chunk = stream.message() => chunk,
                        };
                        match chunk {
                            Ok(Some(chunk)) => {
                                if chunk.end {
                                    open.retain(|task| *task != chunk.task_id);
                                }
                                if sender.send(chunk).await.is_err() {
                                    return;
                                }
                            }
                            Ok(None) => break "the stream of its logs ended early".to_owned(),
                            Err(status) => {
                                break format!("the manager it is connected to: {}", describe(&status));
                            }
                        }
                    }
                }
            }
        }
    };
    fail(&format!("node {node}: {reason}"), &open).await;
}
