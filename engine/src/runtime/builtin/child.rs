//! The container's first process, from its fork to its program.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, LinuxResources, Process, Spec};
use shoal_engine_sys::fs::Directory;
use shoal_engine_sys::process::Fork;
use shoal_engine_sys::user_namespace::UserNamespace;
use shoal_engine_sys::{namespace, process, pty};

use super::rootfs::{self, Root, attach, clone_handle};
use super::stage::Stage;
use super::{Namespaces, cannot, hooks};
use crate::cgroup::{self, Cgroup};
use crate::runtime::bundle::{INIT_ANNOTATION, resource_number};
use crate::runtime::confine::{apply_to_self, take_pipes};
use crate::runtime::exec::{connect, read_filter};
use crate::runtime::launch::Launch;
use crate::runtime::{ChildStreams, Outcome, tell};
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
    /// Tells the number of the second child, if there is one.
    pub(super) number_end: OwnedFd,
}

/// Builds the container around this process, waits for the start, and becomes the program.
pub(super) fn run(dir: &Path, config: &ShimConfig, namespaces: &Namespaces, streams: ChildStreams, pipes: Pipes) -> ! {
    let Pipes { outcome_end, report_end, go_end, number_end } = pipes;
    let (launch, hooks) = match build(dir, config, namespaces, streams, (report_end, number_end)) {
        Ok(built) => built,
        Err(failure) => {
            let code = failure.exit_code();
            // When nobody hears it, the shim is gone, and with it the interest.
            let _ = tell(outcome_end, &Outcome::Failure(failure));
            process::exit_now(code);
        }
    };
    if tell(outcome_end, &Outcome::Pid(std::process::id())).is_err() {
        process::exit_now(1);
    }
    // The end of the pipe without a word: the shim ended, or does not want this container any more.
    if std::fs::File::from(go_end).read_exact(&mut [0]).is_err() {
        process::exit_now(1);
    }
    let state = hooks::State { config, bundle: dir, status: "created" };
    if let Err(failure) = hooks::run("startContainer", hooks.as_deref(), &state) {
        launch.report(&failure);
        process::exit_now(failure.exit_code());
    }
    launch.run()
}

/// The last steps, and the hooks that come before them.
fn build(
    dir: &Path,
    config: &ShimConfig,
    namespaces: &Namespaces,
    streams: ChildStreams,
    (report, number): (OwnedFd, OwnedFd),
) -> Result<(Launch, Option<Vec<Hook>>), RuntimeFailure> {
    let spec = read_spec(dir)?;
    let (Some(oci), Some(linux)) = (spec.process(), spec.linux()) else {
        return Err(RuntimeFailure::other("the specification has no process, or is not for Linux"));
    };
    refuse_unsupported(&spec, oci, linux, namespaces.user.is_some())?;
    rootfs::check(linux)?;
    let mut launch = Launch::new(oci, read_filter(dir)?, report)?;
    if spec.annotations().as_ref().is_some_and(|annotations| annotations.contains_key(INIT_ANNOTATION)) {
        let single = process::SingleThread::prove().map_err(|error| cannot("be an init", &error))?;
        launch = launch.below_init(single);
    }
    apply_to_self(oci)?;
    // Whoever shares a namespace with this process must not reach into it while it holds the host's descriptors.
    process::hide_from_tracers().map_err(|error| cannot("hide from tracers", &error))?;
    enter_cgroup(config, linux)?;
    let console = match &streams {
        ChildStreams::Terminal { console_socket } => Some(connect(console_socket)?),
        ChildStreams::Pipes { .. } => None,
    };
    join_namespaces(namespaces)?;
    let root = match &namespaces.user {
        None => {
            own_namespaces(namespaces, &spec)?;
            Root::mount(config, &spec, linux)?
        }
        Some(path) => {
            set_limits(oci)?;
            Stage::set(config, &spec, linux)?;
            enter_user_namespace(path, namespaces, number)?;
            own_namespaces(namespaces, &spec)?;
            Root::of_stage(Stage::found().map_err(|error| cannot("find the host's mounts again", &error))?)?
        }
    };
    rustix::process::setsid().map_err(|error| cannot("begin a session", &error.into()))?;
    root.furnish(config, &spec, linux)?;
    let last_hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().clone());
    if let Some(hooks) = spec.hooks() {
        let state = hooks::State { config, bundle: dir, status: "creating" };
        hooks::run("createContainer", hooks.create_container().as_deref(), &state)?;
    }
    root.enter(linux).map_err(|error| cannot("enter the root file system", &error))?;
    drop(root);
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
    Ok((launch, last_hooks))
}

