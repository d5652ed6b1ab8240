//! The `Ca` service: open to callers without a certificate. Decisions are the leader's; followers pass requests on.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use shoal_kit::ca_client::{NODE_REMOVED, TOKEN_ROTATED, TOKEN_UNKNOWN};
use shoal_kit::join_token::JoinToken;
use shoal_kit::reason::describe;
use shoal_manager_core::change::{ApplyError, Change, Expect, NodePatch};
use shoal_manager_core::store::Store;
use shoal_proto::id::NodeId;
use shoal_proto::object::{Cluster, Node};
use shoal_proto::spec::{Availability, NodeRole, NodeSpec};
use shoal_proto::wire::ca_server::Ca;
use shoal_proto::wire::{
    IssueCertificateRequest, IssueCertificateResponse, PeerIssueRequest, RootCertificateRequest,
    RootCertificateResponse,
};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::ca::{Grant, Request as CertificateRequest};
use crate::inner::Inner;
use crate::peers::Lane;
use crate::raft::node::ProposeError;
use crate::raft::types::{BatchBody, Outcome};

/// How long a request may wait for a leader.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long the leader may take to write a new node down.
const WRITE: Duration = Duration::from_secs(3);
/// No request for a P-256 key is near that long.
const REQUEST_LIMIT: usize = 16 << 10;

/// The form in which rotated tokens are remembered.
pub(crate) fn token_digest(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The service.
#[derive(Clone)]
pub(crate) struct CaService(pub(crate) Arc<Inner>);

#[tonic::async_trait]
impl Ca for CaService {
    async fn root_certificate(
        &self,
        _request: Request<RootCertificateRequest>,
    ) -> Result<Response<RootCertificateResponse>, Status> {
        let certificate_pem = self.0.identity().current().material.trust_pem.clone();
        Ok(Response::new(RootCertificateResponse { certificate_pem }))
    }

    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        // A token makes it a join, whatever certificate the caller may have shown.
        let renewing = if request.get_ref().token.is_empty() {
            Some(self.0.caller(&request).map(|(_, node, _)| node)?)
        } else {
            None
        };
        let request = request.into_inner();
        if request.csr_pem.len() > REQUEST_LIMIT {
            return Err(Status::invalid_argument("the certificate request is too long"));
        }
        self.0.issue_somewhere(request, renewing).await.map(Response::new)
    }
}

fn with_details(code: Code, message: &str, details: &'static [u8]) -> Status {
    Status::with_details(code, message, prost::bytes::Bytes::from_static(details))
}

/// The role that a token admits to.
fn role_of_token(cluster: &Cluster, token: &str) -> Result<NodeRole, Status> {
    token.parse::<JoinToken>().map_err(|error| Status::invalid_argument(error.to_string()))?;
    let is = |known: &str| bool::from(known.as_bytes().ct_eq(token.as_bytes()));
    // Both are compared, so that time does not tell which one it was.
    match (is(&cluster.root_ca.worker_token), is(&cluster.root_ca.manager_token)) {
        (_, true) => Ok(NodeRole::Manager),
        (true, false) => Ok(NodeRole::Worker),
        (false, false) => {
            if cluster.root_ca.retired_tokens.contains(&token_digest(token)) {
                return Err(with_details(Code::PermissionDenied, "the join token was rotated", TOKEN_ROTATED));
            }
            Err(with_details(Code::PermissionDenied, "the join token is wrong", TOKEN_UNKNOWN))
        }
    }
}

fn availability_of(text: &str) -> Result<Availability, Status> {
    match text {
        "" | "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        other => Err(Status::invalid_argument(format!("invalid availability {other:?}"))),
    }
}

/// The role of a node's next certificate. A demoted manager stays one until it has left the consensus group.
pub(crate) fn due_role(node: &Node) -> NodeRole {
    match (node.spec.role, &node.manager) {
        (NodeRole::Worker, Some(_)) => NodeRole::Manager,
        (role, _) => role,
    }
}

