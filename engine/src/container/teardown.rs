//! Taking namespaces down behind the back of whoever waits for a container's end.
//!
//! ## Design notes
//! The kernel takes tens of milliseconds to remove a link, and does nothing in them but wait. Nobody needs to wait with it
//! but those who want back what the container had: its own next start, a start whose port or address is still taken, and the
//! removal of a network. They wait until nothing is being taken down that began before them.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_proto::error::Failure;
use tokio::sync::watch;

use super::instance::Container;
use crate::engine::Inner;

/// Containers whose namespaces are being taken down.
#[derive(Debug)]
pub(crate) struct Teardowns {
    under_way: watch::Sender<BTreeSet<String>>,
}

impl Default for Teardowns {
    fn default() -> Self {
        Self { under_way: watch::Sender::new(BTreeSet::new()) }
    }
}

impl Teardowns {
    /// Takes a container's namespace down, and does not wait for it. A failure is logged.
    pub(crate) fn begin(inner: &Arc<Inner>, container: &Arc<Container>) {
        let id = container.id.clone();
        inner.teardowns.under_way.send_if_modified(|under_way| under_way.insert(id.clone()));
        let inner = Arc::clone(inner);
        let tracker = inner.tasks.clone();
        tracker.spawn(async move {
            if let Err(failure) = inner.networks.destroy_sandbox(&id).await {
                tracing::warn!(container = id, error = failure.message, "cannot take the network down");
            }
            inner.teardowns.under_way.send_if_modified(|under_way| under_way.remove(&id));
            inner.cluster.poke();
        });
    }

    /// Is this container's namespace being taken down?
    pub(crate) fn is_under_way(&self, id: &str) -> bool {
        self.under_way.borrow().contains(id)
    }

    /// Waits until this container's namespace is down.
    pub(crate) async fn of(&self, id: &str) {
        let mut changes = self.under_way.subscribe();
        // The sender lives in `self`.
        let _never_closed = changes.wait_for(|under_way| !under_way.contains(id)).await.is_ok();
    }

    /// Tries something that may want what another container has just given up: at once, and again when that is down.
    pub(crate) async fn patiently<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let begun = self.under_way.borrow().len();
        match attempt().await {
            Err(failure) if begun > 0 => {
                tracing::debug!(error = failure.message, "waiting for what is being taken down");
                self.all().await;
                attempt().await
            }
            result => result,
        }
    }

    /// Waits until everything is down that is being taken down now.
    pub(crate) async fn all(&self) {
        let mut changes = self.under_way.subscribe();
        let begun = changes.borrow_and_update().clone();
        let _never_closed = changes.wait_for(|under_way| begun.is_disjoint(under_way)).await.is_ok();
    }
}
