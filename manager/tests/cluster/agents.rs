//! Sessions with agents.

use std::time::Duration;

use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::object::NodeState;
use shoal_proto::spec::{ServiceMode, ServiceSpec};
use shoal_proto::task_state::TaskState;
use shoal_proto::wire::agent_message::Message as ToManager;
use shoal_proto::wire::{Goodbye, ResendAssignments};

use crate::harness::{Agent, Cluster, eventually};

pub(crate) fn service(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec { name: name.to_owned(), ..ServiceSpec::default() };
    spec.mode = ServiceMode::Replicated { replicas };
    std::sync::Arc::make_mut(&mut spec.task).container.image = "busybox:latest".to_owned();
    spec
}

pub(crate) async fn create(cluster: &Cluster, spec: ServiceSpec) -> shoal_proto::id::ServiceId {
    match cluster.any().control(ControlRequest::CreateService(Box::new(spec))).await.unwrap() {
        ControlResponse::Service(service, _) => service.id,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn running(cluster: &Cluster, id: shoal_proto::id::ServiceId, count: usize) {
    let handle = cluster.any();
    eventually(&format!("{count} tasks run"), async || {
        let store = handle.local();
        let running = store.tasks_of_service(id).filter(|task| task.status.state == TaskState::Running).count();
        (running == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_makes_a_node_ready_on_any_manager() {
    let cluster = Cluster::new(3).await;
    for addr in cluster.addrs() {
        let identity = cluster.worker().await;
        let agent = Agent::connect(&identity, &addr).await.unwrap();
        let node = cluster.wait_node(identity.node_id(), NodeState::Ready).await;
        assert!(node.description.as_ref().unwrap().hostname.starts_with("host-"));
        let session = agent.wait("session state", |s| s.session.clone()).await;
        assert_eq!(session.heartbeat_period_ms, 400);
        assert_eq!(session.desired_role, "worker");
        assert!(session.root_pem.contains("CERTIFICATE"));
        agent
            .wait("all managers are named", |s| {
                s.session.as_ref().filter(|session| session.managers.len() == 3).map(|_| ())
            })
            .await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_reaches_the_agents_and_its_statuses_the_store() {
    let cluster = Cluster::new(3).await;
    let mut agents = Vec::new();
    for addr in cluster.addrs() {
        let identity = cluster.worker().await;
        agents.push(Agent::connect(&identity, &addr).await.unwrap());
        cluster.wait_node(identity.node_id(), NodeState::Ready).await;
    }
    let id = create(&cluster, service("web", 6)).await;
    running(&cluster, id, 6).await;
    for agent in &agents {
        agent.wait("its share", |s| (s.tasks().len() == 2).then_some(())).await;
        agent.wait("statuses are acknowledged", |s| (s.accepted > 0).then_some(())).await;
    }
    agents[0].send(ToManager::Resend(ResendAssignments {})).await;
    agents[0].wait("the whole set again", |s| (s.sequence == 1 && s.tasks().len() == 2).then_some(())).await;
    let service = cluster.any().read().await.unwrap().service(id).cloned().unwrap();
    cluster.any().control(ControlRequest::RemoveService(service.id)).await.unwrap();
    for agent in &agents {
        agent.wait("its tasks are gone", |s| s.tasks().is_empty().then_some(())).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_agent_is_down_after_two_and_a_half_periods_and_its_tasks_move() {
    let cluster = Cluster::new(1).await;
    let (quiet, lively) = (cluster.worker().await, cluster.worker().await);
    let addr = cluster.addrs()[0].clone();
    let agent = Agent::connect_with(&quiet, &addr, Duration::from_secs(3600)).await.unwrap();
    cluster.wait_node(quiet.node_id(), NodeState::Ready).await;
    let _other = Agent::connect(&lively, &addr).await.unwrap();
    cluster.wait_node(lively.node_id(), NodeState::Ready).await;
    let id = create(&cluster, service("web", 2)).await;
    let node = cluster.wait_node(quiet.node_id(), NodeState::Down).await;
    assert!(node.status.message.contains("heard"), "{}", node.status.message);
    let status = agent.wait("closed", |s| s.closed.clone()).await;
    assert!(status.message().contains("heard"), "{status}");
    let handle = cluster.any();
    eventually("both tasks run on the lively node", async || {
        let store = handle.local();
        let there = store
            .tasks_of_service(id)
            .filter(|t| t.node_id == Some(lively.node_id()) && t.status.state == TaskState::Running)
            .count();
        (there == 2).then_some(())
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_reconnect_is_not_noticed_and_a_closed_stream_is_down_after_a_period() {
    let cluster = Cluster::new(1).await;
    let identity = cluster.worker().await;
    let addr = cluster.addrs()[0].clone();
    let agent = Agent::connect(&identity, &addr).await.unwrap();
    let since = cluster.wait_node(identity.node_id(), NodeState::Ready).await.status.since;
    drop(agent);
    let agent = Agent::connect(&identity, &addr).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let node = cluster.node(identity.node_id()).await.unwrap();
    assert_eq!(node.status.state, NodeState::Ready);
    assert_eq!(node.status.since, since, "it never went down");
    drop(agent);
    cluster.wait_node(identity.node_id(), NodeState::Down).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_session_wins_here_and_elsewhere() {
    let cluster = Cluster::new(3).await;
    let identity = cluster.worker().await;
    let addrs = cluster.addrs();
    let first = Agent::connect(&identity, &addrs[0]).await.unwrap();
    cluster.wait_node(identity.node_id(), NodeState::Ready).await;
    let second = Agent::connect(&identity, &addrs[0]).await.unwrap();
    let status = first.wait("replaced", |s| s.closed.clone()).await;
    assert!(status.message().contains("newer session"), "{status}");
    let third = Agent::connect(&identity, &addrs[1]).await.unwrap();
    let status = second.wait("replaced by one elsewhere", |s| s.closed.clone()).await;
    assert!(status.message().contains("another manager"), "{status}");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(third.state.lock().unwrap().closed.is_none());
    assert_eq!(cluster.node(identity.node_id()).await.unwrap().status.state, NodeState::Ready);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_is_not_a_failure() {
    let cluster = Cluster::new(1).await;
    let identity = cluster.worker().await;
    let agent = Agent::connect(&identity, &cluster.addrs()[0]).await.unwrap();
    cluster.wait_node(identity.node_id(), NodeState::Ready).await;
    agent.send(ToManager::Goodbye(Goodbye { restarting: false })).await;
    eventually("it left", async || {
        let node = cluster.node(identity.node_id()).await?;
        matches!(node.status.state, NodeState::Disconnected | NodeState::Down).then_some(())
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_dead_manager_are_down_unless_they_turn_up_elsewhere() {
    let mut cluster = Cluster::new(3).await;
    let (moving, lost) = (cluster.worker().await, cluster.worker().await);
    let victim = cluster.follower().await;
    let addr = cluster.members[victim].options.advertise_addr.to_string();
    let agent = Agent::connect(&moving, &addr).await.unwrap();
    let other = Agent::connect(&lost, &addr).await.unwrap();
    cluster.wait_node(moving.node_id(), NodeState::Ready).await;
    cluster.wait_node(lost.node_id(), NodeState::Ready).await;
    cluster.members[victim].kill().await;
    drop((agent, other));
    let elsewhere = cluster.addrs()[0].clone();
    let _agent = Agent::connect(&moving, &elsewhere).await.unwrap();
    let node = cluster.wait_node(lost.node_id(), NodeState::Down).await;
    assert!(node.status.message.contains("manager"), "{}", node.status.message);
    assert_eq!(cluster.node(moving.node_id()).await.unwrap().status.state, NodeState::Ready);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_relayed_from_other_managers_and_partial_results_say_why() {
    use shoal_proto::wire::dispatcher_client::DispatcherClient;
    use shoal_proto::wire::{LogChunk, LogSubscription};

    let cluster = Cluster::new(3).await;
    let (near, far) = (cluster.worker().await, cluster.worker().await);
    let addrs = cluster.addrs();
    let _near = Agent::connect(&near, &addrs[0]).await.unwrap();
    let far_agent = Agent::connect(&far, &addrs[1]).await.unwrap();
    for identity in [&near, &far] {
        cluster.wait_node(identity.node_id(), NodeState::Ready).await;
    }
    let id = create(&cluster, service("web", 2)).await;
    running(&cluster, id, 2).await;
    let store = cluster.any().read().await.unwrap();
    let tasks: Vec<_> = store.tasks_of_service(id).map(|task| task.id).collect();
    let options = LogSubscription { stdout: true, tail: -1, ..LogSubscription::default() };
    let mut logs = cluster.members[0].handle().service_logs(&tasks, &options);
    // The far agent answers; the near one's session ends.
    let subscription = far_agent.wait("asked for logs", |s| s.subscriptions.first().cloned()).await;
    let channel = shoal_kit::tls::connect(&far, &addrs[1], shoal_kit::tls::DialOptions::default()).await.unwrap();
    let chunk = LogChunk {
        subscription_id: subscription.id.clone(),
        task_id: subscription.task_ids[0].clone(),
        stream: 1,
        line: b"hello".to_vec().into(),
        ..LogChunk::default()
    };
    let end = LogChunk { end: true, line: Vec::new().into(), ..chunk.clone() };
    let stream = tokio_stream::iter(vec![chunk, end]);
    DispatcherClient::new(channel).publish_logs(stream).await.unwrap();
    drop(_near);
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    while let Some(chunk) = tokio::time::timeout(Duration::from_secs(10), logs.next()).await.expect("an end") {
        if !chunk.line.is_empty() {
            lines.push(chunk.line);
        }
        if !chunk.error.is_empty() {
            errors.push(chunk.error);
        }
    }
    assert_eq!(lines, [&b"hello"[..]]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_announced_its_restart_has_time_to_return() {
    let cluster = Cluster::new(1).await;
    let identity = cluster.worker().await;
    let addr = cluster.addrs()[0].clone();
    let agent = Agent::connect(&identity, &addr).await.unwrap();
    let since = cluster.wait_node(identity.node_id(), NodeState::Ready).await.status.since;
    agent.send(ToManager::Goodbye(Goodbye { restarting: true })).await;
    agent.wait("the end of the stream", |s| s.closed.clone()).await;
    drop(agent);
    // Three times as long as a node has that was cut off.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = cluster.node(identity.node_id()).await.unwrap().status.clone();
    assert_eq!((status.state, status.restarting), (NodeState::Ready, true));
    let _agent = Agent::connect(&identity, &addr).await.unwrap();
    eventually("it is back", async || {
        let status = cluster.node(identity.node_id()).await?.status.clone();
        (!status.restarting).then_some(status)
    })
    .await;
    assert_eq!(cluster.node(identity.node_id()).await.unwrap().status.since, since, "it never went down");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_have_time_to_return_to_a_manager_that_was_started_again() {
    let mut cluster = Cluster::new(1).await;
    let identity = cluster.worker().await;
    let addr = cluster.addrs()[0].clone();
    let agent = Agent::connect(&identity, &addr).await.unwrap();
    let since = cluster.wait_node(identity.node_id(), NodeState::Ready).await.status.since;
    cluster.members[0].kill().await;
    drop(agent);
    cluster.members[0].start().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let node = cluster.node(identity.node_id()).await.unwrap();
    assert_eq!((node.status.state, node.status.since), (NodeState::Ready, since));
    let _agent = Agent::connect(&identity, &addr).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_without_a_leader_holds_no_sessions_and_judges_nobody() {
    let mut cluster = Cluster::new(3).await;
    let identity = cluster.worker().await;
    let left = cluster.follower().await;
    let addr = cluster.members[left].options.advertise_addr.to_string();
    let agent = Agent::connect(&identity, &addr).await.unwrap();
    let since = cluster.wait_node(identity.node_id(), NodeState::Ready).await.status.since;
    for index in (0..3).filter(|index| *index != left) {
        cluster.members[index].kill().await;
    }
    let status = agent.wait("sent elsewhere", |s| s.closed.clone()).await;
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    drop(agent);
    let refused = Agent::connect(&identity, &addr).await.err().expect("refused");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    for index in (0..3).filter(|index| *index != left) {
        cluster.members[index].start().await;
    }
    let handle = cluster.members[left].handle();
    eventually("there is a leader again", async || handle.read().await.ok().map(|_| ())).await;
    let _agent = eventually("a new session", async || Agent::connect(&identity, &addr).await.ok()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = cluster.node(identity.node_id()).await.unwrap().status.clone();
    assert_eq!((status.state, status.since), (NodeState::Ready, since), "it never went down");
    cluster.shutdown().await;
}
