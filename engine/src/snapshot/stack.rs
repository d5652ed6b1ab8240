//! Layers looked at from above, as overlayfs looks at them: whiteouts hide, opaque directories end the view.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shoal_engine_sys::fs::{self, Directory, Metadata};

use super::init;
use crate::image::Digest;
use crate::image::layer::apply::OPAQUE_ATTRIBUTE;
use crate::image::layer::{LayerError, LayerStore};

/// One directory as several layers have it, the uppermost first.
#[derive(Debug)]
pub(super) struct Stack {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    directory: Directory,
    path: PathBuf,
    /// Opaque directories of this layer that have no attribute.
    opaque: Arc<BTreeSet<PathBuf>>,
}

impl Stack {
    /// The root of these layers, given from the lowest, above the init layer.
    pub(super) fn open(store: &LayerStore, layers: &[Digest]) -> Result<Self, LayerError> {
        let mut parts = Vec::with_capacity(layers.len() + 1);
        for layer in layers.iter().rev() {
            let record = store.record(layer).ok_or(LayerError::Missing(*layer))?;
            let opaque = Arc::new(record.opaque.iter().cloned().collect());
            parts.push(Part { directory: store.open_files(layer)?, path: PathBuf::new(), opaque });
        }
        let directory = init::open(store.root())?;
        parts.push(Part { directory, path: PathBuf::new(), opaque: Arc::default() });
        Ok(Self { parts })
    }

    /// Nothing.
    pub(super) fn empty() -> Self {
        Self { parts: Vec::new() }
    }

    /// What is visible under this name, and the directory that it is in.
    pub(super) fn look_up(&self, name: &OsStr) -> io::Result<Option<(Metadata, &Directory)>> {
        for part in &self.parts {
            if let Some(metadata) = part.directory.stat(name)? {
                return Ok((!metadata.is_whiteout()).then_some((metadata, &part.directory)));
            }
        }
        Ok(None)
    }

    /// The directory of this name; empty when it is none.
    pub(super) fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let mut parts = Vec::new();
        for part in &self.parts {
            let Some(metadata) = part.directory.stat(name)? else { continue };
            if !metadata.is_dir() {
                break;
            }
            let directory = part.directory.enter(name)?;
            let path = part.path.join(name);
            let is_last = is_opaque(&directory)? || part.opaque.contains(&path);
            parts.push(Part { directory, path, opaque: Arc::clone(&part.opaque) });
            if is_last {
                break;
            }
        }
        Ok(Self { parts })
    }

    /// All visible names.
    pub(super) fn names(&self) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        let mut hidden = BTreeSet::new();
        for part in &self.parts {
            for entry in part.directory.entries()? {
                if names.contains(&entry.name) || hidden.contains(&entry.name) {
                    continue;
                }
                let is_whiteout = part.directory.stat(&entry.name)?.is_some_and(|metadata| metadata.is_whiteout());
                if is_whiteout {
                    hidden.insert(entry.name)
                } else {
                    names.insert(entry.name)
                };
            }
        }
        Ok(names)
    }
}

/// Does nothing of this directory come from below?
pub(super) fn is_opaque(directory: &Directory) -> io::Result<bool> {
    Ok(fs::attribute(directory, OsStr::new(OPAQUE_ATTRIBUTE))?.is_some_and(|value| value == b"y"))
}
