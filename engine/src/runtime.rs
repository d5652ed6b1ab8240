//! Creating containers from OCI runtime specifications.

mod binary;
mod builtin;
pub mod bundle;
mod caller;
pub mod capabilities;
mod confine;
mod exec;
mod hooks;
mod launch;
mod libcontainer;
mod restored;
pub mod seccomp;
pub mod spec;
pub mod user;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

pub(crate) use binary::{Binary, BinaryExec, STATE_DIRECTORY};
pub(crate) use builtin::Builtin;
pub(crate) use caller::Caller;
pub(crate) use exec::BuiltinExec;
pub(crate) use hooks::LastHook;
pub(crate) use launch::DEFAULT_PATH;
pub(crate) use libcontainer::Libcontainer;
use restored::Restored;

use oci_spec::runtime::{Hooks, LinuxNamespace, LinuxNamespaceType, LinuxResources, Process};
use serde::{Deserialize, Serialize};
use shoal_engine_sys::user_namespace::UserNamespace;
use shoal_engine_sys::{namespace, process, signal};

use crate::shim::config::{ExecConfig, RuntimeKind, ShimConfig};
use crate::shim::protocol::{RuntimeFailure, Took};

/// What a new process gets as its standard streams.
#[derive(Debug)]
pub(crate) enum ChildStreams {
    /// These three.
    Pipes {
        /// To read from.
        stdin: OwnedFd,
        /// To write to.
        stdout: OwnedFd,
        /// To write to.
        stderr: OwnedFd,
    },
    /// A terminal of the container, whose master is sent over this socket.
    Terminal {
        /// Path of the listening socket.
        console_socket: PathBuf,
    },
}

/// What [`Runtime::create`] made.
#[derive(Debug)]
pub(crate) struct Created {
    /// The process, as the host numbers it. An exec has none until its start.
    pub(crate) pid: Option<u32>,
    /// How long its parts took, where that is known.
    pub(crate) took: Option<Took>,
}

/// One container, or one exec, through its life: `create`, `start`, then its process ends by itself or by a signal (the
/// caller waits for it), then `delete`, then `next_last_hook` until there is none. After a failed `create`, `delete` takes away
/// what was made. `pause` and `resume` come in between. Called from a process with one thread.
pub(crate) trait Runtime: std::fmt::Debug {
    /// Makes everything but runs nothing of the container's. Fails when the caller gives it up.
    fn create(&mut self, streams: ChildStreams, caller: Option<Caller<'_>>) -> Result<Created, RuntimeFailure>;
    /// Runs the program; returns when it was executed. Gives the process when `create` did not. Fails when the caller gives it
    /// up while a hook runs.
    fn start(&mut self, caller: Option<Caller<'_>>) -> Result<Option<u32>, RuntimeFailure>;
    /// It will not be started: lets go what was kept for that.
    fn abandon(&mut self) {}
    /// Freezes every process.
    fn pause(&mut self) -> Result<(), RuntimeFailure>;
    /// Lets them go on.
    fn resume(&mut self) -> Result<(), RuntimeFailure>;
    /// Whether they are frozen.
    fn is_paused(&self) -> bool;
    /// Sends a signal to every process.
    fn signal_all(&mut self, signal: i32) -> Result<(), RuntimeFailure>;
    /// How many of its processes the kernel killed for memory.
    fn oom_kills(&self) -> u64;
    /// Ends what is left of it and takes it away.
    fn delete(&mut self) -> Result<(), RuntimeFailure>;
    /// Begins the next of what runs after that; none when all has run.
    fn next_last_hook(&mut self) -> Option<LastHook> {
        None
    }
}

/// The runtime of a container.
pub(crate) fn for_container(dir: &Path, config: &ShimConfig) -> Box<dyn Runtime> {
    match &config.runtime {
        RuntimeKind::Builtin | RuntimeKind::Libcontainer if let Some(restore) = &config.restore => {
            Box::new(Restored::new(dir, config, restore))
        }
        RuntimeKind::Builtin => Box::new(Builtin::new(dir, config)),
        RuntimeKind::Libcontainer => Box::new(Libcontainer::new(dir, config)),
        RuntimeKind::Binary { path, args } => Box::new(Binary::new(dir, config, path, args)),
    }
}

/// The runtime of an exec in a container that runs with `container`.
pub(crate) fn for_exec(dir: &Path, config: &ExecConfig, container: &ShimConfig) -> Box<dyn Runtime> {
    match &container.runtime {
        RuntimeKind::Builtin | RuntimeKind::Libcontainer => Box::new(BuiltinExec::new(config, container)),
        RuntimeKind::Binary { path, args } => Box::new(BinaryExec::new(dir, config, container, path, args)),
    }
}

/// A pipe whose ends `execve` closes.
fn pipe() -> Result<(OwnedFd, OwnedFd), RuntimeFailure> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| RuntimeFailure::other(format!("cannot make a pipe: {error}")))
}

