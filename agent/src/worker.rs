//! Keeps one actor for each assigned task, and the engine's networks as assigned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_kit::backoff::Backoff;
use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_proto::assignment::AssignmentSet;
use shoal_proto::id::TaskId;
use shoal_proto::object::Task;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::assignments::{Assignments, Changed, Unusable};
use crate::executor::Executor;
use crate::networks::{self, Since};
use crate::reporter::Reporter;
use crate::task::{self, Shared, Wanted};

/// How long the end of the agent waits for its tasks.
const DRAIN: Duration = Duration::from_secs(5);

/// The node's side of the assignment set.
pub(crate) struct Worker<E: Executor> {
    executor: Arc<E>,
    assignments: Arc<Mutex<Assignments>>,
    /// Number of the newest network state.
    networks: watch::Sender<u64>,
    networks_since: Since,
    actors: HashMap<TaskId, watch::Sender<Wanted>>,
    tracker: TaskTracker,
    shared: Shared,
    swept: bool,
}

impl<E: Executor> Worker<E> {
    /// A worker whose network loop runs.
    pub(crate) fn new(
        executor: Arc<E>,
        reporter: Arc<Reporter>,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
        shutdown: CancellationToken,
    ) -> Self {
        let assignments = Arc::new(Mutex::new(Assignments::default()));
        let (networks, wanted) = watch::channel(0);
        let (applied, networks_applied) = watch::channel(0);
        let tracker = TaskTracker::new();
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15), entropy.clone());
        let (engine, source) = (Arc::clone(&executor), Arc::clone(&assignments));
        tracker.spawn(networks::run(engine, source, wanted, applied, backoff, shutdown.clone()));
        let shared = Shared { reporter, clock, entropy, shutdown, networks: networks_applied };
        Self {
            executor,
            assignments,
            networks,
            networks_since: Since::default(),
            actors: HashMap::new(),
            tracker,
            shared,
            swept: false,
        }
    }

    fn assignments(&self) -> MutexGuard<'_, Assignments> {
        self.assignments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a message: networks first, then the tasks that may need them. Waits for nothing.
    pub(crate) fn apply(&mut self, message: AssignmentSet) -> Result<(), Unusable> {
        let changed = self.assignments().apply(message)?;
        if changed.networks {
            let generation = *self.networks.borrow() + 1;
            let assignments = self.assignments.lock().unwrap_or_else(PoisonError::into_inner);
            self.networks_since.note(generation, &changed.new_networks, |network| assignments.has_network(network));
            drop(assignments);
            self.networks.send_replace(generation);
        }
        for id in &changed.gone {
            self.forget(*id);
        }
        for id in &changed.tasks {
            let task = self.assignments().task(*id).cloned();
            if let Some(task) = task {
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
        let dependencies = self.assignments().dependencies(&task);
        let controller = self.executor.controller(Arc::clone(&task), dependencies);
        let networks = task.networks.iter().map(|attachment| attachment.network);
        let need = self.networks_since.needed(networks, *self.networks.borrow());
        self.tracker.spawn(task::run(task, controller, need, receiver, self.shared.clone()));
    }

    fn forget(&mut self, id: TaskId) {
        if let Some(actor) = self.actors.remove(&id) {
            actor.send_modify(|wanted| wanted.forgotten = true);
        }
    }

    /// The cluster has removed this node: whatever it had it run was given to others, and ends here.
    pub(crate) fn forget_all(&mut self) {
        let nothing = AssignmentSet { complete: true, ..AssignmentSet::default() };
        if let Err(error) = self.apply(nothing) {
            tracing::error!(%error, "cannot end the tasks of a cluster that this node is no part of");
        }
    }

    /// After a whole set: actors of tasks that did not change must still compare what the cluster believes.
    fn repeat_statuses(&self, changed: &Changed) {
        for task in self.assignments().tasks().filter(|task| !changed.tasks.contains(&task.id)) {
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
        let assigned: std::collections::HashSet<TaskId> = self.assignments().tasks().map(|task| task.id).collect();
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

    /// Waits for the actors to end after shutdown was asked for. One that is busy for longer, with a large image or a
    /// container that does not stop, is left behind: the next agent looks at what is there and goes on.
    pub(crate) async fn drain(self) {
        self.tracker.close();
        drop(self.actors);
        drop(self.networks);
        if tokio::time::timeout(DRAIN, self.tracker.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.tracker.len(),
                "some tasks are in the middle of something; not waiting for them"
            );
        }
    }
}

#[cfg(test)]
mod tests;
