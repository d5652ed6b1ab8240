//! The runtime "libcontainer": youki's library in a short-lived child of the shim.
//!
//! ## Design notes
//! - Not the default: it reads the host's whole mount table some thirty times a container, which with a few hundred
//!   containers on the host takes longer than everything else. The built-in runtime passes the same tests.
//! - The child ("creator") does all that libcontainer needs memory for and ends; the container's init becomes a child of
//!   the shim itself (`as_sibling`), so the shim stays small and can wait for it.
//! - The creator has a mount namespace of its own, in which the root file system is mounted: the host never sees it, and
//!   it cannot be left behind.
//! - libcontainer 0.7 is not given the system call filter (it swaps mask and value of masked comparisons, and gives an exec
//!   no filter at all) nor the capabilities (dropping them comes after the filter): see [`super::launch`].

mod errors;
mod seal;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::Spec;
use shoal_engine_sys::process::{self, Fork, SingleThread};
use shoal_proto::error::chain;

use self::errors::ErrorNotes;
use super::bundle::{INIT_ANNOTATION, INNER_BUNDLE};
use super::exec::read_filter;
use super::hooks::HostHooks;
use super::launch::{Launch, read_report};
use super::{Caller, ChildStreams, Created, LastHook, Outcome, Runtime, SpecPart, end_maker, pipe};
use crate::cgroup::Cgroup;
use crate::cgroup::limits::Limits;
use crate::shim::config::{SPEC_FILE, ShimConfig};
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// Directory in the shim's for libcontainer's state.
const STATE_DIRECTORY: &str = "state";
/// Where libcontainer's init waits for the start, below its state.
const NOTIFY_SOCKET: &str = "notify.sock";

/// A container made by libcontainer.
#[derive(Debug)]
pub(crate) struct Libcontainer {
    dir: PathBuf,
    config: ShimConfig,
    /// Where init reports why it could not run its program.
    report: Option<OwnedFd>,
    /// Its first process.
    pid: u32,
    hooks: HostHooks,
}

impl Libcontainer {
    pub(crate) fn new(dir: &Path, config: &ShimConfig) -> Self {
        Self { dir: dir.to_owned(), config: config.clone(), report: None, pid: 0, hooks: HostHooks::default() }
    }

    fn cgroup(&self) -> Result<Cgroup, RuntimeFailure> {
        Cgroup::open(&self.config.cgroup).map_err(|error| RuntimeFailure::other(format!("cannot use cgroups: {error}")))
    }

    /// Runs in the creator.
    fn build(&self, streams: ChildStreams, report: OwnedFd) -> Result<u32, RuntimeFailure> {
        let SpecPart { process, linux, annotations, hooks } = SpecPart::read(&self.dir.join(SPEC_FILE))?;
        let filter = read_filter(&self.dir)?;
        linux.mount_rootfs(&self.config).map_err(|error| cannot("mount the root file system", &error))?;
        let mut launch = Launch::new(&process, filter, report)?;
        if let Some(hooks) = &hooks {
            launch = launch.after_hooks(hooks, &self.config.id, &self.dir, &Some(annotations.clone()));
        }
        if annotations.contains_key(INIT_ANNOTATION) {
            let single = SingleThread::prove().map_err(|error| cannot("be an init", &error))?;
            launch = launch.below_init(single);
        }
        let launch = Rc::new(launch);
        let builder = ContainerBuilder::new(self.config.id.clone(), SyscallType::default())
            .with_executor(LaunchExecutor { launch })
            .with_root_path(self.dir.join(STATE_DIRECTORY))
            .map_err(|error| failed(&error))?;
        let builder = match streams {
            ChildStreams::Pipes { stdin, stdout, stderr } => {
                builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr)
            }
            ChildStreams::Terminal { console_socket } => builder.with_console_socket(Some(console_socket)),
        };
        let container = builder
            .as_init(self.dir.join(INNER_BUNDLE))
            .with_systemd(false)
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(|error| failed(&error))?;
        // libcontainer skips limits that the host has no file for (the weight of block I/O). Said again by ourselves, each
        // is in force or an error.
        let limits = linux.resources.as_ref().map(Limits::from_oci).unwrap_or_default();
        crate::cgroup::update(&self.config.cgroup, &limits)
            .map_err(|error| RuntimeFailure::new(FailureKind::CannotApply, chain(&error)))?;
        let pid = container.pid().map(|pid| pid.as_raw().unsigned_abs());
        pid.ok_or_else(|| RuntimeFailure::other("libcontainer made a container without a process"))
    }
}

