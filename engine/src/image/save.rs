//! Archives for elsewhere: at once a Docker archive, as `docker load` of any version reads, and an OCI image layout.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;
use shoal_proto::error::Failure;

use super::catalog::ImageEntry;
use super::digest::Digest;
use super::layer::LayerPin;
use super::oci::{
    ArchiveItem, CONFIG, Descriptor, IMAGE_NAME, INDEX, LAYER, MANIFEST, NewIndex, NewManifest, Platform, REF_NAME,
};
use super::reference::{AnyReference, Reference};
use super::tar::write::{END, padding, plain_directory, plain_file};
use super::{Inner, failed, invalid};

/// Images to be saved, with the names that go along. Their layers stay as long as this lives.
pub(super) struct Selection {
    images: Vec<(Arc<ImageEntry>, Vec<Reference>)>,
    configs: BTreeMap<Digest, Vec<u8>>,
    pins: Vec<LayerPin>,
}

impl Selection {
    /// Chooses as dockerd does: a repository stands for all its tags, an id for the image without names.
    pub(super) fn new(inner: &Inner, names: &[String]) -> Result<Self, Failure> {
        let catalog = inner.catalog.load();
        let mut selection = Self { images: Vec::new(), configs: BTreeMap::new(), pins: Vec::new() };
        if names.is_empty() {
            return Err(Failure::invalid("no images to save were named"));
        }
        for name in names {
            let missing = || Failure::not_found(format!("No such image: {name}"));
            match AnyReference::parse(name).map_err(invalid)? {
                AnyReference::Id(id) => selection.choose(catalog.images.get(&id).ok_or_else(missing)?, None),
                AnyReference::Named(reference) if reference.is_name_only() => {
                    let all = reference.name();
                    let tags: Vec<_> = catalog.references.iter().filter(|(other, _)| other.name() == all).collect();
                    for (tag, id) in &tags {
                        if let Some(image) = catalog.images.get(id) {
                            selection.choose(image, Some(tag));
                        }
                    }
                    if tags.is_empty() {
                        selection.choose(catalog.by_prefix(name)?.ok_or_else(missing)?, None);
                    }
                }
                AnyReference::Named(reference) => {
                    let image = catalog.get(&reference).or(catalog.by_prefix(name)?);
                    selection.choose(image.ok_or_else(missing)?, Some(&reference));
                }
            }
        }
        let mut layers = BTreeSet::new();
        for (image, _) in &selection.images {
            layers.extend(image.record.layers.iter().copied());
            selection.configs.insert(image.id(), inner.read_blob(&image.id())?);
        }
        for layer in layers {
            let missing = || Failure::not_found(format!("layer {layer} does not exist"));
            selection.pins.push(inner.layers.pin(&layer).ok_or_else(missing)?);
        }
        Ok(selection)
    }

    fn choose(&mut self, image: &Arc<ImageEntry>, name: Option<&Reference>) {
        let position = match self.images.iter().position(|(other, _)| other.id() == image.id()) {
            Some(position) => position,
            None => {
                self.images.push((Arc::clone(image), Vec::new()));
                self.images.len() - 1
            }
        };
        let names = &mut self.images[position].1;
        // Digests of manifests do not survive: the layers are written uncompressed.
        if let Some(name) = name.filter(|name| name.tag().is_some() && name.digest().is_none() && !names.contains(name))
        {
            names.push(name.clone());
        }
    }

