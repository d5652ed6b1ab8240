//! The daemon's side of a shim: spawning it, finding it again, and talking to it.
//!
//! ```no_run
//! # async fn example(config: shoal_engine::shim::config::ShimConfig, built: shoal_engine::runtime::spec::BuiltSpec)
//! # -> Result<(), shoal_engine::shim::client::ShimError> {
//! use shoal_engine::shim::client::{Shim, ShimProgram};
//! let program = ShimProgram::open(std::path::Path::new("/proc/self/exe"))?;
//! let dir = std::path::Path::new("/run/shoal/shim/0123");
//! let shim = Shim::spawn(&program, dir, &config, built).await?; // created, waits before its first instruction
//! let mut output = shim.attach(Default::default()).await?; // before the start, so that nothing is missed
//! shim.start().await?;
//! let exit = shim.wait().await?;
//! # Ok(()) }
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use shoal_engine_sys::process::SealedProgram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::config::{
    BUNDLE_FILE, EXEC_FILE, ExecConfig, ExitRecord, SHIM_LOG_FILE, SOCKET_FILE, ShimConfig, ShimState,
};
use super::protocol::{self, FailureKind, FrameKind, Request, Response, RuntimeFailure, ShimStatus, Took};
use super::zygote::Zygote;
use crate::runtime::spec::BuiltSpec;

