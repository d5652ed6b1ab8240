//! What the runtime is asked for: a container's configuration with everything resolved.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_proto::error::{ErrorKind, Failure, chain};

use super::launch::{Disk, ResolvedMount};
use super::record::{MountKind, Record};
use crate::cgroup::limits::{DeviceWeight, Limits, Throttle};
use crate::engine::Inner;
use crate::model::{HostConfig, ThrottleDevice};
use crate::network::Sandbox;
use crate::options::{ContainerDefaults, SeccompDefault};
use crate::remap::IdMap;
use crate::runtime::spec::{
    CapabilityChange, DeviceInput, MountInput, MountKind as SpecMount, NamespaceMode, Propagation, SeccompChoice, Shm,
    SpecInput, UlimitInput,
};
use crate::runtime::user::ContainerUser;

/// Where distributions put static init programs.
const INIT_PROGRAMS: &[&str] =
    &["/usr/bin/tini-static", "/usr/libexec/docker/docker-init", "/usr/bin/docker-init", "/sbin/docker-init"];
/// Variables that every container has, and what is given to a terminal.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The description of a container that is about to start. `namespace` is its network; `None` is the host's. Blocks.
pub(crate) fn describe(
    inner: &Arc<Inner>,
    record: &Record,
    disk: &Disk,
    sandbox: Option<Sandbox>,
    rootfs: PathBuf,
    user: ContainerUser,
) -> Result<SpecInput, Failure> {
    let (config, host) = (&record.config, &record.host_config);
    let security = Security::read(&inner.current().containers, host)?;
    let (ipc, shm) = ipc(inner, host)?;
    let user_namespace = user_namespace(inner, host, sandbox.as_ref(), &user)?;
    let mut args = vec![record.path.clone()];
    args.extend(record.args.iter().cloned());
    Ok(SpecInput {
        id: record.id.clone(),
        rootfs,
        read_only_root: host.readonly_rootfs,
        args,
        env: environment(record, super::links::environment(inner, record)?),
        cwd: config.working_dir.clone(),
        user,
        terminal: config.tty,
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        capabilities: CapabilityChange {
            add: host.cap_add.clone().unwrap_or_default(),
            drop: host.cap_drop.clone().unwrap_or_default(),
        },
        writable_cgroups: security.writable_cgroups,
        seccomp: security.seccomp,
        apparmor_profile: security.apparmor,
        masked_paths: host.masked_paths.clone(),
        read_only_paths: host.readonly_paths.clone(),
        no_new_privileges: security.no_new_privileges,
        privileged: host.privileged,
        mounts: mounts(record, disk)?,
        shm,
        // Those of a network that belongs to a user namespace were set when it was made, and its ids do not go so far.
        default_network_sysctls: sandbox.is_some() && user_namespace.is_none(),
        network: sandbox.map_or(NamespaceMode::Host, |sandbox| NamespaceMode::Join(sandbox.path)),
        user_namespace,
        ipc,
        pid: pid(inner, host)?,
        uts: if host.uts_mode == "host" { NamespaceMode::Host } else { NamespaceMode::Private },
        cgroup_namespace: if host.cgroupns_mode == "host" { NamespaceMode::Host } else { NamespaceMode::Private },
        ulimits: host
            .ulimits
            .iter()
            .flatten()
            .map(|limit| UlimitInput { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
            .collect(),
        sysctls: host.sysctls.clone().unwrap_or_default(),
        oom_score_adj: oom_score(host.oom_score_adj),
        devices: host
            .devices
            .iter()
            .flatten()
            .map(|device| DeviceInput {
                path_on_host: device.path_on_host.clone().into(),
                path_in_container: device.path_in_container.clone().into(),
                permissions: device.cgroup_permissions.clone(),
            })
            .collect(),
        device_cgroup_rules: host.device_cgroup_rules.clone().unwrap_or_default(),
        init: init_program(inner, host)?,
        annotations: host.annotations.clone().unwrap_or_default(),
        cgroup: super::launch::cgroup_of(inner, record),
        limits: limits(host)?,
    })
}

/// The user namespace and its ids, which the process's have to be among.
fn user_namespace(
    inner: &Inner,
    host: &HostConfig,
    sandbox: Option<&Sandbox>,
    user: &ContainerUser,
) -> Result<Option<(PathBuf, IdMap)>, Failure> {
    let Some(map) = inner.id_map(host) else { return Ok(None) };
    // Without one to join there is no start: the host's would be the wrong one.
    let missing = || Failure::conflict("the container has no user namespace to join");
    let path = sandbox.and_then(|sandbox| sandbox.user.clone()).ok_or_else(missing)?;
    let groups = std::iter::once(user.gid).chain(user.additional_gids.iter().copied());
    if let Some(gid) = groups.into_iter().find(|gid| map.owner_on_host((user.uid, *gid)).is_none()) {
        return Err(Failure::invalid(format!(
            "user {} with group {gid} is outside of the range of ids of --userns-remap",
            user.uid
        )));
    }
    Ok(Some((path, map.clone())))
}

/// The init of `--init`. The built-in runtime is it itself; a runtime binary needs a static program.
fn init_program(inner: &Arc<Inner>, host: &HostConfig) -> Result<Option<PathBuf>, Failure> {
    if !host.init.unwrap_or(inner.options.containers.init) {
        return Ok(None);
    }
    if let Some(program) = &inner.options.init_program {
        return Ok(Some(program.clone()));
    }
    if host.runtime.is_empty() || inner.current().is_inner_runtime(&host.runtime) {
        return Ok(Some(inner.options.shim_program.clone()));
    }
    let found = INIT_PROGRAMS.iter().map(PathBuf::from).find(|path| path.exists());
    found.map(Some).ok_or_else(|| {
        Failure::invalid(format!("no init program for runtime {}: none of {}", host.runtime, INIT_PROGRAMS.join(", ")))
    })
}

/// Nothing is set when nothing was asked for, unless the daemon's own value would make its containers untouchable.
fn oom_score(asked: i64) -> Option<i32> {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok());
    match i32::try_from(asked) {
        Ok(0) | Err(_) => own.filter(|own| *own < 0).map(|_| 0),
        Ok(asked) => Some(asked),
    }
}

/// The environment: the engine's own, that of links, then the configuration's. A name without a value takes a variable away.
pub(crate) fn environment(record: &Record, of_links: Vec<String>) -> Vec<String> {
    let config = &record.config;
    let mut environment = vec![PATH.to_owned()];
    if !config.hostname.is_empty() {
        environment.push(format!("HOSTNAME={}", config.hostname));
    }
    if config.tty {
        environment.push("TERM=xterm".to_owned());
    }
    environment.extend(of_links);
    overlay(&mut environment, config.env.as_deref().unwrap_or_default());
    environment
}

/// Sets variables over others, in place.
pub(crate) fn overlay(environment: &mut Vec<String>, over: &[String]) {
    for entry in over {
        let (name, keeps) = entry.split_once('=').map_or((entry.as_str(), false), |(name, _)| (name, true));
        let same = |have: &String| have.split_once('=').is_some_and(|(have, _)| have == name);
        let position = environment.iter().position(same);
        match (position, keeps) {
            (Some(position), true) => environment[position].clone_from(entry),
            (Some(position), false) => {
                environment.remove(position);
            }
            (None, true) => environment.push(entry.clone()),
            (None, false) => {}
        }
    }
}

struct Security {
    writable_cgroups: bool,
    seccomp: SeccompChoice,
    apparmor: Option<String>,
    no_new_privileges: bool,
}

impl Security {
    fn read(defaults: &ContainerDefaults, host: &HostConfig) -> Result<Self, Failure> {
        let seccomp = match &defaults.seccomp {
            SeccompDefault::Builtin => SeccompChoice::Default,
            SeccompDefault::Unconfined => SeccompChoice::Unconfined,
            // A privileged container has no profile unless it names one.
            SeccompDefault::Profile { .. } if host.privileged => SeccompChoice::Default,
            SeccompDefault::Profile { text, .. } => seccomp_profile(text)?,
        };
        let mut security =
            Self { writable_cgroups: false, seccomp, apparmor: None, no_new_privileges: defaults.no_new_privileges };
        for option in host.security_opt.iter().flatten() {
            let invalid = |number: u8| Failure::invalid(format!("invalid --security-opt {number}: {option:?}"));
            let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
            match (name, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.seccomp = SeccompChoice::Unconfined,
                ("seccomp", "builtin") => security.seccomp = SeccompChoice::Default,
                ("seccomp", profile) => security.seccomp = seccomp_profile(profile)?,
                ("apparmor", "unconfined") => security.apparmor = None,
                ("apparmor", profile) if !profile.is_empty() => security.apparmor = Some(profile.to_owned()),
                ("systempaths", "unconfined") | ("label", "disable") => {}
                // Fails closed: a label that is not applied would be a promise not kept.
                ("label", _) => {
                    return Err(Failure::new(
                        ErrorKind::NotImplemented,
                        format!("SELinux labels are not offered: {option}"),
                    ));
                }
                ("writable-cgroups", "true" | "false") => security.writable_cgroups = value == "true",
                _ if value.is_empty() => return Err(invalid(1)),
                _ => return Err(invalid(2)),
            }
        }
        Ok(security)
    }
}

/// Checks the security options, on top of the daemon's defaults.
///
/// # Errors
/// With the first that is wrong, or not offered.
pub(crate) fn check_security(defaults: &ContainerDefaults, host: &HostConfig) -> Result<(), Failure> {
    Security::read(defaults, host).map(|_| ())
}

fn seccomp_profile(text: &str) -> Result<SeccompChoice, Failure> {
    let profile = serde_json::from_str(text)
        .map_err(|error| Failure::invalid(format!("Decoding seccomp profile failed: {error}")))?;
    Ok(SeccompChoice::Profile(Arc::new(profile)))
}

/// The process of another container, to take a namespace from.
fn process_of(inner: &Arc<Inner>, reference: &str, what: &str) -> Result<u32, Failure> {
    let other = inner.containers.find(reference)?;
    let state = other.record().state.clone();
    if !state.phase.has_process() {
        return Err(Failure::conflict(format!("cannot join {what} of a non running container: {}", other.id)));
    }
    Ok(state.pid)
}

fn ipc(inner: &Arc<Inner>, host: &HostConfig) -> Result<(NamespaceMode, Shm), Failure> {
    let size_bytes = u64::try_from(host.shm_size).unwrap_or(0);
    let mode = host.ipc_mode.as_str();
    if let Some(other) = mode.strip_prefix("container:") {
        let found = inner.containers.find(other)?;
        let shares = found.record().host_config.ipc_mode == "shareable";
        if !shares {
            return Err(Failure::conflict(format!(
                "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                found.id
            )));
        }
        let pid = process_of(inner, other, "IPC")?;
        let shm = Shm::Bind(PathBuf::from(format!("/proc/{pid}/root/dev/shm")));
        return Ok((NamespaceMode::Join(PathBuf::from(format!("/proc/{pid}/ns/ipc"))), shm));
    }
    Ok(match mode {
        "host" => (NamespaceMode::Host, Shm::Bind(PathBuf::from("/dev/shm"))),
        "none" => (NamespaceMode::Private, Shm::None),
        _ => (NamespaceMode::Private, Shm::Private { size_bytes }),
    })
}

fn pid(inner: &Arc<Inner>, host: &HostConfig) -> Result<NamespaceMode, Failure> {
    match host.pid_mode.strip_prefix("container:") {
        Some(other) => {
            let pid = process_of(inner, other, "PID")?;
            Ok(NamespaceMode::Join(PathBuf::from(format!("/proc/{pid}/ns/pid"))))
        }
        None if host.pid_mode == "host" => Ok(NamespaceMode::Host),
        None => Ok(NamespaceMode::Private),
    }
}

fn mounts(record: &Record, disk: &Disk) -> Result<Vec<MountInput>, Failure> {
    let mut mounts = Vec::with_capacity(disk.mounts.len() + disk.files.len());
    for (source, target) in &disk.files {
        let secret = !super::files::FILES.iter().any(|(_, path)| path == target);
        mounts.push(MountInput {
            destination: PathBuf::from(target),
            read_only: secret || record.host_config.readonly_rootfs,
            kind: SpecMount::Bind {
                source: source.clone(),
                recursive: false,
                propagation: None,
                read_only_non_recursive: false,
            },
        });
    }
    for (path, options) in record.host_config.tmpfs.iter().flatten() {
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        mounts.push(MountInput {
            destination: PathBuf::from(path),
            read_only: false,
            kind: SpecMount::Tmpfs { options },
        });
    }
    for mount in &disk.mounts {
        mounts.push(one_mount(mount)?);
    }
    Ok(mounts)
}

fn one_mount(mount: &ResolvedMount) -> Result<MountInput, Failure> {
    let ResolvedMount { source, record } = mount;
    let kind = match record.kind {
        MountKind::Tmpfs => SpecMount::Tmpfs { options: record.tmpfs_options.clone() },
        MountKind::Bind | MountKind::Volume | MountKind::Image => SpecMount::Bind {
            source: source.clone(),
            recursive: !record.non_recursive,
            propagation: match record.propagation.as_str() {
                "" => None,
                name => Some(
                    Propagation::parse(name)
                        .ok_or_else(|| Failure::invalid(format!("invalid propagation mode: {name}")))?,
                ),
            },
            read_only_non_recursive: record.writable_below,
        },
    };
    Ok(MountInput { destination: PathBuf::from(&record.destination), read_only: !record.writable, kind })
}

/// What a container may use.
///
/// # Errors
/// When a device does not exist.
pub(crate) fn limits(host: &HostConfig) -> Result<Limits, Failure> {
    let some = |value: i64| (value != 0).then_some(value);
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value != 0);
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    let mut weights = Vec::new();
    for device in host.blkio_weight_device.iter().flatten() {
        let (major, minor) = device_number(&device.path)?;
        weights.push(DeviceWeight { major, minor, weight: device.weight });
    }
    Ok(Limits {
        cpu_quota_us: some(host.cpu_quota),
        cpu_period_us: unsigned(host.cpu_period),
        cpu_shares: unsigned(host.cpu_shares),
        cpuset_cpus: text(&host.cpuset_cpus),
        cpuset_mems: text(&host.cpuset_mems),
        cpu_realtime_period_us: unsigned(host.cpu_realtime_period),
        cpu_realtime_runtime_us: some(host.cpu_realtime_runtime),
        memory_bytes: some(host.memory),
        memory_and_swap_bytes: some(host.memory_swap),
        memory_reservation_bytes: some(host.memory_reservation),
        memory_swappiness: host.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        oom_kill_disable: host.oom_kill_disable == Some(true),
        // None at all is only there after an update that lifts the limit.
        pids: host.pids_limit.map(|limit| if limit <= 0 { -1 } else { limit }),
        blkio_weight: (host.blkio_weight != 0).then_some(host.blkio_weight),
        blkio_weight_devices: weights,
        read_bytes_per_second: throttles(host.blkio_device_read_bps.as_deref())?,
        write_bytes_per_second: throttles(host.blkio_device_write_bps.as_deref())?,
        reads_per_second: throttles(host.blkio_device_read_iops.as_deref())?,
        writes_per_second: throttles(host.blkio_device_write_iops.as_deref())?,
        huge_pages: Default::default(),
    }
    .with_nano_cpus(host.nano_cpus))
}

