//! The container that a task runs. Field for field what Swarm's ContainerSpec offers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Labels;
use crate::id::{ConfigId, SecretId};

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Image reference, with digest once it was resolved.
    pub image: String,
    /// Labels of the container (those of the service stay on the service).
    pub labels: Labels,
    /// Replaces the image's entrypoint; empty keeps it.
    pub command: Vec<String>,
    /// Replaces the image's command; empty keeps it.
    pub args: Vec<String>,
    /// Host name inside; empty means the container id. May hold templates.
    pub hostname: String,
    /// `NAME=value` pairs. May hold templates.
    pub env: Vec<String>,
    /// Working directory; empty keeps the image's.
    pub dir: String,
    /// `user[:group]`; empty keeps the image's.
    pub user: String,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Security options.
    pub privileges: Privileges,
    /// Run an init process as pid 1? `None` takes the node's default.
    pub init: Option<bool>,
    /// Allocate a terminal?
    pub tty: bool,
    /// Keep standard input open?
    pub open_stdin: bool,
    /// Mount the root file system read-only?
    pub read_only: bool,
    /// Signal that asks the process to stop; empty keeps the image's, or SIGTERM.
    pub stop_signal: String,
    /// Time between that signal and SIGKILL; `None` is 10 s.
    pub stop_grace_period: Option<Duration>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Health check; `None` keeps the image's.
    pub healthcheck: Option<Healthcheck>,
    /// Lines of the hosts file, `address name [alias...]`.
    pub hosts: Vec<String>,
    /// Resolver settings; `None` takes the node's.
    pub dns: Option<DnsConfig>,
    /// Secrets, as files.
    pub secrets: Vec<SecretReference>,
    /// Configs, as files.
    pub configs: Vec<ConfigReference>,
    /// Namespaced kernel settings.
    pub sysctls: BTreeMap<String, String>,
    /// Capabilities beyond the default set.
    pub capability_add: Vec<String>,
    /// Capabilities taken from the default set.
    pub capability_drop: Vec<String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Adjustment of the out-of-memory score, -1000 to 1000.
    pub oom_score_adj: i32,
}

/// Security options of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Privileges {
    /// No new privileges through set-user-id programs?
    pub no_new_privileges: bool,
    /// System-call filter.
    pub seccomp: SeccompMode,
    /// Switch AppArmor off for this container?
    pub apparmor_disabled: bool,
    /// Switch SELinux off for this container?
    pub selinux_disabled: bool,
}

/// Which system-call filter a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompMode {
    /// The built-in profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// This profile, JSON as in the reference profile.
    Custom(String),
}

/// What a mount takes its contents from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    #[default]
    Bind,
    /// A named or anonymous volume.
    Volume,
    /// A memory file system.
    Tmpfs,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Kind.
    pub kind: MountKind,
    /// Host path, volume name, or empty. May hold templates.
    pub source: String,
    /// Absolute path inside the container.
    pub target: String,
    /// Read-only?
    pub read_only: bool,
    /// Bind: propagation (`rprivate` when empty).
    pub propagation: String,
    /// Bind: do not mount what is mounted below the source.
    pub non_recursive: bool,
    /// Volume: do not fill an empty volume from the image.
    pub no_copy: bool,
    /// Volume: a folder in it, instead of its root.
    pub subpath: String,
    /// Volume: labels of a volume made for this mount.
    pub volume_labels: Labels,
    /// Volume: its driver; empty is `local`.
    pub volume_driver: String,
    /// Volume: its driver's options.
    pub volume_options: BTreeMap<String, String>,
    /// Tmpfs: size limit in bytes; 0 is none.
    pub tmpfs_size_bytes: u64,
    /// Tmpfs: mode of its root; 0 is 1777.
    pub tmpfs_mode: u32,
}

/// How to find out whether a container works.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// Empty inherits; `["NONE"]` switches it off; `["CMD", …]` executes; `["CMD-SHELL", line]` runs a shell.
    pub test: Vec<String>,
    /// Time between checks; `None` is 30 s.
    pub interval: Option<Duration>,
    /// Time for one check; `None` is 30 s.
    pub timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy; 0 is 3.
    pub retries: u32,
    /// Time after the start in which failures do not count; `None` is 0.
    pub start_period: Option<Duration>,
    /// Time between checks during the start period; `None` is 5 s.
    pub start_interval: Option<Duration>,
}

/// Resolver settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// Where in the container a secret or config appears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileTarget {
    /// Path; relative means below `/run/secrets` for secrets and `/` for configs.
    pub name: String,
    /// Owner, a number as text.
    pub uid: String,
    /// Group, a number as text.
    pub gid: String,
    /// Permission bits.
    pub mode: u32,
}

impl Default for FileTarget {
    fn default() -> Self {
        Self { name: String::new(), uid: "0".to_owned(), gid: "0".to_owned(), mode: 0o444 }
    }
}

/// A secret that a task uses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretReference {
    /// Which.
    pub id: SecretId,
    /// Its name, for display.
    pub name: String,
    /// Where it appears.
    pub target: FileTarget,
}

/// A config that a task uses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigReference {
    /// Which.
    pub id: ConfigId,
    /// Its name, for display.
    pub name: String,
    /// Where it appears.
    pub target: FileTarget,
}

/// One resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ulimit {
    /// Name as in setrlimit(2), lower case without `RLIMIT_`.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

impl Ulimit {
    /// The names there are.
    pub const NAMES: [&'static str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
}
