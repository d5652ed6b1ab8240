//! The images that there are and the references to them: one immutable value, replaced on disk and then in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_engine_sys::fs::{Directory, replace_file};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::time::Timestamp;

use super::digest::Digest;
use super::document::Document;
use super::reference::{AnyReference, Reference};
use super::{ImageRecord, invalid};

/// File name.
const FILE: &str = "catalog.json";

/// One image.
#[derive(Debug)]
pub(super) struct ImageEntry {
    pub(super) record: Arc<ImageRecord>,
    pub(super) document: Document,
    /// The image it was made of here.
    pub(super) parent: Option<Digest>,
    pub(super) last_tag: Timestamp,
}

impl ImageEntry {
    pub(super) fn new(id: Digest, document: Document, parent: Option<Digest>, last_tag: Timestamp) -> Self {
        let record = ImageRecord {
            id,
            config: document.config.clone(),
            layers: document.layers().to_vec(),
            architecture: document.architecture.clone(),
            os: if document.os.is_empty() { "linux".to_owned() } else { document.os.clone() },
            created: document.created(),
        };
        Self { record: Arc::new(record), document, parent, last_tag }
    }

    pub(super) fn id(&self) -> Digest {
        self.record.id
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Catalog {
    pub(super) images: BTreeMap<Digest, Arc<ImageEntry>>,
    pub(super) references: BTreeMap<Reference, Digest>,
    /// Layers that may not be on disk yet.
    pub(super) unsynced: BTreeSet<Digest>,
}

/// As it is on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    images: BTreeMap<Digest, StoredImage>,
    references: BTreeMap<String, Digest>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    unsynced: BTreeSet<Digest>,
    /// The run of the machine in which that was so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    boot: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct StoredImage {
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Digest>,
    #[serde(default)]
    last_tag: Timestamp,
}

impl Catalog {
    /// Reads it; what it says of an image is completed by `document`. Images that cannot be read are left out. Layers
    /// that were not synced when the machine stopped go through `check`.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub(super) fn read(
        directory: &Directory,
        mut check: impl FnMut(&Digest),
        mut document: impl FnMut(&Digest) -> Result<Document, Failure>,
    ) -> io::Result<Self> {
        let stored: Stored = match directory.open_file(Path::new(FILE)) {
            Ok(file) => serde_json::from_reader(io::BufReader::new(file)).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stored { version: 1, ..Stored::default() },
            Err(error) => return Err(error),
        };
        if stored.version != 1 {
            return Err(io::Error::other(format!("{FILE} has the unknown version {}", stored.version)));
        }
        let mut catalog = Self::default();
        if stored.boot == boot() {
            catalog.unsynced = stored.unsynced;
        } else {
            stored.unsynced.iter().for_each(&mut check);
        }
        for (id, image) in stored.images {
            match document(&id) {
                Ok(document) => {
                    catalog.images.insert(id, Arc::new(ImageEntry::new(id, document, image.parent, image.last_tag)));
                }
                Err(failure) => tracing::error!(image = %id, %failure, "leaving out a damaged image"),
            }
        }
        for (reference, id) in stored.references {
            match Reference::parse(&reference) {
                Ok(reference) if catalog.images.contains_key(&id) => {
                    catalog.references.insert(reference, id);
                }
                _ => tracing::error!(%reference, image = %id, "leaving out a reference to a damaged image"),
            }
        }
        Ok(catalog)
    }

    /// Writes it, so that either the old or the new one is there at any instant.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn write(&self, directory: &Directory) -> io::Result<()> {
        let images =
            self.images.iter().map(|(id, image)| (*id, StoredImage { parent: image.parent, last_tag: image.last_tag }));
        let references = self.references.iter().map(|(reference, id)| (reference.to_string(), *id));
        let stored = Stored {
            version: 1,
            images: images.collect(),
            references: references.collect(),
            boot: if self.unsynced.is_empty() { String::new() } else { boot() },
            unsynced: self.unsynced.clone(),
        };
        let json = serde_json::to_vec(&stored).map_err(io::Error::other)?;
        replace_file(directory, OsStr::new(FILE), &json, 0o600)
    }

    /// Finds an image as `docker run` does: by name, by id, by the start of an id.
    pub(super) fn find(&self, text: &str) -> Result<&Arc<ImageEntry>, Failure> {
        match AnyReference::parse(text).map_err(invalid)? {
            AnyReference::Id(id) => self.images.get(&id).ok_or_else(|| no_such_image(text)),
            AnyReference::Named(reference) => {
                if let Some(image) = self.get(&reference) {
                    return Ok(image);
                }
                if let Some(image) = self.by_prefix(text)? {
                    return Ok(image);
                }
                Err(no_such_image(&reference.or_latest().familiar()))
            }
        }
    }

    /// The image that a reference stands for.
    pub(super) fn get(&self, reference: &Reference) -> Option<&Arc<ImageEntry>> {
        self.references.get(&reference.clone().for_lookup()).and_then(|id| self.images.get(id))
    }

    /// The image whose id begins so.
    pub(super) fn by_prefix(&self, text: &str) -> Result<Option<&Arc<ImageEntry>>, Failure> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.is_empty() || !hex.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)) {
            return Ok(None);
        }
        let mut found = self.images.iter().filter(|(id, _)| id.hex().starts_with(hex));
        let first = found.next();
        if found.next().is_some() {
            return Err(Failure::not_found(format!("ambiguous image id prefix: {text}")));
        }
        Ok(first.map(|(_, image)| image))
    }

    /// References to an image, in order.
    pub(super) fn references_of(&self, id: &Digest) -> Vec<&Reference> {
        self.references.iter().filter(|(_, target)| *target == id).map(|(reference, _)| reference).collect()
    }

    /// Was another image made of this one?
    pub(super) fn has_children(&self, id: &Digest) -> bool {
        self.images.values().any(|image| image.parent == Some(*id))
    }

    /// References of every image.
    pub(super) fn references_by_image(&self) -> BTreeMap<Digest, Vec<&Reference>> {
        let mut by_image: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (reference, id) in &self.references {
            by_image.entry(*id).or_default().push(reference);
        }
        by_image
    }
}

