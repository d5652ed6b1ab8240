//! Opening an engine: which containers there are, which still run, and what a crash left half-made.
//!
//! ## Design notes
//! Everything that is removed here lies in this engine's own roots and is named after an id; nothing is looked for in
//! places that several engines share. Containers are restored before the engine answers, those that are to be started
//! again are started after.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::error::Failure;
use shoal_proto::time::Timestamp;

use super::instance::Container;
use super::lifecycle::{self, Input, Phase, State};
use super::record::{MountKind, Record};
use super::{end, files, image_mounts, launch, remove, start};
use crate::engine::Inner;
use crate::health;
use crate::shim::client::{self, Presence, Shim, ShimError};
use crate::shim::config::ExitRecord;
use crate::shim::protocol;

/// How many shims are asked at once.
const AT_ONCE: usize = 32;
/// How long a shim may take to answer before the engine opens without its answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long the engine waits before it asks such a shim again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What was found of a container's shim.
enum Found {
    /// Its process runs.
    Running(Shim, protocol::ShimStatus),
    /// It was created, and never started.
    Created(Shim),
    /// Its process has ended.
    Ended(ExitRecord),
    /// Its process is there and does not answer, or cannot be asked.
    Silent,
    /// Nothing.
    Nothing,
}

/// Restores everything.
pub(crate) async fn restore(inner: &Arc<Inner>) -> Result<(), Failure> {
    let reader = Arc::clone(inner);
    let records = tokio::task::spawn_blocking(move || read_records(&reader)).await;
    let records = records.map_err(|error| Failure::internal(&error))??;
    for record in records {
        let folder = inner.container_folder(&record.id);
        if let Err(failure) = inner.containers.reserve(&record.name, &record.id) {
            tracing::error!(container = record.id, error = failure.message, "two containers have one name");
        }
        let id = record.id.clone();
        inner.containers.insert(&id, Container::new(record, folder));
    }
    let all = inner.containers.all();
    let found: Vec<_> = futures::stream::StreamExt::collect(futures::stream::StreamExt::buffered(
        futures::stream::iter(all.iter().map(|container| look(inner, Arc::clone(container)))),
        AT_ONCE,
    ))
    .await;
    let live: BTreeSet<String> = found
        .iter()
        .filter(|(_, found)| matches!(found, Found::Running(..) | Found::Silent))
        .map(|(container, _)| container.id.clone())
        .collect();
    inner.networks.restore(&live).await?;
    for (container, found) in found {
        adopt(inner, &container, found).await;
    }
    clean_orphans(inner).await;
    let blocking = Arc::clone(inner);
    let cleaned = tokio::task::spawn_blocking(move || {
        blocking.volumes.unmount_unused();
        let unknown = |id: &String| blocking.containers.get(id).is_none();
        // Those of mounted images have a number behind the container's id.
        let owner = |name: String| id_of(Path::new(name.split('-').next().unwrap_or_default()));
        let owners: BTreeSet<String> = blocking.snapshots.list().into_iter().filter_map(owner).collect();
        for id in owners.into_iter().filter(unknown) {
            // Where the record could not be read the container may still be mended.
            if !blocking.container_folder(&id).exists() {
                remove_leftovers(&blocking, &id);
            }
        }
    });
    cleaned.await.map_err(|error| Failure::internal(&error))?;
    begin_again(inner);
    Ok(())
}

/// Reads all records. A folder without one is left over from a creation or removal that did not finish. Blocks.
fn read_records(inner: &Arc<Inner>) -> Result<Vec<Record>, Failure> {
    let root = inner.options.data_root.join("containers");
    let mut records = Vec::new();
    for entry in std::fs::read_dir(&root).map_err(|error| Failure::internal(&error))?.flatten() {
        let folder = entry.path();
        let Some(id) = id_of(&folder) else { continue };
        match Record::load(&folder) {
            Ok(Some(record)) if record.id == id => records.push(record),
            Ok(None) => {
                tracing::info!(container = id, "removing a container that was half made or half removed");
                remove_leftovers(inner, &id);
                remove::remove_folder(&folder);
            }
            Ok(Some(_)) => tracing::error!(container = id, "the record is another container's; it is left alone"),
            Err(error) => {
                // Not removed: somebody may want to mend it.
                tracing::error!(container = id, %error, "the record cannot be read; the container is left alone");
            }
        }
    }
    Ok(records)
}

fn id_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    (name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| name.to_owned())
}

