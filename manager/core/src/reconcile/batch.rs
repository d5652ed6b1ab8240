//! Cuts a plan into raft entries.

use shoal_proto::codec;

use crate::change::Change;

/// Changes in one entry, as in Swarm's transactions (there 200).
const MOST_CHANGES: usize = 2_000;
/// Bytes in one entry.
const MOST_BYTES: usize = 3 << 19;

/// Size of a change in the log: exact for whole objects, a generous guess for the small ones.
fn size(change: &Change) -> usize {
    match change {
        Change::NewTask(task) => 450 + task.status.message.len() + task.status.error.len() + 80 * task.networks.len(),
        Change::Task { patch, .. } => {
            let status = patch.status.as_ref().map_or(0, |status| 300 + status.message.len() + status.error.len());
            120 + status + patch.networks.as_ref().map_or(0, |networks| 80 * networks.len())
        }
        Change::Delete { .. } => 60,
        Change::Put { .. } | Change::Service { .. } | Change::Node { .. } => codec::encode(change).len(),
    }
}

/// The changes in order, in batches of bounded size. A single change that is larger than the bound is a batch of its own.
pub(super) fn cut(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = size(&change);
        if !batch.is_empty() && (batch.len() >= MOST_CHANGES || bytes + size > MOST_BYTES) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(change);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{NewTask, ObjectKey, TaskPatch};
    use shoal_proto::id::{NetworkId, TaskId};
    use shoal_proto::object::{Config, NetworkAttachment, TaskStatus};
    use shoal_proto::spec::ConfigSpec;
    use shoal_proto::task_state::TaskState;

    #[test]
    fn batches_are_bounded_and_keep_the_order() {
        let delete = |bits| Change::delete(ObjectKey::Task(TaskId::from_bits(bits)));
        let changes: Vec<Change> = (0..4_001).map(delete).collect();
        let batches = cut(changes.clone());
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [2_000, 2_000, 1]);
        assert_eq!(batches.concat(), changes);
        assert!(cut(Vec::new()).is_empty());
    }

    #[test]
    fn large_objects_go_alone() {
        let config = |bits| {
            let spec = ConfigSpec { data: vec![7; 1_000 << 10], ..ConfigSpec::default() };
            Change::create(Config { id: shoal_proto::id::ConfigId::from_bits(bits), spec, ..Config::default() })
        };
        assert_eq!(cut(vec![config(1), config(2), config(3)]).len(), 3);
    }

    #[test]
    fn small_changes_are_not_larger_than_guessed() {
        let attachment = NetworkAttachment {
            network: NetworkId::from_bits(u128::MAX),
            addr: "10.255.255.254/24".parse().ok(),
            aliases: Vec::new(),
        };
        let status = TaskStatus {
            state: TaskState::Assigned,
            timestamp: shoal_proto::time::Timestamp(i64::MAX),
            message: "x".repeat(200),
            error: "y".repeat(200),
            ..TaskStatus::default()
        };
        let networks = vec![attachment; 3];
        let new = NewTask { status: status.clone(), networks: networks.clone(), slot: u64::MAX, ..NewTask::default() };
        let patch = TaskPatch {
            node_id: Some(shoal_proto::id::NodeId::from_bits(u128::MAX)),
            desired_state: Some(TaskState::Shutdown),
            status: Some(status),
            networks: Some(networks),
        };
        let patch = Change::Task { id: TaskId::from_bits(1), patch: Box::new(patch) };
        for change in [Change::NewTask(Box::new(new)), patch] {
            let (real, guess) = (codec::encode(&change).len(), size(&change));
            assert!(real <= guess, "{real} bytes, guessed {guess}");
        }
    }
}
