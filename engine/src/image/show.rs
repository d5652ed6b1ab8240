//! Lists, details and history of images.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::error::Failure;
use shoal_proto::time::Timestamp;

use super::catalog::{Catalog, ImageEntry};
use super::changes::duration;
use super::digest::Digest;
use super::document::instant;
use super::layer::LayerStore;
use super::reference::Reference;
use crate::model::{
    Filters, GraphDriver, ImageHistoryItem, ImageInspect, ImageListOptions, ImageMetadata, ImageSummary, RootFs,
};

/// Filters of a list.
const LIST_FILTERS: [&str; 6] = ["dangling", "label", "before", "since", "reference", "until"];

fn bytes(layers: &LayerStore, image: &ImageEntry) -> i64 {
    let sum: u64 = image.record.layers.iter().filter_map(|layer| layers.record(layer)).map(|layer| layer.bytes).sum();
    i64::try_from(sum).unwrap_or(i64::MAX)
}

/// Reads the filter `until`: an instant, seconds since 1970, or how long ago.
///
/// # Errors
/// When it is none of them.
pub(super) fn until(filters: &Filters, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    let mut values = filters.get("until");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Failure::invalid("more than one until filter specified"));
    }
    if let Some(nanos) = duration(value) {
        return Ok(Some(Timestamp(now.0.saturating_sub(nanos))));
    }
    if let Ok(seconds) = value.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        return Ok(Some(Timestamp((seconds * 1e9) as i64)));
    }
    let with_zone = if value.contains('T') { format!("{value}Z") } else { format!("{value}T00:00:00Z") };
    Timestamp::parse(value)
        .or_else(|_| Timestamp::parse(&with_zone))
        .map(Some)
        .map_err(|_| Failure::invalid(format!("invalid filter 'until=[{value}]'")))
}

/// As `docker images`.
pub(super) fn list(
    catalog: &Catalog,
    layers: &LayerStore,
    options: &ImageListOptions,
    now: Timestamp,
) -> Result<Vec<ImageSummary>, Failure> {
    let filters = &options.filters;
    filters.check(&LIST_FILTERS)?;
    let dangling = filters.boolean("dangling")?;
    let until = until(filters, now)?;
    let created = |name: &str| -> Result<Option<Timestamp>, Failure> {
        filters.get(name).next().map(|image| catalog.find(image).map(|image| image.record.created)).transpose()
    };
    let (before, since) = (created("before")?, created("since")?);
    let names = catalog.references_by_image();
    let parents: BTreeSet<Digest> = catalog.images.values().filter_map(|image| image.parent).collect();
    let shared = options.shared_size.then(|| shared_layers(catalog));
    let mut summaries = Vec::new();
    for (id, image) in &catalog.images {
        let made = image.record.created;
        let in_time = before.is_none_or(|before| made < before)
            && since.is_none_or(|since| made > since)
            && until.is_none_or(|until| made <= until);
        let labels = image.record.config.labels.clone().unwrap_or_default();
        if !in_time || !filters.matches_labels("label", &labels) {
            continue;
        }
        let all: &[&Reference] = names.get(id).map_or(&[], Vec::as_slice);
        let mut shown = Vec::new();
        for reference in all {
            if matches_reference(filters, reference)? {
                shown.push(*reference);
            }
        }
        let is_parent = parents.contains(id);
        let keep = if shown.is_empty() {
            (options.all || !is_parent) && dangling != Some(false) && !filters.contains("reference")
        } else {
            dangling != Some(true) || (!is_parent && shown.iter().all(|reference| reference.tag().is_none()))
        };
        if !keep || (dangling == Some(true) && is_parent) {
            continue;
        }
        summaries.push(ImageSummary {
            id: id.to_string(),
            parent_id: image.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            repo_tags: shown.iter().filter(|name| name.tag().is_some()).map(|name| name.familiar()).collect(),
            repo_digests: shown.iter().filter(|name| name.digest().is_some()).map(|name| name.familiar()).collect(),
            created: made.0.div_euclid(1_000_000_000),
            size: bytes(layers, image),
            shared_size: shared.as_ref().map_or(-1, |shared| shared_bytes(layers, image, shared)),
            labels: image.record.config.labels.clone(),
            containers: -1,
        });
    }
    summaries.sort_by(|one, two| two.created.cmp(&one.created).then_with(|| one.id.cmp(&two.id)));
    Ok(summaries)
}

