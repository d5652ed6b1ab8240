//! A container as the engine describes it.

use std::collections::BTreeMap;

use super::container::{ContainerConfig, EndpointSettings, PortBinding};
use super::{HostConfig, model};

model! {
    /// Everything about one container.
    pub struct ContainerInspect {
        /// Id.
        pub id: String,
        /// When it was made.
        pub created: String,
        /// Program.
        pub path: String,
        /// Its arguments.
        pub args: Vec<String>,
        /// What it does.
        pub state: ContainerState,
        /// Id of the image.
        pub image: String,
        /// Path on the host.
        pub resolv_conf_path: String,
        /// Path on the host.
        pub hostname_path: String,
        /// Path on the host.
        pub hosts_path: String,
        /// Path on the host.
        pub log_path: String,
        /// Name with a leading slash.
        pub name: String,
        /// Restarts by policy.
        pub restart_count: u64,
        /// Storage driver.
        pub driver: String,
        /// `linux`.
        pub platform: String,
        /// SELinux label.
        pub mount_label: String,
        /// SELinux label.
        pub process_label: String,
        /// AppArmor profile.
        pub app_armor_profile: String,
        /// Execs that are prepared or running.
        #[serde(rename = "ExecIDs")]
        pub exec_ids: Option<Vec<String>>,
        /// How the host runs it.
        pub host_config: HostConfig,
        /// Where its file system is.
        pub graph_driver: GraphDriver,
        /// Bytes written; when asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_rw: Option<i64>,
        /// Bytes in all; when asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_root_fs: Option<i64>,
        /// Mounts.
        pub mounts: Vec<MountPoint>,
        /// What runs.
        pub config: ContainerConfig,
        /// Networks.
        pub network_settings: NetworkSettings,
    }
}

model! {
    /// What a container does.
    pub struct ContainerState {
        /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
        pub status: String,
        /// Has it a process? True while paused and while restarting.
        pub running: bool,
        /// Frozen?
        pub paused: bool,
        /// Waiting for its next start?
        pub restarting: bool,
        /// Killed for want of memory?
        #[serde(rename = "OOMKilled")]
        pub oom_killed: bool,
        /// Half removed?
        pub dead: bool,
        /// Process id on the host; 0 when not running.
        pub pid: i64,
        /// Exit status.
        pub exit_code: i64,
        /// Why it could not start.
        pub error: String,
        /// Last start.
        pub started_at: String,
        /// Last end.
        pub finished_at: String,
        /// Its health; absent without a check.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub health: Option<Health>,
    }
}

model! {
    /// Health of a container.
    pub struct Health {
        /// `starting`, `healthy` or `unhealthy`.
        pub status: String,
        /// Failures in a row.
        pub failing_streak: i64,
        /// The last five checks.
        pub log: Option<Vec<HealthLogEntry>>,
    }
}

model! {
    /// One check.
    pub struct HealthLogEntry {
        /// When it began.
        pub start: String,
        /// When it ended.
        pub end: String,
        /// 0 is healthy, 1 is not; -1 when the check itself failed.
        pub exit_code: i64,
        /// What it printed, cut at 4,096 bytes.
        pub output: String,
    }
}

model! {
    /// Where a container's file system is.
    pub struct GraphDriver {
        /// Paths.
        pub data: Option<BTreeMap<String, String>>,
        /// Driver.
        pub name: String,
    }
}

model! {
    /// A mount as made.
    pub struct MountPoint {
        /// `bind`, `volume` or `tmpfs`.
        #[serde(rename = "Type")]
        pub kind: String,
        /// Volume.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub name: String,
        /// Path on the host.
        pub source: String,
        /// Path inside.
        pub destination: String,
        /// Driver of the volume.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub driver: String,
        /// Options given.
        pub mode: String,
        /// Writable?
        #[serde(rename = "RW")]
        pub rw: bool,
        /// Propagation.
        pub propagation: String,
    }
}

model! {
    /// Networks of a container.
    pub struct NetworkSettings {
        /// Obsolete.
        pub bridge: String,
        /// Sandbox.
        #[serde(rename = "SandboxID")]
        pub sandbox_id: String,
        /// Its path.
        pub sandbox_key: String,
        /// Published ports; null for exposed ports that are not published.
        pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
        /// Obsolete.
        pub hairpin_mode: bool,
        /// Obsolete.
        #[serde(rename = "LinkLocalIPv6Address")]
        pub link_local_ipv6_address: String,
        /// Obsolete.
        #[serde(rename = "LinkLocalIPv6PrefixLen")]
        pub link_local_ipv6_prefix_len: u8,
        /// Obsolete.
        #[serde(rename = "SecondaryIPAddresses")]
        pub secondary_ip_addresses: Option<Vec<String>>,
        /// Obsolete.
        #[serde(rename = "SecondaryIPv6Addresses")]
        pub secondary_ipv6_addresses: Option<Vec<String>>,
        /// On the default network.
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        /// On the default network.
        pub gateway: String,
        /// On the default network.
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        /// On the default network.
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: u8,
        /// On the default network.
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        /// On the default network.
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: u8,
        /// On the default network.
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        /// On the default network.
        pub mac_address: String,
        /// By network name.
        pub networks: BTreeMap<String, EndpointSettings>,
    }
}

model! {
    /// A line of the list of containers.
    pub struct ContainerSummary {
        /// Id.
        pub id: String,
        /// Names with a leading slash.
        pub names: Vec<String>,
        /// Image as the user named it, or its id when that name now is another image.
        pub image: String,
        /// Id of the image.
        #[serde(rename = "ImageID")]
        pub image_id: String,
        /// Command line.
        pub command: String,
        /// When it was made, seconds.
        pub created: i64,
        /// Ports.
        pub ports: Vec<Port>,
        /// Bytes written; when asked for.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub size_rw: i64,
        /// Bytes in all; when asked for.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub size_root_fs: i64,
        /// Labels.
        pub labels: BTreeMap<String, String>,
        /// State.
        pub state: String,
        /// State in words, `Up 3 seconds (healthy)`.
        pub status: String,
        /// Part of the host configuration.
        pub host_config: SummaryHostConfig,
        /// Networks.
        pub network_settings: SummaryNetworkSettings,
        /// Mounts.
        pub mounts: Vec<MountPoint>,
    }
}

model! {
    /// Part of the host configuration.
    pub struct SummaryHostConfig {
        /// Network mode.
        pub network_mode: String,
        /// Annotations.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub annotations: Option<BTreeMap<String, String>>,
    }
}

model! {
    /// Networks of a container.
    pub struct SummaryNetworkSettings {
        /// By name.
        pub networks: BTreeMap<String, EndpointSettings>,
    }
}

model! {
    /// A port of a container.
    pub struct Port {
        /// Address on the host.
        #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
        pub ip: String,
        /// Port inside.
        pub private_port: u16,
        /// Port on the host.
        #[serde(skip_serializing_if = "super::is_zero_u16")]
        pub public_port: u16,
        /// `tcp`, `udp` or `sctp`.
        #[serde(rename = "Type")]
        pub kind: String,
    }
}
