//! Commands executed in running containers, for users and for health checks.
//!
//! ## Design notes
//! Each has a shim of its own, in `<exec-root>/exec/<id>`. The engine remembers an exec until its container ends, so
//! that a client can read the exit status after the session.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_proto::error::{ErrorKind, Failure};
use tokio_util::sync::CancellationToken;

use crate::container::instance::Container;
use crate::container::lifecycle::Phase;
use crate::container::{AttachStreams, detach, launch, remove, signal, streams};
use crate::engine::Inner;
use crate::model::{ExecCreate, ExecInspect, ExecProcessConfig, ExecStart};
use crate::shim::client::{AttachEvent, AttachOptions, Shim, ShimError};
use crate::shim::config::WindowSize;

/// Ended execs of one container that are remembered.
const REMEMBERED: usize = 256;

/// One exec.
#[derive(Debug)]
pub(crate) struct Exec {
    id: String,
    container: Arc<Container>,
    config: ExecCreate,
    state: Mutex<ExecState>,
    /// Cancelled when its exit status is known, or will not be known any more.
    noted: CancellationToken,
}

#[derive(Debug, Default)]
struct ExecState {
    started: bool,
    running: bool,
    pid: u32,
    exit_code: Option<i32>,
    shim: Option<Shim>,
}

impl Exec {
    fn state(&self) -> MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that its container shows: prepared or running.
    fn shown(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.container.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self) -> String {
        self.config.cmd.iter().flatten().cloned().collect::<Vec<_>>().join(" ")
    }
}

fn table(inner: &Inner) -> MutexGuard<'_, std::collections::HashMap<String, Arc<Exec>>> {
    inner.execs.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn find(inner: &Inner, id: &str) -> Result<Arc<Exec>, Failure> {
    table(inner).get(id).cloned().ok_or_else(|| Failure::not_found(format!("No such exec instance: {id}")))
}

/// Checks that something can be executed in a container.
fn ready(container: &Arc<Container>) -> Result<(), Failure> {
    match container.phase() {
        Phase::Running => Ok(()),
        Phase::Paused => {
            Err(Failure::conflict(format!("container {} is paused, unpause the container before exec", container.id)))
        }
        Phase::Restarting => Err(Failure::conflict(format!(
            "container {} is restarting, wait until the container is running",
            container.id
        ))),
        _ => Err(Failure::conflict(format!("container {} is not running", container.id))),
    }
}

/// Prepares a command; gives its id.
pub(crate) fn create(inner: &Arc<Inner>, container: &Arc<Container>, config: ExecCreate) -> Result<String, Failure> {
    ready(container)?;
    if config.cmd.as_deref().unwrap_or_default().is_empty() {
        return Err(Failure::invalid("No exec command specified"));
    }
    detach::DetachScanner::parse(&config.detach_keys)?;
    let exec = Arc::new(Exec {
        id: inner.new_id(),
        container: Arc::clone(container),
        config,
        state: Mutex::default(),
        noted: CancellationToken::new(),
    });
    forget_old(inner, container);
    table(inner).insert(exec.id.clone(), Arc::clone(&exec));
    exec.shown().insert(exec.id.clone());
    crate::container::tell(inner, container, &format!("exec_create: {}", exec.command()), &[("execID", &exec.id)]);
    Ok(exec.id.clone())
}

/// Forgets ended execs of a container when there are many.
fn forget_old(inner: &Arc<Inner>, container: &Arc<Container>) {
    let mut table = table(inner);
    let ended: Vec<_> = table
        .values()
        .filter(|exec| exec.container.id == container.id && exec.state().exit_code.is_some())
        .map(|exec| exec.id.clone())
        .collect();
    for id in ended.iter().take(ended.len().saturating_sub(REMEMBERED)) {
        table.remove(id);
    }
}

