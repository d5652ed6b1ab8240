//! The built-in runtime: a container's namespaces, mounts and limits, made by its own first process.
//!
//! ## Design notes
//! - One fork, straight into the new namespaces. The child builds the container around itself and becomes its program, so
//!   there is nobody to hand anything over, and all memory that building took is gone with `execve`.
//! - Every mount is made detached, and attached to a descriptor that was resolved below the root (`RESOLVE_IN_ROOT`, no
//!   magic links): a link or a rename in the image can lead nowhere else, and nothing is looked up twice.
//! - Nothing reads the host's mount table, so a start takes as long on a host with a thousand containers.
//! - What of a specification is not done here is refused: see [`child::refuse_unsupported`].

mod cgroups;
mod child;
mod dev;
mod options;
mod rootfs;
mod stage;
mod watch;

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, LinuxNamespace, LinuxNamespaceType};
use serde::Deserialize;
use shoal_engine_sys::namespace;
use shoal_engine_sys::process::{Fork, SingleThread};

pub(super) use child::{enter_cgroup, read_spec};

use super::hooks::HostHooks;
use super::launch::read_report;
use super::{Caller, ChildStreams, Created, LastHook, Listener, Outcome, Runtime, end_maker, pipe};
use crate::cgroup::Cgroup;
use crate::shim::config::{SPEC_FILE, ShimConfig};
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// A container made by the shim itself.
#[derive(Debug)]
pub(crate) struct Builtin {
    dir: PathBuf,
    config: ShimConfig,
    /// Where init reports why it could not run its program.
    report: Option<OwnedFd>,
    /// A byte here lets init go on; closing it ends init.
    go: Option<OwnedFd>,
    /// Its first process.
    pid: u32,
    hooks: HostHooks,
}

impl Builtin {
    pub(crate) fn new(dir: &Path, config: &ShimConfig) -> Self {
        Self {
            dir: dir.to_owned(),
            config: config.clone(),
            report: None,
            go: None,
            pid: 0,
            hooks: HostHooks::default(),
        }
    }

    fn cgroup(&self) -> Result<Cgroup, RuntimeFailure> {
        Cgroup::open(&self.config.cgroup).map_err(|error| cannot("use cgroups", &error))
    }
}

impl Runtime for Builtin {
    fn create(&mut self, streams: ChildStreams, caller: Option<Caller<'_>>) -> Result<Created, RuntimeFailure> {
        let spec = SpecPart::read(&self.dir.join(SPEC_FILE))?;
        self.hooks = HostHooks::new(spec.hooks, spec.annotations, &self.config.id, &self.dir);
        let namespaces = Namespaces::plan(&spec.linux.namespaces)?;
        let (outcome, outcome_end) = pipe()?;
        let (report, report_end) = pipe()?;
        let (go_end, go) = pipe()?;
        // In a user namespace of its own, the container is made by a second child: see `child::enter_user_namespace`.
        let (into, two_steps) = match &namespaces.user {
            None => (namespaces.new, false),
            Some(_) => (LinuxNamespaceType::Mount as u32, true),
        };
        let (number, number_end) =
            if two_steps { pipe().map(|(read, write)| (Some(read), Some(write)))? } else { (None, None) };
        if let Some(path) = namespaces.joined_pid.as_ref().filter(|_| !two_steps) {
            // Counts for children only.
            namespace::enter(path, LinuxNamespaceType::Pid as u32)
                .map_err(|error| cannot(&format!("join the PID namespace {path:?}"), &error))?;
        }
        let ordered = watch::now();
        let forked = SingleThread::prove().and_then(|single| single.fork_into(into));
        let Fork::Parent(first) = forked.map_err(|error| cannot("make the container's namespaces", &error))? else {
            drop((outcome, report, go, number));
            let pipes = child::Pipes { outcome_end, report_end, go_end, number_end };
            child::run(&self.dir, &self.config, &namespaces, streams, pipes, ordered);
        };
        drop((outcome_end, report_end, go_end, number_end, streams));
        // The second child speaks only after the first has told its number.
        let (mut pid, mut number) = (first, number.map(Listener::new));
        let mut listener = Listener::new(outcome);
        loop {
            match listener.hear_for(caller).inspect_err(|_| end_maker(first))? {
                Ok(Outcome::Hooks) => {
                    // When one fails, the closed pipe ends init.
                    self.hooks.create_runtime(settle(&mut pid, &mut number)?, caller)?;
                    rustix::io::write(&go, b"h").map_err(|error| cannot("tell init to go on", &error.into()))?;
                }
                Ok(Outcome::Pid(_, took)) => {
                    let pid = settle(&mut pid, &mut number)?;
                    (self.report, self.go, self.pid) = (Some(report), Some(go), pid);
                    return Ok(Created { pid: Some(pid), took });
                }
                Ok(Outcome::Failure(failure)) => return Err(failure),
                Err(_) => return Err(RuntimeFailure::other("the container's first process died; see shim.log")),
            }
        }
    }

