//! The container's first process, from its fork to its program.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{Hooks, Linux, LinuxNamespaceType, LinuxResources, LinuxTimeOffset, Process, Spec};
use shoal_engine_sys::fs::Directory;
use shoal_engine_sys::namespace::TimeOffsets;
use shoal_engine_sys::process::Fork;
use shoal_engine_sys::user_namespace::UserNamespace;
use shoal_engine_sys::{namespace, process, pty};

use super::rootfs::{self, Root, attach, clone_handle};
use super::stage::Stage;
use super::watch::Watch;
use super::{Namespaces, cannot};
use crate::cgroup::{self, Cgroup};
use crate::runtime::bundle::{INIT_ANNOTATION, resource_number};
use crate::runtime::confine::{apply_to_self, last_scheduler, may_fork, set_personality, take_pipes};
use crate::runtime::exec::{connect, read_filter};
use crate::runtime::launch::Launch;
use crate::runtime::{ChildStreams, Outcome, hooks, tell};
use crate::shim::config::{SPEC_FILE, ShimConfig};
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// The pipes between it and the shim.
pub(super) struct Pipes {
    /// Tells that the container is ready, or why not.
    pub(super) outcome_end: OwnedFd,
    /// Tells why the program could not be executed.
    pub(super) report_end: OwnedFd,
    /// Gives the word to go.
    pub(super) go_end: OwnedFd,
    /// Tells the number of the second child, if there is one; the first tells it.
    pub(super) number_end: Option<OwnedFd>,
}

impl Pipes {
    /// Waits for a word to go on.
    fn wait(&self) -> io::Result<()> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.go_end, &mut [0]))? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Builds the container around this process, waits for the start, and becomes the program. `ordered` is when the process
/// was asked for.
pub(super) fn run(
    dir: &Path,
    config: &ShimConfig,
    namespaces: &Namespaces,
    streams: ChildStreams,
    mut pipes: Pipes,
    ordered: Duration,
) -> ! {
    let mut watch = Watch::new(ordered);
    let launch = match build(dir, config, namespaces, streams, &mut pipes, &mut watch) {
        Ok(launch) => launch,
        Err(failure) => {
            let code = failure.exit_code();
            // When nobody hears it, the shim is gone, and with it the interest.
            let _ = tell(&pipes.outcome_end, &Outcome::Failure(failure));
            process::exit_now(code);
        }
    };
    let told = tell(&pipes.outcome_end, &Outcome::Pid(std::process::id(), Some(watch.took)));
    // The end of the pipe without a word: the shim ended, or does not want this container any more.
    if told.and_then(|()| pipes.wait()).is_err() {
        process::exit_now(1);
    }
    launch.run()
}

