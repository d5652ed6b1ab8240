//! How the host runs a container: mounts, networks, privileges and limits.

use std::collections::BTreeMap;

use super::container::{
    DeviceMapping, DeviceRequest, LogConfig, Mount, PortMap, RestartPolicy, ThrottleDevice, Ulimit, WeightDevice,
};
use super::model;

model! {
    /// How the host runs a container. The limits can be changed later: see [`UpdateRequest`].
    pub struct HostConfig {
        /// `source:target[:options]`.
        pub binds: Option<Vec<String>>,
        /// File for the id, written by the client.
        #[serde(rename = "ContainerIDFile")]
        pub container_id_file: String,
        /// Where the output goes.
        pub log_config: LogConfig,
        /// `default`, `bridge`, `host`, `none`, `container:<id>` or a network.
        pub network_mode: String,
        /// Published ports.
        pub port_bindings: Option<PortMap>,
        /// When to start it again.
        pub restart_policy: RestartPolicy,
        /// Remove it when it exits?
        pub auto_remove: bool,
        /// Driver of volumes made for binds.
        pub volume_driver: String,
        /// Take the volumes of these containers, `id[:ro]`.
        pub volumes_from: Option<Vec<String>>,
        /// Rows and columns of the terminal at start.
        pub console_size: [u32; 2],
        /// Passed to the runtime.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub annotations: Option<BTreeMap<String, String>>,
        /// Capabilities beyond the default set; `ALL` is all.
        pub cap_add: Option<Vec<String>>,
        /// Capabilities taken from the default set.
        pub cap_drop: Option<Vec<String>>,
        /// `host` or `private`.
        pub cgroupns_mode: String,
        /// Name servers.
        pub dns: Option<Vec<String>>,
        /// Resolver options.
        pub dns_options: Option<Vec<String>>,
        /// Search domains.
        pub dns_search: Option<Vec<String>>,
        /// `name:address` for the hosts file; the address `host-gateway` is the host's.
        pub extra_hosts: Option<Vec<String>>,
        /// Supplementary groups.
        pub group_add: Option<Vec<String>>,
        /// `none`, `private`, `shareable`, `host` or `container:<id>`.
        pub ipc_mode: String,
        /// Cgroup of another container.
        pub cgroup: String,
        /// Links, `container:alias`.
        pub links: Option<Vec<String>>,
        /// -1000 to 1000.
        pub oom_score_adj: i64,
        /// Empty, `host` or `container:<id>`.
        pub pid_mode: String,
        /// All devices and capabilities?
        pub privileged: bool,
        /// Publish every exposed port?
        pub publish_all_ports: bool,
        /// Root file system read-only?
        pub readonly_rootfs: bool,
        /// `seccomp=`, `apparmor=`, `no-new-privileges`, `label=`, `systempaths=`.
        pub security_opt: Option<Vec<String>>,
        /// Options of the storage driver.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub storage_opt: Option<BTreeMap<String, String>>,
        /// Memory file systems: path and options.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tmpfs: Option<BTreeMap<String, String>>,
        /// Empty or `host`.
        #[serde(rename = "UTSMode")]
        pub uts_mode: String,
        /// Empty or `host`.
        pub userns_mode: String,
        /// Size of `/dev/shm` in bytes; 64 MiB when 0.
        pub shm_size: i64,
        /// Namespaced kernel settings.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub sysctls: Option<BTreeMap<String, String>>,
        /// Runtime by name.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub runtime: String,
        /// Windows only.
        pub isolation: String,
        /// Relative weight.
        pub cpu_shares: i64,
        /// Bytes.
        pub memory: i64,
        /// CPUs in billionths.
        pub nano_cpus: i64,
        /// Parent cgroup.
        pub cgroup_parent: String,
        /// 10 to 1000; 0 is none.
        pub blkio_weight: u16,
        /// By device.
        pub blkio_weight_device: Option<Vec<WeightDevice>>,
        /// By device.
        pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        /// By device.
        pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        /// By device.
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        /// By device.
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        /// Microseconds.
        pub cpu_period: i64,
        /// Microseconds in a period.
        pub cpu_quota: i64,
        /// Microseconds.
        pub cpu_realtime_period: i64,
        /// Microseconds.
        pub cpu_realtime_runtime: i64,
        /// `0-3,5`.
        pub cpuset_cpus: String,
        /// Memory nodes.
        pub cpuset_mems: String,
        /// Devices of the host.
        pub devices: Option<Vec<DeviceMapping>>,
        /// Rules of the device cgroup, `c 1:3 rwm`.
        pub device_cgroup_rules: Option<Vec<String>>,
        /// Devices of drivers.
        pub device_requests: Option<Vec<DeviceRequest>>,
        /// Bytes; obsolete, accepted.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub kernel_memory: i64,
        /// Bytes; obsolete, accepted.
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "super::is_zero")]
        pub kernel_memory_tcp: i64,
        /// Soft limit, bytes.
        pub memory_reservation: i64,
        /// Memory and swap, bytes; -1 is unlimited swap; 0 is twice the memory.
        pub memory_swap: i64,
        /// 0 to 100.
        pub memory_swappiness: Option<i64>,
        /// Do not kill at the memory limit?
        pub oom_kill_disable: Option<bool>,
        /// Processes; 0 and -1 are no limit.
        pub pids_limit: Option<i64>,
        /// Limits of processes.
        pub ulimits: Option<Vec<Ulimit>>,
        /// Windows only.
        pub cpu_count: i64,
        /// Windows only.
        pub cpu_percent: i64,
        /// Windows only.
        #[serde(rename = "IOMaximumIOps")]
        pub io_maximum_iops: u64,
        /// Windows only.
        #[serde(rename = "IOMaximumBandwidth")]
        pub io_maximum_bandwidth: u64,
        /// Mounts.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mounts: Option<Vec<Mount>>,
        /// Paths hidden inside; `None` takes the default list.
        pub masked_paths: Option<Vec<String>>,
        /// Paths read-only inside; `None` takes the default list.
        pub readonly_paths: Option<Vec<String>>,
        /// Run an init process as pid 1? `None` takes the daemon's default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub init: Option<bool>,
    }
}

