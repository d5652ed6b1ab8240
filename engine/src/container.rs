//! Containers: what they are, what they do, and everything one can ask of them.

use std::sync::Arc;

use futures::stream::BoxStream;
use shoal_proto::error::{ErrorKind, Failure};

use crate::engine::Inner;
use crate::model::{
    ContainerInspect, ContainerSummary, ContainersPruneReport, CreateRequest, CreateResponse, ExecCreate, ExecInspect,
    ExecStart, Filters, Stats, Top, UpdateRequest, UpdateResponse, WaitResponse,
};

pub mod api;
pub mod attach;
pub mod detach;
pub(crate) mod file_watch;
pub mod lifecycle;
pub mod log_reader;
pub mod names;

pub use api::{
    AttachOptions, AttachStreams, ListOptions, LogFrame, LogOptions, LogStream, OutputFrame, OutputKind, OutputStream,
    RemoveOptions, StopOptions, TaskContainer, WaitCondition, Waiting,
};
pub use attach::{AttachInput, InputState};

/// The engine's containers. Every `id` may be a full id, a name, or an unambiguous beginning of an id.
#[derive(Debug, Clone)]
pub struct Containers {
    inner: Arc<Inner>,
}

fn not_yet<T>(inner: &Inner) -> Result<T, Failure> {
    let _ = &inner.options;
    Err(Failure::new(ErrorKind::NotImplemented, "this part of the engine is being built"))
}

impl Containers {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Makes a container. Without a name it gets one.
    ///
    /// # Errors
    /// The image or a network does not exist, the name is taken, the configuration is wrong.
    pub async fn create(&self, name: Option<String>, request: CreateRequest) -> Result<CreateResponse, Failure> {
        let _ = (name, request);
        not_yet(&self.inner)
    }

    /// Starts it. `NotModified` when it runs.
    ///
    /// # Errors
    /// It does not exist, or its program cannot be run; what was done is undone.
    pub async fn start(&self, id: &str) -> Result<(), Failure> {
        let _ = id;
        not_yet(&self.inner)
    }

    /// Stops it: its stop signal, its grace period, then SIGKILL. `NotModified` when it does not run.
    ///
    /// # Errors
    /// It does not exist, or cannot be killed.
    pub async fn stop(&self, id: &str, options: StopOptions) -> Result<(), Failure> {
        let _ = (id, options);
        not_yet(&self.inner)
    }

    /// Sends a signal (`SIGKILL` without one), by name or number.
    ///
    /// # Errors
    /// It does not exist or run, or there is no such signal.
    pub async fn kill(&self, id: &str, signal: Option<&str>) -> Result<(), Failure> {
        let _ = (id, signal);
        not_yet(&self.inner)
    }

