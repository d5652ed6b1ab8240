//! Volumes, with their events.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_proto::error::Failure;

use super::Inner;
use crate::model::{Filters, Volume, VolumeCreate, VolumeList, VolumesPruneReport};

/// The engine's volumes.
#[derive(Debug, Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

impl Volumes {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(|error| Failure::internal(&error))?
    }

    /// Makes a volume; one of this name that exists is given back as it is.
    ///
    /// # Errors
    /// When the name, the driver or an option is invalid, or the disk fails.
    pub async fn create(&self, request: VolumeCreate) -> Result<Volume, Failure> {
        self.blocking(move |inner| create(inner, request)).await
    }

    /// Shows one volume.
    ///
    /// # Errors
    /// `get x: no such volume`.
    pub async fn inspect(&self, name: &str) -> Result<Volume, Failure> {
        let name = name.to_owned();
        self.blocking(move |inner| inner.volumes.inspect(&name)).await
    }

    /// Lists volumes by name. Filters: `name`, `label`, `dangling`, `driver`.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub async fn list(&self, filters: &Filters) -> Result<VolumeList, Failure> {
        let filters = filters.clone();
        self.blocking(move |inner| inner.volumes.list(&filters)).await
    }

    /// All volumes with what they take and how many containers refer to them. Slow: it looks at every file.
    ///
    /// # Errors
    /// When the daemon is about to end.
    pub async fn usage(&self) -> Result<Vec<Volume>, Failure> {
        self.blocking(|inner| Ok(inner.volumes.usage())).await
    }

    /// Removes a volume with its data. With `force` a missing one is fine.
    ///
    /// # Errors
    /// When a container refers to it.
    pub async fn remove(&self, name: &str, force: bool) -> Result<(), Failure> {
        let name = name.to_owned();
        self.blocking(move |inner| remove(inner, &name, force)).await
    }

    /// Removes volumes that no container refers to: the anonymous ones, with filter `all=true` all.
    ///
    /// # Errors
    /// When a filter is invalid.
    pub async fn prune(&self, filters: &Filters) -> Result<VolumesPruneReport, Failure> {
        let filters = filters.clone();
        self.blocking(move |inner| {
            let report = inner.volumes.prune(&filters)?;
            for name in report.volumes_deleted.iter().flatten() {
                tell(inner, "destroy", name, "local");
            }
            let reclaimed = BTreeMap::from([("reclaimed".to_owned(), report.space_reclaimed.to_string())]);
            inner.events.publish("volume", "prune", "", reclaimed);
            Ok(report)
        })
        .await
    }
}

fn tell(inner: &Inner, action: &str, name: &str, driver: &str) {
    inner.events.publish("volume", action, name, BTreeMap::from([("driver".to_owned(), driver.to_owned())]));
}

/// Makes a volume and tells of it, if it is new. Blocks.
pub(crate) fn create(inner: &Inner, request: VolumeCreate) -> Result<Volume, Failure> {
    let existed = !request.name.is_empty() && inner.volumes.inspect(&request.name).is_ok();
    let volume = inner.volumes.create(request)?;
    if !existed {
        tell(inner, "create", &volume.name, &volume.driver);
    }
    Ok(volume)
}

/// Removes a volume and tells of it. Blocks.
pub(crate) fn remove(inner: &Inner, name: &str, force: bool) -> Result<(), Failure> {
    let existed = inner.volumes.inspect(name).is_ok();
    inner.volumes.remove(name, force)?;
    if existed {
        tell(inner, "destroy", name, "local");
    }
    Ok(())
}
