//! Which images an archive has, once it is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_proto::error::Failure;

use super::{Archive, Item, clean};
use crate::image::digest::Digest;
use crate::image::document::{Document, host_architecture};
use crate::image::layer::LayerStore;
use crate::image::oci::{ArchiveItem, Descriptor, IMAGE_NAME, Node, REF_NAME, is_image};
use crate::image::reference::Reference;
use crate::image::{NewImage, invalid};

/// Indexes below indexes.
const DEEPEST: usize = 4;

impl Archive {
    /// The images, from `manifest.json` as dockerd has it, or from the index of an OCI layout.
    pub(super) fn plan(&self, layers: &Arc<LayerStore>) -> Result<Vec<NewImage>, Failure> {
        let planned = match (self.item(b"manifest.json"), self.item(b"index.json")) {
            (Some(Item::Document(manifest)), _) => self.docker(manifest, layers),
            (_, Some(Item::Document(index))) => self.layout(index, layers),
            _ => Err(Failure::invalid("invalid archive: does not contain a manifest.json")),
        }?;
        if planned.is_empty() {
            return Err(Failure::invalid("invalid archive: it has no images"));
        }
        Ok(planned)
    }

    fn docker(&self, manifest: &[u8], layers: &Arc<LayerStore>) -> Result<Vec<NewImage>, Failure> {
        let items: Vec<ArchiveItem> = serde_json::from_slice(manifest).map_err(invalid)?;
        check_count(items.len(), layers)?;
        let mut planned = Vec::new();
        for item in items {
            let config = self.document(item.config.as_bytes())?;
            let paths = item.layers.unwrap_or_default();
            let paths: Vec<_> = paths.iter().map(String::as_bytes).collect();
            let mut names = Vec::new();
            for tag in item.repo_tags.unwrap_or_default() {
                let name = Reference::parse(&tag).map_err(invalid)?;
                if name.tag().is_none() {
                    return Err(Failure::invalid(format!("invalid tag {tag:?}")));
                }
                names.push(name);
            }
            planned.push(NewImage { parent: item.parent, names, ..self.image(config, &paths, layers)? });
        }
        Ok(planned)
    }

