//! Requests that change the cluster: planned and written by the leader, forwarded to it by everybody else.
//!
//! ## Design notes
//! A request carries a random id. The entry that answers it carries the id too, and the replicated state remembers
//! the last ones: a request that is sent again because a leader or an answer was lost finds that it was done already.
//! So every retry here is safe, also of a create.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_kit::reason::describe;
use shoal_manager_core::change::{Change, Object, ObjectKey};
use shoal_manager_core::control::{Context, Planned, Reply, plan_request};
use shoal_manager_core::store::Store;
use shoal_proto::codec;
use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::wire::ControlMessage;
use tokio::time::Instant;

use crate::ca::service::token_digest;
use crate::inner::Inner;
use crate::peers::Lane;
use crate::raft::node::ProposeError;
use crate::raft::types::{BatchBody, Outcome, RequestMark};

/// How long a request may wait for a leader and its majority.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);
/// How long a follower waits until its own store shows what the leader did.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Times that a request is planned again because something changed between planning and applying.
const CONFLICTS: usize = 20;
/// Rotated tokens that are remembered.
const RETIRED_TOKENS: usize = 64;

/// A request between managers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Forwarded {
    pub(crate) id: [u8; 16],
    pub(crate) request: ControlRequest,
}

/// What became of one try.
enum Try {
    Done(Result<ControlResponse, Failure>),
    /// Another leader has to be found.
    Again(String),
}

/// An answer to a forwarded request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It was carried out, or refused for good.
    Final {
        result: Result<ControlResponse, Failure>,
        /// The leader's position: the asking manager waits for it, so that its own store shows what it answers.
        index: u64,
    },
    /// The receiver does not lead, or cannot tell what became of it.
    NotLeader(String),
}

fn reply_to_mark(id: u128, reply: &Reply) -> RequestMark {
    let (object, warnings) = match reply {
        Reply::Done => (None, Vec::new()),
        Reply::Service(id, warnings) => (Some(ObjectKey::Service(*id)), warnings.clone()),
        Reply::Network(id) => (Some(ObjectKey::Network(*id)), Vec::new()),
        Reply::Attachment(id) => (Some(ObjectKey::Attachment(*id)), Vec::new()),
        Reply::Secret(id) => (Some(ObjectKey::Secret(*id)), Vec::new()),
        Reply::Config(id) => (Some(ObjectKey::Config(*id)), Vec::new()),
        Reply::Node(id) => (Some(ObjectKey::Node(*id)), Vec::new()),
        Reply::Cluster(id) => (Some(ObjectKey::Cluster(*id)), Vec::new()),
    };
    RequestMark { id, object, warnings }
}

fn mark_to_reply(mark: &RequestMark) -> Reply {
    match mark.object {
        None | Some(ObjectKey::Task(_)) => Reply::Done,
        Some(ObjectKey::Service(id)) => Reply::Service(id, mark.warnings.clone()),
        Some(ObjectKey::Network(id)) => Reply::Network(id),
        Some(ObjectKey::Attachment(id)) => Reply::Attachment(id),
        Some(ObjectKey::Secret(id)) => Reply::Secret(id),
        Some(ObjectKey::Config(id)) => Reply::Config(id),
        Some(ObjectKey::Node(id)) => Reply::Node(id),
        Some(ObjectKey::Cluster(id)) => Reply::Cluster(id),
    }
}

/// Remembers tokens that a change replaces, so that whoever shows one can be told that it was rotated.
fn retire_tokens(store: &Store, changes: &mut [Change]) {
    let Some(old) = store.cluster().map(|cluster| &cluster.root_ca) else { return };
    for change in changes {
        let Change::Put { object: Object::Cluster(cluster), .. } = change else { continue };
        let new = &cluster.root_ca;
        let mut retired = new.retired_tokens.clone();
        for (before, after) in [(&old.worker_token, &new.worker_token), (&old.manager_token, &new.manager_token)] {
            if before != after {
                retired.push(token_digest(before));
            }
        }
        if retired.len() > new.retired_tokens.len() {
            let excess = retired.len().saturating_sub(RETIRED_TOKENS);
            retired.drain(..excess);
            Arc::make_mut(cluster).root_ca.retired_tokens = retired;
        }
    }
}

