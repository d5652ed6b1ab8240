//! New images of root file systems, and new names.

use std::io::BufRead;
use std::sync::Arc;

use shoal_proto::error::Failure;

use super::catalog::ImageEntry;
use super::changes::apply_changes;
use super::digest::Digest;
use super::document::{Document, NewDocument, host_architecture};
use super::reference::Reference;
use super::{ImportRequest, Inner, NewImage, invalid};
use crate::model::ImageConfig;

/// As `docker import`.
pub(super) fn import(
    inner: &Arc<Inner>,
    source: impl BufRead + Send,
    request: &ImportRequest,
) -> Result<Digest, Failure> {
    // What can be refused is refused before anything is read.
    let name = new_name(&request.repository, &request.tag, "cannot import digest reference")?;
    let mut config = ImageConfig::default();
    apply_changes(&mut config, &request.changes)?;
    let mut platform = request.platform.splitn(3, '/').map(str::trim);
    let (os, architecture, variant) = (platform.next(), platform.next(), platform.next());
    let os = os.filter(|os| !os.is_empty()).unwrap_or("linux");
    if os != "linux" {
        return Err(Failure::invalid(format!("operating system {os:?} is not supported")));
    }
    let layer = inner.layers.add(source, None)?;
    let created = inner.options.clock.now();
    let json = NewDocument {
        config: &config,
        architecture: architecture.filter(|name| !name.is_empty()).unwrap_or(host_architecture()),
        variant: variant.unwrap_or_default(),
        os,
        created,
        comment: if request.message.is_empty() { "Imported from -" } else { &request.message },
        author: "",
        created_by: "",
        layers: &[layer.record().digest],
        base: None,
        container: None,
    }
    .to_json()
    .map_err(|error| Failure::internal(&error))?;
    let id = Digest::of(&json);
    let document = Document::parse(&json).map_err(invalid)?;
    let names = name.clone().into_iter().collect();
    let added =
        inner.add(vec![NewImage { config: json, document, parent: None, pins: vec![layer], names }], created)?;
    let image = added.first().map(AsRef::as_ref);
    if let Some(name) = name {
        inner.event("tag", image, &name.familiar());
    }
    inner.event("import", image, &id.to_string());
    Ok(id)
}

/// The name of a new image, if it is to have one.
pub(super) fn new_name(repository: &str, tag: &str, no_digest: &str) -> Result<Option<Reference>, Failure> {
    if repository.is_empty() {
        return Ok(None);
    }
    let name = Reference::parse(repository).map_err(invalid)?;
    if name.digest().is_some() {
        return Err(Failure::invalid(no_digest));
    }
    let name = if tag.is_empty() { name } else { name.with_tag(tag).map_err(invalid)? };
    check_tag(name.or_latest()).map(Some)
}

/// A name that would read as a digest.
fn check_tag(name: Reference) -> Result<Reference, Failure> {
    if name.familiar_name() == "sha256" {
        return Err(Failure::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
    }
    Ok(name)
}

/// As `docker tag`.
pub(super) fn tag(inner: &Inner, source: &str, repository: &str, tag: &str) -> Result<(), Failure> {
    let name = Reference::parse(repository).map_err(invalid)?;
    if name.digest().is_some() {
        return Err(Failure::invalid("refusing to create a tag with a digest reference"));
    }
    let name = if tag.is_empty() { name } else { name.with_tag(tag).map_err(invalid)? };
    let name = check_tag(name.or_latest())?;
    let now = inner.options.clock.now();
    let image = inner.change(|catalog| {
        let image = Arc::clone(catalog.find(source)?);
        let image = Arc::new(ImageEntry {
            record: Arc::clone(&image.record),
            document: image.document.clone(),
            parent: image.parent,
            last_tag: now,
        });
        catalog.images.insert(image.id(), Arc::clone(&image));
        catalog.references.insert(name.clone(), image.id());
        Ok(image)
    })?;
    inner.event("tag", Some(&image), &name.familiar());
    Ok(())
}
