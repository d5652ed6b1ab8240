//! New images of what containers changed.

use std::io::{self, BufReader, Write};
use std::sync::Arc;

use shoal_proto::error::Failure;

use super::changes::apply_changes;
use super::digest::Digest;
use super::document::{Document, NewDocument, host_architecture};
use super::import::new_name;
use super::layer::{LayerError, LayerPin};
use super::{Inner, NewImage, invalid};
use crate::model::{ContainerConfig, ImageConfig};

/// What a commit is to become.
#[derive(Debug, Clone)]
pub(crate) struct NewImageRequest {
    /// Repository; empty for an image without name.
    pub(crate) repository: String,
    /// Tag; empty is `latest`.
    pub(crate) tag: String,
    /// Who made it.
    pub(crate) author: String,
    /// Comment of the image.
    pub(crate) comment: String,
    /// The command whose work it is.
    pub(crate) created_by: String,
    /// Defaults of containers.
    pub(crate) config: ImageConfig,
    /// The container.
    pub(crate) container: String,
    /// What ran there.
    pub(crate) container_config: ContainerConfig,
    /// Its image.
    pub(crate) image: Digest,
    /// That image's layers, the lowest first.
    pub(crate) layers: Vec<Digest>,
}

/// What can be refused is refused before anything is read.
pub(super) fn check(repository: &str, tag: &str, config: &mut ImageConfig, changes: &[String]) -> Result<(), Failure> {
    new_name(repository, tag, "refusing to create a tag with a digest reference")?;
    apply_changes(config, changes)
}

/// Gives the image's id, and the name it got.
pub(super) fn commit(inner: &Arc<Inner>, request: &NewImageRequest) -> Result<(Digest, String), Failure> {
    let name = new_name(&request.repository, &request.tag, "refusing to create a tag with a digest reference")?;
    let mut pins = Vec::with_capacity(request.layers.len() + 1);
    for layer in &request.layers {
        pins.push(inner.layers.pin(layer).ok_or(LayerError::Missing(*layer))?);
    }
    pins.extend(changed_layer(inner, &request.container)?);
    let layers: Vec<_> = pins.iter().map(|pin| pin.record().digest).collect();
    let base = inner.catalog.load().images.get(&request.image).map(|image| image.document.clone());
    let created = inner.options.clock.now();
    let json = NewDocument {
        config: &request.config,
        architecture: base.as_ref().map_or(host_architecture(), |base| &base.architecture),
        variant: base.as_ref().map_or("", |base| &base.variant),
        os: "linux",
        created,
        comment: &request.comment,
        author: &request.author,
        created_by: &request.created_by,
        layers: &layers,
        base: base.as_ref(),
        container: Some((&request.container, &request.container_config)),
    }
    .to_json()
    .map_err(|error| Failure::internal(&error))?;
    let id = Digest::of(&json);
    let document = Document::parse(&json).map_err(invalid)?;
    let names = name.clone().into_iter().collect();
    let parent = base.is_some().then_some(request.image);
    let added = inner.add(vec![NewImage { config: json, document, parent, pins, names }], created)?;
    let name = name.map(|name| name.familiar()).unwrap_or_default();
    if !name.is_empty() {
        inner.event("tag", added.first().map(AsRef::as_ref), &name);
    }
    Ok((id, name))
}

/// The layer of a container's changes; none when there are none.
fn changed_layer(inner: &Arc<Inner>, container: &str) -> Result<Option<LayerPin>, Failure> {
    let (reader, mut writer) = io::pipe().map_err(|error| Failure::internal(&error))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let packed = inner.snapshots.write_layer(container, &mut writer);
            writer.flush().map_err(|error| Failure::internal(&error))?;
            packed
        });
        let added = inner.layers.add(BufReader::new(reader), None);
        // An archive that was cut off may still look whole.
        let packed = packing.join().unwrap_or_else(|_| Err(Failure::internal(&io::Error::other("packing failed"))));
        match (packed, added) {
            (Ok(false), _) => Ok(None),
            (Ok(true), added) => Ok(Some(added?)),
            // The reader stopped first, and knows why.
            (Err(_), Err(error)) => Err(error.into()),
            (Err(failure), Ok(_)) => Err(failure),
        }
    })
}