impl Inner {
    /// Carries a request out, on whichever manager leads.
    pub(crate) async fn control(&self, request: ControlRequest) -> Result<ControlResponse, Failure> {
        let mut id = [0; 16];
        self.options.entropy.fill(&mut id);
        let forwarded = Forwarded { id, request };
        let mut encoded = None;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let tried = if self.raft.leading().is_some() {
                self.control_here(&forwarded).await
            } else {
                let body = encoded.get_or_insert_with(|| bytes_of(&forwarded)).clone();
                self.control_there(body).await
            };
            let reason = match tried {
                Try::Done(result) => return result,
                Try::Again(reason) => reason,
            };
            if self.stop.is_cancelled() {
                return Err(no_manager());
            }
            if Instant::now() >= deadline {
                return Err(no_leader(&reason));
            }
            self.wait_for_leader_change(Duration::from_millis(25)).await;
        }
    }

    /// Waits until something about the leadership changes, or for this long.
    pub(crate) async fn wait_for_leader_change(&self, at_most: Duration) {
        let mut views = self.raft.views();
        let _ = tokio::time::timeout(at_most, views.changed()).await;
    }

    /// Answers another manager.
    pub(crate) async fn control_for_peer(&self, forwarded: Forwarded) -> Answer {
        if self.raft.leading().is_none() {
            return Answer::NotLeader("this manager is not the leader".to_owned());
        }
        match self.control_here(&forwarded).await {
            Try::Done(result) => Answer::Final { result, index: self.raft.cell().load().index() },
            Try::Again(reason) => Answer::NotLeader(reason),
        }
    }

    async fn control_there(&self, body: prost::bytes::Bytes) -> Try {
        let Some(mut client) = self.leader_client(Lane::Requests) else {
            let failure = self.raft.view().failure;
            return Try::Again(failure.unwrap_or_else(|| "no leader is elected".to_owned()));
        };
        match tokio::time::timeout(TRY + Duration::from_secs(1), client.control(ControlMessage { body })).await {
            Err(_) => Try::Again("the leader does not answer".to_owned()),
            Ok(Err(status)) if status.code() == tonic::Code::PermissionDenied => {
                Try::Done(Err(Failure::new(ErrorKind::PermissionDenied, status.message())))
            }
            Ok(Err(status)) => Try::Again(describe(&status)),
            Ok(Ok(response)) => match codec::decode::<Answer>(&response.into_inner().body) {
                Ok(Answer::Final { result, index }) => {
                    // A manager that lags badly answers all the same: what was done is done.
                    let _ = tokio::time::timeout(CATCH_UP, self.raft.cell().wait_for(index)).await;
                    Try::Done(result)
                }
                Ok(Answer::NotLeader(reason)) => Try::Again(reason),
                Err(error) => Try::Done(Err(Failure::internal(&error))),
            },
        }
    }

    async fn control_here(&self, forwarded: &Forwarded) -> Try {
        let id = u128::from_be_bytes(forwarded.id);
        let mut refusal = None;
        let mut confirmed = false;
        for _ in 0..CONFLICTS {
            let Some(term) = self.raft.leading() else { return Try::Again("the leader changed".to_owned()) };
            let state = self.raft.cell().load();
            if let Some(mark) = state.requests.get(id) {
                return Try::Done(mark_to_reply(mark).resolve(&state.store));
            }
            let (reachable, voters) = (self.reachable_nodes(), self.voting_nodes());
            let context = Context { now: self.now(), reachable_managers: &reachable, voters: &voters };
            let mut ids = self.entropy();
            let planned = plan_request(&state.store, &forwarded.request, context, &mut ids);
            // What is written proves by being written that this manager leads. An answer that needs no entry is one of
            // the newest state only after a majority said so: another leader may be elected already.
            let writes = planned.as_ref().is_ok_and(|planned| !planned.changes.is_empty());
            if !writes && !confirmed {
                match self.raft.read_index(TRY).await {
                    Ok(index) => self.raft.cell().wait_for(index).await,
                    Err(error) => return Try::Again(error.to_string()),
                }
                confirmed = true;
                continue;
            }
            let Planned { mut changes, reply } = match planned {
                Ok(planned) => planned,
                Err(failure) => return Try::Done(Err(failure)),
            };
            if changes.is_empty() {
                return Try::Done(reply.resolve(&state.store));
            }
            retire_tokens(&state.store, &mut changes);
            // Reports repeat themselves without harm, and come too often to be remembered.
            let remembered = !matches!(forwarded.request, ControlRequest::Report(_));
            let request = remembered.then(|| reply_to_mark(id, &reply));
            let body = BatchBody { time: context.now, fence: term, request, changes };
            match self.raft.propose(body, TRY).await {
                Ok(Outcome::Applied { .. } | Outcome::Nothing) => return Try::Done(reply.resolve(&self.store())),
                Ok(Outcome::Repeated(mark)) => return Try::Done(mark_to_reply(&mark).resolve(&self.store())),
                // Something changed since it was planned: planning again either fits or fails with the proper words.
                Ok(Outcome::Refused(error)) => refusal = Some(error),
                Ok(Outcome::Fenced) | Err(ProposeError::NotLeader) => {
                    return Try::Again("the leader changed".to_owned());
                }
                Err(ProposeError::Unknown(reason) | ProposeError::Down(reason)) => return Try::Again(reason),
            }
        }
        Try::Done(Err(match refusal {
            Some(error) => error.into(),
            None => Failure::unavailable("the cluster changes too fast: try again"),
        }))
    }

    /// A position after which every answered write is visible, waited for here.
    pub(crate) async fn linearize(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let read = if self.raft.leading().is_some() {
                self.raft.read_index(TRY).await.map_err(|error| error.to_string())
            } else {
                self.read_index_there().await
            };
            let reason = match read {
                Ok(index) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let waited = tokio::select! {
                        // What others decide from now on is not told to it any more.
                        () = self.stop.cancelled() => return Err(no_manager()),
                        waited = tokio::time::timeout(left, self.raft.cell().wait_for(index)) => waited,
                    };
                    match waited {
                        Ok(()) => return Ok(()),
                        Err(_) => "this manager lags behind".to_owned(),
                    }
                }
                Err(reason) => reason,
            };
            if self.stop.is_cancelled() {
                return Err(no_manager());
            }
            if Instant::now() >= deadline {
                return Err(no_leader(&reason));
            }
            self.wait_for_leader_change(Duration::from_millis(25)).await;
        }
    }

    async fn read_index_there(&self) -> Result<u64, String> {
        let Some(mut client) = self.leader_client(Lane::Requests) else {
            return Err(self.raft.view().failure.unwrap_or_else(|| "no leader is elected".to_owned()));
        };
        let question = client.read_index(shoal_proto::wire::ReadIndexRequest {});
        match tokio::time::timeout(TRY, question).await {
            Err(_) => Err("the leader does not answer".to_owned()),
            Ok(Err(status)) => Err(describe(&status)),
            Ok(Ok(response)) => Ok(response.into_inner().index),
        }
    }
}

fn bytes_of(forwarded: &Forwarded) -> prost::bytes::Bytes {
    codec::encode(forwarded).into()
}

/// It was demoted, has left, or is being stopped.
fn no_manager() -> Failure {
    Failure::unavailable("this node is not a swarm manager any more: ask another one")
}

/// As Swarm puts it, because people look for these words.
fn no_leader(reason: &str) -> Failure {
    Failure::unavailable(format!(
        "the cluster has no leader that can act: it's possible that too few managers are online; make sure more than \
         half of the managers are online ({reason})"
    ))
}