/// Why talking to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The program could not be opened read-only.
    #[error("cannot seal the shim program {path:?}")]
    Program {
        /// The program.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file of the shim's directory could not be written.
    #[error("cannot prepare {path:?}")]
    Prepare {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The process could not be started.
    #[error("cannot start the shim in {dir:?}")]
    Spawn {
        /// The shim's directory.
        dir: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket could not be reached.
    #[error("cannot connect to the shim in {dir:?}")]
    Connect {
        /// The shim's directory.
        dir: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The shim went away, or answered nonsense.
    #[error("the shim in {dir:?} is gone: {detail}")]
    Gone {
        /// The shim's directory.
        dir: PathBuf,
        /// What is known: the end of its log.
        detail: String,
    },
    /// The shim is there, and the runtime refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeFailure),
}

impl ShimError {
    /// The exit code that Docker gives a container which failed to start this way.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Runtime(failure) => failure.exit_code(),
            _ => 128,
        }
    }
}

/// The program that shims are started from. Opened once and kept: it has a process that shims are forked from.
#[derive(Debug, Clone)]
pub struct ShimProgram(Arc<Zygote>);

impl ShimProgram {
    /// Opens the program (`/proc/self/exe` for this one) through a read-only mount of its own, and loads it.
    ///
    /// # Errors
    /// When it does not exist, or this is not root.
    pub fn open(path: &Path) -> Result<Self, ShimError> {
        let failed = |source| ShimError::Program { path: path.to_owned(), source };
        let zygote = Zygote::new(SealedProgram::open(path).map_err(failed)?);
        zygote.warm_up().map_err(failed)?;
        Ok(Self(Arc::new(zygote)))
    }
}

/// A handle on a running shim. Cheap to clone; requests of all clones go over one connection, one after the other.
#[derive(Debug, Clone)]
pub struct Shim {
    dir: Arc<PathBuf>,
    /// `None` after a request that was not answered: one that was given up, or that broke the connection. The next request
    /// opens another, since the answer to the last one may still come over this.
    control: Arc<Mutex<Option<Connection>>>,
    pid: u32,
    took: Option<Took>,
}

impl Shim {
    /// Starts a shim in `dir` (made here, must not exist) and returns once its container is created: namespaces,
    /// mounts and cgroup are there, and init waits for [`Shim::start`].
    ///
    /// # Errors
    /// When the shim cannot be started or the container cannot be created; nothing but `dir` is left then.
    pub async fn spawn(
        program: &ShimProgram,
        dir: &Path,
        config: &ShimConfig,
        built: BuiltSpec,
    ) -> Result<Self, ShimError> {
        Self::spawn_unless(program, dir, config, built, &CancellationToken::new()).await
    }

    /// The same, until `given_up`: what of the container is there is taken away then, hooks that run are ended, and this fails.
    ///
    /// # Errors
    /// As [`Shim::spawn`].
    pub async fn spawn_unless(
        program: &ShimProgram,
        dir: &Path,
        config: &ShimConfig,
        built: BuiltSpec,
        given_up: &CancellationToken,
    ) -> Result<Self, ShimError> {
        make_dir(dir)?;
        crate::runtime::bundle::write(dir, config, built)?;
        write_json(&dir.join(BUNDLE_FILE), config)?;
        Self::launch(program, "run", dir, given_up).await
    }

    /// Starts a shim for an exec in `dir` (made here, must not exist). Its process appears at [`Shim::start`].
    ///
    /// # Errors
    /// When the shim cannot be started.
    pub async fn spawn_exec(program: &ShimProgram, dir: &Path, config: &ExecConfig) -> Result<Self, ShimError> {
        make_dir(dir)?;
        write_json(&dir.join(EXEC_FILE), config)?;
        Self::launch(program, "exec", dir, &CancellationToken::new()).await
    }

    async fn launch(
        program: &ShimProgram,
        verb: &str,
        dir: &Path,
        given_up: &CancellationToken,
    ) -> Result<Self, ShimError> {
        let spawned = |source| ShimError::Spawn { dir: dir.to_owned(), source };
        let (ours, theirs) = UnixStream::pair().map_err(spawned)?;
        let theirs: OwnedFd =
            theirs.into_std().and_then(|s| s.set_nonblocking(false).map(|()| s)).map_err(spawned)?.into();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(dir.join(SHIM_LOG_FILE))
            .map_err(spawned)?;
        program.0.launch(verb, dir, theirs, log.into()).map_err(spawned)?;
        let mut connection = Connection::new(ours, dir);
        match connection.response_unless(given_up).await? {
            Response::Created { pid, took } => {
                Ok(Self { dir: Arc::new(dir.to_owned()), control: Arc::new(Mutex::new(Some(connection))), pid, took })
            }
            other => Err(unexpected(dir, other)),
        }
    }

    /// Finds a shim that an earlier daemon started.
    ///
    /// # Errors
    /// When nothing answers there: then [`ExitRecord::read`] tells how the container ended, or nothing does because the
    /// shim was killed.
    pub async fn connect(dir: &Path) -> Result<Self, ShimError> {
        let mut connection = Connection::open(dir).await?;
        let status = connection.status().await?;
        Ok(Self {
            dir: Arc::new(dir.to_owned()),
            control: Arc::new(Mutex::new(Some(connection))),
            pid: status.pid,
            took: None,
        })
    }

    /// The shim's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The container's first process as the host numbers it; zero for an exec that was not found running by `connect`.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How long the parts of making the container took; nothing for one that was found by `connect`.
    pub fn took(&self) -> Option<Took> {
        self.took
    }

    /// Lets the created process run; returns when its program was executed. For an exec, the process appears here.
    ///
    /// # Errors
    /// With [`ShimError::Runtime`] when the program cannot be executed: `exit_code()` is then what Docker reports.
    pub async fn start(&self) -> Result<(), ShimError> {
        self.ask(&Request::Start).await
    }

    /// The same, until `given_up`: a hook that runs is ended then, and the container with it. This tells of it, or that the
    /// program runs all the same.
    ///
    /// # Errors
    /// As [`Shim::start`].
    pub async fn start_unless(&self, given_up: &CancellationToken) -> Result<(), ShimError> {
        let mut control = self.control.lock().await;
        let mut connection = match control.take() {
            Some(connection) => connection,
            None => Connection::open(&self.dir).await?,
        };
        connection.send(&Request::Start).await?;
        let response = connection.response_unless(given_up).await?;
        if !given_up.is_cancelled() {
            *control = Some(connection);
        }
        match response {
            Response::Done => Ok(()),
            other => Err(unexpected(&self.dir, other)),
        }
    }

    /// Sends a signal to the first process, or to every process of the container.
    ///
    /// # Errors
    /// When there is no process any more.
    pub async fn signal(&self, signal: i32, all: bool) -> Result<(), ShimError> {
        self.ask(&Request::Signal { signal, all }).await
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// When there is no terminal.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), ShimError> {
        self.ask(&Request::Resize { columns, rows }).await
    }

    /// Closes the process's stdin.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn close_stdin(&self) -> Result<(), ShimError> {
        self.ask(&Request::CloseStdin).await
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// When the freezer refuses.
    pub async fn pause(&self) -> Result<(), ShimError> {
        self.ask(&Request::Pause).await
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// When the freezer refuses.
    pub async fn resume(&self) -> Result<(), ShimError> {
        self.ask(&Request::Resume).await
    }

    /// How things stand.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn status(&self) -> Result<ShimStatus, ShimError> {
        match self.request(&Request::Status).await? {
            Response::Status(status) => Ok(status),
            other => Err(unexpected(&self.dir, other)),
        }
    }

    /// Waits until the process has exited and its output is in the log; returns how it ended. Uses a connection of its
    /// own, so several may wait while requests go on. A shim that cannot be reached, because this process has too many
    /// descriptors open, say, is asked again as long as it is there.
    ///
    /// # Errors
    /// When the shim was killed before it could write `exit.json`.
    pub async fn wait(&self) -> Result<ExitRecord, ShimError> {
        wait_in(&self.dir).await
    }

    /// Connects to the container's streams. Output from now on is delivered, none is repeated.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn attach(&self, options: AttachOptions) -> Result<Attachment, ShimError> {
        let mut connection = Connection::open(&self.dir).await?;
        let AttachOptions { stdin, stdout, stderr } = options;
        match connection.request(&Request::Attach { stdin, stdout, stderr }).await? {
            Response::Done => Ok(connection.into_attachment()),
            other => Err(unexpected(&self.dir, other)),
        }
    }

    async fn ask(&self, request: &Request) -> Result<(), ShimError> {
        match self.request(request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&self.dir, other)),
        }
    }

    async fn request(&self, request: &Request) -> Result<Response, ShimError> {
        let mut control = self.control.lock().await;
        let mut connection = match control.take() {
            Some(connection) => connection,
            None => Connection::open(&self.dir).await?,
        };
        // Whoever gives the request up here drops the connection with it.
        let response = connection.request(request).await?;
        *control = Some(connection);
        Ok(response)
    }
}

