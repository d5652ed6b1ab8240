//! What managers do for each other: raft, forwarded requests, membership, questions.

use std::sync::Arc;
use std::time::Duration;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_proto::codec;
use shoal_proto::error::chain;
use shoal_proto::id::NodeId;
use shoal_proto::spec::NodeRole;
use shoal_proto::wire;
use shoal_proto::wire::manager_peer_server::ManagerPeer;
use shoal_proto::wire::{
    ControlMessage, IssueCertificateResponse, JoinRaftRequest, JoinRaftResponse, LeaveRaftRequest, LeaveRaftResponse,
    Member, MembersRequest, MembersResponse, PeerIssueRequest, RaftMessage, ReadIndexRequest, ReadIndexResponse,
    RelayLogsRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ca::service::removed;
use crate::inner::{Inner, unavailable};
use crate::raft::node::Raft;
use crate::raft::snapshot_file::{Incoming, SnapshotFile};
use crate::raft::types::{SnapshotMeta, TypeConfig, Vote};

/// A peer that sends a snapshot must send its next piece within this.
const PIECE: Duration = Duration::from_secs(15);

/// The service.
#[derive(Clone)]
pub(crate) struct PeerService(pub(crate) Arc<Inner>);

fn malformed(error: &codec::DecodeError) -> Status {
    Status::invalid_argument(chain(error))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    codec::decode(bytes).map_err(|error| malformed(&error))
}

fn answer<T: Serialize>(value: &T) -> Response<RaftMessage> {
    Response::new(RaftMessage { to: 0, body: codec::encode(value).into() })
}

impl PeerService {
    /// Checks that a raft message comes from a manager and is meant for this member.
    fn raft_message(&self, request: Request<RaftMessage>) -> Result<(NodeId, Arc<Raft>, RaftMessage), Status> {
        let node = self.member_caller(&request)?;
        let message = request.into_inner();
        let own = self.0.raft.id();
        if message.to != own {
            return Err(Status::failed_precondition(format!("this is member {own}, not {}", message.to)));
        }
        let raft = self.0.raft.raft().map_err(|failure| unavailable(&failure))?;
        Ok((node, raft, message))
    }

    /// Checks that the caller is a manager as far as is known here. A manager that was removed or demoted keeps its
    /// certificate until that expires, but is not listened to any more. Who is not known here may also be a manager that
    /// joined while this one was away: it is believed by one that hears of no other leader.
    fn member_caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let inner = &self.0;
        let node = inner.manager_caller(request)?;
        let view = inner.raft.view();
        let is_member = view.membership.nodes().any(|(_, member)| member.node_id == node);
        let is_manager = || inner.store().node(node).is_some_and(|node| node.spec.role == NodeRole::Manager);
        // One that catches up learns only on the way that the leader it follows is a member.
        if is_member || is_manager() || inner.raft.followed() == Some(node) {
            return Ok(node);
        }
        let lease = inner.options.timing.election_max;
        let follows = inner.raft.contact().is_some_and(|at| at.elapsed() < lease);
        if follows && view.membership.nodes().next().is_some() {
            return Err(Status::permission_denied(format!("node {node} is no manager of this cluster any more")));
        }
        Ok(node)
    }

    /// A member may speak only for itself: the one a message claims to be from must be the node that the certificate
    /// names. A member that is not known here yet is believed, because a new manager knows nobody.
    fn check_sender(&self, node: NodeId, vote: &Vote) -> Result<(), Status> {
        match self.0.raft.view().member(vote.leader_id.voted_for) {
            Some(member) if member.node_id != node => Err(Status::permission_denied(format!(
                "node {node} speaks for member {}, which is node {}",
                vote.leader_id.voted_for, member.node_id
            ))),
            _ => Ok(()),
        }
    }

    /// The caller must still be a node that the cluster wants as a manager.
    fn current_manager<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let id = self.0.manager_caller(request)?;
        let store = self.0.store();
        match store.node(id) {
            None => Err(removed()),
            Some(node) if node.spec.role != NodeRole::Manager && node.manager.is_none() => {
                Err(Status::permission_denied("this node was demoted: it is no manager any more"))
            }
            Some(_) => Ok(id),
        }
    }
}

