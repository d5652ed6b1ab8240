//! What the engine knows of itself and its host.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Inner;
use crate::container::defaults;
use crate::container::lifecycle::Phase;
use crate::container::validate::Support;
use crate::model::{EngineInfo, EngineVersion, RuntimeInfo};
use crate::options::{EngineOptions, SeccompDefault};
use crate::stats::{Cgroups, host_memory};

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The engine's part of `docker info`. Blocks.
pub(super) fn info(inner: &Arc<Inner>) -> EngineInfo {
    let options = &inner.current();
    let (mut running, mut paused, mut stopped) = (0, 0, 0);
    let all = inner.containers.all();
    for container in &all {
        match container.phase() {
            Phase::Running | Phase::Restarting => running += 1,
            Phase::Paused => paused += 1,
            _ => stopped += 1,
        }
    }
    let uname = rustix::system::uname();
    let cgroups = Cgroups::of_host();
    // What it says and what a creation leaves out come from one look.
    let support = Support::of(&cgroups);
    let release = os_release(&std::fs::read_to_string("/etc/os-release").unwrap_or_default());
    let release = |key: &str| release.get(key).cloned().unwrap_or_default();
    let mut info = EngineInfo {
        id: inner.id.clone(),
        containers: all.len(),
        containers_running: running,
        containers_paused: paused,
        containers_stopped: stopped,
        images: inner.images.count(),
        driver: "overlay2".to_owned(),
        driver_status: vec![
            ("Backing Filesystem".to_owned(), backing_file_system(inner)),
            ("Supports d_type".to_owned(), "true".to_owned()),
            ("Native Overlay Diff".to_owned(), "true".to_owned()),
        ],
        memory_limit: support.memory,
        swap_limit: support.swap,
        cpu_cfs_period: support.cpu_cfs,
        cpu_cfs_quota: support.cpu_cfs,
        cpu_shares: support.cpu_shares,
        cpu_set: support.cpuset,
        pids_limit: support.pids,
        ipv4_forwarding: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1"),
        oom_kill_disable: support.oom_kill_disable,
        debug: options.debug,
        n_fd: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        n_goroutines: std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count),
        system_time: inner.now().to_string(),
        logging_driver: defaults::log_driver(options).to_owned(),
        cgroup_driver: "cgroupfs".to_owned(),
        cgroup_version: if cgroups.is_unified() { "2" } else { "1" }.to_owned(),
        n_events_listener: inner.events.listeners(),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        operating_system: release("PRETTY_NAME"),
        os_version: release("VERSION_ID"),
        os_type: "linux".to_owned(),
        architecture: uname.machine().to_string_lossy().into_owned(),
        ncpu: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        mem_total: host_memory(),
        docker_root_dir: options.data_root.to_string_lossy().into_owned(),
        name: options.hostname.clone(),
        labels: options.labels.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        server_version: options.version.clone(),
        runtimes: runtimes(inner),
        default_runtime: options.default_runtime.clone(),
        live_restore_enabled: options.live_restore,
        init_binary: options
            .init_program
            .as_deref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        security_options: security_options(options),
        warnings: None,
    };
    info.warnings = warnings(&info, options);
    info
}

/// What of Docker's this host or these options cannot do, in dockerd's words where it has some.
fn warnings(info: &EngineInfo, options: &EngineOptions) -> Option<Vec<String>> {
    let local = &options.local_networks;
    let missing = [
        (!info.memory_limit, "No memory limit support"),
        (info.memory_limit && !info.swap_limit, "No swap limit support"),
        (!info.oom_kill_disable && info.cgroup_version == "1", "No oom kill disable support"),
        (!info.cpu_cfs_period, "No cpu cfs period support"),
        (!info.cpu_cfs_quota, "No cpu cfs quota support"),
        (!info.cpu_shares, "No cpu shares support"),
        (!info.cpu_set, "No cpuset support"),
        (!info.pids_limit, "No pids limit support"),
        (!info.ipv4_forwarding, "IPv4 forwarding is disabled"),
        (!local.rules, "No rules are written (--iptables=false): ports are not published, addresses are not hidden"),
    ];
    let warnings: Vec<_> =
        missing.iter().filter(|(is_missing, _)| *is_missing).map(|(_, text)| format!("WARNING: {text}")).collect();
    (!warnings.is_empty()).then_some(warnings)
}

fn runtimes(inner: &Arc<Inner>) -> BTreeMap<String, RuntimeInfo> {
    let current = inner.current();
    let binaries = current.runtimes.iter().map(|(name, path)| (name.clone(), path.to_string_lossy().into_owned()));
    current
        .inner_runtimes()
        .map(|name| (name.to_owned(), String::new()))
        .chain(binaries)
        .map(|(name, path)| (name, RuntimeInfo { path }))
        .collect()
}

fn security_options(options: &EngineOptions) -> Vec<String> {
    let (mut shown, defaults) = (Vec::new(), &options.containers);
    if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        shown.push("name=apparmor".to_owned());
    }
    let profile = match &defaults.seccomp {
        SeccompDefault::Builtin => "builtin".into(),
        SeccompDefault::Unconfined => "unconfined".into(),
        SeccompDefault::Profile { path, .. } => path.to_string_lossy(),
    };
    shown.push(format!("name=seccomp,profile={profile}"));
    if defaults.no_new_privileges {
        shown.push("name=no-new-privileges".to_owned());
    }
    if options.remap.is_some() {
        shown.push("name=userns".to_owned());
    }
    if defaults.cgroupns_mode == "private" || (defaults.cgroupns_mode.is_empty() && Cgroups::of_host().is_unified()) {
        shown.push("name=cgroupns".to_owned());
    }
    shown
}

fn backing_file_system(inner: &Arc<Inner>) -> String {
    let kind = rustix::fs::statfs(&inner.options.data_root).map_or(0, |stat| stat.f_type);
    match kind {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        _ => "<unknown>",
    }
    .to_owned()
}

fn os_release(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            Some((key.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        })
        .collect()
}

/// The engine's part of `docker version`.
pub(super) fn version(inner: &Arc<Inner>) -> EngineVersion {
    EngineVersion {
        version: inner.options.version.clone(),
        git_commit: String::new(),
        os: "linux".to_owned(),
        arch: architecture().to_owned(),
        kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
        runtime: (inner.current().default_runtime.clone(), inner.options.version.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let release = os_release("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n\nVERSION_ID='12'\n");
        assert_eq!((release["PRETTY_NAME"].as_str(), release["VERSION_ID"].as_str()), ("Debian GNU/Linux 12", "12"));
    }
}
