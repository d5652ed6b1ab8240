//! The node's side of the CA: joining a cluster with a token, and renewing the certificate.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::spec::{AddressPools, Availability, NodeRole};
use shoal_proto::wire::IssueCertificateRequest;
use shoal_proto::wire::ca_client::CaClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::identity::{CertificateSubject, IdentityError, Material, NodeIdentity, certificates, generate_request};
use crate::join_token::JoinToken;
use crate::tls::{self, DialError, DialOptions, TrustError};

/// Detail bytes of a status with which a manager says that a token was once valid.
pub const TOKEN_ROTATED: &[u8] = b"token-rotated";
/// Detail bytes of a status with which a manager says that it does not know a token.
pub const TOKEN_UNKNOWN: &[u8] = b"token-unknown";
/// Detail bytes of a status with which a manager says that the caller's node was removed from the cluster.
pub const NODE_REMOVED: &[u8] = b"node-removed";

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The token names another cluster than the manager's.
    #[error("the join token belongs to another cluster: its fingerprint is not that of the manager at {addr}")]
    OtherCluster {
        /// Which manager.
        addr: String,
    },
    /// The token is of this cluster, but was replaced by a newer one.
    #[error("the join token was rotated: ask a manager for the current one with `swarm join-token`")]
    TokenRotated,
    /// The token names this cluster, but was never one of its tokens.
    #[error("the join token is wrong: this cluster never had it")]
    TokenUnknown,
    /// The node was removed from the cluster.
    #[error("this node was removed from the cluster: it has to leave and join again")]
    NodeRemoved,
    /// No manager could be reached.
    #[error("no manager could be reached: {}", tried.join("; "))]
    Unreachable {
        /// Each address with what went wrong.
        tried: Vec<String>,
    },
    /// The manager refused for another reason.
    #[error("the manager at {addr} refused: {message}")]
    Refused {
        /// Which manager.
        addr: String,
        /// Its words.
        message: String,
    },
    /// The manager's answer cannot be used.
    #[error("the manager's answer is unusable")]
    Answer(#[source] IdentityError),
    /// The key could not be made, or the new identity not be stored.
    #[error("own identity")]
    Identity(#[source] IdentityError),
}

impl CaError {
    /// Would it be pointless to try again with the same arguments?
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Unreachable { .. })
    }
}

/// What a node brings to join a cluster.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The token; its kind decides the role.
    pub token: JoinToken,
    /// Managers, `host:port`, tried in order.
    pub remotes: Vec<String>,
    /// Availability that the new node begins with.
    pub availability: Availability,
    /// For each manager.
    pub timeout: Duration,
}

/// What a node gets.
#[derive(Debug)]
pub struct Issued {
    /// Key, certificate and trust bundle: make a [`NodeIdentity`] of it.
    pub material: Material,
    /// What the certificate says.
    pub subject: CertificateSubject,
    /// The manager that issued it.
    pub remote: String,
    /// UDP port of the cluster's overlay data path.
    pub data_path_port: u16,
}

/// Asks for the identity of a new node.
///
/// # Errors
/// When the token is refused, or no manager answers.
pub async fn join(request: &JoinRequest, clock: &Arc<dyn Clock>) -> Result<Issued, CaError> {
    let (key_pem, csr_pem) = generate_request().map_err(CaError::Identity)?;
    let message = IssueCertificateRequest {
        csr_pem,
        token: request.token.to_string(),
        availability: request.availability.as_str().to_owned(),
    };
    let mut tried = Vec::new();
    for addr in &request.remotes {
        let dialled = tls::connect_by_digest(request.token.root_digest, Arc::clone(clock), addr, request.timeout).await;
        match dialled {
            Ok(channel) => match ask(channel, addr, message.clone(), request.timeout).await {
                Ok(answer) => return issued(key_pem, answer, addr),
                Err(CaError::Unreachable { tried: reasons }) => tried.extend(reasons),
                Err(error) => return Err(error),
            },
            Err(DialError::Untrusted { source: TrustError::TokenOfOtherCluster, .. }) => {
                return Err(CaError::OtherCluster { addr: addr.clone() });
            }
            Err(error) => tried.push(shoal_proto::error::chain(&error)),
        }
    }
    Err(CaError::Unreachable { tried })
}

