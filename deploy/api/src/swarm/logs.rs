//! Logs of services and tasks, from whichever nodes they ran on.
//!
//! ## Design notes
//! Each line carries node, service and task as details: the docker CLI asks for details always, and makes its prefixes
//! from them. What could not be read does not hide the rest: without `follow` it is told at the end of the stream, with
//! `follow` in a line of its own at once. A service that is followed is followed through scaling and updates: tasks
//! that begin to run later are read, too, from their first line. It is followed through lost connections as well: what
//! was cut off is asked for again, from where it was cut off.

use std::collections::BTreeMap;
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
use tokio::time::Instant;
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
/// How long after a log was cut off it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often in a row that is tried for a task that has ended. One that runs is never given up.
const MOST_FAILURES: u32 = 5;

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
    /// The tasks that have, or had, a container; and have they ended?
    fn tasks(self, store: &Store) -> Vec<(TaskId, bool)> {
        // A task that was rejected may never have had one: its node could say nothing but that.
        let has_container = |task: &Task| task.status.container.as_ref().is_some_and(|c| !c.container_id.is_empty());
        let has_log =
            |task: &Task| task.node_id.is_some() && task.status.state >= TaskState::Starting && has_container(task);
        let described = |task: &Arc<Task>| (task.id, task.status.state.is_terminal());
        match self {
            Self::Service(id) => store.tasks_of_service(id).filter(|task| has_log(task)).map(described).collect(),
            Self::Task(id) => store.task(id).filter(|task| has_log(task)).map(described).into_iter().collect(),
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
        reading: Reading::default(),
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

/// How far the log of one task was read.
#[derive(Debug, Default)]
struct Progress {
    /// Time of the last line, in nanoseconds.
    last_line: Option<i64>,
    /// Has it begun to run after the reading began? Then all its lines are wanted.
    is_late: bool,
    /// Times in a row that its log was cut off before a line came.
    failures: u32,
    /// When it is asked for again; `None` while it is read, and when it is done.
    again_at: Option<Instant>,
}

/// Where to begin to read: `since` and `tail` of a subscription.
type Start = (i64, i64);

/// How far all tasks were read.
#[derive(Debug, Default)]
struct Reading {
    tasks: BTreeMap<TaskId, Progress>,
    has_begun: bool,
}

impl Reading {
    /// The tasks, out of those there are, that have to be asked for now.
    fn due(
        &mut self,
        there: &[(TaskId, bool)],
        wanted: &LogSubscription,
        now: Instant,
    ) -> BTreeMap<Start, Vec<TaskId>> {
        let mut due: BTreeMap<Start, Vec<TaskId>> = BTreeMap::new();
        for (id, has_ended) in there {
            let is_new = !self.tasks.contains_key(id);
            let progress = self.tasks.entry(*id).or_insert(Progress { is_late: self.has_begun, ..Progress::default() });
            if *has_ended && progress.failures >= MOST_FAILURES {
                progress.again_at = None;
            }
            if !is_new && progress.again_at.is_none_or(|at| at > now) {
                continue;
            }
            progress.again_at = None;
            let start = match progress.last_line {
                Some(last) => (last + 1, -1),
                None if progress.is_late => (wanted.since, -1),
                None => (wanted.since, wanted.tail),
            };
            due.entry(start).or_default().push(*id);
        }
        self.has_begun = true;
        due
    }

    fn line(&mut self, task: TaskId, time: i64) {
        let progress = self.tasks.entry(task).or_default();
        progress.last_line = Some(progress.last_line.map_or(time, |last| last.max(time)));
        progress.failures = 0;
    }

    /// The log of a task was cut off. Is that news?
    fn cut_off(&mut self, task: TaskId, now: Instant) -> bool {
        let progress = self.tasks.entry(task).or_default();
        progress.failures += 1;
        progress.again_at = Some(now + ASK_AGAIN);
        progress.failures == 1
    }

    /// When the next task is asked for again.
    fn next(&self) -> Option<Instant> {
        self.tasks.values().filter_map(|progress| progress.again_at).min()
    }
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
    reading: Reading,
    /// Reasons why logs of tasks could not be read, by task.
    failures: BTreeMap<String, String>,
}

impl Reader {
    async fn run(mut self) {
        let mut streams: SelectAll<ServiceLogs> = SelectAll::new();
        loop {
            self.add_due_tasks(&mut streams);
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
        let has_more = || match self.source {
            Source::Service(id) => store.service(id).is_some(),
            Source::Task(id) => store.task(id).is_some_and(|task| !task.status.state.is_terminal()),
        };
        self.wanted.follow && (self.reading.next().is_some() || has_more())
    }

    fn add_due_tasks(&mut self, streams: &mut SelectAll<ServiceLogs>) {
        let store = self.manager.local();
        let there = self.source.tasks(&store);
        // What is deleted will not be read again.
        self.reading.tasks.retain(|id, progress| progress.again_at.is_none() || store.task(*id).is_some());
        for ((since, tail), tasks) in self.reading.due(&there, &self.wanted, Instant::now()) {
            let wanted = LogSubscription { since, tail, ..self.wanted.clone() };
            streams.push(self.manager.service_logs(&tasks, &wanted));
        }
    }

    /// Carries lines until it is time to look for new tasks. False when the client is gone.
    async fn carry(&mut self, streams: &mut SelectAll<ServiceLogs>) -> bool {
        let regularly = Instant::now() + LOOK_AGAIN;
        let look_again = tokio::time::sleep_until(self.reading.next().map_or(regularly, |next| next.min(regularly)));
        tokio::pin!(look_again);
        loop {
            if streams.is_empty() && !self.goes_on() {
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
        let task = chunk.task_id.parse().ok();
        if !chunk.end {
            if let Some(task) = task {
                self.reading.line(task, chunk.timestamp);
            }
            return Some(self.render.line(&store, chunk));
        }
        if chunk.error.is_empty() {
            return None;
        }
        if !self.wanted.follow {
            self.failures.insert(chunk.task_id, chunk.error);
            return None;
        }
        let is_news = task.is_none_or(|task| self.reading.cut_off(task, Instant::now()));
        if !is_news {
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

#[cfg(test)]
mod tests {
    use super::super::test_store::{self, SERVICE};
    use super::*;

    #[test]
    fn only_tasks_that_had_a_container_have_a_log() {
        let mut store = test_store::store();
        assert!(Source::Service(SERVICE).tasks(&store).is_empty());
        let mut task = (**store.task(TaskId::from_bits(11)).expect("task")).clone();
        let container_id = "c".to_owned();
        task.status.container = Some(shoal_proto::object::ContainerStatus { container_id, ..Default::default() });
        let change = shoal_manager_core::change::Change::update(Arc::new(task));
        store.apply(2, Timestamp::from_seconds(2), &[change]).expect("fits");
        assert_eq!(Source::Service(SERVICE).tasks(&store), [(TaskId::from_bits(11), false)]);
    }

    #[test]
    fn what_was_cut_off_is_read_on_from_there() {
        let (first, second) = (TaskId::from_bits(1), TaskId::from_bits(2));
        let wanted = LogSubscription { since: 7, tail: 10, ..LogSubscription::default() };
        let mut reading = Reading::default();
        let start = Instant::now();
        assert_eq!(reading.due(&[(first, false)], &wanted, start), BTreeMap::from([((7, 10), vec![first])]));
        assert!(reading.due(&[(first, false)], &wanted, start).is_empty(), "it is being read");
        reading.line(first, 100);
        // A task that comes later is read whole.
        let both = [(first, false), (second, false)];
        assert_eq!(reading.due(&both, &wanted, start), BTreeMap::from([((7, -1), vec![second])]));
        assert!(reading.cut_off(first, start));
        assert!(reading.due(&both, &wanted, start).is_empty(), "not at once");
        let later = start + ASK_AGAIN;
        assert_eq!(reading.next(), Some(later));
        assert_eq!(reading.due(&both, &wanted, later), BTreeMap::from([((101, -1), vec![first])]));
        assert!(!reading.cut_off(first, later), "told once");
        reading.line(first, 200);
        assert!(reading.cut_off(first, later), "a line came in between");
    }

    #[test]
    fn a_task_that_has_ended_is_not_asked_for_for_ever() {
        let task = TaskId::from_bits(1);
        let wanted = LogSubscription { tail: -1, ..LogSubscription::default() };
        let mut reading = Reading::default();
        let mut now = Instant::now();
        let mut asked = 0;
        for _ in 0..20 {
            if !reading.due(&[(task, true)], &wanted, now).is_empty() {
                asked += 1;
                reading.cut_off(task, now);
            }
            now += ASK_AGAIN;
        }
        assert_eq!(asked, MOST_FAILURES);
        assert_eq!(reading.next(), None);
    }
}
