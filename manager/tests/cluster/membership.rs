//! Joining, promoting, demoting, leaving.

use std::sync::Arc;
use std::time::Duration;

use shoal_kit::ca_client;
use shoal_kit::identity::NodeIdentity;
use shoal_manager::Manager;
use shoal_proto::control::ControlRequest;
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::NodeId;
use shoal_proto::object::NodeState;
use shoal_proto::spec::{NodeRole, NodeSpec};

use crate::harness::{Agent, Cluster, Member, clock, eventually, options, write};

async fn set_role(cluster: &Cluster, id: NodeId, role: NodeRole) -> Result<(), Failure> {
    loop {
        let node = cluster.node(id).await.expect("the node");
        let spec = NodeSpec { role, ..node.spec.clone() };
        let update = ControlRequest::UpdateNode { id, version: node.meta.version, spec };
        match cluster.any().control(update).await {
            // Something else about the node changed meanwhile, its session for one.
            Err(failure) if failure.kind == ErrorKind::StaleVersion => {}
            result => return result.map(|_| ()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_known_to_all() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    for member in &cluster.members {
        let members = eventually("all are reachable", async || {
            let members = member.handle().members().await;
            (members.len() == 3 && members.iter().all(|m| m.reachable)).then_some(members)
        })
        .await;
        let leads: Vec<_> = members.iter().filter(|m| m.leader).map(|m| m.node_id).collect();
        assert_eq!(leads, [cluster.members[leader].options.identity.node_id()]);
    }
    let store = cluster.any().read().await.unwrap();
    assert!(store.nodes().all(|node| node.manager.is_some() && node.certificate_role == NodeRole::Manager));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_promoted_and_demoted_again() {
    let mut cluster = Cluster::new(1).await;
    let root = cluster.folder.path().join("promoted");
    let issued = cluster.issue(NodeRole::Worker).await.unwrap();
    let id = issued.subject.node_id;
    let directory = NodeIdentity::directory(&root);
    let identity = Arc::new(NodeIdentity::create(&directory, clock(), issued.material).unwrap());
    let agent = Agent::connect(&identity, &cluster.addrs()[0]).await.unwrap();
    let refused = Manager::join(options(&root, Arc::clone(&identity)), cluster.addrs()).await.unwrap_err();
    assert!(refused.message.contains("worker") || refused.message.contains("managers may"), "{refused}");

    set_role(&cluster, id, NodeRole::Manager).await.unwrap();
    agent
        .wait("told to be a manager", |s| {
            s.session.as_ref().filter(|session| session.desired_role == "manager").map(|_| ())
        })
        .await;
    let role = ca_client::renew(&identity, &cluster.addrs(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(role, NodeRole::Manager);
    let options = options(&root, Arc::clone(&identity));
    let manager = Manager::join(options.clone(), cluster.addrs()).await.unwrap();
    manager.handle().wait_voting().await.unwrap();
    cluster.members.push(Member { root, options, manager: Some(manager) });
    write(&cluster.members[1].handle(), "by-the-promoted").await.unwrap();
    eventually("recorded", async || cluster.node(id).await.and_then(|node| node.manager.clone())).await;

    set_role(&cluster, id, NodeRole::Worker).await.unwrap();
    eventually("out of the group", async || {
        let node = cluster.members[0].handle().read().await.ok()?.node(id).cloned()?;
        node.manager.is_none().then_some(())
    })
    .await;
    agent
        .wait("told to be a worker", |s| {
            s.session.as_ref().filter(|session| session.desired_role == "worker").map(|_| ())
        })
        .await;
    let first = cluster.members[0].options.advertise_addr.to_string();
    let role = ca_client::renew(&identity, &[first], Duration::from_secs(5)).await.unwrap();
    assert_eq!(role, NodeRole::Worker);
    cluster.members[1].kill().await;
    write(&cluster.members[0].handle(), "alone-again").await.unwrap();
    assert_eq!(cluster.members[0].handle().members().await.len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_leader_hands_over() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let id = cluster.members[leader].options.identity.node_id();
    set_role(&cluster, id, NodeRole::Worker).await.unwrap();
    let other = cluster.members[(leader + 1) % 3].handle();
    eventually("two members are left", async || (other.members().await.len() == 2).then_some(())).await;
    write(&other, "goes-on").await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_manager_is_not_demoted() {
    let cluster = Cluster::new(1).await;
    let id = cluster.members[0].options.identity.node_id();
    let refused = set_role(&cluster, id, NodeRole::Worker).await.unwrap_err();
    assert_ne!(refused.kind, ErrorKind::Unavailable, "{refused}");
    let refused = cluster.any().leave(true).await.unwrap_err();
    assert!(refused.message.contains("last manager"), "{refused}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_leave_in_order_and_never_without_a_majority() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let leaving = cluster.members[leader].handle();
    leaving.leave(false).await.unwrap();
    cluster.members[leader].stop().await;
    let rest = cluster.any();
    eventually("two members are left", async || (rest.members().await.len() == 2).then_some(())).await;
    write(&rest, "two-left").await.unwrap();
    // One of the two is dead: the other one cannot go, nor can the dead one be taken for alive.
    let dead = cluster.follower().await;
    cluster.members[dead].kill().await;
    let refused = cluster.any().leave(false).await.unwrap_err();
    assert!(!refused.message.is_empty(), "{refused}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_lost_its_disk_joins_again_as_a_new_member() {
    let mut cluster = Cluster::new(3).await;
    let lost = cluster.follower().await;
    let old_id = cluster.members[lost].handle().raft_id();
    cluster.members[lost].kill().await;
    Manager::erase(&cluster.members[lost].options).unwrap();
    let options = cluster.members[lost].options.clone();
    let manager = Manager::join(options, cluster.addrs()).await.unwrap();
    manager.handle().wait_voting().await.unwrap();
    assert_ne!(manager.handle().raft_id(), old_id, "a raft id is never used twice");
    cluster.members[lost].manager = Some(manager);
    assert_eq!(cluster.any().members().await.len(), 3);
    write(&cluster.members[lost].handle(), "back").await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_workers_session_is_closed_with_the_reason() {
    let cluster = Cluster::new(3).await;
    let identity = cluster.worker().await;
    let follower = cluster.members[cluster.follower().await].options.advertise_addr.to_string();
    let agent = Agent::connect(&identity, &follower).await.unwrap();
    let id = identity.node_id();
    cluster.wait_node(id, NodeState::Ready).await;
    let refused = cluster.any().control(ControlRequest::RemoveNode { id, force: false }).await;
    assert!(refused.is_err(), "a node that is alive needs force");
    cluster.any().control(ControlRequest::RemoveNode { id, force: true }).await.unwrap();
    let status = agent.wait("closed", |s| s.closed.clone()).await;
    assert!(status.message().contains("removed"), "{status}");
    let again = Agent::connect(&identity, &follower).await.err().expect("refused");
    assert!(again.message().contains("removed"), "{again}");
    let renewal = ca_client::renew(&identity, &cluster.addrs(), Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(renewal, ca_client::CaError::NodeRemoved), "{renewal}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_removed_is_not_listened_to() {
    use shoal_kit::tls::{self, DialOptions};
    use shoal_proto::wire::RaftMessage;
    use shoal_proto::wire::manager_peer_client::ManagerPeerClient;

    let mut cluster = Cluster::new(3).await;
    let gone = cluster.follower().await;
    let identity = Arc::clone(&cluster.members[gone].options.identity);
    let id = identity.node_id();
    let listener = cluster.members[cluster.leader().await].handle();
    let addr = cluster.members[cluster.leader().await].options.advertise_addr.to_string();
    let channel = tls::connect(&identity, &addr, DialOptions::default()).await.unwrap();
    let mut client = ManagerPeerClient::new(channel);
    // Not a vote at all: only who may send one is of interest here.
    let message = RaftMessage { to: listener.raft_id(), body: b"?".to_vec().into() };
    let before = client.vote(message.clone()).await.unwrap_err();
    assert_eq!(before.code(), tonic::Code::InvalidArgument, "{before}");
    set_role(&cluster, id, NodeRole::Worker).await.unwrap();
    eventually("out of the group", async || (listener.members().await.len() == 2).then_some(())).await;
    let after = client.vote(message).await.unwrap_err();
    assert_eq!(after.code(), tonic::Code::PermissionDenied, "{after}");
    cluster.members[gone].kill().await;
    write(&listener, "goes-on").await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_away_follows_a_leader_it_never_knew() {
    let mut cluster = Cluster::new(3).await;
    let away = cluster.follower().await;
    cluster.members[away].kill().await;
    let new = cluster.add_manager().await;
    let demoted = cluster.follower().await;
    let demoted = if demoted == new {
        (0..3).find(|i| *i != away && !cluster.members[*i].handle().is_leader()).unwrap()
    } else {
        demoted
    };
    set_role(&cluster, cluster.members[demoted].options.identity.node_id(), NodeRole::Worker).await.unwrap();
    let handle = cluster.members[new].handle();
    eventually("three members are left", async || (handle.members().await.len() == 3).then_some(())).await;
    cluster.members[demoted].kill().await;
    let leader = cluster.leader().await;
    if leader != new {
        cluster.members[leader].handle().step_down().await.unwrap();
    }
    eventually("the new one leads", async || handle.is_leader().then_some(())).await;
    write(&handle, "news").await.unwrap();
    cluster.members[away].start().await;
    let back = cluster.members[away].handle();
    assert!(crate::harness::has_secret(&back.read().await.unwrap(), "news"));
    cluster.shutdown().await;
}
