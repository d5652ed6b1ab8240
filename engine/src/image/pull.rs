//! A pull, as far as there is one: of an image that is here.

use shoal_proto::error::Failure;

use super::catalog::no_such_image;
use super::inner::Inner;
use super::reference::Reference;
use super::{ImageEvent, invalid};
use crate::model::ProgressMessage;

/// What a pull of an image that is here tells, and lets others know. Clients read the tag from the first message.
///
/// # Errors
/// When `name` is no reference, or there is no such image. Ids are no names: nobody can be asked for them.
pub(super) fn up_to_date(inner: &Inner, name: &str) -> Result<Vec<ProgressMessage>, Failure> {
    let reference = Reference::parse(name).map_err(invalid)?.for_lookup();
    let catalog = inner.catalog.load();
    let image = catalog.get(&reference).ok_or_else(|| no_such_image(&reference.familiar()))?;
    let digest_of = |known: &&Reference| known.name() == reference.name() && known.digest().is_some();
    let digest = catalog.references_of(&image.id()).into_iter().find(digest_of).and_then(Reference::digest).copied();
    let tag = reference.tag().map(str::to_owned).or_else(|| reference.digest().map(ToString::to_string));
    let mut messages =
        vec![ProgressMessage { id: tag, ..ProgressMessage::status(format!("Pulling from {}", reference.path())) }];
    messages.extend(digest.map(|digest| ProgressMessage::status(format!("Digest: {digest}"))));
    messages.push(ProgressMessage::status(format!("Status: Image is up to date for {name}")));
    // As in dockerd, it is the name that was pulled, not an image.
    let mut attributes = image.record.config.labels.clone().unwrap_or_default();
    attributes.insert("name".to_owned(), reference.familiar_name());
    inner.tell(ImageEvent { action: "pull", id: reference.familiar(), attributes });
    Ok(messages)
}
