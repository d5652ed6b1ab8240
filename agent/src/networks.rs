//! Keeps the engine's networks as assigned, beside the session: whatever it takes, assignments are read and statuses
//! sent meanwhile.
//!
//! ## Design notes
//! Latest wins: while one state is put in place others may come, and only the newest of them is next. A task waits until
//! the networks that it is on have been put in place once, not for every change of an endpoint elsewhere. A network that
//! was taken away and came back is a new one: that an older state had it says nothing, its removal may be under way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_kit::backoff::Backoff;
use shoal_proto::id::NetworkId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::assignments::Assignments;
use crate::executor::Executor;

/// Since which state each assigned network has been there without a break.
#[derive(Debug, Default)]
pub(crate) struct Since(BTreeMap<NetworkId, u64>);

impl Since {
    /// Notes what state `generation` brought, and forgets what is not assigned any more.
    pub(crate) fn note(&mut self, generation: u64, new: &[NetworkId], is_assigned: impl Fn(NetworkId) -> bool) {
        self.0.retain(|network, _| is_assigned(*network));
        self.0.extend(new.iter().map(|network| (*network, generation)));
    }

    /// The state that must be in place before a task on these networks may start. A network that nobody told of is looked
    /// for in the newest one, `generation`; the engine says then that it is missing.
    pub(crate) fn needed(&self, networks: impl Iterator<Item = NetworkId>, generation: u64) -> u64 {
        networks.map(|network| self.0.get(&network).copied().unwrap_or(generation)).max().unwrap_or(0)
    }
}

/// Puts the newest state in place whenever `wanted`, the number of that state, changes. A state that could not be put in
/// place counts as well, because its tasks have to say what is wrong; it is tried again. `applied` is the number of the
/// state that was put in place last.
pub(crate) async fn run<E: Executor>(
    executor: Arc<E>,
    assignments: Arc<Mutex<Assignments>>,
    mut wanted: watch::Receiver<u64>,
    applied: watch::Sender<u64>,
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
        applied.send_replace(generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NetworkId = NetworkId::from_bits(1);
    const TWO: NetworkId = NetworkId::from_bits(2);

    #[test]
    fn a_task_waits_for_its_own_networks_only() {
        let mut since = Since::default();
        since.note(1, &[ONE], |_| true);
        since.note(2, &[TWO], |_| true);
        since.note(3, &[], |_| true);
        assert_eq!(since.needed([].into_iter(), 3), 0);
        assert_eq!(since.needed([ONE].into_iter(), 3), 1);
        assert_eq!(since.needed([ONE, TWO].into_iter(), 3), 2);
        assert_eq!(since.needed([NetworkId::from_bits(9)].into_iter(), 3), 3, "the engine has to name what is missing");
    }

    #[test]
    fn a_network_that_comes_back_is_a_new_one() {
        let mut since = Since::default();
        since.note(1, &[ONE], |_| true);
        since.note(2, &[], |_| false);
        since.note(3, &[ONE], |_| true);
        assert_eq!(since.needed([ONE].into_iter(), 3), 3, "state 1 had it, but state 2 may be under way");
    }
}