fn read_spec(dir: &Path) -> Result<Spec, RuntimeFailure> {
    let bytes = std::fs::read(dir.join(SPEC_FILE)).map_err(|error| cannot("read the specification", &error))?;
    serde_json::from_slice(&bytes).map_err(|error| RuntimeFailure::other(format!("bad specification: {error}")))
}

/// Fails closed: what is not done here is not promised.
pub(super) fn refuse_unsupported(
    spec: &Spec,
    oci: &Process,
    linux: &Linux,
    joins_user: bool,
) -> Result<(), RuntimeFailure> {
    // What says how a namespace that exists is mapped is only for other runtimes.
    let maps = !joins_user && (linux.uid_mappings().is_some() || linux.gid_mappings().is_some());
    let label = |label: &Option<String>| label.as_deref().is_some_and(|label| !label.is_empty());
    let asked = [
        ("hooks in the namespaces of the host", spec.hooks().as_ref().is_some_and(hooks::has_others)),
        ("an SELinux label", label(oci.selinux_label()) || label(linux.mount_label())),
        ("a scheduler", oci.scheduler().is_some()),
        ("an I/O priority", oci.io_priority().is_some()),
        ("CPU affinity of execs", oci.exec_cpu_affinity().is_some()),
        ("user mappings", maps),
        ("Intel RDT", linux.intel_rdt().is_some()),
        ("a personality", linux.personality().is_some()),
        ("time offsets", linux.time_offsets().is_some()),
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
fn enter_cgroup(config: &ShimConfig, linux: &Linux) -> Result<(), RuntimeFailure> {
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
fn enter_user_namespace(path: &Path, namespaces: &Namespaces, number: OwnedFd) -> Result<(), RuntimeFailure> {
    let user =
        UserNamespace::open(path).map_err(|error| cannot(&format!("open the user namespace {path:?}"), &error))?;
    if let Some(path) = &namespaces.joined_pid {
        // Counts for children only.
        namespace::enter(path, LinuxNamespaceType::Pid as u32)
            .map_err(|error| cannot(&format!("join the PID namespace {path:?}"), &error))?;
    }
    user.enter().map_err(|error| cannot("enter the user namespace", &error))?;
    let new_pid = namespaces.new & LinuxNamespaceType::Pid as u32;
    let rest = namespaces.new & !new_pid;
    namespace::new_namespaces(rest).map_err(|error| cannot("make the container's namespaces", &error))?;
    let forked = process::SingleThread::prove().and_then(|single| single.fork_sibling_into(new_pid));
    match forked.map_err(|error| cannot("make the container's first process", &error))? {
        Fork::Child => Ok(()),
        Fork::Parent(pid) => process::exit_now(i32::from(tell(number, &Outcome::Pid(pid)).is_err())),
    }
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
    let cwd = inside.make_path(oci.cwd(), 0o755);
    let cwd = cwd.map_err(|error| cannot(&format!("change to the working directory {:?}", oci.cwd()), &error))?;
    rustix::process::fchdir(&cwd).map_err(|error| cannot("change to the working directory", &error.into()))?;
    let groups = user.additional_gids().clone().unwrap_or_default();
    process::become_user(user.uid(), user.gid(), &groups).map_err(|error| cannot("become the user", &error))
}
