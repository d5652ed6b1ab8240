//! Keeps the engine's networks as assigned, beside the session: whatever it takes, assignments are read and statuses
//! sent meanwhile.
//!
//! ## Design notes
//! Latest wins: while one state is put in place others may come, and only the newest of them is next. A task waits until
//! the networks that it is on have been put in place once, not for every change of an endpoint elsewhere.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_kit::backoff::Backoff;
use shoal_proto::id::NetworkId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::assignments::Assignments;
use crate::executor::Executor;

/// What the engine has of the cluster's networks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applied {
    /// Number of the state that was put in place last.
    pub(crate) generation: u64,
    /// The networks in it.
    networks: BTreeSet<NetworkId>,
}

/// What a task needs of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Need {
    /// Number of the first state that has all there is of its networks.
    pub(crate) generation: u64,
    /// The networks that it is on.
    pub(crate) networks: Vec<NetworkId>,
}

impl Applied {
    /// May a task with this need start?
    pub(crate) fn serves(&self, need: &Need) -> bool {
        self.generation >= need.generation || need.networks.iter().all(|network| self.networks.contains(network))
    }
}

/// Puts the newest state in place whenever `wanted`, the number of that state, changes. A state that could not be put in
/// place counts as well, because its tasks have to say what is wrong; it is tried again.
pub(crate) async fn run<E: Executor>(
    executor: Arc<E>,
    assignments: Arc<Mutex<Assignments>>,
    mut wanted: watch::Receiver<u64>,
    applied: watch::Sender<Applied>,
    mut backoff: Backoff,
    shutdown: CancellationToken,
) {
    let mut failed = false;
    loop {
        let retry = if failed { backoff.next_delay() } else { Duration::MAX };
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(retry), if failed => {}
        }
        let generation = *wanted.borrow_and_update();
        let view = Arc::new(assignments.lock().unwrap_or_else(PoisonError::into_inner).network_view());
        let networks = view.networks.keys().copied().collect();
        let applying = tokio::select! {
            () = shutdown.cancelled() => return,
            applying = executor.apply_networks(view) => applying,
        };
        failed = match applying {
            Ok(()) => {
                backoff.reset();
                false
            }
            Err(failure) => {
                tracing::warn!(error = failure.message, "the cluster's networks are not all in place; trying again");
                true
            }
        };
        applied.send_replace(Applied { generation, networks });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_waits_for_its_own_networks_only() {
        let (one, two) = (NetworkId::from_bits(1), NetworkId::from_bits(2));
        let applied = Applied { generation: 3, networks: BTreeSet::from([one]) };
        let need = |generation, networks: &[NetworkId]| Need { generation, networks: networks.to_vec() };
        assert!(applied.serves(&need(9, &[])));
        assert!(applied.serves(&need(9, &[one])));
        assert!(!applied.serves(&need(9, &[one, two])));
        assert!(applied.serves(&need(3, &[two])), "a network that is not there is for the engine to name");
    }
}
