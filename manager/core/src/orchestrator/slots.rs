//! The tasks of a service, slot by slot.

use std::ops::Range;
use std::sync::Arc;

use shoal_proto::id::ServiceId;
use shoal_proto::object::Task;

use super::slot_key;
use crate::draft::Draft;
use crate::reconcile::SlotKey;
use crate::store::Store;

/// All tasks of a service, sorted by slot: one list and where each slot lies in it, because a map of lists costs more
/// than everything that is done with it when there is nothing to do.
pub(crate) struct Slots {
    tasks: Vec<Arc<Task>>,
    places: Vec<(SlotKey, Range<usize>)>,
    revision: u64,
}

impl Slots {
    /// The slots of a service as the draft has them.
    pub(crate) fn of(draft: &Draft<'_>, service: ServiceId) -> Self {
        let mut slots = Self::read(&draft.store, service);
        slots.revision = draft.revision();
        slots
    }

    fn read(store: &Store, service: ServiceId) -> Self {
        let mut tasks: Vec<Arc<Task>> = store.tasks_of_service(service).cloned().collect();
        if tasks.first().is_some_and(|task| task.slot == 0) {
            tasks.sort_by_key(|task| (task.slot, task.node_id, task.id));
        }
        let mut places: Vec<(SlotKey, Range<usize>)> = Vec::with_capacity(tasks.len());
        for (index, task) in tasks.iter().enumerate() {
            let key = slot_key(task);
            match places.last_mut() {
                Some((last, range)) if *last == key => range.end = index + 1,
                _ => places.push((key, index..index + 1)),
            }
        }
        Self { tasks, places, revision: 0 }
    }

    /// Reads again when something was planned since.
    pub(crate) fn refresh(&mut self, draft: &Draft<'_>, service: ServiceId) {
        if self.revision != draft.revision() {
            *self = Self::of(draft, service);
        }
    }

    /// Each slot with its tasks, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotKey, &[Arc<Task>])> {
        self.places.iter().map(|(key, range)| (*key, self.tasks.get(range.clone()).unwrap_or_default()))
    }

    /// All tasks.
    pub(crate) fn tasks(&self) -> &[Arc<Task>] {
        &self.tasks
    }
}