/// Waits for the end of what a shim in `dir` runs: see [`Shim::wait`].
///
/// # Errors
/// When the shim is gone and has not told how its process ended.
pub async fn wait_in(dir: &Path) -> Result<ExitRecord, ShimError> {
    let mut pause = FIRST_PAUSE;
    let mut absent = 0;
    loop {
        let answer = match Connection::open(dir).await {
            Ok(mut connection) => connection.request(&Request::Wait).await,
            Err(error) => Err(error),
        };
        let error = match answer {
            Ok(Response::Exited(record)) => return Ok(record),
            Ok(other) => return Err(unexpected(dir, other)),
            Err(error) => error,
        };
        // In this order: it writes the record before it goes.
        let gone = presence(dir);
        if let Ok(Some(record)) = ExitRecord::read(dir) {
            return Ok(record);
        }
        absent += u32::from(gone == Presence::Unknown);
        if gone == Presence::Gone || absent > UNKNOWN_TRIES {
            return Err(error);
        }
        tracing::warn!(dir = %dir.display(), %error, "cannot reach a shim; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The first pause before a shim is asked again that could not be reached, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a shim is looked for that left no word of its process.
const UNKNOWN_TRIES: u32 = 6;

/// What is known of a shim's process without asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there, or may be.
    There,
    /// It is gone.
    Gone,
    /// It has not written down which process it is.
    Unknown,
}

/// Is the shim's process there, whose directory this is?
pub fn presence(dir: &Path) -> Presence {
    match ShimState::read(dir) {
        Ok(Some(state)) => match state.is_gone() {
            Ok(true) => Presence::Gone,
            // Who cannot tell has no right to end it.
            Ok(false) | Err(_) => Presence::There,
        },
        Ok(None) if !dir.exists() => Presence::Gone,
        Ok(None) => Presence::Unknown,
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Presence::Unknown
        }
        Err(_) => Presence::There,
    }
}

/// Which streams to attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether stdin will be written.
    pub stdin: bool,
    /// Whether stdout is wanted.
    pub stdout: bool,
    /// Whether stderr is wanted.
    pub stderr: bool,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self { stdin: false, stdout: true, stderr: true }
    }
}

/// A container's streams. Dropping it detaches.
#[derive(Debug)]
pub struct Attachment {
    /// The output side.
    pub output: AttachOutput,
    /// The input side.
    pub input: AttachInput,
}

/// One piece of what a container wrote, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachEvent {
    /// Written to stdout, or to the terminal.
    Stdout(Bytes),
    /// Written to stderr.
    Stderr(Bytes),
    /// The process has exited; nothing follows.
    Exited(ExitRecord),
}

/// The output side of an attachment.
#[derive(Debug)]
pub struct AttachOutput {
    reader: OwnedReadHalf,
    buffer: BytesMut,
}

impl AttachOutput {
    /// The next piece; `None` when the shim closed the stream without an exit (it dropped a client that was too slow).
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> io::Result<Option<AttachEvent>> {
        loop {
            match next_frame(&mut self.reader, &mut self.buffer).await? {
                None => return Ok(None),
                Some((FrameKind::Stdout, bytes)) => return Ok(Some(AttachEvent::Stdout(bytes))),
                Some((FrameKind::Stderr, bytes)) => return Ok(Some(AttachEvent::Stderr(bytes))),
                Some((FrameKind::Message, bytes)) => {
                    if let Ok(Response::Exited(record)) = serde_json::from_slice(&bytes) {
                        return Ok(Some(AttachEvent::Exited(record)));
                    }
                }
                Some((FrameKind::Stdin | FrameKind::StdinClosed, _)) => {}
            }
        }
    }
}

