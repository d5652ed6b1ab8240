//! A container as its user asks for it: configuration, host configuration, networking, creation and update.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{InternalOptions, model};

/// A set written as Docker writes sets: an object whose values are empty objects.
pub type StringSet = BTreeMap<String, Empty>;

/// The empty object `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Empty {}

/// A list of strings that a client may also give as one string.
fn string_or_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| words.0))
}

struct Words(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordsVisitor)
    }
}

struct WordsVisitor;

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E>(self, one: &str) -> Result<Words, E> {
        Ok(Words(vec![one.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, many: A) -> Result<Words, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(many)).map(Words)
    }
}

/// What runs in the container, independent of the host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Host name inside; the first 12 characters of the id when empty.
    #[serde(deserialize_with = "super::null_as_default")]
    pub hostname: String,
    /// Domain name inside.
    #[serde(deserialize_with = "super::null_as_default")]
    pub domainname: String,
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "super::null_as_default")]
    pub user: String,
    /// Was standard input attached at creation?
    #[serde(deserialize_with = "super::null_as_default")]
    pub attach_stdin: bool,
    /// Was standard output attached at creation?
    #[serde(deserialize_with = "super::null_as_default")]
    pub attach_stdout: bool,
    /// Was standard error attached at creation?
    #[serde(deserialize_with = "super::null_as_default")]
    pub attach_stderr: bool,
    /// Ports that the container listens on, `80/tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<StringSet>,
    /// Allocate a terminal?
    #[serde(deserialize_with = "super::null_as_default")]
    pub tty: bool,
    /// Keep standard input open?
    #[serde(deserialize_with = "super::null_as_default")]
    pub open_stdin: bool,
    /// Close standard input when the first attached client leaves?
    #[serde(deserialize_with = "super::null_as_default")]
    pub stdin_once: bool,
    /// `NAME=value`; a name without `=` is removed from the image's environment.
    pub env: Option<Vec<String>>,
    /// Arguments, or the command when there is no entrypoint.
    #[serde(deserialize_with = "string_or_list")]
    pub cmd: Option<Vec<String>>,
    /// Health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Windows only; accepted and ignored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[serde(deserialize_with = "super::null_as_default")]
    pub args_escaped: bool,
    /// Image reference as the user gave it.
    #[serde(deserialize_with = "super::null_as_default")]
    pub image: String,
    /// Paths that become anonymous volumes.
    pub volumes: Option<StringSet>,
    /// Working directory.
    #[serde(deserialize_with = "super::null_as_default")]
    pub working_dir: String,
    /// Command prefix.
    #[serde(deserialize_with = "string_or_list")]
    pub entrypoint: Option<Vec<String>>,
    /// No network but loopback?
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[serde(deserialize_with = "super::null_as_default")]
    pub network_disabled: bool,
    /// Hardware address on the first network (before API 1.44).
    #[serde(skip_serializing_if = "String::is_empty")]
    #[serde(deserialize_with = "super::null_as_default")]
    pub mac_address: String,
    /// Build triggers of the image.
    pub on_build: Option<Vec<String>>,
    /// Labels.
    #[serde(deserialize_with = "super::null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks to stop, `SIGTERM` when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[serde(deserialize_with = "super::null_as_default")]
    pub stop_signal: String,
    /// Seconds between that signal and SIGKILL; 10 when absent, negative is for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell of the shell form of instructions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

model! {
    /// How to find out whether the container works. Durations in nanoseconds; 0 inherits or takes the default.
    pub struct HealthConfig {
        /// Empty inherits, `NONE` switches off, `CMD` executes, `CMD-SHELL` runs a shell.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub test: Option<Vec<String>>,
        /// Between checks; default 30 s.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub interval: i64,
        /// Of one check; default 30 s.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub timeout: i64,
        /// After the start, in which failures do not count.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub start_period: i64,
        /// Between checks in the start period; default 5 s.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub start_interval: i64,
        /// Failures in a row that make it unhealthy; default 3.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub retries: i64,
    }
}

