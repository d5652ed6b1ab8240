//! `shoal daemon`: one node. Wires engine, agent, manager and HTTP API together; they meet nowhere else.

mod address;
mod container_spec;
mod dump;
mod executor;
mod files;
mod log;
mod member;
mod metrics;
mod node;
mod options;
mod places;
mod reload;
mod signals;
mod sockets;
mod template;
mod tls;

pub(crate) use options::{AS_DOCKERD, DaemonOptions};

use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use shoal_api::Dump;
use shoal_engine::{Engine, EngineOptions};
use shoal_kit::clock::SystemClock;
use shoal_kit::entropy::Entropy;
use tokio_util::sync::CancellationToken;

use files::{FolderLock, PidFile};
use node::{Node, NodeOptions};
use options::Settings;
use reload::Reloader;
use signals::Signals;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs a node until it is told to stop by SIGTERM or SIGINT. Containers go on running after that, unless `--live-restore=false`
/// says otherwise.
///
/// # Errors
/// When an option is wrong, or a part of the node cannot be started; nothing is left running then.
pub(crate) async fn run(given: DaemonOptions) -> anyhow::Result<()> {
    if given.version {
        println!("Shoal version {VERSION}");
        return Ok(());
    }
    let options = options::settle(&given)?;
    if given.validate {
        Engine::check(&options.settings.engine).context("cannot open the engine")?;
        sockets::check(&options.settings)?;
        println!("configuration OK");
        return Ok(());
    }
    let settings = options.settings.clone();
    let log_level = log::init(&settings)?;
    for (key, why) in options.idle() {
        tracing::debug!(key, why, "this directive is accepted and changes nothing");
    }
    let signals = Signals::listen().context("cannot listen for signals")?;
    if let Some(score) = settings.oom_score_adjust {
        std::fs::write("/proc/self/oom_score_adj", score.to_string()).context("cannot set oom_score_adj")?;
    }
    // First: this waits for a daemon that was killed a moment ago, whose process the pidfile still names.
    let _data = FolderLock::take(&settings.engine.data_root).await?;
    let _state = FolderLock::take(&settings.engine.exec_root).await?;
    let _pidfile = PidFile::write(&settings.pidfile)?;
    if given.teardown {
        return tear_down(&settings).await;
    }
    let metrics = match settings.metrics_addr {
        Some(addr) => Some(metrics::bind(addr).await?),
        None => None,
    };
    let listeners = sockets::bind(&settings).await?;
    let shutdown = CancellationToken::new();
    let engine = Engine::open(settings.engine.clone()).await.context("cannot open the engine")?;
    let facts = Arc::new(ArcSwap::from_pointee(reload::facts(&settings)));
    let describe: Dump = {
        let (engine, runtime) = (engine.clone(), tokio::runtime::Handle::current());
        Arc::new(move || dump::describe(&engine, &runtime))
    };
    let reloader = Arc::new(Reloader::new(options, engine.clone(), Arc::clone(&facts), log_level));
    let reload = reloader.on_thread().context("cannot start a thread")?;
    let folder = engine.options().exec_root.clone();
    let signals = tokio::spawn(signals.obey(shutdown.clone(), reload, Arc::clone(&describe), folder));
    if let Some(listener) = metrics {
        tokio::spawn(metrics::serve(listener, engine.clone(), shutdown.clone()));
    }
    let node = Node::open(node_options(&settings, &engine)).await;
    let api = shoal_api::serve(shoal_api::ApiOptions {
        engine: engine.clone(),
        node: Arc::new(node.clone()),
        listeners,
        shutdown: shutdown.clone(),
        version: shoal_api::VersionInfo {
            version: VERSION.to_owned(),
            git_commit: env!("SHOAL_GIT_COMMIT").to_owned(),
            build_time: build_time(env!("SHOAL_BUILD_TIME")).unwrap_or_default(),
        },
        facts,
        dump: describe,
        entropy: Entropy::from_system(),
    });
    tracing::info!(version = VERSION, pid = std::process::id(), "ready");
    sockets::notify_ready();
    api.await;
    stop(&node, &engine, &reloader.settings()).await;
    signals.abort();
    Ok(())
}

/// The end of a daemon's life on this machine, but for its data.
async fn tear_down(settings: &Settings) -> anyhow::Result<()> {
    let options = EngineOptions { starts_containers: false, joins_cluster: false, ..settings.engine.clone() };
    let engine = Engine::open(options).await.context("cannot open the engine")?;
    let torn_down = engine.tear_down(settings.shutdown_timeout).await;
    engine.shutdown().await;
    torn_down.context("something is left")
}

fn node_options(settings: &Settings, engine: &Engine) -> NodeOptions {
    NodeOptions {
        data_dir: settings.engine.data_root.join("cluster"),
        default_advertise_addr: settings.default_advertise_addr.clone(),
        engine: engine.clone(),
        clock: Arc::new(SystemClock),
        entropy: Entropy::from_system(),
    }
}

async fn stop(node: &Node, engine: &Engine, settings: &Settings) {
    if settings.engine.live_restore {
        tracing::info!("stopping; containers go on running");
    } else {
        tracing::info!("stopping, and all containers with it");
    }
    node.stop().await;
    if !settings.engine.live_restore {
        engine.stop_containers(settings.shutdown_timeout).await;
    }
    engine.shutdown().await;
}

/// When this program was built, as dockerd shows it. `seconds` are those since 1970.
fn build_time(seconds: &str) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds.parse().ok().filter(|seconds| *seconds > 0)?).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%S.000000000+00:00").to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_of_the_build_is_shown_as_dockerd_does() {
        assert_eq!(super::build_time("1700000000").as_deref(), Some("2023-11-14T22:13:20.000000000+00:00"));
        assert_eq!((super::build_time(""), super::build_time("0")), (None, None));
        assert!(env!("SHOAL_GIT_COMMIT").len() <= 7);
    }
}
