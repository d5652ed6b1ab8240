//! The last steps of a container's process, from inside: filter, capabilities, and the program.
//!
//! libcontainer would compile the filter anew for each container and applies none to an exec; both come through here
//! instead. What fails is reported over a pipe that `execve` closes, so silence means that the program runs.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities as OciCapabilities, Hook, Hooks, Process};
use shoal_engine_sys::process::{self, Capabilities, Fork, SingleThread};
use shoal_engine_sys::{scheduling, signal};

use super::caller::{Caller, wait_patiently};
use super::capabilities;
use super::confine;
use super::hooks::{self, State};
use super::spec::INIT_PATH;
use crate::shim::init;
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// What the kernel and every shell take when there is no `PATH`.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything the last steps need, prepared while errors can still be told in peace.
#[derive(Debug)]
pub(crate) struct Launch {
    program: String,
    args: Vec<CString>,
    env: Vec<CString>,
    search_path: String,
    filter: Option<Vec<u8>>,
    capabilities: Capabilities,
    no_new_privileges: bool,
    report: OwnedFd,
    /// Be an init, and run the program as its child.
    init: Option<SingleThread>,
    hooks: Option<LastHooks>,
    /// Set by the process that becomes the program, after all forks.
    scheduler: Option<scheduling::Scheduler>,
}

/// What runs right before the program, and is told about the container.
#[derive(Debug)]
struct LastHooks {
    hooks: Vec<Hook>,
    id: String,
    bundle: PathBuf,
    annotations: Option<HashMap<String, String>>,
}

impl Launch {
    /// Prepares the launch of an OCI process under a compiled filter; failures will be written to `report`.
    pub(crate) fn new(process: &Process, filter: Option<Vec<u8>>, report: OwnedFd) -> Result<Self, RuntimeFailure> {
        let args = process.args().clone().unwrap_or_default();
        let Some(program) = args.first().cloned() else {
            return Err(RuntimeFailure::other("no command specified"));
        };
        let env = process.env().clone().unwrap_or_default();
        let search_path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
        let search_path = search_path.unwrap_or(DEFAULT_PATH).to_owned();
        let strings = |list: Vec<String>| -> Result<Vec<CString>, RuntimeFailure> {
            let string = |text: String| {
                CString::new(text).map_err(|_| RuntimeFailure::other("an argument or variable contains a null byte"))
            };
            list.into_iter().map(string).collect()
        };
        Ok(Self {
            program,
            args: strings(args)?,
            env: strings(env)?,
            search_path,
            filter,
            capabilities: sets(process),
            no_new_privileges: process.no_new_privileges() == Some(true),
            report,
            init: None,
            hooks: None,
            scheduler: None,
        })
    }

    /// Sets the process's scheduler as one of the last steps, if it is one that comes last.
    pub(crate) fn with_last_scheduler(mut self, process: &Process) -> Self {
        self.scheduler = confine::last_scheduler(process);
        self
    }

    /// Runs the hooks for the start before the program.
    pub(crate) fn after_hooks(
        mut self,
        hooks: &Hooks,
        id: &str,
        bundle: &Path,
        annotations: &Option<HashMap<String, String>>,
    ) -> Self {
        let of = |hooks: &Vec<Hook>| LastHooks {
            hooks: hooks.clone(),
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            annotations: annotations.clone(),
        };
        self.hooks = hooks.start_container().as_ref().map(of);
        self
    }

    /// Stays as an init, and runs the program as its child.
    pub(crate) fn below_init(mut self, single: SingleThread) -> Self {
        self.init = Some(single);
        self
    }

    /// Finds the program in the root file system that this process sees. Called before the container is said to be ready,
    /// so that a missing program fails the creation, as with runc.
    pub(crate) fn find(&self) -> Result<CString, RuntimeFailure> {
        if self.program.contains('/') {
            return check(Path::new(&self.program)).map_err(|error| self.refuse(&error));
        }
        let mut refused = None;
        for directory in self.search_path.split(':') {
            let directory = if directory.is_empty() { "." } else { directory };
            match check(&Path::new(directory).join(&self.program)) {
                Ok(found) => return Ok(found),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused = Some(error),
                Err(_) => {}
            }
        }
        match refused {
            Some(error) => Err(self.refuse(&error)),
            None => Err(RuntimeFailure::new(
                FailureKind::CommandNotFound,
                format!(
                    "unable to start container process: exec: {:?}: executable file not found in $PATH",
                    self.program
                ),
            )),
        }
    }

    fn refuse(&self, error: &io::Error) -> RuntimeFailure {
        let (kind, text) = match error.kind() {
            io::ErrorKind::NotFound => {
                (FailureKind::CommandNotFound, format!("stat {}: no such file or directory", self.program))
            }
            io::ErrorKind::PermissionDenied => (FailureKind::CommandNotExecutable, "permission denied".to_owned()),
            _ => (FailureKind::CommandNotExecutable, strip_number(error)),
        };
        RuntimeFailure::new(kind, format!("unable to start container process: exec: {:?}: {text}", self.program))
    }

    /// Tells the shim that it failed.
    pub(crate) fn report(&self, failure: &RuntimeFailure) {
        let Ok(bytes) = serde_json::to_vec(failure) else { return };
        let Ok(pipe) = self.report.try_clone() else { return };
        // Nobody is left to tell when this fails, too.
        let _ = std::fs::File::from(pipe).write_all(&bytes);
    }

