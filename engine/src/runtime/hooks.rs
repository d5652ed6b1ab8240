//! Hooks: programs of the host, or of the container, that run at certain steps of a container's life.
//!
//! ## Design notes
//! - `prestart` and `createRuntime` run on the host when the container's namespaces and mounts are made, `createContainer` in
//!   these, with the host's root still below; `startContainer` in the container, right before its program and as confined as
//!   that, since it is a program of the image (runc does the same). `poststart` and `poststop` run on the host again.
//! - Those of one step run in order, and the first that fails ends the container's start. What fails after its end is told
//!   in the shim's log, and the others run.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks};
use rustix::event::{PollFd, PollFlags, Timespec};
use shoal_engine_sys::{namespace, process};

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
}

impl HostHooks {
    /// Those of the container in this folder.
    pub(super) fn new(
        hooks: Option<Hooks>,
        annotations: Option<HashMap<String, String>>,
        id: &str,
        bundle: &Path,
    ) -> Self {
        Self { hooks, annotations, id: id.to_owned(), bundle: bundle.to_owned() }
    }

    fn state<'a>(&'a self, status: &'a str, pid: Option<u32>) -> State<'a> {
        State { id: &self.id, bundle: &self.bundle, status, pid, annotations: self.annotations.as_ref() }
    }

    /// When the namespaces are there.
    pub(super) fn create_runtime(&self, pid: u32) -> Result<(), RuntimeFailure> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        let state = self.state("creating", Some(pid));
        run("prestart", hooks.prestart().as_deref(), &state)?;
        run("createRuntime", hooks.create_runtime().as_deref(), &state)
    }

    /// When the program runs.
    pub(super) fn poststart(&self, pid: u32) -> Result<(), RuntimeFailure> {
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.poststart().as_deref());
        run("poststart", hooks, &self.state("running", Some(pid)))
    }

    /// When nothing is left of the container. These run once.
    pub(super) fn poststop(&mut self) {
        let hooks = self.hooks.take().and_then(|hooks| hooks.poststop().clone());
        let state = self.state("stopped", None);
        for hook in hooks.iter().flatten() {
            if let Err(failure) = run("poststop", Some(std::slice::from_ref(hook)), &state) {
                say(&failure.to_string());
            }
        }
    }
}

/// Does a specification ask for hooks on the host while the container is made?
pub(super) fn has_create_runtime(hooks: &Hooks) -> bool {
    let some = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty());
    some(hooks.prestart()) || some(hooks.create_runtime())
}

/// Runs them one after the other. The first that fails ends the container's start.
pub(super) fn run(kind: &str, hooks: Option<&[Hook]>, state: &State<'_>) -> Result<(), RuntimeFailure> {
    for (number, hook) in hooks.unwrap_or_default().iter().enumerate() {
        let failed = |reason: String| {
            let message = format!("error running {kind} hook #{number} {:?}: {reason}", hook.path());
            RuntimeFailure::new(FailureKind::CannotApply, message)
        };
        run_one(hook, &state.document()).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8]) -> io::Result<()> {
    // Files, not pipes: nobody has to be read from or written to while it runs.
    let memory = || rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
    let (mut words, mut input) = (memory()?, memory()?);
    input.write_all(state)?;
    input.rewind()?;
    let mut command = process::command_of_others(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, args)) = args.split_first() {
        command.arg0(name).args(args);
    }
    command.envs(hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')));
    command.stdin(input).stdout(words.try_clone()?).stderr(words.try_clone()?);
    let mut child = command.spawn()?;
    if !ends_in_time(child.id(), hook.timeout())? {
        let _ = child.kill();
        child.wait()?;
        return Err(io::Error::other("it took longer than it may"));
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    words.rewind()?;
    let mut told = Vec::new();
    words.take(TOLD_BYTES).read_to_end(&mut told)?;
    Err(io::Error::other(format!("{status}, stdout and stderr: {}", String::from_utf8_lossy(&told).trim())))
}

fn ends_in_time(pid: u32, timeout: Option<i64>) -> io::Result<bool> {
    let handle = namespace::open_process(pid)?;
    let timeout = timeout.map(|seconds| Timespec { tv_sec: seconds, tv_nsec: 0 });
    loop {
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