/// The last steps, and the hooks that come before them.
fn build(
    dir: &Path,
    config: &ShimConfig,
    namespaces: &Namespaces,
    streams: ChildStreams,
    pipes: &mut Pipes,
    watch: &mut Watch,
) -> Result<Launch, RuntimeFailure> {
    let spec = read_spec(dir)?;
    let (Some(oci), Some(linux)) = (spec.process(), spec.linux()) else {
        return Err(RuntimeFailure::other("the specification has no process, or is not for Linux"));
    };
    refuse_unsupported(oci, linux, namespaces.user.is_some())?;
    rootfs::check(linux)?;
    let report = pipes.report_end.try_clone().map_err(|error| cannot("keep the pipe for reports", &error))?;
    let mut launch = Launch::new(oci, read_filter(dir)?, report)?.with_last_scheduler(oci);
    if spec.annotations().as_ref().is_some_and(|annotations| annotations.contains_key(INIT_ANNOTATION)) {
        let single = process::SingleThread::prove().map_err(|error| cannot("be an init", &error))?;
        launch = launch.below_init(single);
    }
    apply_to_self(oci)?;
    set_personality(linux.personality().as_ref())?;
    // Whoever shares a namespace with this process must not reach into it while it holds the host's descriptors.
    process::hide_from_tracers().map_err(|error| cannot("hide from tracers", &error))?;
    watch.took.specification_ns = watch.lap();
    enter_cgroup(config, linux)?;
    watch.took.cgroup_ns = watch.lap();
    let console = match &streams {
        ChildStreams::Terminal { console_socket } => Some(connect(console_socket)?),
        ChildStreams::Pipes { .. } => None,
    };
    join_namespaces(namespaces)?;
    let root = match &namespaces.user {
        None => {
            if let Some(offsets) = time_offsets(namespaces, linux)? {
                watch.pause();
                own_clocks(&offsets).map_err(|error| cannot("make a time namespace", &error))?;
                watch.go_on();
            }
            own_namespaces(namespaces, &spec)?;
            Root::mount(config, &spec, linux)?
        }
        Some(path) => {
            set_limits(oci)?;
            let user = UserNamespace::open(path)
                .map_err(|error| cannot(&format!("open the user namespace {path:?}"), &error))?;
            Stage::set(config, &spec, linux, &user)?;
            watch.pause();
            enter_user_namespace(&user, namespaces, time_offsets(namespaces, linux)?, pipes.number_end.take())?;
            if namespaces.new_time {
                watch.go_on();
            }
            own_namespaces(namespaces, &spec)?;
            Root::of_stage(Stage::found().map_err(|error| cannot("find the host's mounts again", &error))?)?
        }
    };
    rustix::process::setsid().map_err(|error| cannot("begin a session", &error.into()))?;
    root.furnish(config, &spec, linux)?;
    if let Some(hooks) = spec.hooks() {
        if hooks.start_container().is_some() && !may_fork(oci) {
            let text =
                "startContainer hooks cannot be run by a process of the deadline scheduler, which may have no children";
            return Err(RuntimeFailure::new(FailureKind::CannotApply, text));
        }
        run_hooks(dir, config, &spec, hooks, pipes)?;
        launch = launch.after_hooks(hooks, &config.id, dir, spec.annotations());
    }
    root.enter(linux).map_err(|error| cannot("enter the root file system", &error))?;
    drop(root);
    watch.took.mounts_ns = watch.lap();
    let inside = Directory::open(Path::new("/")).map_err(|error| cannot("open the root", &error))?;
    match streams {
        ChildStreams::Pipes { stdin, stdout, stderr } => {
            take_pipes(&inside, &stdin, &stdout, &stderr).map_err(|error| cannot("set up the streams", &error))?
        }
        ChildStreams::Terminal { .. } => {
            let console = console.ok_or_else(|| RuntimeFailure::other("no console socket"))?;
            take_terminal(&inside, oci, &console)?;
        }
    }
    become_user(&inside, oci)?;
    launch.find()?;
    watch.took.user_ns = watch.lap();
    Ok(launch)
}

/// Those on the host, by the shim, and those in the container's namespaces.
fn run_hooks(dir: &Path, config: &ShimConfig, spec: &Spec, hooks: &Hooks, pipes: &Pipes) -> Result<(), RuntimeFailure> {
    if hooks::has_create_runtime(hooks) {
        let told = tell(&pipes.outcome_end, &Outcome::Hooks).and_then(|()| pipes.wait());
        told.map_err(|error| cannot("wait for the hooks", &error))?;
    }
    let state = hooks::State {
        id: &config.id,
        bundle: dir,
        status: "creating",
        pid: Some(std::process::id()),
        annotations: spec.annotations().as_ref(),
    };
    hooks::run("createContainer", hooks.create_container().as_deref(), &state, None)
}

pub(crate) fn read_spec(dir: &Path) -> Result<Spec, RuntimeFailure> {
    let bytes = std::fs::read(dir.join(SPEC_FILE)).map_err(|error| cannot("read the specification", &error))?;
    serde_json::from_slice(&bytes).map_err(|error| RuntimeFailure::other(format!("bad specification: {error}")))
}

