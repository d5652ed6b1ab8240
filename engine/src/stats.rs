//! What a container uses: read from its cgroups and its network namespace, shaped as Docker shapes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use shoal_proto::error::Failure;
use shoal_proto::time::Timestamp;

use crate::container::instance::Container;
use crate::container::lifecycle::Phase;
use crate::container::network::{self, Mode};
use crate::engine::Inner;
use crate::model::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats, ThrottlingData,
};

/// Time between samples.
const PERIOD: Duration = Duration::from_secs(1);
/// Nanoseconds in a clock tick.
const TICK_NANOS: u64 = 10_000_000;
/// Memory limits above this are none.
const NO_LIMIT: u64 = 1 << 60;

/// Where cgroups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    root: PathBuf,
    unified: bool,
}

impl Cgroups {
    /// Those of this machine. Where the controllers are on version 1, that counts, whatever else is mounted.
    pub fn of_host() -> Self {
        Self::at(PathBuf::from("/sys/fs/cgroup"))
    }

    /// Those that are mounted in this folder.
    pub(crate) fn at(root: PathBuf) -> Self {
        let unified = root.join("cgroup.controllers").exists();
        Self { root, unified }
    }

    /// Is it version 2?
    pub const fn is_unified(&self) -> bool {
        self.unified
    }

    /// Can swap be limited? Hosts of version 1 count it only when their kernel was told to.
    pub fn count_swap(&self) -> bool {
        self.unified || self.root.join("memory/memory.memsw.limit_in_bytes").exists()
    }

    /// Folder of a cgroup in the hierarchy of a controller.
    pub fn folder(&self, controller: &str, cgroup: &str) -> PathBuf {
        let cgroup = cgroup.trim_start_matches('/');
        if self.unified { self.root.join(cgroup) } else { self.root.join(controller).join(cgroup) }
    }
}

fn text(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_default()
}

fn number(folder: &Path, name: &str) -> u64 {
    text(folder, name).trim().parse().unwrap_or(0)
}

/// Lines of a key and a number.
fn table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn entry(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}

/// One sample of a cgroup, and of the network of a process. Blocks.
fn sample(cgroups: &Cgroups, cgroup: &str, pid: Option<u32>, host: &HostCpu) -> Stats {
    let mut stats = Stats {
        pids_stats: pids(&cgroups.folder("pids", cgroup)),
        cpu_stats: if cgroups.unified { cpu_unified(cgroups, cgroup) } else { cpu_v1(cgroups, cgroup) },
        memory_stats: if cgroups.unified {
            memory_unified(&cgroups.folder("memory", cgroup), host.memory)
        } else {
            memory_v1(&cgroups.folder("memory", cgroup), host.memory)
        },
        blkio_stats: if cgroups.unified {
            blkio_unified(&text(&cgroups.folder("io", cgroup), "io.stat"))
        } else {
            blkio_v1(&cgroups.folder("blkio", cgroup))
        },
        ..Stats::default()
    };
    (stats.cpu_stats.system_cpu_usage, stats.cpu_stats.online_cpus) = (host.system_nanos, host.online);
    stats.networks = pid.map(|pid| interfaces(&text(Path::new(&format!("/proc/{pid}/net")), "dev")));
    stats
}

fn pids(folder: &Path) -> PidsStats {
    PidsStats { current: number(folder, "pids.current"), limit: number(folder, "pids.max") }
}

fn cpu_v1(cgroups: &Cgroups, cgroup: &str) -> CpuStats {
    let account = cgroups.folder("cpuacct", cgroup);
    let throttle = table(&text(&cgroups.folder("cpu", cgroup), "cpu.stat"));
    let used = table(&text(&account, "cpuacct.stat"));
    let each = text(&account, "cpuacct.usage_percpu");
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: number(&account, "cpuacct.usage"),
            percpu_usage: Some(each.split_whitespace().filter_map(|word| word.parse().ok()).collect()),
            usage_in_kernelmode: entry(&used, "system") * TICK_NANOS,
            usage_in_usermode: entry(&used, "user") * TICK_NANOS,
        },
        throttling_data: ThrottlingData {
            periods: entry(&throttle, "nr_periods"),
            throttled_periods: entry(&throttle, "nr_throttled"),
            throttled_time: entry(&throttle, "throttled_time"),
        },
        ..CpuStats::default()
    }
}

fn cpu_unified(cgroups: &Cgroups, cgroup: &str) -> CpuStats {
    let used = table(&text(&cgroups.folder("cpu", cgroup), "cpu.stat"));
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: entry(&used, "usage_usec") * 1000,
            percpu_usage: None,
            usage_in_kernelmode: entry(&used, "system_usec") * 1000,
            usage_in_usermode: entry(&used, "user_usec") * 1000,
        },
        throttling_data: ThrottlingData {
            periods: entry(&used, "nr_periods"),
            throttled_periods: entry(&used, "nr_throttled"),
            throttled_time: entry(&used, "throttled_usec") * 1000,
        },
        ..CpuStats::default()
    }
}