model! {
    /// When to start a container again.
    pub struct RestartPolicy {
        /// `no`, `always`, `on-failure` or `unless-stopped`.
        pub name: String,
        /// Limit of `on-failure`; 0 is none.
        pub maximum_retry_count: i64,
    }
}

model! {
    /// Where the output goes.
    pub struct LogConfig {
        /// Driver.
        #[serde(rename = "Type")]
        pub kind: String,
        /// Its options.
        pub config: BTreeMap<String, String>,
    }
}

model! {
    /// A port of the host.
    pub struct PortBinding {
        /// Address; empty is any.
        pub host_ip: String,
        /// Port, or range; empty or 0 lets the engine choose.
        pub host_port: String,
    }
}

/// Ports of the container and where they are published.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

model! {
    /// Weight of a block device.
    pub struct WeightDevice {
        /// Path of the device.
        pub path: String,
        /// 10 to 1000.
        pub weight: u16,
    }
}

model! {
    /// Limit of a block device.
    pub struct ThrottleDevice {
        /// Path of the device.
        pub path: String,
        /// Bytes or operations per second.
        pub rate: u64,
    }
}

model! {
    /// A device of the host made available.
    pub struct DeviceMapping {
        /// Path on the host.
        pub path_on_host: String,
        /// Path inside.
        pub path_in_container: String,
        /// Any of `r`, `w`, `m`.
        pub cgroup_permissions: String,
    }
}

model! {
    /// A request for devices from a driver.
    pub struct DeviceRequest {
        /// Driver.
        pub driver: String,
        /// How many; -1 is all.
        pub count: i64,
        /// Which.
        #[serde(rename = "DeviceIDs")]
        pub device_ids: Option<Vec<String>>,
        /// Alternatives of sets of capabilities.
        pub capabilities: Option<Vec<Vec<String>>>,
        /// Options.
        pub options: Option<BTreeMap<String, String>>,
    }
}

model! {
    /// A resource limit of processes.
    pub struct Ulimit {
        /// Name as setrlimit's, lower case without `RLIMIT_`.
        pub name: String,
        /// Hard limit; -1 is none.
        pub hard: i64,
        /// Soft limit; -1 is none.
        pub soft: i64,
    }
}

model! {
    /// A mount as asked for.
    pub struct Mount {
        /// `bind`, `volume` or `tmpfs`.
        #[serde(rename = "Type", skip_serializing_if = "String::is_empty")]
        pub kind: String,
        /// Host path or volume name.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub source: String,
        /// Path inside.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub target: String,
        /// Read-only?
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub read_only: bool,
        /// Accepted and ignored on Linux.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub consistency: String,
        /// For `bind`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub bind_options: Option<BindOptions>,
        /// For `volume`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub volume_options: Option<VolumeOptions>,
        /// For `image`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub image_options: Option<ImageOptions>,
        /// For `tmpfs`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tmpfs_options: Option<TmpfsOptions>,
    }
}

model! {
    /// Options of a bind mount.
    pub struct BindOptions {
        /// Propagation; `rprivate` when empty.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub propagation: String,
        /// Without the mounts below the source?
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub non_recursive: bool,
        /// Make the source when it is missing?
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub create_mountpoint: bool,
        /// Read-only covers the mount, not those below it?
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub read_only_non_recursive: bool,
        /// Fail when read-only cannot cover the mounts below?
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub read_only_force_recursive: bool,
    }
}

model! {
    /// Options of a volume mount.
    pub struct VolumeOptions {
        /// Do not fill an empty volume from the image?
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub no_copy: bool,
        /// Labels of a volume made for this mount.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub labels: Option<BTreeMap<String, String>>,
        /// A folder in the volume.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub subpath: String,
        /// Driver of a volume made for this mount.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub driver_config: Option<MountDriver>,
    }
}

model! {
    /// Options of an image mount.
    pub struct ImageOptions {
        /// A folder in the image.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub subpath: String,
    }
}

model! {
    /// Driver of a volume.
    pub struct MountDriver {
        /// Name.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub name: String,
        /// Options.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub options: Option<BTreeMap<String, String>>,
    }
}

