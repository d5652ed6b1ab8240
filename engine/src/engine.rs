//! The engine: everything that runs on this node, behind one handle.

use std::sync::Arc;

use shoal_proto::error::Failure;

use crate::container::{Containers, TaskContainer};
use crate::events::Events;
use crate::model::{EngineInfo, EngineVersion};
use crate::options::EngineOptions;

/// The engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What all handles share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: EngineOptions,
    pub(crate) events: Events,
}

impl Engine {
    /// Opens an engine: reads what is on disk, finds the containers that still run, and cleans up what a crash left.
    ///
    /// # Errors
    /// A directory cannot be made or read, or another engine uses it.
    pub async fn open(options: EngineOptions) -> Result<Self, Failure> {
        let events = Events::new(Arc::clone(&options.clock));
        Ok(Self { inner: Arc::new(Inner { options, events }) })
    }

    /// Ends the engine's own work. Containers go on.
    pub async fn shutdown(&self) {}

    /// How it was set up.
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// Containers and execs.
    pub fn containers(&self) -> Containers {
        Containers::new(Arc::clone(&self.inner))
    }

    /// What happened.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Containers that run tasks of the cluster.
    pub fn list_task_containers(&self) -> Vec<TaskContainer> {
        Vec::new()
    }

    /// The engine's part of `docker info`.
    pub async fn info(&self) -> EngineInfo {
        EngineInfo::default()
    }

    /// The engine's part of `docker version`.
    pub fn version(&self) -> EngineVersion {
        EngineVersion::default()
    }
}
