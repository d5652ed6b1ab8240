//! Options of `shoal daemon`: dockerd's names for dockerd's things, on the command line and in the config file.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;

use super::tls::TlsFiles;

/// The command line of `shoal daemon`. Absent means: take the config file's value, then the default.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DaemonOptions {
    /// Folder for everything that must survive a reboot [default: /var/lib/shoal]
    #[arg(long, alias = "graph", short = 'g', value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Folder for sockets and state of what runs [default: /run/shoal]
    #[arg(long, value_name = "DIR")]
    pub exec_root: Option<PathBuf>,
    /// Where the API listens: unix:///path, tcp://address:port or fd:// (sockets passed by systemd); TCP beyond
    /// loopback needs --tlsverify [default: unix:///run/shoal/shoal.sock]
    #[arg(long = "host", short = 'H', value_name = "URL")]
    pub hosts: Vec<String>,
    /// Use TLS on TCP, and let in only clients with a certificate of --tlscacert
    #[arg(long)]
    pub tlsverify: bool,
    /// Authority that clients' certificates must come from, PEM
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// The daemon's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// File that holds the daemon's process id while it runs [default: /run/shoal.pid]
    #[arg(long, short = 'p', value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Cgroup below which every container gets its own [default: /shoal]
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// JSON file with the same options; it may be absent unless it is named here [default: /etc/shoal/daemon.json]
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Label of this node, key=value; constraints match it as engine.labels.key
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Log what the daemon does in detail
    #[arg(long, short = 'D')]
    pub debug: bool,
    /// debug, info, warn, error [default: info]
    #[arg(long, short = 'l', value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Address and prefix length of the default bridge, for example 172.17.0.1/16
    #[arg(long, value_name = "CIDR")]
    pub bip: Option<String>,
    /// One more OCI runtime, name=path
    #[arg(long = "add-runtime", value_name = "NAME=PATH")]
    pub add_runtimes: Vec<String>,
    /// Runtime of containers that name none; "shoal" is the built-in one
    #[arg(long, value_name = "NAME")]
    pub default_runtime: Option<String>,
    /// Address or interface that this node advertises when init and join name none
    #[arg(long, value_name = "ADDR")]
    pub swarm_default_advertise_addr: Option<String>,
    /// Check the options and the config file, then end
    #[arg(long)]
    pub validate: bool,
}

/// The same as JSON. A key that is not known is an error, as in dockerd.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct ConfigFile {
    data_root: Option<PathBuf>,
    exec_root: Option<PathBuf>,
    hosts: Option<Vec<String>>,
    tlsverify: Option<bool>,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    pidfile: Option<PathBuf>,
    cgroup_parent: Option<String>,
    labels: Option<Vec<String>>,
    debug: Option<bool>,
    log_level: Option<String>,
    bip: Option<String>,
    runtimes: Option<BTreeMap<String, RuntimeEntry>>,
    default_runtime: Option<String>,
    swarm_default_advertise_addr: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuntimeEntry {
    path: PathBuf,
}

/// Where the API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP: with TLS, or on loopback.
    Tcp(SocketAddr),
    /// The sockets that a service manager passes.
    Passed,
}

/// The options with nothing left open.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// See [`DaemonOptions::data_root`].
    pub data_root: PathBuf,
    /// See [`DaemonOptions::exec_root`].
    pub exec_root: PathBuf,
    /// See [`DaemonOptions::hosts`].
    pub listen: Vec<Listen>,
    /// See [`DaemonOptions::tlsverify`]; `None` is without.
    pub tls: Option<TlsFiles>,
    /// See [`DaemonOptions::pidfile`].
    pub pidfile: PathBuf,
    /// See [`DaemonOptions::cgroup_parent`].
    pub cgroup_parent: String,
    /// See [`DaemonOptions::labels`].
    pub labels: BTreeMap<String, String>,
    /// See [`DaemonOptions::debug`].
    pub debug: bool,
    /// See [`DaemonOptions::log_level`].
    pub log_level: String,
    /// See [`DaemonOptions::bip`].
    pub bip: Option<ipnet::Ipv4Net>,
    /// See [`DaemonOptions::add_runtimes`].
    pub runtimes: BTreeMap<String, PathBuf>,
    /// See [`DaemonOptions::default_runtime`]; empty is the built-in one.
    pub default_runtime: String,
    /// See [`DaemonOptions::swarm_default_advertise_addr`].
    pub default_advertise_addr: String,
}

