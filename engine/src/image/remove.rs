//! Removing images: what goes is decided first, as a value; then it is carried out.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_proto::error::Failure;

use super::catalog::{Catalog, ImageEntry};
use super::digest::Digest;
use super::reference::Reference;
use super::{ImageRemoveOptions, ImageUser, invalid};

/// One thing that happens, in order.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A reference to this image goes.
    Untag(Digest, String),
    /// The image goes, then the layers that nobody else has.
    Delete(Arc<ImageEntry>),
}

/// Tells which containers use an image.
pub(super) type Users<'a> = &'a dyn Fn(&Digest) -> Vec<ImageUser>;

/// Decides what `docker rmi` removes, and removes it from this catalog.
///
/// # Errors
/// When the image does not exist or is in use; the catalog must not be used then.
pub(super) fn remove(
    catalog: &mut Catalog,
    name: &str,
    options: ImageRemoveOptions,
    users: Users<'_>,
) -> Result<Vec<Step>, Failure> {
    let image = Arc::clone(catalog.find(name)?);
    let id = image.id();
    let mut removal = Removal { catalog, steps: Vec::new(), users, force: options.force };
    let references = removal.references(&id);
    let by_id = id.to_string().starts_with(name) || id.hex().starts_with(name);
    let mut quiet = false;
    if by_id {
        // With one tag at most the id stands for the tag, too.
        if is_single(&references) {
            removal.check(&id, false)?;
            removal.untag_all(&id);
        }
    } else {
        if !options.force
            && is_single(&references)
            && let Some(user) = (removal.users)(&id).first()
        {
            return Err(Failure::conflict(format!(
                "conflict: unable to remove repository reference {name:?} (must force) - container {} is using its \
                 referenced image {}",
                short(&user.container_id),
                id.short()
            )));
        }
        let reference = Reference::parse(name).map_err(invalid)?.for_lookup();
        removal.untag(&reference);
        let mut left = removal.references(&id);
        // Digests of a repository go with its last tag.
        let tagged = left.iter().any(|other| other.digest().is_none() && other.name() == reference.name());
        if reference.digest().is_none() && !tagged {
            for other in left.iter().filter(|other| other.name() == reference.name()) {
                removal.untag(other);
            }
            left = removal.references(&id);
        }
        if !left.is_empty() {
            return Ok(removal.steps);
        }
        quiet = true;
    }
    removal.delete(&id, !options.no_prune, quiet)?;
    Ok(removal.steps)
}

/// The first 12 characters.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// One tag at most, and digests only of the same repository.
fn is_single(references: &[Reference]) -> bool {
    if references.len() <= 1 {
        return true;
    }
    let mut tags = references.iter().filter(|reference| reference.digest().is_none());
    let single = tags.next().or(references.first());
    if tags.next().is_some() {
        return false;
    }
    let names: BTreeSet<String> =
        references.iter().filter(|reference| reference.digest().is_some()).map(Reference::name).collect();
    names.len() == 1 && single.is_some_and(|single| names.contains(&single.name()))
}

struct Removal<'a> {
    catalog: &'a mut Catalog,
    steps: Vec<Step>,
    users: Users<'a>,
    force: bool,
}

/// Why an image stays.
struct InUse {
    hard: bool,
    used: bool,
    message: String,
}

impl Removal<'_> {
    fn references(&self, id: &Digest) -> Vec<Reference> {
        self.catalog.references_of(id).into_iter().cloned().collect()
    }

    fn untag(&mut self, reference: &Reference) {
        if let Some(id) = self.catalog.references.remove(reference) {
            self.steps.push(Step::Untag(id, reference.familiar()));
        }
    }

    fn untag_all(&mut self, id: &Digest) {
        for reference in self.references(id) {
            self.untag(&reference);
        }
    }

    /// Without `force` also what force would overcome counts; references only with `references`.
    fn in_use(&self, id: &Digest, force: bool, references: bool) -> Option<InUse> {
        if self.catalog.has_children(id) {
            return Some(InUse { hard: true, used: false, message: "image has dependent child images".to_owned() });
        }
        let users = (self.users)(id);
        if let Some(user) = users.iter().find(|user| user.running) {
            let message = format!("image is being used by running container {}", short(&user.container_id));
            return Some(InUse { hard: true, used: true, message });
        }
        if force {
            return None;
        }
        if references && !self.references(id).is_empty() {
            let message = "image is referenced in multiple repositories".to_owned();
            return Some(InUse { hard: false, used: false, message });
        }
        users.first().map(|user| {
            let message = format!("image is being used by stopped container {}", short(&user.container_id));
            InUse { hard: false, used: true, message }
        })
    }

    fn check(&self, id: &Digest, references: bool) -> Result<(), Failure> {
        match self.in_use(id, self.force, references) {
            Some(in_use) => Err(conflict(id, &in_use)),
            None => Ok(()),
        }
    }

    fn delete(&mut self, id: &Digest, prune: bool, quiet: bool) -> Result<(), Failure> {
        let (mut id, mut quiet) = (*id, quiet);
        loop {
            if let Some(in_use) = self.in_use(&id, self.force, true) {
                let dangling = self.references(&id).is_empty() && !self.catalog.has_children(&id);
                if quiet && (!dangling || in_use.used) {
                    return Ok(());
                }
                return Err(conflict(&id, &in_use));
            }
            self.untag_all(&id);
            let Some(image) = self.catalog.images.remove(&id) else { return Ok(()) };
            let parent = image.parent.filter(|parent| self.catalog.images.contains_key(parent));
            self.steps.push(Step::Delete(image));
            // Parents that nobody names go, too, but nothing is forced for them.
            let Some(parent) = parent.filter(|_| prune) else { return Ok(()) };
            id = parent;
            quiet = true;
            self.force = false;
        }
    }
}

