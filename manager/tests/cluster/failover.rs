//! Leaders and followers that die, come back, and lag behind.

use std::time::Duration;

use shoal_proto::error::ErrorKind;
use shoal_proto::spec::RaftSpec;
use tokio::time::Instant;

use crate::harness::{Cluster, eventually, has_secret, test_spec, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_manager_remembers_over_a_restart() {
    let mut cluster = Cluster::new(1).await;
    write(&cluster.any(), "kept").await.unwrap();
    let before = cluster.any().read().await.unwrap();
    let handle = cluster.any();
    cluster.members[0].stop().await;
    let refused = handle.read().await.unwrap_err();
    assert!(refused.message.contains("not a swarm manager any more"), "{refused}");
    cluster.members[0].start().await;
    let after = cluster.any().read().await.unwrap();
    assert!(has_secret(&after, "kept"));
    assert_eq!(after.cluster().unwrap().id, before.cluster().unwrap().id);
    assert_eq!(after.nodes().len(), 1);
    write(&cluster.any(), "more").await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_manager_takes_writes_and_shows_them_at_once() {
    let cluster = Cluster::new(3).await;
    for (number, member) in cluster.members.iter().enumerate() {
        write(&member.handle(), &format!("by-{number}")).await.unwrap();
        for reader in &cluster.members {
            assert!(has_secret(&reader.handle().read().await.unwrap(), &format!("by-{number}")));
        }
    }
    let clash = write(&cluster.members[cluster.follower().await].handle(), "by-0").await.unwrap_err();
    assert_eq!(clash.kind, ErrorKind::Conflict, "{clash}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::new(3).await;
    let mut slowest = Duration::ZERO;
    for round in 0..3 {
        let leader = cluster.leader().await;
        write(&cluster.any(), &format!("before-{round}")).await.unwrap();
        let survivor = cluster.members[cluster.follower().await].handle();
        cluster.members[leader].kill().await;
        let killed = Instant::now();
        write(&survivor, &format!("after-{round}")).await.unwrap();
        slowest = slowest.max(killed.elapsed());
        let store = survivor.read().await.unwrap();
        for past in 0..=round {
            assert!(has_secret(&store, &format!("before-{past}")) && has_secret(&store, &format!("after-{past}")));
        }
        cluster.members[leader].start().await;
    }
    println!("slowest write after a kill: {slowest:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_managers_live_with_two_dead_and_say_so_with_three() {
    live_with_a_minority_dead(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_managers_live_with_three_dead_and_say_so_with_four() {
    live_with_a_minority_dead(7).await;
}

async fn live_with_a_minority_dead(managers: usize) {
    let mut cluster = Cluster::new(managers).await;
    let mut dead = Vec::new();
    for _ in 0..managers / 2 {
        let leader = cluster.leader().await;
        cluster.members[leader].kill().await;
        dead.push(leader);
    }
    write(&cluster.any(), "by-a-majority").await.unwrap();
    let last = cluster.follower().await;
    cluster.members[last].kill().await;
    dead.push(last);
    let failure = write(&cluster.any(), "by-a-minority").await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    assert!(failure.message.contains("more than half of the managers are online"), "{failure}");
    for index in dead {
        cluster.members[index].start().await;
    }
    eventually("writes work again", async || write(&cluster.any(), "healed").await.ok()).await;
    for member in &cluster.members {
        let store = member.handle().read().await.unwrap();
        assert!(has_secret(&store, "by-a-majority") && has_secret(&store, "healed"));
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_away_catches_up_by_log() {
    let mut cluster = Cluster::new(3).await;
    let away = cluster.follower().await;
    cluster.members[away].kill().await;
    for number in 0..20 {
        write(&cluster.any(), &format!("missed-{number}")).await.unwrap();
    }
    cluster.members[away].start().await;
    let handle = cluster.members[away].handle();
    assert!(has_secret(&handle.read().await.unwrap(), "missed-19"));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_away_too_long_catches_up_by_snapshot() {
    let raft = RaftSpec { snapshot_interval: 100, log_entries_for_slow_followers: 10, ..RaftSpec::default() };
    let spec = shoal_proto::spec::ClusterSpec { raft, ..test_spec() };
    let mut cluster = Cluster::with_spec(3, spec).await;
    let away = cluster.follower().await;
    cluster.members[away].kill().await;
    let handle = cluster.any();
    let mut written = 0;
    let folder = |index: usize| cluster.members[index].root.join("cluster/raft/snapshots");
    let leader = cluster.leader().await;
    let snapshot = |index: usize| {
        let name = std::fs::read_dir(folder(index)).ok()?.filter_map(Result::ok).map(|e| e.file_name()).max()?;
        name.into_string().ok()?.get(21..41)?.parse::<u64>().ok()
    };
    // Until a snapshot covers everything the other one has, and the log before it had time to go.
    while written < 450 {
        write(&handle, &format!("missed-{written}")).await.unwrap();
        written += 1;
        if written % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(1200)).await;
        }
    }
    assert!(snapshot(leader).unwrap() > 300, "{:?}", snapshot(leader));
    cluster.members[away].start().await;
    let away_handle = cluster.members[away].handle();
    let store = away_handle.read().await.unwrap();
    for number in 0..written {
        assert!(has_secret(&store, &format!("missed-{number}")));
    }
    let installed = std::fs::read_dir(cluster.members[away].root.join("cluster/raft/snapshots")).unwrap();
    let largest = installed.filter_map(Result::ok).map(|e| e.file_name().into_string().unwrap()).max().unwrap();
    assert!(largest[21..41].parse::<u64>().unwrap() > 300, "it was not a snapshot that helped: {largest}");
    // And it survives a restart of its own.
    cluster.members[away].kill().await;
    cluster.members[away].start().await;
    assert!(has_secret(&cluster.members[away].handle().read().await.unwrap(), "missed-449"));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_killed_at_once_come_back_as_they_were() {
    let mut cluster = Cluster::new(3).await;
    for number in 0..10 {
        write(&cluster.any(), &format!("kept-{number}")).await.unwrap();
    }
    for member in &mut cluster.members {
        member.kill().await;
    }
    for index in 0..3 {
        cluster.members[index].start().await;
    }
    for member in &cluster.members {
        assert!(has_secret(&member.handle().read().await.unwrap(), "kept-9"));
    }
    write(&cluster.any(), "after").await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_every_change_in_order_and_resumes() {
    use shoal_manager::Watched;
    use shoal_manager_core::change::Object;

    let cluster = Cluster::new(3).await;
    let follower = cluster.members[cluster.follower().await].handle();
    let mut watch = follower.watch(follower.local().version());
    let mut seen = Vec::new();
    for round in 0..2 {
        for number in 0..10 {
            write(&cluster.any(), &format!("secret-{round}-{number}")).await.unwrap();
        }
        while seen.len() < 10 * (round + 1) {
            let (watched, store) = watch.next().await.expect("the manager lives");
            let Watched::Events(events) = watched else { panic!("nothing was missed") };
            for event in events {
                if let Some(Object::Secret(secret)) = &event.after {
                    assert!(has_secret(&store, &secret.spec.name));
                    seen.push(secret.spec.name.clone());
                }
            }
        }
        // Another watch goes on where the first one stopped.
        watch = follower.watch(watch.version());
    }
    let expected: Vec<_> = (0..2).flat_map(|r| (0..10).map(move |n| format!("secret-{r}-{n}"))).collect();
    assert_eq!(seen, expected);
    cluster.shutdown().await;
}
