//! The gRPC side: one stream per agent.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use shoal_kit::ca_client::NODE_REMOVED;
use shoal_kit::tls::PeerInfo;
use shoal_manager_core::store::Store;
use shoal_proto::codec;
use shoal_proto::control::Report;
use shoal_proto::id::NodeId;
use shoal_proto::object::{NodeDescription, NodeState};
use shoal_proto::spec::NodeRole;
use shoal_proto::wire::agent_message::Message as FromAgent;
use shoal_proto::wire::dispatcher_server;
use shoal_proto::wire::manager_message::Message as ToAgent;
use shoal_proto::wire::{AgentMessage, LogChunk, ManagerMessage, PublishLogsResponse, SessionState};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Dispatcher, QUEUE, Session, grace};

/// How long the first message of an agent may take, and a node that just joined to appear in this manager's store.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service on the cluster port.
#[derive(Clone)]
pub(crate) struct DispatcherService(pub(crate) Dispatcher);

type Messages = Pin<Box<dyn Stream<Item = Result<ManagerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl dispatcher_server::Dispatcher for DispatcherService {
    type SessionStream = Messages;

    async fn session(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Messages>, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let node = caller(peer.as_ref())?;
        let mut incoming = request.into_inner();
        let dispatcher = self.0.clone();
        dispatcher.wait_for_node(node).await?;
        let description = first_message(&mut incoming).await?;
        let ready = Report::NodeReady {
            id: node,
            description: Arc::new(description),
            addr: peer.map(|peer| peer.addr.ip()),
            session_manager: dispatcher.inner.options.raft_id,
        };
        let stored = dispatcher.inner.reports.store(vec![ready]).await;
        stored.map_err(|failure| Status::unavailable(failure.message))?;
        let (session, outgoing) = dispatcher.open(node);
        tokio::spawn(dispatcher.serve(node, session, incoming));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<LogChunk>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let node = caller(request.extensions().get::<PeerInfo>())?;
        let mut chunks = request.into_inner();
        while let Some(chunk) = chunks.message().await? {
            if !self.0.logs().deliver(node, chunk).await {
                break;
            }
        }
        Ok(Response::new(PublishLogsResponse {}))
    }
}

/// The node that the verified certificate names.
fn caller(peer: Option<&PeerInfo>) -> Result<NodeId, Status> {
    peer.and_then(|peer| peer.subject.as_ref())
        .map(|subject| subject.node_id)
        .ok_or_else(|| Status::unauthenticated("a certificate of this cluster is needed"))
}

fn removed(node: NodeId) -> Status {
    Status::with_details(
        Code::PermissionDenied,
        format!("node {node} is not part of this cluster any more"),
        NODE_REMOVED.to_vec().into(),
    )
}

