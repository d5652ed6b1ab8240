//! Raft's messages to the other managers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_kit::reason::describe;
use shoal_proto::codec;
use shoal_proto::wire::RaftMessage;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::peers::{Lane, Peers};
use crate::raft::snapshot_file::SnapshotFile;
use crate::raft::types::{RaftMember, TypeConfig, Vote};

/// An answer to a batch of entries includes the receiver's sync to disk: it may take longer than a heartbeat.
const ENTRIES_TIMEOUT: Duration = Duration::from_secs(3);
/// A snapshot transfer without progress for so long is given up.
const SNAPSHOT_STALL: Duration = Duration::from_secs(10);

/// Makes a client for each member.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) own: u64,
    pub(crate) peers: Arc<Peers>,
}

impl Network {
    fn link(&self, target: u64, member: &RaftMember, lane: Lane) -> PeerLink {
        PeerLink { own: self.own, target, member: member.clone(), peers: Arc::clone(&self.peers), lane }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerLink;

    async fn new_client(&mut self, target: u64, member: &RaftMember) -> PeerLink {
        self.link(target, member, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &RaftMember) -> PeerLink {
        self.link(target, member, Lane::Urgent)
    }

    async fn new_snapshot_client(&mut self, target: u64, member: &RaftMember) -> PeerLink {
        self.link(target, member, Lane::Bulk)
    }
}

/// One member, reached through the pool.
#[derive(Debug)]
pub(crate) struct PeerLink {
    own: u64,
    target: u64,
    member: RaftMember,
    peers: Arc<Peers>,
    lane: Lane,
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

enum Method {
    Append,
    Vote,
    PreVote,
    TransferLeader,
}

fn rpc_error(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        // Nobody there, or not who was meant: worth a pause.
        Code::Unavailable | Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => {
            RPCError::Unreachable(Unreachable::from_string(describe(status)))
        }
        _ => RPCError::Network(NetworkError::from_string(describe(status))),
    }
}

impl PeerLink {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        lane: Lane,
        question: &Q,
        timeout: Duration,
    ) -> Rpc<A> {
        let mut client = self
            .peers
            .client(self.member.node_id, self.member.addr, lane)
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        let message = RaftMessage { to: self.target, body: codec::encode(question).into() };
        let (action, answer) = match method {
            Method::Append => {
                (RPCTypes::AppendEntries, tokio::time::timeout(timeout, client.append_entries(message)).await)
            }
            Method::Vote => (RPCTypes::Vote, tokio::time::timeout(timeout, client.vote(message)).await),
            Method::PreVote => (RPCTypes::Vote, tokio::time::timeout(timeout, client.pre_vote(message)).await),
            Method::TransferLeader => {
                (RPCTypes::TransferLeader, tokio::time::timeout(timeout, client.transfer_leader(message)).await)
            }
        };
        match answer {
            Err(_) => Err(RPCError::Timeout(Timeout { action, id: self.own, target: self.target, timeout })),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Ok(Ok(answer)) => codec::decode(&answer.into_inner().body)
                .map_err(|error| RPCError::Network(NetworkError::from_string(shoal_proto::error::chain(&error)))),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerLink {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let timeout = if rpc.entries.is_empty() { option.hard_ttl() } else { ENTRIES_TIMEOUT };
        self.call(Method::Append, self.lane, &rpc, timeout).await
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.call(Method::Vote, Lane::Urgent, &rpc, option.hard_ttl()).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.call(Method::PreVote, Lane::Urgent, &rpc, option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        self.call(Method::TransferLeader, Lane::Urgent, &rpc, option.hard_ttl().max(Duration::from_millis(500))).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self
            .peers
            .client(self.member.node_id, self.member.addr, Lane::Bulk)
            .map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
        let (sender, receiver) = mpsc::channel(4);
        let target = self.target;
        let head = codec::encode(&(vote, &snapshot.meta));
        let file = snapshot.snapshot;
        let stalled = sender.downgrade();
        let reading = tokio::task::spawn_blocking(move || send_file(target, head, &file, &sender));
        let transfer = client.install_snapshot(ReceiverStream::new(receiver));
        let answer = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            () = stall(stalled) => {
                let error = NetworkError::from_string("the snapshot transfer makes no progress");
                return Err(StreamingError::Network(error));
            }
            answer = transfer => answer,
        };
        match (answer, reading.await) {
            (Ok(answer), _) => codec::decode(&answer.into_inner().body)
                .map_err(|error| StreamingError::Network(NetworkError::from_string(shoal_proto::error::chain(&error)))),
            (Err(_), Ok(Err(error))) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(StreamingError::Network(NetworkError::new(&error)))
            }
            (Err(status), _) => Err(rpc_error(&status).into()),
        }
    }
}

/// Sends a snapshot's plaintext in pieces of about 1 MiB; waits while the receiver is busy.
fn send_file(
    to: u64,
    head: Vec<u8>,
    file: &SnapshotFile,
    sender: &mpsc::Sender<RaftMessage>,
) -> Result<(), std::io::Error> {
    let closed = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    sender.blocking_send(RaftMessage { to, body: head.into() }).map_err(closed)?;
    let mut reader = file.reader()?;
    let mut piece = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        piece.extend_from_slice(&chunk);
        if piece.len() >= 1 << 20 {
            sender.blocking_send(RaftMessage { to, body: std::mem::take(&mut piece).into() }).map_err(closed)?;
        }
    }
    // An empty body marks the end: a stream that broke off must not pass for a whole one.
    if !piece.is_empty() {
        sender.blocking_send(RaftMessage { to, body: piece.into() }).map_err(closed)?;
    }
    sender.blocking_send(RaftMessage { to, body: Vec::new().into() }).map_err(closed)
}

/// Ends when the queue has stayed full for too long. While the file is read or the receiver installs, it is not.
async fn stall(sender: mpsc::WeakSender<RaftMessage>) {
    loop {
        // Gone when the file is sent: then only the receiver's answer is waited for.
        let Some(sender) = sender.upgrade() else { std::future::pending().await };
        if tokio::time::timeout(SNAPSHOT_STALL, sender.reserve()).await.is_err() {
            return;
        }
        drop(sender);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
