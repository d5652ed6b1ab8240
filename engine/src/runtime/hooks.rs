//! Hooks: programs of the host, or of the container, that run before the container's own.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;

use oci_spec::runtime::{Hook, Hooks};
use rustix::event::{PollFd, PollFlags, Timespec};
use shoal_engine_sys::{namespace, process};

use crate::shim::config::ShimConfig;
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// What of a hook's last words is told.
const TOLD_BYTES: u64 = 4096;

/// Is there a hook of a kind that is not run here? These would have to run in the host's namespaces.
pub(super) fn has_others(hooks: &Hooks) -> bool {
    let some = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty());
    let prestart = some(hooks.prestart());
    prestart || some(hooks.create_runtime()) || some(hooks.poststart()) || some(hooks.poststop())
}

/// What a hook reads: how the container stands.
pub(super) struct State<'a> {
    pub(super) config: &'a ShimConfig,
    /// The folder with the specification.
    pub(super) bundle: &'a Path,
    /// `creating` or `created`.
    pub(super) status: &'a str,
}

impl State<'_> {
    fn document(&self) -> Vec<u8> {
        let state = serde_json::json!({
            "ociVersion": "1.2.0",
            "id": self.config.id,
            "status": self.status,
            "pid": std::process::id(),
            "bundle": self.bundle,
        });
        serde_json::to_vec(&state).unwrap_or_default()
    }
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
    let mut command = process::command(hook.path());
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