/// Different each time the machine starts.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub(super) fn no_such_image(name: &str) -> Failure {
    Failure::new(ErrorKind::NotFound, format!("No such image: {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: u8) -> (Digest, Arc<ImageEntry>) {
        let id = Digest::of(&[number]);
        let document = Document::parse(br#"{"rootfs":{"type":"layers"}}"#).unwrap();
        (id, Arc::new(ImageEntry::new(id, document, None, Timestamp(i64::from(number)))))
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.images.extend([image(1), image(2)]);
        catalog.references.insert(Reference::parse("app:v1").unwrap(), Digest::of(&[1]));
        catalog
    }

    #[test]
    fn it_comes_back_from_disk() {
        let host = tempfile::tempdir().unwrap();
        let directory = Directory::open(host.path()).unwrap();
        assert!(Catalog::read(&directory, |_| (), |_| panic!("nothing there")).unwrap().images.is_empty());
        catalog().write(&directory).unwrap();
        let read = Catalog::read(
            &directory,
            |_| panic!("all is synced"),
            |id| {
                if *id == Digest::of(&[2]) {
                    return Err(Failure::invalid("damaged"));
                }
                Ok(Document::parse(br#"{"rootfs":{"type":"layers"}}"#).unwrap())
            },
        );
        let read = read.unwrap();
        assert_eq!(read.images.keys().collect::<Vec<_>>(), [&Digest::of(&[1])]);
        assert_eq!(read.images[&Digest::of(&[1])].last_tag, Timestamp(1));
        assert_eq!(read.references.len(), 1);
        std::fs::write(host.path().join(FILE), "{").unwrap();
        assert!(Catalog::read(&directory, |_| (), |_| panic!("unreadable")).is_err());
    }

    #[test]
    fn what_was_not_synced_is_checked_when_the_machine_has_stopped() {
        let host = tempfile::tempdir().unwrap();
        let directory = Directory::open(host.path()).unwrap();
        let layer = Digest::of(b"layer");
        Catalog { unsynced: [layer].into(), ..Catalog::default() }.write(&directory).unwrap();
        let mut checked = Vec::new();
        let read = Catalog::read(&directory, |layer| checked.push(*layer), |_| panic!("no images")).unwrap();
        assert!(read.unsynced.contains(&layer) && checked.is_empty(), "the same run");
        let text = std::fs::read_to_string(host.path().join(FILE)).unwrap();
        std::fs::write(host.path().join(FILE), text.replace(&boot(), "another")).unwrap();
        let read = Catalog::read(&directory, |layer| checked.push(*layer), |_| panic!("no images")).unwrap();
        assert!(read.unsynced.is_empty() && checked == [layer], "another run");
    }

    #[test]
    fn images_are_found_as_docker_finds_them() {
        let catalog = catalog();
        let id = Digest::of(&[1]);
        for text in
            ["app:v1", "docker.io/library/app:v1", &id.hex(), &id.to_string(), &id.hex()[..8], &id.to_string()[..20]]
        {
            assert_eq!(catalog.find(text).unwrap().id(), id, "{text}");
        }
        assert_eq!(catalog.find("app").unwrap_err().message, "No such image: app:latest");
        assert_eq!(catalog.find("host.x/y").unwrap_err().message, "No such image: host.x/y:latest");
        assert_eq!(catalog.find("App").unwrap_err().kind, ErrorKind::InvalidArgument);
        let missing = Digest::of(b"missing");
        assert_eq!(catalog.find(&missing.hex()).unwrap_err().message, format!("No such image: {}", missing.hex()));
    }
}
