//! A task's life on its node, as a pure state machine: `(life, event) -> next operation`.
//!
//! ## Design notes
//! Level-triggered: [`Life::next`] looks at the state, the desired state and nothing else. States only go up. An
//! operation that changes the engine runs to its end before the next is chosen; the two that only wait (`Healthy`,
//! `Wait`) are dropped when the desired state changes.

use shoal_proto::error::Failure;
use shoal_proto::object::ContainerStatus;
use shoal_proto::task_state::TaskState;

use crate::executor::{Exit, Observed};

/// What the task's actor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Look what exists.
    Observe,
    /// Make ready.
    Prepare,
    /// Start.
    Start,
    /// Wait until it is healthy.
    Healthy,
    /// Wait until it ends.
    Wait,
    /// Stop it.
    Shutdown,
    /// Nothing until the desired state changes.
    Idle,
}

impl Operation {
    /// May it be dropped half-way?
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Healthy | Self::Wait | Self::Idle)
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What exists.
    Observed(Observed),
    /// Ready.
    Prepared(ContainerStatus),
    /// Started.
    Started(ContainerStatus),
    /// Healthy.
    Healthy,
    /// Ended.
    Exited(Exit),
    /// Stopped.
    Stopped(ContainerStatus),
    /// It did not work.
    Failed(Failure),
}

/// Where a task is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// State reported last.
    pub state: TaskState,
    /// In words.
    pub message: String,
    /// Why it failed.
    pub error: String,
    /// Its container.
    pub container: Option<ContainerStatus>,
    /// What the cluster wants.
    pub desired: TaskState,
    observed: bool,
}

impl Life {
    /// The life of a task that was just assigned, and that the cluster believes to be in `state`.
    pub fn assigned(state: TaskState, desired: TaskState, container: Option<ContainerStatus>) -> Self {
        let message = if state <= TaskState::Assigned { String::new() } else { state.as_str().to_owned() };
        Self { state, message, error: String::new(), container, desired, observed: state.is_terminal() }
    }

    /// What to do now.
    pub fn next(&self) -> Operation {
        if self.state.is_terminal() {
            return Operation::Idle;
        }
        if !self.observed {
            return Operation::Observe;
        }
        if self.desired > TaskState::Running {
            return Operation::Shutdown;
        }
        match self.state {
            TaskState::Ready if self.desired < TaskState::Running => Operation::Idle,
            TaskState::Ready => Operation::Start,
            TaskState::Starting => Operation::Healthy,
            TaskState::Running => Operation::Wait,
            _ => Operation::Prepare,
        }
    }

    /// The state that is shown while an operation runs; `None` when the operation changes nothing.
    pub fn state_during(operation: Operation) -> Option<(TaskState, &'static str)> {
        match operation {
            Operation::Prepare => Some((TaskState::Preparing, "preparing")),
            Operation::Start => Some((TaskState::Starting, "starting")),
            _ => None,
        }
    }

    /// An operation begins. Did the state change?
    pub fn begin(&mut self, operation: Operation) -> bool {
        match Self::state_during(operation) {
            Some((state, message)) if state > self.state => self.enter(state, message),
            _ => false,
        }
    }

