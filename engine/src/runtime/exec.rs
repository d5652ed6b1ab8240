//! An exec with the built-in runtime: one more process in the namespaces and the cgroup of a running container.
//!
//! ## Design notes
//! - Two forks: the first child moves itself into the container's cgroup and namespaces, the second one, made as the shim's
//!   own child, is in its PID namespace and becomes the program. The host's files were all opened or read before.
//! - The container's init is held by a pidfd whose start time was compared, so a recycled number is never entered.
//! - libcontainer's tenant builder is not used: it applies no system call filter to an exec.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxPersonality, Process};
use shoal_engine_sys::fs::Directory;
use shoal_engine_sys::process::{self, Fork, SingleThread};
use shoal_engine_sys::{namespace, proc, pty};

use super::bundle::resource_number;
use super::launch::{Launch, read_report};
use super::{Caller, ChildStreams, Created, Outcome, Runtime, confine, pipe};
use crate::cgroup::Cgroup;
use crate::shim::config::{ExecConfig, SECCOMP_FILE, ShimConfig, ShimState};
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// One exec.
#[derive(Debug)]
pub(crate) struct BuiltinExec {
    config: ExecConfig,
    container: ShimConfig,
    streams: Option<ChildStreams>,
}

/// Everything that has to be read on the host.
struct Prepared {
    init: OwnedFd,
    init_pid: u32,
    cgroup: Cgroup,
    launch: Launch,
    /// The container's: nothing of it is among what describes a process.
    personality: Option<LinuxPersonality>,
}

impl BuiltinExec {
    pub(crate) fn new(config: &ExecConfig, container: &ShimConfig) -> Self {
        Self { config: config.clone(), container: container.clone(), streams: None }
    }

    fn prepare(&self, report: OwnedFd) -> Result<Prepared, RuntimeFailure> {
        let dir = &self.config.container_dir;
        let state = ShimState::read(dir).map_err(|error| cannot("read the container's state", &error))?;
        let gone = || RuntimeFailure::new(FailureKind::WrongState, "the container is not running");
        let state = state.ok_or_else(gone)?;
        let init = namespace::open_process(state.init_pid).map_err(|_| gone())?;
        if proc::start_ticks(state.init_pid).ok() != Some(state.init_start_ticks) {
            return Err(gone());
        }
        let cgroup = Cgroup::open(&self.container.cgroup).map_err(|error| cannot("use cgroups", &error))?;
        let filter = if self.config.privileged { None } else { read_filter(dir)? };
        let launch = Launch::new(&self.config.process, filter, report)?.with_last_scheduler(&self.config.process);
        Ok(Prepared { init, init_pid: state.init_pid, cgroup, launch, personality: self.config.personality.clone() })
    }
}

impl Runtime for BuiltinExec {
    fn create(&mut self, streams: ChildStreams, _caller: Option<Caller<'_>>) -> Result<Created, RuntimeFailure> {
        self.streams = Some(streams);
        Ok(Created { pid: None, took: None })
    }

