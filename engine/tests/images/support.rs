//! What the tests of images share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use shoal_engine::image::layer::stream::Limits;
use shoal_engine::image::layer::{LayerError, LayerPin, LayerStore};
use shoal_engine::image::tar::write::{END, blank, header, padding, plain_file};
use shoal_engine::image::tar::{EntryKind, TarEntry};
use shoal_engine::image::{ByteStream, Digest, ImageStore, ImageStoreOptions, ImportRequest};
use shoal_engine::model::ImageListOptions;
use shoal_kit::clock::ManualClock;
use shoal_proto::time::Timestamp;

/// Builds archives entry by entry.
#[derive(Default, Clone)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(TarEntry { size: content.len() as u64, ..blank(EntryKind::File, path, 0o644) }, content)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.entry(blank(EntryKind::Directory, path, 0o755), b"")
    }

    pub(crate) fn link(self, path: &str, text: &str) -> Self {
        self.entry(TarEntry { link: text.into(), ..blank(EntryKind::Link, path, 0o777) }, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(TarEntry { link: target.into(), ..blank(EntryKind::HardLink, path, 0o644) }, b"")
    }

    pub(crate) fn entry(mut self, entry: TarEntry, content: &[u8]) -> Self {
        self.0.extend(header(&entry));
        self.0.extend_from_slice(content);
        self.0.extend_from_slice(padding(content.len() as u64));
        self
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&END);
        self.0
    }
}

pub(crate) struct Store {
    pub(crate) host: tempfile::TempDir,
    pub(crate) layers: Arc<LayerStore>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let host = tempfile::tempdir().unwrap();
        let layers = LayerStore::open(&host.path().join("image"), limits).unwrap();
        Self { host, layers }
    }

    pub(crate) fn add(&self, archive: &Archive) -> Result<(LayerPin, PathBuf), LayerError> {
        let pin = self.layers.add(&archive.clone().bytes()[..], None)?;
        let files = self.layers.files_path(&pin.record().digest);
        Ok((pin, files))
    }
}

pub(crate) struct Fixture {
    pub(crate) host: tempfile::TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) store: ImageStore,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let host = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        let store = open(host.path(), &clock);
        Self { host, clock, store }
    }

    pub(crate) fn reopen(&mut self) {
        self.store = open(self.host.path(), &self.clock);
    }

    pub(crate) async fn import(&self, name: &str, archive: &[u8], changes: &[&str]) -> Digest {
        let (repository, tag) = name.split_once(':').unwrap_or((name, ""));
        let request = ImportRequest {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
            ..ImportRequest::default()
        };
        self.clock.advance(Duration::from_secs(1));
        self.store.import(stream(archive), request).await.unwrap()
    }

    pub(crate) async fn load(&self, archive: &[u8]) -> Result<Vec<String>, String> {
        let messages: Vec<_> = self.store.load(stream(archive), true).collect().await;
        match messages.last().and_then(|last| last.error.clone()) {
            Some(error) => Err(error),
            None => Ok(messages.into_iter().filter_map(|message| message.stream).collect()),
        }
    }

    pub(crate) async fn save(&self, names: &[&str]) -> Vec<u8> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut stream = self.store.save(&names).unwrap();
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part.unwrap());
        }
        bytes
    }

    pub(crate) fn tags(&self) -> Vec<String> {
        let mut tags: Vec<_> = self
            .store
            .list(&ImageListOptions::default())
            .unwrap()
            .into_iter()
            .flat_map(|image| image.repo_tags)
            .collect();
        tags.sort();
        tags
    }

    /// Nothing but what the images need.
    pub(crate) fn assert_clean(&self) {
        let root = self.host.path().join("image");
        let count = |path: &str| std::fs::read_dir(root.join(path)).unwrap().count();
        assert_eq!(count("blobs/sha256"), self.store.count());
        assert_eq!(count("layers"), self.store.layers_usage().count);
        assert_eq!(count("l"), self.store.layers_usage().count + 1, "and the init layer");
        assert_eq!(count("staging"), 0);
    }
}

fn open(host: &Path, clock: &ManualClock) -> ImageStore {
    let options = ImageStoreOptions { root: host.join("image"), clock: Arc::new(clock.clone()) };
    ImageStore::open(options).unwrap()
}

/// In pieces, as a network brings it.
pub(crate) fn stream(bytes: &[u8]) -> ByteStream {
    let parts: Vec<io::Result<Bytes>> = bytes.chunks(3000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    Box::pin(futures::stream::iter(parts))
}

/// An archive of files.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, content) in files {
        bytes.extend(plain_file(path, content.len() as u64, 0));
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(padding(content.len() as u64));
    }
    bytes.extend_from_slice(&END);
    bytes
}
