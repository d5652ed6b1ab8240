//! Starting a container: namespace and disk at the same time, then network and shim at the same time, then go.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::error::{ErrorKind, Failure};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::instance::Container;
use super::launch::{self, LaunchError};
use super::lifecycle::{self, Input, Phase};
use super::{end, files, links, network, remove, streams};
use crate::checkpoint;
use crate::engine::Inner;
use crate::health;
use crate::metrics::{Metrics, Step};
use crate::shim::client::Shim;
use crate::shim::config::Restore;

/// First pause before a container is started again that could not ask the cluster for its networks.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest.
const AGAIN_AT_MOST: Duration = Duration::from_secs(15);

/// Starts a container, for a user or for its policy.
#[tracing::instrument(level = "debug", skip_all, fields(container = %container.id))]
pub(crate) async fn start(inner: &Arc<Inner>, container: &Arc<Container>, by_user: bool) -> Result<(), Failure> {
    start_from(inner, container, None, by_user).await
}

/// The checkpoint that processes come from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) checkpoint: String,
    /// Where it is; empty is with the container.
    pub(crate) folder: String,
}

/// The same, with the processes of a checkpoint.
#[tracing::instrument(level = "debug", skip_all, fields(container = %container.id))]
pub(crate) async fn start_from(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    from: Option<Origin>,
    by_user: bool,
) -> Result<(), Failure> {
    let (_alone, turn) = alone_in_turn(container).await;
    let phase = container.phase();
    may_start(container, phase, by_user)?;
    // In its turn: what ends while this waits for it is not started anew instead.
    let checkpoint = match from {
        None => None,
        Some(from) => {
            let container = Arc::clone(container);
            let found =
                tokio::task::spawn_blocking(move || checkpoint::restore(&container, &from.checkpoint, &from.folder));
            Some(found.await.map_err(|error| Failure::internal(&error))??)
        }
    };
    let _keeps_places = network::hold(inner, container);
    container.set_restart_timer(None);
    let starting = container.begin_start();
    match run(inner, container, checkpoint, starting.given_up()).await {
        Ok(shim) => {
            started(inner, container, &shim, by_user).await;
            Ok(())
        }
        Err(error) => {
            tracing::debug!(container = %container.id, error = error.failure.message, "start failed");
            clean_up(inner, container).await;
            let at = inner.now();
            let input = Input::LaunchFailed { exit_code: error.exit_code, error: error.failure.message.clone(), at };
            if container.step(input).is_ok() {
                container.store().await;
            }
            streams::drop_waiting(container);
            // Not an end: as in dockerd, who waits for the next one goes on waiting. The caller is told of the failure.
            container.tell(false);
            if container.record().host_config.auto_remove {
                let _logged = remove::finish(inner, container, &turn, true).await;
            }
            Err(error.failure)
        }
    }
}

/// The container's turn, and unless it runs its files for itself: who looks at them has its root mounted, which must not be
/// mounted twice. That is waited for out of turn, so that it can be stopped and removed meanwhile.
async fn alone_in_turn(
    container: &Arc<Container>,
) -> (Option<tokio::sync::RwLockWriteGuard<'_, ()>>, tokio::sync::MutexGuard<'_, ()>) {
    loop {
        let alone = match container.phase().has_process() {
            true => None,
            false => Some(container.file_access.write().await),
        };
        let turn = container.operation.lock().await;
        if alone.is_some() || container.phase().has_process() {
            return (alone, turn);
        }
    }
}

fn may_start(container: &Arc<Container>, phase: Phase, by_user: bool) -> Result<(), Failure> {
    match phase {
        Phase::Running => Err(Failure::new(ErrorKind::NotModified, "container already started")),
        Phase::Paused => Err(Failure::conflict("cannot start a paused container, try unpause instead")),
        Phase::Removing | Phase::Dead => {
            Err(Failure::conflict("container is marked for removal and cannot be started"))
        }
        // A stop or a removal came between the timer and its start.
        Phase::Created | Phase::Exited if !by_user => Err(Failure::new(
            ErrorKind::NotModified,
            format!("container {} is not to be restarted any more", container.id),
        )),
        Phase::Created | Phase::Exited | Phase::Restarting => Ok(()),
    }
}

/// From nothing to a running program. What a failure leaves is removed by [`clean_up`].
async fn run(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    checkpoint: Option<Restore>,
    given_up: &CancellationToken,
) -> Result<Shim, LaunchError> {
    let restores = checkpoint.is_some();
    let record = container.record().clone();
    // Nothing of an earlier run may be in the way.
    let (namespace, disk) = {
        let prepared = {
            let (inner, container) = (Arc::clone(inner), Arc::clone(container));
            tokio::task::spawn_blocking(move || launch::prepare_disk(&inner, &container))
        };
        let namespace = inner.metrics.stepped(Step::Namespace, network::namespace(inner, &record));
        tokio::join!(namespace, inner.metrics.stepped(Step::Disk, prepared))
    };
    let namespace = namespace?;
    let disk = disk.map_err(|error| LaunchError::from(Failure::internal(&error)))??;
    let (attached, spawned) = tokio::join!(
        inner.metrics.stepped(Step::Network, network::attach(inner, container)),
        inner
            .metrics
            .stepped(Step::Shim, launch::spawn(inner, container, &record, namespace, disk, checkpoint, given_up)),
    );
    // The shim is noted first: what is noted is cleaned up.
    let shim = match spawned {
        Ok(shim) => shim,
        Err(error) => {
            attached?;
            return Err(error);
        }
    };
    note_parts(&inner.metrics, &shim);
    container.set_shim(Some(shim.clone()));
    attached?;
    let filled = {
        let (inner, container) = (Arc::clone(inner), Arc::clone(container));
        tokio::task::spawn_blocking(move || files::fill(&inner, &container))
    };
    inner
        .metrics
        .stepped(Step::Files, filled)
        .await
        .map_err(|error| LaunchError::from(Failure::internal(&error)))??;
    let connected = streams::connect_waiting(container, &shim).instrument(tracing::debug_span!("connect_clients"));
    connected.await.map_err(LaunchError::from)?;
    let executed = shim.start_unless(given_up).instrument(tracing::debug_span!("execute"));
    inner.metrics.stepped(Step::Program, executed).await.map_err(LaunchError::from)?;
    if !restores {
        return Ok(shim);
    }
    // Only now there is a process, whose number it tells.
    let found = Shim::connect(shim.dir()).await?;
    container.set_shim(Some(found.clone()));
    Ok(found)
}