/// Puts command line, config file and defaults together.
///
/// # Errors
/// When a value cannot be used, the named config file cannot be read, or an option is given in both places.
pub(crate) fn settle(options: DaemonOptions) -> anyhow::Result<Settings> {
    let file = read_config_file(options.config_file.as_deref())?;
    let runtimes_file = file
        .runtimes
        .map(|runtimes| runtimes.into_iter().map(|(name, entry)| (name, entry.path)).collect::<BTreeMap<_, _>>());
    let hosts = one_of("hosts", (!options.hosts.is_empty()).then_some(options.hosts), file.hosts)?
        .unwrap_or_else(|| vec!["unix:///run/shoal/shoal.sock".to_owned()]);
    let labels = one_of("labels", (!options.labels.is_empty()).then_some(options.labels), file.labels)?;
    let runtimes = one_of(
        "runtimes",
        (!options.add_runtimes.is_empty()).then(|| pairs("--add-runtime", &options.add_runtimes)).transpose()?.map(
            |runtimes| runtimes.into_iter().map(|(name, path)| (name, PathBuf::from(path))).collect::<BTreeMap<_, _>>(),
        ),
        runtimes_file,
    )?
    .unwrap_or_default();
    let debug = options.debug || file.debug.unwrap_or(false);
    let default_runtime = one_of("default-runtime", options.default_runtime, file.default_runtime)?.unwrap_or_default();
    if !matches!(default_runtime.as_str(), "" | "shoal") && !runtimes.contains_key(&default_runtime) {
        bail!("default runtime {default_runtime:?} is not among the runtimes: add it with --add-runtime");
    }
    let bip = one_of("bip", options.bip, file.bip)?;
    let tls = tls(
        options.tlsverify || file.tlsverify.unwrap_or(false),
        [
            one_of("tlscacert", options.tlscacert, file.tlscacert)?,
            one_of("tlscert", options.tlscert, file.tlscert)?,
            one_of("tlskey", options.tlskey, file.tlskey)?,
        ],
    )?;
    Ok(Settings {
        data_root: absolute(one_of("data-root", options.data_root, file.data_root)?, "/var/lib/shoal")?,
        exec_root: absolute(one_of("exec-root", options.exec_root, file.exec_root)?, "/run/shoal")?,
        listen: hosts.iter().map(|host| parse_host(host, tls.is_some())).collect::<anyhow::Result<_>>()?,
        tls,
        pidfile: absolute(one_of("pidfile", options.pidfile, file.pidfile)?, "/run/shoal.pid")?,
        cgroup_parent: one_of("cgroup-parent", options.cgroup_parent, file.cgroup_parent)?
            .unwrap_or_else(|| "/shoal".to_owned()),
        labels: pairs("--label", &labels.unwrap_or_default())?,
        debug,
        log_level: log_level(one_of("log-level", options.log_level, file.log_level)?, debug)?,
        bip: bip.map(|bip| bip.parse().with_context(|| format!("invalid --bip {bip:?}"))).transpose()?,
        runtimes,
        default_runtime: if default_runtime == "shoal" { String::new() } else { default_runtime },
        default_advertise_addr: one_of(
            "swarm-default-advertise-addr",
            options.swarm_default_advertise_addr,
            file.swarm_default_advertise_addr,
        )?
        .unwrap_or_default(),
    })
}

fn read_config_file(named: Option<&Path>) -> anyhow::Result<ConfigFile> {
    let path = named.unwrap_or(Path::new("/etc/shoal/daemon.json"));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(ConfigFile::default());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read the config file {}", path.display())),
    };
    serde_json::from_str(&text).with_context(|| format!("cannot use the config file {}", path.display()))
}

/// dockerd refuses an option that stands in both places, because nobody can tell which was meant.
fn one_of<T>(name: &str, flag: Option<T>, file: Option<T>) -> anyhow::Result<Option<T>> {
    match (flag, file) {
        (Some(_), Some(_)) => bail!("{name} is given on the command line and in the config file: remove one of them"),
        (flag, file) => Ok(flag.or(file)),
    }
}

fn absolute(path: Option<PathBuf>, default: &str) -> anyhow::Result<PathBuf> {
    let path = path.unwrap_or_else(|| PathBuf::from(default));
    std::path::absolute(&path).with_context(|| format!("cannot make {} absolute", path.display()))
}

fn pairs(option: &str, texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let split = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("{option} {text:?} is not of the form key=value"),
    };
    texts.iter().map(split).collect()
}

fn log_level(level: Option<String>, debug: bool) -> anyhow::Result<String> {
    let level = level.unwrap_or_else(|| if debug { "debug" } else { "info" }.to_owned());
    match level.as_str() {
        "debug" | "info" | "warn" | "error" => Ok(level),
        "fatal" => Ok("error".to_owned()),
        _ => bail!("log level {level:?} is none of debug, info, warn, error"),
    }
}

fn tls(verify: bool, files: [Option<PathBuf>; 3]) -> anyhow::Result<Option<TlsFiles>> {
    match (verify, files) {
        (true, [Some(authority), Some(certificate), Some(key)]) => Ok(Some(TlsFiles { authority, certificate, key })),
        (true, _) => bail!("tlsverify needs tlscacert, tlscert and tlskey"),
        (false, [None, None, None]) => Ok(None),
        // TLS that lets everybody in is not offered.
        (false, _) => bail!("tlscacert, tlscert and tlskey are of use with tlsverify only: add it"),
    }
}

