//! Many agents on one manager. Slow in debug builds: run with `--release -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::Duration;

use shoal_kit::identity::NodeIdentity;
use shoal_proto::object::NodeState;
use shoal_proto::spec::{ClusterSpec, NodeRole};
use shoal_proto::task_state::TaskState;
use tokio::time::Instant;

use crate::agents::{create, service};
use crate::harness::{Agent, Cluster, clock, eventually, join_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: 1,000 agents and 10,000 tasks"]
async fn a_thousand_agents_and_ten_thousand_tasks() {
    // Smaller in a debug build: SHOAL_SCALE=200,2000.
    let sizes = std::env::var("SHOAL_SCALE").unwrap_or_else(|_| "1000,10000".to_owned());
    let (nodes, tasks) = sizes.split_once(',').unwrap();
    let (nodes, tasks): (usize, usize) = (nodes.parse().unwrap(), tasks.parse().unwrap());
    let cluster = Cluster::with_spec(1, ClusterSpec::default()).await;
    let (token, addrs) = (cluster.token(NodeRole::Worker).await, cluster.addrs());
    let began = Instant::now();
    let mut joining = tokio::task::JoinSet::new();
    for _ in 0..nodes {
        let (token, addrs) = (token.clone(), addrs.clone());
        joining.spawn(async move {
            let issued = join_with(&token, addrs.clone()).await.unwrap();
            let identity = Arc::new(NodeIdentity::in_memory(clock(), issued.material).unwrap());
            Agent::connect_with(&identity, &addrs[0], Duration::from_secs(1)).await.unwrap()
        });
    }
    let agents = joining.join_all().await;
    println!("{nodes} joins and sessions: {:?}", began.elapsed());
    let handle = cluster.any();
    eventually("all are ready", async || {
        let ready = handle.local().nodes().filter(|node| node.status.state == NodeState::Ready).count();
        (ready == nodes).then_some(())
    })
    .await;
    println!("{nodes} agents ready: {:?}", began.elapsed());
    let began = Instant::now();
    let id = create(&cluster, service("web", tasks as u64)).await;
    println!("service created: {:?}", began.elapsed());
    let mut assigned = false;
    eventually("10,000 run", async || {
        let store = handle.local();
        if !assigned && store.tasks_of_service(id).filter(|task| task.node_id.is_some()).count() == tasks {
            assigned = true;
            println!("{tasks} assigned: {:?}", began.elapsed());
        }
        let running = store.tasks_of_service(id).filter(|task| task.status.state == TaskState::Running).count();
        (running == tasks).then_some(())
    })
    .await;
    println!("{tasks} tasks running: {:?}", began.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    drop(agents);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: latency of a change"]
async fn a_new_service_reaches_its_agent_within_milliseconds() {
    let cluster = Cluster::with_spec(1, ClusterSpec::default()).await;
    let identity = cluster.worker().await;
    let mut agent = Agent::connect(&identity, &cluster.addrs()[0]).await.unwrap();
    cluster.wait_node(identity.node_id(), NodeState::Ready).await;
    let mut times = Vec::new();
    for number in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        create(&cluster, service(&format!("web-{number}"), 1)).await;
        loop {
            agent.changed.borrow_and_update();
            if agent.state.lock().unwrap().tasks().len() > number {
                break;
            }
            agent.changed.changed().await.unwrap();
        }
        times.push(began.elapsed());
    }
    times.sort();
    println!("create to assignment: p50 {:?}, p90 {:?}, max {:?}", times[25], times[45], times[49]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: latency of a commit"]
async fn a_commit_costs_little_more_than_a_sync() {
    let cluster = Cluster::with_spec(1, ClusterSpec::default()).await;
    let handle = cluster.any();
    let mut commits = Vec::new();
    for number in 0..300 {
        let began = Instant::now();
        crate::harness::write(&handle, &format!("secret-{number}")).await.unwrap();
        commits.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let path = cluster.folder.path().join("sync");
    let syncs = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(path).unwrap();
        file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let mut times = Vec::new();
        for number in 0..300u64 {
            let began = Instant::now();
            file.write_all_at(&[7; 4096], (number % 200) * 4096).unwrap();
            file.sync_data().unwrap();
            times.push(began.elapsed());
        }
        times
    });
    let mut syncs = syncs.await.unwrap();
    commits.sort();
    syncs.sort();
    println!(
        "commit p50 {:?} p99 {:?}; fdatasync p50 {:?} p99 {:?}",
        commits[150], commits[297], syncs[150], syncs[297]
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: time to the next write after a leader's death"]
async fn twenty_leaders_die() {
    for size in [3, 5] {
        let mut cluster = Cluster::new(size).await;
        let mut times = Vec::new();
        for round in 0..20 {
            let leader = cluster.leader().await;
            let survivor = cluster.members[cluster.follower().await].handle();
            // Under a stream of writes, each of which must be there afterwards.
            let writer = tokio::spawn({
                let handle = survivor.clone();
                async move {
                    let mut acknowledged = Vec::new();
                    for number in 0.. {
                        let name = format!("stream-{round}-{number}");
                        let began = Instant::now();
                        crate::harness::write(&handle, &name).await.unwrap();
                        acknowledged.push((name, began.elapsed()));
                        if number > 20 && acknowledged.iter().any(|(_, took)| *took > Duration::from_millis(300)) {
                            break;
                        }
                    }
                    acknowledged
                }
            });
            tokio::time::sleep(Duration::from_millis(200)).await;
            cluster.members[leader].kill().await;
            let acknowledged = writer.await.unwrap();
            times.extend(acknowledged.iter().map(|(_, took)| *took).max());
            let store = survivor.read().await.unwrap();
            for (name, _) in &acknowledged {
                assert!(crate::harness::has_secret(&store, name), "{name} was acknowledged and is lost");
            }
            cluster.members[leader].start().await;
        }
        times.sort();
        println!("{size} managers, 20 kills: p50 {:?}, worst {:?}", times[10], times[19]);
        cluster.shutdown().await;
    }
}
