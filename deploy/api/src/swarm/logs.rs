//! Logs of services and tasks, from whichever nodes they ran on.
//!
//! ## Design notes
//! Each line carries node, service and task as details: the docker CLI asks for details always, and makes its prefixes
//! from them. What could not be read does not hide the rest: without `follow` it is told at the end of the stream, with
//! `follow` in a line of its own at once. A service that is followed is followed through scaling and updates: tasks
//! that begin to run later are read, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::SelectAll;
use shoal_engine::container::{LogFrame, LogOptions, OutputKind};
use shoal_manager::{ManagerHandle, ServiceLogs};
use shoal_manager_core::store::Store;
use shoal_proto::error::Failure;
use shoal_proto::id::{ServiceId, TaskId};
use shoal_proto::object::Task;
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;
use shoal_proto::wire::{LogChunk, LogSubscription};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::access::Cluster;
use super::find;
use crate::context::Context;
use crate::error::ApiError;
use crate::hijack::{channel, content_type};
use crate::request::Request;
use crate::response::{self, Response};
use crate::routes::streams::log_options;
use crate::stdcopy::{self, Channel};

type Answer = Result<Response, ApiError>;

/// Lines on their way to a client that reads slowly.
const QUEUE: usize = 64;
/// How often a followed service is looked at when nothing seems to change.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(crate) async fn of_service(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let service = find::service(&cluster, request.id())?;
    let (id, tty) = (service.id, service.spec.task.container.tty);
    answer(&request, &cluster, Source::Service(id), tty)
}

pub(crate) async fn of_task(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let task = find::task(&cluster, request.id())?;
    let (id, tty) = (task.id, task.spec.container.tty);
    answer(&request, &cluster, Source::Task(id), tty)
}

/// Whose logs.
#[derive(Debug, Clone, Copy)]
enum Source {
    Service(ServiceId),
    Task(TaskId),
}

impl Source {
    /// The tasks that have, or had, a container.
    fn tasks(self, store: &Store) -> Vec<TaskId> {
        let has_log = |task: &Task| task.node_id.is_some() && task.status.state >= TaskState::Starting;
        match self {
            Self::Service(id) => store.tasks_of_service(id).filter(|task| has_log(task)).map(|task| task.id).collect(),
            Self::Task(id) => store.task(id).filter(|task| has_log(task)).map(|task| task.id).into_iter().collect(),
        }
    }
}

fn answer(request: &Request, cluster: &Cluster, source: Source, tty: bool) -> Answer {
    let options = log_options(&request.query)?;
    let (lines, body) = mpsc::channel(QUEUE);
    let reader = Reader {
        manager: cluster.manager().clone(),
        changes: cluster.manager().changes(),
        source,
        wanted: subscription(&options),
        render: Render { tty, timestamps: request.query.flag("timestamps"), details: request.query.flag("details") },
        lines,
        failures: BTreeMap::new(),
    };
    tokio::spawn(reader.run());
    let body = ReceiverStream::new(body).map(Ok::<_, Failure>);
    Ok(response::stream(content_type(request.version, tty), body))
}

fn subscription(options: &LogOptions) -> LogSubscription {
    LogSubscription {
        follow: options.follow,
        stdout: options.stdout,
        stderr: options.stderr,
        since: options.since.map_or(0, |since| since.0),
        until: options.until.map_or(0, |until| until.0),
        tail: options.tail.and_then(|tail| i64::try_from(tail).ok()).unwrap_or(-1),
        ..LogSubscription::default()
    }
}

/// How lines look.
#[derive(Debug, Clone, Copy)]
struct Render {
    tty: bool,
    timestamps: bool,
    details: bool,
}

impl Render {
    fn line(self, store: &Store, chunk: LogChunk) -> Bytes {
        let output = if chunk.stream == 2 { OutputKind::Stderr } else { OutputKind::Stdout };
        let frame = LogFrame {
            output,
            time: Timestamp(chunk.timestamp),
            data: chunk.line,
            attributes: attributes(store, &chunk.task_id),
        };
        stdcopy::frame_if(!self.tty, channel(output), frame.render(self.timestamps, self.details))
    }
}

