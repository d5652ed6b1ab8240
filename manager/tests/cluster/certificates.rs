//! Tokens and certificates.

use std::sync::Arc;
use std::time::Duration;

use shoal_kit::ca_client::{self, CaError};
use shoal_kit::entropy::Entropy;
use shoal_kit::identity::NodeIdentity;
use shoal_kit::join_token::JoinToken;
use shoal_kit::tls::{self, DialOptions};
use shoal_proto::control::ControlRequest;
use shoal_proto::object::NodeState;
use shoal_proto::spec::{ClusterSpec, NodeRole};
use shoal_proto::wire::manager_peer_client::ManagerPeerClient;
use shoal_proto::wire::{JoinRaftRequest, MembersRequest, RaftMessage};
use tokio_util::sync::CancellationToken;

use crate::harness::{Agent, Cluster, clock, eventually, free_addr, join_with, test_spec, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_token_is_refused_with_its_reason() {
    let (ours, theirs) = (Cluster::new(3).await, Cluster::new(1).await);
    // A follower has to say the same as the leader.
    let follower = vec![ours.members[ours.follower().await].options.advertise_addr.to_string()];
    let token = ours.token(NodeRole::Worker).await;
    assert_eq!(join_with(&token, follower.clone()).await.unwrap().subject.role, NodeRole::Worker);

    let foreign = theirs.token(NodeRole::Manager).await;
    let refused = join_with(&foreign, follower.clone()).await.unwrap_err();
    assert!(matches!(refused, CaError::OtherCluster { .. }), "{refused}");
    assert!(refused.to_string().contains("another cluster"));

    let mut wrong: JoinToken = token.parse().unwrap();
    wrong.secret[3] ^= 0x55;
    let refused = join_with(&wrong.to_string(), follower.clone()).await.unwrap_err();
    assert!(matches!(refused, CaError::TokenUnknown), "{refused}");

    let cluster = ours.any().read().await.unwrap().cluster().cloned().unwrap();
    let rotate = ControlRequest::UpdateCluster {
        version: cluster.meta.version,
        spec: Box::new(cluster.spec.clone()),
        rotate_worker_token: true,
        rotate_manager_token: false,
        rotate_unlock_key: false,
    };
    ours.any().control(rotate).await.unwrap();
    let refused = join_with(&token, follower.clone()).await.unwrap_err();
    assert!(matches!(refused, CaError::TokenRotated), "{refused}");
    let fresh = ours.token(NodeRole::Worker).await;
    assert_ne!(fresh, token);
    join_with(&fresh, follower).await.unwrap();

    let nobody = join_with(&fresh, vec![free_addr().to_string()]).await.unwrap_err();
    assert!(matches!(nobody, CaError::Unreachable { .. }) && !nobody.is_final(), "{nobody}");
    ours.shutdown().await;
    theirs.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joining_node_learns_the_port_of_the_data_path() {
    let mut cluster = Cluster::with_data_path_port(4790).await;
    cluster.add_manager().await;
    // A follower forwards the request; the answer is the same.
    let follower = cluster.members[cluster.follower().await].options.advertise_addr.to_string();
    let token = cluster.token(NodeRole::Worker).await;
    assert_eq!(join_with(&token, vec![follower]).await.unwrap().data_path_port, 4790);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_managers_reach_the_managers_port() {
    let cluster = Cluster::new(1).await;
    let worker = cluster.worker().await;
    let addr = cluster.addrs()[0].clone();
    let channel = tls::connect(&worker, &addr, DialOptions::default()).await.unwrap();
    let mut client = ManagerPeerClient::new(channel);
    let refused = client.members(MembersRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    let refused = client.append_entries(RaftMessage::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    let refused = client.join_raft(JoinRaftRequest { addr: free_addr().to_string() }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_gets_no_session() {
    let (ours, theirs) = (Cluster::new(1).await, Cluster::new(1).await);
    let stranger = theirs.worker().await;
    assert!(Agent::connect(&stranger, &ours.addrs()[0]).await.is_err());
    // A cluster id alone, without the root's signature, is not enough either.
    let forged = shoal_manager::ca::create_root(clock().now(), &Entropy::from_system()).unwrap();
    let (key_pem, csr) = shoal_kit::identity::generate_request().unwrap();
    let request = shoal_manager::ca::Request::parse(&csr).unwrap();
    let grant = shoal_manager::ca::Grant {
        node: ours.members[0].options.identity.node_id(),
        role: NodeRole::Manager,
        cluster: ours.members[0].options.identity.cluster_id(),
        life: Duration::from_secs(3600),
    };
    let authority = shoal_manager::ca::Authority::new(&forged).unwrap();
    let chain_pem = authority.issue(&request, &grant, clock().now(), &Entropy::from_system()).unwrap();
    let trust_pem = ours.members[0].options.identity.current().material.trust_pem.clone();
    let material = shoal_kit::identity::Material { key_pem, chain_pem, trust_pem };
    let forger = Arc::new(NodeIdentity::in_memory(clock(), material).unwrap());
    let channel = tls::connect(&forger, &ours.addrs()[0], DialOptions::default()).await;
    if let Ok(channel) = channel {
        assert!(ManagerPeerClient::new(channel).members(MembersRequest {}).await.is_err());
    }
    ours.shutdown().await;
    theirs.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_seconds_are_renewed_for_ever() {
    let spec = ClusterSpec { node_cert_expiry: Duration::from_secs(3), ..test_spec() };
    let cluster = Cluster::with_spec(1, spec).await;
    let stop = CancellationToken::new();
    let worker = cluster.worker().await;
    for identity in [Arc::clone(&worker), Arc::clone(&cluster.members[0].options.identity)] {
        let remotes = cluster.addrs();
        tokio::spawn(ca_client::keep_renewed(identity, move || remotes.clone(), Entropy::from_system(), stop.clone()));
    }
    let first = worker.current().subject.not_after;
    let before = worker.current().material.key_pem.clone();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(worker.current().subject.not_after > first);
    assert_ne!(worker.current().material.key_pem, before, "a renewal has a new key");
    assert!(!worker.expired());
    let agent = Agent::connect(&worker, &cluster.addrs()[0]).await.expect("a session with the renewed certificate");
    cluster.wait_node(worker.node_id(), NodeState::Ready).await;
    write(&cluster.any(), "still-served").await.unwrap();
    stop.cancel();
    // Without renewal the session ends with the certificate, and the next one is refused.
    let status = agent.wait("the session ends", |s| s.closed.clone()).await;
    assert!(status.message().contains("expired"), "{status}");
    // Certificates count whole seconds: the one in which it expires may still let a session in.
    eventually("an expired certificate opens no session", async || {
        Agent::connect(&worker, &cluster.addrs()[0]).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_renew_without_losing_touch() {
    let spec = ClusterSpec { node_cert_expiry: Duration::from_secs(4), ..test_spec() };
    let cluster = Cluster::with_spec(3, spec).await;
    let stop = CancellationToken::new();
    for member in &cluster.members {
        let remotes = cluster.addrs();
        let identity = Arc::clone(&member.options.identity);
        tokio::spawn(ca_client::keep_renewed(identity, move || remotes.clone(), Entropy::from_system(), stop.clone()));
    }
    let began = tokio::time::Instant::now();
    let mut number = 0;
    while began.elapsed() < Duration::from_secs(9) {
        write(&cluster.members[number % 3].handle(), &format!("secret-{number}")).await.unwrap();
        number += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(cluster.members.iter().all(|member| !member.options.identity.expired()));
    stop.cancel();
    cluster.shutdown().await;
}