/// Executes it. Gives its streams, or nothing when detached.
#[tracing::instrument(level = "debug", skip_all, fields(exec = exec_id))]
pub(crate) async fn start(
    inner: &Arc<Inner>,
    exec_id: &str,
    start: &ExecStart,
) -> Result<Option<AttachStreams>, Failure> {
    let exec = find(inner, exec_id)?;
    ready(&exec.container)?;
    {
        let mut state = exec.state();
        if state.exit_code.is_some() {
            return Err(Failure::conflict(format!("exec command {exec_id} has already run")));
        }
        if std::mem::replace(&mut state.started, true) {
            return Err(Failure::conflict(format!("exec command {exec_id} is already running")));
        }
    }
    let config = &exec.config;
    let wanted = AttachOptions {
        stdin: config.attach_stdin && !start.detach,
        stdout: config.attach_stdout || config.tty,
        stderr: config.attach_stderr && !config.tty,
    };
    let console = start.console_size.or(config.console_size);
    match launch_exec(inner, &exec, wanted, console, start.detach).await {
        Ok(streams) => Ok(streams),
        Err(error) => {
            exec.state().exit_code = Some(error.exit_code());
            exec.shown().remove(&exec.id);
            let folder = inner.exec_folder(&exec.id);
            remove::remove_folder_soon(inner, folder).await;
            Err(failure(&error))
        }
    }
}

fn failure(error: &ShimError) -> Failure {
    let message = format!("OCI runtime exec failed: exec failed: {}", shoal_proto::error::chain(error));
    let kind = if matches!(error.exit_code(), 126 | 127) { ErrorKind::InvalidArgument } else { ErrorKind::Internal };
    Failure::new(kind, message)
}

async fn launch_exec(
    inner: &Arc<Inner>,
    exec: &Arc<Exec>,
    wanted: AttachOptions,
    console: Option<[u32; 2]>,
    detached: bool,
) -> Result<Option<AttachStreams>, ShimError> {
    let size = console.and_then(|[rows, columns]| window(rows, columns));
    let shim = launch::spawn_exec(inner, &exec.container, &exec.id, &exec.config, size).await?;
    // Before the start, so that nothing of the output is missed.
    let attachment = if detached { None } else { Some(shim.attach(wanted).await?) };
    crate::container::tell(inner, &exec.container, &format!("exec_start: {}", exec.command()), &[("execID", &exec.id)]);
    shim.start().await?;
    let pid = shim.status().await.map_or(0, |status| status.pid);
    {
        let mut state = exec.state();
        (state.running, state.pid, state.shim) = (true, pid, Some(shim.clone()));
    }
    watch(inner, exec, shim);
    let Some(attachment) = attachment else { return Ok(None) };
    let config = &exec.config;
    // The keys were checked at creation.
    Ok(streams::over(inner, attachment, config.tty, wanted.stdin, &config.detach_keys, exec.noted.clone()).ok())
}

fn window(rows: u32, columns: u32) -> Option<WindowSize> {
    let (rows, columns) = (u16::try_from(rows).ok()?, u16::try_from(columns).ok()?);
    (rows > 0 && columns > 0).then_some(WindowSize { columns, rows })
}

fn watch(inner: &Arc<Inner>, exec: &Arc<Exec>, shim: Shim) {
    let (inner, exec) = (Arc::clone(inner), Arc::clone(exec));
    let tracker = inner.tasks.clone();
    tracker.spawn(async move {
        let _noted = exec.noted.clone().drop_guard();
        let exit = tokio::select! {
            () = inner.stopping.cancelled() => return,
            exit = shim.wait() => exit,
        };
        let code = exit.map_or(crate::container::end::UNKNOWN_EXIT, |exit| exit.code);
        ended(&inner, &exec, code).await;
    });
}

async fn ended(inner: &Arc<Inner>, exec: &Arc<Exec>, code: i32) {
    {
        let mut state = exec.state();
        (state.running, state.pid, state.exit_code, state.shim) = (false, 0, Some(code), None);
    }
    exec.noted.cancel();
    exec.shown().remove(&exec.id);
    remove::remove_folder_soon(inner, inner.exec_folder(&exec.id)).await;
    crate::container::tell(
        inner,
        &exec.container,
        "exec_die",
        &[("execID", &exec.id), ("exitCode", &code.to_string())],
    );
}

/// The container ended, and everything that was executed in it with it.
pub(crate) async fn container_ended(inner: &Arc<Inner>, container: &Arc<Container>) {
    let execs: Vec<_> = {
        let mut table = table(inner);
        let ids: Vec<_> =
            table.values().filter(|exec| exec.container.id == container.id).map(|exec| exec.id.clone()).collect();
        ids.iter().filter_map(|id| table.remove(id)).collect()
    };
    for exec in execs {
        exec.shown().remove(&exec.id);
        let shim = exec.state().shim.clone();
        // The kernel kills what is in the container's process namespace with its init; an exec in a container that
        // shares the host's must be told.
        if let Some(shim) = shim {
            let _gone = shim.signal(signal::KILL, false).await;
        }
    }
}

