//! How an engine is set up.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use shoal_kit::clock::{Clock, SystemClock};

use crate::model::{LogConfig, Ulimit};
use crate::network::AddressPool;
use crate::remap::IdMap;

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// What must outlive the machine's restart: containers, images, volumes, networks.
    pub data_root: PathBuf,
    /// What belongs to this boot: shims, network namespaces. A memory file system is fine.
    pub exec_root: PathBuf,
    /// Cgroup below which the containers' are made, `/shoal`.
    pub cgroup_parent: String,
    /// Ids of the containers' user namespaces; without, they are in the host's. The data root is this map's alone then.
    pub remap: Option<IdMap>,
    /// Labels of the engine.
    pub labels: BTreeMap<String, String>,
    /// Runtime of containers that name none; `shoal` is the built-in one.
    pub default_runtime: String,
    /// Other OCI runtimes by name.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// Program of the shims: it is run with `shim` as its first argument.
    pub shim_program: PathBuf,
    /// Program of `--init`; `None` looks for `tini-static`, `docker-init` and `tini` when it is needed.
    pub init_program: Option<PathBuf>,
    /// Log more?
    pub debug: bool,
    /// Will it be told whether this node is in a cluster ([`Engine::enter_cluster`](crate::Engine::enter_cluster) or
    /// [`Engine::stay_outside`](crate::Engine::stay_outside))? Else it is in none.
    pub joins_cluster: bool,
    /// Subnet of the default bridge, and its gateway address; `None` takes 172.17.0.1/16.
    pub bip: Option<Ipv4Net>,
    /// The rest of what local networks are made of.
    pub local_networks: LocalNetworkOptions,
    /// What containers get that do not say themselves.
    pub containers: ContainerDefaults,
    /// Counted resources that this node offers to tasks, by kind.
    pub generic_resources: BTreeMap<String, i64>,
    /// Start the containers that their policies want running?
    pub starts_containers: bool,
    /// Do containers go on running when the engine ends? Only shown: see [`crate::Engine::stop_containers`].
    pub live_restore: bool,
    /// Host name to show.
    pub hostname: String,
    /// Version to show.
    pub version: String,
    /// Time of day.
    pub clock: Arc<dyn Clock>,
}

/// How local networks are set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNetworkOptions {
    /// The default bridge.
    pub bridge: DefaultBridge,
    /// Part of the default bridge's subnet that addresses are taken from; without `bip` the subnet itself.
    pub fixed_cidr: Option<Ipv4Net>,
    /// Where containers on the default bridge send what leaves it; `None` is the bridge.
    pub default_gateway: Option<Ipv4Addr>,
    /// MTU of the default bridge; `None` takes that of the default route's link, at most 1500.
    pub mtu: Option<u32>,
    /// Do containers on the default bridge reach each other?
    pub icc: bool,
    /// Are the addresses of the default bridge hidden from others?
    pub masquerade: bool,
    /// Host address that ports of the default bridge are published at when none is named.
    pub binding: Ipv4Addr,
    /// Switch on forwarding on the host?
    pub forwarding: bool,
    /// Write rules into the host's nftables? Without, nothing can be published.
    pub rules: bool,
    /// Subnets for networks made without one; empty means Docker's.
    pub pools: Vec<AddressPool>,
    /// Options of new networks that do not set them, by driver.
    pub driver_options: BTreeMap<String, BTreeMap<String, String>>,
    /// What `host-gateway` in `--add-host` stands for; `None` is the default bridge's address.
    pub host_gateway: Option<Ipv4Addr>,
}

/// Which link the default bridge is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DefaultBridge {
    /// One of the engine's own.
    #[default]
    Own,
    /// One that exists already.
    Existing(String),
    /// There is none: containers that name no network have only loopback.
    Absent,
}

impl Default for LocalNetworkOptions {
    fn default() -> Self {
        Self {
            bridge: DefaultBridge::Own,
            fixed_cidr: None,
            default_gateway: None,
            mtu: None,
            icc: true,
            masquerade: true,
            binding: Ipv4Addr::UNSPECIFIED,
            forwarding: true,
            rules: true,
            pools: Vec::new(),
            driver_options: BTreeMap::new(),
            host_gateway: None,
        }
    }
}

/// What containers get that do not say themselves. Empty and zero mean Docker's own default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerDefaults {
    /// Log driver and its options. The options hold for containers that choose this driver by name, too.
    pub log: LogConfig,
    /// Limits of processes, by name.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm`, bytes.
    pub shm_size_bytes: i64,
    /// `private` or `shareable`.
    pub ipc_mode: String,
    /// `private` or `host`.
    pub cgroupns_mode: String,
    /// Run an init process?
    pub init: bool,
    /// Forbid gaining privileges?
    pub no_new_privileges: bool,
    /// Which system calls are let through.
    pub seccomp: SeccompDefault,
    /// Name servers.
    pub dns: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
    /// Folders of device specifications, the later before the earlier; none are the interface's own two.
    pub cdi_folders: Vec<PathBuf>,
}

/// Seccomp profile of containers that name none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SeccompDefault {
    /// The engine's own.
    #[default]
    Builtin,
    /// None.
    Unconfined,
    /// One from a file.
    Profile {
        /// Where it was read from.
        path: PathBuf,
        /// Its JSON.
        text: String,
    },
}

/// Name of the built-in runtime.
pub const BUILTIN_RUNTIME: &str = "shoal";
/// Name of the runtime that is youki's library, inside the shim as well.
pub const LIBCONTAINER_RUNTIME: &str = "libcontainer";
/// The runtimes that need no program of their own.
pub const INNER_RUNTIMES: [&str; 2] = [BUILTIN_RUNTIME, LIBCONTAINER_RUNTIME];
/// What dockerd calls its own runtime, and clients ask it for: the built-in one by another name, unless the daemon was
/// given a program of that name.
pub const DOCKER_RUNTIME: &str = "runc";

impl EngineOptions {
    /// The names of all runtimes that need no program of their own.
    pub fn inner_runtimes(&self) -> impl Iterator<Item = &'static str> {
        let by_another_name = (!self.runtimes.contains_key(DOCKER_RUNTIME)).then_some(DOCKER_RUNTIME);
        INNER_RUNTIMES.into_iter().chain(by_another_name)
    }

    /// Is it one of those?
    pub fn is_inner_runtime(&self, name: &str) -> bool {
        self.inner_runtimes().any(|inner| inner == name)
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            data_root: PathBuf::from("/var/lib/shoal"),
            exec_root: PathBuf::from("/run/shoal"),
            cgroup_parent: "/shoal".to_owned(),
            remap: None,
            labels: BTreeMap::new(),
            default_runtime: BUILTIN_RUNTIME.to_owned(),
            runtimes: BTreeMap::new(),
            shim_program: PathBuf::from("/proc/self/exe"),
            init_program: None,
            debug: false,
            joins_cluster: false,
            bip: None,
            local_networks: LocalNetworkOptions::default(),
            containers: ContainerDefaults::default(),
            generic_resources: BTreeMap::new(),
            starts_containers: true,
            live_restore: true,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: Arc::new(SystemClock),
        }
    }
}
