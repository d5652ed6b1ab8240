//! The directives with nothing left open.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use serde_json::{Map, Value};
use shoal_engine::EngineOptions;
use shoal_engine::model::{LogConfig, Ulimit};
use shoal_engine::network::AddressPool;
use shoal_engine::options::{ContainerDefaults, DefaultBridge, LocalNetworkOptions, SeccompDefault};
use shoal_engine::remap::{self, IdMap};

use super::host::{self, Guard, Listen};
use super::registry::{Proxies, Registries};
use super::value;
use crate::daemon::tls::TlsFiles;

/// The options with nothing left open. The fields have the names of their directives.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Folders, runtimes, local networks, defaults of containers.
    pub(crate) engine: EngineOptions,
    /// Where the API listens.
    pub(crate) listen: Vec<Listen>,
    /// Who may use TCP sockets.
    pub(crate) guard: Guard,
    /// `None` is without TLS.
    pub(crate) tls: Option<TlsFiles>,
    /// Group of unix sockets; `None` takes `docker` if there is one.
    pub(crate) group: Option<String>,
    pub(crate) pidfile: PathBuf,
    pub(crate) log_level: String,
    /// JSON, or text?
    pub(crate) log_json: bool,
    pub(crate) default_advertise_addr: String,
    pub(crate) metrics_addr: Option<SocketAddr>,
    /// How long containers may take to stop with the daemon; `None` is as long as they need.
    pub(crate) shutdown_timeout: Option<Duration>,
    pub(crate) oom_score_adjust: Option<i64>,
    pub(crate) registries: Registries,
    pub(crate) proxies: Proxies,
    pub(crate) features: BTreeMap<String, bool>,
    pub(crate) experimental: bool,
}

/// Reads directives whose shapes were checked; it keeps account of which were asked for.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    directives: &'a Map<String, Value>,
    pub(super) asked: RefCell<BTreeSet<String>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(directives: &'a Map<String, Value>) -> Self {
        Self { directives, asked: RefCell::default() }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.directives.get(key)
    }

    /// A text that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    pub(super) fn number(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_i64()
    }

    pub(super) fn list(&self, key: &str) -> Vec<String> {
        let items = self.get(key).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn switch(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    fn entries(&self, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.get(key).and_then(Value::as_object).into_iter().flatten()
    }

    fn parsed<T: std::str::FromStr>(&self, key: &str) -> anyhow::Result<Option<T>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| anyhow::anyhow!("invalid value for {key}: {text:?}"))
    }

    fn path(&self, key: &str, default: &str) -> anyhow::Result<PathBuf> {
        let path = self.text(key).map_or_else(|| PathBuf::from(default), PathBuf::from);
        std::path::absolute(&path).with_context(|| format!("cannot make {} absolute", path.display()))
    }
}

impl Settings {
    /// Reads and checks them all.
    ///
    /// # Errors
    /// With the directive that cannot be used.
    pub(super) fn read(reader: &Reader<'_>, as_dockerd: bool) -> anyhow::Result<Self> {
        let (default_host, default_pidfile) = match as_dockerd {
            true => ("unix:///var/run/docker.sock", "/var/run/docker.pid"),
            false => ("unix:///run/shoal/shoal.sock", "/run/shoal.pid"),
        };
        let (tls, guard) = tls(reader)?;
        let mut hosts = reader.list("hosts");
        if hosts.is_empty() {
            hosts.push(default_host.to_owned());
        }
        let debug = reader.switch("debug").unwrap_or(false);
        let log_json = match reader.text("log-format").as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => bail!("invalid log format: {other}"),
        };
        storage_options(reader)?;
        Ok(Self {
            engine: engine(reader, debug)?,
            listen: hosts.iter().map(|host| host::parse(host, guard)).collect::<anyhow::Result<_>>()?,
            guard,
            tls,
            group: reader.text("group"),
            pidfile: reader.path("pidfile", default_pidfile)?,
            log_level: log_level(reader.text("log-level"), debug)?,
            log_json,
            default_advertise_addr: reader.text("swarm-default-advertise-addr").unwrap_or_default(),
            metrics_addr: reader.parsed("metrics-addr").context("expected address:port")?,
            shutdown_timeout: match reader.number("shutdown-timeout") {
                None => Some(Duration::from_secs(15)),
                Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
            },
            oom_score_adjust: match reader.number("oom-score-adjust") {
                Some(score) if !(-1000..=1000).contains(&score) => {
                    bail!("invalid oom-score-adjust {score}: must be between -1000 and 1000")
                }
                score => score,
            },
            registries: Registries::read(reader)?,
            proxies: Proxies::read(reader)?,
            features: features(reader)?,
            experimental: reader.switch("experimental").unwrap_or(false),
        })
    }
}

