//! The mounts of a container: dockerd's default ones, and those asked for.

use std::path::{Component, Path};

use oci_spec::runtime::{Mount, MountBuilder};

use super::{MountInput, MountKind, NamespaceMode, Propagation, Shm, SpecError, SpecInput};

/// Where the built-in init is mounted.
pub(crate) const INIT_PATH: &str = "/sbin/docker-init";

/// What dockerd hides.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What dockerd makes read-only.
pub const READ_ONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All mounts in the order in which they are made: default ones, then the others, parents first.
pub(super) fn plan(input: &SpecInput) -> Result<Vec<Mount>, SpecError> {
    let mut mounts = Vec::new();
    for mount in defaults(input)? {
        if !input.mounts.iter().any(|asked| clean(&asked.destination) == *mount.destination()) {
            mounts.push(mount);
        }
    }
    let mut asked: Vec<&MountInput> = input.mounts.iter().collect();
    asked.sort_by_key(|mount| mount.destination.components().count());
    for mount in asked {
        mounts.push(custom(mount)?);
    }
    if let Some(program) = &input.init {
        mounts.push(mount(
            INIT_PATH,
            "bind",
            &program.to_string_lossy(),
            &["bind", "ro", "rprivate", "nosuid", "nodev"],
        )?);
    }
    Ok(mounts)
}

fn defaults(input: &SpecInput) -> Result<Vec<Mount>, SpecError> {
    let write = |writable: bool| if writable { "rw" } else { "ro" };
    let (sys, cgroups) = (write(input.privileged), write(input.privileged || input.writable_cgroups));
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys])?,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[cgroups, "nosuid", "noexec", "nodev"])?,
    ];
    if input.ipc == NamespaceMode::Host {
        // A host that has no queues mounted has none to share.
        if Path::new("/dev/mqueue").exists() {
            mounts.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "nosuid", "noexec", "nodev"])?);
        }
    } else {
        mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?);
    }
    match &input.shm {
        Shm::Private { size_bytes } => {
            let size = format!("size={size_bytes}");
            mounts.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size])?);
        }
        Shm::Bind(path) => {
            mounts.push(mount("/dev/shm", "bind", &path.to_string_lossy(), &["rbind", "rprivate"])?);
        }
        Shm::None => {}
    }
    Ok(mounts)
}

fn custom(input: &MountInput) -> Result<Mount, SpecError> {
    let destination = clean(&input.destination);
    let refuse =
        |reason: &str| Err(SpecError::Mount { destination: input.destination.clone(), reason: reason.to_owned() });
    if !input.destination.is_absolute() {
        return refuse("the destination must be an absolute path");
    }
    if destination == Path::new("/") {
        return refuse("the destination can't be '/'");
    }
    if destination.starts_with("/proc") && !may_be_in_proc(&destination, &input.kind) {
        return refuse("nothing can be mounted over or inside /proc but the host's, and files that describe resources");
    }
    let destination = destination.to_string_lossy();
    match &input.kind {
        MountKind::Bind { source, recursive, propagation, read_only_non_recursive } => {
            if !source.is_absolute() {
                return refuse("the source must be an absolute path");
            }
            let mut options = vec![if *recursive { "rbind" } else { "bind" }];
            if input.read_only {
                options.push("ro");
                if *recursive && !read_only_non_recursive {
                    options.push("rro");
                }
            }
            options.push(propagation.unwrap_or(Propagation::RPrivate).option());
            mount(&destination, "bind", &source.to_string_lossy(), &options)
        }
        MountKind::Tmpfs { options } => {
            let mut all: Vec<&str> = vec!["noexec", "nosuid", "nodev"];
            all.extend(options.iter().flat_map(|option| option.split(',')).filter(|option| !option.is_empty()));
            if input.read_only {
                all.push("ro");
            }
            mount(&destination, "tmpfs", "tmpfs", &without_opposites(&all))
        }
    }
}

/// Files in `/proc` that tools such as lxcfs mount others over. The list is runc's.
pub(crate) const REPLACEABLE_IN_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Something else in place of `/proc` would let an image or a volume decide what the runtime's writes below it do
/// (CVE-2019-16884, CVE-2019-19921).
fn may_be_in_proc(destination: &Path, kind: &MountKind) -> bool {
    match kind {
        MountKind::Bind { source, .. } if destination == Path::new("/proc") => clean(source) == Path::new("/proc"),
        MountKind::Bind { .. } => REPLACEABLE_IN_PROC.iter().any(|path| destination == Path::new(path)),
        MountKind::Tmpfs { .. } => false,
    }
}

/// The last of two options that contradict each other wins, as for dockerd (`exec` after its default `noexec`).
fn without_opposites<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let opposite = |one: &str, other: &str| {
        one == other
            || one.strip_prefix("no") == Some(other)
            || other.strip_prefix("no") == Some(one)
            || matches!((one, other), ("ro", "rw") | ("rw", "ro"))
    };
    let kept = |(index, option): (usize, &&'a str)| {
        let later = &options[index + 1..];
        (!later.iter().any(|other| opposite(option, other))).then_some(*option)
    };
    options.iter().enumerate().filter_map(kept).collect()
}

/// What the root's propagation has to be so that the mounts can have theirs.
pub(super) fn root_propagation(input: &SpecInput) -> Option<&'static str> {
    let wanted = |kinds: [Propagation; 2]| {
        input
            .mounts
            .iter()
            .any(|mount| matches!(mount.kind, MountKind::Bind { propagation: Some(one), .. } if kinds.contains(&one)))
    };
    if wanted([Propagation::Shared, Propagation::RShared]) {
        Some("shared")
    } else if wanted([Propagation::Slave, Propagation::RSlave]) {
        Some("slave")
    } else {
        None
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount, SpecError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    Ok(MountBuilder::default().destination(destination).typ(kind).source(source).options(options).build()?)
}

/// Without `.`, `..` and doubled slashes.
fn clean(path: &Path) -> std::path::PathBuf {
    let mut clean = std::path::PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}