/// Asks for a new certificate for a node that has one, with a new key, and takes it over. The role in it is the one
/// that the cluster wants for the node at that moment.
///
/// # Errors
/// When the node was removed, or no manager answers.
pub async fn renew(identity: &Arc<NodeIdentity>, remotes: &[String], timeout: Duration) -> Result<NodeRole, CaError> {
    let (key_pem, csr_pem) = generate_request().map_err(CaError::Identity)?;
    let message = IssueCertificateRequest { csr_pem, token: String::new(), availability: String::new() };
    let mut tried = Vec::new();
    for addr in remotes {
        let options = DialOptions { connect_timeout: timeout, ..DialOptions::default() };
        match tls::connect(identity, addr, options).await {
            Ok(channel) => match ask(channel, addr, message.clone(), timeout).await {
                Ok(answer) => {
                    let issued = issued(key_pem, answer, addr)?;
                    identity.replace(issued.material).map_err(CaError::Identity)?;
                    return Ok(issued.subject.role);
                }
                Err(CaError::Unreachable { tried: reasons }) => tried.extend(reasons),
                Err(error) => return Err(error),
            },
            Err(error) => tried.push(shoal_proto::error::chain(&error)),
        }
    }
    Err(CaError::Unreachable { tried })
}

/// Renews the certificate at a random point between 50 and 80 % of its life, for ever. Failures are retried with
/// growing pauses; a removed node is reported to the log and tried again slowly, since only its owner can end it.
pub async fn keep_renewed(
    identity: Arc<NodeIdentity>,
    remotes: impl Fn() -> Vec<String> + Send,
    entropy: Entropy,
    stop: CancellationToken,
) {
    let mut generations = identity.generations();
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300), entropy.clone());
    loop {
        generations.borrow_and_update();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = generations.changed() => { backoff.reset(); continue }
            () = tokio::time::sleep(identity.renewal_delay(&entropy)) => {}
        }
        match renew(&identity, &remotes(), Duration::from_secs(5)).await {
            Ok(_) => {
                tracing::info!(node = %identity.node_id(), "certificate renewed");
                backoff.reset();
            }
            Err(error) => {
                tracing::warn!(error = shoal_proto::error::chain(&error), "certificate not renewed");
                let life_left = identity.current().subject.not_after.since(identity.clock().now());
                let pause = backoff.next_delay().min((life_left / 4).max(Duration::from_millis(200)));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

struct Answer {
    chain_pem: String,
    trust_pem: String,
    data_path_port: u32,
}

async fn ask(
    channel: Channel,
    addr: &str,
    message: IssueCertificateRequest,
    timeout: Duration,
) -> Result<Answer, CaError> {
    let mut client = CaClient::new(channel);
    let unreachable = |reason: String| CaError::Unreachable { tried: vec![format!("{addr}: {reason}")] };
    match tokio::time::timeout(timeout, client.issue_certificate(message)).await {
        Err(_) => Err(unreachable(format!("no answer within {} ms", timeout.as_millis()))),
        Ok(Err(status)) => Err(refusal(&status, addr, unreachable)),
        Ok(Ok(response)) => {
            let response = response.into_inner();
            Ok(Answer {
                chain_pem: response.certificate_chain_pem,
                trust_pem: response.root_pem,
                data_path_port: response.data_path_port,
            })
        }
    }
}

fn refusal(status: &Status, addr: &str, unreachable: impl Fn(String) -> CaError) -> CaError {
    match status.details() {
        details if details == TOKEN_ROTATED => return CaError::TokenRotated,
        details if details == TOKEN_UNKNOWN => return CaError::TokenUnknown,
        details if details == NODE_REMOVED => return CaError::NodeRemoved,
        _ => {}
    }
    match status.code() {
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => {
            CaError::Refused { addr: addr.to_owned(), message: status.message().to_owned() }
        }
        _ => unreachable(status.message().to_owned()),
    }
}

fn issued(key_pem: zeroize::Zeroizing<String>, answer: Answer, addr: &str) -> Result<Issued, CaError> {
    let chain = certificates(&answer.chain_pem, "certificate chain").map_err(CaError::Answer)?;
    let leaf = chain.first().ok_or(CaError::Answer(IdentityError::Empty { what: "certificate chain" }))?;
    let subject = CertificateSubject::parse(leaf).map_err(CaError::Answer)?;
    let material = Material { key_pem, chain_pem: answer.chain_pem, trust_pem: answer.trust_pem };
    let default_port = AddressPools::default().data_path_port;
    let data_path_port = u16::try_from(answer.data_path_port).ok().filter(|port| *port != 0).unwrap_or(default_port);
    Ok(Issued { material, subject, remote: addr.to_owned(), data_path_port })
}
