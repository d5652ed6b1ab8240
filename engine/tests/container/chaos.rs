//! The daemon is killed while it works, again and again: nothing is lost, nothing is left.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use futures::StreamExt;
use shoal_engine::Engine;
use shoal_engine::container::{ListOptions, LogOptions, RemoveOptions, StopOptions};
use shoal_engine::model::HostConfig;

use super::harness::{Host, options, request};

const ROUNDS: u64 = 25;
const KEEPERS: usize = 5;

/// A daemon of its own process: works on short-lived containers until it is killed.
pub(crate) fn daemon(arguments: &[OsString]) -> ExitCode {
    let [folder, cgroup, round] = arguments else { return ExitCode::FAILURE };
    let round: usize = round.to_str().and_then(|round| round.parse().ok()).expect("a number");
    let options = options(Path::new(folder), cgroup.to_string_lossy().into_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let engine = Engine::open(options).await.expect("the engine opens");
        futures::future::join_all((0..4).map(|worker| work(engine.clone(), round * 4 + worker))).await;
    });
    ExitCode::SUCCESS
}

async fn work(engine: Engine, mut seed: usize) {
    let containers = engine.containers();
    loop {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let host = HostConfig {
            auto_remove: seed & 0x100 != 0,
            network_mode: if seed & 0x200 != 0 { "bridge" } else { "none" }.to_owned(),
            binds: (seed & 0x400 != 0).then(|| vec!["shared:/shared".to_owned()]),
            ..HostConfig::default()
        };
        let command: &[&str] = if seed & 0x800 != 0 { &["sleep", "100"] } else { &["true"] };
        let Ok(made) = containers.create(None, request(command, host)).await else { continue };
        // Each step may meet a container that is gone already.
        let _met = containers.start(&made.id).await;
        if seed & 0x1000 != 0 {
            let _met = containers.stop(&made.id, StopOptions { signal: None, timeout_s: Some(0) }).await;
        }
        if seed & 0x2000 != 0 {
            let _met = containers.remove(&made.id, RemoveOptions { force: true, ..RemoveOptions::default() }).await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a daemon of its own, to be killed")]
fn spawn(host: &Host, round: u64) -> std::process::Child {
    Command::new(std::env::current_exe().expect("this program"))
        .arg("daemon")
        .arg(host.folder.path())
        .arg(&host.options.cgroup_parent)
        .arg(round.to_string())
        .stdin(Stdio::null())
        .spawn()
        .expect("a daemon")
}

pub(crate) async fn killed_again_and_again(mut host: Host) -> Host {
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    let mut keepers = BTreeMap::new();
    for number in 0..KEEPERS {
        let bridge = HostConfig { network_mode: "bridge".to_owned(), ..HostConfig::default() };
        let id = host.create(&format!("keeper-{number}"), &["sh", "-c", script], bridge).await;
        host.engine.containers().start(&id).await.unwrap();
        let inspected = host.inspect(&id).await;
        keepers.insert(id, (inspected.state.pid, inspected.network_settings.ip_address));
    }
    host.engine.shutdown().await;
    for round in 0..ROUNDS {
        let mut daemon = spawn(&host, round);
        tokio::time::sleep(Duration::from_millis(60 + round * 37 % 300)).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    host.engine = Engine::open(host.options.clone()).await.unwrap();
    for (id, (pid, address)) in &keepers {
        let inspected = host.inspect(id).await;
        assert_eq!((inspected.state.status.as_str(), inspected.state.pid), ("running", *pid));
        assert_eq!(inspected.network_settings.ip_address, *address);
        let lines: Vec<_> = host.engine.containers().logs(id, LogOptions::default()).await.unwrap().collect().await;
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(line.as_ref().unwrap().data, format!("{number}\n"), "a gap in the log");
        }
    }
    let all = ListOptions { all: true, ..ListOptions::default() };
    let listed = host.engine.containers().list(all).await.unwrap();
    println!("    {} containers after {ROUNDS} kills", listed.len());
    for container in listed {
        let state = host.inspect(&container.id).await.state;
        let alive = state.pid > 0 && Path::new(&format!("/proc/{}", state.pid)).exists();
        assert_eq!(alive, state.status == "running", "{} {state:?}", container.id);
    }
    host
}
