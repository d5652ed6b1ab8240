//! A plan in the making: a scratch copy of the store, and the changes made to it.
//!
//! Several planners touch one task in a pass (it is made, gets its addresses, gets its node). Their changes are folded
//! into the first, so that a raft entry carries each task once.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use shoal_proto::id::{IdSource, ServiceId, TaskId};
use shoal_proto::object::{Service, Task, TaskStatus};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use crate::change::{ApplyError, Change, Expect, NewTask, Object, ServicePatch, TaskPatch};
use crate::reconcile::{Due, Plan, Waiting};
use crate::store::Store;

/// The scratch copy and what was done to it.
pub(crate) struct Draft<'a> {
    base: &'a Store,
    /// The store as it will be when the plan is applied.
    pub(crate) store: Store,
    pub(crate) now: Timestamp,
    pub(crate) ids: &'a mut dyn IdSource,
    changes: Vec<Change>,
    task_at: ByTask,
    service_at: HashMap<ServiceId, usize>,
    waiting: Vec<Waiting>,
    timers: BTreeMap<Due, Timestamp>,
    failed: Option<ApplyError>,
    revision: u64,
}

/// Ids are random: no need to hash them well.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn write_u128(&mut self, bits: u128) {
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let folded = (bits as u64) ^ (bits >> 64) as u64;
        self.0 = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type ByTask = HashMap<TaskId, usize, BuildHasherDefault<IdHasher>>;

impl<'a> Draft<'a> {
    pub(crate) fn new(base: &'a Store, now: Timestamp, ids: &'a mut dyn IdSource) -> Self {
        Self {
            base,
            store: base.clone(),
            now,
            ids,
            changes: Vec::new(),
            task_at: ByTask::default(),
            service_at: HashMap::new(),
            waiting: Vec::new(),
            timers: BTreeMap::new(),
            failed: None,
            revision: 0,
        }
    }

