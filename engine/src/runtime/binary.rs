//! OCI runtime binaries: whatever takes runc's command line.
//!
//! ## Design notes
//! - The binary is started by the shim, which is a subreaper: when `create` and `exec --detach` end, the process that they
//!   made becomes the shim's child.
//! - `create` runs in a mount namespace of its own, in which the root file system is mounted.
//! - What goes wrong is told in `--log`, as JSON lines; standard error may already be the container's.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use shoal_engine_sys::namespace;
use shoal_engine_sys::process::{self, Ended, Fork, SingleThread};

use super::caller::{self, Waited};
use super::{Caller, ChildStreams, Created, DEFAULT_PATH, LastHook, Runtime, SpecPart, end_maker};
use crate::cgroup::Cgroup;
use crate::checkpoint;
use crate::shim::config::{ExecConfig, SPEC_FILE, ShimConfig};
use crate::shim::protocol::{FailureKind, RuntimeFailure};
use crate::shim::say;

/// Directory in the shim's for the binary's own state (`--root`).
pub(crate) const STATE_DIRECTORY: &str = "state";
const LOG_FILE: &str = "runtime.log";
const PID_FILE: &str = "init.pid";
const PROCESS_FILE: &str = "process.json";

/// How the binary is called for one container.
#[derive(Debug)]
struct Tool {
    program: PathBuf,
    args: Vec<String>,
    state: PathBuf,
    log: PathBuf,
    id: String,
    /// Where it finds programs; `None` is the usual places.
    path: Option<OsString>,
}

impl Tool {
    fn new(container_dir: &Path, log_dir: &Path, id: &str, program: &Path, args: &[String]) -> Self {
        Self {
            program: program.to_owned(),
            args: args.to_vec(),
            state: container_dir.join(STATE_DIRECTORY),
            log: log_dir.join(LOG_FILE),
            id: id.to_owned(),
            path: None,
        }
    }

    fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = process::command(&self.program);
        // runc finds helpers (newuidmap, criu) by PATH, and Go's runtime asks for little else.
        command.env("PATH", self.path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH)));
        command
            .args(&self.args)
            .arg("--root")
            .arg(&self.state)
            .arg("--log")
            .arg(&self.log)
            .args(["--log-format", "json"]);
        command.args(arguments);
        command
    }

    /// It with nothing on its streams.
    fn silent(&self, arguments: &[&str]) -> Command {
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        let mut command = self.command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<(), RuntimeFailure> {
        self.finish(&mut self.silent(arguments), None)
    }

    /// The same for somebody who may give it up.
    fn run_for(&self, arguments: &[&str], caller: Option<Caller<'_>>) -> Result<(), RuntimeFailure> {
        self.finish(self.silent(arguments).process_group(0), caller)
    }

    /// Runs a verb that makes a process with these streams.
    fn run_with(&self, arguments: &[OsString], streams: ChildStreams) -> Result<(), RuntimeFailure> {
        let mut command = self.command(arguments);
        match streams {
            ChildStreams::Pipes { stdin, stdout, stderr } => command.stdin(stdin).stdout(stdout).stderr(stderr),
            ChildStreams::Terminal { .. } => command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()),
        };
        self.finish(&mut command, None)
    }

    /// Runs it to its end. With a caller, it leads a process group.
    fn finish(&self, command: &mut Command, caller: Option<Caller<'_>>) -> Result<(), RuntimeFailure> {
        let _ = std::fs::remove_file(&self.log);
        let failed = |error| RuntimeFailure::other(format!("cannot run {:?}: {error}", self.program));
        let child = command.spawn().map_err(failed)?;
        if caller.is_some() {
            let handle = namespace::open_process(child.id()).map_err(failed)?;
            if caller::wait_for(handle.as_fd(), caller, None).map_err(failed)? == Waited::GivenUp {
                let _gone = process::kill_group(child.id());
            }
        }
        // Waited for by number: the standard library would wait for any change, as the subreaper's loop does later.
        match process::wait_for(child.id()).map_err(failed)? {
            Ended::Code(0) => Ok(()),
            ended => Err(self.told(ended)),
        }
    }

    /// The last error in the log.
    fn told(&self, ended: Ended) -> RuntimeFailure {
        #[derive(Deserialize)]
        struct Line {
            level: String,
            msg: String,
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let errors = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let last = errors.rev().find(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"));
        let message = last.map_or_else(|| format!("{:?} ended with {ended:?}", self.program), |line| line.msg);
        RuntimeFailure::new(kind_of(&message), message)
    }
}

/// As dockerd reads runc's words.
fn kind_of(message: &str) -> FailureKind {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if !message.contains("exec") {
        FailureKind::Other
    } else if has(&["executable file not found", "no such file or directory"]) {
        FailureKind::CommandNotFound
    } else if has(&["permission denied", "is a directory", "exec format error", "not a directory"]) {
        FailureKind::CommandNotExecutable
    } else {
        FailureKind::Other
    }
}

/// A container made by a binary.
#[derive(Debug)]
pub(crate) struct Binary {
    dir: PathBuf,
    config: ShimConfig,
    tool: Tool,
    /// Those of a container that is to be restored: it runs at once, so not before its start.
    streams: Option<ChildStreams>,
    is_removed: bool,
}

impl Binary {
    pub(crate) fn new(dir: &Path, config: &ShimConfig, program: &Path, args: &[String]) -> Self {
        let mut tool = Tool::new(dir, dir, &config.id, program, args);
        tool.path = config.restore.as_ref().map(|restore| checkpoint::search_path(&restore.criu));
        Self { dir: dir.to_owned(), config: config.clone(), tool, streams: None, is_removed: false }
    }

    /// Runs in a child, for its mount namespace. What the binary leaves running becomes the shim's.
    fn create_here(&self, streams: ChildStreams) -> Result<(), RuntimeFailure> {
        let linux = SpecPart::read(&self.dir.join(SPEC_FILE))?.linux;
        linux
            .mount_rootfs(&self.config)
            .map_err(|error| RuntimeFailure::other(format!("cannot mount the root file system: {error}")))?;
        let mut arguments: Vec<OsString> = match &self.config.restore {
            None => vec!["create".into()],
            Some(restore) => vec![
                "restore".into(),
                "--detach".into(),
                "--image-path".into(),
                restore.images.clone().into_os_string(),
                "--work-path".into(),
                self.dir.clone().into_os_string(),
            ],
        };
        arguments.extend(["--bundle".into(), self.dir.clone().into_os_string()]);
        arguments.extend(["--pid-file".into(), self.dir.join(PID_FILE).into_os_string()]);
        if let ChildStreams::Terminal { console_socket } = &streams {
            arguments.extend(["--console-socket".into(), console_socket.clone().into_os_string()]);
        }
        arguments.push(self.config.id.clone().into());
        self.tool.run_with(&arguments, streams)
    }
}

impl Binary {
    fn make(&self, streams: ChildStreams, caller: Option<Caller<'_>>) -> Result<u32, RuntimeFailure> {
        let (outcome, outcome_end) = super::pipe()?;
        let failed = |error: std::io::Error| RuntimeFailure::other(format!("cannot fork: {error}"));
        let Fork::Parent(helper) = SingleThread::prove().and_then(|single| single.fork()).map_err(failed)? else {
            drop(outcome);
            // With the binary and the hooks that it runs: they are ended with it.
            let _ = rustix::process::setpgid(None, None);
            // Not a subreaper itself: the container's init has to pass it by.
            let result = self.create_here(streams);
            if let Err(failure) = &result {
                let bytes = serde_json::to_vec(failure).unwrap_or_default();
                let _ = std::io::Write::write_all(&mut std::fs::File::from(outcome_end), &bytes);
            }
            process::exit_now(i32::from(result.is_err()));
        };
        drop((outcome_end, streams));
        caller::wait_patiently(outcome.as_fd(), caller).inspect_err(|_| end_maker(helper))?;
        super::launch::read_report(outcome, None)?;
        read_pid(&self.dir)
    }
}

impl Runtime for Binary {
    fn create(&mut self, streams: ChildStreams, caller: Option<Caller<'_>>) -> Result<Created, RuntimeFailure> {
        if self.config.restore.is_some() {
            self.streams = Some(streams);
            return Ok(Created { pid: None, took: None });
        }
        self.make(streams, caller).map(|pid| Created { pid: Some(pid), took: None })
    }

    fn start(&mut self, caller: Option<Caller<'_>>) -> Result<Option<u32>, RuntimeFailure> {
        match self.streams.take() {
            Some(streams) => self.make(streams, caller).map(Some),
            None => self.tool.run_for(&["start", &self.config.id], caller).map(|()| None),
        }
    }

    fn abandon(&mut self) {
        self.streams = None;
    }

    fn pause(&mut self) -> Result<(), RuntimeFailure> {
        self.tool.run(&["pause", &self.config.id])
    }

    fn resume(&mut self) -> Result<(), RuntimeFailure> {
        self.tool.run(&["resume", &self.config.id])
    }

    fn is_paused(&self) -> bool {
        Cgroup::open(&self.config.cgroup).is_ok_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
    }

    fn signal_all(&mut self, signal: i32) -> Result<(), RuntimeFailure> {
        self.tool.run(&["kill", "--all", &self.config.id, &signal.to_string()])
    }

    fn oom_kills(&self) -> u64 {
        Cgroup::open(&self.config.cgroup).map_or(0, |cgroup| cgroup.oom_kills())
    }

    fn delete(&mut self) -> Result<(), RuntimeFailure> {
        // A binary that lost its state does not know the cgroup any more; we do.
        let failed = |error| RuntimeFailure::other(format!("cannot remove the cgroup: {error}"));
        let cgroup = Cgroup::open(&self.config.cgroup).map_err(failed)?;
        cgroup.signal_all(rustix::process::Signal::KILL.as_raw());
        if cgroup.is_frozen().unwrap_or(false) {
            let _ = cgroup.thaw();
        }
        cgroup.remove().map_err(failed)
    }

    /// The binary's own removal, which runs the hooks.
    fn next_last_hook(&mut self) -> Option<LastHook> {
        if std::mem::replace(&mut self.is_removed, true) {
            return None;
        }
        let begun = LastHook::begin("the runtime's removal", self.tool.silent(&["delete", "--force", &self.config.id]));
        begun.map_err(|error| say(&format!("cannot run {:?}: {error}", self.tool.program))).ok()
    }
}

/// An exec made by a binary.
#[derive(Debug)]
pub(crate) struct BinaryExec {
    dir: PathBuf,
    config: ExecConfig,
    tool: Tool,
    streams: Option<ChildStreams>,
}

impl BinaryExec {
    pub(crate) fn new(
        dir: &Path,
        config: &ExecConfig,
        container: &ShimConfig,
        program: &Path,
        args: &[String],
    ) -> Self {
        let tool = Tool::new(&config.container_dir, dir, &container.id, program, args);
        Self { dir: dir.to_owned(), config: config.clone(), tool, streams: None }
    }
}

impl Runtime for BinaryExec {
    fn create(&mut self, streams: ChildStreams, _caller: Option<Caller<'_>>) -> Result<Created, RuntimeFailure> {
        let file = self.dir.join(PROCESS_FILE);
        let bytes =
            serde_json::to_vec(&self.config.process).map_err(|error| RuntimeFailure::other(error.to_string()))?;
        std::fs::write(&file, bytes)
            .map_err(|error| RuntimeFailure::other(format!("cannot write {file:?}: {error}")))?;
        self.streams = Some(streams);
        Ok(Created { pid: None, took: None })
    }

    fn start(&mut self, _caller: Option<Caller<'_>>) -> Result<Option<u32>, RuntimeFailure> {
        let wrong = || RuntimeFailure::new(FailureKind::WrongState, "already started");
        let streams = self.streams.take().ok_or_else(wrong)?;
        let mut arguments: Vec<OsString> = ["exec", "--detach", "--process"].iter().map(Into::into).collect();
        arguments.push(self.dir.join(PROCESS_FILE).into_os_string());
        arguments.extend(["--pid-file".into(), self.dir.join(PID_FILE).into_os_string()]);
        if let ChildStreams::Terminal { console_socket } = &streams {
            arguments.extend(["--console-socket".into(), console_socket.clone().into_os_string()]);
        }
        arguments.push(self.tool.id.clone().into());
        self.tool.run_with(&arguments, streams)?;
        read_pid(&self.dir).map(Some)
    }

    fn abandon(&mut self) {
        self.streams = None;
    }

    fn pause(&mut self) -> Result<(), RuntimeFailure> {
        Err(RuntimeFailure::new(FailureKind::WrongState, "an exec cannot be paused"))
    }

    fn resume(&mut self) -> Result<(), RuntimeFailure> {
        Err(RuntimeFailure::new(FailureKind::WrongState, "an exec cannot be paused"))
    }

    fn is_paused(&self) -> bool {
        false
    }

    fn signal_all(&mut self, _signal: i32) -> Result<(), RuntimeFailure> {
        Err(RuntimeFailure::new(FailureKind::WrongState, "an exec has one process; its container has all"))
    }

    fn oom_kills(&self) -> u64 {
        0
    }

    fn delete(&mut self) -> Result<(), RuntimeFailure> {
        Ok(())
    }
}

fn read_pid(dir: &Path) -> Result<u32, RuntimeFailure> {
    let text = std::fs::read_to_string(dir.join(PID_FILE)).unwrap_or_default();
    text.trim().parse().map_err(|_| RuntimeFailure::other("the runtime wrote no process id"))
}