fn limit(own: u64, host: u64) -> u64 {
    if own == 0 || own >= NO_LIMIT { host } else { own }
}

fn memory_v1(folder: &Path, host: u64) -> MemoryStats {
    MemoryStats {
        usage: number(folder, "memory.usage_in_bytes"),
        max_usage: number(folder, "memory.max_usage_in_bytes"),
        stats: table(&text(folder, "memory.stat")),
        failcnt: number(folder, "memory.failcnt"),
        limit: limit(number(folder, "memory.limit_in_bytes"), host),
    }
}

fn memory_unified(folder: &Path, host: u64) -> MemoryStats {
    MemoryStats {
        usage: number(folder, "memory.current"),
        stats: table(&text(folder, "memory.stat")),
        limit: limit(number(folder, "memory.max"), host),
        ..MemoryStats::default()
    }
}

fn blkio_v1(folder: &Path) -> BlkioStats {
    // The throttling counters count whatever the scheduler of the disk is.
    let entries = |name: &str| {
        Some(
            text(folder, name)
                .lines()
                .filter_map(|line| {
                    let mut words = line.split_whitespace();
                    let (device, op, value) = (words.next()?, words.next()?, words.next()?);
                    blkio_entry(device, op, value.parse().ok()?)
                })
                .collect::<Vec<_>>(),
        )
    };
    BlkioStats {
        io_service_bytes_recursive: entries("blkio.throttle.io_service_bytes_recursive"),
        io_serviced_recursive: entries("blkio.throttle.io_serviced_recursive"),
        io_queue_recursive: Some(Vec::new()),
        io_service_time_recursive: Some(Vec::new()),
        io_wait_time_recursive: Some(Vec::new()),
        io_merged_recursive: Some(Vec::new()),
        io_time_recursive: Some(Vec::new()),
        sectors_recursive: Some(Vec::new()),
    }
}

fn blkio_entry(device: &str, op: &str, value: u64) -> Option<BlkioEntry> {
    let (major, minor) = device.split_once(':')?;
    Some(BlkioEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op: op.to_owned(), value })
}

fn blkio_unified(text: &str) -> BlkioStats {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next() else { continue };
        for word in words {
            let op = match word.split_once('=') {
                Some(("rbytes", value)) => ("read", value),
                Some(("wbytes", value)) => ("write", value),
                _ => continue,
            };
            bytes.extend(op.1.parse().ok().and_then(|value| blkio_entry(device, op.0, value)));
        }
    }
    BlkioStats { io_service_bytes_recursive: Some(bytes), ..BlkioStats::default() }
}

/// Reads `/proc/<pid>/net/dev`; loopback is left out, as in Docker.
fn interfaces(text: &str) -> BTreeMap<String, NetworkStats> {
    text.lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
            let stats = NetworkStats {
                rx_bytes: at(0),
                rx_packets: at(1),
                rx_errors: at(2),
                rx_dropped: at(3),
                tx_bytes: at(8),
                tx_packets: at(9),
                tx_errors: at(10),
                tx_dropped: at(11),
            };
            Some((name.trim().to_owned(), stats))
        })
        .filter(|(name, _)| name != "lo")
        .collect()
}

#[derive(Debug, Clone, Copy, Default)]
struct HostCpu {
    system_nanos: u64,
    online: u32,
    memory: u64,
}

fn read_host() -> HostCpu {
    let proc = Path::new("/proc");
    let stat = text(proc, "stat");
    let memory = text(proc, "meminfo");
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory_kib: u64 =
        total.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(0);
    HostCpu { memory: memory_kib * 1024, ..host_cpu(&stat) }
}

fn host_cpu(stat: &str) -> HostCpu {
    let mut host = HostCpu::default();
    for line in stat.lines().take_while(|line| line.starts_with("cpu")) {
        if let Some(all) = line.strip_prefix("cpu ") {
            // Up to steal: guest time is counted in user time already.
            let ticks: u64 = all.split_whitespace().take(8).filter_map(|word| word.parse::<u64>().ok()).sum();
            host.system_nanos = ticks * TICK_NANOS;
        } else {
            host.online += 1;
        }
    }
    host
}

/// Bytes of memory of this machine. Blocks for a moment.
pub(crate) fn host_memory() -> u64 {
    read_host().memory
}