impl Inner {
    /// Issues here when this manager leads, else asks the leader; waits a little for an election.
    async fn issue_somewhere(
        &self,
        request: IssueCertificateRequest,
        renewing: Option<NodeId>,
    ) -> Result<IssueCertificateResponse, Status> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let result = if self.raft.leading().is_some() {
                self.issue(&request, renewing).await
            } else if let Some(mut leader) = self.leader_client(Lane::Requests) {
                let node_id = renewing.map(|node| node.to_string()).unwrap_or_default();
                let message = PeerIssueRequest { request: Some(request.clone()), node_id };
                match tokio::time::timeout(DEADLINE, leader.issue_certificate(message)).await {
                    Ok(answer) => answer.map(Response::into_inner),
                    Err(_) => Err(Status::unavailable("the leader does not answer")),
                }
            } else {
                let reason = self.raft.view().failure.unwrap_or_else(|| "no leader is elected".to_owned());
                Err(Status::unavailable(reason))
            };
            match result {
                Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                    self.wait_for_leader_change(Duration::from_millis(50)).await;
                }
                Err(status) if status.code() == Code::Unavailable => {
                    return Err(Status::unavailable(describe(&status)));
                }
                other => return other,
            }
        }
    }

    /// Issues a certificate. Only the leader may, because its view of tokens and nodes must be the newest.
    pub(crate) async fn issue(
        &self,
        request: &IssueCertificateRequest,
        renewing: Option<NodeId>,
    ) -> Result<IssueCertificateResponse, Status> {
        let not_leader = || Status::unavailable("the leader changed");
        let term = self.raft.leading().ok_or_else(not_leader)?;
        // Grants rights: what was read must be the newest even if another leader was elected unseen.
        let index = self.raft.read_index(WRITE).await.map_err(|error| Status::unavailable(error.to_string()))?;
        self.raft.cell().wait_for(index).await;
        let store = self.store();
        let cluster = store.cluster().ok_or_else(|| Status::unavailable("the cluster is not made yet"))?;
        let csr = CertificateRequest::parse(&request.csr_pem)
            .map_err(|error| Status::invalid_argument(shoal_proto::error::chain(&error)))?;
        let (node, role) = match renewing {
            Some(node) => (node, self.renewal(&store, node, term).await?),
            None => {
                let role = role_of_token(cluster, &request.token)?;
                let node = csr.node_id(cluster.id);
                self.admit(node, role, availability_of(&request.availability)?, term).await?;
                (node, role)
            }
        };
        let life = cluster.spec.node_cert_expiry;
        let grant = Grant { node, role, cluster: cluster.id, life };
        let internal = |error: crate::ca::CaError| Status::internal(shoal_proto::error::chain(&error));
        let authority = self.authorities.get(&cluster.root_ca).map_err(internal)?;
        let chain = authority.issue(&csr, &grant, self.now(), &self.options.entropy).map_err(internal)?;
        Ok(IssueCertificateResponse {
            node_id: node.to_string(),
            role: role.as_str().to_owned(),
            certificate_chain_pem: chain,
            root_pem: cluster.root_ca.certificate_pem.clone(),
            data_path_port: cluster.pools.data_path_port.into(),
        })
    }

    /// Writes a new node down.
    async fn admit(&self, id: NodeId, role: NodeRole, availability: Availability, term: u64) -> Result<(), Status> {
        let spec = NodeSpec { role, availability, ..NodeSpec::default() };
        let node = Node { id, spec, certificate_role: role, ..Node::default() };
        match self.write(vec![Change::create(node)], term).await? {
            // The same key asked before and lost the answer. A node that lived already cannot be taken over: only
            // its own key leads to its id.
            Outcome::Refused(ApplyError::Exists { .. }) => Ok(()),
            Outcome::Refused(error) => Err(Status::internal(error.to_string())),
            _ => Ok(()),
        }
    }

    /// The role that a node's renewed certificate gets. Written down when it differs from that of the old one.
    async fn renewal(&self, store: &Store, id: NodeId, term: u64) -> Result<NodeRole, Status> {
        let node = store.node(id).ok_or_else(removed)?;
        let role = due_role(node);
        if node.certificate_role != role {
            let patch = Box::new(NodePatch { certificate_role: Some(role), ..NodePatch::default() });
            let expect = Expect::Version(node.meta.version);
            if let Outcome::Refused(_) = self.write(vec![Change::Node { id, patch, expect }], term).await? {
                return Err(Status::unavailable("the node changed in the meantime"));
            }
        }
        Ok(role)
    }

    async fn write(&self, changes: Vec<Change>, term: u64) -> Result<Outcome, Status> {
        let body = BatchBody { time: self.now(), fence: term, request: None, changes };
        match self.raft.propose(body, WRITE).await {
            Ok(Outcome::Fenced) | Err(ProposeError::NotLeader) => Err(Status::unavailable("the leader changed")),
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

/// The caller's node is not in the store any more.
pub(crate) fn removed() -> Status {
    with_details(Code::PermissionDenied, "this node was removed from the cluster", NODE_REMOVED)
}
