//! Replicated services: so many slots.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::id::NodeId;
use shoal_proto::object::Service;
use shoal_proto::task_state::TaskState;

use super::{Slot, fill, is_finished, is_runnable, slots_of};
use crate::draft::Draft;
use crate::reconcile::SlotKey;

/// Makes or removes slots until there are as many as wanted.
pub(crate) fn scale(draft: &mut Draft<'_>, service: &Service, replicas: u64) {
    let slots = slots_of(&draft.store, service.id);
    let filled: BTreeMap<SlotKey, &Slot> = slots
        .iter()
        .filter(|(_, slot)| slot.iter().any(|task| is_runnable(task)) || is_finished(slot, draft.now))
        .map(|(key, slot)| (*key, slot))
        .collect();
    let count = filled.len() as u64;
    if count < replicas {
        let taken: BTreeSet<u64> = filled.keys().map(|key| key.slot).collect();
        let free = (1..).filter(|slot| !taken.contains(slot)).take(usize::try_from(replicas - count).unwrap_or(0));
        for slot in free {
            let key = SlotKey { service: service.id, slot, node: None };
            fill(draft, service, key, TaskState::Running, false);
        }
    } else if count > replicas {
        for key in surplus(&filled, replicas) {
            for task in slots.get(&key).into_iter().flatten() {
                draft.set_desired(task, TaskState::Remove);
            }
        }
    }
}

/// The slots that go: those that do not run first, then from the nodes that have the most of them.
fn surplus(filled: &BTreeMap<SlotKey, &Slot>, replicas: u64) -> Vec<SlotKey> {
    let mut on_node: BTreeMap<Option<NodeId>, u64> = BTreeMap::new();
    // Sorted so that what stays comes first: running, and the first on its node.
    let mut order: Vec<(bool, u64, SlotKey)> = Vec::with_capacity(filled.len());
    for running in [true, false] {
        for (key, slot) in filled {
            let best = slot
                .iter()
                .filter(|task| is_runnable(task))
                .max_by_key(|task| task.status.state.min(TaskState::Running));
            let runs = best.is_some_and(|task| task.status.state == TaskState::Running);
            if runs != running {
                continue;
            }
            let rank = on_node.entry(best.and_then(|task| task.node_id)).or_default();
            order.push((!runs, *rank, *key));
            *rank += 1;
        }
    }
    order.sort_unstable();
    order.into_iter().skip(usize::try_from(replicas).unwrap_or(usize::MAX)).map(|(_, _, key)| key).collect()
}
