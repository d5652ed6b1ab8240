//! Ending and freezing: stop, kill, restart, pause, unpause.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::error::{ErrorKind, Failure};
use tokio_util::sync::CancellationToken;

use super::api::StopOptions;
use super::instance::Container;
use super::lifecycle::{Command, Input, Phase};
use super::{network, signal, start};
use crate::engine::Inner;
use crate::shim::client::Shim;

/// Seconds between the stop signal and SIGKILL.
const GRACE_S: i64 = 10;
/// How long a killed process may take to go.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// Stops a container. `NotModified` when it does not run.
#[tracing::instrument(level = "debug", skip_all, fields(container = %container.id))]
pub(crate) async fn stop(inner: &Arc<Inner>, container: &Arc<Container>, options: &StopOptions) -> Result<(), Failure> {
    let (stop_signal, grace_s) = {
        let config = &container.record().config;
        let text = options.signal.as_deref().filter(|text| !text.is_empty()).unwrap_or(&config.stop_signal);
        let stop_signal = if text.is_empty() { signal::TERM } else { signal::parse(text)? };
        (stop_signal, options.timeout_s.or(config.stop_timeout).unwrap_or(GRACE_S))
    };
    if give_up_start(container, grace_s).await {
        return Ok(());
    }
    let Some(shim) = begin(inner, container).await? else { return Ok(()) };
    deliver(container, &shim, stop_signal).await;
    super::tell(inner, container, "kill", &[("signal", &stop_signal.to_string())]);
    let gone = async {
        match u64::try_from(grace_s) {
            Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), container.ended()).await.is_ok(),
            Err(_) => {
                container.ended().await;
                true
            }
        }
    };
    if !gone.await {
        kill_for_good(container, &shim).await?;
        super::tell(inner, container, "kill", &[("signal", "9")]);
    }
    super::tell(inner, container, "stop", &[]);
    network::given_back(inner, container).await;
    Ok(())
}

/// Lets a start that goes on come to its end, which may take as long as the container may take to stop; then it is given
/// up. True when that leaves nothing to be stopped.
async fn give_up_start(container: &Arc<Container>, grace_s: i64) -> bool {
    let Some(over) = container.start_over() else { return false };
    let in_time = match u64::try_from(grace_s) {
        Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), over.cancelled()).await.is_ok(),
        Err(_) => {
            over.cancelled().await;
            true
        }
    };
    !in_time && end_start(container, &over).await
}

/// Gives up a start, and waits until `over` says that it is over. True when that leaves nothing that runs.
async fn end_start(container: &Arc<Container>, over: &CancellationToken) -> bool {
    let _unwanted = container.refuse_start();
    over.cancelled().await;
    !container.phase().is_running()
}

/// Stops every container for the end of the daemon. As in dockerd that is no user's wish: restart policies go on to hold.
pub(crate) async fn stop_all(inner: &Arc<Inner>, at_most: Option<Duration>) {
    let all = inner.containers.all();
    let running = all.iter().filter(|container| container.phase().has_process());
    futures::future::join_all(running.map(|container| async move {
        if let Err(failure) = stop_for_now(container, at_most).await {
            tracing::warn!(container = %container.id, error = failure.message, "cannot stop a container");
        }
    }))
    .await;
}

async fn stop_for_now(container: &Arc<Container>, at_most: Option<Duration>) -> Result<(), Failure> {
    let Some(shim) = container.shim() else { return Ok(()) };
    let (text, grace_s) = {
        let config = &container.record().config;
        (config.stop_signal.clone(), config.stop_timeout.unwrap_or(GRACE_S))
    };
    deliver(container, &shim, if text.is_empty() { signal::TERM } else { signal::parse(&text)? }).await;
    let own = u64::try_from(grace_s).ok().map(Duration::from_secs);
    let gone = match own.into_iter().chain(at_most).min() {
        Some(grace) => tokio::time::timeout(grace, container.ended()).await.is_ok(),
        None => {
            container.ended().await;
            true
        }
    };
    if gone { Ok(()) } else { kill_for_good(container, &shim).await }
}

