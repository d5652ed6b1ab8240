//! The worker and its actors on a pretended engine, with paused time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::stream::BoxStream;
use shoal_kit::clock::ManualClock;
use shoal_kit::entropy::Entropy;
use shoal_proto::assignment::{AssignmentItem, AssignmentKey};
use shoal_proto::error::Failure;
use shoal_proto::id::NetworkId;
use shoal_proto::object::{ContainerStatus, NetworkAttachment, NodeDescription, TaskStatus};
use shoal_proto::spec::PortConfig;
use shoal_proto::task_state::TaskState;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::assignments::NetworkView;
use crate::executor::{Controller, Dependencies, Exit, LogLine, LogOptions, Observed};
use crate::reporter::Reporter;

/// What the pretended engine holds: containers by task.
#[derive(Debug, Default)]
struct Pretended {
    containers: Mutex<HashMap<TaskId, Observed>>,
    /// Exit statuses of containers that end by themselves.
    exits: Mutex<HashMap<TaskId, i32>>,
    /// How often a removal fails before it works.
    removal_failures: Mutex<u32>,
    /// Does putting networks in place take forever?
    networks_blocked: watch::Sender<bool>,
}

impl Pretended {
    fn holds(&self, task: TaskId) -> Option<Observed> {
        self.containers.lock().expect("containers").get(&task).cloned()
    }

    fn set(&self, task: TaskId, observed: Observed) {
        self.containers.lock().expect("containers").insert(task, observed);
    }
}

struct PretendedController {
    engine: Arc<Pretended>,
    task: TaskId,
}

impl PretendedController {
    fn status(&self, exit_code: Option<i32>) -> ContainerStatus {
        ContainerStatus { container_id: self.task.to_string(), pid: 1, exit_code }
    }
}

impl Controller for PretendedController {
    async fn observe(&mut self) -> Result<Observed, Failure> {
        Ok(self.engine.holds(self.task).unwrap_or(Observed::Absent))
    }
    async fn prepare(&mut self) -> Result<ContainerStatus, Failure> {
        self.engine.set(self.task, Observed::Created(self.status(None)));
        Ok(self.status(None))
    }
    async fn start(&mut self) -> Result<ContainerStatus, Failure> {
        self.engine.set(self.task, Observed::Running(self.status(None)));
        Ok(self.status(None))
    }
    async fn healthy(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    async fn wait(&mut self) -> Result<Exit, Failure> {
        let code = self.engine.exits.lock().expect("exits").get(&self.task).copied();
        match code {
            Some(code) => Ok(Exit { container: self.status(Some(code)), reason: String::new() }),
            None => std::future::pending().await,
        }
    }
    async fn shutdown(&mut self) -> Result<ContainerStatus, Failure> {
        match self.engine.holds(self.task) {
            None => Ok(ContainerStatus::default()),
            Some(_) => {
                let exit = Exit { container: self.status(Some(143)), reason: String::new() };
                self.engine.set(self.task, Observed::Exited(exit));
                Ok(self.status(Some(143)))
            }
        }
    }
    async fn remove(&mut self) -> Result<(), Failure> {
        let mut failures = self.engine.removal_failures.lock().expect("failures");
        if *failures > 0 {
            *failures -= 1;
            return Err(Failure::unavailable("busy"));
        }
        self.engine.containers.lock().expect("containers").remove(&self.task);
        Ok(())
    }
    fn ports(&self) -> Vec<PortConfig> {
        Vec::new()
    }
}

struct Engine(Arc<Pretended>);

impl Executor for Engine {
    type Controller = PretendedController;

    async fn describe(&self) -> Result<NodeDescription, Failure> {
        Ok(NodeDescription::default())
    }
    async fn apply_networks(&self, _view: Arc<NetworkView>) -> Result<(), Failure> {
        let mut blocked = self.0.networks_blocked.subscribe();
        let _ = blocked.wait_for(|blocked| !*blocked).await;
        Ok(())
    }
    fn controller(&self, task: Arc<Task>, _dependencies: Dependencies) -> PretendedController {
        PretendedController { engine: Arc::clone(&self.0), task: task.id }
    }
    async fn known_tasks(&self) -> Result<Vec<TaskId>, Failure> {
        Ok(self.0.containers.lock().expect("containers").keys().copied().collect())
    }
    async fn remove_leftover(&self, task: TaskId) -> Result<(), Failure> {
        self.0.containers.lock().expect("containers").remove(&task);
        Ok(())
    }
    async fn logs(
        &self,
        _task: TaskId,
        _options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, Failure>>, Failure> {
        Ok(Box::pin(futures::stream::empty()))
    }
}

struct Bench {
    engine: Arc<Pretended>,
    reporter: Arc<Reporter>,
    worker: Worker<Engine>,
    sequence: u64,
}

impl Bench {
    fn new() -> Self {
        let engine = Arc::new(Pretended::default());
        let reporter = Arc::new(Reporter::default());
        let worker = Worker::new(
            Arc::new(Engine(Arc::clone(&engine))),
            Arc::clone(&reporter),
            Arc::new(ManualClock::default()),
            Entropy::from_seed(1),
            CancellationToken::new(),
        );
        Self { engine, reporter, worker, sequence: 0 }
    }