    /// Writes the archive.
    pub(super) fn write(&self, inner: &Inner, output: &mut dyn Write) -> Result<(), Failure> {
        let mut archive = Archive { output, written: BTreeSet::new() };
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        let mut sizes = BTreeMap::new();
        for pin in &self.pins {
            let record = pin.record();
            sizes.insert(record.digest, record.tar_bytes);
            archive.put(&plain_file(&blob_path(&record.digest), record.tar_bytes, 0))?;
            inner.layers.write_tar(&record.digest, &mut archive.output)?;
            archive.put(padding(record.tar_bytes))?;
        }
        let mut items = Vec::new();
        let mut manifests = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (image, names) in &self.images {
            let manifest = archive.image(image, self.configs.get(&image.id()).map_or(&[], Vec::as_slice), &sizes)?;
            manifests.extend(named(&manifest, names));
            items.push(self.item(image, names));
            if let Some(top) = image.record.layers.last() {
                for name in names {
                    let tags = repositories.entry(name.familiar_name()).or_default();
                    tags.insert(name.tag().unwrap_or("latest").to_owned(), top.hex());
                }
            }
            inner.event("save", Some(image), &image.id().to_string());
        }
        archive.json("index.json", &NewIndex { schema_version: 2, media_type: INDEX, manifests })?;
        archive.json("manifest.json", &items)?;
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0)?;
        if !repositories.is_empty() {
            archive.json("repositories", &repositories)?;
        }
        archive.put(&END)?;
        archive.output.flush().map_err(|error| failed("cannot write the archive", &error))
    }

    fn item(&self, image: &ImageEntry, names: &[Reference]) -> ArchiveItem {
        let parent = image.parent.filter(|parent| self.images.iter().any(|(other, _)| other.id() == *parent));
        ArchiveItem {
            config: blob_path(&image.id()),
            repo_tags: (!names.is_empty()).then(|| names.iter().map(Reference::familiar).collect()),
            layers: Some(image.record.layers.iter().map(blob_path).collect()),
            parent,
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// One entry of the index for each name.
fn named(manifest: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![manifest.clone()];
    }
    let annotated = |name: &Reference| {
        let annotations = BTreeMap::from([
            (IMAGE_NAME.to_owned(), name.to_string()),
            (REF_NAME.to_owned(), name.tag().unwrap_or("latest").to_owned()),
        ]);
        Descriptor { annotations: Some(annotations), ..manifest.clone() }
    };
    names.iter().map(annotated).collect()
}

struct Archive<'a> {
    output: &'a mut dyn Write,
    written: BTreeSet<Digest>,
}

impl Archive<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.output.write_all(bytes).map_err(|error| failed("cannot write the archive", &error))
    }

    fn directory(&mut self, path: &str) -> Result<(), Failure> {
        self.put(&plain_directory(path, 0))
    }

    fn file(&mut self, path: &str, content: &[u8], modified: i64) -> Result<(), Failure> {
        self.put(&plain_file(path, content.len() as u64, modified))?;
        self.put(content)?;
        self.put(padding(content.len() as u64))
    }

    fn json(&mut self, path: &str, value: &impl Serialize) -> Result<(), Failure> {
        let bytes =
            serde_json::to_vec(value).map_err(|error| failed("cannot write the archive", &io::Error::other(error)))?;
        self.file(path, &bytes, 0)
    }

    /// Configuration and manifest.
    fn image(
        &mut self,
        image: &ImageEntry,
        config: &[u8],
        sizes: &BTreeMap<Digest, u64>,
    ) -> Result<Descriptor, Failure> {
        let created = image.record.created.0.div_euclid(1_000_000_000).max(0);
        let descriptor = |media_type: &str, digest: &Digest, size: u64| Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size,
            ..Descriptor::default()
        };
        let layers = image.record.layers.iter();
        let manifest = NewManifest {
            schema_version: 2,
            media_type: MANIFEST,
            config: descriptor(CONFIG, &image.id(), config.len() as u64),
            layers: layers.map(|layer| descriptor(LAYER, layer, sizes.get(layer).copied().unwrap_or(0))).collect(),
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|error| Failure::internal(&error))?;
        let digest = Digest::of(&manifest);
        for (digest, bytes) in [(image.id(), config), (digest, manifest.as_slice())] {
            if self.written.insert(digest) {
                self.file(&blob_path(&digest), bytes, created)?;
            }
        }
        let platform = Platform { architecture: image.record.architecture.clone(), os: image.record.os.clone() };
        let platform = (!platform.architecture.is_empty()).then_some(platform);
        Ok(Descriptor { platform, ..descriptor(MANIFEST, &digest, manifest.len() as u64) })
    }
}
