//! Replicated services: so many slots.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_proto::id::NodeId;
use shoal_proto::object::{Service, Task};
use shoal_proto::task_state::TaskState;

use super::{Slots, fill, is_finished, is_runnable};
use crate::draft::Draft;
use crate::reconcile::SlotKey;

/// Makes or removes slots until there are as many as wanted.
pub(crate) fn scale(draft: &mut Draft<'_>, service: &Service, slots: &Slots, replicas: u64) {
    let now = draft.now;
    let is_filled = |slot: &[Arc<Task>]| slot.iter().any(|task| is_runnable(task)) || is_finished(slot, now);
    let count = slots.iter().filter(|(_, slot)| is_filled(slot)).count() as u64;
    if count < replicas {
        let mut taken = slots.iter().map(|(key, slot)| (key.slot, slot)).peekable();
        let mut missing = replicas - count;
        let mut number = 0;
        while missing > 0 {
            number += 1;
            while taken.peek().is_some_and(|(slot, _)| *slot < number) {
                taken.next();
            }
            let known = taken.peek().filter(|(slot, _)| *slot == number).map_or(&[][..], |(_, slot)| *slot);
            if !is_filled(known) {
                let key = SlotKey { service: service.id, slot: number, node: None };
                fill(draft, service, key, known, TaskState::Running, false);
                missing -= 1;
            }
        }
        return;
    }
    // Slots that died and whose number nobody took again leave no history.
    for (_, slot) in slots.iter().filter(|(_, slot)| !is_filled(slot)) {
        for task in slot {
            draft.set_desired(task, TaskState::Remove);
        }
    }
    if count > replicas {
        let filled: Vec<(SlotKey, &[Arc<Task>])> = slots.iter().filter(|(_, slot)| is_filled(slot)).collect();
        for (_, slot) in surplus(&filled, replicas) {
            for task in slot {
                draft.set_desired(task, TaskState::Remove);
            }
        }
    }
}

/// The slots that go: those that do not run first, then from the nodes that have the most of them.
fn surplus<'a>(filled: &[(SlotKey, &'a [Arc<Task>])], replicas: u64) -> Vec<(SlotKey, &'a [Arc<Task>])> {
    let mut on_node: BTreeMap<Option<NodeId>, u64> = BTreeMap::new();
    // Sorted so that what stays comes first: running, and the first on its node.
    let mut order: Vec<(bool, u64, SlotKey, &[Arc<Task>])> = Vec::with_capacity(filled.len());
    for running in [true, false] {
        for (key, slot) in filled {
            let runnable = slot.iter().filter(|task| is_runnable(task));
            let best = runnable.max_by_key(|task| task.status.state.min(TaskState::Running));
            let runs = best.is_some_and(|task| task.status.state == TaskState::Running);
            if runs != running {
                continue;
            }
            let rank = on_node.entry(best.and_then(|task| task.node_id)).or_default();
            order.push((!runs, *rank, *key, *slot));
            *rank += 1;
        }
    }
    order.sort_unstable_by_key(|(waits, rank, key, _)| (*waits, *rank, *key));
    let kept = usize::try_from(replicas).unwrap_or(usize::MAX);
    order.into_iter().skip(kept).map(|(_, _, key, slot)| (key, slot)).collect()
}
