//! Limits: what can be meant, and what this machine has.

use std::collections::BTreeSet;

use shoal_proto::error::Failure;

use super::invalid;
use crate::model::HostConfig;

/// Less than this a container cannot start with.
const LEAST_MEMORY: i64 = 6 * 1024 * 1024;
/// The kernel's highest weight.
const MOST_SHARES: i64 = 262_144;
/// No machine has as many processors.
const HIGHEST_NUMBER: u32 = 65_535;
/// Where the kernel tells which processors there are, the first that says something.
const AVAILABLE_CPUS: &[&str] = &[
    "/sys/fs/cgroup/cpuset/cpuset.effective_cpus",
    "/sys/fs/cgroup/cpuset.cpus.effective",
    "/sys/devices/system/cpu/online",
];
/// And which memory nodes.
const AVAILABLE_NODES: &[&str] = &[
    "/sys/fs/cgroup/cpuset/cpuset.effective_mems",
    "/sys/fs/cgroup/cpuset.mems.effective",
    "/sys/devices/system/node/online",
];

/// Checks them; texts as dockerd's.
pub(super) fn check(host: &HostConfig) -> Result<(), Failure> {
    memory(host.memory, host.memory_swap, host.memory_reservation)?;
    if let Some(swappiness) = host.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return invalid(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    }
    cpu(host.nano_cpus, host.cpu_period, host.cpu_quota)?;
    if host.cpu_realtime_period != 0 && host.cpu_realtime_runtime > host.cpu_realtime_period {
        return invalid("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    if host.cpu_shares == 1 {
        return invalid("the minimum allowed cpu-shares is 2");
    }
    if host.cpu_shares > MOST_SHARES {
        return invalid(format!("the maximum allowed cpu-shares is {MOST_SHARES}"));
    }
    if host.cpu_shares < 0 {
        return invalid(format!("invalid CPU shares ({}): value must be a positive integer", host.cpu_shares));
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    list(&host.cpuset_cpus, "cpus", "CPUs", AVAILABLE_CPUS)?;
    list(&host.cpuset_mems, "mems", "memory nodes", AVAILABLE_NODES)
}

fn memory(limit: i64, swap: i64, reservation: i64) -> Result<(), Failure> {
    if limit != 0 && limit < LEAST_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if limit > 0 && swap > 0 && swap < limit {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if limit == 0 && swap > 0 {
        return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if reservation != 0 && reservation < LEAST_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if limit > 0 && reservation > 0 && limit < reservation {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    Ok(())
}

fn cpu(nano: i64, period: i64, quota: i64) -> Result<(), Failure> {
    if nano > 0 && period > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if nano > 0 && quota > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    let cpus = i64::try_from(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).unwrap_or(1);
    if nano < 0 || nano > cpus * 1_000_000_000 {
        return invalid(format!("range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"));
    }
    if period != 0 && !(1_000..=1_000_000).contains(&period) {
        return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if quota > 0 && quota < 1_000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    Ok(())
}

/// `0-3,5` as numbers; none for what is no such list.
fn numbers(text: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        if first > last || last > HIGHEST_NUMBER {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// Checks a list of processors or memory nodes against what there is, if that can be told.
fn list(asked: &str, name: &str, words: &str, available: &[&str]) -> Result<(), Failure> {
    let Some(wanted) = numbers(asked) else {
        return invalid(format!("Invalid value {asked} for cpuset {name}"));
    };
    let mut found = available.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let Some(found) = found.find(|text| !text.trim().is_empty()) else { return Ok(()) };
    let has = numbers(found.trim()).unwrap_or_default();
    if has.is_empty() || wanted.is_subset(&has) {
        return Ok(());
    }
    invalid(format!("Requested {words} are not available - requested {asked}, available: {}", found.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_compared() {
        assert_eq!(numbers("0-2,5"), Some([0, 1, 2, 5].into()));
        assert_eq!(numbers(""), Some(BTreeSet::new()));
        for text in ["a", "3-1", "1,", "0-4000000000"] {
            assert_eq!(numbers(text), None, "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpus");
        std::fs::write(&path, "0-3\n").unwrap();
        let available = ["/nowhere", path.to_str().unwrap()];
        assert!(list("1-3", "cpus", "CPUs", &available).is_ok());
        let failure = list("3-4", "cpus", "CPUs", &available).unwrap_err();
        assert_eq!(failure.message, "Requested CPUs are not available - requested 3-4, available: 0-3");
        assert!(list("9", "cpus", "CPUs", &["/nowhere"]).is_ok());
    }

    #[test]
    fn shares_have_bounds() {
        for (shares, good) in [(0, true), (1, false), (2, true), (262_144, true), (262_145, false), (-1, false)] {
            let host = HostConfig { cpu_shares: shares, ..HostConfig::default() };
            assert_eq!(check(&host).is_ok(), good, "{shares}");
        }
    }
}