    /// An operation ended. Did the state change?
    pub fn finish(&mut self, operation: Operation, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Observed(observed) => self.observed(observed),
            Outcome::Prepared(container) => {
                self.container = Some(container);
                self.enter(TaskState::Ready, "prepared")
            }
            Outcome::Started(container) => {
                self.container = Some(container);
                self.state = self.state.max(TaskState::Starting);
                true
            }
            Outcome::Healthy => self.enter(TaskState::Running, "started"),
            Outcome::Exited(exit) => self.exited(exit),
            Outcome::Stopped(container) => {
                if !container.container_id.is_empty() {
                    self.container = Some(container);
                }
                self.enter(TaskState::Shutdown, "shutdown")
            }
            Outcome::Failed(failure) => self.failed(operation, &failure),
        }
    }

    fn observed(&mut self, observed: Observed) -> bool {
        self.observed = true;
        match observed {
            // The cluster saw it start, and now it is gone: someone removed it behind our back.
            Observed::Absent if self.state >= TaskState::Starting => {
                "container is gone".clone_into(&mut self.error);
                self.enter(TaskState::Failed, "failed")
            }
            Observed::Absent => self.enter(TaskState::Accepted, "accepted"),
            Observed::Created(container) => {
                self.container = Some(container);
                self.enter(TaskState::Ready, "prepared")
            }
            Observed::Running(container) => {
                self.container = Some(container);
                self.enter(TaskState::Starting, "starting")
            }
            Observed::Exited(exit) => self.exited(exit),
        }
    }

    fn exited(&mut self, exit: Exit) -> bool {
        let success = exit.is_success();
        self.error = exit.error();
        self.container = Some(exit.container);
        if success { self.enter(TaskState::Complete, "finished") } else { self.enter(TaskState::Failed, "failed") }
    }

    fn failed(&mut self, operation: Operation, failure: &Failure) -> bool {
        self.error.clone_from(&failure.message);
        match operation {
            // It could not be stopped: say so, stay, and try again.
            Operation::Shutdown | Operation::Observe => true,
            // As Swarm: an error before the start rejects the task, one after it is a failure.
            Operation::Prepare | Operation::Idle => self.enter(TaskState::Rejected, "preparing"),
            Operation::Start => self.enter(TaskState::Failed, "starting"),
            Operation::Healthy | Operation::Wait => self.enter(TaskState::Failed, "failed"),
        }
    }

    fn enter(&mut self, state: TaskState, message: &str) -> bool {
        if state <= self.state {
            return false;
        }
        self.state = state;
        message.clone_into(&mut self.message);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(exit_code: Option<i32>) -> ContainerStatus {
        ContainerStatus { container_id: "c1".to_owned(), pid: 7, exit_code }
    }

    fn step(life: &mut Life, expected: Operation, outcome: Outcome) {
        let operation = life.next();
        assert_eq!(operation, expected);
        life.begin(operation);
        life.finish(operation, outcome);
    }

    fn fresh(desired: TaskState) -> Life {
        Life::assigned(TaskState::Assigned, desired, None)
    }

    fn running() -> Life {
        let mut life = fresh(TaskState::Running);
        step(&mut life, Operation::Observe, Outcome::Observed(Observed::Absent));
        assert_eq!(life.state, TaskState::Accepted);
        step(&mut life, Operation::Prepare, Outcome::Prepared(container(None)));
        assert_eq!(life.state, TaskState::Ready);
        step(&mut life, Operation::Start, Outcome::Started(container(None)));
        step(&mut life, Operation::Healthy, Outcome::Healthy);
        assert_eq!(life.state, TaskState::Running);
        life
    }

    #[test]
    fn a_task_runs_and_completes() {
        let mut life = running();
        let exit = Exit { container: container(Some(0)), reason: String::new() };
        step(&mut life, Operation::Wait, Outcome::Exited(exit));
        assert_eq!((life.state, life.error.as_str()), (TaskState::Complete, ""));
        assert_eq!(life.next(), Operation::Idle);
    }

    #[test]
    fn a_failed_exit_names_its_status() {
        let mut life = running();
        let exit = Exit { container: container(Some(3)), reason: String::new() };
        step(&mut life, Operation::Wait, Outcome::Exited(exit));
        assert_eq!((life.state, life.error.as_str()), (TaskState::Failed, "task: non-zero exit (3)"));
    }

    #[test]
    fn it_waits_in_ready_until_running_is_desired() {
        let mut life = fresh(TaskState::Ready);
        step(&mut life, Operation::Observe, Outcome::Observed(Observed::Absent));
        step(&mut life, Operation::Prepare, Outcome::Prepared(container(None)));
        assert_eq!(life.next(), Operation::Idle);
        life.desired = TaskState::Running;
        assert_eq!(life.next(), Operation::Start);
    }

    #[test]
    fn a_shutdown_is_chosen_from_every_state() {
        for desired in [TaskState::Shutdown, TaskState::Remove] {
            let mut life = running();
            life.desired = desired;
            step(&mut life, Operation::Shutdown, Outcome::Stopped(container(Some(143))));
            assert_eq!(life.state, TaskState::Shutdown);
        }
        let mut never_started = fresh(TaskState::Shutdown);
        step(&mut never_started, Operation::Observe, Outcome::Observed(Observed::Absent));
        step(&mut never_started, Operation::Shutdown, Outcome::Stopped(ContainerStatus::default()));
        assert_eq!(never_started.state, TaskState::Shutdown);
        assert_eq!(never_started.container, None);
    }

    #[test]
    fn errors_before_the_start_reject_and_after_it_fail() {
        let mut life = fresh(TaskState::Running);
        step(&mut life, Operation::Observe, Outcome::Observed(Observed::Absent));
        step(&mut life, Operation::Prepare, Outcome::Failed(Failure::not_found("No such image: x:latest")));
        assert_eq!((life.state, life.error.as_str()), (TaskState::Rejected, "No such image: x:latest"));

        let mut life = running();
        step(&mut life, Operation::Wait, Outcome::Failed(Failure::unavailable("shim is gone")));
        assert_eq!(life.state, TaskState::Failed);
    }

    #[test]
    fn a_restarted_agent_adopts_what_runs() {
        let mut life = Life::assigned(TaskState::Running, TaskState::Running, None);
        step(&mut life, Operation::Observe, Outcome::Observed(Observed::Running(container(None))));
        assert_eq!((life.state, life.next()), (TaskState::Running, Operation::Wait));

        let mut gone = Life::assigned(TaskState::Running, TaskState::Running, None);
        step(&mut gone, Operation::Observe, Outcome::Observed(Observed::Absent));
        assert_eq!((gone.state, gone.error.as_str()), (TaskState::Failed, "container is gone"));
    }

    #[test]
    fn a_failed_stop_is_tried_again() {
        let mut life = running();
        life.desired = TaskState::Shutdown;
        step(&mut life, Operation::Shutdown, Outcome::Failed(Failure::unavailable("busy")));
        assert_eq!((life.state, life.next()), (TaskState::Running, Operation::Shutdown));
    }

    #[test]
    fn states_never_go_back() {
        let mut life = running();
        assert!(!life.finish(Operation::Prepare, Outcome::Prepared(container(None))));
        assert_eq!(life.state, TaskState::Running);
    }
}
