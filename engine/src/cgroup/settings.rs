//! Limits as the files of a cgroup: what an update writes.

use std::io;
use std::path::PathBuf;

use super::limits::{Limits, Throttle};
use super::tree::{Cgroup, Layout};

/// Memory and swap together, of version 1. Kernels have it when they were told to count swap.
const SWAP_LIMIT: &str = "memory.memsw.limit_in_bytes";

/// One file of a cgroup and what is written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The controller, which is the hierarchy on v1.
    pub controller: &'static str,
    /// The file.
    pub file: String,
    /// What is written.
    pub value: String,
}

/// Why limits could not be set.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A limit that cannot be meant.
    #[error(transparent)]
    Invalid(#[from] super::limits::InvalidLimit),
    /// This host cannot enforce it.
    #[error("{0} cannot be limited on this host's cgroups")]
    Unsupported(&'static str),
    /// The host has no cgroups.
    #[error("cannot find the container's cgroup")]
    Cgroup(#[source] io::Error),
    /// The kernel refused a value.
    #[error("cannot set {path:?} to {value:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn setting(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Setting {
    Setting { controller, file: file.into(), value: value.to_string() }
}

/// The settings on a v1 or hybrid host.
pub fn v1(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut add = |controller: &'static str, file: &str, value: Option<String>| {
        settings.extend(value.map(|value| setting(controller, file, value)));
    };
    let text = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    let signed = |value: Option<i64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    let words = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    add("cpu", "cpu.cfs_period_us", text(limits.cpu_period_us));
    add("cpu", "cpu.cfs_quota_us", signed(limits.cpu_quota_us));
    add("cpu", "cpu.shares", text(limits.cpu_shares));
    add("cpu", "cpu.rt_period_us", text(limits.cpu_realtime_period_us));
    add("cpu", "cpu.rt_runtime_us", signed(limits.cpu_realtime_runtime_us));
    add("cpuset", "cpuset.cpus", words(&limits.cpuset_cpus));
    add("cpuset", "cpuset.mems", words(&limits.cpuset_mems));
    add("memory", "memory.limit_in_bytes", signed(limits.memory_bytes));
    add("memory", SWAP_LIMIT, signed(limits.memory_and_swap_bytes));
    add("memory", "memory.soft_limit_in_bytes", signed(limits.memory_reservation_bytes));
    add("memory", "memory.swappiness", limits.memory_swappiness.map(|value| value.to_string()));
    add("memory", "memory.oom_control", limits.oom_kill_disable.then(|| "1".to_owned()));
    add("pids", "pids.max", limits.pids.filter(|limit| *limit != 0).map(or_max));
    add("blkio", "blkio.weight", limits.blkio_weight.filter(|weight| *weight != 0).map(|weight| weight.to_string()));
    for device in &limits.blkio_weight_devices {
        let value = format!("{}:{} {}", device.major, device.minor, device.weight);
        add("blkio", "blkio.weight_device", Some(value));
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", &limits.read_bytes_per_second),
        ("blkio.throttle.write_bps_device", &limits.write_bytes_per_second),
        ("blkio.throttle.read_iops_device", &limits.reads_per_second),
        ("blkio.throttle.write_iops_device", &limits.writes_per_second),
    ];
    for (file, list) in throttles {
        for one in list {
            add("blkio", file, Some(format!("{}:{} {}", one.major, one.minor, one.rate)));
        }
    }
    for (size, bytes) in &limits.huge_pages {
        add("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), Some(bytes.to_string()));
    }
    settings
}

/// The settings on a v2 host.
///
/// # Errors
/// With a limit that v2 does not have.
pub fn v2(limits: &Limits) -> Result<Vec<Setting>, UpdateError> {
    if limits.memory_swappiness.is_some() {
        return Err(UpdateError::Unsupported("swappiness"));
    }
    if limits.oom_kill_disable {
        return Err(UpdateError::Unsupported("the OOM killer"));
    }
    if limits.cpu_realtime_period_us.unwrap_or(0) != 0 || limits.cpu_realtime_runtime_us.unwrap_or(0) != 0 {
        return Err(UpdateError::Unsupported("real-time processor time"));
    }
    let mut settings = Vec::new();
    let mut add = |controller: &'static str, file: &str, value: Option<String>| {
        settings.extend(value.map(|value| setting(controller, file, value)));
    };
    let words = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let quota = limits.cpu_quota_us.filter(|quota| *quota != 0);
    let period = limits.cpu_period_us.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".to_owned(), or_max);
        add("cpu", "cpu.max", Some(format!("{quota} {}", period.unwrap_or(100_000))));
    }
    add("cpu", "cpu.weight", limits.cpu_shares.filter(|shares| *shares != 0).map(|shares| weight(shares).to_string()));
    add("cpuset", "cpuset.cpus", words(&limits.cpuset_cpus));
    add("cpuset", "cpuset.mems", words(&limits.cpuset_mems));
    let memory = limits.memory_bytes.filter(|bytes| *bytes != 0);
    add("memory", "memory.max", memory.map(or_max));
    // Docker counts memory and swap together, v2 counts swap alone.
    let swap = limits.memory_and_swap_bytes.filter(|bytes| *bytes != 0);
    add(
        "memory",
        "memory.swap.max",
        swap.map(|total| or_max(if total < 0 { -1 } else { total - memory.unwrap_or(0) })),
    );
    add("memory", "memory.low", limits.memory_reservation_bytes.filter(|bytes| *bytes != 0).map(or_max));
    add("pids", "pids.max", limits.pids.filter(|limit| *limit != 0).map(or_max));
    let io_weight = |weight: u16| 1 + (u64::from(weight) - 10) * 9999 / 990;
    add(
        "io",
        "io.weight",
        limits.blkio_weight.filter(|weight| *weight != 0).map(|weight| format!("default {}", io_weight(weight))),
    );
    for device in &limits.blkio_weight_devices {
        add("io", "io.weight", Some(format!("{}:{} {}", device.major, device.minor, io_weight(device.weight))));
    }
    let throttles: [(&str, &[Throttle]); 4] = [
        ("rbps", &limits.read_bytes_per_second),
        ("wbps", &limits.write_bytes_per_second),
        ("riops", &limits.reads_per_second),
        ("wiops", &limits.writes_per_second),
    ];
    for (word, list) in throttles {
        for one in list {
            add("io", "io.max", Some(format!("{}:{} {word}={}", one.major, one.minor, one.rate)));
        }
    }
    for (size, bytes) in &limits.huge_pages {
        add("hugetlb", &format!("hugetlb.{size}.max"), Some(or_max(*bytes)));
    }
    Ok(settings)
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// v1's shares (2 to 262144) as v2's weight (1 to 10000), as runc converts them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Sets the limits of a running container; those that are `None` stay as they are.
///
/// # Errors
/// With the first that the kernel refuses. Those before it hold.
pub fn update(cgroup: &str, limits: &Limits) -> Result<(), UpdateError> {
    limits.validate()?;
    apply(&Cgroup::open(cgroup).map_err(UpdateError::Cgroup)?, limits)
}

/// Writes them.
pub(super) fn apply(cgroup: &Cgroup, limits: &Limits) -> Result<(), UpdateError> {
    let mut settings = match cgroup.layout() {
        Layout::V1(_) => v1(limits),
        Layout::V2(_) => v2(limits)?,
    };
    // No limit on swap holds already where the kernel does not count it.
    settings.retain(|one| one.file != SWAP_LIMIT || one.value != "-1" || path(cgroup, one).exists());
    // Some limits bound each other (memory and memory with swap, quota and period): which has to go first depends on
    // whether they grow or shrink. What is refused is tried once more after the others.
    let refused: Vec<&Setting> = settings.iter().filter(|setting| write(cgroup, setting).is_err()).collect();
    refused.into_iter().try_for_each(|setting| write(cgroup, setting))
}

fn path(cgroup: &Cgroup, setting: &Setting) -> PathBuf {
    cgroup.directory(setting.controller).join(&setting.file)
}

fn write(cgroup: &Cgroup, setting: &Setting) -> Result<(), UpdateError> {
    let path = path(cgroup, setting);
    // Not created when missing: a cgroup has the files it has.
    let written = std::fs::OpenOptions::new().write(true).open(&path);
    let written = written.and_then(|mut file| io::Write::write_all(&mut file, setting.value.as_bytes()));
    written.map_err(|source| UpdateError::Write { path, value: setting.value.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|one| format!("{}/{} = {}", one.controller, one.file, one.value)).collect()
    }

    fn some() -> Limits {
        Limits {
            cpu_shares: Some(512),
            cpuset_cpus: Some("0-1".to_owned()),
            memory_bytes: Some(64 << 20),
            memory_and_swap_bytes: Some(128 << 20),
            memory_reservation_bytes: Some(32 << 20),
            pids: Some(-1),
            read_bytes_per_second: vec![Throttle { major: 8, minor: 0, rate: 1_000 }],
            ..Limits::default()
        }
        .with_nano_cpus(1_500_000_000)
    }

    #[test]
    fn v1_has_a_file_for_each() {
        assert_eq!(
            lines(&v1(&some())),
            [
                "cpu/cpu.cfs_period_us = 100000",
                "cpu/cpu.cfs_quota_us = 150000",
                "cpu/cpu.shares = 512",
                "cpuset/cpuset.cpus = 0-1",
                "memory/memory.limit_in_bytes = 67108864",
                "memory/memory.memsw.limit_in_bytes = 134217728",
                "memory/memory.soft_limit_in_bytes = 33554432",
                "pids/pids.max = max",
                "blkio/blkio.throttle.read_bps_device = 8:0 1000",
            ]
        );
    }

    #[test]
    fn v2_counts_swap_alone_and_weighs() {
        assert_eq!(
            lines(&v2(&some()).unwrap()),
            [
                "cpu/cpu.max = 150000 100000",
                "cpu/cpu.weight = 20",
                "cpuset/cpuset.cpus = 0-1",
                "memory/memory.max = 67108864",
                "memory/memory.swap.max = 67108864",
                "memory/memory.low = 33554432",
                "pids/pids.max = max",
                "io/io.max = 8:0 rbps=1000",
            ]
        );
    }

    #[test]
    fn what_v2_does_not_have_is_refused() {
        let swappiness = Limits { memory_swappiness: Some(10), ..Limits::default() };
        assert!(matches!(v2(&swappiness), Err(UpdateError::Unsupported("swappiness"))));
        let killer = Limits { oom_kill_disable: true, ..Limits::default() };
        assert!(v2(&killer).is_err());
    }

    #[test]
    fn nothing_asked_writes_nothing() {
        assert_eq!(v1(&Limits::default()), []);
        assert_eq!(v2(&Limits::default()).unwrap(), []);
    }
}
