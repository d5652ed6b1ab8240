//! Images mounted in a container: each has a snapshot of its own, which goes with the container.

use std::sync::Arc;

use shoal_proto::error::Failure;

use super::record::{MountKind, MountRecord, Record};
use crate::engine::Inner;
use crate::snapshot::PrepareOptions;

/// Looks the images up, and names the snapshots.
pub(super) fn resolve(inner: &Inner, id: &str, mounts: &mut [MountRecord]) -> Result<(), Failure> {
    for (number, mount) in mounts.iter_mut().filter(|mount| mount.kind == MountKind::Image).enumerate() {
        let image = inner.images.resolve(&mount.source)?;
        (mount.image, mount.layers) = (Some(image.id), image.layers.clone());
        mount.snapshot = format!("{id}-{number}");
    }
    Ok(())
}

/// Makes the snapshots. Blocks.
pub(super) fn make(inner: &Inner, record: &Record) -> Result<(), Failure> {
    for mount in record.mounts.iter().filter(|mount| mount.kind == MountKind::Image) {
        // What is written to it nobody asks for after a power cut.
        let options = PrepareOptions { volatile: true, id_map: inner.id_map(&record.host_config).cloned() };
        inner.snapshots.prepare(&mount.snapshot, &mount.layers, options)?;
    }
    Ok(())
}

/// Removes the snapshots that a container of this id has, or had. Goes on after failures. Blocks.
pub(super) fn remove(inner: &Arc<Inner>, id: &str) {
    let own = |name: &String| name.strip_prefix(id).is_some_and(|rest| rest.starts_with('-'));
    for name in inner.snapshots.list().into_iter().filter(own) {
        if let Err(failure) = inner.snapshots.remove(&name) {
            tracing::warn!(snapshot = name, error = failure.message, "cannot remove the snapshot of a mounted image");
        }
    }
}