fn matches_reference(filters: &Filters, reference: &Reference) -> Result<bool, Failure> {
    if !filters.contains("reference") {
        return Ok(true);
    }
    for pattern in filters.get("reference") {
        if reference.matches(pattern).map_err(super::invalid)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many images have each layer.
fn shared_layers(catalog: &Catalog) -> BTreeMap<Digest, usize> {
    let mut counts = BTreeMap::new();
    for image in catalog.images.values() {
        let unique: BTreeSet<_> = image.record.layers.iter().collect();
        for layer in unique {
            *counts.entry(*layer).or_default() += 1;
        }
    }
    counts
}

fn shared_bytes(layers: &LayerStore, image: &ImageEntry, shared: &BTreeMap<Digest, usize>) -> i64 {
    let of_others = image.record.layers.iter().filter(|layer| shared.get(layer).is_some_and(|count| *count > 1));
    let sum: u64 = of_others.filter_map(|layer| layers.record(layer)).map(|layer| layer.bytes).sum();
    i64::try_from(sum).unwrap_or(i64::MAX)
}

/// As `docker image inspect`.
pub(super) fn inspect(catalog: &Catalog, layers: &LayerStore, image: &ImageEntry, driver: &str) -> ImageInspect {
    let references = catalog.references_of(&image.id());
    let document = &image.document;
    ImageInspect {
        id: image.id().to_string(),
        repo_tags: references.iter().filter(|name| name.tag().is_some()).map(|name| name.familiar()).collect(),
        repo_digests: references.iter().filter(|name| name.digest().is_some()).map(|name| name.familiar()).collect(),
        parent: image.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        comment: if document.comment.is_empty() {
            document.history.last().map(|last| last.comment.clone()).unwrap_or_default()
        } else {
            document.comment.clone()
        },
        created: document.created.as_ref().map(|_| document.created().to_string()).unwrap_or_default(),
        docker_version: document.docker_version.clone(),
        author: document.author.clone(),
        config: document.config.clone(),
        container: document.container.clone(),
        container_config: document.container_config.clone(),
        architecture: document.architecture.clone(),
        variant: document.variant.clone(),
        os: image.record.os.clone(),
        os_version: document.os_version.clone(),
        size: bytes(layers, image),
        graph_driver: graph_driver(layers, &image.record.layers, driver),
        root_fs: RootFs {
            kind: "layers".to_owned(),
            layers: image.record.layers.iter().map(ToString::to_string).collect(),
        },
        metadata: ImageMetadata { last_tag_time: image.last_tag.to_string() },
    }
}

fn graph_driver(layers: &LayerStore, chain: &[Digest], driver: &str) -> GraphDriver {
    let path = |layer: &Digest| layers.files_path(layer).display().to_string();
    let data = chain.split_last().map(|(top, lower)| {
        let mut data = BTreeMap::from([("UpperDir".to_owned(), path(top))]);
        if !lower.is_empty() {
            let lower: Vec<_> = lower.iter().rev().map(path).collect();
            data.insert("LowerDir".to_owned(), lower.join(":"));
        }
        data
    });
    GraphDriver { data, name: driver.to_owned() }
}

/// As `docker history`.
///
/// # Errors
/// When the history names more layers than there are.
pub(super) fn history(
    catalog: &Catalog,
    layers: &LayerStore,
    image: &ImageEntry,
) -> Result<Vec<ImageHistoryItem>, Failure> {
    let mut chain = image.record.layers.iter();
    let mut items = Vec::new();
    for step in &image.document.history {
        let mut size = 0;
        if !step.empty_layer {
            let layer = chain.next().ok_or_else(|| Failure::invalid("too many non-empty layers in History section"))?;
            size = layers.record(layer).map_or(0, |layer| i64::try_from(layer.bytes).unwrap_or(i64::MAX));
        }
        items.push(ImageHistoryItem {
            id: "<missing>".to_owned(),
            created: instant(step.created.as_deref()).0.div_euclid(1_000_000_000),
            created_by: step.created_by.clone(),
            tags: None,
            size,
            comment: step.comment.clone(),
        });
    }
    items.reverse();
    let mut current = Some(image.id());
    for item in &mut items {
        let Some(id) = current else { break };
        let Some(known) = catalog.images.get(&id) else { break };
        item.id = id.to_string();
        let references = catalog.references_of(&id);
        let tags: Vec<_> = references.iter().filter(|name| name.tag().is_some()).map(|name| name.familiar()).collect();
        item.tags = (!tags.is_empty()).then_some(tags);
        current = known.parent;
    }
    Ok(items)
}
