//! The shim's process: one thread, one loop around `poll`.
//!
//! ## Design notes
//! - What must not wait: the container's output. It is read as long as every attached client takes it; one that takes
//!   nothing for [`STALL`] while its buffer is full is dropped, and the container goes on.
//! - The order at the end: output drained, log written, cgroup and state removed, last hooks run, `exit.json` written,
//!   clients told.
//!   Whoever was told, or reads `exit.json`, finds a whole log and can start the container anew: nothing of this life is
//!   in the way of the next one, which has the same names.
//! - A daemon that dies changes nothing here once the process was started: its connection closes, the loop goes on. Before
//!   that, nobody is left to start it, and it ends.

mod connection;
mod end;
mod requests;
mod streams;

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use shoal_engine_sys::process::Ended;
use shoal_engine_sys::signal::ChildEvents;
use shoal_engine_sys::{memory, namespace, proc, process, pty, signal};
use shoal_kit::clock::{Clock, SystemClock};
use shoal_proto::time::Timestamp;

use self::connection::{Connection, Event};
use self::end::Ending;
use self::streams::Output;
pub(super) use self::streams::Streams;
use super::config::{ExitRecord, STATE_FILE, ShimState, WindowSize};
use super::protocol::{FailureKind, FrameKind, Phase, Response, RuntimeFailure, frame, message};
use crate::logs::Log;
use crate::runtime::{Caller, Runtime};

/// How long a client with a full buffer may take nothing before it is dropped.
const STALL: Duration = Duration::from_secs(2);
/// How long output is waited for after the process has ended: another process may hold the pipe.
const DRAIN: Duration = Duration::from_secs(2);
/// Pieces that a full pipe is read in, at most.
const PIPE_PIECES: usize = 64;
/// How long clients may take to read the rest after the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a process that was made and not started waits for a daemon when it has none.
const ABANDONED: Duration = Duration::from_secs(1);
/// How long after its start a process is taken for one that stays. What ends sooner need not save memory.
const SETTLED: Duration = Duration::from_secs(1);

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// What a shim does besides its process: given by the container's or the exec's configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Wait for clients however slow they are: an exec is there for its client, a container is not.
    pub(super) patient: bool,
    /// Close stdin for good when the client that had it leaves or closes it.
    pub(super) stdin_once: bool,
    /// Whether the streams are a terminal.
    pub(super) terminal: bool,
    /// The terminal's first size.
    pub(super) console_size: Option<WindowSize>,
}

/// The loop's state.
pub(super) struct Server {
    dir: PathBuf,
    runtime: Box<dyn Runtime>,
    manner: Manner,
    children: ChildEvents,
    listener: UnixListener,
    connections: Vec<Connection>,
    streams: Streams,
    /// What the process's streams are called in `/proc`.
    stream_names: [String; 3],
    log: Option<Log>,
    log_failed: bool,
    phase: Phase,
    init: Option<(u32, OwnedFd)>,
    /// Children that ended before anybody knew that they were the process.
    early: Vec<(u32, Ended)>,
    ended: Option<(Ended, Timestamp)>,
    start_failure: Option<RuntimeFailure>,
    /// Since when nobody is there who could start the process.
    alone_since: Option<Timestamp>,
    /// When output last waited for a client: what is in the pipes gets its time after that.
    client_full_at: Option<Timestamp>,
    /// When to give back the memory that only the start needed.
    settles_at: Option<Timestamp>,
    /// When somebody first asked to kill it.
    killed_at: Option<Timestamp>,
    ending: Option<Ending>,
    exit: Option<ExitRecord>,
    buffer: Box<[u8]>,
}

/// What the server begins with.
pub(super) struct Parts {
    pub(super) dir: PathBuf,
    pub(super) runtime: Box<dyn Runtime>,
    pub(super) manner: Manner,
    pub(super) children: ChildEvents,
    pub(super) listener: UnixListener,
    pub(super) control: OwnedFd,
    pub(super) streams: Streams,
    pub(super) log: Option<Log>,
}

