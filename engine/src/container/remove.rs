//! Removing containers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_proto::error::Failure;
use tokio::sync::MutexGuard;

use super::api::RemoveOptions;
use super::instance::Container;
use super::lifecycle::{Input, Phase};
use super::list::{self, Selection};
use super::record::MountKind;
use super::{files, image_mounts, network, stop, streams};
use crate::engine::{Inner, volumes};
use crate::model::{ContainersPruneReport, Filters};

/// Removes a container.
#[tracing::instrument(level = "debug", skip_all, fields(container = %container.id))]
pub(crate) async fn remove(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    options: RemoveOptions,
) -> Result<(), Failure> {
    // Its own end must not remove it as well.
    let _kept = container.keep();
    // A start may wait for ever, for a hook: then there would be no turn.
    let _unwanted = options.force.then(|| container.refuse_start());
    loop {
        let turn = container.operation.lock().await;
        let phase = container.phase();
        if phase == Phase::Removing {
            let gone = inner.containers.get(&container.id).is_none();
            return if gone {
                Err(Failure::not_found(format!("No such container: {}", container.id)))
            } else {
                Err(Failure::conflict(format!("removal of container {} is already in progress", container.id)))
            };
        }
        if !options.force && (phase.has_process() || phase == Phase::Restarting) {
            return Err(refusal(container, phase));
        }
        if phase.has_process() {
            let shim = container.shim();
            let _stopped_before = container.step(Input::StopAsked);
            drop(turn);
            match shim {
                Some(shim) => stop::kill_for_good(container, &shim).await?,
                None => container.ended().await,
            }
            continue;
        }
        finish(inner, container, &turn, options.volumes).await?;
        network::given_back(inner, container).await;
        return Ok(());
    }
}

fn refusal(container: &Container, phase: Phase) -> Failure {
    let (state, advice) = match phase {
        Phase::Paused => ("paused", "unpause and then stop the container before removal or force remove"),
        Phase::Restarting => ("restarting", "stop the container before removing or force remove"),
        _ => ("running", "stop the container before removing or force remove"),
    };
    Failure::conflict(format!("cannot remove container \"/{}\": container is {state}: {advice}", container.name()))
}

/// Removes a container that has no process. The caller holds its turn.
pub(crate) async fn finish(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    _turn: &MutexGuard<'_, ()>,
    with_volumes: bool,
) -> Result<(), Failure> {
    if container.step(Input::RemovalBegun).is_err() {
        return Err(refusal(container, container.phase()));
    }
    container.set_restart_timer(None);
    streams::drop_waiting(container);
    let removed = {
        let (inner, container) = (Arc::clone(inner), Arc::clone(container));
        tokio::task::spawn_blocking(move || remove_from_disk(&inner, &container, with_volumes)).await
    };
    let removed = removed.map_err(|error| Failure::internal(&error)).and_then(|removed| removed);
    if let Err(failure) = removed {
        let text = failure.message.clone();
        tracing::error!(container = %container.id, error = text, "removal failed half-way");
        if container.step(Input::RemovalFailed { error: text }).is_ok() {
            container.store().await;
        }
        container.tell(false);
        return Err(failure);
    }
    inner.containers.remove(&container.id, &container.name());
    super::tell(inner, container, "destroy", &[]);
    container.tell_removed();
    Ok(())
}