/// Describes an exec.
pub(crate) fn inspect(inner: &Inner, exec_id: &str) -> Result<ExecInspect, Failure> {
    let exec = find(inner, exec_id)?;
    let (running, pid, exit_code) = {
        let state = exec.state();
        (state.running, state.pid, state.exit_code)
    };
    let config = &exec.config;
    let mut words = config.cmd.iter().flatten().cloned();
    Ok(ExecInspect {
        id: exec.id.clone(),
        running,
        exit_code: exit_code.map(i64::from),
        process_config: ExecProcessConfig {
            tty: config.tty,
            entrypoint: words.next().unwrap_or_default(),
            arguments: words.collect(),
            privileged: Some(config.privileged),
            user: config.user.clone(),
        },
        open_stdin: config.attach_stdin,
        open_stderr: config.attach_stderr,
        open_stdout: config.attach_stdout,
        can_remove: exit_code.is_some(),
        container_id: exec.container.id.clone(),
        detach_keys: config.detach_keys.clone(),
        pid: i64::from(pid),
    })
}

/// Sets the size of its terminal.
pub(crate) async fn resize(inner: &Arc<Inner>, exec_id: &str, height: u16, width: u16) -> Result<(), Failure> {
    let exec = find(inner, exec_id)?;
    let shim = exec.state().shim.clone();
    let shim = shim.ok_or_else(|| Failure::conflict(format!("exec process {exec_id} is not running")))?;
    shim.resize(width, height).await.map_err(|error| Failure::internal(&error))
}

/// How a command went that was executed for the engine itself.
#[derive(Debug)]
pub(crate) enum Probe {
    /// It ended.
    Ended {
        /// Exit status.
        exit_code: i32,
        /// The beginning of what it printed.
        output: String,
    },
    /// It took too long, and was killed.
    TimedOut,
}

/// Executes a command for the engine itself, and waits for its end. Its events are those of any exec.
pub(crate) async fn probe(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    command: &[String],
    timeout: Duration,
    longest_output: usize,
) -> Result<Probe, Failure> {
    let config =
        ExecCreate { cmd: Some(command.to_vec()), attach_stdout: true, attach_stderr: true, ..ExecCreate::default() };
    let id = inner.new_id();
    let text = command.join(" ");
    let tell = |action: &str, more: &[(&str, &str)]| {
        let mut attributes = vec![("execID", id.as_str())];
        attributes.extend_from_slice(more);
        crate::container::tell(inner, container, action, &attributes);
    };
    tell(&format!("exec_create: {text}"), &[]);
    let guard = ProbeFolder { inner, id: &id };
    let spawned = launch::spawn_exec(inner, container, &id, &config, None).await;
    let shim = spawned.map_err(|error| failure(&error))?;
    tell(&format!("exec_start: {text}"), &[]);
    let run = async {
        let mut attachment = shim.attach(AttachOptions::default()).await?;
        shim.start().await?;
        let mut output = Vec::new();
        loop {
            match attachment.output.next().await {
                Ok(Some(AttachEvent::Stdout(data) | AttachEvent::Stderr(data))) => {
                    let room = longest_output.saturating_sub(output.len());
                    output.extend_from_slice(&data[..data.len().min(room)]);
                }
                Ok(Some(AttachEvent::Exited(exit))) => return Ok::<_, ShimError>((exit.code, output)),
                Ok(None) | Err(_) => return shim.wait().await.map(|exit| (exit.code, output)),
            }
        }
    };
    let result = match tokio::time::timeout(timeout, run).await {
        Ok(Ok((exit_code, output))) => {
            Ok(Probe::Ended { exit_code, output: String::from_utf8_lossy(&output).into_owned() })
        }
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => {
            let _gone = shim.signal(signal::KILL, false).await;
            Ok(Probe::TimedOut)
        }
    };
    drop(guard);
    let code = match &result {
        Ok(Probe::Ended { exit_code, .. }) => exit_code.to_string(),
        _ => "-1".to_owned(),
    };
    tell("exec_die", &[("exitCode", &code)]);
    result
}

/// Removes the folder of a probe, also when the probe is given up half-way.
struct ProbeFolder<'a> {
    inner: &'a Arc<Inner>,
    id: &'a str,
}

impl Drop for ProbeFolder<'_> {
    fn drop(&mut self) {
        let folder = self.inner.exec_folder(self.id);
        self.inner.tasks.spawn_blocking(move || remove::remove_folder(&folder));
    }
}
