//! Is what a user asks for possible? Texts as dockerd's. And the defaults of what was left open.

use std::net::IpAddr;

use shoal_proto::error::Failure;

mod limits;
pub mod logging;
mod platform;
mod support;

pub(crate) use support::Support;

use super::signal;
use crate::cdi;
use crate::model::{ContainerConfig, HealthConfig, HostConfig, RestartPolicy, UpdateRequest};
use crate::options::{EngineOptions, LIBCONTAINER_RUNTIME};
use crate::runtime::capabilities;

const MIB: i64 = 1024 * 1024;
/// The kernel's.
const LONGEST_HOST_NAME: usize = 64;
/// Paths of `/proc` and `/sys` hidden from containers.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths of `/proc` that are read-only in containers.
const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn invalid<T>(message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::invalid(message))
}

/// Checks the container's own configuration.
///
/// # Errors
/// With what is wrong.
pub fn config(config: &ContainerConfig) -> Result<(), Failure> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        ));
    }
    if let Some(entry) = config.env.iter().flatten().find(|entry| entry.is_empty() || entry.starts_with('=')) {
        return invalid(format!("invalid environment variable: {entry}"));
    }
    if !config.stop_signal.is_empty() {
        signal::parse(&config.stop_signal)?;
    }
    for port in config.exposed_ports.iter().flatten().map(|(port, _)| port) {
        super::ports::parse_port(port)?;
    }
    super::endpoint::check_mac(&config.mac_address)?;
    if config.hostname.len() > LONGEST_HOST_NAME || config.domainname.len() > LONGEST_HOST_NAME {
        return invalid(format!("invalid hostname or domain name: longer than {LONGEST_HOST_NAME} bytes"));
    }
    if let Some(health) = &config.healthcheck {
        check_health(health)?;
    }
    Ok(())
}

fn check_health(health: &HealthConfig) -> Result<(), Failure> {
    for (name, value) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ] {
        if value != 0 && value < 1_000_000 {
            return invalid(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    if health.retries < 0 {
        return invalid("Retries in Healthcheck cannot be negative");
    }
    match health.test.as_deref().unwrap_or_default() {
        [] => Ok(()),
        [kind, ..] if ["NONE", "CMD", "CMD-SHELL"].contains(&kind.as_str()) => Ok(()),
        [kind, ..] => invalid(format!("Unknown healthcheck type '{kind}' (expected 'CMD')")),
    }
}

/// Leaves out what this host's cgroups cannot limit; gives warnings.
///
/// # Errors
/// With what cannot be left out.
pub fn supported(host: &mut HostConfig) -> Result<Vec<String>, Failure> {
    Support::of(&crate::stats::Cgroups::of_host()).discard(host)
}

/// Checks how the host is to run it; gives warnings.
///
/// # Errors
/// With what is wrong.
pub fn host_config(
    options: &EngineOptions,
    config: &ContainerConfig,
    host: &HostConfig,
) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    restart_policy(&host.restart_policy)?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return invalid("can't create 'AutoRemove' container with restart policy");
    }
    limits::check(host)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return invalid(format!("Invalid value {}, range for oom score adj is [-1000, 1000]", host.oom_score_adj));
    }
    if host.shm_size < 0 {
        return invalid("SHM size can not be less than 0");
    }
    runtime(options, &host.runtime)?;
    platform::check(host)?;
    capabilities(host)?;
    super::spec_input::check_security(&options.containers, host)?;
    logging::LogOptions::read(&host.log_config)?;
    namespaces(config, host)?;
    remapped(options, host)?;
    if let Some(path) = host.tmpfs.iter().flatten().map(|(path, _)| path).find(|path| !path.starts_with('/')) {
        return invalid(format!("invalid mount path: '{path}' mount path must be absolute"));
    }
    super::ports::publish_list(config, host)?;
    for entry in host.extra_hosts.iter().flatten() {
        extra_host(entry)?;
    }
    for address in host.dns.iter().flatten() {
        if address.parse::<IpAddr>().is_err() {
            return invalid(format!("invalid IP address in DNS list: {address}"));
        }
    }
    if let Some(option) = host.storage_opt.iter().flatten().map(|(name, _)| name).find(|name| *name != "size") {
        return invalid(format!("Unknown option {option}"));
    }
    if host.storage_opt.as_ref().is_some_and(|options| !options.is_empty()) {
        return invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option: not offered here",
        );
    }
    cdi::names(host.device_requests.as_deref().unwrap_or_default())?;
    let published = host.publish_all_ports || host.port_bindings.as_ref().is_some_and(|map| !map.is_empty());
    if published && host.network_mode == "host" {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of \
             resources."
                .to_owned(),
        );
    }
    if host.kernel_memory > 0 || host.kernel_memory_tcp > 0 {
        warnings.push("Kernel memory limits are ignored: the kernel has no such limit any more".to_owned());
    }
    Ok(warnings)
}

