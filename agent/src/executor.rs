//! What the agent needs from an engine.

use std::future::Future;
use std::sync::Arc;

use futures::stream::BoxStream;
use shoal_proto::error::Failure;
use shoal_proto::id::TaskId;
use shoal_proto::object::{Config, ContainerStatus, NodeDescription, Secret, Task};
use shoal_proto::spec::PortConfig;
use shoal_proto::time::Timestamp;

use crate::assignments::NetworkView;

/// An engine that runs tasks.
///
/// Life of a task: [`Executor::controller`] once, then [`Controller::observe`] tells whether an earlier agent process
/// already made its container; [`Controller::prepare`], [`Controller::start`], [`Controller::healthy`] and
/// [`Controller::wait`] in this order; [`Controller::shutdown`] at any time after an operation returned;
/// [`Controller::remove`] when the cluster has forgotten the task.
pub trait Executor: Send + Sync + 'static {
    /// Runs one task.
    type Controller: Controller;

    /// What this node has and is.
    fn describe(&self) -> impl Future<Output = Result<NodeDescription, Failure>> + Send;

    /// The cluster's network state changed, as far as this node needs to know it. Called with the whole state, never
    /// twice at one time; returns when tasks that need it may start. Called again after a failure.
    fn apply_networks(&self, view: Arc<NetworkView>) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Something to run this task with. Must not block, and must not fail: errors come out of the controller.
    fn controller(&self, task: Arc<Task>, dependencies: Dependencies) -> Self::Controller;

    /// Tasks whose containers exist on this node, whatever state they are in.
    fn known_tasks(&self) -> impl Future<Output = Result<Vec<TaskId>, Failure>> + Send;

    /// Removes the container of a task that the cluster no longer knows.
    fn remove_leftover(&self, task: TaskId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The log of a task's container.
    fn logs(
        &self,
        task: TaskId,
        options: LogOptions,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<LogLine, Failure>>, Failure>> + Send;
}

/// Payloads that a task's files are made of.
#[derive(Debug, Clone, Default)]
pub struct Dependencies {
    /// Secrets that its spec names.
    pub secrets: Vec<Arc<Secret>>,
    /// Configs that its spec names.
    pub configs: Vec<Arc<Config>>,
}

/// What exists of a task's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Nothing.
    Absent,
    /// Created, never started.
    Created(ContainerStatus),
    /// Running.
    Running(ContainerStatus),
    /// Ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// Its container, with the exit status in it.
    pub container: ContainerStatus,
    /// Why it failed, beyond the exit status: out of memory, unhealthy. Empty when there is nothing to add.
    pub reason: String,
}

impl Exit {
    /// Did it end with success?
    pub fn is_success(&self) -> bool {
        self.container.exit_code == Some(0) && self.reason.is_empty()
    }

    /// The error text of the task, as Swarm words it.
    pub fn error(&self) -> String {
        match (&*self.reason, self.container.exit_code) {
            ("", Some(0)) => String::new(),
            ("", Some(code)) => format!("task: non-zero exit ({code})"),
            ("", None) => "task: exit status unknown".to_owned(),
            (reason, Some(code)) => format!("task: non-zero exit ({code}): {reason}"),
            (reason, None) => format!("task: {reason}"),
        }
    }
}

/// Runs one task. Every operation may be called again after it succeeded, and then does nothing.
pub trait Controller: Send + 'static {
    /// What exists already.
    fn observe(&mut self) -> impl Future<Output = Result<Observed, Failure>> + Send;

    /// Makes everything ready so that a start is immediate: image, mounts, container.
    fn prepare(&mut self) -> impl Future<Output = Result<ContainerStatus, Failure>> + Send;

    /// Starts the container's process.
    fn start(&mut self) -> impl Future<Output = Result<ContainerStatus, Failure>> + Send;

    /// Returns when the container counts as started: at once, or when its health check passes. May be dropped.
    fn healthy(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns when the container has ended. May be dropped.
    fn wait(&mut self) -> impl Future<Output = Result<Exit, Failure>> + Send;

    /// Stops the container: its stop signal, its grace period, then SIGKILL. Success when there is none.
    fn shutdown(&mut self) -> impl Future<Output = Result<ContainerStatus, Failure>> + Send;

    /// Removes the container and what was made for it. Success when there is none.
    fn remove(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Ports published in host mode, with their numbers.
    fn ports(&self) -> Vec<PortConfig>;
}

/// Which lines of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Wait for more?
    pub follow: bool,
    /// Standard output?
    pub stdout: bool,
    /// Standard error?
    pub stderr: bool,
    /// Not before; "never" is the beginning.
    pub since: Timestamp,
    /// Not after; "never" is the end.
    pub until: Timestamp,
    /// So many lines from the end; `None` is all.
    pub tail: Option<u64>,
}

/// One line, with its line end if it had one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Of standard error?
    pub stderr: bool,
    /// When it was written.
    pub timestamp: Timestamp,
    /// Its bytes.
    pub line: Vec<u8>,
}
