//! One session: from the greeting to the end of the stream.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use shoal_proto::codec;
use shoal_proto::control::Report;
use shoal_proto::error::chain;
use shoal_proto::id::NodeId;
use shoal_proto::object::NodeState;
use shoal_proto::time::Timestamp;
use shoal_proto::wire::agent_message::Message as FromAgent;
use shoal_proto::wire::manager_message::Message as ToAgent;
use shoal_proto::wire::{AgentMessage, StatusBatch};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::dispatcher::hub::Command;
use crate::dispatcher::reporter::Item;
use crate::dispatcher::service::decode_description;
use crate::dispatcher::standing::MISSED;
use crate::dispatcher::{Ended, SessionHandle, message};
use crate::inner::Inner;

/// Status batches of one session that may wait for the leader; more are not read.
const UNACKNOWLEDGED: usize = 32;
/// Why a session ended.
enum End {
    /// Told to.
    Closed(Status),
    /// The agent's side of the stream ended.
    Gone(String),
    /// Nothing was heard for too long.
    Silent(String),
    /// The node leaves on purpose.
    Goodbye,
    /// Its daemon stops, and means to come back.
    Restarting,
}

pub(crate) struct Session {
    pub(crate) inner: Arc<Inner>,
    pub(crate) node: NodeId,
    pub(crate) handle: SessionHandle,
    /// End of the certificate that the session was opened with.
    pub(crate) expires: Option<Timestamp>,
}

/// Makes the session known; an older one of the same node is told to end, because the newest wins.
pub(crate) fn open(inner: &Inner, node: NodeId, handle: &SessionHandle) {
    let mut sessions = inner.dispatcher.sessions();
    sessions.ended.remove(&node);
    if let Some(older) = sessions.live.insert(node, handle.clone()) {
        older.close(Status::aborted("this node opened a newer session"));
    }
}

/// Submits what a session says of its node.
pub(crate) async fn report_ready(inner: &Inner, node: NodeId, handle: &SessionHandle) -> Option<oneshot::Receiver<()>> {
    let report = Report::NodeReady {
        id: node,
        description: Arc::clone(&handle.description),
        addr: Some(handle.addr),
        session_manager: inner.raft.id(),
    };
    submit(inner, vec![report]).await
}

/// Waits until somebody wants the session to end.
async fn close_reason(closing: &mut watch::Receiver<Option<Status>>) -> Status {
    let closed = closing.wait_for(Option::is_some).await.ok().and_then(|status| status.clone());
    closed.unwrap_or_else(|| Status::aborted("the session was closed"))
}

/// Queues reports; the receiver hears when they are in the replicated store. `None`: the manager stops.
pub(crate) async fn submit(inner: &Inner, reports: Vec<Report>) -> Option<oneshot::Receiver<()>> {
    let (done, confirmed) = oneshot::channel();
    let queue = inner.dispatcher.reports.get()?;
    queue.send(Item { reports, done: Some(done) }).await.ok()?;
    Some(confirmed)
}

impl Session {
    fn silence(&self) -> Duration {
        self.inner.heartbeat_period().mul_f64(MISSED)
    }

    pub(crate) async fn run(mut self, inbound: Streaming<AgentMessage>) {
        let attach =
            Command::Attach { node: self.node, session: self.handle.id, outbound: self.handle.outbound.clone() };
        if let Some(hub) = self.inner.dispatcher.hub.get() {
            let _ = hub.send(attach).await;
        }
        let end = self.serve(inbound).await;
        self.finish(end).await;
    }

    async fn serve(&mut self, mut inbound: Streaming<AgentMessage>) -> End {
        let mut closing = self.handle.closing.subscribe();
        let mut confirmations = FuturesUnordered::new();
        let mut ready = report_ready(&self.inner, self.node, &self.handle).await;
        let mut heard = Instant::now();
        loop {
            let reading = confirmations.len() < UNACKNOWLEDGED;
            let silence = self.silence();
            tokio::select! {
                biased;
                status = close_reason(&mut closing) => return End::Closed(status),
                Some(number) = confirmations.next(), if !confirmations.is_empty() => {
                    // Without a number the manager is stopping; the agent sends again elsewhere.
                    if let Some(number) = number
                        && !self.send(ToAgent::StatusesAccepted(number), silence).await
                    {
                        return End::Gone("it does not read what it is sent".to_owned());
                    }
                }
                confirmed = async { match ready.as_mut() {
                    Some(confirmed) => confirmed.await.is_ok(),
                    None => std::future::pending().await,
                } } => {
                    ready = None;
                    if confirmed {
                        self.confirm();
                    }
                }
                received = inbound.message(), if reading => {
                    heard = Instant::now();
                    let received = match received {
                        Err(status) => return End::Gone(format!("its stream broke: {}", status.message())),
                        Ok(None) => return End::Gone("it closed its stream".to_owned()),
                        Ok(Some(AgentMessage { message })) => message,
                    };
                    match received {
                        None | Some(FromAgent::Heartbeat(_)) => {}
                        Some(FromAgent::Goodbye(goodbye)) => {
                            return if goodbye.restarting { End::Restarting } else { End::Goodbye };
                        }
                        Some(FromAgent::Resend(_)) => self.resend().await,
                        Some(FromAgent::Hello(hello)) => match decode_description(&hello.description) {
                            Err(status) => return End::Closed(status),
                            Ok(description) => {
                                self.handle.description = description;
                                ready = report_ready(&self.inner, self.node, &self.handle).await;
                            }
                        },
                        Some(FromAgent::Statuses(batch)) => match self.reports(batch) {
                            Err(status) => return End::Closed(status),
                            Ok((number, reports)) => {
                                let confirmed = submit(&self.inner, reports).await;
                                confirmations.push(async move { confirmed?.await.ok().map(|()| number) });
                            }
                        },
                    }
                }
                () = tokio::time::sleep_until(heard + silence), if reading => {
                    return End::Silent(format!("nothing was heard of it for {:.1} s", silence.as_secs_f64()));
                }
            }
            if self.expires.is_some_and(|expires| self.inner.options.clock.now() > expires) {
                return End::Closed(Status::unauthenticated("the certificate has expired: reconnect with a new one"));
            }
            if !reading {
                heard = Instant::now();
            }
        }
    }

