//! Statuses on their way to a manager: the newest of each task, kept until a manager says that it is stored.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use shoal_proto::id::TaskId;
use shoal_proto::object::TaskStatus;
use tokio::sync::Notify;

#[derive(Debug)]
struct Entry {
    status: TaskStatus,
    /// Batch that carries it; 0 when it waits to be sent.
    batch: u64,
}

#[derive(Debug, Default)]
struct Pending {
    entries: BTreeMap<TaskId, Entry>,
    last_batch: u64,
    /// Is there one among them that somebody waits for?
    urgent: bool,
}

/// The queue. Bounded by the number of tasks on the node.
#[derive(Debug, Default)]
pub struct Reporter {
    pending: Mutex<Pending>,
    changed: Notify,
}

impl Reporter {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task has a new status. An older one that waits is replaced: states only go up, so nothing is lost. `passing`:
    /// it is about to change by itself, so that sending it is not urgent.
    pub fn report(&self, task: TaskId, status: TaskStatus, passing: bool) {
        {
            let mut pending = self.lock();
            pending.entries.insert(task, Entry { status, batch: 0 });
            pending.urgent |= !passing;
        }
        self.changed.notify_one();
    }

    /// The cluster has forgotten the task.
    pub fn forget(&self, task: TaskId) {
        self.lock().entries.remove(&task);
    }

    /// Returns when there may be something to send.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Does one of the statuses that wait for being sent have to go at once?
    pub fn is_urgent(&self) -> bool {
        self.lock().urgent
    }

    /// The next batch of at most `limit` statuses and its number; `None` when nothing waits.
    pub fn next_batch(&self, limit: usize) -> Option<(u64, Vec<(TaskId, TaskStatus)>)> {
        let mut pending = self.lock();
        let number = pending.last_batch + 1;
        let updates: Vec<_> = pending
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.batch == 0)
            .take(limit)
            .map(|(id, entry)| {
                entry.batch = number;
                (*id, entry.status.clone())
            })
            .collect();
        if updates.len() < limit {
            pending.urgent = false;
        }
        if updates.is_empty() {
            return None;
        }
        pending.last_batch = number;
        Some((number, updates))
    }

    /// A manager stored this batch.
    pub fn accepted(&self, number: u64) {
        self.lock().entries.retain(|_, entry| entry.batch == 0 || entry.batch != number);
    }

    /// A new session begins: what was sent and not accepted must be sent again.
    pub fn rewind(&self) {
        {
            let mut pending = self.lock();
            pending.urgent = true;
            for entry in pending.entries.values_mut() {
                entry.batch = 0;
            }
        }
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::task_state::TaskState;

    use super::*;

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus { state, ..TaskStatus::default() }
    }

    #[test]
    fn only_the_newest_status_is_sent() {
        let reporter = Reporter::default();
        reporter.report(TaskId::from_bits(1), status(TaskState::Preparing), false);
        reporter.report(TaskId::from_bits(1), status(TaskState::Running), false);
        let (number, updates) = reporter.next_batch(10).expect("a batch");
        assert_eq!(updates, vec![(TaskId::from_bits(1), status(TaskState::Running))]);
        assert_eq!(reporter.next_batch(10), None);
        reporter.accepted(number);
        reporter.rewind();
        assert_eq!(reporter.next_batch(10), None);
    }

    #[test]
    fn an_unaccepted_batch_is_sent_again_in_the_next_session() {
        let reporter = Reporter::default();
        reporter.report(TaskId::from_bits(1), status(TaskState::Running), false);
        assert!(reporter.next_batch(10).is_some());
        reporter.rewind();
        assert!(reporter.next_batch(10).is_some());
    }

    #[test]
    fn a_status_that_changed_meanwhile_survives_the_acceptance_of_the_old_one() {
        let reporter = Reporter::default();
        reporter.report(TaskId::from_bits(1), status(TaskState::Running), false);
        let (number, _) = reporter.next_batch(10).expect("a batch");
        reporter.report(TaskId::from_bits(1), status(TaskState::Failed), false);
        reporter.accepted(number);
        let (_, updates) = reporter.next_batch(10).expect("the newer status");
        assert_eq!(updates[0].1.state, TaskState::Failed);
    }

    #[test]
    fn what_passes_by_itself_is_not_urgent() {
        let reporter = Reporter::default();
        reporter.report(TaskId::from_bits(1), status(TaskState::Preparing), true);
        assert!(!reporter.is_urgent());
        reporter.report(TaskId::from_bits(2), status(TaskState::Running), false);
        assert!(reporter.is_urgent());
        assert!(reporter.next_batch(1).is_some());
        assert!(reporter.is_urgent(), "there may be more");
        assert!(reporter.next_batch(10).is_some());
        assert!(!reporter.is_urgent());
    }
}