fn remove_leftovers(inner: &Arc<Inner>, id: &str) {
    files::remove(&inner.files_folder(id));
    image_mounts::remove(inner, id);
    if let Err(failure) = inner.snapshots.remove(id) {
        tracing::warn!(container = id, error = failure.message, "cannot remove a left-over snapshot");
    }
}

async fn look(inner: &Arc<Inner>, container: Arc<Container>) -> (Arc<Container>, Found) {
    let folder = inner.shim_folder(&container.id);
    let found = look_at(&folder).await;
    (container, found)
}

async fn look_at(folder: &Path) -> Found {
    if !folder.exists() {
        return Found::Nothing;
    }
    if let Ok(Some(exit)) = ExitRecord::read(folder) {
        return Found::Ended(exit);
    }
    let ask = async {
        let shim = Shim::connect(folder).await?;
        let status = shim.status().await?;
        Ok::<_, ShimError>((shim, status))
    };
    match tokio::time::timeout(ANSWER, ask).await {
        Ok(Ok((shim, status))) => {
            return match (status.phase, &status.exit) {
                (protocol::Phase::Created, _) => Found::Created(shim),
                (protocol::Phase::Running, _) => Found::Running(shim, status),
                (protocol::Phase::Exited, Some(exit)) => Found::Ended(exit.clone()),
                (protocol::Phase::Exited, None) => Found::Nothing,
            };
        }
        Ok(Err(error)) => tracing::debug!(shim = %folder.display(), %error, "a shim cannot be asked"),
        Err(_) => tracing::warn!(shim = %folder.display(), "a shim does not answer"),
    }
    // In this order: it writes the record before it goes.
    let presence = client::presence(folder);
    match ExitRecord::read(folder) {
        Ok(Some(exit)) => Found::Ended(exit),
        _ if presence == Presence::There => Found::Silent,
        _ => Found::Nothing,
    }
}

