//! Logs of a service: from every node that has one of its tasks, through the manager that holds the node's session.
//!
//! What cannot be read does not hide the rest: each task's stream ends with a chunk that carries the reason.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use shoal_manager_core::store::Store;
use shoal_proto::error::chain;
use shoal_proto::id::{NodeId, TaskId};
use shoal_proto::wire::manager_message::Message;
use shoal_proto::wire::{LogChunk, LogSubscription, ManagerMessage, RelayLogsRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::dispatcher::Dispatcher;
use crate::peers::{Lane, Peers};

/// Where logs are looked for.
pub(crate) struct Sources<'a> {
    pub(crate) store: &'a Store,
    pub(crate) dispatcher: &'a Dispatcher,
    pub(crate) peers: &'a Peers,
    /// This manager's raft id.
    pub(crate) own: u64,
}

/// Lines of all these tasks, as they come. The stream ends when all logs have; dropping it ends the subscriptions.
pub(crate) async fn collect(
    sources: Sources<'_>,
    tasks: &[TaskId],
    wanted: &LogSubscription,
) -> BoxStream<'static, LogChunk> {
    let mut by_node: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    let mut streams: Vec<BoxStream<'static, LogChunk>> = Vec::new();
    for task in tasks {
        match sources.store.task(*task).map(|task| task.node_id) {
            Some(Some(node)) => by_node.entry(node).or_default().push(task.to_string()),
            // Not placed yet: there is nothing to read.
            Some(None) => {}
            None => streams.push(ended(&[task.to_string()], "no such task")),
        }
    }
    for (node, task_ids) in by_node {
        let subscription = LogSubscription { id: format!("{}-{node}", wanted.id), task_ids, ..wanted.clone() };
        streams.push(of_node(&sources, node, subscription).await);
    }
    stream::select_all(streams).boxed()
}

async fn of_node(sources: &Sources<'_>, node: NodeId, subscription: LogSubscription) -> BoxStream<'static, LogChunk> {
    let tasks = subscription.task_ids.clone();
    let manager = sources.store.node(node).and_then(|node| node.status.session_manager);
    match manager {
        None => ended(&tasks, &format!("node {node} is not connected")),
        Some(manager) if manager == sources.own => local(sources.dispatcher, node, subscription),
        Some(manager) => match remote(sources, manager, node, subscription).await {
            Ok(stream) => stream,
            Err(reason) => ended(&tasks, &reason),
        },
    }
}

async fn remote(
    sources: &Sources<'_>,
    manager: u64,
    node: NodeId,
    subscription: LogSubscription,
) -> Result<BoxStream<'static, LogChunk>, String> {
    let holder = sources
        .store
        .nodes()
        .find(|known| known.manager.as_ref().is_some_and(|member| member.raft_id == manager))
        .ok_or_else(|| format!("the manager that serves node {node} is gone"))?;
    let addr = holder.manager.as_ref().map(|member| member.addr).ok_or("the manager has no address")?;
    let mut client = sources.peers.client(holder.id, addr, Lane::Requests).map_err(|error| chain(&error))?;
    let tasks = subscription.task_ids.clone();
    let request = RelayLogsRequest { node_id: node.to_string(), subscription: Some(subscription) };
    let lines = client.relay_logs(request).await.map_err(|status| status.message().to_owned())?.into_inner();
    Ok(lines
        .flat_map(move |line| match line {
            Ok(chunk) => stream::once(std::future::ready(chunk)).boxed(),
            Err(status) => ended(&tasks, status.message()),
        })
        .boxed())
}

/// Lines of tasks on a node whose session is held here. Also the answer to another manager that asks for them.
pub(crate) fn local(
    dispatcher: &Dispatcher,
    node: NodeId,
    subscription: LogSubscription,
) -> BoxStream<'static, LogChunk> {
    let (id, tasks) = (subscription.id.clone(), subscription.task_ids.clone());
    let lines = dispatcher.logs().subscribe(&id, node, &tasks);
    let guard = Guard { dispatcher: dispatcher.clone(), node, id: id.clone() };
    if !dispatcher.send(node, ManagerMessage { message: Some(Message::SubscribeLogs(subscription)) }) {
        return ended(&tasks, &format!("node {node} is not connected"));
    }
    guarded(lines, guard)
}

fn guarded(lines: mpsc::Receiver<LogChunk>, guard: Guard) -> BoxStream<'static, LogChunk> {
    ReceiverStream::new(lines)
        .map(move |chunk| {
            let _held = &guard;
            chunk
        })
        .boxed()
}

/// Ends the subscription at the agent when nobody reads it any more.
struct Guard {
    dispatcher: Dispatcher,
    node: NodeId,
    id: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.dispatcher.logs().unsubscribe(&self.id);
        // A session that is gone has no subscriptions.
        self.dispatcher.send(self.node, ManagerMessage { message: Some(Message::UnsubscribeLogs(self.id.clone())) });
    }
}

fn ended(tasks: &[String], reason: &str) -> BoxStream<'static, LogChunk> {
    let chunks: Vec<LogChunk> = tasks
        .iter()
        .map(|task| LogChunk { task_id: task.clone(), end: true, error: reason.to_owned(), ..LogChunk::default() })
        .collect();
    stream::iter(chunks).boxed()
}