/// Fails closed: what is not done here is not promised.
pub(super) fn refuse_unsupported(oci: &Process, linux: &Linux, joins_user: bool) -> Result<(), RuntimeFailure> {
    // What says how a namespace that exists is mapped is only for other runtimes.
    let maps = !joins_user && (linux.uid_mappings().is_some() || linux.gid_mappings().is_some());
    let label = |label: &Option<String>| label.as_deref().is_some_and(|label| !label.is_empty());
    let asked = [
        ("an SELinux label", label(oci.selinux_label()) || label(linux.mount_label())),
        ("CPU affinity of execs", oci.exec_cpu_affinity().is_some()),
        ("user mappings", maps),
        ("a scheduler that children do not inherit, in a user namespace", joins_user && last_scheduler(oci).is_some()),
        ("Intel RDT", linux.intel_rdt().is_some()),
        ("network devices", linux.net_devices().is_some()),
        ("a memory policy", linux.memory_policy().is_some()),
        ("a seccomp profile that was not compiled", linux.seccomp().is_some()),
        ("network priorities", linux.resources().as_ref().is_some_and(|resources| resources.network().is_some())),
        ("RDMA limits", linux.resources().as_ref().is_some_and(|resources| resources.rdma().is_some())),
        ("unified cgroup settings", linux.resources().as_ref().is_some_and(|resources| resources.unified().is_some())),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => {
            let text = format!("the specification asks for {what}, which the built-in runtime does not do");
            Err(RuntimeFailure::new(FailureKind::CannotApply, text))
        }
        None => Ok(()),
    }
}

/// Makes the cgroup and goes into it, before anything is used that counts.
pub(crate) fn enter_cgroup(config: &ShimConfig, linux: &Linux) -> Result<(), RuntimeFailure> {
    let none = LinuxResources::default();
    let cgroup = Cgroup::open(&config.cgroup).map_err(|error| cannot("use cgroups", &error))?;
    cgroup::create::create(&cgroup, linux.resources().as_ref().unwrap_or(&none))
        .map_err(|error| RuntimeFailure::new(FailureKind::CannotApply, shoal_proto::error::chain(&error)))?;
    let entered = process::SingleThread::prove().and_then(|single| cgroup.enter(&single));
    entered.map_err(|error| cannot("enter the cgroup", &error))
}

fn join_namespaces(namespaces: &Namespaces) -> Result<(), RuntimeFailure> {
    for (kind, path) in &namespaces.joined {
        namespace::enter(path, *kind as u32)
            .map_err(|error| cannot(&format!("join the {} namespace {path:?}", kind_name(*kind)), &error))?;
    }
    Ok(())
}

/// Goes into the user namespace and makes the new ones there, with the rights of the host no more. Returns in a second child,
/// which is the shim's own and in the right PID namespace: this one's own cannot change, and ends.
fn enter_user_namespace(
    user: &UserNamespace,
    namespaces: &Namespaces,
    time_offsets: Option<String>,
    number: Option<OwnedFd>,
) -> Result<(), RuntimeFailure> {
    let no_clocks = |error: io::Error| cannot("make a time namespace", &error);
    let clocks = time_offsets.map(|offsets| TimeOffsets::open().map(|place| (place, offsets)));
    let clocks = clocks.transpose().map_err(no_clocks)?;
    if let Some(path) = &namespaces.joined_pid {
        // Counts for children only.
        namespace::enter(path, LinuxNamespaceType::Pid as u32)
            .map_err(|error| cannot(&format!("join the PID namespace {path:?}"), &error))?;
    }
    user.enter().map_err(|error| cannot("enter the user namespace", &error))?;
    let new_pid = namespaces.new & LinuxNamespaceType::Pid as u32;
    let rest = namespaces.new & !new_pid;
    namespace::new_namespaces(rest).map_err(|error| cannot("make the container's namespaces", &error))?;
    if let Some((place, offsets)) = clocks {
        // The second child has them from the beginning.
        place.make(&offsets).map_err(no_clocks)?;
    }
    let forked = process::SingleThread::prove().and_then(|single| single.fork_sibling_into(new_pid));
    match forked.map_err(|error| cannot("make the container's first process", &error))? {
        // With its end of the pipe: should the first die before it tells, the shim hears that.
        Fork::Child => {
            drop(number);
            Ok(())
        }
        Fork::Parent(pid) => {
            let told = number.is_some_and(|number| tell(&number, &Outcome::Pid(pid, None)).is_ok());
            process::exit_now(i32::from(!told))
        }
    }
}

