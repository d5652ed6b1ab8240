//! Hooks: programs of the host, or of the container, that run at certain steps of a container's life.
//!
//! ## Design notes
//! - `prestart` and `createRuntime` run on the host when the container's namespaces and mounts are made, `createContainer` in
//!   these, with the host's root still below; `startContainer` in the container, right before its program and as confined as
//!   that, since it is a program of the image (runc does the same). `poststart` and `poststop` run on the host again.
//! - Those of one step run in order, and the first that fails ends the container's start. What fails after its end is told
//!   in the shim's log, and the others run.
//! - A hook may have no timeout, and sleep for ever. So whoever waits for a start can give it up, which ends the hook with
//!   all of its process group, and those after the container's end run beside the shim's loop, which hears that they are to
//!   be ended.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks};
use shoal_engine_sys::process::Ended;
use shoal_engine_sys::{namespace, process};

use super::caller::{Caller, Waited, wait_for};
use crate::shim::protocol::{FailureKind, RuntimeFailure};
use crate::shim::say;

/// What of a hook's last words is told.
const TOLD_BYTES: u64 = 4096;

/// What a hook reads: how the container stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct State<'a> {
    pub(super) id: &'a str,
    /// The folder with the specification.
    pub(super) bundle: &'a Path,
    /// `creating`, `created`, `running` or `stopped`.
    pub(super) status: &'a str,
    /// The container's first process as the hook sees it; none when it has ended.
    pub(super) pid: Option<u32>,
    pub(super) annotations: Option<&'a HashMap<String, String>>,
}

impl State<'_> {
    fn document(&self) -> Vec<u8> {
        let mut state = serde_json::json!({
            "ociVersion": "1.2.0",
            "id": self.id,
            "status": self.status,
            "bundle": self.bundle,
        });
        if let Some(pid) = self.pid {
            state["pid"] = pid.into();
        }
        if let Some(annotations) = self.annotations.filter(|annotations| !annotations.is_empty()) {
            state["annotations"] = serde_json::json!(annotations);
        }
        serde_json::to_vec(&state).unwrap_or_default()
    }
}

/// The hooks that run on the host, with what they are told.
#[derive(Debug, Default)]
pub(super) struct HostHooks {
    hooks: Option<Hooks>,
    annotations: Option<HashMap<String, String>>,
    id: String,
    bundle: PathBuf,
    /// How many of those after the end were begun.
    poststopped: usize,
}

impl HostHooks {
    /// Those of the container in this folder.
    pub(super) fn new(
        hooks: Option<Hooks>,
        annotations: Option<HashMap<String, String>>,
        id: &str,
        bundle: &Path,
    ) -> Self {
        Self { hooks, annotations, id: id.to_owned(), bundle: bundle.to_owned(), poststopped: 0 }
    }

    fn state<'a>(&'a self, status: &'a str, pid: Option<u32>) -> State<'a> {
        State { id: &self.id, bundle: &self.bundle, status, pid, annotations: self.annotations.as_ref() }
    }

    /// When the namespaces are there.
    pub(super) fn create_runtime(&self, pid: u32, caller: Option<Caller<'_>>) -> Result<(), RuntimeFailure> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        let state = self.state("creating", Some(pid));
        run("prestart", hooks.prestart().as_deref(), &state, caller)?;
        run("createRuntime", hooks.create_runtime().as_deref(), &state, caller)
    }

    /// Is there one between the word to go and the end of the start?
    pub(super) fn runs_at_start(&self) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| hooks.start_container().is_some() || hooks.poststart().is_some())
    }

    /// When the program runs.
    pub(super) fn poststart(&self, pid: u32, caller: Option<Caller<'_>>) -> Result<(), RuntimeFailure> {
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.poststart().as_deref());
        run("poststart", hooks, &self.state("running", Some(pid)), caller)
    }

    /// Begins the next of those that run when nothing is left of the container; each runs once.
    pub(super) fn next_poststop(&mut self) -> Option<LastHook> {
        loop {
            let number = self.poststopped;
            let hook = self.hooks.as_ref()?.poststop().as_ref()?.get(number)?;
            self.poststopped += 1;
            match RunningHook::begin(hook, &self.state("stopped", None).document(), true) {
                Ok(running) => {
                    let name = format!("poststop hook #{number} {:?}", hook.path());
                    return Some(LastHook { name, running });
                }
                Err(error) => say(&failure("poststop", number, hook, &error).to_string()),
            }
        }
    }
}

/// Something that runs after the container's end, while the shim goes on.
#[derive(Debug)]
pub(crate) struct LastHook {
    name: String,
    running: RunningHook,
}