async fn take(inner: &Arc<Inner>, container: &Arc<Container>) -> Stats {
    let (name, pid, mode, at) = {
        let record = container.record();
        let running = record.state.phase.has_process();
        (record.name.clone(), running.then_some(record.state.pid), network::mode(&record), inner.now())
    };
    let Some(pid) = pid else {
        // As dockerd: a container that does not run uses nothing.
        return Stats {
            name: format!("/{name}"),
            id: container.id.clone(),
            read: Timestamp::ZERO.to_string(),
            ..Stats::default()
        };
    };
    let cgroup = crate::container::launch::cgroup(inner, container);
    let own_network = if mode == Mode::Host { None } else { Some(pid) };
    let sampled = tokio::task::spawn_blocking(move || sample(&Cgroups::of_host(), &cgroup, own_network, &read_host()));
    let mut stats = sampled.await.unwrap_or_default();
    (stats.name, stats.id, stats.read) = (format!("/{name}"), container.id.clone(), at.to_string());
    stats.preread = Timestamp::ZERO.to_string();
    stats
}

fn follow(mut stats: Stats, before: &Stats) -> Stats {
    stats.precpu_stats = before.cpu_stats.clone();
    stats.preread.clone_from(&before.read);
    stats
}

/// One sample; without `one_shot` after a second one, so that rates can be computed.
pub(crate) async fn once(inner: &Arc<Inner>, container: &Arc<Container>, one_shot: bool) -> Result<Stats, Failure> {
    let first = take(inner, container).await;
    if one_shot || !container.phase().has_process() {
        return Ok(first);
    }
    tokio::time::sleep(PERIOD).await;
    Ok(follow(take(inner, container).await, &first))
}

/// A sample each second, until the container is removed.
pub(crate) fn stream(inner: &Arc<Inner>, container: &Arc<Container>) -> BoxStream<'static, Stats> {
    let state = (Arc::clone(inner), Arc::clone(container), None::<Stats>);
    stream::unfold(state, |(inner, container, before)| async move {
        if before.is_some() {
            let mut progress = container.progress();
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = inner.stopping.cancelled() => return None,
                _ = progress.wait_for(|progress| progress.removed) => return None,
            }
        }
        if container.phase() == Phase::Removing {
            return None;
        }
        let now = take(&inner, &container).await;
        let shown = match &before {
            Some(before) => follow(now.clone(), before),
            None => now.clone(),
        };
        Some((shown, (inner, container, Some(now))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_dockerds() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../tests/goldens/stats.json")).expect("golden");
        let parsed: Stats = serde_json::from_value(golden.clone()).expect("parses");
        assert_eq!(serde_json::to_value(&parsed).expect("prints"), golden);
    }

    #[test]
    fn host_times_are_summed() {
        let host = host_cpu("cpu  10 0 20 30 0 0 0 0 5 0\ncpu0 1 1\ncpu1 1 1\nintr 5\n");
        assert_eq!((host.system_nanos, host.online), (60 * TICK_NANOS, 2));
        assert!(read_host().memory > 0);
    }

    #[test]
    fn interfaces_are_read() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n";
        let all = interfaces(text);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["eth0"]);
        let eth0 = &all["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped), (100, 4, 200, 7));
    }

    #[test]
    fn both_cgroup_versions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("memory/s/c/memory.usage_in_bytes", "4096\n");
        write("memory/s/c/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/s/c/memory.stat", "cache 1\nrss 2\n");
        write("pids/s/c/pids.current", "3\n");
        write("pids/s/c/pids.max", "max\n");
        write("blkio/s/c/blkio.throttle.io_service_bytes_recursive", "8:0 Read 512\nTotal 512\n");
        let v1 = Cgroups { root: dir.path().to_owned(), unified: false };
        let host = HostCpu { memory: 999, ..HostCpu::default() };
        let stats = sample(&v1, "/s/c", None, &host);
        assert_eq!((stats.memory_stats.usage, stats.memory_stats.limit), (4096, 999));
        assert_eq!((stats.pids_stats.current, stats.pids_stats.limit), (3, 0));
        assert_eq!(stats.blkio_stats.io_service_bytes_recursive.map(|list| list.len()), Some(1));
        write("s/c/memory.current", "8192\n");
        write("s/c/memory.max", "16384\n");
        write("s/c/cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n");
        write("s/c/io.stat", "8:0 rbytes=1 wbytes=2 rios=3\n");
        let stats = sample(&Cgroups { root: dir.path().to_owned(), unified: true }, "/s/c", None, &host);
        assert_eq!((stats.memory_stats.usage, stats.memory_stats.limit), (8192, 16_384));
        assert_eq!(stats.cpu_stats.cpu_usage.total_usage, 5000);
        assert_eq!(stats.blkio_stats.io_service_bytes_recursive.map(|list| list.len()), Some(2));
    }
}
