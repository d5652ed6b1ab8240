//! Does a task still run what its service wants?

use std::collections::HashMap;
use std::sync::Arc;

use shoal_proto::object::{Service, Task};
use shoal_proto::spec::{RestartPolicy, TaskSpec};

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
        && restarts_alike(old.restart.as_ref(), new.restart.as_ref())
        && old.networks == new.networks
        && old.log_driver == new.log_driver
        && old.force_update == new.force_update
        && old.runtime == new.runtime;
    match (same, old.placement == new.placement) {
        (true, true) => Difference::None,
        (true, false) => Difference::PlacementOnly,
        (false, _) => Difference::Substantial,
    }
}

/// How a policy is shown is nothing to a task: builds that do not keep it would otherwise have every task replaced.
fn restarts_alike(old: Option<&RestartPolicy>, new: Option<&RestartPolicy>) -> bool {
    let acting = |policy: Option<&RestartPolicy>| policy.map(|p| RestartPolicy { window_given: false, ..p.clone() });
    acting(old) == acting(new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_proto::spec::Placement;

    use super::*;

    fn with(restart: Option<RestartPolicy>) -> Arc<TaskSpec> {
        Arc::new(TaskSpec { restart, ..TaskSpec::default() })
    }

    #[test]
    fn what_is_only_shown_otherwise_replaces_no_task() {
        let window = |seconds, window_given| {
            let window = Duration::from_secs(seconds);
            with(Some(RestartPolicy { window, window_given, ..RestartPolicy::default() }))
        };
        assert_eq!(difference(&window(0, false), &window(0, true)), Difference::None);
        assert_eq!(difference(&window(50, false), &window(50, true)), Difference::None);
        assert_eq!(difference(&window(50, true), &window(51, true)), Difference::Substantial);
        assert_eq!(difference(&window(0, false), &with(None)), Difference::Substantial);
        let mut moved = window(0, true);
        Arc::make_mut(&mut moved).placement = Placement { max_replicas: 1, ..Placement::default() };
        assert_eq!(difference(&window(0, false), &moved), Difference::PlacementOnly);
    }
}
