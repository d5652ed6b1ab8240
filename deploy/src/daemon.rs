//! `shoal daemon`: one node. Wires engine, agent, manager and HTTP API together; they meet nowhere else.

mod address;
mod container_spec;
mod executor;
mod files;
mod member;
mod node;
mod options;
mod places;
mod sockets;
mod template;
mod tls;

pub(crate) use options::DaemonOptions;

use std::sync::Arc;

use anyhow::Context;
use shoal_engine::{Engine, EngineOptions};
use shoal_kit::clock::SystemClock;
use shoal_kit::entropy::Entropy;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use files::{DataLock, PidFile};
use node::{Node, NodeOptions};
use options::Settings;

/// Runs a node until it is told to stop by SIGTERM or SIGINT. Containers go on running after that.
///
/// # Errors
/// When an option is wrong, or a part of the node cannot be started; nothing is left running then.
pub(crate) async fn run(options: DaemonOptions) -> anyhow::Result<()> {
    let validate = options.validate;
    let settings = options::settle(options)?;
    if validate {
        println!("configuration OK");
        return Ok(());
    }
    init_log(&settings)?;
    let _lock = DataLock::take(&settings.data_root).await?;
    let _pidfile = PidFile::write(&settings.pidfile)?;
    let listeners = sockets::bind(&settings.listen, settings.tls.as_ref()).await?;
    let shutdown = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signals(shutdown.clone()));

    let engine = Engine::open(engine_options(&settings)).await.context("cannot open the engine")?;
    let node = Node::open(NodeOptions {
        data_dir: settings.data_root.join("cluster"),
        default_advertise_addr: settings.default_advertise_addr.clone(),
        engine: engine.clone(),
        clock: Arc::new(SystemClock),
        entropy: Entropy::from_system(),
    })
    .await;
    let api = shoal_api::serve(shoal_api::ApiOptions {
        engine: engine.clone(),
        node: Arc::new(node.clone()),
        listeners,
        shutdown: shutdown.clone(),
        version: shoal_api::VersionInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..shoal_api::VersionInfo::default()
        },
        debug: settings.debug,
        entropy: Entropy::from_system(),
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "ready");
    sockets::notify_ready();
    api.await;
    tracing::info!("stopping; containers go on running");
    node.stop().await;
    engine.shutdown().await;
    signals.abort();
    Ok(())
}

fn init_log(settings: &Settings) -> anyhow::Result<()> {
    let level = &settings.log_level;
    // The libraries' own chatter is of interest only when it is asked for by name.
    let default =
        format!("{level},openraft=warn,h2=warn,hyper=warn,tonic=warn,tower=warn,rustls=warn,libcontainer=warn");
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHOAL_LOG")
        .or_else(|_| tracing_subscriber::EnvFilter::try_new(default))
        .context("log filter")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot set up the log: {error}"))
}

fn engine_options(settings: &Settings) -> EngineOptions {
    let mut options = EngineOptions {
        data_root: settings.data_root.clone(),
        exec_root: settings.exec_root.clone(),
        cgroup_parent: settings.cgroup_parent.clone(),
        labels: settings.labels.clone(),
        runtimes: settings.runtimes.clone(),
        debug: settings.debug,
        joins_cluster: true,
        bip: settings.bip,
        ..EngineOptions::default()
    };
    if !settings.default_runtime.is_empty() {
        options.default_runtime.clone_from(&settings.default_runtime);
    }
    options
}

/// The first signal asks for an orderly stop; a second one ends the process at once, as dockerd's third does.
async fn stop_on_signals(shutdown: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        tracing::error!("cannot listen for signals");
        return;
    };
    let mut asked = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
                tracing::info!("no option can be reloaded yet: SIGHUP changes nothing");
                continue;
            }
        }
        asked += 1;
        if asked > 1 {
            tracing::warn!("told to stop again: ending at once");
            std::process::exit(1);
        }
        shutdown.cancel();
    }
}