    /// Configuration and layers fit each other.
    fn image(&self, config: &[u8], paths: &[&[u8]], layers: &Arc<LayerStore>) -> Result<NewImage, Failure> {
        let document = Document::parse(config).map_err(invalid)?;
        let expected = document.layers();
        if expected.len() != paths.len() {
            return Err(Failure::invalid(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                expected.len(),
                paths.len()
            )));
        }
        if expected.len() > layers.limits().layers {
            return Err(Failure::invalid("max depth exceeded"));
        }
        let mut pins = Vec::new();
        for (position, (expected, path)) in expected.iter().zip(paths).enumerate() {
            let pin = match self.item(&clean(path).map_err(invalid)?.join(&b'/')) {
                Some(Item::Layer(pin)) => {
                    let actual = pin.record().digest;
                    if actual != *expected {
                        return Err(Failure::invalid(format!(
                            "invalid diffID for layer {position}: expected \"{expected}\", got \"{actual}\""
                        )));
                    }
                    layers.pin(expected)
                }
                Some(Item::Unusable(why)) => {
                    return Err(Failure::invalid(format!("layer {}: {why}", String::from_utf8_lossy(path))));
                }
                Some(Item::Document(_)) => None,
                // An archive need not bring what is here.
                _ => layers.pin(expected),
            };
            pins.push(pin.ok_or_else(|| missing(path))?);
        }
        Ok(NewImage { config: config.to_vec(), document, parent: None, pins, names: Vec::new() })
    }

    fn document(&self, path: &[u8]) -> Result<&[u8], Failure> {
        match self.item(&clean(path).map_err(invalid)?.join(&b'/')) {
            Some(Item::Document(bytes)) => Ok(bytes),
            _ => Err(missing(path)),
        }
    }

    fn layout(&self, index: &[u8], layers: &Arc<LayerStore>) -> Result<Vec<NewImage>, Failure> {
        let Node::Index(descriptors) = Node::parse(index, "").map_err(invalid)? else {
            return Err(Failure::invalid("invalid archive: its index.json is not an index"));
        };
        check_count(descriptors.len(), layers)?;
        // Several names of one image are several entries.
        let mut by_manifest: BTreeMap<String, (Descriptor, Vec<Reference>)> = BTreeMap::new();
        let mut order = Vec::new();
        for descriptor in descriptors.into_iter().filter(|descriptor| !is_attestation(descriptor)) {
            let name = name(&descriptor);
            let key = descriptor.digest.clone();
            let entry = by_manifest.entry(key.clone()).or_insert_with(|| {
                order.push(key);
                (descriptor, Vec::new())
            });
            entry.1.extend(name.filter(|name| !entry.1.contains(name)));
        }
        let mut planned: Vec<NewImage> = Vec::new();
        for digest in order {
            let Some((descriptor, names)) = by_manifest.remove(&digest) else { continue };
            let Some((config, layer_descriptors)) = self.manifest(&descriptor, 0)? else { continue };
            let config = self.blob(&config)?;
            let paths = layer_descriptors.iter().map(blob_path).collect::<Result<Vec<_>, _>>()?;
            let paths: Vec<_> = paths.iter().map(String::as_bytes).collect();
            planned.push(NewImage { names, ..self.image(config, &paths, layers)? });
        }
        Ok(planned)
    }

    /// The manifest for this machine below a descriptor; none when it is no image.
    fn manifest(
        &self,
        descriptor: &Descriptor,
        depth: usize,
    ) -> Result<Option<(Descriptor, Vec<Descriptor>)>, Failure> {
        if depth > DEEPEST {
            return Err(Failure::invalid("invalid archive: indexes are nested too deep"));
        }
        match Node::parse(self.blob(descriptor)?, &descriptor.media_type).map_err(invalid)? {
            Node::Manifest { config, layers } => Ok(is_image(&config, &layers).then_some((config, layers))),
            Node::Index(descriptors) => {
                let here = |descriptor: &&Descriptor| !is_attestation(descriptor) && self.blob(descriptor).is_ok();
                let candidates: Vec<_> = descriptors.iter().filter(here).collect();
                let ours = candidates.iter().find(|descriptor| {
                    let platform = descriptor.platform.as_ref();
                    platform
                        .is_some_and(|platform| platform.os == "linux" && platform.architecture == host_architecture())
                });
                match (ours, candidates.as_slice()) {
                    (Some(one), _) | (None, [one]) => self.manifest(one, depth + 1),
                    _ => Err(Failure::invalid(format!("no image for linux/{} in the archive", host_architecture()))),
                }
            }
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<&[u8], Failure> {
        let bytes = self.document(blob_path(descriptor)?.as_bytes())?;
        if descriptor.size != bytes.len() as u64 {
            return Err(Failure::invalid(format!(
                "blob {} has {} bytes where {} were announced",
                descriptor.digest,
                bytes.len(),
                descriptor.size
            )));
        }
        Ok(bytes)
    }
}

fn missing(path: &[u8]) -> Failure {
    Failure::invalid(format!("invalid archive: {} is missing", String::from_utf8_lossy(path)))
}

fn check_count(count: usize, layers: &LayerStore) -> Result<(), Failure> {
    if count > layers.limits().images {
        return Err(Failure::invalid(format!("an archive of more than {} images", layers.limits().images)));
    }
    Ok(())
}

fn blob_path(descriptor: &Descriptor) -> Result<String, Failure> {
    let digest: Digest = descriptor.digest.parse().map_err(invalid)?;
    Ok(format!("blobs/sha256/{}", digest.hex()))
}

/// Says something about another image instead of being one.
fn is_attestation(descriptor: &Descriptor) -> bool {
    let annotated = descriptor.annotations.as_ref().is_some_and(|annotations| {
        annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
    });
    annotated || descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

/// A name in full. A bare tag names nothing: it says which of a layout's images, not what image.
fn name(descriptor: &Descriptor) -> Option<Reference> {
    let annotations = descriptor.annotations.as_ref()?;
    let whole = annotations.get(IMAGE_NAME);
    let text = whole.or_else(|| annotations.get(REF_NAME).filter(|text| text.contains(['/', ':'])))?;
    let name = Reference::parse(text).ok()?.or_latest();
    name.digest().is_none().then_some(name)
}