fn parse_host(host: &str, has_tls: bool) -> anyhow::Result<Listen> {
    if let Some(path) = host.strip_prefix("unix://") {
        if !path.starts_with('/') {
            bail!("host {host:?}: the socket's path must be absolute");
        }
        return Ok(Listen::Unix(PathBuf::from(path)));
    }
    if host == "fd://" {
        return Ok(Listen::Passed);
    }
    let Some(addr) = host.strip_prefix("tcp://") else {
        bail!("host {host:?} is none of unix:///path, tcp://address:port and fd://");
    };
    let addr = parse_tcp(addr, has_tls)
        .with_context(|| format!("host {host:?}: expected tcp://address:port; the address may be localhost"))?;
    if !addr.ip().is_loopback() && !has_tls {
        bail!(
            "host {host:?}: the API is root on this machine, so without TLS it listens on loopback only; use \
             --tlsverify with --tlscacert, --tlscert and --tlskey"
        );
    }
    Ok(Listen::Tcp(addr))
}

/// As in dockerd no address is loopback, and the port is by default 2375, with TLS 2376.
fn parse_tcp(text: &str, has_tls: bool) -> Option<SocketAddr> {
    let text = text.trim_end_matches('/');
    if let Ok(addr) = text.parse() {
        return Some(addr);
    }
    let default_port = if has_tls { 2376 } else { 2375 };
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()?),
        None => (text, default_port),
    };
    let ip = match name {
        "" | "localhost" => Ipv4Addr::LOCALHOST,
        name => name.parse().ok()?,
    };
    Some(SocketAddr::new(ip.into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(json: &str, options: DaemonOptions) -> anyhow::Result<Settings> {
        let path =
            std::env::temp_dir().join(format!("shoal-options-{}-{:p}.json", std::process::id(), &raw const options));
        std::fs::write(&path, json).expect("write");
        let settled = settle(DaemonOptions { config_file: Some(path.clone()), ..options });
        std::fs::remove_file(path).expect("remove");
        settled
    }

    #[test]
    fn the_file_fills_what_the_command_line_leaves_open() {
        let options = DaemonOptions { data_root: Some("/data".into()), ..DaemonOptions::default() };
        let settings = with_file(r#"{"labels": ["zone=a"], "hosts": ["unix:///x.sock"]}"#, options).expect("settings");
        assert_eq!(settings.data_root, PathBuf::from("/data"));
        assert_eq!(settings.labels["zone"], "a");
        assert_eq!(settings.listen, vec![Listen::Unix("/x.sock".into())]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let cases = [
            (r#"{"lables": []}"#, DaemonOptions::default(), "lables"),
            (
                r#"{"data-root": "/x"}"#,
                DaemonOptions { data_root: Some("/y".into()), ..Default::default() },
                "data-root",
            ),
            ("{}", DaemonOptions { labels: vec!["zone".into()], ..Default::default() }, "--label"),
            ("{}", DaemonOptions { hosts: vec!["tcp://0.0.0.0:2375".into()], ..Default::default() }, "loopback"),
            ("{}", DaemonOptions { hosts: vec!["tcp://example.org:2375".into()], ..Default::default() }, "localhost"),
            ("{}", DaemonOptions { hosts: vec!["npipe://x".into()], ..Default::default() }, "none of"),
            ("{}", DaemonOptions { tlsverify: true, ..Default::default() }, "tlscacert"),
            (r#"{"tlskey": "/k"}"#, DaemonOptions::default(), "tlsverify"),
            ("{}", DaemonOptions { bip: Some("172.17.0.1".into()), ..Default::default() }, "--bip"),
            ("{}", DaemonOptions { log_level: Some("loud".into()), ..Default::default() }, "loud"),
            ("{}", DaemonOptions { default_runtime: Some("runc".into()), ..Default::default() }, "runc"),
        ];
        for (json, options, expected) in cases {
            let error = format!("{:#}", with_file(json, options).expect_err(expected));
            assert!(error.contains(expected), "{error:?} does not name {expected:?}");
        }
    }

    #[test]
    fn hosts_are_read_as_dockerd_reads_them() {
        let tcp = |addr: &str| Listen::Tcp(addr.parse().expect("address"));
        for (host, expected) in [
            ("fd://", Listen::Passed),
            ("tcp://127.0.0.1:2375", tcp("127.0.0.1:2375")),
            ("tcp://localhost:1234", tcp("127.0.0.1:1234")),
            ("tcp://localhost", tcp("127.0.0.1:2375")),
            ("tcp://:99/", tcp("127.0.0.1:99")),
            ("tcp://[::1]:2375", tcp("[::1]:2375")),
        ] {
            assert_eq!(parse_host(host, false).expect(host), expected);
        }
        assert_eq!(parse_host("tcp://0.0.0.0", true).expect("with TLS"), tcp("0.0.0.0:2376"));
        assert!(parse_host("tcp://0.0.0.0:2376", false).is_err());
        let file = |name: &str| Some(PathBuf::from(name));
        assert!(tls(true, [file("ca"), file("cert"), file("key")]).expect("all are there").is_some());
    }

    #[test]
    fn a_named_config_file_must_exist() {
        let options =
            DaemonOptions { config_file: Some("/nonexistent/daemon.json".into()), ..DaemonOptions::default() };
        assert!(settle(options).is_err());
    }
}