    fn start(&mut self, caller: Option<Caller<'_>>) -> Result<Option<u32>, RuntimeFailure> {
        let wrong = || RuntimeFailure::new(FailureKind::WrongState, "already started");
        let (report, go) = (self.report.take().ok_or_else(wrong)?, self.go.take().ok_or_else(wrong)?);
        // When init is gone, its report says why, or its end does.
        let _ = std::fs::File::from(go).write_all(b"!");
        let caller = caller.filter(|_| self.hooks.runs_at_start());
        // As with runc, a container whose hook fails does not run on.
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
        (self.report, self.go) = (None, None);
        let cgroup = self.cgroup()?;
        cgroup.signal_all(rustix::process::Signal::KILL.as_raw());
        // A frozen process does not die.
        if cgroup.is_frozen().unwrap_or(false) {
            let _ = cgroup.thaw();
        }
        cgroup.remove().map_err(|error| cannot("remove the cgroup", &error))
    }

    fn next_last_hook(&mut self) -> Option<LastHook> {
        self.hooks.next_poststop()
    }
}

/// What of a specification the shim itself needs; the rest is skipped, not built.
#[derive(Debug, Deserialize)]
struct SpecPart {
    linux: LinuxPart,
    #[serde(default)]
    hooks: Option<Hooks>,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct LinuxPart {
    #[serde(default)]
    namespaces: Vec<LinuxNamespace>,
}

impl SpecPart {
    fn read(path: &Path) -> Result<Self, RuntimeFailure> {
        let bytes = std::fs::read(path).map_err(|error| cannot("read the specification", &error))?;
        serde_json::from_slice(&bytes).map_err(|error| RuntimeFailure::other(format!("bad specification: {error}")))
    }
}

/// Which namespaces the container has.
#[derive(Debug)]
struct Namespaces {
    /// New ones to be forked into: `CLONE_NEW*` bits. The cgroup namespace comes later, when the process is in its cgroup, and so
    /// does that of time, which is none of `clone`'s.
    new: u32,
    new_cgroup: bool,
    new_time: bool,
    joined_pid: Option<PathBuf>,
    /// The user namespace to be joined. The new ones belong to it.
    user: Option<PathBuf>,
    /// The others to be joined.
    joined: Vec<(LinuxNamespaceType, PathBuf)>,
    /// Whether it has a host name of its own to set.
    own_uts: bool,
}

impl Namespaces {
    fn plan(namespaces: &[LinuxNamespace]) -> Result<Self, RuntimeFailure> {
        use LinuxNamespaceType as Kind;
        let refuse = |text: &str| Err(RuntimeFailure::new(FailureKind::CannotApply, text));
        let mut plan = Self {
            new: 0,
            new_cgroup: false,
            new_time: false,
            joined_pid: None,
            user: None,
            joined: Vec::new(),
            own_uts: false,
        };
        for namespace in namespaces {
            let kind = namespace.typ();
            match (kind, namespace.path()) {
                (Kind::User, Some(path)) => plan.user = Some(path.clone()),
                (Kind::User, None) => return refuse("a user namespace has to be made before, and joined by its path"),
                (Kind::Time, None) => plan.new_time = true,
                (Kind::Mount, Some(_)) => return refuse("a container needs mounts of its own"),
                (Kind::Cgroup, None) => plan.new_cgroup = true,
                (kind, None) => plan.new |= kind as u32,
                (Kind::Pid, Some(path)) => plan.joined_pid = Some(path.clone()),
                (kind, Some(path)) => plan.joined.push((kind, path.clone())),
            }
        }
        if plan.new & Kind::Mount as u32 == 0 {
            return refuse("a container needs mounts of its own");
        }
        plan.own_uts = plan.new & Kind::Uts as u32 != 0;
        Ok(plan)
    }
}

/// The number of the first process: that of the second child once it is told.
fn settle(pid: &mut u32, number: &mut Option<Listener>) -> Result<u32, RuntimeFailure> {
    if let Some(mut number) = number.take() {
        let Ok(Outcome::Pid(second, _)) = number.hear() else {
            return Err(RuntimeFailure::other("the process that made the container's first one died"));
        };
        *pid = second;
    }
    Ok(*pid)
}

fn cannot(what: &str, error: &std::io::Error) -> RuntimeFailure {
    RuntimeFailure::new(FailureKind::CannotApply, format!("cannot {what}: {error}"))
}