/// The input side of an attachment.
#[derive(Debug)]
pub struct AttachInput {
    writer: OwnedWriteHalf,
}

impl AttachInput {
    /// Sends bytes to the process's stdin. Waits while the process does not read.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(32 * 1024) {
            self.writer.write_all(&protocol::frame(FrameKind::Stdin, chunk)).await?;
        }
        Ok(())
    }

    /// Says that no more stdin comes; output goes on.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn close(&mut self) -> io::Result<()> {
        self.writer.write_all(&protocol::frame(FrameKind::StdinClosed, &[])).await
    }
}

#[derive(Debug)]
struct Connection {
    dir: PathBuf,
    stream: UnixStream,
    buffer: BytesMut,
}

impl Connection {
    fn new(stream: UnixStream, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), stream, buffer: BytesMut::new() }
    }

    /// Connects through a descriptor of the directory: its path may be longer than a socket address can be.
    async fn open(dir: &Path) -> Result<Self, ShimError> {
        use std::os::fd::AsRawFd;
        let failed = |source| ShimError::Connect { dir: dir.to_owned(), source };
        let handle = std::fs::File::open(dir).map_err(failed)?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", handle.as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        Ok(Self::new(stream, dir))
    }

    async fn request(&mut self, request: &Request) -> Result<Response, ShimError> {
        self.send(request).await?;
        self.response().await
    }

    async fn send(&mut self, request: &Request) -> Result<(), ShimError> {
        let sent = self.stream.write_all(&protocol::message(request)).await;
        sent.map_err(|error| self.gone(&error.to_string()))
    }

    /// Waits for an answer, and tells the shim when it is not wanted any more: no request can be sent after that.
    async fn response_unless(&mut self, given_up: &CancellationToken) -> Result<Response, ShimError> {
        tokio::select! {
            // What is read stays in the buffer.
            response = self.response() => return response,
            () = given_up.cancelled() => {}
        }
        // Fails when the shim is gone, which the answer tells as well.
        let _gone = self.stream.shutdown().await;
        self.response().await
    }

    async fn response(&mut self) -> Result<Response, ShimError> {
        match next_frame(&mut self.stream, &mut self.buffer).await {
            Ok(Some((FrameKind::Message, bytes))) => {
                serde_json::from_slice(&bytes).map_err(|error| self.gone(&error.to_string()))
            }
            Ok(Some(_)) => Err(self.gone("it sent a stream instead of an answer")),
            Ok(None) => Err(self.gone("it closed the connection")),
            Err(error) => Err(self.gone(&error.to_string())),
        }
    }

    async fn status(&mut self) -> Result<ShimStatus, ShimError> {
        match self.request(&Request::Status).await? {
            Response::Status(status) => Ok(status),
            other => Err(unexpected(&self.dir, other)),
        }
    }

    fn into_attachment(self) -> Attachment {
        let (reader, writer) = self.stream.into_split();
        Attachment { output: AttachOutput { reader, buffer: self.buffer }, input: AttachInput { writer } }
    }

    fn gone(&self, detail: &str) -> ShimError {
        let log = std::fs::read_to_string(self.dir.join(SHIM_LOG_FILE)).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(3).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let detail = if tail.is_empty() { detail.to_owned() } else { format!("{detail}: {}", tail.join("; ")) };
        ShimError::Gone { dir: self.dir.clone(), detail }
    }
}

async fn next_frame<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
) -> io::Result<Option<(FrameKind, Bytes)>> {
    loop {
        let found = protocol::split(buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Some((kind, range)) = found {
            let mut whole = buffer.split_to(range.end).freeze();
            whole.advance(range.start);
            return Ok(Some((kind, whole)));
        }
        buffer.reserve(16 * 1024);
        if reader.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

fn unexpected(dir: &Path, response: Response) -> ShimError {
    match response {
        Response::Failed(failure) => ShimError::Runtime(failure),
        Response::Exited(_) => {
            ShimError::Runtime(RuntimeFailure::new(FailureKind::WrongState, "the process has already exited"))
        }
        other => ShimError::Gone { dir: dir.to_owned(), detail: format!("it answered {other:?}") },
    }
}

fn make_dir(dir: &Path) -> Result<(), ShimError> {
    let failed = |source| ShimError::Prepare { path: dir.to_owned(), source };
    if let Some(parent) = dir.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(dir).map_err(failed)
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ShimError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| ShimError::Prepare { path: path.to_owned(), source: io::Error::from(error) })?;
    write_file(path, &bytes)
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ShimError> {
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        io::Write::write_all(&mut file, bytes)
    };
    write().map_err(|source| ShimError::Prepare { path: path.to_owned(), source })
}
