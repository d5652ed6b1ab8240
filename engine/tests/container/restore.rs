//! The daemon goes and comes; containers stay.

use shoal_engine::Engine;
use shoal_engine::container::{LogOptions, StopOptions, WaitCondition};
use shoal_engine::model::{ExecCreate, ExecStart, HostConfig, RestartPolicy};
use shoal_engine::shim::config::ExitRecord;
use shoal_proto::error::ErrorKind;

use futures::StreamExt;

use super::checks::read_all;
use super::harness::Host;

pub(crate) async fn running_containers_survive(host: Host) -> Host {
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done";
    let bridge = HostConfig { network_mode: "bridge".to_owned(), ..HostConfig::default() };
    let id = host.create("survivor", &["sh", "-c", script], bridge).await;
    host.engine.containers().start(&id).await.unwrap();
    let paused = host.start("frozen", &["sleep", "100"]).await;
    host.engine.containers().pause(&paused).await.unwrap();
    let before = host.inspect(&id).await;
    let host = host.reopen().await;
    let after = host.inspect(&id).await;
    assert_eq!((after.state.pid, after.state.status.as_str()), (before.state.pid, "running"));
    assert_eq!(after.state.started_at, before.state.started_at);
    assert_eq!(after.network_settings.ip_address, before.network_settings.ip_address);
    assert_eq!(host.status(&paused).await, "paused");
    let command = ExecCreate { cmd: Some(vec!["hostname".to_owned()]), attach_stdout: true, ..ExecCreate::default() };
    let containers = host.engine.containers();
    let exec = containers.exec_create(&id, command).await.unwrap();
    let streams = containers.exec_start(&exec, ExecStart::default()).await.unwrap().unwrap();
    assert_eq!(read_all(streams.output).await, format!("{}\n", &id[..12]));
    while containers.logs(&id, LogOptions::default()).await.unwrap().collect::<Vec<_>>().await.len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let waiting = containers.begin_wait(&id, WaitCondition::NotRunning).unwrap();
    containers.stop(&id, StopOptions { signal: Some("KILL".to_owned()), timeout_s: None }).await.unwrap();
    assert_eq!(waiting.await.status_code, 137);
    // No line of the log is missing.
    let lines: Vec<_> = containers.logs(&id, LogOptions::default()).await.unwrap().collect().await;
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line.as_ref().unwrap().data, format!("{number}\n"));
    }
    containers.unpause(&paused).await.unwrap();
    host
}

pub(crate) async fn ends_while_away_are_known(mut host: Host) -> Host {
    let id = host.start("brief", &["sh", "-c", "sleep 0.3; exit 6"]).await;
    let auto = HostConfig { auto_remove: true, ..HostConfig::default() };
    let auto = host.create("auto", &["sleep", "0.3"], auto).await;
    host.engine.containers().start(&auto).await.unwrap();
    host.engine.shutdown().await;
    let exit = host.options.exec_root.join("shim").join(&id).join("exit.json");
    host.until("the shim wrote how it ended", async || exit.exists()).await;
    host.engine = Engine::open(host.options.clone()).await.unwrap();
    host.until_status(&id, "exited").await;
    assert_eq!(host.inspect(&id).await.state.exit_code, 6);
    host.until("the other is removed", async || host.engine.containers().inspect(&auto, false).await.is_err()).await;
    host
}

/// As when the disk is full.
pub(crate) async fn an_end_that_cannot_be_recorded_is_not_lost(mut host: Host) -> Host {
    let id = host.start("brief", &["sh", "-c", "sleep 0.5; exit 6"]).await;
    let record = host.options.data_root.join("containers").join(&id).join("config.json");
    let aside = record.with_extension("aside");
    std::fs::rename(&record, &aside).unwrap();
    std::fs::create_dir(&record).unwrap();
    host.until_status(&id, "exited").await;
    assert_eq!(host.inspect(&id).await.state.exit_code, 6);
    host.engine.shutdown().await;
    std::fs::remove_dir(&record).unwrap();
    std::fs::rename(&aside, &record).unwrap();
    host.engine = Engine::open(host.options.clone()).await.unwrap();
    host.until_status(&id, "exited").await;
    assert_eq!(host.inspect(&id).await.state.exit_code, 6);
    // What was kept for that is not in the way of the next start.
    host.engine.containers().start(&id).await.unwrap();
    host.until_status(&id, "exited").await;
    host
}

pub(crate) async fn half_made_containers_are_removed(mut host: Host) -> Host {
    let kept = host.create("kept", &["true"], HostConfig::default()).await;
    let id = host.create("half", &["true"], HostConfig::default()).await;
    host.engine.shutdown().await;
    let folder = host.options.data_root.join("containers").join(&id);
    std::fs::remove_file(folder.join("config.json")).unwrap();
    let stray = host.options.exec_root.join("shim").join("5".repeat(64));
    std::fs::create_dir(&stray).unwrap();
    host.engine = Engine::open(host.options.clone()).await.unwrap();
    assert!(!folder.exists() && !stray.exists());
    assert!(host.engine.containers().inspect(&id, false).await.is_err());
    host.engine.containers().start(&kept).await.unwrap();
    host
}

