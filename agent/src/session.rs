//! One session with one manager, from Hello to the end of the stream.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use shoal_kit::ca_client::NODE_REMOVED;
use shoal_kit::reason;
use shoal_proto::codec;
use shoal_proto::error::{Failure, chain};
use shoal_proto::wire;
use shoal_proto::wire::agent_message::Message as ToManager;
use shoal_proto::wire::dispatcher_client::DispatcherClient;
use shoal_proto::wire::manager_message::Message as FromManager;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::agent::SessionInfo;
use crate::assignments::Unusable;
use crate::attachments::Door;
use crate::executor::Executor;
use crate::logs::Subscriptions;
use crate::reporter::Reporter;
use crate::worker::Worker;

/// Statuses in one message.
const BATCH_LIMIT: usize = 1000;
/// How long statuses that pass by themselves wait for the one that stays: merges the quick states of a start.
const PASSING: Duration = Duration::from_millis(20);
/// Statuses that no manager acknowledged for so long are sent again.
const LOST: Duration = Duration::from_secs(10);
/// How long the last message of a session may take to be read.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long the first message of a manager may take.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot describe this node")]
    Describe(#[source] Failure),
    #[error("the manager refused the session: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
    #[error("the manager did not answer within {GREETING_TIMEOUT:?}")]
    NoGreeting,
    #[error("the stream broke: {}", .0.message())]
    Broken(#[source] Box<tonic::Status>),
    #[error("the manager closed the stream")]
    Closed,
    #[error("a message could not be read")]
    Malformed(#[from] codec::DecodeError),
    #[error(transparent)]
    Behind(Unusable),
}

/// What a session works with.
pub(crate) struct Context<'a, E: Executor> {
    pub(crate) executor: &'a Arc<E>,
    pub(crate) worker: &'a mut Worker<E>,
    pub(crate) reporter: &'a Arc<Reporter>,
    pub(crate) info: &'a watch::Sender<SessionInfo>,
    /// Through which others ask this manager.
    pub(crate) door: &'a watch::Sender<Door>,
    /// Ends this session.
    pub(crate) until: &'a CancellationToken,
    /// Ends the agent.
    pub(crate) shutdown: &'a CancellationToken,
    pub(crate) leave: &'a CancellationToken,
}

impl SessionError {
    /// Does a manager say that this node was removed from the cluster? It has asked a majority before it says so.
    pub(crate) fn is_removal(&self) -> bool {
        match self {
            Self::Refused(status) | Self::Broken(status) => status.details() == NODE_REMOVED,
            _ => false,
        }
    }
}

/// Runs until the stream ends or shutdown is asked for; then `Ok`.
pub(crate) async fn run<E: Executor>(channel: Channel, context: Context<'_, E>) -> Result<(), SessionError> {
    let description = context.executor.describe().await.map_err(SessionError::Describe)?;
    let mut client = DispatcherClient::new(channel).max_decoding_message_size(64 * 1024 * 1024);
    let (sender, receiver) = mpsc::channel::<wire::AgentMessage>(16);
    let hello = wire::Hello { description: codec::encode(&description).into() };
    send(&sender, ToManager::Hello(hello)).await?;
    let greeting = tokio::time::timeout(GREETING_TIMEOUT, client.session(ReceiverStream::new(receiver)));
    let response = tokio::select! {
        () = context.until.cancelled() => return Ok(()),
        response = greeting => response.map_err(|_| SessionError::NoGreeting)?,
    };
    let mut incoming = response.map_err(|status| SessionError::Refused(Box::new(status)))?.into_inner();
    context.reporter.rewind();
    context.door.send_replace(Some(client.clone()));
    let mut subscriptions = Subscriptions::new(Arc::clone(context.executor), client.clone());
    let (period, period_receiver) = watch::channel(Duration::from_secs(1));
    let _heartbeat = AbortOnDropHandle::new(tokio::spawn(heartbeat(sender.clone(), period_receiver)));
    let mut outbox = Outbox { sender: &sender, reporter: context.reporter, due: None, under_way: None };
    loop {
        tokio::select! {
            () = context.until.cancelled() => {
                if context.shutdown.is_cancelled() {
                    let restarting = !context.leave.is_cancelled();
                    send(&sender, ToManager::Goodbye(wire::Goodbye { restarting })).await?;
                    // The manager ends the stream when it has written that down.
                    let ended = async { while let Ok(Some(_)) = incoming.message().await {} };
                    let _ = tokio::time::timeout(FAREWELL, ended).await;
                }
                return Ok(());
            }
            message = incoming.message() => {
                let message = message.map_err(|status| SessionError::Broken(Box::new(status)))?.ok_or(SessionError::Closed)?;
                match message.message {
                    Some(FromManager::Session(state)) => {
                        period.send_replace(Duration::from_millis(state.heartbeat_period_ms.clamp(20, 3_600_000)));
                        context.info.send_replace(SessionInfo::from_state(state));
                    }
                    Some(FromManager::Assignments(bytes)) => {
                        match context.worker.apply(codec::decode(&bytes)?) {
                            Ok(()) => {}
                            Err(behind @ Unusable::Behind { .. }) => return Err(SessionError::Behind(behind)),
                            Err(error) => {
                                tracing::info!(%error, "asking for the whole assignment set");
                                send(&sender, ToManager::Resend(wire::ResendAssignments {})).await?;
                            }
                        }
                    }
                    Some(FromManager::StatusesAccepted(number)) => outbox.accepted(number),
                    Some(FromManager::SubscribeLogs(subscription)) => subscriptions.start(subscription),
                    Some(FromManager::UnsubscribeLogs(id)) => subscriptions.stop(&id),
                    None => {}
                }
            }
            () = context.reporter.changed() => outbox.changed(),
            () = outbox.wait() => outbox.flush().await?,
        }
    }
}

/// Statuses on their way: one batch at a time, so that what happens while it is under way goes into the next one, and
/// what happens in quiet times is sent at once.
struct Outbox<'a> {
    sender: &'a mpsc::Sender<wire::AgentMessage>,
    reporter: &'a Reporter,
    /// When what waits has to go.
    due: Option<Instant>,
    /// Number of the batch that is not acknowledged yet, and when it was sent.
    under_way: Option<(u64, Instant)>,
}

