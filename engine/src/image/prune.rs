//! Carrying removals out, and removing what nobody uses.

use shoal_proto::error::{Failure, chain};

use super::digest::Digest;
use super::remove::{self, Step};
use super::show::until;
use super::{ImageEvent, ImageRemoveOptions, Inner};
use crate::model::{Filters, ImageDeleteItem, ImagesPruneReport};

/// What a removal did.
pub(super) struct Removed {
    pub(super) items: Vec<ImageDeleteItem>,
    /// Bytes of layers that are gone.
    pub(super) bytes: u64,
}

/// As `docker rmi`.
pub(super) fn remove(inner: &Inner, name: &str, options: ImageRemoveOptions) -> Result<Removed, Failure> {
    let before = inner.catalog.load_full();
    let steps = inner.change(|catalog| remove::remove(catalog, name, options, &|image| inner.users(image)))?;
    let mut removed = Removed { items: Vec::new(), bytes: 0 };
    for step in steps {
        match step {
            Step::Untag(id, name) => {
                inner.event("untag", before.images.get(&id).map(AsRef::as_ref), &id.to_string());
                removed.items.push(ImageDeleteItem { untagged: Some(name), deleted: None });
            }
            Step::Delete(image) => {
                let id = image.id();
                inner.event("delete", Some(&image), &id.to_string());
                removed.items.push(ImageDeleteItem { untagged: None, deleted: Some(id.to_string()) });
                release_layers(inner, &image.record.layers, &mut removed);
                inner.remove_blob(&id);
            }
        }
    }
    Ok(removed)
}

/// From the top down; those that are gone are named by their chain, as dockerd does.
fn release_layers(inner: &Inner, layers: &[Digest], removed: &mut Removed) {
    for end in (1..=layers.len()).rev() {
        let (layer, chain_id) = (&layers[end - 1], Digest::chain(&layers[..end]));
        match inner.layers.release(layer) {
            Ok(Some(record)) => {
                removed.bytes += record.bytes;
                let deleted = chain_id.map(|chain| chain.to_string());
                removed.items.push(ImageDeleteItem { untagged: None, deleted });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%layer, "cannot remove an unused layer: {}", chain(&error)),
        }
    }
}

/// As `docker image prune`.
pub(super) fn prune(inner: &Inner, filters: &Filters) -> Result<ImagesPruneReport, Failure> {
    filters.check(&["dangling", "label", "label!", "until"])?;
    let dangling_only = filters.boolean("dangling")?.unwrap_or(true);
    let until = until(filters, inner.options.clock.now())?;
    let catalog = inner.catalog.load_full();
    let mut names = Vec::new();
    for (id, image) in &catalog.images {
        let labels = image.record.config.labels.clone().unwrap_or_default();
        let excluded = filters.contains("label!") && filters.matches_labels("label!", &labels);
        let too_young = until.is_some_and(|until| image.record.created > until);
        if too_young || excluded || !filters.matches_labels("label", &labels) {
            continue;
        }
        let references = catalog.references_of(id);
        if references.is_empty() {
            if !catalog.has_children(id) {
                names.push(id.hex());
            }
        } else if !dangling_only || references.iter().all(|reference| reference.tag().is_none()) {
            names.extend(references.iter().map(ToString::to_string));
        }
    }
    let mut report = ImagesPruneReport::default();
    for name in names {
        // In use, or gone with another one: both are fine.
        if let Ok(removed) = remove(inner, &name, ImageRemoveOptions::default()) {
            report.space_reclaimed += removed.bytes;
            report.images_deleted.get_or_insert_default().extend(removed.items);
        }
    }
    let attributes = [("reclaimed".to_owned(), report.space_reclaimed.to_string())].into();
    inner.tell(ImageEvent { action: "prune", id: String::new(), attributes });
    Ok(report)
}
