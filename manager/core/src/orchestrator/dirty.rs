//! Does a task still run what its service wants?

use std::collections::HashMap;
use std::sync::Arc;

use shoal_proto::object::{Service, Task};
use shoal_proto::spec::TaskSpec;

use crate::constraint;
use crate::store::Store;

/// How a task's spec differs from the one wanted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    None,
    PlacementOnly,
    Substantial,
}

/// Compares the tasks of one service with its spec; each spec is compared once.
pub(crate) struct Freshness {
    service: Arc<Service>,
    known: HashMap<*const TaskSpec, Difference>,
}

impl Freshness {
    pub(crate) fn new(service: &Arc<Service>) -> Self {
        Self { service: Arc::clone(service), known: HashMap::new() }
    }

    /// As Swarm's `IsTaskDirty`: any change of what the task runs or of the service's endpoint counts; a change of
    /// placement only when the task's node does not satisfy it.
    pub(crate) fn is_dirty(&mut self, store: &Store, task: &Task) -> bool {
        let service = &self.service;
        if task.spec_version == service.spec_version {
            return false;
        }
        let difference =
            *self.known.entry(Arc::as_ptr(&task.spec)).or_insert_with(|| difference(&task.spec, &service.spec.task));
        if difference == Difference::Substantial
            || task.endpoint_mode != service.spec.endpoint.mode
            || task.ports != service.endpoint.ports
        {
            return true;
        }
        difference == Difference::PlacementOnly
            && !task.node_id.and_then(|id| store.node(id)).is_some_and(|node| {
                let placement = &service.spec.task.placement;
                constraint::all_match(&placement.constraints, node)
                    && constraint::platform_fits(&placement.platforms, node)
            })
    }
}

fn difference(old: &Arc<TaskSpec>, new: &Arc<TaskSpec>) -> Difference {
    if Arc::ptr_eq(old, new) || old == new {
        return Difference::None;
    }
    let same = old.container == new.container
        && old.resources == new.resources
        && old.restart == new.restart
        && old.networks == new.networks
        && old.log_driver == new.log_driver
        && old.force_update == new.force_update
        && old.runtime == new.runtime;
    if same { Difference::PlacementOnly } else { Difference::Substantial }
}