fn attributes(store: &Store, task_id: &str) -> BTreeMap<String, String> {
    let task = task_id.parse().ok().and_then(|id| store.task(id));
    let node = task.and_then(|task| task.node_id).map(|id| id.to_string()).unwrap_or_default();
    let service = task.map(|task| task.service_id.to_string()).unwrap_or_default();
    BTreeMap::from([
        ("com.docker.swarm.node.id".to_owned(), node),
        ("com.docker.swarm.service.id".to_owned(), service),
        ("com.docker.swarm.task.id".to_owned(), task_id.to_owned()),
    ])
}

/// Reads logs for one client, until they end or it leaves.
struct Reader {
    manager: ManagerHandle,
    /// Tells that the store has changed.
    changes: watch::Receiver<u64>,
    source: Source,
    wanted: LogSubscription,
    render: Render,
    lines: mpsc::Sender<Bytes>,
    /// Reasons why logs of tasks could not be read, by task.
    failures: BTreeMap<String, String>,
}

impl Reader {
    async fn run(mut self) {
        let mut streams: SelectAll<ServiceLogs> = SelectAll::new();
        let mut known = BTreeSet::new();
        loop {
            self.add_new_tasks(&mut known, &mut streams);
            if streams.is_empty() && !self.goes_on() {
                break;
            }
            if !self.carry(&mut streams).await {
                return;
            }
        }
        self.tell_failures().await;
    }

    /// May there be more to read when all is read?
    fn goes_on(&self) -> bool {
        let store = self.manager.local();
        self.wanted.follow
            && match self.source {
                Source::Service(id) => store.service(id).is_some(),
                Source::Task(id) => store.task(id).is_some_and(|task| !task.status.state.is_terminal()),
            }
    }

    fn add_new_tasks(&self, known: &mut BTreeSet<TaskId>, streams: &mut SelectAll<ServiceLogs>) {
        let mut tasks = self.source.tasks(&self.manager.local());
        tasks.retain(|task| known.insert(*task));
        if tasks.is_empty() {
            return;
        }
        streams.push(self.manager.service_logs(&tasks, &self.wanted));
    }

    /// Carries lines until it is time to look for new tasks. False when the client is gone.
    async fn carry(&mut self, streams: &mut SelectAll<ServiceLogs>) -> bool {
        let look_again = tokio::time::sleep(LOOK_AGAIN);
        tokio::pin!(look_again);
        loop {
            if streams.is_empty() && !self.wanted.follow {
                return true;
            }
            let chunk = tokio::select! {
                biased;
                () = self.lines.closed() => return false,
                chunk = streams.next(), if !streams.is_empty() => match chunk {
                    Some(chunk) => chunk,
                    // The last stream ended.
                    None => continue,
                },
                Ok(()) = self.changes.changed(), if self.wanted.follow => return true,
                () = &mut look_again, if self.wanted.follow => return true,
            };
            if let Some(line) = self.line(chunk)
                && self.lines.send(line).await.is_err()
            {
                return false;
            }
        }
    }

    fn line(&mut self, chunk: LogChunk) -> Option<Bytes> {
        let store = self.manager.local();
        if !chunk.end {
            return Some(self.render.line(&store, chunk));
        }
        if chunk.error.is_empty() {
            return None;
        }
        if !self.wanted.follow {
            self.failures.insert(chunk.task_id, chunk.error);
            return None;
        }
        let line = Bytes::from(format!("(the log cannot be read: {})\n", chunk.error));
        Some(self.render.line(&store, LogChunk { stream: 2, line, ..chunk }))
    }

    async fn tell_failures(self) {
        if self.failures.is_empty() {
            return;
        }
        let reasons: Vec<_> = self.failures.iter().map(|(task, reason)| format!("task {task}: {reason}")).collect();
        let text = format!(
            "warning: incomplete log stream. some logs could not be retrieved for the following reasons: {}\n",
            reasons.join(", ")
        );
        // The client is gone: nobody is left to be told.
        let _ = self.lines.send(stdcopy::frame_if(!self.render.tty, Channel::SystemError, Bytes::from(text))).await;
    }
}