    fn start(&mut self, _caller: Option<Caller<'_>>) -> Result<Option<u32>, RuntimeFailure> {
        let wrong = || RuntimeFailure::new(FailureKind::WrongState, "already started");
        let streams = self.streams.take().ok_or_else(wrong)?;
        let (outcome, outcome_end) = pipe()?;
        let (report, report_end) = pipe()?;
        let prepared = self.prepare(report_end)?;
        // The container's processes must not be able to trace the one that comes in, nor to reach its descriptors.
        process::hide_from_tracers().map_err(|error| cannot("hide the process", &error))?;
        let single = SingleThread::prove().map_err(|error| cannot("fork", &error))?;
        let Fork::Parent(_) = single.fork().map_err(|error| cannot("fork", &error))? else {
            drop((outcome, report));
            let result = join(&single, &prepared, &self.config.process, &streams);
            let result = result.map_or_else(Outcome::Failure, |pid| Outcome::Pid(pid, None));
            process::exit_now(i32::from(super::tell(&outcome_end, &result).is_err()));
        };
        drop((outcome_end, prepared, streams));
        match super::Listener::new(outcome).hear() {
            Ok(Outcome::Pid(pid, _)) => read_report(report, None).map(|()| Some(pid)),
            Ok(Outcome::Failure(failure)) => Err(failure),
            Ok(Outcome::Hooks) | Err(_) => Err(RuntimeFailure::other("the joining process died; see shim.log")),
        }
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

pub(super) fn read_filter(dir: &Path) -> Result<Option<Vec<u8>>, RuntimeFailure> {
    match std::fs::read(dir.join(SECCOMP_FILE)) {
        Ok(program) => Ok(Some(program)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read the seccomp filter", &error)),
    }
}

/// Runs in the first child: goes into the container and makes the process there. Gives its number on the host.
fn join(
    single: &SingleThread,
    prepared: &Prepared,
    oci: &Process,
    streams: &ChildStreams,
) -> Result<u32, RuntimeFailure> {
    // Before the namespaces: the host's /proc and /sys end with them.
    confine::apply_to_self(oci)?;
    confine::set_personality(prepared.personality.as_ref())?;
    let console = match streams {
        ChildStreams::Terminal { console_socket } => Some(connect(console_socket)?),
        ChildStreams::Pipes { .. } => None,
    };
    prepared.cgroup.enter(single).map_err(|error| cannot("enter the container's cgroup", &error))?;
    namespace::enter_all(prepared.init.as_fd(), prepared.init_pid)
        .map_err(|error| cannot("enter the container's namespaces", &error))?;
    match single.fork_sibling().map_err(|error| cannot("fork", &error))? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let Err(failure) = become_program(prepared, oci, streams, console.as_ref());
            prepared.launch.report(&failure);
            process::exit_now(failure.exit_code())
        }
    }
}

pub(super) fn connect(path: &Path) -> Result<std::os::unix::net::UnixStream, RuntimeFailure> {
    use std::os::fd::AsRawFd;
    let failed = |error: io::Error| cannot("reach the console socket", &error);
    let directory = std::fs::File::open(path.parent().unwrap_or(path)).map_err(failed)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::os::unix::net::UnixStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())).map_err(failed)
}

/// Runs in the process that becomes the program.
fn become_program(
    prepared: &Prepared,
    oci: &Process,
    streams: &ChildStreams,
    console: Option<&std::os::unix::net::UnixStream>,
) -> Result<std::convert::Infallible, RuntimeFailure> {
    rustix::process::setsid().map_err(|error| cannot("begin a session", &error.into()))?;
    match (streams, console) {
        (ChildStreams::Pipes { stdin, stdout, stderr }, _) => {
            let inside = Directory::open(Path::new("/")).map_err(|error| cannot("open the root", &error))?;
            confine::take_pipes(&inside, stdin, stdout, stderr)
                .map_err(|error| cannot("set up the streams", &error))?;
        }
        (ChildStreams::Terminal { .. }, Some(console)) => {
            let (master, slave) = pty::open().map_err(|error| cannot("open a terminal", &error))?;
            let user = oci.user();
            rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(user.uid())), None)
                .map_err(|error| cannot("own the terminal", &error.into()))?;
            pty::send_descriptor(console, &master).map_err(|error| cannot("hand over the terminal", &error))?;
            pty::take_over(&slave).map_err(|error| cannot("take over the terminal", &error))?;
        }
        (ChildStreams::Terminal { .. }, None) => return Err(RuntimeFailure::other("no console socket")),
    }
    for rlimit in oci.rlimits().iter().flatten() {
        process::set_resource_limit(resource_number(rlimit.typ()), rlimit.soft(), rlimit.hard())
            .map_err(|error| cannot("set a resource limit", &error))?;
    }
    let user = oci.user();
    if let Some(mask) = user.umask() {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    let groups = user.additional_gids().clone().unwrap_or_default();
    // As root, for a directory that only root may enter on the way. Never through a magic link (CVE-2024-21626).
    let cwd = oci.cwd();
    let opened = Directory::open(Path::new("/")).and_then(|root| root.open_dir(cwd));
    let entered = opened.and_then(|directory| Ok(rustix::process::fchdir(&directory)?));
    entered.map_err(|error| {
        RuntimeFailure::new(
            FailureKind::CommandNotExecutable,
            format!("unable to start container process: chdir to cwd ({cwd:?}) failed: {error}"),
        )
    })?;
    process::become_user(user.uid(), user.gid(), &groups).map_err(|error| cannot("become the user", &error))?;
    prepared.launch.run()
}

fn cannot(what: &str, error: &io::Error) -> RuntimeFailure {
    RuntimeFailure::other(format!("cannot {what}: {error}"))
}