/// The offsets of a time namespace of its own, as the kernel takes them; none without such a namespace.
fn time_offsets(namespaces: &Namespaces, linux: &Linux) -> Result<Option<String>, RuntimeFailure> {
    let offsets = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty());
    if namespaces.new_time {
        let line = |(clock, offset): (&String, &LinuxTimeOffset)| {
            format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
        };
        return Ok(Some(offsets.into_iter().flatten().map(line).collect()));
    }
    match offsets {
        None => Ok(None),
        Some(_) => {
            let text = "time offsets need a time namespace of the container's own";
            Err(RuntimeFailure::new(FailureKind::CannotApply, text))
        }
    }
}

/// Gives this process clocks of its own.
fn own_clocks(offsets: &str) -> io::Result<()> {
    TimeOffsets::open()?.make(offsets)?;
    namespace::enter_clocks_of_children()
}

/// Makes the cgroup namespace, and gives names to the new ones.
fn own_namespaces(namespaces: &Namespaces, spec: &Spec) -> Result<(), RuntimeFailure> {
    if namespaces.new_cgroup {
        namespace::new_cgroup_namespace().map_err(|error| cannot("make a cgroup namespace", &error))?;
    }
    if namespaces.own_uts {
        if let Some(name) = spec.hostname() {
            rustix::system::sethostname(name.as_bytes())
                .map_err(|error| cannot(&format!("set the host name {name:?}"), &error.into()))?;
        }
        if let Some(name) = spec.domainname() {
            rustix::system::setdomainname(name.as_bytes())
                .map_err(|error| cannot(&format!("set the domain name {name:?}"), &error.into()))?;
        }
    }
    Ok(())
}

fn kind_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Ipc => "IPC",
        LinuxNamespaceType::Uts => "UTS",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Time => "time",
        _ => "other",
    }
}

/// A terminal of the container's own devpts. It is `/dev/console`, too.
fn take_terminal(inside: &Directory, oci: &Process, console: &UnixStream) -> Result<(), RuntimeFailure> {
    let (master, slave) = pty::open().map_err(|error| cannot("open a terminal", &error))?;
    let mount = || -> io::Result<()> {
        let place = match inside.open_any(Path::new("/dev/console"), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dev = inside.open_dir(Path::new("/dev"))?;
                OwnedFd::from(dev.create_file(std::ffi::OsStr::new("console"), 0o666)?)
            }
            found => found?,
        };
        attach(clone_handle(&slave)?, place)
    };
    mount().map_err(|error| cannot("make /dev/console", &error))?;
    rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(oci.user().uid())), None)
        .map_err(|error| cannot("own the terminal", &error.into()))?;
    pty::send_descriptor(console, &master).map_err(|error| cannot("hand over the terminal", &error))?;
    pty::take_over(&slave).map_err(|error| cannot("take over the terminal", &error))
}

/// In a user namespace they can be lowered only.
fn set_limits(oci: &Process) -> Result<(), RuntimeFailure> {
    for rlimit in oci.rlimits().iter().flatten() {
        process::set_resource_limit(resource_number(rlimit.typ()), rlimit.soft(), rlimit.hard())
            .map_err(|error| cannot(&format!("set {}", rlimit.typ()), &error))?;
    }
    Ok(())
}

/// Limits, working directory, user: the last things that need more rights than the program will have.
fn become_user(inside: &Directory, oci: &Process) -> Result<(), RuntimeFailure> {
    set_limits(oci)?;
    let user = oci.user();
    if let Some(mask) = user.umask() {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    // Made when it is missing, as runc does. Never through a magic link such as /proc/self/fd (CVE-2024-21626).
    let cwd = inside.make_place(oci.cwd(), 0o755);
    let cwd = cwd.map_err(|error| cannot(&format!("change to the working directory {:?}", oci.cwd()), &error))?;
    rustix::process::fchdir(&cwd).map_err(|error| cannot("change to the working directory", &error.into()))?;
    let groups = user.additional_gids().clone().unwrap_or_default();
    process::become_user(user.uid(), user.gid(), &groups).map_err(|error| cannot("become the user", &error))
}