/// First of all it is written down that there is no way back. What has no record is removed when the engine opens, and what has
/// one that says so, which is needed where volumes go along.
#[tracing::instrument(level = "debug", skip_all)]
fn remove_from_disk(inner: &Arc<Inner>, container: &Arc<Container>, with_volumes: bool) -> Result<(), Failure> {
    let anonymous: Vec<_> = {
        let record = container.record();
        record.mounts.iter().filter(|mount| mount.anonymous && with_volumes).map(|mount| mount.volume.clone()).collect()
    };
    if anonymous.is_empty() {
        remove_record(container)?;
    } else {
        container.save();
    }
    let mounts_images = container.record().mounts.iter().any(|mount| mount.kind == MountKind::Image);
    if mounts_images {
        image_mounts::remove(inner, &container.id);
    }
    inner.snapshots.remove(&container.id)?;
    files::remove(&inner.files_folder(&container.id));
    remove_record(container)?;
    remove_folder(&container.folder);
    remove_folder(&inner.shim_folder(&container.id));
    // Otherwise the container itself counts as a user of its volumes.
    container.record().mounts.retain(|mount| !anonymous.contains(&mount.volume));
    for volume in anonymous {
        if let Err(failure) = volumes::remove(inner, &volume, true) {
            tracing::warn!(volume, error = failure.message, "cannot remove an anonymous volume");
        }
    }
    Ok(())
}

fn remove_record(container: &Container) -> Result<(), Failure> {
    match std::fs::remove_file(container.folder.join(super::record::RECORD_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::internal(&error)),
        _ => Ok(()),
    }
}

/// How often a folder is tried that somebody still writes to.
const REMOVE_TRIES: u32 = 200;

/// Removes a folder of the engine's own. Missing is fine, failure is logged. A shim that is about to end may still put
/// its last word there: then it is tried again. Blocks.
pub(crate) fn remove_folder(folder: &Path) {
    for attempt in 1..=REMOVE_TRIES {
        let Err(error) = std::fs::remove_dir_all(folder) else { return };
        match error.kind() {
            std::io::ErrorKind::NotFound if !folder.exists() => return,
            std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty if attempt < REMOVE_TRIES => {
                let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                let _waited = rustix::event::poll(&mut [], Some(&pause));
            }
            _ => {
                tracing::warn!(folder = %folder.display(), %error, "cannot remove a folder");
                return;
            }
        }
    }
}

/// The same, off the async threads.
pub(crate) async fn remove_folder_soon(_inner: &Arc<Inner>, folder: PathBuf) {
    let _panicked = tokio::task::spawn_blocking(move || remove_folder(&folder)).await;
}

/// Removes all containers that do not run and pass the filters (`until`, `label`, `label!`).
pub(crate) async fn prune(inner: &Arc<Inner>, filters: &Filters) -> Result<ContainersPruneReport, Failure> {
    filters.check(&["until", "label", "label!"])?;
    let until = super::until_of(filters, inner.now())?;
    let mut report = ContainersPruneReport::default();
    for container in inner.containers.all() {
        let chosen = {
            let record = container.record();
            list::may_be_pruned(record.state.phase)
                && until.is_none_or(|until| record.created < until)
                && filters.matches_labels("label", &record.config.labels)
                && !(filters.contains("label!") && filters.matches_labels("label!", &record.config.labels))
        };
        if !chosen {
            continue;
        }
        let size = super::inspect::writable_size(inner, &container).await;
        match remove(inner, &container, RemoveOptions::default()).await {
            Ok(()) => {
                report.space_reclaimed += size;
                report.containers_deleted.get_or_insert_default().push(container.id.clone());
            }
            // Somebody was faster, or started it.
            Err(failure) => tracing::debug!(container = %container.id, error = failure.message, "not pruned"),
        }
    }
    let reclaimed = [("reclaimed".to_owned(), report.space_reclaimed.to_string())];
    inner.events.publish("container", "prune", "", reclaimed.into());
    Ok(report)
}

/// Checks a list's filters against this engine.
pub(crate) fn selection<'a>(inner: &Arc<Inner>, filters: &'a Filters, all: bool) -> Result<Selection<'a>, Failure> {
    Selection::new(
        filters,
        all,
        &|reference| {
            let found = inner.containers.find(reference)?;
            let created = found.record().created;
            Ok((created, found.id.clone()))
        },
        &|name| inner.images.resolve(name).ok().map(|image| (image.id, image.layers.clone())),
    )
}
