//! How fast `run --rm` is.

use shoal_engine::container::{AttachOptions, WaitCondition};
use shoal_engine::model::HostConfig;

use super::checks::read_all;
use super::harness::Host;

pub(crate) async fn run_and_remove(host: Host) -> Host {
    for mode in ["none", "bridge"] {
        let mut times = Vec::new();
        for round in 0..60 {
            let options = HostConfig { auto_remove: true, network_mode: mode.to_owned(), ..HostConfig::default() };
            let started = tokio::time::Instant::now();
            let id = host.create("", &["true"], options).await;
            let containers = host.engine.containers();
            let attach = AttachOptions { stdout: true, stderr: true, stream: true, ..AttachOptions::default() };
            let streams = containers.attach(&id, attach).await.unwrap();
            let removed = containers.begin_wait(&id, WaitCondition::Removed).unwrap();
            containers.start(&id).await.unwrap();
            let (_, response) = tokio::join!(read_all(streams.output), removed);
            assert_eq!(response.status_code, 0);
            if round >= 10 {
                times.push(started.elapsed().as_micros());
            }
        }
        times.sort_unstable();
        let at = |share: usize| times[times.len() * share / 100];
        println!("    run --rm, network {mode}: p50 {} us, p90 {} us, p99 {} us", at(50), at(90), at(99));
    }
    host
}