/// Notes that a user wants it to stop. `None` when it was only waiting for its next start, and is stopped by this.
async fn begin(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Option<Shim>, Failure> {
    let commands = container
        .step(Input::StopAsked)
        .map_err(|_| Failure::new(ErrorKind::NotModified, format!("container {} is not running", container.id)))?;
    container.store().await;
    if commands.contains(&Command::CancelRestart) {
        container.set_restart_timer(None);
        inner.cluster.poke();
        container.tell(false);
        super::tell(inner, container, "stop", &[]);
        return Ok(None);
    }
    // Between the end of the process and the record of it there is none.
    Ok(container.shim())
}

/// Sends a signal; a frozen container gets it when it goes on, so it is let go on.
async fn deliver(container: &Arc<Container>, shim: &Shim, number: i32) {
    if let Err(error) = shim.signal(number, false).await {
        tracing::debug!(container = %container.id, %error, "the process has gone before the signal");
    }
    if container.phase() == Phase::Paused
        && let Err(error) = shim.resume().await
    {
        tracing::debug!(container = %container.id, %error, "cannot thaw a container that is to stop");
    }
}

/// SIGKILL, until it is gone.
pub(crate) async fn kill_for_good(container: &Arc<Container>, shim: &Shim) -> Result<(), Failure> {
    deliver(container, shim, signal::KILL).await;
    if tokio::time::timeout(AFTER_KILL, container.ended()).await.is_ok() {
        return Ok(());
    }
    // Something of it may hang in a namespace of its own: everything in its cgroup, then.
    if let Err(error) = shim.signal(signal::KILL, true).await {
        tracing::warn!(container = %container.id, %error, "cannot kill all processes of the container");
    }
    tokio::time::timeout(AFTER_KILL, container.ended()).await.map_err(|_| {
        Failure::new(
            ErrorKind::Internal,
            format!("tried to kill container {}, but did not receive an exit event", container.id),
        )
    })
}

/// Sends a signal.
pub(crate) async fn kill(inner: &Arc<Inner>, container: &Arc<Container>, number: i32) -> Result<(), Failure> {
    let not_running = |_| {
        Failure::conflict(format!(
            "cannot kill container: {}: container {} is not running",
            container.name(),
            container.id
        ))
    };
    let asked_stop_signal = container.record().config.stop_signal.clone();
    let stop_signal = if asked_stop_signal.is_empty() { signal::TERM } else { signal::parse(&asked_stop_signal)? };
    if number == signal::KILL
        && let Some(over) = container.start_over()
        && end_start(container, &over).await
    {
        return Ok(());
    }
    let shim = if number == signal::KILL || number == stop_signal {
        // As dockerd: who kills it does not want it restarted.
        let shim = container.running_shim().map_err(not_running)?;
        begin(inner, container).await.map_err(not_running)?;
        shim
    } else {
        container.running_shim().map_err(not_running)?
    };
    if number == signal::KILL {
        deliver(container, &shim, number).await;
        super::tell(inner, container, "kill", &[("signal", &number.to_string())]);
        // As dockerd: SIGKILL returns when it is gone.
        return tokio::time::timeout(AFTER_KILL, container.ended()).await.map_err(|_| {
            Failure::new(ErrorKind::Internal, format!("container {} does not end after SIGKILL", container.id))
        });
    }
    shim.signal(number, false).await.map_err(|error| Failure::internal(&error))?;
    super::tell(inner, container, "kill", &[("signal", &number.to_string())]);
    // As dockerd: any signal thaws it, where nobody said with which one it stops.
    let thaws = asked_stop_signal.is_empty() || number == stop_signal;
    if thaws && container.phase() == Phase::Paused {
        // It may have ended, or been thawed by somebody else: the signal was sent.
        match unpause(inner, container).await {
            Err(failure) if failure.kind != ErrorKind::Conflict => return Err(failure),
            _ => {}
        }
    }
    Ok(())
}

/// The number of a signal by its name or number; SIGKILL when nothing is said.
pub(crate) fn killing(text: Option<&str>) -> Result<i32, Failure> {
    text.filter(|text| !text.is_empty()).map_or(Ok(signal::KILL), signal::parse)
}

/// Stops it when it runs, then starts it.
pub(crate) async fn restart(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    options: &StopOptions,
) -> Result<(), Failure> {
    // Its end is not to remove it, nor to cost it its addresses.
    let kept = container.keep();
    let _keeps_places = network::hold(inner, container);
    let stopped = stop(inner, container, options).await;
    drop(kept);
    match stopped {
        Err(failure) if failure.kind != ErrorKind::NotModified => return Err(failure),
        _ => {}
    }
    start::start(inner, container, true).await?;
    super::tell(inner, container, "restart", &[]);
    Ok(())
}

/// Freezes its processes.
pub(crate) async fn pause(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<(), Failure> {
    let _turn = container.operation.lock().await;
    match container.phase() {
        Phase::Paused => return Err(Failure::conflict(format!("container {} is already paused", container.id))),
        Phase::Restarting => {
            return Err(Failure::conflict(format!(
                "container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        _ => {}
    }
    let shim = container.running_shim()?;
    shim.pause().await.map_err(|error| Failure::internal(&error))?;
    changed(inner, container, Input::Paused, "pause").await;
    Ok(())
}

/// Lets them go on.
pub(crate) async fn unpause(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<(), Failure> {
    let _turn = container.operation.lock().await;
    if container.phase() != Phase::Paused {
        return Err(Failure::conflict(format!("container {} is not paused", container.id)));
    }
    let shim = container.running_shim()?;
    shim.resume().await.map_err(|error| Failure::internal(&error))?;
    changed(inner, container, Input::Resumed, "unpause").await;
    Ok(())
}

async fn changed(inner: &Arc<Inner>, container: &Arc<Container>, input: Input, action: &str) {
    if container.step(input).is_ok() {
        container.store().await;
        container.tell(false);
        super::tell(inner, container, action, &[]);
    }
}