async fn first_message(incoming: &mut Streaming<AgentMessage>) -> Result<NodeDescription, Status> {
    let message = tokio::time::timeout(PATIENCE, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the agent did not say hello in time"))??;
    match message.and_then(|message| message.message) {
        Some(FromAgent::Hello(hello)) => {
            codec::decode(&hello.description).map_err(|error| Status::invalid_argument(error.to_string()))
        }
        _ => Err(Status::invalid_argument("the first message of a session must be Hello")),
    }
}

impl Dispatcher {
    /// A node that joined through another manager may not have reached this one's store yet.
    async fn wait_for_node(&self, node: NodeId) -> Result<(), Status> {
        let cell = &self.inner.options.cell;
        let mut changes = cell.subscribe();
        let known = async {
            while cell.store().node(node).is_none() {
                // The sender lives as long as the cell.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(PATIENCE, known).await.map_err(|_| removed(node))
    }

    /// Files a session, ends an older one of the same node, and queues the first two messages.
    fn open(&self, node: NodeId) -> (u64, mpsc::Receiver<Result<ManagerMessage, Status>>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let id = self.inner.options.entropy.next_u64();
        let store = self.inner.options.cell.store();
        let role = store.node(node).map_or(NodeRole::Worker, |node| node.spec.role);
        let stop = self.inner.stop.child_token();
        let deadline = Instant::now() + grace(self.heartbeat_period());
        let mut session = Session { id, sender: Some(sender), deadline, role, stop };
        let mut table = self.table();
        let state = state_for(&table.common, role, id);
        session.send(ManagerMessage { message: Some(ToAgent::Session(state)) });
        let set = table.hub.attach(node);
        session.send(ManagerMessage { message: Some(ToAgent::Assignments(codec::encode(&set).into())) });
        if let Some(older) = table.sessions.insert(node, session) {
            older.stop.cancel();
        }
        (id, receiver)
    }

    /// Reads what the agent says until its stream ends.
    async fn serve(self, node: NodeId, session: u64, mut incoming: Streaming<AgentMessage>) {
        let Some(stop) = self.stop_token(node, session) else { return };
        let ended = loop {
            let message = tokio::select! {
                () = stop.cancelled() => break Ok(()),
                message = incoming.message() => message,
            };
            match message {
                Ok(Some(AgentMessage { message: Some(message) })) => {
                    if !self.heard(node, session) {
                        break Ok(());
                    }
                    if let Err(status) = self.handle(node, session, message).await {
                        break Err(status);
                    }
                }
                Ok(Some(AgentMessage { message: None })) => {}
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            }
        };
        if let Err(status) = ended {
            tracing::debug!(%node, reason = status.message(), "a session ended");
        }
        self.close(node, session);
    }

    fn stop_token(&self, node: NodeId, session: u64) -> Option<CancellationToken> {
        self.table().sessions.get(&node).filter(|known| known.id == session).map(|known| known.stop.clone())
    }

    /// A sign of life. False when a newer session took over.
    fn heard(&self, node: NodeId, session: u64) -> bool {
        let deadline = Instant::now() + grace(self.heartbeat_period());
        match self.table().sessions.get_mut(&node) {
            Some(known) if known.id == session => {
                known.deadline = deadline;
                true
            }
            _ => false,
        }
    }

    async fn handle(&self, node: NodeId, session: u64, message: FromAgent) -> Result<(), Status> {
        match message {
            FromAgent::Hello(hello) => {
                let description: NodeDescription =
                    codec::decode(&hello.description).map_err(|error| Status::invalid_argument(error.to_string()))?;
                let report = Report::NodeReady {
                    id: node,
                    description: Arc::new(description),
                    addr: None,
                    session_manager: self.inner.options.raft_id,
                };
                self.inner.reports.store(vec![report]).await.map_err(|failure| Status::unavailable(failure.message))
            }
            FromAgent::Heartbeat(_) => Ok(()),
            FromAgent::Statuses(batch) => {
                let reports = batch
                    .updates
                    .iter()
                    .map(|update| {
                        let id =
                            update.task_id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
                        let status = codec::decode(&update.status)
                            .map_err(|error| Status::invalid_argument(error.to_string()))?;
                        Ok(Report::Task { node, id, status })
                    })
                    .collect::<Result<Vec<_>, Status>>()?;
                // Stored beside the stream: a slow commit must not hold up the agent's heartbeats.
                tokio::spawn(self.clone().store_statuses(node, session, batch.number, reports));
                Ok(())
            }
            FromAgent::Resend(_) => {
                let mut table = self.table();
                let set = table.hub.attach(node);
                if let Some(known) = table.sessions.get_mut(&node).filter(|known| known.id == session) {
                    known.send(ManagerMessage { message: Some(ToAgent::Assignments(codec::encode(&set).into())) });
                }
                Ok(())
            }
            FromAgent::Goodbye(_) => {
                self.table().sessions.retain(|id, known| *id != node || known.id != session);
                let gone = Report::NodeGone {
                    id: node,
                    state: NodeState::Disconnected,
                    message: "left the cluster".to_owned(),
                    session_manager: self.inner.options.raft_id,
                };
                self.inner.reports.store(vec![gone]).await.map_err(|failure| Status::unavailable(failure.message))
            }
        }
    }

    async fn store_statuses(self, node: NodeId, session: u64, number: u64, reports: Vec<Report>) {
        let stored = self.inner.reports.store(reports).await;
        let mut table = self.table();
        let Some(known) = table.sessions.get_mut(&node).filter(|known| known.id == session) else { return };
        match stored {
            Ok(()) => known.send(ManagerMessage { message: Some(ToAgent::StatusesAccepted(number)) }),
            // In a new session, perhaps with another manager, the agent sends them again.
            Err(_) => known.stop.cancel(),
        }
    }

    /// The stream is over: the node has one more period to come back.
    fn close(&self, node: NodeId, session: u64) {
        let period = self.heartbeat_period();
        let mut table = self.table();
        let Some(known) = table.sessions.get_mut(&node).filter(|known| known.id == session) else { return };
        known.sender = None;
        known.deadline = known.deadline.min(Instant::now() + period);
        table.hub.detach(node);
    }
}

/// What every agent should know of its cluster: a session's state without what is its own.
pub(super) fn common_state(store: &Store) -> SessionState {
    let cluster = store.cluster();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let managers =
        store.nodes().filter_map(|node| node.manager.as_ref().map(|member| member.addr.to_string())).collect();
    SessionState {
        session_id: String::new(),
        heartbeat_period_ms: cluster.map_or(1000, |cluster| millis(cluster.spec.heartbeat_period)),
        managers,
        desired_role: String::new(),
        root_pem: cluster.map(|cluster| cluster.root_ca.certificate_pem.clone()).unwrap_or_default(),
        certificate_expiry_ms: cluster.map_or(0, |cluster| millis(cluster.spec.node_cert_expiry)),
    }
}

/// What one agent should know.
pub(super) fn state_for(common: &SessionState, role: NodeRole, session: u64) -> SessionState {
    SessionState { session_id: format!("{session:016x}"), desired_role: role.as_str().to_owned(), ..common.clone() }
}

pub(super) fn removal_notice(node: NodeId) -> Status {
    removed(node)
}
