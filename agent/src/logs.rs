//! Log subscriptions of a session: each task's lines are sent to the manager that asked.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use shoal_proto::error::Failure;
use shoal_proto::id::TaskId;
use shoal_proto::time::Timestamp;
use shoal_proto::wire;
use shoal_proto::wire::dispatcher_client::DispatcherClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use crate::executor::{Executor, LogOptions};

/// Lines that wait for a slow manager, in all of one subscription.
const QUEUE_LINES: usize = 256;

/// The running subscriptions; all end when this is dropped.
pub(crate) struct Subscriptions<E: Executor> {
    executor: Arc<E>,
    client: DispatcherClient<Channel>,
    running: HashMap<String, DropGuard>,
}

impl<E: Executor> Subscriptions<E> {
    pub(crate) fn new(executor: Arc<E>, client: DispatcherClient<Channel>) -> Self {
        Self { executor, client, running: HashMap::new() }
    }

    pub(crate) fn start(&mut self, subscription: wire::LogSubscription) {
        let stop = CancellationToken::new();
        self.running.insert(subscription.id.clone(), stop.clone().drop_guard());
        let (sender, receiver) = mpsc::channel(QUEUE_LINES);
        for task in &subscription.task_ids {
            let work = pump(Arc::clone(&self.executor), task.clone(), subscription.clone(), sender.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(work));
        }
        let mut client = self.client.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            if let Err(status) = client.publish_logs(ReceiverStream::new(receiver)).await {
                tracing::debug!(reason = status.message(), "a log subscription ended early");
            }
        }));
    }

    pub(crate) fn stop(&mut self, id: &str) {
        self.running.remove(id);
    }
}

async fn pump<E: Executor>(
    executor: Arc<E>,
    task: String,
    subscription: wire::LogSubscription,
    sender: mpsc::Sender<wire::LogChunk>,
) {
    let chunk =
        wire::LogChunk { subscription_id: subscription.id.clone(), task_id: task.clone(), ..wire::LogChunk::default() };
    let result = send_lines(executor.as_ref(), &task, &subscription, &chunk, &sender).await;
    let error = result.err().map(|failure| failure.message).unwrap_or_default();
    // A closed queue means that nobody listens any more.
    let _ = sender.send(wire::LogChunk { end: true, error, ..chunk }).await;
}

async fn send_lines<E: Executor>(
    executor: &E,
    task: &str,
    subscription: &wire::LogSubscription,
    chunk: &wire::LogChunk,
    sender: &mpsc::Sender<wire::LogChunk>,
) -> Result<(), Failure> {
    let id: TaskId = task.parse().map_err(|error: shoal_proto::id::InvalidId| Failure::invalid(error.to_string()))?;
    let options = LogOptions {
        follow: subscription.follow,
        stdout: subscription.stdout,
        stderr: subscription.stderr,
        since: Timestamp(subscription.since),
        until: Timestamp(subscription.until),
        tail: u64::try_from(subscription.tail).ok(),
    };
    let mut lines = executor.logs(id, options).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        let sent = wire::LogChunk {
            stream: if line.stderr { 2 } else { 1 },
            timestamp: line.timestamp.0,
            line: line.line.into(),
            ..chunk.clone()
        };
        if sender.send(sent).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