fn conflict(id: &Digest, in_use: &InUse) -> Failure {
    let force = if in_use.hard { "cannot be forced" } else { "must be forced" };
    Failure::conflict(format!("conflict: unable to delete {} ({force}) - {}", id.short(), in_use.message))
}

#[cfg(test)]
mod tests {
    use shoal_proto::time::Timestamp;

    use super::*;
    use crate::image::document::Document;

    fn id(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn catalog(references: &[(&str, u8)], parents: &[(u8, Option<u8>)]) -> Catalog {
        let mut catalog = Catalog::default();
        for (number, parent) in parents {
            let document = Document::parse(br#"{"rootfs":{"type":"layers"}}"#).unwrap();
            let entry = ImageEntry::new(id(*number), document, parent.map(id), Timestamp::ZERO);
            catalog.images.insert(id(*number), Arc::new(entry));
        }
        for (reference, number) in references {
            catalog.references.insert(Reference::parse(reference).unwrap(), id(*number));
        }
        catalog
    }

    fn run(catalog: &Catalog, name: &str, force: bool, users: &[(u8, bool)]) -> Result<Vec<String>, String> {
        let users = |image: &Digest| {
            let user = |running: bool| ImageUser { container_id: "c".repeat(64), running };
            users.iter().filter(|(number, _)| id(*number) == *image).map(|(_, running)| user(*running)).collect()
        };
        let mut catalog = catalog.clone();
        let options = ImageRemoveOptions { force, no_prune: false };
        let steps = remove(&mut catalog, name, options, &users).map_err(|failure| failure.message)?;
        for step in &steps {
            if let Step::Delete(image) = step {
                assert!(!catalog.images.contains_key(&image.id()));
            }
        }
        let show = |step: &Step| match step {
            Step::Untag(_, name) => format!("untag {name}"),
            Step::Delete(image) => {
                format!("delete {}", (0..9).find(|number| id(*number) == image.id()).unwrap())
            }
        };
        Ok(steps.iter().map(show).collect())
    }

    #[test]
    fn the_last_name_takes_the_image_along() {
        let one = catalog(&[("app:v1", 1)], &[(1, None)]);
        assert_eq!(run(&one, "app:v1", false, &[]).unwrap(), ["untag app:v1", "delete 1"]);
        let two = catalog(&[("app:v1", 1), ("app:v2", 1)], &[(1, None)]);
        assert_eq!(run(&two, "app:v1", false, &[]).unwrap(), ["untag app:v1"]);
        assert_eq!(run(&one, "app", false, &[]).unwrap_err(), "No such image: app:latest");
    }

    #[test]
    fn an_id_stands_for_one_tag_only() {
        let hex = id(1).hex();
        let one = catalog(&[("app:v1", 1)], &[(1, None)]);
        assert_eq!(run(&one, &hex[..12], false, &[]).unwrap(), ["untag app:v1", "delete 1"]);
        let two = catalog(&[("app:v1", 1), ("other:v1", 1)], &[(1, None)]);
        let message = format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            &hex[..12]
        );
        assert_eq!(run(&two, &hex, false, &[]).unwrap_err(), message);
        assert_eq!(run(&two, &hex, true, &[]).unwrap(), ["untag app:v1", "untag other:v1", "delete 1"]);
    }

    #[test]
    fn digests_go_with_the_last_tag_of_their_repository() {
        let digest = format!("app@{}", id(7));
        let catalog = catalog(&[("app:v1", 1), (&digest, 1)], &[(1, None)]);
        let expected = ["untag app:v1".to_owned(), format!("untag {digest}"), "delete 1".to_owned()];
        assert_eq!(run(&catalog, "app:v1", false, &[]).unwrap(), expected);
    }

    #[test]
    fn containers_keep_their_image() {
        let one = catalog(&[("app:v1", 1)], &[(1, None)]);
        let short = id(1).short();
        assert_eq!(
            run(&one, "app:v1", false, &[(1, true)]).unwrap_err(),
            format!(
                "conflict: unable to remove repository reference \"app:v1\" (must force) - container cccccccccccc is \
                 using its referenced image {short}"
            )
        );
        assert_eq!(run(&one, "app:v1", true, &[(1, false)]).unwrap(), ["untag app:v1", "delete 1"]);
        // As dockerd: forced with a running container, the name goes and the image stays.
        assert_eq!(run(&one, "app:v1", true, &[(1, true)]).unwrap(), ["untag app:v1"]);
        assert_eq!(
            run(&one, &id(1).hex(), true, &[(1, true)]).unwrap_err(),
            format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by running container \
                 cccccccccccc"
            )
        );
        assert_eq!(
            run(&one, &id(1).hex(), false, &[(1, false)]).unwrap_err(),
            format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by stopped container \
                 cccccccccccc"
            )
        );
    }

    #[test]
    fn parents_without_name_go_with_their_last_child() {
        let family = catalog(&[("app:v1", 3)], &[(1, None), (2, Some(1)), (3, Some(2))]);
        assert_eq!(run(&family, "app:v1", false, &[]).unwrap(), ["untag app:v1", "delete 3", "delete 2", "delete 1"]);
        let named = catalog(&[("app:v1", 3), ("base:v1", 2)], &[(1, None), (2, Some(1)), (3, Some(2))]);
        assert_eq!(run(&named, "app:v1", false, &[]).unwrap(), ["untag app:v1", "delete 3"]);
        let error = run(&family, &id(1).hex(), true, &[]).unwrap_err();
        assert!(error.ends_with("(cannot be forced) - image has dependent child images"), "{error}");
    }
}
