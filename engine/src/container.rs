//! Containers: what they are, what they do, and everything one can ask of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::BoxStream;
use shoal_proto::error::Failure;
use shoal_proto::id::TaskId;
use shoal_proto::time::Timestamp;

use crate::cgroup::Cgroup;
use crate::checkpoint::{self, CheckpointCreate, CheckpointSummary};
use crate::engine::Inner;
use crate::image::{ByteStream, Digest};
use crate::metrics::Action;
use crate::model::{
    ContainerInspect, ContainerSummary, ContainersPruneReport, CreateRequest, CreateResponse, ExecCreate, ExecInspect,
    ExecStart, Filters, Stats, Top, UpdateRequest, UpdateResponse, WaitResponse,
};
use crate::snapshot::Change;
use crate::{exec, health, stats};

pub mod api;
pub(crate) mod archive;
pub mod attach;
mod change;
mod commit;
mod create;
pub(crate) mod defaults;
pub mod detach;
pub(crate) mod end;
mod endpoint;
pub(crate) mod file_access;
pub(crate) mod file_watch;
mod files;
mod image_mounts;
mod inspect;
pub(crate) mod instance;
pub(crate) mod launch;
pub mod lifecycle;
mod links;
pub mod list;
pub mod log_reader;
pub(crate) mod log_source;
mod log_stream;
pub mod merge;
pub mod mounts;
pub mod names;
pub(crate) mod network;
pub mod ports;
pub mod record;
pub mod registry;
pub(crate) mod remove;
pub(crate) mod restore;
pub mod signal;
mod spec_input;
mod spool;
mod start;
pub mod status;
pub(crate) mod stop;
pub(crate) mod streams;
pub(crate) mod teardown;
pub mod top;
pub mod validate;
mod wait;

pub use api::{
    AttachOptions, AttachStreams, ListOptions, LogFrame, LogOptions, LogStream, OutputFrame, OutputKind, OutputStream,
    Overview, RemoveOptions, StopOptions, TaskContainer, WaitCondition, Waiting,
};
pub use archive::{ExtractOptions, PathStat};
pub use attach::{AttachInput, InputState};
pub use commit::CommitRequest;