#[tonic::async_trait]
impl ManagerPeer for PeerService {
    async fn append_entries(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (node, raft, message) = self.raft_message(request)?;
        let rpc: AppendEntriesRequest<TypeConfig> = decode(&message.body)?;
        self.check_sender(node, &rpc.vote)?;
        let vote = rpc.vote;
        let result = raft.append_entries(rpc).await.map_err(|error| Status::unavailable(chain(&error)))?;
        // Not of one that was refused because a newer term has begun.
        if !matches!(&result, AppendEntriesResponse::HigherVote(higher) if *higher != vote) {
            self.0.raft.heard_of_leader(node);
        }
        Ok(answer(&result))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (node, raft, message) = self.raft_message(request)?;
        let rpc: VoteRequest<TypeConfig> = decode(&message.body)?;
        self.check_sender(node, &rpc.vote)?;
        let result = raft.vote(rpc).await.map_err(|error| Status::unavailable(chain(&error)))?;
        Ok(answer(&result))
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (node, raft, message) = self.raft_message(request)?;
        let rpc: VoteRequest<TypeConfig> = decode(&message.body)?;
        self.check_sender(node, &rpc.vote)?;
        let result = raft.pre_vote(rpc).await.map_err(|error| Status::unavailable(chain(&error)))?;
        Ok(answer(&result))
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (node, raft, message) = self.raft_message(request)?;
        let rpc: TransferLeaderRequest<TypeConfig> = decode(&message.body)?;
        self.check_sender(node, rpc.from_leader())?;
        let result = raft.handle_transfer_leader(rpc).await.map_err(|error| Status::unavailable(chain(&error)))?;
        Ok(answer(&result))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let node = self.member_caller(&request)?;
        let mut stream = request.into_inner();
        let head = next_piece(&mut stream).await?;
        let own = self.0.raft.id();
        if head.to != own {
            return Err(Status::failed_precondition(format!("this is member {own}, not {}", head.to)));
        }
        let (vote, meta): (Vote, SnapshotMeta) = decode(&head.body)?;
        self.check_sender(node, &vote)?;
        let raft = self.0.raft.raft().map_err(|failure| unavailable(&failure))?;
        let folder = self.0.raft.snapshots().map_err(|failure| unavailable(&failure))?;
        let incoming = folder.receive(self.0.options.entropy.next_u64()).map_err(|error| disk(&error))?;
        let file = receive(&mut stream, incoming).await?;
        self.0.raft.heard_of_leader(node);
        tracing::info!(index = meta.last_log_id.map_or(0, |id| id.index), "received a snapshot from the leader");
        let result = raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot: file })
            .await
            .map_err(|error| Status::unavailable(chain(&error)))?;
        Ok(answer(&result))
    }

    async fn join_raft(&self, request: Request<JoinRaftRequest>) -> Result<Response<JoinRaftResponse>, Status> {
        let node = self.0.manager_caller(&request)?;
        let addr = request.into_inner().addr;
        self.0.join_raft(node, &addr).await.map(Response::new)
    }

    async fn issue_certificate(
        &self,
        request: Request<PeerIssueRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        self.current_manager(&request)?;
        let message = request.into_inner();
        let renewing = match message.node_id.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Status::invalid_argument("invalid node id"))?),
        };
        let request = message.request.ok_or_else(|| Status::invalid_argument("the request is missing"))?;
        if renewing.is_none() && request.token.is_empty() {
            return Err(Status::invalid_argument("neither a token nor a node id is given"));
        }
        self.0.issue(&request, renewing).await.map(Response::new)
    }

    async fn leave_raft(&self, request: Request<LeaveRaftRequest>) -> Result<Response<LeaveRaftResponse>, Status> {
        let node = self.0.manager_caller(&request)?;
        let force = request.into_inner().force;
        self.0.leave_raft(node, force).await.map(|()| Response::new(LeaveRaftResponse {}))
    }

    async fn control(&self, request: Request<ControlMessage>) -> Result<Response<ControlMessage>, Status> {
        self.current_manager(&request)?;
        let forwarded = decode(&request.into_inner().body)?;
        let answer = self.0.control_for_peer(forwarded).await;
        Ok(Response::new(ControlMessage { body: codec::encode(&answer).into() }))
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexResponse>, Status> {
        self.current_manager(&request)?;
        if self.0.raft.leading().is_none() {
            return Err(Status::unavailable("this manager is not the leader"));
        }
        let read = self.0.raft.read_index(Duration::from_secs(5)).await;
        let index = read.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(ReadIndexResponse { index }))
    }

    async fn members(&self, request: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        self.current_manager(&request)?;
        if self.0.raft.leading().is_none() {
            return Err(Status::unavailable("this manager is not the leader"));
        }
        Ok(Response::new(MembersResponse { members: self.0.members_here() }))
    }

    type RelayLogsStream = ReceiverStream<Result<wire::LogChunk, Status>>;

    async fn relay_logs(&self, request: Request<RelayLogsRequest>) -> Result<Response<Self::RelayLogsStream>, Status> {
        self.current_manager(&request)?;
        let message = request.into_inner();
        let node = message.node_id.parse().map_err(|_| Status::invalid_argument("invalid node id"))?;
        let subscription =
            message.subscription.ok_or_else(|| Status::invalid_argument("the subscription is missing"))?;
        let mut chunks = self.0.dispatcher.subscribe(node, subscription)?;
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    chunk = chunks.next() => match chunk {
                        None => return,
                        Some(chunk) => if sender.send(Ok(chunk)).await.is_err() { return },
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn disk(error: &std::io::Error) -> Status {
    Status::unavailable(format!("the snapshot cannot be stored: {error}"))
}

async fn next_piece(stream: &mut Streaming<RaftMessage>) -> Result<RaftMessage, Status> {
    match tokio::time::timeout(PIECE, stream.message()).await {
        Err(_) => Err(Status::deadline_exceeded("the next piece of the snapshot did not come")),
        Ok(piece) => piece?.ok_or_else(|| Status::invalid_argument("the snapshot is cut short")),
    }
}

/// Writes the pieces down on a thread that may block; an empty one is the end.
async fn receive(stream: &mut Streaming<RaftMessage>, incoming: Incoming) -> Result<SnapshotFile, Status> {
    let (pieces, mut queue) = mpsc::channel::<prost::bytes::Bytes>(4);
    let writing = tokio::task::spawn_blocking(move || {
        let mut incoming = incoming;
        let mut complete = false;
        while let Some(piece) = queue.blocking_recv() {
            if piece.is_empty() {
                complete = true;
                break;
            }
            incoming.push(&piece)?;
        }
        if complete { incoming.finish().map(Some) } else { Ok(None) }
    });
    let broken = loop {
        match next_piece(stream).await {
            Err(status) => break Some(status),
            Ok(piece) => {
                let last = piece.body.is_empty();
                if pieces.send(piece.body).await.is_err() || last {
                    break None;
                }
            }
        }
    };
    drop(pieces);
    let written = writing.await.map_err(|error| Status::internal(error.to_string()))?;
    match (broken, written.map_err(|error| disk(&error))?) {
        (Some(status), _) => Err(status),
        (None, Some(file)) => Ok(file),
        (None, None) => Err(Status::invalid_argument("the snapshot is cut short")),
    }
}

impl Inner {
    /// The members as this leader sees them.
    pub(crate) fn members_here(&self) -> Vec<Member> {
        let view = self.raft.view();
        let reachable = self.reachable();
        let list = view.members().into_iter().map(|(id, member)| Member {
            raft_id: id,
            addr: member.addr.to_string(),
            node_id: member.node_id.to_string(),
            leader: view.leader == Some(id),
            reachable: reachable.contains(&id),
        });
        list.collect()
    }
}