    /// Runs the program in place of this process. Does not return: what fails is reported, and ends the process.
    pub(crate) fn run(&self) -> ! {
        let failure = match self.run_inner() {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        self.report(&failure);
        process::exit_now(failure.exit_code())
    }

    fn run_inner(&self) -> Result<std::convert::Infallible, RuntimeFailure> {
        signal::reset();
        if let Some(single) = &self.init {
            self.split(single)?;
        }
        // Closed, not just at execve: that opens the program first, whose path may lead through a descriptor.
        process::close_all_but(&[0, 1, 2, self.report.as_raw_fd()]).map_err(cannot("close descriptors"))?;
        if let Some(scheduler) = &self.scheduler {
            scheduler.apply().map_err(cannot("set the scheduler"))?;
        }
        self.confine()?;
        // A working directory that is not below the root would be a door to the host (CVE-2024-21626).
        let cwd =
            rustix::process::getcwd(Vec::new()).map_err(|error| cannot("tell the working directory")(error.into()))?;
        if !cwd.to_bytes().starts_with(b"/") {
            return Err(RuntimeFailure::new(
                FailureKind::CannotApply,
                "the working directory is outside of the container",
            ));
        }
        self.run_hooks()?;
        let path = self.find()?;
        Err(self.refuse(&process::execute(&path, &self.args, &self.env)))
    }

    /// Programs of the image, so they have no more rights than the program itself.
    fn run_hooks(&self) -> Result<(), RuntimeFailure> {
        let Some(LastHooks { hooks, id, bundle, annotations }) = &self.hooks else { return Ok(()) };
        let pid = Some(std::process::id());
        let state = State { id, bundle, status: "created", pid, annotations: annotations.as_ref() };
        hooks::run("startContainer", Some(hooks), &state, None)
    }

    /// Takes what the program must not have.
    fn confine(&self) -> Result<(), RuntimeFailure> {
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(|error| cannot("set no_new_privs")(error.into()))?;
        }
        // Without no-new-privileges a filter needs CAP_SYS_ADMIN, which the next step takes; with it, the filter comes last.
        if !self.no_new_privileges {
            self.install_filter().map_err(cannot("install the seccomp filter"))?;
        }
        process::set_capabilities(&self.capabilities).map_err(cannot("set the capabilities"))?;
        if self.no_new_privileges {
            self.install_filter().map_err(cannot("install the seccomp filter"))?;
        }
        Ok(())
    }

    /// Returns in a child that is to become the program; this process becomes its init, as confined as the program.
    fn split(&self, single: &SingleThread) -> Result<(), RuntimeFailure> {
        let signals = signal::AllSignals::open().map_err(cannot("hear signals"))?;
        let Fork::Parent(child) = single.fork().map_err(cannot("fork below the init"))? else {
            signal::reset();
            init::take_terminal();
            return Ok(());
        };
        let mut title: Vec<&[u8]> = vec![INIT_PATH.as_bytes(), b"--"];
        title.extend(self.args.iter().map(|word| word.as_bytes()));
        // Only for whoever reads `ps`.
        let _ = process::set_title(&title);
        let _ = rustix::thread::set_name(c"docker-init");
        self.confine()?;
        // Its report has to end when the program is executed, and no descriptor of the host's may stay.
        process::close_all_but(&[0, 1, 2, signals.as_fd().as_raw_fd()]).map_err(cannot("close descriptors"))?;
        process::exit_now(init::supervise(child, signals).unwrap_or(1))
    }

    fn install_filter(&self) -> io::Result<()> {
        self.filter.as_deref().map_or(Ok(()), process::install_syscall_filter)
    }
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> RuntimeFailure {
    move |error| RuntimeFailure::new(FailureKind::CannotApply, format!("cannot {what}: {error}"))
}

/// Whether it can be executed, as far as its mode tells.
fn check(path: &Path) -> io::Result<CString> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The kernel's text without Rust's `(os error 8)`, in lower case as Go prints it.
fn strip_number(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn sets(process: &Process) -> Capabilities {
    let Some(wanted) = process.capabilities() else { return Capabilities::default() };
    let bits = |set: &Option<OciCapabilities>| -> u64 {
        let names: Vec<String> = set.iter().flatten().map(name).collect();
        capabilities::bits(names.iter().map(String::as_str))
    };
    Capabilities {
        bounding: bits(wanted.bounding()),
        permitted: bits(wanted.permitted()),
        effective: bits(wanted.effective()),
        inheritable: bits(wanted.inheritable()),
        ambient: bits(wanted.ambient()),
    }
}

fn name(capability: &oci_spec::runtime::Capability) -> String {
    match serde_json::to_value(capability) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// What was reported on the other end of a pipe: nothing when it was closed in silence.
pub(crate) fn read_report(pipe: OwnedFd, caller: Option<Caller<'_>>) -> Result<(), RuntimeFailure> {
    if caller.is_some() {
        // What is written there is written at once.
        wait_patiently(pipe.as_fd(), caller)?;
    }
    let mut bytes = Vec::new();
    let read = io::Read::read_to_end(&mut std::fs::File::from(pipe), &mut bytes);
    if bytes.is_empty() {
        return read.map(|_| ()).map_err(|error| RuntimeFailure::other(format!("cannot read the report: {error}")));
    }
    let text = String::from_utf8_lossy(&bytes);
    Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| RuntimeFailure::other(text)))
}
