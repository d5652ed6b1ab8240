//! Keeps one actor for each assigned task, and the engine's networks as assigned.

use std::collections::HashMap;
use std::sync::Arc;

use shoal_proto::assignment::AssignmentSet;
use shoal_proto::id::TaskId;
use shoal_proto::object::Task;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::assignments::{Assignments, Changed, OutOfSequence};
use crate::executor::Executor;
use crate::task::{self, Shared, Wanted};

/// The node's side of the assignment set.
pub(crate) struct Worker<E: Executor> {
    executor: Arc<E>,
    assignments: Assignments,
    actors: HashMap<TaskId, watch::Sender<Wanted>>,
    tracker: TaskTracker,
    shared: Shared,
    swept: bool,
}

impl<E: Executor> Worker<E> {
    pub(crate) fn new(executor: Arc<E>, shared: Shared) -> Self {
        Self {
            executor,
            assignments: Assignments::default(),
            actors: HashMap::new(),
            tracker: TaskTracker::new(),
            shared,
            swept: false,
        }
    }

    /// Takes in a message: networks first, then the tasks that may need them.
    pub(crate) async fn apply(&mut self, message: AssignmentSet) -> Result<(), OutOfSequence> {
        let changed = self.assignments.apply(message)?;
        if changed.networks {
            self.executor.apply_networks(Arc::new(self.assignments.network_view())).await;
        }
        for id in &changed.gone {
            self.forget(*id);
        }
        for id in &changed.tasks {
            if let Some(task) = self.assignments.task(*id).cloned() {
                self.assign(task);
            }
        }
        if changed.complete {
            self.repeat_statuses(&changed);
            self.sweep();
        }
        Ok(())
    }

    /// Tells the task's actor what is wanted; starts one if there is none.
    fn assign(&mut self, task: Arc<Task>) {
        let wanted = Wanted { desired: task.desired_state, forgotten: false, believed: task.status.state };
        if let Some(actor) = self.actors.get(&task.id).filter(|actor| !actor.is_closed()) {
            actor.send_replace(wanted);
            return;
        }
        // A terminal task without an actor is history: its container, if it still exists, goes when the task does.
        let (sender, receiver) = watch::channel(wanted);
        self.actors.insert(task.id, sender);
        let controller = self.executor.controller(Arc::clone(&task), self.assignments.dependencies(&task));
        self.tracker.spawn(task::run(task, controller, receiver, self.shared.clone()));
    }

    fn forget(&mut self, id: TaskId) {
        if let Some(actor) = self.actors.remove(&id) {
            actor.send_modify(|wanted| wanted.forgotten = true);
        }
    }

    /// After a whole set: actors of tasks that did not change must still compare what the cluster believes.
    fn repeat_statuses(&self, changed: &Changed) {
        for task in self.assignments.tasks().filter(|task| !changed.tasks.contains(&task.id)) {
            if let Some(actor) = self.actors.get(&task.id) {
                actor.send_modify(|wanted| wanted.believed = task.status.state);
            }
        }
    }

    /// Once in a process's life: containers of tasks that were forgotten while the agent was away.
    fn sweep(&mut self) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        let assigned: std::collections::HashSet<TaskId> = self.assignments.tasks().map(|task| task.id).collect();
        let executor = Arc::clone(&self.executor);
        self.tracker.spawn(async move {
            let known = match executor.known_tasks().await {
                Ok(known) => known,
                Err(failure) => {
                    tracing::warn!(error = failure.message, "cannot list the containers of earlier tasks");
                    return;
                }
            };
            for task in known.into_iter().filter(|task| !assigned.contains(task)) {
                tracing::info!(%task, "removing the container of a task that the cluster has forgotten");
                if let Err(failure) = executor.remove_leftover(task).await {
                    tracing::warn!(%task, error = failure.message, "cannot remove a leftover container");
                }
            }
        });
    }

    /// Waits for the actors to end after shutdown was asked for.
    pub(crate) async fn drain(self) {
        self.tracker.close();
        drop(self.actors);
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests;