    /// The leader has written down that the node is ready.
    fn confirm(&mut self) {
        self.handle.confirmed = true;
        let mut sessions = self.inner.dispatcher.sessions();
        if let Some(live) = sessions.live.get_mut(&self.node)
            && live.id == self.handle.id
        {
            *live = self.handle.clone();
        }
    }

    async fn resend(&self) {
        let command =
            Command::Attach { node: self.node, session: self.handle.id, outbound: self.handle.outbound.clone() };
        if let Some(hub) = self.inner.dispatcher.hub.get() {
            let _ = hub.send(command).await;
        }
    }

    async fn send(&self, content: ToAgent, patience: Duration) -> bool {
        let sending = self.handle.outbound.send(Ok(message(content)));
        matches!(tokio::time::timeout(patience, sending).await, Ok(Ok(())))
    }

    fn reports(&self, batch: StatusBatch) -> Result<(u64, Vec<Report>), Status> {
        let mut reports = Vec::with_capacity(batch.updates.len());
        for update in batch.updates {
            let id = update.task_id.parse().map_err(|_| Status::invalid_argument("invalid task id"))?;
            let status = codec::decode(&update.status).map_err(|error| Status::invalid_argument(chain(&error)))?;
            reports.push(Report::Task { node: self.node, id, status });
        }
        Ok((batch.number, reports))
    }

    /// Writes down how the node's last session ended, where that says more than its absence.
    async fn report_end(&self, end: &End) {
        let (id, session_manager) = (self.node, self.inner.raft.id());
        let report = match end {
            End::Goodbye => {
                let message = "the node left".to_owned();
                Report::NodeGone { id, state: NodeState::Down, message, session_manager }
            }
            End::Restarting => Report::NodeRestarting { id, session_manager },
            End::Closed(_) | End::Gone(_) | End::Silent(_) => return,
        };
        if let Some(confirmed) = submit(&self.inner, vec![report]).await {
            let _ = confirmed.await;
        }
    }

    async fn finish(self, end: End) {
        let ended = match &end {
            End::Closed(status) => Ended { at: Instant::now(), silent: false, message: status.message().to_owned() },
            End::Gone(message) => Ended { at: Instant::now(), silent: false, message: message.clone() },
            End::Silent(message) => Ended { at: Instant::now(), silent: true, message: message.clone() },
            End::Goodbye => Ended { at: Instant::now(), silent: false, message: "the node left".to_owned() },
            End::Restarting => {
                let message = "its daemon was stopped and did not come back".to_owned();
                Ended { at: Instant::now(), silent: false, message }
            }
        };
        tracing::info!(node = %self.node, session = self.handle.id, reason = ended.message, "session ended");
        let last = {
            let mut sessions = self.inner.dispatcher.sessions();
            let last = sessions.live.get(&self.node).is_some_and(|live| live.id == self.handle.id);
            if last {
                sessions.live.remove(&self.node);
                sessions.ended.insert(self.node, ended);
            }
            last
        };
        self.inner.dispatcher.logs.session_ended(self.node, self.handle.id);
        if let Some(hub) = self.inner.dispatcher.hub.get() {
            let _ = hub.send(Command::Detach { node: self.node, session: self.handle.id }).await;
        }
        if last {
            self.report_end(&end).await;
        }
        let status = match end {
            End::Closed(status) => Some(status),
            End::Silent(message) => Some(Status::deadline_exceeded(message)),
            End::Gone(_) | End::Goodbye | End::Restarting => None,
        };
        if let Some(status) = status {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.handle.outbound.send(Err(status))).await;
        }
        // The stream to the agent ends when the last sender is gone: hub and broker have let go of theirs.
    }
}