/// Asks a shim again and again that did not answer, and takes its container over when it does.
fn ask_later(inner: &Arc<Inner>, container: &Arc<Container>) {
    let (inner, container) = (Arc::clone(inner), Arc::clone(container));
    let tracker = inner.tasks.clone();
    tracker.spawn(async move {
        loop {
            tokio::select! {
                () = inner.stopping.cancelled() => return,
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
            match look_at(&inner.shim_folder(&container.id)).await {
                Found::Silent => {}
                found => return take_in(&inner, &container, found).await,
            }
        }
    });
}

/// Was this end written into the record before? Then the daemon died between that and the removal of the shim's folder.
fn is_recorded(state: &State, exit: &ExitRecord) -> bool {
    !state.phase.has_process() && state.finished_at == exit.finished_at
}

/// Brings a container's state in line with what was found.
async fn adopt(inner: &Arc<Inner>, container: &Arc<Container>, found: Found) {
    if matches!(found, Found::Silent) {
        tracing::warn!(container = %container.id, "its shim does not answer; it is left as it is until it does");
        ask_later(inner, container);
        return;
    }
    take_in(inner, container, found).await;
}

async fn take_in(inner: &Arc<Inner>, container: &Arc<Container>, found: Found) {
    let had_process = container.phase().has_process();
    match found {
        Found::Silent => {}
        Found::Running(shim, status) => adopt_running(inner, container, shim, &status).await,
        Found::Created(shim) => {
            // The daemon died between creation and start: as if the start had never been asked for.
            launch::destroy(&shim).await;
            start::clean_up(inner, container).await;
            if had_process {
                end::ended(inner, container, &end::lost(inner)).await;
            }
        }
        Found::Ended(exit) if is_recorded(&container.record().state, &exit) => {
            remove::remove_folder_soon(inner, inner.shim_folder(&container.id)).await;
        }
        Found::Ended(exit) if exit.error.is_some() && !had_process => start::clean_up(inner, container).await,
        Found::Ended(exit) => {
            if !had_process {
                // It ran, and the daemon died before it wrote so down.
                let _as_it_is = container.step(Input::Launched { pid: 1, at: exit.finished_at, by_user: true });
            }
            end::ended(inner, container, &exit).await;
        }
        Found::Nothing if had_process => {
            if inner.shim_folder(&container.id).exists() {
                launch::destroy_without_shim(inner.shim_folder(&container.id)).await;
            }
            end::ended(inner, container, &end::lost(inner)).await;
        }
        Found::Nothing => {
            if inner.shim_folder(&container.id).exists() {
                launch::destroy_without_shim(inner.shim_folder(&container.id)).await;
                start::clean_up(inner, container).await;
            }
        }
    }
}

async fn adopt_running(inner: &Arc<Inner>, container: &Arc<Container>, shim: Shim, status: &protocol::ShimStatus) {
    if !container.phase().has_process() {
        // It was started, and the daemon died before it wrote so down.
        let launched = Input::Launched { pid: status.pid, at: inner.now(), by_user: true };
        if let Err(refusal) = container.step(launched) {
            tracing::error!(container = %container.id, %refusal, "a running container cannot be adopted");
            return;
        }
    }
    let paused = container.phase() == Phase::Paused;
    let _as_it_is = match (status.paused, paused) {
        (true, false) => container.step(Input::Paused),
        (false, true) => container.step(Input::Resumed),
        _ => Ok(Vec::new()),
    };
    container.record().state.pid = status.pid;
    container.set_shim(Some(shim.clone()));
    let volumes: Vec<String> = {
        let record = container.record();
        record.mounts.iter().filter(|mount| mount.kind == MountKind::Volume).map(|mount| mount.volume.clone()).collect()
    };
    for volume in volumes {
        if let Err(failure) = inner.volumes.mount(&volume, &container.id) {
            tracing::warn!(container = %container.id, volume, error = failure.message, "cannot claim a volume");
        }
    }
    container.store().await;
    container.tell(false);
    end::watch(inner, container, shim);
    health::begin(inner, container);
}

/// Removes shims, execs and files of containers that do not exist.
async fn clean_orphans(inner: &Arc<Inner>) {
    for folder in folders(&inner.options.exec_root.join("shim")) {
        let known = id_of(&folder).is_some_and(|id| inner.containers.get(&id).is_some());
        if !known {
            tracing::info!(folder = %folder.display(), "removing the shim of an unknown container");
            end_shim(inner, &folder).await;
        }
    }
    for folder in folders(&inner.options.exec_root.join("exec")) {
        leave_exec(inner, folder);
    }
    for folder in folders(&inner.options.exec_root.join("files")) {
        let known = id_of(&folder).is_some_and(|id| inner.containers.get(&id).is_some());
        if !known {
            let _panicked = tokio::task::spawn_blocking(move || files::remove(&folder)).await;
        }
    }
}

fn folders(root: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

async fn end_shim(inner: &Arc<Inner>, folder: &Path) {
    if let Ok(Ok(shim)) = tokio::time::timeout(ANSWER, Shim::connect(folder)).await {
        launch::destroy(&shim).await;
    } else {
        launch::destroy_without_shim(folder.to_owned()).await;
    }
    remove::remove_folder_soon(inner, folder.to_owned()).await;
}

/// An exec of an earlier daemon goes on to its end; then its folder is removed. Nobody can ask for it any more. One that was
/// not started ends by itself, since nobody is there to start it.
fn leave_exec(inner: &Arc<Inner>, folder: PathBuf) {
    let inner = Arc::clone(inner);
    let tracker = inner.tasks.clone();
    tracker.spawn(async move {
        tokio::select! {
            () = inner.stopping.cancelled() => return,
            _ = client::wait_in(&folder) => {}
        }
        remove::remove_folder_soon(&inner, folder).await;
    });
}

fn ran(state: &State) -> bool {
    state.finished_at != Timestamp::ZERO
}

/// Starts what was waiting for its restart, and what its policy wants to be started with the daemon.
fn begin_again(inner: &Arc<Inner>) {
    for container in inner.containers.all() {
        let (state, policy, removes) = {
            let record = container.record();
            let policy = record.host_config.restart_policy.clone();
            (record.state.clone(), policy, record.host_config.auto_remove)
        };
        match state.phase {
            Phase::Restarting | Phase::Exited if !removes && !inner.options.starts_containers => {}
            Phase::Restarting => {
                let left = state.restart_at.since(inner.now());
                start::restart_after(inner, &container, left);
            }
            Phase::Exited if lifecycle::wants_boot(&policy, &state) => start::start_with_daemon(inner, &container),
            // Its end was recorded, and the removal that was to follow was not done; or a removal was begun.
            phase if phase == Phase::Removing || removes && phase == Phase::Exited && ran(&state) => {
                let (inner, container) = (Arc::clone(inner), Arc::clone(&container));
                let tracker = inner.tasks.clone();
                tracker.spawn(async move {
                    let turn = container.operation.lock().await;
                    // Who began a removal by hand may have wanted to keep the volumes: they can be pruned.
                    if let Err(failure) = remove::finish(&inner, &container, &turn, removes).await {
                        tracing::warn!(container = %container.id, error = failure.message, "cannot remove");
                    }
                });
            }
            _ => {}
        }
    }
}