/// No container could start in a cgroup that leads out of the hierarchy.
fn cgroup_parent(reader: &Reader<'_>) -> anyhow::Result<String> {
    let parent = reader.text("cgroup-parent").unwrap_or_else(|| "/shoal".to_owned());
    if parent.split('/').any(|part| part == "..") {
        bail!("invalid cgroup-parent {parent:?}: it must not contain \"..\"");
    }
    Ok(parent)
}

fn engine(reader: &Reader<'_>, debug: bool) -> anyhow::Result<EngineOptions> {
    let runtimes = runtimes(reader)?;
    let remap = remap(reader)?;
    let data_root = reader.path("data-root", "/var/lib/shoal")?;
    let mut options = EngineOptions {
        // As dockerd: what has the ids of one map is of no use with others.
        data_root: remap.as_ref().map_or_else(|| data_root.clone(), |map| data_root.join(map.folder())),
        remap,
        exec_root: reader.path("exec-root", "/run/shoal")?,
        cgroup_parent: cgroup_parent(reader)?,
        labels: labels(&reader.list("labels"))?,
        runtimes,
        init_program: reader.text("init-path").map(PathBuf::from),
        debug,
        joins_cluster: true,
        bip: match reader.text("bip") {
            None => None,
            Some(bip) => Some(bip.parse().map_err(|_| {
                anyhow::anyhow!("invalid bip {bip:?}: expected an address with a prefix length, as 172.17.0.1/16")
            })?),
        },
        local_networks: local_networks(reader)?,
        containers: containers(reader)?,
        live_restore: reader.switch("live-restore").unwrap_or(true),
        generic_resources: generic_resources(&reader.list("node-generic-resources"))?,
        ..EngineOptions::default()
    };
    if let Some(name) = reader.text("default-runtime") {
        if !options.is_inner_runtime(&name) && !options.runtimes.contains_key(&name) {
            bail!("specified default runtime '{name}' does not exist: add it with --add-runtime");
        }
        options.default_runtime = name;
    }
    for option in reader.list("exec-opts") {
        match option.split_once('=') {
            Some(("native.cgroupdriver", "cgroupfs")) => {}
            Some(("native.cgroupdriver", driver)) => {
                bail!(
                    "exec-opts native.cgroupdriver={driver} is not offered: the daemon makes cgroups itself (cgroupfs)"
                )
            }
            _ => bail!("invalid exec-opts {option:?}: native.cgroupdriver=cgroupfs is known"),
        }
    }
    Ok(options)
}

/// The ids of containers, when they are in user namespaces.
fn remap(reader: &Reader<'_>) -> anyhow::Result<Option<IdMap>> {
    let Some(user) = reader.text("userns-remap") else { return Ok(None) };
    let map = remap::resolve(&user, &remap::AccountFiles::default()).context("cannot use --userns-remap")?;
    if map.is_none() {
        tracing::warn!("root cannot be remapped with itself: user namespaces are off");
    }
    Ok(map)
}

fn runtimes(reader: &Reader<'_>) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut runtimes = BTreeMap::new();
    for (name, runtime) in reader.entries("runtimes") {
        for (key, value) in runtime.as_object().into_iter().flatten() {
            if key != "path" && !super::directive::Directive::is_off(value) {
                bail!("runtime {name}: {key} is not offered: name a program with path");
            }
        }
        let Some(path) = runtime["path"].as_str().filter(|path| !path.is_empty()) else {
            bail!("runtime {name}: either a runtimeType or a path must be configured, and only path is offered");
        };
        if shoal_engine::options::INNER_RUNTIMES.contains(&name.as_str()) {
            bail!("runtime name '{name}' is reserved");
        }
        runtimes.insert(name.clone(), PathBuf::from(path));
    }
    Ok(runtimes)
}

fn labels(texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            bail!("labels: bad attribute format: {text}");
        };
        if let Some(before) = labels.insert(key.to_owned(), value.to_owned()).filter(|before| before != value) {
            bail!("conflict labels for {key}={value} and {key}={before}");
        }
    }
    Ok(labels)
}

fn generic_resources(texts: &[String]) -> anyhow::Result<BTreeMap<String, i64>> {
    let mut resources = BTreeMap::new();
    for part in texts.iter().flat_map(|text| text.split([',', ';'])) {
        let Some((kind, number)) = part.trim().split_once('=') else {
            bail!("node-generic-resources {part:?}: expected kind=number");
        };
        match number.parse::<i64>() {
            Ok(number) if number > 0 => *resources.entry(kind.to_owned()).or_insert(0) += number,
            _ => bail!(
                "node-generic-resources {part:?}: named resources are not offered, only counted ones: kind=number"
            ),
        }
    }
    Ok(resources)
}