/// Counts what the shim says of its own part.
fn note_parts(metrics: &Metrics, shim: &Shim) {
    let Some(took) = shim.took() else { return };
    for (step, nanos) in [
        (Step::Clone, took.clone_ns),
        (Step::Specification, took.specification_ns),
        (Step::Cgroup, took.cgroup_ns),
        (Step::Mounts, took.mounts_ns),
        (Step::User, took.user_ns),
    ] {
        metrics.step(step).observe(Duration::from_nanos(nanos));
    }
}

async fn started(inner: &Arc<Inner>, container: &Arc<Container>, shim: &Shim, by_user: bool) {
    let launched = Input::Launched { pid: shim.pid(), at: inner.now(), by_user };
    if let Err(refusal) = container.step(launched) {
        tracing::error!(container = %container.id, %refusal, "a started container is not running");
    }
    inner.metrics.stepped(Step::Record, container.store()).await;
    end::watch(inner, container, shim.clone());
    health::begin(inner, container);
    links::tell_dependents(inner, container);
    super::tell(inner, container, "start", &[]);
    container.tell(false);
}

/// Takes down everything of a run: its process, its network, its mounts, its folder. Goes on after failures.
pub(crate) async fn clean_up(inner: &Arc<Inner>, container: &Arc<Container>) {
    if let Some(shim) = container.shim() {
        launch::destroy(&shim).await;
    }
    container.set_shim(None);
    let released = {
        let (inner, container) = (Arc::clone(inner), Arc::clone(container));
        tokio::task::spawn_blocking(move || {
            launch::release_disk(&inner, &container);
            remove::remove_folder(&inner.shim_folder(&container.id));
        })
    };
    network::detach(inner, container);
    // A start that failed has given everything back when its caller hears of it.
    let ((), released) = tokio::join!(inner.teardowns.of(&container.id), released);
    if let Err(error) = released {
        tracing::error!(container = %container.id, %error, "cleaning up failed");
    }
}

/// Starts a container again after a pause, unless somebody stops it before.
pub(crate) fn restart_after(inner: &Arc<Inner>, container: &Arc<Container>, pause: Duration) {
    let timer = CancellationToken::new();
    container.set_restart_timer(Some(timer.clone()));
    let (inner, container) = (Arc::clone(inner), Arc::clone(container));
    let tracker = inner.tasks.clone();
    tracker.spawn(async move {
        tokio::select! {
            () = inner.stopping.cancelled() => return,
            () = inner.ending.cancelled() => return,
            () = timer.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if network::joins_cluster(&inner, &container.record().clone()) {
            tokio::select! {
                () = inner.stopping.cancelled() => return,
                () = timer.cancelled() => return,
                () = inner.cluster.ready() => {}
            }
        }
        match start(&inner, &container, false).await {
            Err(failure) if failure.kind == ErrorKind::NotModified => {}
            Err(failure) => {
                tracing::warn!(container = %container.id, error = failure.message, "cannot restart");
                again_when_possible(&inner, &container, &failure).await;
            }
            Ok(()) => {}
        }
    });
}

/// Starts a container with the daemon, as its policy wants. One that is on cluster networks waits for the cluster.
pub(crate) fn start_with_daemon(inner: &Arc<Inner>, container: &Arc<Container>) {
    let (inner, container) = (Arc::clone(inner), Arc::clone(container));
    let tracker = inner.tasks.clone();
    tracker.spawn(async move {
        if network::joins_cluster(&inner, &container.record().clone()) {
            tokio::select! {
                () = inner.stopping.cancelled() => return,
                () = inner.cluster.ready() => {}
            }
            if !is_wanted(&container) {
                return;
            }
        }
        if let Err(failure) = start(&inner, &container, true).await {
            tracing::warn!(container = %container.id, error = failure.message, "cannot start with the daemon");
            again_when_possible(&inner, &container, &failure).await;
        }
    });
}

fn is_wanted(container: &Container) -> bool {
    let record = container.record();
    lifecycle::wants_boot(&record.host_config.restart_policy, &record.state)
}

/// After a start by policy that failed because the cluster could not be asked: tries again for as long as it is wanted.
async fn again_when_possible(inner: &Arc<Inner>, container: &Arc<Container>, failure: &Failure) {
    let mut unavailable = failure.kind == ErrorKind::Unavailable;
    let mut pause = AGAIN;
    while unavailable && network::joins_cluster(inner, &container.record().clone()) {
        tokio::select! {
            () = inner.stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if !is_wanted(container) {
            return;
        }
        pause = (pause * 2).min(AGAIN_AT_MOST);
        unavailable = start(inner, container, true).await.is_err_and(|failure| failure.kind == ErrorKind::Unavailable);
    }
}