impl Runtime for Libcontainer {
    fn create(&mut self, streams: ChildStreams, caller: Option<Caller<'_>>) -> Result<Created, RuntimeFailure> {
        let spec = SpecPart::read(&self.dir.join(SPEC_FILE))?;
        self.hooks = HostHooks::new(spec.hooks, Some(spec.annotations), &self.config.id, &self.dir);
        let (outcome, outcome_end) = pipe()?;
        let (report, report_end) = pipe()?;
        let notes = ErrorNotes::new().map_err(|error| cannot("make a file in memory", &error))?;
        let creator = SingleThread::prove().and_then(|single| single.fork()).map_err(|error| cannot("fork", &error))?;
        let Fork::Parent(creator) = creator else {
            drop((outcome, report));
            // With the hooks that the library runs: they are ended with it.
            let _ = rustix::process::setpgid(None, None);
            let listening = notes.listen().map_err(|error| cannot("listen for errors", &error));
            let result = match listening.and_then(|()| self.build(streams, report_end)) {
                Ok(pid) => Outcome::Pid(pid, None),
                Err(failure) => Outcome::Failure(failure),
            };
            process::exit_now(i32::from(super::tell(&outcome_end, &result).is_err()));
        };
        drop((outcome_end, report_end, streams));
        let heard = super::Listener::new(outcome).hear_for(caller).inspect_err(|_| end_maker(creator));
        match heard? {
            Ok(Outcome::Pid(pid, _)) => {
                (self.report, self.pid) = (Some(report), pid);
                Ok(Created { pid: Some(pid), took: None })
            }
            Ok(Outcome::Failure(failure)) => {
                // Init's own words are better than libcontainer's account of them.
                rustix::fs::fcntl_setfl(&report, rustix::fs::OFlags::NONBLOCK)
                    .map_err(|error| cannot("read", &error.into()))?;
                let told = read_report(report, None).err().filter(|told| told.kind != FailureKind::Other);
                Err(told.unwrap_or_else(|| match notes.first() {
                    Some(reason) => RuntimeFailure::new(failure.kind, format!("{}: {reason}", failure.message)),
                    None => failure,
                }))
            }
            Ok(Outcome::Hooks) | Err(_) => Err(RuntimeFailure::other("the creating process died; see shim.log")),
        }
    }

    fn start(&mut self, caller: Option<Caller<'_>>) -> Result<Option<u32>, RuntimeFailure> {
        let report =
            self.report.take().ok_or_else(|| RuntimeFailure::new(FailureKind::WrongState, "already started"))?;
        let directory = self.dir.join(STATE_DIRECTORY).join(&self.config.id);
        let handle = std::fs::File::open(&directory).map_err(|error| cannot("open the state directory", &error))?;
        // Through a descriptor: the path may be longer than a socket address can be.
        let path = format!("/proc/self/fd/{}/{NOTIFY_SOCKET}", handle.as_raw_fd());
        let socket = std::os::unix::net::UnixStream::connect(path);
        drop(socket.map_err(|error| cannot("reach the container's init", &error))?);
        let caller = caller.filter(|_| self.hooks.runs_at_start());
        let started = read_report(report, caller).and_then(|()| self.hooks.poststart(self.pid, caller));
        if started.is_err() {
            self.signal_all(rustix::process::Signal::KILL.as_raw())?;
        }
        started.map(|()| None)
    }

    fn pause(&mut self) -> Result<(), RuntimeFailure> {
        self.cgroup()?.freeze().map_err(|error| cannot("freeze the container", &error))
    }

    fn resume(&mut self) -> Result<(), RuntimeFailure> {
        self.cgroup()?.thaw().map_err(|error| cannot("thaw the container", &error))
    }

    fn is_paused(&self) -> bool {
        self.cgroup().is_ok_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
    }

    fn signal_all(&mut self, signal: i32) -> Result<(), RuntimeFailure> {
        self.cgroup()?.signal_all(signal);
        Ok(())
    }

    fn oom_kills(&self) -> u64 {
        self.cgroup().map_or(0, |cgroup| cgroup.oom_kills())
    }

    fn delete(&mut self) -> Result<(), RuntimeFailure> {
        let cgroup = self.cgroup()?;
        cgroup.signal_all(rustix::process::Signal::KILL.as_raw());
        // A frozen process does not die.
        if cgroup.is_frozen().unwrap_or(false) {
            let _ = cgroup.thaw();
        }
        let removed = cgroup.remove().map_err(|error| cannot("remove the cgroup", &error));
        let state = match std::fs::remove_dir_all(self.dir.join(STATE_DIRECTORY)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(cannot("remove libcontainer's state", &error))
            }
            _ => Ok(()),
        };
        removed.and(state)
    }

    fn next_last_hook(&mut self) -> Option<LastHook> {
        self.hooks.next_poststop()
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> RuntimeFailure {
    RuntimeFailure::other(chain(error))
}

fn cannot(what: &str, error: &std::io::Error) -> RuntimeFailure {
    RuntimeFailure::other(format!("cannot {what}: {error}"))
}

/// Puts [`Launch`] in the place of libcontainer's own last steps.
#[derive(Clone)]
struct LaunchExecutor {
    launch: Rc<Launch>,
}

impl Executor for LaunchExecutor {
    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.launch.find().map(|_| ()).map_err(|failure| {
            self.launch.report(&failure);
            ExecutorValidationError::ArgValidationError(failure.message)
        })
    }

    fn setup_envs(&self, _envs: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment goes to execve, not through this process.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if let Err(failure) = seal::seal(spec) {
            self.launch.report(&failure);
            return Err(ExecutorError::Other(failure.message));
        }
        self.launch.run()
    }
}
