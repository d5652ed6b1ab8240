//! The `Dispatcher` service: who may open a session, what its first message must be, and what a node may ask for itself.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::codec;
use shoal_proto::control::{AttachmentRequest, ControlRequest, ControlResponse};
use shoal_proto::error::{Failure, chain};
use shoal_proto::id::NodeId;
use shoal_proto::object::NodeDescription;
use shoal_proto::wire::agent_message::Message as FromAgent;
use shoal_proto::wire::dispatcher_server::Dispatcher as DispatcherRpc;
use shoal_proto::wire::{AgentMessage, ControlMessage, LogChunk, ManagerMessage, PublishLogsResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ca::service::removed;
use crate::dispatcher::session::{self, Session};
use crate::dispatcher::{OUTBOUND, SessionHandle};
use crate::inner::Inner;

/// How long the first message may take.
const HELLO: Duration = Duration::from_secs(5);

/// The service.
#[derive(Clone)]
pub(crate) struct DispatcherService(pub(crate) Arc<Inner>);

pub(crate) fn decode_description(bytes: &[u8]) -> Result<Arc<NodeDescription>, Status> {
    codec::decode(bytes).map(Arc::new).map_err(|error| Status::invalid_argument(chain(&error)))
}

impl DispatcherService {
    /// Is the caller's node one of the cluster? Answered from the newest state only: an agent removes every task that
    /// is not in its first assignment set, so that set must not be older than what the node was told before.
    async fn check_node(&self, id: NodeId) -> Result<(), Status> {
        let inner = &self.0;
        // One that just started is about to hear of a leader; one that lost it sends its agents elsewhere.
        if inner.raft.contact().is_some() && !inner.in_contact(inner.heartbeat_period()) {
            return Err(Status::unavailable("this manager hears of no leader"));
        }
        inner.is_current().await.map_err(|failure| Status::unavailable(failure.message))?;
        if self.0.store().node(id).is_some() { Ok(()) } else { Err(removed()) }
    }
}

#[tonic::async_trait]
impl DispatcherRpc for DispatcherService {
    type SessionStream = ReceiverStream<Result<ManagerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (info, node, _) = self.0.caller(&request)?;
        if self.0.stop.is_cancelled() {
            return Err(Status::unavailable("this manager is stopping"));
        }
        self.check_node(node).await?;
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(HELLO, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message did not come"))??;
        let Some(FromAgent::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("the first message of a session is a greeting"));
        };
        let description = decode_description(&hello.description)?;
        let (outbound, receiver) = mpsc::channel(OUTBOUND);
        let handle = SessionHandle {
            id: self.0.dispatcher.new_session_id(),
            outbound,
            closing: watch::Sender::new(None),
            description,
            addr: info.addr.ip(),
            confirmed: false,
        };
        let expires = info.subject.map(|subject| subject.not_after);
        session::open(&self.0, node, &handle);
        let session = Session { inner: Arc::clone(&self.0), node, handle, expires };
        tokio::spawn(session.run(inbound));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<LogChunk>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let (_, node, _) = self.0.caller(&request)?;
        let mut stream = request.into_inner();
        while let Some(chunk) = stream.message().await? {
            self.0.dispatcher.logs.publish(node, chunk).await?;
        }
        Ok(Response::new(PublishLogsResponse {}))
    }

    async fn attach(&self, request: Request<ControlMessage>) -> Result<Response<ControlMessage>, Status> {
        // Whoever asks, asks for its own node.
        let (_, node, _) = self.0.caller(&request)?;
        let asked =
            codec::decode(&request.into_inner().body).map_err(|error| Status::invalid_argument(chain(&error)))?;
        let request = match asked {
            AttachmentRequest::Attach(wish) => ControlRequest::Attach { node, wish: Box::new(wish) },
            AttachmentRequest::Detach(ids) => ControlRequest::Detach { node, ids },
        };
        let answer: Result<_, Failure> = self.0.control(request).await.map(|response| match response {
            ControlResponse::Attachment(attachment) => Some(attachment),
            _ => None,
        });
        Ok(Response::new(ControlMessage { body: codec::encode(&answer).into() }))
    }
}