fn capabilities(host: &HostConfig) -> Result<(), Failure> {
    for (field, list) in [("CapAdd", &host.cap_add), ("CapDrop", &host.cap_drop)] {
        if let Some(name) = list.iter().flatten().find_map(|name| capabilities::unknown(name)) {
            return invalid(format!("invalid {field}: unknown capability: \"{name}\""));
        }
    }
    Ok(())
}

/// Checks a restart policy.
///
/// # Errors
/// With what is wrong.
pub fn restart_policy(policy: &RestartPolicy) -> Result<(), Failure> {
    let count = policy.maximum_retry_count;
    match policy.name.as_str() {
        "on-failure" if count < 0 => invalid("invalid restart policy: maximum retry count cannot be negative"),
        "on-failure" => Ok(()),
        "" | "no" | "always" | "unless-stopped" if count > 0 => {
            invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'")
        }
        "" | "no" | "always" | "unless-stopped" if count < 0 => invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure' and cannot be negative",
        ),
        "" | "no" | "always" | "unless-stopped" => Ok(()),
        other => invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )),
    }
}

fn runtime(options: &EngineOptions, name: &str) -> Result<(), Failure> {
    if name.is_empty() || options.is_inner_runtime(name) || options.runtimes.contains_key(name) {
        return Ok(());
    }
    invalid(format!("unknown or invalid runtime name: {name}"))
}

fn namespaces(config: &ContainerConfig, host: &HostConfig) -> Result<(), Failure> {
    let shares = host.network_mode.starts_with("container:");
    if shares || host.network_mode == "host" {
        let published = host.publish_all_ports || host.port_bindings.as_ref().is_some_and(|map| !map.is_empty());
        if shares && published {
            return invalid("conflicting options: port publishing and the container type network mode");
        }
        if shares && !config.hostname.is_empty() {
            return invalid("conflicting options: hostname and the network mode");
        }
        if !config.mac_address.is_empty() {
            return invalid("conflicting options: mac-address and the network mode");
        }
        if shares && config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
            return invalid("conflicting options: port exposing and the container type network mode");
        }
        if shares && host.dns.as_ref().is_some_and(|dns| !dns.is_empty()) {
            return invalid("conflicting options: dns and the network mode");
        }
        if shares && host.extra_hosts.as_ref().is_some_and(|hosts| !hosts.is_empty()) {
            return invalid("conflicting options: custom host-to-IP mapping and the network mode");
        }
    }
    if host.network_mode == "container:" {
        return invalid("invalid container format container:<name|id>");
    }
    if !(matches!(host.ipc_mode.as_str(), "" | "none" | "private" | "shareable" | "host")
        || host.ipc_mode.strip_prefix("container:").is_some_and(|name| !name.is_empty()))
    {
        return invalid(format!("invalid IPC mode: {}", host.ipc_mode));
    }
    if !(matches!(host.pid_mode.as_str(), "" | "host")
        || host.pid_mode.strip_prefix("container:").is_some_and(|name| !name.is_empty()))
    {
        return invalid(format!("invalid PID mode: {}", host.pid_mode));
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return invalid(format!("invalid UTS mode: {}", host.uts_mode));
    }
    if host.uts_mode == "host" && !(config.hostname.is_empty() && config.domainname.is_empty()) {
        return invalid("conflicting options: hostname and the UTS mode");
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return invalid(format!("invalid user namespace mode: {}", host.userns_mode));
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "host" | "private") {
        return invalid(format!("invalid cgroup namespace mode: {}", host.cgroupns_mode));
    }
    Ok(())
}