impl Server {
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        Ok(Self {
            dir: parts.dir,
            runtime: parts.runtime,
            manner: parts.manner,
            children: parts.children,
            listener: parts.listener,
            connections: vec![Connection::new(parts.control)?],
            stream_names: parts.streams.child_names()?,
            streams: parts.streams,
            log: parts.log,
            log_failed: false,
            phase: Phase::Created,
            init: None,
            early: Vec::new(),
            ended: None,
            start_failure: None,
            alone_since: None,
            client_full_at: None,
            settles_at: None,
            killed_at: None,
            ending: None,
            exit: None,
            buffer: vec![0; 32 * 1024].into_boxed_slice(),
        })
    }

    /// Makes the process and tells the first connection. False when that failed and the shim is to end.
    pub(super) fn create(&mut self) -> bool {
        let created = self.streams.take_child_ends().and_then(|ends| {
            let caller = self.connections.first().map(Caller::new);
            let created = self.runtime.create(ends, caller)?;
            self.adopt_terminal(created.pid.is_some())?;
            if let Some(pid) = created.pid {
                self.adopt(pid)?;
            }
            Ok((created.pid.unwrap_or(0), created.took))
        });
        let answer = match created {
            Ok((pid, took)) => Response::Created { pid, took },
            Err(failure) => {
                if let Err(cleanup) = self.runtime.delete() {
                    say(&format!("cleaning up after a failed creation: {cleanup}"));
                }
                self.run_last_hooks();
                Response::Failed(failure)
            }
        };
        let created = matches!(answer, Response::Created { .. });
        if let Some(control) = self.connections.first_mut() {
            control.send(message(&answer));
            if !created {
                control.flush_blocking();
            }
        }
        created
    }

    /// Serves until the process has ended and everybody knows.
    pub(super) fn run(&mut self) -> io::Result<()> {
        while self.exit.is_none() {
            self.turn(self.timeout())?;
            self.give_up_if_abandoned();
            self.settle();
            if self.ending.is_none() && (self.streams.are_drained() || self.drain_is_over()) {
                self.conclude();
            }
            self.end_when_done();
        }
        let deadline = self.now().after(FAREWELL);
        while self.connections.iter().any(Connection::has_output) && (self.manner.patient || self.now() < deadline) {
            self.turn((!self.manner.patient).then(|| deadline.since(self.now())))?;
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn drain_is_over(&self) -> bool {
        self.drain_deadline().is_some_and(|deadline| self.now() >= deadline)
    }

    /// Until when output is waited for; none while a client keeps it waiting. A log service that takes nothing does not.
    fn drain_deadline(&self) -> Option<Timestamp> {
        let (_, ended_at) = self.ended.filter(|_| self.ending.is_none() && !self.a_client_is_full())?;
        Some(self.client_full_at.map_or(ended_at, |at| at.max(ended_at)).after(DRAIN))
    }

    /// When the loop has to look again though nothing happens.
    fn timeout(&self) -> Option<Duration> {
        let now = self.now();
        let drain = self.drain_deadline().map(|at| at.since(now));
        let hook = self.hook_deadline().map(|at| at.since(now));
        let stalling = self.connections.iter().filter(|_| !self.manner.patient);
        let stall = stalling.filter_map(Connection::full_since).map(|at| at.after(STALL).since(now)).min();
        let alone = self.alone_since.map(|at| at.after(ABANDONED).since(now));
        let retry = self.log.as_ref().and_then(Log::retry_at).map(|at| at.since(now));
        let settle = self.settles_at.map(|at| at.since(now));
        drain.into_iter().chain(hook).chain(stall).chain(alone).chain(retry).chain(settle).min()
    }

    /// A process that stays has its shim beside it for long: that keeps no page of code which only the start needed.
    fn settle(&mut self) {
        if self.settles_at.is_none_or(|at| self.now() < at) {
            return;
        }
        self.settles_at = None;
        // Costs memory, nothing else.
        let _ = memory::release_program();
    }

    /// A daemon that died between creation and start never comes back to start this process: it ends. Clients that only
    /// listen or wait for the end do not count.
    fn give_up_if_abandoned(&mut self) {
        let waits = self.phase == Phase::Created && self.start_failure.is_none() && self.ended.is_none();
        if !waits || self.connections.iter().any(Connection::may_start) {
            self.alone_since = None;
            return;
        }
        let now = self.now();
        let since = *self.alone_since.get_or_insert(now);
        if now < since.after(ABANDONED) {
            return;
        }
        self.alone_since = None;
        self.never_started(RuntimeFailure::new(FailureKind::WrongState, "the daemon went away before the start"));
    }

    /// Ends a process whose program was not executed, and remembers why.
    fn never_started(&mut self, failure: RuntimeFailure) {
        match &self.init {
            // It ends by itself, having said why; if not, it does now.
            Some((_, handle)) => {
                let _ = signal::send(handle, KILL);
            }
            None => self.ended = Some((Ended::Code(failure.exit_code()), self.now())),
        }
        self.start_failure = Some(failure);
        self.runtime.abandon();
        self.streams.close_child_side();
    }

    /// Waits for something to happen, and does what it asks.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.a_client_is_full() {
            self.client_full_at = Some(self.now());
        }
        let readiness = self.poll(timeout)?;
        if readiness.children {
            self.reap()?;
        }
        for (output, _) in readiness.outputs.iter().filter(|(_, ready)| *ready) {
            self.pass_on(*output);
        }
        if readiness.stdin {
            self.streams.write_stdin();
        }
        self.send_log(readiness.log);
        // Connections that come now are served in the next turn.
        let known = self.connections.len();
        for (index, events) in readiness.connections.iter().enumerate().take(known) {
            self.serve(index, *events);
        }
        // What a connection had to keep because stdin was full.
        for index in 0..known {
            self.process(index);
        }
        if readiness.listener {
            self.accept();
        }
        self.drop_stalled();
        self.forget_closed();
        Ok(())
    }

    fn poll(&self, timeout: Option<Duration>) -> io::Result<Readiness> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let wanted: Vec<Output> = if self.may_read_output() { self.streams.open_outputs() } else { Vec::new() };
        let mut fds = vec![PollFd::new(&self.children, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        let stdin = self.streams.stdin_wanting_write();
        let stdin_waits = stdin.is_some();
        fds.extend(stdin.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
        let log = self.log.as_ref().and_then(Log::wanting_write);
        let log_at = log.map(|fd| {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            fds.len() - 1
        });
        let first_output = fds.len();
        let outputs: Vec<BorrowedFd<'_>> = wanted.iter().filter_map(|output| self.streams.output(*output)).collect();
        fds.extend(outputs.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let first_connection = fds.len();
        let stdin_full = self.streams.stdin_is_full();
        for connection in &self.connections {
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), connection.wanted(stdin_full)));
        }
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Readiness {
            children: ready(0),
            listener: ready(1),
            stdin: stdin_waits && ready(2),
            log: log_at.is_some_and(ready),
            outputs: wanted.iter().enumerate().map(|(index, output)| (*output, ready(first_output + index))).collect(),
            connections: fds[first_connection..].iter().map(PollFd::revents).collect(),
        })
    }

    /// Output waits for clients that are behind, and for the log; the container then waits for its full pipe, as with dockerd.
    fn may_read_output(&self) -> bool {
        !self.log.as_ref().is_some_and(Log::is_full) && !self.a_client_is_full()
    }

    fn a_client_is_full(&self) -> bool {
        self.connections.iter().any(|connection| connection.full_since().is_some())
    }

    /// Reads what is in the pipes when the end is written down. Who still holds one of them is not waited for.
    fn read_the_rest(&mut self) {
        for output in self.streams.open_outputs() {
            for _ in 0..PIPE_PIECES {
                if !self.pass_on(output) {
                    break;
                }
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        self.children.drain();
        while let Some((pid, ended)) = process::reap()? {
            if self.hook_ended(pid, ended) {
                continue;
            }
            match &self.init {
                Some((init, _)) if *init == pid => self.ended = Some((ended, self.now())),
                Some(_) => {}
                None => self.early.push((pid, ended)),
            }
        }
        Ok(())
    }

    /// From now on this is the process. It may already have ended.
    fn adopt(&mut self, pid: u32) -> Result<(), RuntimeFailure> {
        let early = std::mem::take(&mut self.early);
        if let Some((_, ended)) = early.into_iter().find(|(ended, _)| *ended == pid) {
            self.ended = Some((ended, self.now()));
        }
        let failed = |error: io::Error| RuntimeFailure::other(format!("cannot watch the process: {error}"));
        // A process that has ended but was not waited for can still be opened.
        let Ok(handle) = namespace::open_process(pid) else { return Ok(()) };
        let ticks = proc::start_ticks(pid).unwrap_or(0);
        self.init = Some((pid, handle));
        let own = std::process::id();
        let state = ShimState {
            shim_pid: own,
            shim_start_ticks: proc::start_ticks(own).unwrap_or(0),
            init_pid: pid,
            init_start_ticks: ticks,
            streams: self.stream_names.clone(),
        };
        let bytes = serde_json::to_vec(&state).unwrap_or_default();
        write_whole(&self.dir, STATE_FILE, &bytes).map_err(failed)
    }

    /// Takes the terminal's master over, which the runtime has sent when the process exists.
    fn adopt_terminal(&mut self, process_exists: bool) -> Result<(), RuntimeFailure> {
        if !self.manner.terminal || !process_exists {
            return Ok(());
        }
        let failed = |error: io::Error| RuntimeFailure::other(format!("cannot take over the terminal: {error}"));
        let master = self.streams.accept_terminal().map_err(failed)?;
        if let (Some(size), Some(master)) = (self.manner.console_size, master) {
            pty::resize(master, size.columns, size.rows).map_err(failed)?;
        }
        Ok(())
    }

    /// Reads one piece of output, and gives it to the log and to everybody who is attached.
    fn pass_on(&mut self, output: Output) -> bool {
        let Some(length) = self.streams.read(output, &mut self.buffer) else { return false };
        let piece = &self.buffer[..length];
        let kind = if output == Output::Stderr { FrameKind::Stderr } else { FrameKind::Stdout };
        let now = SystemClock.now();
        let mut framed = None;
        for connection in self.connections.iter_mut().filter(|connection| connection.wants(kind)) {
            connection.send_at(framed.get_or_insert_with(|| frame(kind, piece)).clone(), now);
        }
        if let Some(log) = &mut self.log {
            let written = log.write(output.stream(), piece, now);
            self.note_log(written);
        }
        true
    }

    /// Sends what waits for a log service, when that can take it, or a lost one is to be tried again.
    fn send_log(&mut self, ready: bool) {
        let now = self.now();
        if let Some(log) = &mut self.log
            && (ready || log.retry_at().is_some_and(|at| now >= at))
        {
            let sent = log.send(now);
            self.note_log(sent);
        }
    }

    /// A full disk costs log lines, not the container. Said once until it works again.
    fn note_log(&mut self, written: io::Result<()>) {
        if let (Err(error), false) = (&written, self.log_failed) {
            say(&format!("cannot write the log: {error}"));
        }
        self.log_failed = written.is_err();
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => match Connection::new(stream.into()) {
                    Ok(connection) => self.connections.push(connection),
                    Err(error) => say(&format!("cannot serve a connection: {error}")),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    say(&format!("cannot accept a connection: {error}"));
                    return;
                }
            }
        }
    }

    fn serve(&mut self, index: usize, events: PollFlags) {
        if events.intersects(PollFlags::OUT | PollFlags::ERR) {
            self.connections[index].flush();
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        self.connections[index].receive(&mut self.buffer);
        self.process(index);
    }

    /// Does what the whole frames of a connection ask.
    fn process(&mut self, index: usize) {
        loop {
            // Input that the process does not take yet stays with the connection, and then with its sender.
            if self.connections[index].holds_stdin() && self.streams.stdin_is_full() {
                return;
            }
            let Some(event) = self.connections[index].next_event() else { return };
            match event {
                Event::Request(request) => {
                    if let Some(response) = self.answer(index, &request) {
                        self.connections[index].send(message(&response));
                    }
                }
                Event::Stdin(bytes) => self.streams.push_stdin(&bytes),
                Event::StdinClosed => self.stdin_closed_by_client(),
                Event::Closed => {
                    if self.connections[index].mode_is_stdin() {
                        self.stdin_closed_by_client();
                    }
                    return;
                }
            }
        }
    }

    /// A client's stdin has ended. That of the process ends with it when it was meant for one client; a terminal has its own
    /// way to say so.
    fn stdin_closed_by_client(&mut self) {
        if self.manner.stdin_once && !self.manner.terminal {
            self.streams.close_stdin();
        }
    }

    fn drop_stalled(&mut self) {
        if self.manner.patient {
            return;
        }
        let now = self.now();
        for connection in &mut self.connections {
            if connection.full_since().is_some_and(|since| now >= since.after(STALL)) {
                say("a client that does not read is dropped");
                connection.close();
            }
        }
    }

    fn forget_closed(&mut self) {
        self.connections.retain(|connection| !connection.is_closed());
    }
}

/// What [`Server::poll`] found.
struct Readiness {
    children: bool,
    listener: bool,
    stdin: bool,
    log: bool,
    outputs: Vec<(Output, bool)>,
    connections: Vec<PollFlags>,
}

/// Into `shim.log`. What a full disk does not take is not said.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{} {text}", SystemClock.now());
}

/// A file that is there whole or not at all, whoever dies when. Not synced: after a power cut nobody asks how a container
/// of the time before ended, and on a disk a sync would take longer than all the rest of the end.
fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}"));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, dir.join(name))
}