/// The engine's containers. Every `id` may be a full id, a name, or an unambiguous beginning of an id.
#[derive(Debug, Clone)]
pub struct Containers {
    inner: Arc<Inner>,
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
        let work = create::create(&self.inner, name, request);
        self.inner.metrics.timed(Action::Create, work).await
    }

    /// All of them, as they are now, at no cost.
    pub fn overview(&self) -> Vec<Overview> {
        let all = self.inner.containers.all();
        let overview = all.iter().map(|container| {
            let busy = container.operation.try_lock().is_err();
            let record = container.record();
            let (state, pid) = (record.state.phase.as_str(), record.state.pid);
            Overview { id: container.id.clone(), name: record.name.clone(), state, pid, busy }
        });
        overview.collect()
    }

    /// Starts it. `NotModified` when it runs.
    ///
    /// # Errors
    /// It does not exist, or its program cannot be run; what was done is undone.
    pub async fn start(&self, id: &str) -> Result<(), Failure> {
        let container = self.inner.containers.find(id)?;
        self.inner.metrics.timed(Action::Start, start::start(&self.inner, &container, true)).await
    }

    /// Starts it with the processes of a checkpoint, in `folder` or, when that is empty, of its own. `NotModified` when it runs.
    ///
    /// # Errors
    /// It or the checkpoint does not exist, or cannot be restored; what was done is undone.
    pub async fn start_from(&self, id: &str, checkpoint: &str, folder: &str) -> Result<(), Failure> {
        let container = self.inner.containers.find(id)?;
        let from = start::Origin { checkpoint: checkpoint.to_owned(), folder: folder.to_owned() };
        let work = start::start_from(&self.inner, &container, Some(from), true);
        self.inner.metrics.timed(Action::Start, work).await
    }

    /// Writes its processes down, to be started from later.
    ///
    /// # Errors
    /// It does not exist or run, the checkpoint exists, or CRIU is missing or cannot do it.
    pub async fn checkpoint(&self, id: &str, asked: &CheckpointCreate) -> Result<(), Failure> {
        checkpoint::create(&self.inner, &self.inner.containers.find(id)?, asked).await
    }

    /// Its checkpoints in `folder` or, when that is empty, its own.
    ///
    /// # Errors
    /// It does not exist, or the folder cannot be read.
    pub async fn checkpoints(&self, id: &str, folder: &str) -> Result<Vec<CheckpointSummary>, Failure> {
        let (container, folder) = (self.inner.containers.find(id)?, folder.to_owned());
        let listed = tokio::task::spawn_blocking(move || checkpoint::list(&container, &folder));
        listed.await.map_err(|error| Failure::internal(&error))?
    }

    /// Removes a checkpoint of its.
    ///
    /// # Errors
    /// It or the checkpoint does not exist.
    pub async fn remove_checkpoint(&self, id: &str, checkpoint: &str, folder: &str) -> Result<(), Failure> {
        let container = self.inner.containers.find(id)?;
        let (checkpoint, folder) = (checkpoint.to_owned(), folder.to_owned());
        let removed = tokio::task::spawn_blocking(move || checkpoint::remove(&container, &checkpoint, &folder));
        removed.await.map_err(|error| Failure::internal(&error))?
    }

    /// Stops it: its stop signal, its grace period, then SIGKILL. `NotModified` when it does not run.
    ///
    /// # Errors
    /// It does not exist, or cannot be killed.
    pub async fn stop(&self, id: &str, options: StopOptions) -> Result<(), Failure> {
        stop::stop(&self.inner, &self.inner.containers.find(id)?, &options).await
    }

    /// Sends a signal (`SIGKILL` without one), by name or number.
    ///
    /// # Errors
    /// It does not exist or run, or there is no such signal.
    pub async fn kill(&self, id: &str, signal: Option<&str>) -> Result<(), Failure> {
        let number = stop::killing(signal)?;
        let container = self.inner.containers.find(id).map_err(|failure| {
            Failure::new(failure.kind, format!("cannot kill container: {id}: {}", failure.message))
        })?;
        stop::kill(&self.inner, &container, number).await
    }

    /// Stops it when it runs, then starts it.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub async fn restart(&self, id: &str, options: StopOptions) -> Result<(), Failure> {
        stop::restart(&self.inner, &self.inner.containers.find(id)?, &options).await
    }

    /// Freezes its processes.
    ///
    /// # Errors
    /// It does not exist or run, or is paused.
    pub async fn pause(&self, id: &str) -> Result<(), Failure> {
        stop::pause(&self.inner, &self.inner.containers.find(id)?).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It does not exist, or is not paused.
    pub async fn unpause(&self, id: &str) -> Result<(), Failure> {
        stop::unpause(&self.inner, &self.inner.containers.find(id)?).await
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// It does not exist, or the name is taken or wrong.
    pub async fn rename(&self, id: &str, name: &str) -> Result<(), Failure> {
        change::rename(&self.inner, &self.inner.containers.find(id)?, name).await
    }

    /// Changes its limits and restart policy.
    ///
    /// # Errors
    /// It does not exist, or a limit is wrong.
    pub async fn update(&self, id: &str, update: UpdateRequest) -> Result<UpdateResponse, Failure> {
        change::update(&self.inner, &self.inner.containers.find(id)?, &update).await
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
        Ok(wait::begin(&self.inner.containers.find(id)?, condition))
    }

    /// Removes it.
    ///
    /// # Errors
    /// It does not exist, or runs and `force` was not given.
    pub async fn remove(&self, id: &str, options: RemoveOptions) -> Result<(), Failure> {
        if options.link {
            return links::remove(&self.inner, id).await;
        }
        let container = self.inner.containers.find(id)?;
        self.inner.metrics.timed(Action::Delete, remove::remove(&self.inner, &container, options)).await
    }

    /// Describes it, perhaps with its sizes.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn inspect(&self, id: &str, size: bool) -> Result<ContainerInspect, Failure> {
        let container = self.inner.containers.find(id)?;
        let mut inspected = inspect::inspect(&self.inner, &container);
        if size {
            let written = inspect::writable_size(&self.inner, &container).await;
            let below = inspect::image_size(&self.inner, &container);
            inspected.size_rw = i64::try_from(written).ok();
            inspected.size_root_fs = i64::try_from(written + below).ok();
        }
        Ok(inspected)
    }

    /// Lists containers, the newest first.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<ContainerSummary>, Failure> {
        let selection = remove::selection(&self.inner, &options.filters, options.all)?;
        let now = self.inner.now();
        let mut found: Vec<_> = self
            .inner
            .containers
            .all()
            .into_iter()
            .filter(|container| {
                let record = container.record();
                selection.includes(&record, health::word(container), options.limit.is_some())
            })
            .map(|container| {
                let created = container.record().created;
                (created, container)
            })
            .collect();
        found.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.id.cmp(&other.1.id)));
        found.truncate(options.limit.unwrap_or(usize::MAX));
        let mut names = BTreeMap::new();
        let mut summaries = Vec::with_capacity(found.len());
        for (_, container) in found {
            let record = container.record().clone();
            let image = inspect::image_name(&self.inner, &record, &mut names);
            let mut summary = list::summarize(&record, image, health::word(&container), now);
            if options.size {
                let written = inspect::writable_size(&self.inner, &container).await;
                let below = inspect::image_size(&self.inner, &container);
                summary.size_rw = i64::try_from(written).unwrap_or(i64::MAX);
                summary.size_root_fs = i64::try_from(written + below).unwrap_or(i64::MAX);
            }
            summaries.push(summary);
        }
        Ok(summaries)
    }

    /// Reads its log.
    ///
    /// # Errors
    /// It does not exist, or keeps no log.
    pub async fn logs(&self, id: &str, options: LogOptions) -> Result<LogStream, Failure> {
        log_stream::open(&self.inner, &self.inner.containers.find(id)?, options).await
    }

    /// Connects to its streams; one may attach before the start.
    ///
    /// # Errors
    /// It does not exist, or is paused or restarting, or the detach keys are wrong.
    pub async fn attach(&self, id: &str, options: AttachOptions) -> Result<AttachStreams, Failure> {
        let container = self.inner.containers.find(id)?;
        let streams = streams::attach(&self.inner, &container, options).await?;
        tell(&self.inner, &container, "attach", &[]);
        Ok(streams)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// It does not exist or run.
    pub async fn resize(&self, id: &str, height: u16, width: u16) -> Result<(), Failure> {
        let container = self.inner.containers.find(id)?;
        let shim = container.running_shim()?;
        if !container.record().config.tty {
            // As with dockerd: there is nothing to be done, and nothing wrong.
            return Ok(());
        }
        shim.resize(width, height).await.map_err(|error| Failure::internal(&error))
    }

    /// Prepares a command to execute; gives its id.
    ///
    /// # Errors
    /// The container does not exist or run, or no command was given.
    pub async fn exec_create(&self, id: &str, exec: ExecCreate) -> Result<String, Failure> {
        exec::create(&self.inner, &self.inner.containers.find(id)?, exec)
    }

    /// Executes it. Gives its streams, or nothing when detached.
    ///
    /// # Errors
    /// There is no such exec, it was started before, or the program cannot be run.
    pub async fn exec_start(&self, exec_id: &str, start: ExecStart) -> Result<Option<AttachStreams>, Failure> {
        exec::start(&self.inner, exec_id, &start).await
    }

    /// Describes an exec.
    ///
    /// # Errors
    /// There is no such exec.
    pub async fn exec_inspect(&self, exec_id: &str) -> Result<ExecInspect, Failure> {
        exec::inspect(&self.inner, exec_id)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// There is no such exec, it does not run, or has no terminal.
    pub async fn exec_resize(&self, exec_id: &str, height: u16, width: u16) -> Result<(), Failure> {
        exec::resize(&self.inner, exec_id, height, width).await
    }

    /// One sample of what it uses. With `one_shot` there is no earlier sample in it; else it takes a second.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn stats(&self, id: &str, one_shot: bool) -> Result<Stats, Failure> {
        stats::once(&self.inner, &self.inner.containers.find(id)?, one_shot).await
    }

    /// A sample each second, until the container is removed.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn stats_stream(&self, id: &str) -> Result<BoxStream<'static, Stats>, Failure> {
        Ok(stats::stream(&self.inner, &self.inner.containers.find(id)?))
    }

    /// Its processes. `ps_args` as `ps` takes them; empty is `-ef`.
    ///
    /// # Errors
    /// It does not exist or run, or the columns are not known.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<Top, Failure> {
        let container = self.inner.containers.find(id)?;
        container.running_shim()?;
        let cgroup = launch::cgroup(&self.inner, &container);
        let (arguments, now) = (ps_args.to_owned(), self.inner.now());
        let read = tokio::task::spawn_blocking(move || {
            let host = top::read_host(now.0.div_euclid(1_000_000_000));
            let mut pids = Cgroup::open(&cgroup).map(|cgroup| cgroup.processes()).unwrap_or_default();
            pids.sort_unstable();
            pids.dedup();
            let processes: Vec<_> = pids.into_iter().filter_map(top::read_process).collect();
            top::table(&arguments, &host, &processes)
        });
        let table = read.await.map_err(|error| Failure::internal(&error))??;
        tell(&self.inner, &container, "top", &[]);
        Ok(table)
    }

    /// Looks at one path in it. A link at its end is not followed.
    ///
    /// # Errors
    /// It or the path does not exist.
    pub async fn path_stat(&self, id: &str, path: &str) -> Result<PathStat, Failure> {
        archive::check_path(path)?;
        archive::path_stat(&self.inner, &self.inner.containers.find(id)?, id, path).await
    }

    /// Packs what is at a path, volumes included, whether it runs or not.
    ///
    /// # Errors
    /// It or the path does not exist.
    pub async fn archive(&self, id: &str, path: &str) -> Result<(PathStat, ByteStream), Failure> {
        archive::check_path(path)?;
        archive::archive(&self.inner, &self.inner.containers.find(id)?, id, path).await
    }

    /// Unpacks an archive, compressed or not, into the directory at a path.
    ///
    /// # Errors
    /// It or the path does not exist or is no directory, may not be written, or the archive is malformed. What was unpacked
    /// until then stays.
    pub async fn extract(
        &self,
        id: &str,
        path: &str,
        options: ExtractOptions,
        source: ByteStream,
    ) -> Result<(), Failure> {
        archive::check_path(path)?;
        archive::extract(&self.inner, &self.inner.containers.find(id)?, id, path, options, source).await
    }

    /// Packs its root file system, without volumes.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn export(&self, id: &str) -> Result<ByteStream, Failure> {
        archive::export(&self.inner, &self.inner.containers.find(id)?).await
    }

    /// Makes an image of it as it is now: its image's layers, and one with what it changed.
    ///
    /// # Errors
    /// It does not exist, a change or the name is invalid, or the disk fails.
    pub async fn commit(&self, id: &str, request: CommitRequest) -> Result<Digest, Failure> {
        let container = self.inner.containers.find(id)?;
        self.inner.metrics.timed(Action::Commit, commit::commit(&self.inner, &container, request)).await
    }

    /// What it changed in its file system, by path.
    ///
    /// # Errors
    /// It does not exist, or the disk fails.
    pub async fn changes(&self, id: &str) -> Result<Vec<Change>, Failure> {
        let container = self.inner.containers.find(id)?;
        let snapshots = self.inner.snapshots.clone();
        let diff = tokio::task::spawn_blocking(move || snapshots.diff(&container.id));
        let found = async { diff.await.map_err(|error| Failure::internal(&error))? };
        self.inner.metrics.timed(Action::Changes, found).await
    }

    /// Removes all that do not run and pass the filters.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn prune(&self, filters: Filters) -> Result<ContainersPruneReport, Failure> {
        remove::prune(&self.inner, &filters).await
    }
}