/// What does not go together with a user namespace, in dockerd's words.
fn remapped(options: &EngineOptions, host: &HostConfig) -> Result<(), Failure> {
    if options.remap.is_none() || host.userns_mode == "host" {
        return Ok(());
    }
    if host.privileged {
        return invalid(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
             running privileged mode",
        );
    }
    if host.network_mode == "host" {
        return invalid("cannot share the host's network namespace when user namespaces are enabled");
    }
    if host.pid_mode == "host" {
        return invalid("cannot share the host PID namespace when user namespaces are enabled");
    }
    let runtime = if host.runtime.is_empty() { &options.default_runtime } else { &host.runtime };
    if runtime == LIBCONTAINER_RUNTIME {
        return invalid("the runtime libcontainer has no user namespaces: choose another one, or --userns=host");
    }
    Ok(())
}

fn extra_host(entry: &str) -> Result<(), Failure> {
    let bad = || Failure::invalid(format!("bad format for add-host: \"{entry}\""));
    let (name, address) = entry.split_once([':', '=']).ok_or_else(bad)?;
    if name.is_empty() {
        return Err(bad());
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return invalid(format!("invalid IP address in add-host: \"{address}\""));
    }
    Ok(())
}

/// Fills in what the user left open, so that `inspect` shows what holds.
pub fn fill_in(options: &EngineOptions, host: &mut HostConfig) {
    if host.network_mode.is_empty() {
        "default".clone_into(&mut host.network_mode);
    }
    if host.restart_policy.name.is_empty() {
        "no".clone_into(&mut host.restart_policy.name);
    }
    if host.log_config.kind.is_empty() {
        "json-file".clone_into(&mut host.log_config.kind);
    }
    // As dockerd: what says that there is no limit is as good as nothing.
    host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
    host.memory_swappiness = host.memory_swappiness.filter(|value| *value != -1);
    if host.ipc_mode.is_empty() {
        "private".clone_into(&mut host.ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        // As dockerd: a namespace of its own is the default where cgroups are of version 2.
        let private = crate::stats::Cgroups::of_host().is_unified() && !host.privileged;
        if private { "private" } else { "host" }.clone_into(&mut host.cgroupns_mode);
    }
    if host.shm_size == 0 {
        host.shm_size = 64 * MIB;
    }
    if host.runtime.is_empty() {
        host.runtime.clone_from(&options.default_runtime);
    }
    if host.memory_swap == 0 {
        host.memory_swap = default_swap(host.memory, &crate::stats::Cgroups::of_host());
    }
    if host.oom_kill_disable.is_none() {
        host.oom_kill_disable = Some(false);
    }
    let unconfined = host.security_opt.iter().flatten().any(|option| option == "systempaths=unconfined");
    let open = host.privileged || unconfined;
    let paths = |list: &[&str]| if open { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() };
    host.masked_paths.get_or_insert_with(|| paths(MASKED));
    host.readonly_paths.get_or_insert_with(|| paths(READONLY));
}

/// As dockerd: as much swap as memory, where swap can be limited at all.
fn default_swap(memory: i64, cgroups: &crate::stats::Cgroups) -> i64 {
    if memory > 0 && cgroups.count_swap() { memory.saturating_mul(2) } else { 0 }
}

/// Changes the limits of a host configuration; gives warnings.
///
/// # Errors
/// When the result would be wrong; nothing is changed then.
pub fn update(host: &mut HostConfig, update: &UpdateRequest) -> Result<Vec<String>, Failure> {
    fixed(update)?;
    let mut next = host.clone();
    if !update.restart_policy.name.is_empty() {
        restart_policy(&update.restart_policy)?;
        if next.auto_remove && update.restart_policy.name != "no" {
            return invalid("Restart policy cannot be updated because AutoRemove is enabled for the container");
        }
        next.restart_policy = update.restart_policy.clone();
    }
    if update.nano_cpus > 0 && (next.cpu_period > 0 || next.cpu_quota > 0) {
        return invalid("Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has already been set");
    }
    for (mine, new) in [
        (&mut next.cpu_shares, update.cpu_shares),
        (&mut next.nano_cpus, update.nano_cpus),
        (&mut next.cpu_period, update.cpu_period),
        (&mut next.cpu_quota, update.cpu_quota),
        (&mut next.cpu_realtime_period, update.cpu_realtime_period),
        (&mut next.cpu_realtime_runtime, update.cpu_realtime_runtime),
        (&mut next.memory_reservation, update.memory_reservation),
        (&mut next.memory_swap, update.memory_swap),
    ] {
        if new != 0 {
            *mine = new;
        }
    }
    if update.memory != 0 {
        if update.memory_swap == 0 && next.memory_swap > 0 && update.memory > next.memory_swap {
            return invalid(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            );
        }
        next.memory = update.memory;
    }
    if update.blkio_weight != 0 {
        next.blkio_weight = update.blkio_weight;
    }
    for (mine, new) in [(&mut next.cpuset_cpus, &update.cpuset_cpus), (&mut next.cpuset_mems, &update.cpuset_mems)] {
        if !new.is_empty() {
            mine.clone_from(new);
        }
    }
    if update.pids_limit.is_some() {
        next.pids_limit = update.pids_limit;
    }
    if update.memory_swappiness.is_some() {
        next.memory_swappiness = update.memory_swappiness;
    }
    if update.oom_kill_disable.is_some_and(|disable| Some(disable) != next.oom_kill_disable) {
        return invalid("OomKillDisable of a container cannot be updated: make a new one");
    }
    if update.blkio_weight_device.as_ref().is_some_and(|list| !list.is_empty()) {
        next.blkio_weight_device.clone_from(&update.blkio_weight_device);
    }
    for (mine, new) in [
        (&mut next.blkio_device_read_bps, &update.blkio_device_read_bps),
        (&mut next.blkio_device_write_bps, &update.blkio_device_write_bps),
        (&mut next.blkio_device_read_iops, &update.blkio_device_read_iops),
        (&mut next.blkio_device_write_iops, &update.blkio_device_write_iops),
    ] {
        if new.as_ref().is_some_and(|list| !list.is_empty()) {
            mine.clone_from(new);
        }
    }
    let warnings = supported(&mut next)?;
    limits::check(&next)?;
    *host = next;
    Ok(warnings)
}

/// What a container has for life.
fn fixed(update: &UpdateRequest) -> Result<(), Failure> {
    let some = |list: &Option<Vec<serde_json::Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let asked = [
        ("Devices", some(&update.devices)),
        ("DeviceCgroupRules", some(&update.device_cgroup_rules)),
        ("DeviceRequests", some(&update.device_requests)),
        ("Ulimits", some(&update.ulimits)),
        ("CgroupParent", !update.cgroup_parent.is_empty()),
        ("Init", update.init.is_some()),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((name, _)) => invalid(format!("{name} of a container cannot be updated: make a new one")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &HostConfig) -> String {
        host_config(&EngineOptions::default(), &ContainerConfig::default(), host).expect_err("refused").message
    }

    #[test]
    fn limits_are_checked() {
        let host = HostConfig::default;
        assert_eq!(refused(&HostConfig { memory: MIB, ..host() }), "Minimum memory limit allowed is 6MB");
        assert!(refused(&HostConfig { memory: 20 * MIB, memory_swap: 10 * MIB, ..host() }).contains("memoryswap"));
        assert!(refused(&HostConfig { memory_swap: 10 * MIB, ..host() }).contains("always set the Memory"));
        assert!(refused(&HostConfig { nano_cpus: 1, cpu_period: 1000, ..host() }).contains("Nano CPUs"));
        assert!(refused(&HostConfig { nano_cpus: i64::MAX, ..host() }).starts_with("range of CPUs is from 0.01"));
        assert!(refused(&HostConfig { cpuset_cpus: "3-1".to_owned(), ..host() }).contains("cpuset"));
        assert!(refused(&HostConfig { blkio_weight: 5, ..host() }).contains("blkio"));
    }

    #[test]
    fn policies_are_checked() {
        let policy = |name: &str, maximum_retry_count| RestartPolicy { name: name.to_owned(), maximum_retry_count };
        assert!(restart_policy(&policy("on-failure", 3)).is_ok());
        assert!(restart_policy(&policy("always", 3)).is_err());
        assert!(restart_policy(&policy("sometimes", 0)).is_err());
        let host = HostConfig { auto_remove: true, restart_policy: policy("always", 0), ..HostConfig::default() };
        assert_eq!(refused(&host), "can't create 'AutoRemove' container with restart policy");
    }

    #[test]
    fn a_tmpfs_has_an_absolute_path() {
        let tmpfs =
            |path: &str| HostConfig { tmpfs: Some([(path.to_owned(), String::new())].into()), ..HostConfig::default() };
        assert_eq!(refused(&tmpfs("rel")), "invalid mount path: 'rel' mount path must be absolute");
        host_config(&EngineOptions::default(), &ContainerConfig::default(), &tmpfs("/abs")).expect("absolute");
    }

    #[test]
    fn names_that_do_not_exist_are_refused() {
        let host = HostConfig { runtime: "nope".to_owned(), ..HostConfig::default() };
        assert_eq!(refused(&host), "unknown or invalid runtime name: nope");
        let host = HostConfig { runtime: "runc".to_owned(), ..HostConfig::default() };
        host_config(&EngineOptions::default(), &ContainerConfig::default(), &host).expect("dockerd's own");
    }

    #[test]
    fn configurations_are_checked() {
        let with = |change: fn(&mut ContainerConfig)| {
            let mut subject = ContainerConfig::default();
            change(&mut subject);
            config(&subject)
        };
        assert!(with(|config| config.working_dir = "relative".to_owned()).is_err());
        assert!(with(|config| config.stop_signal = "SIGNOPE".to_owned()).is_err());
        assert!(with(|config| config.env = Some(vec!["=x".to_owned()])).is_err());
        assert!(
            with(|config| config.healthcheck = Some(HealthConfig { interval: 5, ..HealthConfig::default() })).is_err()
        );
        assert!(with(|config| config.stop_signal = "SIGQUIT".to_owned()).is_ok());
    }

    #[test]
    fn sharing_a_network_excludes_its_settings() {
        let host = HostConfig {
            network_mode: "container:x".to_owned(),
            port_bindings: Some([("80/tcp".to_owned(), None)].into()),
            ..HostConfig::default()
        };
        assert!(refused(&host).contains("port publishing"));
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut host = HostConfig { memory: 10 * MIB, ..HostConfig::default() };
        fill_in(&EngineOptions::default(), &mut host);
        assert_eq!((host.memory_swap, host.shm_size), (20 * MIB, 64 * MIB));
        assert_eq!((host.network_mode.as_str(), host.restart_policy.name.as_str()), ("default", "no"));
        let mut host = HostConfig { privileged: true, ..HostConfig::default() };
        fill_in(&EngineOptions::default(), &mut host);
        assert_eq!(host.masked_paths, Some(Vec::new()));
        for (said, kept) in [(0, None), (-1, None), (5, Some(5))] {
            let mut host = HostConfig { pids_limit: Some(said), memory_swappiness: Some(-1), ..HostConfig::default() };
            fill_in(&EngineOptions::default(), &mut host);
            assert_eq!((host.pids_limit, host.memory_swappiness), (kept, None));
        }
    }

    #[test]
    fn swap_is_limited_where_it_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let cgroups = || crate::stats::Cgroups::at(folder.path().to_owned());
        assert_eq!(default_swap(10 * MIB, &cgroups()), 0);
        std::fs::create_dir(folder.path().join("memory")).unwrap();
        std::fs::write(folder.path().join("memory/memory.memsw.limit_in_bytes"), "").unwrap();
        assert_eq!((default_swap(10 * MIB, &cgroups()), default_swap(0, &cgroups())), (20 * MIB, 0));
    }

    #[test]
    fn updates_change_only_what_they_name() {
        let mut host = HostConfig { memory: 10 * MIB, memory_swap: 20 * MIB, cpu_shares: 5, ..HostConfig::default() };
        update(&mut host, &UpdateRequest { memory: 12 * MIB, pids_limit: Some(9), ..UpdateRequest::default() })
            .unwrap();
        assert_eq!((host.memory, host.cpu_shares, host.pids_limit), (12 * MIB, 5, Some(9)));
        let before = host.clone();
        assert!(update(&mut host, &UpdateRequest { memory: 30 * MIB, ..UpdateRequest::default() }).is_err());
        assert_eq!(host, before);
    }
}