    fn send(&mut self, complete: bool, put: Vec<AssignmentItem>, remove: Vec<AssignmentKey>) {
        self.sequence = if complete { 1 } else { self.sequence + 1 };
        let message = AssignmentSet { complete, sequence: self.sequence, version: 0, put, remove };
        self.worker.apply(message).expect("in sequence");
    }

    /// Waits until the task's reported state is this one.
    async fn reported(&self, task: TaskId, state: TaskState) {
        let seen = async {
            loop {
                while let Some((number, updates)) = self.reporter.next_batch(100) {
                    self.reporter.accepted(number);
                    if updates.iter().any(|(id, status)| *id == task && status.state == state) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.expect("the state was never reported");
    }
}

const ONE: TaskId = TaskId::from_bits(1);

fn task(state: TaskState, desired: TaskState) -> AssignmentItem {
    let status = TaskStatus { state, ..TaskStatus::default() };
    AssignmentItem::Task(Arc::new(Task { id: ONE, desired_state: desired, status, ..Task::default() }))
}

#[tokio::test(start_paused = true)]
async fn an_assigned_task_runs_and_a_forgotten_one_is_removed() {
    let mut bench = Bench::new();
    bench.send(true, vec![task(TaskState::Assigned, TaskState::Running)], vec![]);
    bench.reported(ONE, TaskState::Running).await;
    assert!(matches!(bench.engine.holds(ONE), Some(Observed::Running(_))));
    *bench.engine.removal_failures.lock().expect("failures") = 3;
    bench.send(false, vec![], vec![AssignmentKey::Task(ONE)]);
    let gone = async {
        while bench.engine.holds(ONE).is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the container was never removed");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_keeps_the_container_until_the_task_is_forgotten() {
    let mut bench = Bench::new();
    bench.send(true, vec![task(TaskState::Assigned, TaskState::Running)], vec![]);
    bench.reported(ONE, TaskState::Running).await;
    bench.send(false, vec![task(TaskState::Running, TaskState::Shutdown)], vec![]);
    bench.reported(ONE, TaskState::Shutdown).await;
    assert!(matches!(bench.engine.holds(ONE), Some(Observed::Exited(_))));
}

#[tokio::test(start_paused = true)]
async fn an_exit_is_reported_with_its_status() {
    let mut bench = Bench::new();
    bench.engine.exits.lock().expect("exits").insert(ONE, 3);
    bench.send(true, vec![task(TaskState::Assigned, TaskState::Running)], vec![]);
    bench.reported(ONE, TaskState::Failed).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_what_runs_is_adopted_and_what_is_unknown_goes() {
    let mut bench = Bench::new();
    let stale = TaskId::from_bits(9);
    let running = ContainerStatus { container_id: "c".to_owned(), pid: 5, exit_code: None };
    bench.engine.set(ONE, Observed::Running(running.clone()));
    bench.engine.set(stale, Observed::Running(running));
    bench.send(true, vec![task(TaskState::Starting, TaskState::Running)], vec![]);
    bench.reported(ONE, TaskState::Running).await;
    let gone = async {
        while bench.engine.holds(stale).is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the leftover was never removed");
    assert!(matches!(bench.engine.holds(ONE), Some(Observed::Running(_))));
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_is_behind_is_told_again() {
    let mut bench = Bench::new();
    bench.send(true, vec![task(TaskState::Assigned, TaskState::Running)], vec![]);
    bench.reported(ONE, TaskState::Running).await;
    // A new leader restored an older state: the whole set comes again, with the old status.
    bench.send(true, vec![task(TaskState::Preparing, TaskState::Running)], vec![]);
    bench.reported(ONE, TaskState::Running).await;
}

#[tokio::test(start_paused = true)]
async fn only_tasks_on_a_network_wait_for_it() {
    let mut bench = Bench::new();
    bench.engine.networks_blocked.send_replace(true);
    let network = NetworkId::from_bits(5);
    let two = TaskId::from_bits(2);
    let attached = Task {
        id: two,
        desired_state: TaskState::Running,
        status: TaskStatus { state: TaskState::Assigned, ..TaskStatus::default() },
        networks: vec![NetworkAttachment { network, addr: None, aliases: Vec::new() }],
        ..Task::default()
    };
    let put = vec![task(TaskState::Assigned, TaskState::Running), AssignmentItem::Task(Arc::new(attached.clone()))];
    bench.send(true, put, vec![]);
    bench.reported(ONE, TaskState::Running).await;
    assert_eq!(bench.engine.holds(two), None);
    // What waits can be called off.
    let stopped = Task { desired_state: TaskState::Shutdown, ..attached.clone() };
    bench.send(false, vec![AssignmentItem::Task(Arc::new(stopped))], vec![]);
    bench.reported(two, TaskState::Shutdown).await;
    let three = TaskId::from_bits(3);
    bench.send(false, vec![AssignmentItem::Task(Arc::new(Task { id: three, ..attached }))], vec![]);
    bench.engine.networks_blocked.send_replace(false);
    bench.reported(three, TaskState::Running).await;
}