model! {
    /// Limits to change: zero and absent leave as they are.
    pub struct UpdateRequest {
        /// Relative weight.
        pub cpu_shares: i64,
        /// Bytes.
        pub memory: i64,
        /// CPUs in billionths.
        pub nano_cpus: i64,
        /// 10 to 1000.
        pub blkio_weight: u16,
        /// Microseconds.
        pub cpu_period: i64,
        /// Microseconds in a period.
        pub cpu_quota: i64,
        /// Microseconds.
        pub cpu_realtime_period: i64,
        /// Microseconds.
        pub cpu_realtime_runtime: i64,
        /// `0-3,5`.
        pub cpuset_cpus: String,
        /// Memory nodes.
        pub cpuset_mems: String,
        /// Soft limit, bytes.
        pub memory_reservation: i64,
        /// Memory and swap, bytes.
        pub memory_swap: i64,
        /// Processes.
        pub pids_limit: Option<i64>,
        /// 0 to 100.
        pub memory_swappiness: Option<i64>,
        /// Do not kill at the memory limit?
        pub oom_kill_disable: Option<bool>,
        /// By device.
        pub blkio_weight_device: Option<Vec<WeightDevice>>,
        /// By device.
        pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        /// By device.
        pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        /// By device.
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        /// By device.
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        /// Not to be changed, as the following: given, they are refused.
        pub devices: Option<Vec<serde_json::Value>>,
        /// Rules of the device cgroup.
        pub device_cgroup_rules: Option<Vec<serde_json::Value>>,
        /// Devices of drivers.
        pub device_requests: Option<Vec<serde_json::Value>>,
        /// Limits of processes.
        pub ulimits: Option<Vec<serde_json::Value>>,
        /// Parent cgroup.
        pub cgroup_parent: String,
        /// An init process.
        pub init: Option<bool>,
        /// When to start it again; an empty name leaves it.
        pub restart_policy: RestartPolicy,
    }
}