fn throttles(devices: Option<&[ThrottleDevice]>) -> Result<Vec<Throttle>, Failure> {
    devices
        .unwrap_or_default()
        .iter()
        .map(|device| {
            let (major, minor) = device_number(&device.path)?;
            Ok(Throttle { major, minor, rate: device.rate })
        })
        .collect()
}

fn device_number(path: &str) -> Result<(u32, u32), Failure> {
    let stat = rustix::fs::stat(Path::new(path)).map_err(|error| {
        Failure::invalid(format!("cannot find the device {path}: {}", chain(&std::io::Error::from(error))))
    })?;
    Ok((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn the_environment_is_laid_over() {
        let mut subject = record(&"9".repeat(64), "c");
        subject.config.hostname = "box".to_owned();
        subject.config.tty = true;
        subject.config.env = Some(["PATH=/mine", "TERM", "A=b"].map(str::to_owned).to_vec());
        assert_eq!(environment(&subject, vec!["A=linked".to_owned()]), ["PATH=/mine", "HOSTNAME=box", "A=b"]);
    }

    #[test]
    fn security_options_are_read() {
        let host = |options: &[&str]| HostConfig {
            security_opt: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            ..HostConfig::default()
        };
        assert!(
            Security::read(&ContainerDefaults::default(), &host(&["no-new-privileges"])).unwrap().no_new_privileges
        );
        assert!(
            Security::read(&ContainerDefaults::default(), &host(&["no-new-privileges:true"]))
                .unwrap()
                .no_new_privileges
        );
        let security = Security::read(&ContainerDefaults::default(), &host(&["seccomp=unconfined"])).unwrap();
        assert!(matches!(security.seccomp, SeccompChoice::Unconfined));
        for refused in ["seccomp={", "label=type:x", "colour=red", "no-new-privileges=maybe"] {
            assert!(Security::read(&ContainerDefaults::default(), &host(&[refused])).is_err(), "{refused}");
        }
    }

    #[test]
    fn limits_are_translated() {
        let host = HostConfig {
            memory: 1 << 30,
            memory_swap: 2 << 30,
            nano_cpus: 500_000_000,
            pids_limit: Some(50),
            cpu_shares: 0,
            ..HostConfig::default()
        };
        let limits = limits(&host).unwrap();
        assert_eq!((limits.memory_bytes, limits.pids, limits.cpu_shares), (Some(1 << 30), Some(50), None));
        assert_eq!((limits.cpu_quota_us, limits.cpu_period_us), (Some(50_000), Some(100_000)));
    }
}
