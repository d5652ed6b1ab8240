//! Nodes ask for places on networks, whichever manager they ask, and whoever leads.

use std::net::Ipv4Addr;
use std::sync::Arc;

use shoal_kit::identity::NodeIdentity;
use shoal_kit::tls::{DialOptions, connect};
use shoal_proto::assignment::AssignmentItem;
use shoal_proto::codec;
use shoal_proto::control::{AttachmentRequest, AttachmentWish, ControlRequest};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::object::{Attachment, NodeState};
use shoal_proto::spec::NetworkSpec;
use shoal_proto::wire::ControlMessage;
use shoal_proto::wire::dispatcher_client::DispatcherClient;

use crate::harness::{Agent, Cluster, eventually};

type Answer = Result<Option<Arc<Attachment>>, Failure>;

async fn ask(identity: &Arc<NodeIdentity>, addr: &str, request: &AttachmentRequest) -> Answer {
    let channel = connect(identity, addr, DialOptions::default()).await.unwrap();
    let message = ControlMessage { body: codec::encode(request).into() };
    let answer = DispatcherClient::new(channel).attach(message).await.unwrap();
    codec::decode::<Answer>(&answer.into_inner().body).unwrap()
}

fn wish(container: &str) -> AttachmentRequest {
    AttachmentRequest::Attach(AttachmentWish {
        network: "app".to_owned(),
        container_id: container.to_owned(),
        name: container.to_owned(),
        ..AttachmentWish::default()
    })
}

async fn attach(identity: &Arc<NodeIdentity>, addr: &str, container: &str) -> Arc<Attachment> {
    eventually("an address", async || ask(identity, addr, &wish(container)).await.ok().flatten()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_on_a_network_outlives_its_leader_and_is_given_up_by_its_own_node_only() {
    let mut cluster = Cluster::new(3).await;
    let spec = NetworkSpec { name: "app".to_owned(), attachable: true, ..NetworkSpec::default() };
    cluster.any().control(ControlRequest::CreateNetwork(Box::new(spec))).await.unwrap();
    let (one, two) = (cluster.worker().await, cluster.worker().await);
    let follower = cluster.follower().await;
    let addr = cluster.members[follower].options.advertise_addr.to_string();
    let agent = Agent::connect(&one, &addr).await.unwrap();
    cluster.wait_node(one.node_id(), NodeState::Ready).await;
    let first = attach(&one, &addr, "c1").await;
    let told = |id| move |item: &AssignmentItem| matches!(item, AssignmentItem::Attachment(found) if found.id == id);
    agent.wait("its attachment", |s| s.items.values().any(told(first.id)).then_some(())).await;
    let other = attach(&two, &addr, "c1").await;
    assert_ne!((first.id, first.addr), (other.id, other.addr), "a container of another node is another container");
    let leader = cluster.leader().await;
    cluster.members[leader].kill().await;
    // Asked again, as after an answer that was lost: the same, by whoever leads now.
    assert_eq!(attach(&one, &addr, "c1").await.addr, first.addr);
    let next = attach(&one, &addr, "c2").await;
    let taken: Vec<Ipv4Addr> = [&first, &other].iter().map(|attachment| attachment.addr.addr()).collect();
    assert!(!taken.contains(&next.addr.addr()), "handed out twice");
    let detach = AttachmentRequest::Detach(vec![first.id]);
    assert_eq!(ask(&two, &addr, &detach).await, Ok(None));
    assert!(cluster.any().read().await.unwrap().attachment(first.id).is_some(), "taken by another node");
    assert_eq!(ask(&one, &addr, &detach).await, Ok(None));
    agent.wait("it is gone", |s| (!s.items.values().any(told(first.id))).then_some(())).await;
    let missing = AttachmentWish { network: "x".to_owned(), container_id: "c".to_owned(), ..AttachmentWish::default() };
    let refused = ask(&one, &addr, &AttachmentRequest::Attach(missing)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
    cluster.shutdown().await;
}
