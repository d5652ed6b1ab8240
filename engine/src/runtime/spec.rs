//! A container's OCI runtime specification as a value, built from a plain description.
//!
//! What the description asks for and cannot be expressed, or contradicts itself, is an error here; nothing is dropped.

mod build;
mod devices;
mod mounts;
mod process;
mod sysctl;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use build::build;
pub(crate) use mounts::{INIT_PATH, REPLACEABLE_IN_PROC};
pub use mounts::{MASKED_PATHS, READ_ONLY_PATHS};
pub use process::{ExecBasis, exec_process};

use super::seccomp::Profile;
use super::user::ContainerUser;
use crate::cgroup::limits::Limits;
use crate::remap::IdMap;

/// What a container is to be. Everything is resolved: users to numbers, volumes to paths, container names to namespaces.
#[derive(Debug, Clone, Default)]
pub struct SpecInput {
    /// The container's id.
    pub id: String,
    /// Its root file system on the host.
    pub rootfs: PathBuf,
    /// Mount the root read-only.
    pub read_only_root: bool,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`; `HOME` is added from the user when it is missing, `HOSTNAME` and `TERM` are the caller's business.
    pub env: Vec<String>,
    /// Working directory inside the container; empty means `/`.
    pub cwd: String,
    /// Who the process runs as.
    pub user: ContainerUser,
    /// Whether its streams are a terminal.
    pub terminal: bool,
    /// The host name; empty keeps the kernel's.
    pub hostname: String,
    /// The NIS domain name.
    pub domainname: String,
    /// Capabilities beyond and below the default.
    pub capabilities: CapabilityChange,
    /// The system call filter.
    pub seccomp: SeccompChoice,
    /// AppArmor profile, where the host has AppArmor.
    pub apparmor_profile: Option<String>,
    /// Paths that are hidden; `None` is the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are made read-only; `None` is the default list.
    pub read_only_paths: Option<Vec<String>>,
    /// Whether it may make cgroups below its own.
    pub writable_cgroups: bool,
    /// Whether `execve` may never grant more than the process has.
    pub no_new_privileges: bool,
    /// All capabilities, all devices, no filter, nothing masked.
    pub privileged: bool,
    /// Mounts beyond the default ones; one on the same destination replaces the default.
    pub mounts: Vec<MountInput>,
    /// What `/dev/shm` is.
    pub shm: Shm,
    /// Whose network it is in.
    pub network: NamespaceMode,
    /// The user namespace that it is in, and its ids; `None` is the host's.
    pub user_namespace: Option<(PathBuf, IdMap)>,
    /// Set the network sysctls that dockerd sets: ports below 1024 and ping for every user.
    pub default_network_sysctls: bool,
    /// Whose System V IPC and POSIX queues it sees.
    pub ipc: NamespaceMode,
    /// Whose processes it sees.
    pub pid: NamespaceMode,
    /// Whose host name it has.
    pub uts: NamespaceMode,
    /// Whose cgroups it sees.
    pub cgroup_namespace: NamespaceMode,
    /// Resource limits of the process, by Docker's names (`nofile`).
    pub ulimits: Vec<UlimitInput>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// How likely the kernel kills it when memory runs out.
    pub oom_score_adj: Option<i32>,
    /// Devices of the host.
    pub devices: Vec<DeviceInput>,
    /// Cgroup device rules as Docker writes them: `c 42:* rmw`.
    pub device_cgroup_rules: Vec<String>,
    /// Run the program below an init. The runtimes inside the shim are that themselves; a runtime binary runs this static
    /// program of the host, with `--` and the program's words as arguments.
    pub init: Option<PathBuf>,
    /// Annotations for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Its cgroup below the root of each hierarchy: `/shoal/<id>`.
    pub cgroup: String,
    /// What it may use.
    pub limits: Limits,
}

/// Capabilities by name, with or without `CAP_`, in any case; `ALL` is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapabilityChange {
    /// To be had in addition.
    pub add: Vec<String>,
    /// Not to be had.
    pub drop: Vec<String>,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Default)]
pub enum SeccompChoice {
    /// The default profile.
    #[default]
    Default,
    /// All of them.
    Unconfined,
    /// What this profile says.
    Profile(std::sync::Arc<Profile>),
}

/// Where a namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NamespaceMode {
    /// A new one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// The one that this path refers to.
    Join(PathBuf),
}

/// What `/dev/shm` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shm {
    /// A tmpfs of so many bytes.
    Private {
        /// Its size.
        size_bytes: u64,
    },
    /// This directory on the host (another container's, or `/dev/shm`).
    Bind(PathBuf),
    /// Nothing is mounted (`--ipc none`).
    None,
}

impl Default for Shm {
    fn default() -> Self {
        Self::Private { size_bytes: 64 << 20 }
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInput {
    /// Where in the container.
    pub destination: PathBuf,
    /// Whether it can be written.
    pub read_only: bool,
    /// What is mounted.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file or directory of the host (also a volume's).
    Bind {
        /// The file or directory.
        source: PathBuf,
        /// Whether mounts below it come along.
        recursive: bool,
        /// How mounts propagate; `None` is `rprivate`.
        propagation: Option<Propagation>,
        /// With `read_only`: only the mount itself, not those below it.
        read_only_non_recursive: bool,
    },
    /// Memory.
    Tmpfs {
        /// `size=64m`, `mode=1777`, `exec`, ... as mount(8) writes them; dockerd's defaults come first.
        options: Vec<String>,
    },
}

/// How mounts propagate between the host and a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Not at all, also below.
    RPrivate,
    /// Into the container.
    Slave,
    /// Into the container, also below.
    RSlave,
    /// Both ways.
    Shared,
    /// Both ways, also below.
    RShared,
}

impl Propagation {
    /// The mount option.
    pub fn option(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::RPrivate => "rprivate",
            Self::Slave => "slave",
            Self::RSlave => "rslave",
            Self::Shared => "shared",
            Self::RShared => "rshared",
        }
    }

    /// The propagation with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Private, Self::RPrivate, Self::Slave, Self::RSlave, Self::Shared, Self::RShared]
            .into_iter()
            .find(|one| one.option() == name)
    }
}

/// One resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UlimitInput {
    /// Docker's name: `nofile`, `nproc`, `core`, ...
    pub name: String,
    /// What the process starts with; -1: unlimited.
    pub soft: i64,
    /// What it may raise it to; -1: unlimited.
    pub hard: i64,
}

/// One device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInput {
    /// A device, or a directory of devices, on the host.
    pub path_on_host: PathBuf,
    /// Where in the container; empty: the same.
    pub path_in_container: PathBuf,
    /// Of `r`, `w` and `m`; empty: all.
    pub permissions: String,
}

/// What a description asks for that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// There is no program to run.
    #[error("no command specified")]
    NoCommand,
    /// The working directory is not absolute.
    #[error("the working directory '{0}' is invalid, it needs to be an absolute path")]
    RelativeWorkingDirectory(String),
    /// There is no such capability.
    #[error("invalid capability: \"{0}\"")]
    UnknownCapability(String),
    /// There is no such resource limit.
    #[error("invalid ulimit type: {0}")]
    UnknownUlimit(String),
    /// The limits contradict each other.
    #[error("ulimit {name}: soft limit {soft} must be less than or equal to hard limit {hard}")]
    UlimitOrder {
        /// The limit's name.
        name: String,
        /// The soft limit.
        soft: i64,
        /// The hard limit.
        hard: i64,
    },
    /// A kernel parameter that no namespace of the container owns, or that is not one.
    #[error("{0}")]
    Sysctl(String),
    /// A device that is not there or not a device.
    #[error("error gathering device information while adding custom device {path:?}")]
    Device {
        /// The device.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A device rule that is not one.
    #[error("invalid device cgroup rule format: '{0}'")]
    DeviceRule(String),
    /// A mount that cannot be.
    #[error("invalid mount {destination:?}: {reason}")]
    Mount {
        /// Where.
        destination: PathBuf,
        /// Why.
        reason: String,
    },
    /// A limit that cannot be meant.
    #[error(transparent)]
    Limit(#[from] crate::cgroup::limits::InvalidLimit),
    /// A namespace combination that cannot be.
    #[error("{0}")]
    Namespace(String),
    /// The system call filter cannot be built.
    #[error("invalid seccomp profile")]
    Seccomp(#[from] super::seccomp::SeccompError),
    /// A value that the OCI types do not take.
    #[error("cannot express the container as an OCI specification")]
    Oci(#[from] oci_spec::OciSpecError),
}

/// A specification, and the system call filter, which each runtime gets in its own form.
#[derive(Debug, Clone)]
pub struct BuiltSpec {
    /// The specification, complete but for the filter.
    pub spec: oci_spec::runtime::Spec,
    /// The system call filter, when there is one. Shared: a profile has hundreds of names.
    pub filter: Option<std::sync::Arc<super::seccomp::Filter>>,
}
