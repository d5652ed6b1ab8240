//! How an engine is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use shoal_kit::clock::{Clock, SystemClock};

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// What must outlive the machine's restart: containers, images, volumes, networks.
    pub data_root: PathBuf,
    /// What belongs to this boot: shims, network namespaces. A memory file system is fine.
    pub exec_root: PathBuf,
    /// Cgroup below which the containers' are made, `/shoal`.
    pub cgroup_parent: String,
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
    /// Subnet of the default bridge, and its gateway address; `None` takes 172.17.0.1/16.
    pub bip: Option<Ipv4Net>,
    /// Host name to show.
    pub hostname: String,
    /// Version to show.
    pub version: String,
    /// Time of day.
    pub clock: Arc<dyn Clock>,
}

/// Name of the built-in runtime.
pub const BUILTIN_RUNTIME: &str = "shoal";
/// Name of the runtime that is youki's library, inside the shim as well.
pub const LIBCONTAINER_RUNTIME: &str = "libcontainer";
/// The runtimes that need no program of their own.
pub const INNER_RUNTIMES: [&str; 2] = [BUILTIN_RUNTIME, LIBCONTAINER_RUNTIME];

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            data_root: PathBuf::from("/var/lib/shoal"),
            exec_root: PathBuf::from("/run/shoal"),
            cgroup_parent: "/shoal".to_owned(),
            labels: BTreeMap::new(),
            default_runtime: BUILTIN_RUNTIME.to_owned(),
            runtimes: BTreeMap::new(),
            shim_program: PathBuf::from("/proc/self/exe"),
            init_program: None,
            debug: false,
            bip: None,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: Arc::new(SystemClock),
        }
    }
}
