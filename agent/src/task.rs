//! One actor for each assigned task: carries out what [`crate::life`] chooses.

use std::sync::Arc;
use std::time::Duration;

use shoal_kit::backoff::Backoff;
use shoal_kit::clock::Clock;
use shoal_kit::entropy::Entropy;
use shoal_proto::id::TaskId;
use shoal_proto::object::{Task, TaskStatus};
use shoal_proto::task_state::TaskState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::executor::Controller;
use crate::life::{Life, Operation, Outcome};
use crate::reporter::Reporter;

/// What every task actor shares.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Entropy,
    pub(crate) shutdown: CancellationToken,
    /// What the engine has of the cluster's networks.
    pub(crate) networks: watch::Receiver<u64>,
}

/// What the worker tells an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) desired: TaskState,
    /// The cluster has forgotten the task: stop it, remove it, end.
    pub(crate) forgotten: bool,
    /// State that the cluster believes in: when it is behind ours, we say it again.
    pub(crate) believed: TaskState,
}

/// Runs a task until the cluster forgets it or the agent ends. Containers outlive the agent.
pub(crate) async fn run<C: Controller>(
    task: Arc<Task>,
    mut controller: C,
    need: u64,
    mut wanted: watch::Receiver<Wanted>,
    shared: Shared,
) {
    let mut networks = shared.networks.clone();
    let mut life = Life::assigned(task.status.state, wanted.borrow().desired, task.status.container.clone());
    let mut retry = Backoff::new(Duration::from_millis(100), Duration::from_secs(10), shared.entropy.clone());
    loop {
        let now_wanted = *wanted.borrow_and_update();
        life.desired = if now_wanted.forgotten { TaskState::Remove } else { now_wanted.desired };
        if now_wanted.forgotten && life.state.is_terminal() {
            remove(&mut controller, task.id, &mut retry, &shared).await;
            return;
        }
        if now_wanted.believed < life.state && life.state > task.status.state {
            report(&life, &controller, task.id, &shared);
        }
        let operation = life.next();
        if life.begin(operation) {
            report(&life, &controller, task.id, &shared);
        }
        // Only what makes use of a network waits for it, and not when it is wanted no longer.
        if matches!(operation, Operation::Prepare | Operation::Start) {
            tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => return,
                _ = networks.wait_for(|applied| *applied >= need) => {}
                changed = wanted.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
        }
        let outcome = tokio::select! {
            biased;
            () = shared.shutdown.cancelled(), if operation.is_waiting() => return,
            changed = wanted.changed(), if operation.is_waiting() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            outcome = carry_out(operation, &mut controller) => outcome,
        };
        let failed = matches!(outcome, Outcome::Failed(_));
        if life.finish(operation, outcome) {
            report(&life, &controller, task.id, &shared);
        }
        if failed && !life.state.is_terminal() {
            tracing::warn!(task = %task.id, ?operation, error = life.error, "trying again");
            tokio::time::sleep(retry.next_delay()).await;
        } else {
            retry.reset();
        }
        if shared.shutdown.is_cancelled() {
            return;
        }
    }
}

async fn carry_out<C: Controller>(operation: Operation, controller: &mut C) -> Outcome {
    let result = match operation {
        Operation::Observe => controller.observe().await.map(Outcome::Observed),
        Operation::Prepare => controller.prepare().await.map(Outcome::Prepared),
        Operation::Start => controller.start().await.map(Outcome::Started),
        Operation::Healthy => controller.healthy().await.map(|()| Outcome::Healthy),
        Operation::Wait => controller.wait().await.map(Outcome::Exited),
        Operation::Shutdown => controller.shutdown().await.map(Outcome::Stopped),
        Operation::Idle => std::future::pending().await,
    };
    result.unwrap_or_else(Outcome::Failed)
}

async fn remove<C: Controller>(controller: &mut C, task: TaskId, retry: &mut Backoff, shared: &Shared) {
    shared.reporter.forget(task);
    while let Err(failure) = controller.remove().await {
        tracing::warn!(%task, error = failure.message, "cannot remove the container yet");
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = tokio::time::sleep(retry.next_delay()) => {}
        }
    }
}

fn report<C: Controller>(life: &Life, controller: &C, task: TaskId, shared: &Shared) {
    let status = TaskStatus {
        state: life.state,
        timestamp: shared.clock.now(),
        message: life.message.clone(),
        error: life.error.clone(),
        container: life.container.clone(),
        ports: controller.ports(),
    };
    // Others wait for the states that stay; those in between are only shown.
    let passing = !matches!(life.next(), Operation::Wait | Operation::Idle);
    shared.reporter.report(task, status, passing);
}