/// Tells that something happened to a container.
pub(crate) fn tell(inner: &Inner, container: &instance::Container, action: &str, more: &[(&str, &str)]) {
    let mut attributes = container.record().attributes();
    attributes.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    inner.events.publish("container", action, &container.id, attributes);
}

/// Containers that run tasks of the cluster.
pub(crate) fn task_containers(inner: &Inner) -> Vec<TaskContainer> {
    inner.containers.all().iter().filter_map(task_container).collect()
}

/// The container of a task. `name` is the one it was made with, which finds it at once; all others are looked at only
/// when there is none of that name.
pub(crate) fn find_task_container(inner: &Inner, task: TaskId, name: &str) -> Option<TaskContainer> {
    let is_it = |container: &Arc<instance::Container>| container.record().internal.task == Some(task);
    let named = inner.containers.find(name).ok().filter(is_it);
    let found = named.or_else(|| inner.containers.all().into_iter().find(is_it))?;
    task_container(&found)
}

fn task_container(container: &Arc<instance::Container>) -> Option<TaskContainer> {
    let record = container.record();
    let state = &record.state;
    let ended = state.finished_at != Timestamp::ZERO && !state.phase.is_running();
    Some(TaskContainer {
        id: record.id.clone(),
        name: record.name.clone(),
        task: record.internal.task?,
        task_labels: record.internal.task_labels.clone(),
        status: state.phase.as_str().to_owned(),
        health: health::word(container).to_owned(),
        pid: state.pid,
        exit_code: (ended || !state.error.is_empty()).then_some(state.exit_code),
        oom_killed: state.oom_killed,
        error: state.error.clone(),
    })
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// The instant of the `until` filter, if there is one.
///
/// # Errors
/// When there are several, or it is none.
pub(crate) fn until_of(filters: &Filters, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    let mut values = filters.get("until");
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(text), None) => until(text, now).map(Some),
        (Some(_), Some(_)) => Err(Failure::invalid("more than one until filter specified")),
    }
}

