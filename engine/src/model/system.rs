//! The engine's part of `docker info` and `docker version`. The daemon adds the cluster's.

use super::model;

model! {
    /// What the engine knows of itself and its host. The API fills in what concerns registries and the cluster.
    pub struct EngineInfo {
        /// Stable id of this engine.
        #[serde(rename = "ID")]
        pub id: String,
        /// All containers.
        pub containers: usize,
        /// Running ones.
        pub containers_running: usize,
        /// Paused ones.
        pub containers_paused: usize,
        /// The rest.
        pub containers_stopped: usize,
        /// Images.
        pub images: usize,
        /// Storage driver.
        pub driver: String,
        /// More about it.
        pub driver_status: Vec<(String, String)>,
        /// Is the limit offered?
        pub memory_limit: bool,
        /// Is the limit offered?
        pub swap_limit: bool,
        /// Is the limit offered?
        pub cpu_cfs_period: bool,
        /// Is the limit offered?
        pub cpu_cfs_quota: bool,
        /// Is the limit offered?
        #[serde(rename = "CPUShares")]
        pub cpu_shares: bool,
        /// Is the limit offered?
        #[serde(rename = "CPUSet")]
        pub cpu_set: bool,
        /// Is the limit offered?
        pub pids_limit: bool,
        /// Does the host forward?
        #[serde(rename = "IPv4Forwarding")]
        pub ipv4_forwarding: bool,
        /// Can the kill at the memory limit be switched off?
        pub oom_kill_disable: bool,
        /// Debug?
        pub debug: bool,
        /// Open files of the daemon.
        #[serde(rename = "NFd")]
        pub n_fd: usize,
        /// Threads of the daemon.
        #[serde(rename = "NGoroutines")]
        pub n_goroutines: usize,
        /// Now.
        pub system_time: String,
        /// Default log driver.
        pub logging_driver: String,
        /// `cgroupfs`.
        pub cgroup_driver: String,
        /// `1` or `2`.
        pub cgroup_version: String,
        /// Subscribers to events.
        #[serde(rename = "NEventsListener")]
        pub n_events_listener: usize,
        /// Kernel.
        pub kernel_version: String,
        /// Distribution.
        pub operating_system: String,
        /// Its version.
        #[serde(rename = "OSVersion")]
        pub os_version: String,
        /// `linux`.
        #[serde(rename = "OSType")]
        pub os_type: String,
        /// As uname says.
        pub architecture: String,
        /// Processors.
        #[serde(rename = "NCPU")]
        pub ncpu: usize,
        /// Bytes.
        pub mem_total: u64,
        /// Data directory.
        pub docker_root_dir: String,
        /// Host name.
        pub name: String,
        /// Labels of the engine, `name=value`.
        pub labels: Vec<String>,
        /// Version.
        pub server_version: String,
        /// Runtimes and their programs; the built-in one has an empty path.
        pub runtimes: std::collections::BTreeMap<String, RuntimeInfo>,
        /// Default runtime.
        pub default_runtime: String,
        /// Do containers outlive the daemon? Always.
        pub live_restore_enabled: bool,
        /// Program of `--init`.
        pub init_binary: String,
        /// Security features, `name=seccomp,profile=builtin`.
        pub security_options: Vec<String>,
        /// What is wrong with the host.
        pub warnings: Option<Vec<String>>,
    }
}

/// A runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct RuntimeInfo {
    /// Its program.
    pub path: String,
}

model! {
    /// The engine's version and its host's.
    pub struct EngineVersion {
        /// Version.
        pub version: String,
        /// Commit; empty when not known.
        pub git_commit: String,
        /// `linux`.
        pub os: String,
        /// As Go names it, `amd64`.
        pub arch: String,
        /// Kernel.
        pub kernel_version: String,
        /// Runtime: name and version.
        pub runtime: (String, String),
    }
}