model! {
    /// Options of a memory file system.
    pub struct TmpfsOptions {
        /// Limit; 0 is none.
        #[serde(skip_serializing_if = "super::is_zero")]
        pub size_bytes: i64,
        /// Mode of its root; 0 is 1777.
        #[serde(skip_serializing_if = "super::is_zero_u32")]
        pub mode: u32,
        /// Mount options, each a list of a name and perhaps a value.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub options: Option<Vec<Vec<String>>>,
    }
}

model! {
    /// Networks to join.
    pub struct NetworkingConfig {
        /// By network name or id.
        pub endpoints_config: Option<BTreeMap<String, Option<EndpointSettings>>>,
    }
}

model! {
    /// A container's place on one network.
    pub struct EndpointSettings {
        /// Addresses asked for.
        #[serde(rename = "IPAMConfig")]
        pub ipam_config: Option<EndpointIpamConfig>,
        /// Links on this network.
        pub links: Option<Vec<String>>,
        /// More DNS names.
        pub aliases: Option<Vec<String>>,
        /// Hardware address.
        pub mac_address: String,
        /// Options for the driver.
        pub driver_opts: Option<BTreeMap<String, String>>,
        /// The one with the highest priority gives the default route.
        pub gw_priority: i64,
        /// Network.
        #[serde(rename = "NetworkID")]
        pub network_id: String,
        /// Endpoint.
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        /// Gateway.
        pub gateway: String,
        /// Address.
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        /// Its prefix length.
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: u8,
        /// Gateway, version 6.
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        /// Address, version 6.
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        /// Its prefix length.
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: u8,
        /// All DNS names of the container here.
        #[serde(rename = "DNSNames")]
        pub dns_names: Option<Vec<String>>,
    }
}

model! {
    /// Addresses asked for.
    pub struct EndpointIpamConfig {
        /// Address.
        #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
        pub ipv4_address: String,
        /// Address, version 6.
        #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
        pub ipv6_address: String,
        /// Link-local addresses.
        #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Option::is_none")]
        pub link_local_ips: Option<Vec<String>>,
    }
}

/// The body of a creation: the container's configuration with two objects more.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CreateRequest {
    /// What runs.
    #[serde(flatten)]
    pub config: ContainerConfig,
    /// How the host runs it.
    #[serde(rename = "HostConfig", deserialize_with = "super::null_as_default")]
    pub host_config: super::HostConfig,
    /// Networks.
    #[serde(rename = "NetworkingConfig", deserialize_with = "super::null_as_default")]
    pub networking_config: NetworkingConfig,
    /// Platform, `os[/arch[/variant]]`; empty is the host's. A query parameter, not part of the body.
    #[serde(skip)]
    pub platform: String,
    /// Does "read-only" leave what is mounted below a bind as it is? So it was until version 1.44 of the API.
    #[serde(skip)]
    pub writable_below: bool,
    /// What the cluster's executor asks for. Not reachable through the API.
    #[serde(skip)]
    pub internal: InternalOptions,
}

model! {
    /// Answer to a creation.
    pub struct CreateResponse {
        /// Id of the container.
        pub id: String,
        /// What was changed or ignored.
        pub warnings: Vec<String>,
    }
}

model! {
    /// Answer to an update.
    pub struct UpdateResponse {
        /// What was changed or ignored; `None` when nothing was.
        pub warnings: Option<Vec<String>>,
    }
}

model! {
    /// How a container ended.
    pub struct WaitResponse {
        /// Its exit status.
        pub status_code: i64,
        /// Why it could not be started or waited for.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub error: Option<WaitError>,
    }
}

model! {
    /// Why a wait failed.
    pub struct WaitError {
        /// In words.
        pub message: String,
    }
}

model! {
    /// What was removed.
    pub struct ContainersPruneReport {
        /// Ids.
        pub containers_deleted: Option<Vec<String>>,
        /// Bytes freed.
        pub space_reclaimed: u64,
    }
}

model! {
    /// Processes of a container.
    pub struct Top {
        /// Column heads.
        pub titles: Vec<String>,
        /// One row for each process.
        pub processes: Vec<Vec<String>>,
    }
}
