//! What callers pass to and get from [`super::Containers`], beyond the shapes of Docker's API.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use shoal_proto::error::Failure;
use shoal_proto::id::TaskId;
use shoal_proto::time::Timestamp;

use crate::model::{Filters, WaitResponse};

pub use super::attach::{AttachInput, InputState};

/// How to stop a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopOptions {
    /// Signal that asks for it; `None` takes the container's.
    pub signal: Option<String>,
    /// Seconds until SIGKILL; `None` takes the container's, negative is never.
    pub timeout_s: Option<i64>,
}

/// A container at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// `created`, `running` and the like.
    pub state: &'static str,
    /// Its process; 0 is none.
    pub pid: u32,
    /// Is something being done with it, so that other operations wait?
    pub busy: bool,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    /// Kill it first when it runs?
    pub force: bool,
    /// Remove its anonymous volumes, too?
    pub volumes: bool,
    /// Remove a link, not the container? Refused: links are not offered.
    pub link: bool,
}

/// Which containers to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListOptions {
    /// Those that do not run, too?
    pub all: bool,
    /// Only so many, the newest first, running or not; `None` is all.
    pub limit: Option<usize>,
    /// Compute sizes?
    pub size: bool,
    /// Filters.
    pub filters: Filters,
}

/// Which logs to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Standard output?
    pub stdout: bool,
    /// Standard error?
    pub stderr: bool,
    /// Go on while the container runs?
    pub follow: bool,
    /// Only what was written at or after this instant.
    pub since: Option<Timestamp>,
    /// Only what was written at or before this instant.
    pub until: Option<Timestamp>,
    /// Only so many lines from the end; `None` is all.
    pub tail: Option<usize>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { stdout: true, stderr: true, follow: false, since: None, until: None, tail: None }
    }
}

/// Which of the two outputs. The numbers are those of Docker's stream frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputKind {
    /// Standard output, and everything of a terminal.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// One log record: a line with its line feed, or a piece of a line longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFrame {
    /// Which output.
    pub output: OutputKind,
    /// When it was written.
    pub time: Timestamp,
    /// What was written.
    pub data: Bytes,
    /// Labels and variables chosen by the log options.
    pub attributes: BTreeMap<String, String>,
}

impl LogFrame {
    /// The record as `docker logs` prints it.
    pub fn render(&self, timestamps: bool, details: bool) -> Bytes {
        if !timestamps && !details {
            return self.data.clone();
        }
        let mut line = BytesMut::with_capacity(self.data.len() + 64);
        if timestamps {
            line.put_slice(fixed_width(self.time).as_bytes());
            line.put_u8(b' ');
        }
        if details {
            let text: Vec<_> = self.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
            line.put_slice(text.join(",").as_bytes());
            line.put_u8(b' ');
        }
        line.put_slice(&self.data);
        line.freeze()
    }
}

/// RFC 3339 with nine digits, as dockerd prints the times of log lines.
fn fixed_width(time: Timestamp) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(time.0)) {
        Ok(instant) => format!("{instant:.9}"),
        Err(_) => time.to_string(),
    }
}

/// Log records in the order in which they were written.
pub type LogStream = BoxStream<'static, Result<LogFrame, Failure>>;

/// What to attach to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// Standard input?
    pub stdin: bool,
    /// Standard output?
    pub stdout: bool,
    /// Standard error?
    pub stderr: bool,
    /// The past from the log first?
    pub logs: bool,
    /// What comes from now on? Without it the stream ends after the past.
    pub stream: bool,
    /// Keys that leave the session; empty is `ctrl-p,ctrl-q`. They are looked for by [`AttachInput::write`].
    pub detach_keys: String,
}

/// Output of a container or an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFrame {
    /// Which output.
    pub output: OutputKind,
    /// The bytes.
    pub data: Bytes,
}

/// Output until the process has ended and everything was read, or the client detached.
pub type OutputStream = BoxStream<'static, Result<OutputFrame, Failure>>;

/// A client's connection to the streams of a container or an exec.
pub struct AttachStreams {
    /// A terminal? Then the output is not framed on the wire.
    pub tty: bool,
    /// Output.
    pub output: OutputStream,
    /// Input; `None` when it was not asked for, or the container does not take any.
    pub input: Option<AttachInput>,
}

impl std::fmt::Debug for AttachStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttachStreams").field("tty", &self.tty).finish_non_exhaustive()
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// Until it does not run; at once when it does not.
    #[default]
    NotRunning,
    /// Until its next end.
    NextExit,
    /// Until it is removed.
    Removed,
}

impl WaitCondition {
    /// Parses the parameter; empty is `not-running`.
    ///
    /// # Errors
    /// When it is none of the three.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            other => Err(Failure::invalid(format!("invalid condition: \"{other}\""))),
        }
    }
}

/// A wait that has begun: an end after this moment is not missed.
pub type Waiting = BoxFuture<'static, WaitResponse>;

/// A container that runs a task of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskContainer {
    /// Container.
    pub id: String,
    /// Its name, without the slash.
    pub name: String,
    /// Task.
    pub task: TaskId,
    /// Labels given by the executor.
    pub task_labels: BTreeMap<String, String>,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    pub status: String,
    /// `starting`, `healthy`, `unhealthy`; empty without a check.
    pub health: String,
    /// Process id; 0 when it does not run.
    pub pid: u32,
    /// Exit status; `None` when it never ended.
    pub exit_code: Option<i32>,
    /// Killed for want of memory?
    pub oom_killed: bool,
    /// Why it could not start; empty when it could.
    pub error: String,
}