/// What a helping child tells the shim.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// It is time for hooks on the host; the child waits for them.
    Hooks,
    /// The process is there; perhaps with how long its parts took.
    Pid(u32, Option<Took>),
    Failure(RuntimeFailure),
}

/// Tells it: one line, since the process that was made holds the pipe, too, until it executes its program.
fn tell(pipe: &OwnedFd, outcome: &Outcome) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(outcome)?;
    line.push(b'\n');
    let mut line = &line[..];
    while !line.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(pipe, line))?;
        line = &line[written..];
    }
    Ok(())
}

/// The other end: hears one word after the other.
struct Listener(BufReader<std::fs::File>);

impl Listener {
    fn new(pipe: OwnedFd) -> Self {
        Self(BufReader::new(pipe.into()))
    }

    /// The next word, unless the caller does not want to hear it any more.
    fn hear_for(&mut self, caller: Option<Caller<'_>>) -> Result<std::io::Result<Outcome>, RuntimeFailure> {
        if self.0.buffer().is_empty() {
            caller::wait_patiently(self.0.get_ref().as_fd(), caller)?;
        }
        Ok(self.hear())
    }

    fn hear(&mut self) -> std::io::Result<Outcome> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line)?;
        Ok(serde_json::from_slice(&line)?)
    }
}

/// Ends a child that makes something which nobody wants any more, and waits for its end: what it makes can be taken away
/// then. What it started in its process group ends, too.
fn end_maker(pid: u32) {
    // It may not lead a group yet, or be gone; it was not waited for, so the number is its own.
    let _ = process::kill_group(pid);
    let _ = signal::send_to(pid, rustix::process::Signal::KILL.as_raw());
    let _ = process::wait_for(pid);
}

/// The parts of a specification that the shim itself needs; the rest is skipped, not built.
#[derive(Debug, Deserialize)]
struct SpecPart {
    process: Process,
    linux: LinuxPart,
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    hooks: Option<Hooks>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinuxPart {
    #[serde(default)]
    namespaces: Vec<LinuxNamespace>,
    #[serde(default)]
    rootfs_propagation: Option<String>,
    #[serde(default)]
    resources: Option<LinuxResources>,
}

impl SpecPart {
    fn read(path: &Path) -> Result<Self, RuntimeFailure> {
        let bytes = std::fs::read(path)
            .map_err(|error| RuntimeFailure::other(format!("cannot read the specification: {error}")))?;
        serde_json::from_slice(&bytes).map_err(|error| RuntimeFailure::other(format!("bad specification: {error}")))
    }
}

impl LinuxPart {
    /// Mounts the container's root file system where only this process and its children see it.
    fn mount_rootfs(&self, config: &ShimConfig) -> std::io::Result<()> {
        let Some(rootfs) = &config.rootfs else { return Ok(()) };
        let of_user = self.namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::User);
        let path = of_user.and_then(|namespace| namespace.path().as_deref());
        let user = path.map(UserNamespace::open).transpose()?;
        namespace::new_mount_namespace()?;
        isolate(&rootfs.target, self.rootfs_propagation.as_deref())?;
        rootfs.mount(user.as_ref())
    }
}

/// In a new mount namespace: lets nothing that is mounted at `root` reach the host.
fn isolate(root: &Path, propagation: Option<&str>) -> std::io::Result<()> {
    namespace::isolate_mounts(root, matches!(propagation, Some("shared" | "rshared")))
}