fn local_networks(reader: &Reader<'_>) -> anyhow::Result<LocalNetworkOptions> {
    let bridge = match reader.text("bridge").as_deref() {
        None => DefaultBridge::Own,
        Some("none") => DefaultBridge::Absent,
        Some(name) => DefaultBridge::Existing(name.to_owned()),
    };
    if bridge != DefaultBridge::Own && reader.text("bip").is_some() {
        bail!("you specified -b & --bip, mutually exclusive options. Please specify only one");
    }
    let (rules, icc) = (reader.switch("iptables").unwrap_or(true), reader.switch("icc").unwrap_or(true));
    if !rules && !icc {
        bail!(
            "you specified --iptables=false with --icc=false. ICC=false uses iptables to function. Please set --icc or --iptables to true"
        );
    }
    let mtu = match reader.number("mtu") {
        None | Some(0) => None,
        Some(mtu) if (68..=65535).contains(&mtu) => u32::try_from(mtu).ok(),
        Some(mtu) => bail!("invalid default MTU: {mtu}"),
    };
    let mut gateways = reader.list("host-gateway-ips");
    gateways.extend(reader.text("host-gateway-ip"));
    let host_gateway = match gateways.as_slice() {
        [] => None,
        [one] => Some(one.parse().map_err(|_| anyhow::anyhow!("host-gateway-ip {one:?} is no IPv4 address"))?),
        _ => bail!("only one IPv4 host gateway IP address can be specified"),
    };
    let driver_options: BTreeMap<String, BTreeMap<String, String>> =
        reader.entries("default-network-opts").map(|(driver, options)| (driver.clone(), texts(options))).collect();
    if let Some(driver) = driver_options.keys().find(|driver| *driver != "bridge") {
        bail!("default-network-opts of driver {driver:?} are not offered: only those of bridge");
    }
    Ok(LocalNetworkOptions {
        bridge,
        fixed_cidr: reader.parsed("fixed-cidr")?,
        default_gateway: reader.parsed("default-gateway")?,
        mtu,
        icc,
        masquerade: reader.switch("ip-masq").unwrap_or(true),
        binding: reader.parsed("ip")?.unwrap_or(Ipv4Addr::UNSPECIFIED),
        forwarding: reader.switch("ip-forward").unwrap_or(true),
        rules,
        pools: pools(reader)?,
        driver_options,
        host_gateway,
    })
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn pools(reader: &Reader<'_>) -> anyhow::Result<Vec<AddressPool>> {
    let items = reader.get("default-address-pools").and_then(Value::as_array).into_iter().flatten();
    items
        .map(|pool| {
            let (base, size) = (pool["base"].as_str().unwrap_or_default(), pool["size"].as_i64().unwrap_or_default());
            let net: Ipv4Net =
                base.parse().map_err(|_| anyhow::anyhow!("invalid base pool {base:?}: expected an IPv4 subnet"))?;
            match u8::try_from(size) {
                Ok(size) if (net.prefix_len()..=30).contains(&size) => Ok(AddressPool { base: net.trunc(), size }),
                _ => bail!("invalid pools provided: a subnet of size {size} does not fit {base}"),
            }
        })
        .collect()
}

fn containers(reader: &Reader<'_>) -> anyhow::Result<ContainerDefaults> {
    let one_of = |key: &str, values: [&str; 2]| match reader.text(key) {
        Some(text) if !values.contains(&text.as_str()) => {
            bail!("{} mode setting is invalid: {text}: it should be {} or {}", key, values[0], values[1])
        }
        text => Ok(text.unwrap_or_default()),
    };
    let log_options = reader.entries("log-opts");
    Ok(ContainerDefaults {
        log: LogConfig {
            kind: reader.text("log-driver").unwrap_or_default(),
            config: log_options.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
        },
        ulimits: reader
            .entries("default-ulimits")
            .map(|(name, limit)| Ulimit {
                name: name.clone(),
                soft: limit["Soft"].as_i64().unwrap_or_default(),
                hard: limit["Hard"].as_i64().unwrap_or_default(),
            })
            .collect(),
        shm_size_bytes: match reader.get("default-shm-size") {
            Some(Value::String(text)) => value::bytes(text).map_err(anyhow::Error::msg)?,
            Some(Value::Number(number)) => number.as_i64().unwrap_or_default(),
            _ => 0,
        },
        ipc_mode: one_of("default-ipc-mode", ["private", "shareable"])?,
        cgroupns_mode: one_of("default-cgroupns-mode", ["private", "host"])?,
        init: reader.switch("init").unwrap_or(false),
        no_new_privileges: reader.switch("no-new-privileges").unwrap_or(false),
        seccomp: match reader.text("seccomp-profile").as_deref() {
            None | Some("builtin" | "default") => SeccompDefault::Builtin,
            Some("unconfined") => SeccompDefault::Unconfined,
            Some(path) => SeccompDefault::Profile {
                path: PathBuf::from(path),
                text: std::fs::read_to_string(path)
                    .with_context(|| format!("opening seccomp profile ({path}) failed"))?,
            },
        },
        dns: dns(reader)?,
        dns_search: reader.list("dns-search"),
        cdi_folders: reader.list("cdi-spec-dirs").into_iter().map(PathBuf::from).collect(),
        dns_options: reader.list("dns-opts"),
    })
}

fn dns(reader: &Reader<'_>) -> anyhow::Result<Vec<String>> {
    let servers = reader.list("dns");
    match servers.iter().find(|server| server.parse::<std::net::IpAddr>().is_err()) {
        Some(wrong) => bail!("dns: IP address is not correctly formatted: {wrong}"),
        None => Ok(servers),
    }
}

fn storage_options(reader: &Reader<'_>) -> anyhow::Result<()> {
    for option in reader.list("storage-opts") {
        // Both say that an old kernel is good enough; it is checked by mounting.
        let name = option.split('=').next().unwrap_or_default().to_ascii_lowercase();
        if !matches!(name.as_str(), "overlay2.override_kernel_check" | "overlay.override_kernel_check") {
            bail!("storage-opts {option:?} is not offered: the disk space of containers is not limited");
        }
    }
    Ok(())
}

fn features(reader: &Reader<'_>) -> anyhow::Result<BTreeMap<String, bool>> {
    let features: BTreeMap<_, _> =
        reader.entries("features").filter_map(|(name, on)| Some((name.clone(), on.as_bool()?))).collect();
    if features.get("containerd-snapshotter") == Some(&true) {
        bail!("feature containerd-snapshotter is not offered: no containerd is used");
    }
    Ok(features)
}

fn log_level(level: Option<String>, debug: bool) -> anyhow::Result<String> {
    match level.as_deref() {
        // As in dockerd, --debug wins.
        None | Some("debug" | "info" | "warn" | "error" | "fatal") if debug => Ok("debug".to_owned()),
        None => Ok("info".to_owned()),
        Some("debug" | "info" | "warn" | "error") => Ok(level.unwrap_or_default()),
        Some("fatal") => Ok("error".to_owned()),
        Some(other) => bail!("invalid logging level: {other}"),
    }
}

fn tls(reader: &Reader<'_>) -> anyhow::Result<(Option<TlsFiles>, Guard)> {
    let (tls, verify) = (reader.switch("tls"), reader.switch("tlsverify"));
    let named = ["tlscacert", "tlscert", "tlskey"].map(|key| reader.text(key).map(PathBuf::from));
    let is_on = tls.unwrap_or(false) || verify.unwrap_or(false);
    let open_on_purpose = tls == Some(false) || verify == Some(false);
    let guard = Guard { tls: is_on, verifies: verify.unwrap_or(false), open_on_purpose };
    if !is_on {
        if !open_on_purpose && named.iter().any(Option::is_some) {
            bail!("tlscacert, tlscert and tlskey are of use with tlsverify or tls only: add one of them");
        }
        return Ok((None, guard));
    }
    let folder = std::env::var_os("DOCKER_CERT_PATH")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
    let [authority, certificate, key] = named;
    let or_default = |named: Option<PathBuf>, name: &str| {
        named.or_else(|| folder.as_ref().map(|folder| folder.join(name)).filter(|path| path.exists()))
    };
    let certificate = or_default(certificate, "cert.pem");
    let key = or_default(key, "key.pem");
    let authority = if guard.verifies { or_default(authority, "ca.pem") } else { None };
    match (certificate, key) {
        (Some(_), Some(_)) if guard.verifies && authority.is_none() => {
            bail!("tlsverify needs tlscacert, tlscert and tlskey")
        }
        (Some(certificate), Some(key)) => Ok((Some(TlsFiles { authority, certificate, key }), guard)),
        _ if guard.verifies => bail!("tlsverify needs tlscacert, tlscert and tlskey"),
        _ => bail!("tls needs tlscert and tlskey"),
    }
}