/// Reads the value of an `until` filter: an instant, seconds since the epoch, or a duration before now.
///
/// # Errors
/// When it is none of these.
pub(crate) fn until(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let invalid = || Failure::invalid(format!("failed to parse value as time or duration: \"{text}\""));
    if let Ok(instant) = Timestamp::parse(text) {
        return Ok(instant);
    }
    // A date, or a date and a time of this host's clock.
    if text.contains('-')
        && let Ok(local) = text.parse::<jiff::civil::DateTime>()
    {
        let zone = jiff::tz::TimeZone::try_system().unwrap_or(jiff::tz::TimeZone::UTC);
        let instant = zone.to_ambiguous_timestamp(local).compatible().map_err(|_| invalid())?.as_nanosecond();
        return i64::try_from(instant).map(Timestamp).map_err(|_| invalid());
    }
    if let Some((seconds, fraction)) = text.split_once('.').or(Some((text, "0")))
        && let (Ok(seconds), Ok(_)) = (seconds.parse::<i64>(), fraction.parse::<u64>())
    {
        return Ok(Timestamp::from_seconds(seconds));
    }
    let mut nanos = 0i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(invalid)?;
        let number: i64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit_end = rest[digits..].find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(rest.len() - digits);
        let unit = match &rest[digits..digits + unit_end] {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            _ => return Err(invalid()),
        };
        nanos = nanos.saturating_add(number.saturating_mul(unit));
        rest = &rest[digits + unit_end..];
    }
    Ok(Timestamp(now.0.saturating_sub(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_read_as_dockerd_does() {
        let now = Timestamp::from_seconds(1_700_000_000);
        assert_eq!(until("10m", now), Ok(Timestamp::from_seconds(1_700_000_000 - 600)));
        assert_eq!(until("1h30m", now), Ok(Timestamp::from_seconds(1_700_000_000 - 5400)));
        assert_eq!(until("1699999999", now), Ok(Timestamp::from_seconds(1_699_999_999)));
        assert_eq!(until("2023-11-14T22:13:20Z", now), Ok(now));
        for text in ["yesterday", "10", "5d", ""] {
            let parsed = until(text, now);
            assert!(text == "10" || text.is_empty() || parsed.is_err(), "{text}: {parsed:?}");
        }
    }
}