impl LastHook {
    /// A command of that name, in a process group of its own.
    pub(super) fn begin(name: &str, command: Command) -> io::Result<Self> {
        Ok(Self { name: name.to_owned(), running: RunningHook::spawn(command, true, None)? })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.child.id()
    }

    /// How long it may take.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.running.timeout
    }

    /// Has it ended by then?
    pub(crate) fn ends_within(&self, timeout: Duration) -> io::Result<bool> {
        Ok(wait_for(self.running.handle.as_fd(), None, Some(timeout))? == Waited::Ready)
    }

    /// Ends it, and whatever it has started in its process group.
    pub(crate) fn kill(&self) {
        self.running.kill();
    }

    /// Tells how it went, when that was not well.
    pub(crate) fn note_end(self, ended: Ended) {
        let Self { name, running } = self;
        if ended != Ended::Code(0) {
            say(&format!("error running {name}: {}", running.complaint(&format!("{ended:?}"))));
        }
    }
}

/// Does a specification ask for hooks on the host while the container is made?
pub(super) fn has_create_runtime(hooks: &Hooks) -> bool {
    let some = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty());
    some(hooks.prestart()) || some(hooks.create_runtime())
}

fn failure(kind: &str, number: usize, hook: &Hook, reason: &dyn std::fmt::Display) -> RuntimeFailure {
    let message = format!("error running {kind} hook #{number} {:?}: {reason}", hook.path());
    RuntimeFailure::new(FailureKind::CannotApply, message)
}

/// Runs them one after the other. The first that fails ends the container's start, and so does a caller who gives it up.
///
/// Without a caller, a hook stays in this process's group: its filter may refuse a change of that.
pub(super) fn run(
    kind: &str,
    hooks: Option<&[Hook]>,
    state: &State<'_>,
    caller: Option<Caller<'_>>,
) -> Result<(), RuntimeFailure> {
    for (number, hook) in hooks.unwrap_or_default().iter().enumerate() {
        run_one(hook, &state.document(), caller).map_err(|error| failure(kind, number, hook, &error))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8], caller: Option<Caller<'_>>) -> io::Result<()> {
    let mut running = RunningHook::begin(hook, state, caller.is_some())?;
    let waited = wait_for(running.handle.as_fd(), caller, running.timeout);
    if !matches!(waited, Ok(Waited::Ready)) {
        running.kill();
    }
    let status = running.child.wait()?;
    match waited? {
        Waited::Ready if status.success() => Ok(()),
        Waited::Ready => Err(io::Error::other(running.complaint(&status.to_string()))),
        Waited::TimedOut => Err(io::Error::other("it took longer than it may")),
        Waited::GivenUp => Err(io::Error::other("the start was given up")),
    }
}

/// A hook's process.
#[derive(Debug)]
struct RunningHook {
    child: Child,
    handle: OwnedFd,
    leads_group: bool,
    timeout: Option<Duration>,
    words: Option<File>,
}

impl RunningHook {
    fn begin(hook: &Hook, state: &[u8], leads_group: bool) -> io::Result<Self> {
        // Files, not pipes: nobody has to be read from or written to while it runs.
        let memory = || rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
        let (words, mut input) = (memory()?, memory()?);
        input.write_all(state)?;
        input.rewind()?;
        let mut command = process::command_of_others(hook.path());
        let args = hook.args().as_deref().unwrap_or_default();
        if let Some((name, args)) = args.split_first() {
            command.arg0(name).args(args);
        }
        command.envs(hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')));
        command.stdin(input).stdout(words.try_clone()?).stderr(words.try_clone()?);
        let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        Ok(Self { timeout, ..Self::spawn(command, leads_group, Some(words))? })
    }

    fn spawn(mut command: Command, leads_group: bool, words: Option<File>) -> io::Result<Self> {
        if leads_group {
            command.process_group(0);
        }
        let child = command.spawn()?;
        let handle = namespace::open_process(child.id())?;
        Ok(Self { child, handle, leads_group, timeout: None, words })
    }

    fn kill(&self) {
        // Not waited for yet, so the number is still its own.
        let killed = match self.leads_group {
            true => process::kill_group(self.child.id()),
            false => shoal_engine_sys::signal::send(&self.handle, rustix::process::Signal::KILL.as_raw()),
        };
        if let Err(error) = killed {
            say(&format!("cannot end a hook: {error}"));
        }
    }

    /// How it ended, and its last words.
    fn complaint(mut self, status: &str) -> String {
        let mut told = Vec::new();
        if let Some(mut words) = self.words.take() {
            // What cannot be read is not told.
            let _ = words.rewind().and_then(|()| words.take(TOLD_BYTES).read_to_end(&mut told));
        }
        format!("{status}, stdout and stderr: {}", String::from_utf8_lossy(&told).trim())
    }
}