pub(crate) async fn policies_survive(host: Host) -> Host {
    let policy = |name: &str| HostConfig {
        restart_policy: RestartPolicy { name: name.to_owned(), maximum_retry_count: 0 },
        ..HostConfig::default()
    };
    let always = host.create("always", &["sleep", "100"], policy("always")).await;
    let unless = host.create("unless", &["sleep", "100"], policy("unless-stopped")).await;
    let failing = host.create("failing", &["sh", "-c", "exit 1"], policy("on-failure")).await;
    let containers = host.engine.containers();
    for id in [&always, &unless, &failing] {
        containers.start(id).await.unwrap();
    }
    for id in [&always, &unless] {
        containers.kill(id, None).await.unwrap();
    }
    host.until("it failed some times", async || host.inspect(&failing).await.restart_count >= 2).await;
    let count = host.inspect(&failing).await.restart_count;
    let host = host.reopen().await;
    host.until_status(&always, "running").await;
    assert_eq!(host.status(&unless).await, "exited");
    host.until("it goes on to fail", async || host.inspect(&failing).await.restart_count > count).await;
    host
}

pub(crate) async fn a_second_engine_is_refused(host: Host) -> Host {
    let failure = Engine::open(host.options.clone()).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Conflict);
    assert!(failure.message.contains("another engine uses"), "{failure}");
    host
}

pub(crate) async fn a_lost_shim_is_noticed(host: Host) -> Host {
    let id = host.start("orphaned", &["sleep", "100"]).await;
    let init = host.inspect(&id).await.state.pid;
    let shim = shim_of(&host, &id);
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    host.until_status(&id, "exited").await;
    assert_eq!(host.inspect(&id).await.state.exit_code, 255);
    host.until("its process is gone", async || !std::path::Path::new(&format!("/proc/{init}")).exists()).await;
    host
}

fn shim_of(host: &Host, id: &str) -> rustix::process::Pid {
    let file = host.options.exec_root.join("shim").join(id).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let shim = state["shim_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap();
    rustix::process::Pid::from_raw(shim).unwrap()
}

pub(crate) async fn a_shim_that_does_not_answer_is_waited_for(host: Host) -> Host {
    use rustix::process::{Signal, kill_process};
    let id = host.start("hung", &["sleep", "100"]).await;
    let before = host.inspect(&id).await.state.pid;
    let shim = shim_of(&host, &id);
    kill_process(shim, Signal::STOP).unwrap();
    let host = tokio::time::timeout(std::time::Duration::from_secs(20), host.reopen()).await.unwrap();
    assert_eq!((host.status(&id).await.as_str(), host.inspect(&id).await.state.pid), ("running", before));
    kill_process(shim, Signal::CONT).unwrap();
    let containers = host.engine.containers();
    host.until("it is taken over and can be killed", async || {
        let _not_yet = containers.kill(&id, None).await;
        host.status(&id).await == "exited"
    })
    .await;
    assert_eq!(host.inspect(&id).await.state.exit_code, 137);
    host
}

/// What a daemon leaves that dies between the record of an end and the removal of the shim's folder.
pub(crate) async fn a_stopped_container_stays_stopped(mut host: Host) -> Host {
    let policy = RestartPolicy { name: "unless-stopped".to_owned(), maximum_retry_count: 0 };
    let wanted = HostConfig { restart_policy: policy, ..HostConfig::default() };
    let id = host.create("stopped", &["sleep", "100"], wanted).await;
    host.engine.containers().start(&id).await.unwrap();
    host.engine.containers().kill(&id, None).await.unwrap();
    host.engine.shutdown().await;
    let record = std::fs::read(host.options.data_root.join("containers").join(&id).join("config.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let finished_at = serde_json::from_value(record["state"]["finished_at"].clone()).unwrap();
    let exit = ExitRecord { code: 137, signal: Some(9), oom_killed: false, finished_at, error: None };
    let folder = host.options.exec_root.join("shim").join(&id);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("exit.json"), serde_json::to_vec(&exit).unwrap()).unwrap();
    host.engine = Engine::open(host.options.clone()).await.unwrap();
    assert_eq!(host.status(&id).await, "exited");
    assert!(!folder.exists());
    host
}

pub(crate) async fn a_removal_that_was_begun_is_finished(mut host: Host) -> Host {
    let id = host.create("leaving", &["true"], HostConfig::default()).await;
    host.engine.shutdown().await;
    let file = host.options.data_root.join("containers").join(&id).join("config.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    record["state"]["phase"] = "removing".into();
    std::fs::write(&file, serde_json::to_vec(&record).unwrap()).unwrap();
    host.engine = Engine::open(host.options.clone()).await.unwrap();
    host.until("it is gone", async || host.engine.containers().inspect(&id, false).await.is_err()).await;
    host
}