impl Outbox<'_> {
    fn changed(&mut self) {
        let now = Instant::now();
        let due = if self.reporter.is_urgent() { now } else { now + PASSING };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn accepted(&mut self, number: u64) {
        self.reporter.accepted(number);
        self.under_way = self.under_way.filter(|(sent, _)| *sent != number);
    }

    /// Returns when there is something to be sent. May be dropped.
    async fn wait(&self) {
        match (self.under_way, self.due) {
            (Some((_, sent)), _) => tokio::time::sleep_until(sent + LOST).await,
            (None, Some(due)) => tokio::time::sleep_until(due).await,
            (None, None) => std::future::pending().await,
        }
    }

    async fn flush(&mut self) -> Result<(), SessionError> {
        if self.under_way.take().is_some() {
            self.reporter.rewind();
        }
        self.due = None;
        let Some((number, updates)) = self.reporter.next_batch(BATCH_LIMIT) else { return Ok(()) };
        let now = Instant::now();
        if updates.len() == BATCH_LIMIT {
            self.due = Some(now);
        }
        self.under_way = Some((number, now));
        let updates = updates
            .into_iter()
            .map(|(id, status)| wire::TaskStatusUpdate {
                task_id: id.to_string(),
                status: codec::encode(&status).into(),
            })
            .collect();
        send(self.sender, ToManager::Statuses(wire::StatusBatch { number, updates })).await
    }
}

/// Shows that the node lives, whatever its worker is busy with. Ends with the stream.
async fn heartbeat(sender: mpsc::Sender<wire::AgentMessage>, mut period: watch::Receiver<Duration>) {
    loop {
        let pause = *period.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = period.changed() => if changed.is_err() { return },
        }
        if send(&sender, ToManager::Heartbeat(wire::Heartbeat {})).await.is_err() {
            return;
        }
    }
}

async fn send(sender: &mpsc::Sender<wire::AgentMessage>, message: ToManager) -> Result<(), SessionError> {
    // The receiver lives in the stream: it is dropped only when the stream is over.
    sender.send(wire::AgentMessage { message: Some(message) }).await.map_err(|_| SessionError::Closed)
}

/// The error in one line, for the log and for `docker info`.
pub(crate) fn describe(error: &SessionError) -> String {
    match error {
        // Whatever came from the transport is no word of the manager's.
        SessionError::Refused(status) | SessionError::Broken(status) if status.source().is_some() => {
            format!("manager: {}", reason::describe(status))
        }
        other => chain(other),
    }
}