    /// The store as it is. What is freed in this pass may be handed out in the next one only: folded changes come
    /// earlier in the plan than the change that frees.
    pub(crate) const fn base(&self) -> &'a Store {
        self.base
    }

    /// Raised by every change of the scratch copy.
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn finish(mut self) -> Plan {
        if let Some(error) = self.failed {
            // The changes before the one that did not fit are a valid prefix; the next pass sees what they left.
            self.waiting.push(Waiting { service: None, task: None, reason: error.to_string() });
        }
        Plan { changes: self.changes, waiting: self.waiting, timers: self.timers }
    }

    /// Makes any other change.
    pub(crate) fn push(&mut self, change: Change) {
        if self.apply(&change) {
            if let Change::Delete { key: crate::change::ObjectKey::Task(id), .. } = &change {
                self.task_at.remove(id);
            }
            self.changes.push(change);
        }
    }

    /// Applies a change to the scratch copy. After one that does not fit nothing more is planned in this pass.
    fn apply(&mut self, change: &Change) -> bool {
        if self.failed.is_some() {
            return false;
        }
        match self.store.apply_scratch(self.now, change) {
            Ok(changed) => {
                self.revision += u64::from(changed);
                changed
            }
            Err(error) => {
                self.failed = Some(error);
                false
            }
        }
    }

    /// Makes a task.
    pub(crate) fn new_task(&mut self, task: NewTask) {
        let id = task.id;
        let change = Change::NewTask(Box::new(task));
        if self.apply(&change) {
            self.task_at.insert(id, self.changes.len());
            self.changes.push(change);
        }
    }

    /// Changes a task.
    pub(crate) fn patch_task(&mut self, id: TaskId, patch: TaskPatch) {
        let change = Change::Task { id, patch: Box::new(patch) };
        if self.apply(&change) {
            self.fold_task(id, change);
        }
    }

    /// Changes a task without the scratch copy learning of it: for the last planner that looks at these fields.
    pub(crate) fn patch_task_unseen(&mut self, id: TaskId, patch: TaskPatch) {
        if self.failed.is_none() {
            self.fold_task(id, Change::Task { id, patch: Box::new(patch) });
        }
    }

    fn fold_task(&mut self, id: TaskId, change: Change) {
        let Change::Task { patch, .. } = &change else { return };
        let earlier = self.task_at.get(&id).copied();
        match earlier.and_then(|at| self.changes.get_mut(at)) {
            Some(Change::NewTask(new)) => fold_into_new(new, patch),
            Some(Change::Task { patch: known, .. }) => fold_into_patch(known, patch),
            _ => {
                self.task_at.insert(id, self.changes.len());
                self.changes.push(change);
            }
        }
    }

    /// Wants a task in a later state.
    pub(crate) fn set_desired(&mut self, task: &Task, desired: TaskState) {
        if task.desired_state < desired {
            self.patch_task(task.id, TaskPatch { desired_state: Some(desired), ..TaskPatch::default() });
        }
    }

    /// Gives a task another status.
    pub(crate) fn set_status(&mut self, id: TaskId, status: TaskStatus) {
        self.patch_task(id, TaskPatch { status: Some(status), ..TaskPatch::default() });
    }

    fn version_of(&self, id: ServiceId) -> Expect {
        self.base.service(id).map_or(Expect::Any, |service| Expect::Version(service.meta.version))
    }

    /// Changes what is known of a service.
    pub(crate) fn patch_service(&mut self, id: ServiceId, patch: ServicePatch) {
        if !self.apply(&Change::Service { id, patch: Box::new(patch.clone()), expect: Expect::Any }) {
            return;
        }
        let earlier = self.service_at.get(&id).copied();
        match earlier.and_then(|at| self.changes.get_mut(at)) {
            Some(Change::Service { patch: known, .. }) => {
                known.endpoint = patch.endpoint.or(known.endpoint.take());
                known.update_status = patch.update_status.or(known.update_status.take());
            }
            Some(Change::Put { object, .. }) => {
                if let Some(service) = self.store.service(id) {
                    *object = Object::Service(service.clone());
                }
            }
            _ => {
                self.service_at.insert(id, self.changes.len());
                let expect = self.version_of(id);
                self.changes.push(Change::Service { id, patch: Box::new(patch), expect });
            }
        }
    }

    /// Replaces a service.
    pub(crate) fn put_service(&mut self, service: Service) {
        let id = service.id;
        if !self.apply(&Change::put(service)) {
            return;
        }
        let Some(object) = self.store.service(id).cloned().map(Object::Service) else { return };
        let change = Change::Put { object, expect: self.version_of(id) };
        let earlier = self.service_at.get(&id).copied();
        match earlier.and_then(|at| self.changes.get_mut(at)) {
            Some(known) => *known = change,
            None => {
                self.service_at.insert(id, self.changes.len());
                self.changes.push(change);
            }
        }
    }

    /// Looks at something again at an instant.
    pub(crate) fn wake(&mut self, due: Due, at: Timestamp) {
        let timer = self.timers.entry(due).or_insert(at);
        *timer = (*timer).min(at);
    }

    /// Notes why something has to wait.
    pub(crate) fn wait(&mut self, service: Option<ServiceId>, task: Option<TaskId>, reason: impl Into<String>) {
        self.waiting.push(Waiting { service, task, reason: reason.into() });
    }
}

fn fold_into_new(new: &mut NewTask, patch: &TaskPatch) {
    if let Some(node) = patch.node_id {
        new.node_id = Some(node);
    }
    if let Some(desired) = patch.desired_state {
        new.desired_state = new.desired_state.max(desired);
    }
    if let Some(status) = &patch.status
        && status.state >= new.status.state
    {
        new.status = status.clone();
    }
    if let Some(networks) = &patch.networks {
        new.networks.clone_from(networks);
    }
}

fn fold_into_patch(known: &mut TaskPatch, patch: &TaskPatch) {
    known.node_id = patch.node_id.or(known.node_id);
    known.desired_state = patch.desired_state.max(known.desired_state);
    if let Some(status) = &patch.status
        && known.status.as_ref().is_none_or(|old| status.state >= old.state)
    {
        known.status = Some(status.clone());
    }
    if let Some(networks) = &patch.networks {
        known.networks = Some(networks.clone());
    }
}