    /// Stops it when it runs, then starts it.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub async fn restart(&self, id: &str, options: StopOptions) -> Result<(), Failure> {
        let _ = (id, options);
        not_yet(&self.inner)
    }

    /// Freezes its processes.
    ///
    /// # Errors
    /// It does not exist or run, or is paused.
    pub async fn pause(&self, id: &str) -> Result<(), Failure> {
        let _ = id;
        not_yet(&self.inner)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It does not exist, or is not paused.
    pub async fn unpause(&self, id: &str) -> Result<(), Failure> {
        let _ = id;
        not_yet(&self.inner)
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// It does not exist, or the name is taken or wrong.
    pub async fn rename(&self, id: &str, name: &str) -> Result<(), Failure> {
        let _ = (id, name);
        not_yet(&self.inner)
    }

    /// Changes its limits and restart policy.
    ///
    /// # Errors
    /// It does not exist, or a limit is wrong.
    pub async fn update(&self, id: &str, update: UpdateRequest) -> Result<UpdateResponse, Failure> {
        let _ = (id, update);
        not_yet(&self.inner)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn wait(&self, id: &str, condition: WaitCondition) -> Result<WaitResponse, Failure> {
        Ok(self.begin_wait(id, condition)?.await)
    }

    /// Begins to wait for its end: nothing that happens after this call is missed. The HTTP API answers its client in
    /// between.
    ///
    /// # Errors
    /// It does not exist.
    pub fn begin_wait(&self, id: &str, condition: WaitCondition) -> Result<Waiting, Failure> {
        let _ = (id, condition);
        not_yet(&self.inner)
    }

    /// Removes it.
    ///
    /// # Errors
    /// It does not exist, or runs and `force` was not given.
    pub async fn remove(&self, id: &str, options: RemoveOptions) -> Result<(), Failure> {
        let _ = (id, options);
        not_yet(&self.inner)
    }

    /// Describes it, perhaps with its sizes.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn inspect(&self, id: &str, size: bool) -> Result<ContainerInspect, Failure> {
        let _ = (id, size);
        not_yet(&self.inner)
    }

    /// Lists containers, the newest first.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<ContainerSummary>, Failure> {
        let _ = options;
        not_yet(&self.inner)
    }

    /// Reads its log.
    ///
    /// # Errors
    /// It does not exist, or keeps no log.
    pub async fn logs(&self, id: &str, options: LogOptions) -> Result<LogStream, Failure> {
        let _ = (id, options);
        not_yet(&self.inner)
    }

    /// Connects to its streams; one may attach before the start.
    ///
    /// # Errors
    /// It does not exist, or is paused or restarting, or the detach keys are wrong.
    pub async fn attach(&self, id: &str, options: AttachOptions) -> Result<AttachStreams, Failure> {
        let _ = (id, options);
        not_yet(&self.inner)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// It does not exist or run, or has no terminal.
    pub async fn resize(&self, id: &str, height: u16, width: u16) -> Result<(), Failure> {
        let _ = (id, height, width);
        not_yet(&self.inner)
    }

    /// Prepares a command to execute; gives its id.
    ///
    /// # Errors
    /// The container does not exist or run, or no command was given.
    pub async fn exec_create(&self, id: &str, exec: ExecCreate) -> Result<String, Failure> {
        let _ = (id, exec);
        not_yet(&self.inner)
    }

    /// Executes it. Gives its streams, or nothing when detached.
    ///
    /// # Errors
    /// There is no such exec, it was started before, or the program cannot be run.
    pub async fn exec_start(&self, exec_id: &str, start: ExecStart) -> Result<Option<AttachStreams>, Failure> {
        let _ = (exec_id, start);
        not_yet(&self.inner)
    }

    /// Describes an exec.
    ///
    /// # Errors
    /// There is no such exec.
    pub async fn exec_inspect(&self, exec_id: &str) -> Result<ExecInspect, Failure> {
        let _ = exec_id;
        not_yet(&self.inner)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// There is no such exec, it does not run, or has no terminal.
    pub async fn exec_resize(&self, exec_id: &str, height: u16, width: u16) -> Result<(), Failure> {
        let _ = (exec_id, height, width);
        not_yet(&self.inner)
    }

    /// One sample of what it uses. With `one_shot` there is no earlier sample in it; else it takes a second.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn stats(&self, id: &str, one_shot: bool) -> Result<Stats, Failure> {
        let _ = (id, one_shot);
        not_yet(&self.inner)
    }

    /// A sample each second, until the container is removed.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn stats_stream(&self, id: &str) -> Result<BoxStream<'static, Stats>, Failure> {
        let _ = id;
        not_yet(&self.inner)
    }

    /// Its processes. `ps_args` as `ps` takes them; empty is `-ef`.
    ///
    /// # Errors
    /// It does not exist or run, or the columns are not known.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<Top, Failure> {
        let _ = (id, ps_args);
        not_yet(&self.inner)
    }

    /// Removes all that do not run and pass the filters.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn prune(&self, filters: Filters) -> Result<ContainersPruneReport, Failure> {
        let _ = filters;
        not_yet(&self.inner)
    }
}
