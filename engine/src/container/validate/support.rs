//! Limits that this host's cgroups do not have: as in dockerd they are left out, and the client is told.

use shoal_proto::error::Failure;

use super::invalid;
use crate::model::HostConfig;
use crate::stats::Cgroups;

/// What the host's cgroups can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a kernel has each of these or has it not")]
pub(crate) struct Support {
    pub memory: bool,
    pub swap: bool,
    pub swappiness: bool,
    pub reservation: bool,
    pub oom_kill_disable: bool,
    pub pids: bool,
    pub cpu_shares: bool,
    pub cpu_cfs: bool,
    pub cpu_realtime: bool,
    pub cpuset: bool,
    pub blkio_weight: bool,
    pub blkio_weight_device: bool,
    pub read_bps: bool,
    pub write_bps: bool,
    pub read_iops: bool,
    pub write_iops: bool,
}

impl Support {
    /// Looks. Blocks, but for files of the kernel only.
    pub(crate) fn of(cgroups: &Cgroups) -> Self {
        if cgroups.is_unified() { Self::unified(cgroups) } else { Self::v1(cgroups) }
    }

    /// Of version 1 each hierarchy's root has the files that its cgroups have.
    fn v1(cgroups: &Cgroups) -> Self {
        let has = |controller: &str, file: &str| cgroups.folder(controller, "").join(file).exists();
        Self {
            memory: has("memory", "cgroup.procs"),
            swap: cgroups.count_swap(),
            swappiness: has("memory", "memory.swappiness"),
            reservation: has("memory", "memory.soft_limit_in_bytes"),
            oom_kill_disable: has("memory", "memory.oom_control"),
            pids: has("pids", "cgroup.procs"),
            cpu_shares: has("cpu", "cpu.shares"),
            cpu_cfs: has("cpu", "cpu.cfs_quota_us"),
            cpu_realtime: has("cpu", "cpu.rt_period_us"),
            cpuset: has("cpuset", "cpuset.cpus"),
            blkio_weight: has("blkio", "blkio.weight"),
            blkio_weight_device: has("blkio", "blkio.weight_device"),
            read_bps: has("blkio", "blkio.throttle.read_bps_device"),
            write_bps: has("blkio", "blkio.throttle.write_bps_device"),
            read_iops: has("blkio", "blkio.throttle.read_iops_device"),
            write_iops: has("blkio", "blkio.throttle.write_iops_device"),
        }
    }

    /// Of version 2 the root has no limits, but the list of its controllers.
    fn unified(cgroups: &Cgroups) -> Self {
        let root = cgroups.folder("", "");
        let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
        let weighs = has("io") && below_has(&root, "io.stat", "io.weight");
        Self {
            memory: has("memory"),
            swap: has("memory") && below_has(&root, "memory.max", "memory.swap.max"),
            swappiness: false,
            reservation: has("memory"),
            oom_kill_disable: false,
            pids: has("pids"),
            cpu_shares: has("cpu"),
            cpu_cfs: has("cpu"),
            cpu_realtime: false,
            cpuset: has("cpuset"),
            blkio_weight: weighs,
            blkio_weight_device: weighs,
            read_bps: has("io"),
            write_bps: has("io"),
            read_iops: has("io"),
            write_iops: has("io"),
        }
    }

    /// Takes out of a configuration what the host does not have; gives dockerd's warnings.
    ///
    /// # Errors
    /// With what dockerd refuses rather than to leave it out.
    pub(super) fn discard(&self, host: &mut HostConfig) -> Result<Vec<String>, Failure> {
        if (host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0) && !self.cpu_realtime {
            return invalid("kernel does not support CPU real-time scheduler");
        }
        if host.nano_cpus > 0 && !self.cpu_cfs {
            return invalid(
                "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
            );
        }
        let mut lacks = Vec::new();
        self.discard_memory(host, &mut lacks);
        if host.pids_limit.is_some_and(|limit| limit > 0) && !self.pids {
            host.pids_limit = None;
            lacks.push("PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.");
        }
        self.discard_cpu(host, &mut lacks);
        self.discard_block_io(host, &mut lacks);
        Ok(lacks.into_iter().map(|what| format!("Your kernel does not support {what}")).collect())
    }

    fn discard_memory(&self, host: &mut HostConfig, lacks: &mut Vec<&'static str>) {
        if host.memory > 0 && !self.memory {
            (host.memory, host.memory_swap) = (0, -1);
            lacks.push("memory limit capabilities or the cgroup is not mounted. Limitation discarded.");
        }
        if host.memory > 0 && host.memory_swap != -1 && !self.swap {
            host.memory_swap = -1;
            lacks.push("swap limit capabilities or the cgroup is not mounted. Memory limited without swap.");
        }
        if host.memory_swappiness.is_some_and(|value| value != -1) && !self.swappiness {
            host.memory_swappiness = None;
            lacks.push("memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.");
        }
        if host.memory_reservation > 0 && !self.reservation {
            host.memory_reservation = 0;
            lacks.push("memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.");
        }
        if host.oom_kill_disable == Some(true) && !self.oom_kill_disable {
            host.oom_kill_disable = None;
            lacks.push("OomKillDisable. OomKillDisable discarded.");
        }
    }

    fn discard_cpu(&self, host: &mut HostConfig, lacks: &mut Vec<&'static str>) {
        if host.cpu_shares > 0 && !self.cpu_shares {
            host.cpu_shares = 0;
            lacks.push("CPU shares or the cgroup is not mounted. Shares discarded.");
        }
        if (host.cpu_period != 0 || host.cpu_quota != 0) && !self.cpu_cfs {
            (host.cpu_period, host.cpu_quota) = (0, 0);
            lacks.push("CPU CFS scheduler. CPU period/quota discarded.");
        }
        if !(host.cpuset_cpus.is_empty() && host.cpuset_mems.is_empty() || self.cpuset) {
            host.cpuset_cpus.clear();
            host.cpuset_mems.clear();
            lacks.push("cpuset or the cgroup is not mounted. Cpuset discarded.");
        }
    }

    fn discard_block_io(&self, host: &mut HostConfig, lacks: &mut Vec<&'static str>) {
        if host.blkio_weight > 0 && !self.blkio_weight {
            host.blkio_weight = 0;
            lacks.push("Block I/O weight or the cgroup is not mounted. Weight discarded.");
        }
        if host.blkio_weight_device.as_ref().is_some_and(|list| !list.is_empty()) && !self.blkio_weight_device {
            host.blkio_weight_device = Some(Vec::new());
            lacks.push("Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.");
        }
        for (supported, list, what) in [
            (
                self.read_bps,
                &mut host.blkio_device_read_bps,
                "BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
            ),
            (
                self.write_bps,
                &mut host.blkio_device_write_bps,
                "BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
            ),
            (
                self.read_iops,
                &mut host.blkio_device_read_iops,
                "IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
            ),
            (
                self.write_iops,
                &mut host.blkio_device_write_iops,
                "IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
            ),
        ] {
            if !supported && list.as_ref().is_some_and(|list| !list.is_empty()) {
                *list = Some(Vec::new());
                lacks.push(what);
            }
        }
    }
}

/// Have cgroups with the one file the other, too? Where none has the first nothing is known, and it is taken to be so.
fn below_has(root: &std::path::Path, known: &str, wanted: &str) -> bool {
    let mut folders = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.find(|folder| folder.join(known).exists()).is_none_or(|folder| folder.join(wanted).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ThrottleDevice, WeightDevice};

    /// Everything that some kernel does not have, each once.
    fn all() -> HostConfig {
        let throttle = || Some(vec![ThrottleDevice::default()]);
        HostConfig {
            memory: 64 << 20,
            memory_swap: 128 << 20,
            memory_swappiness: Some(10),
            memory_reservation: 32 << 20,
            oom_kill_disable: Some(true),
            pids_limit: Some(5),
            cpu_shares: 100,
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpuset_cpus: "0".to_owned(),
            cpuset_mems: "0".to_owned(),
            blkio_weight: 100,
            blkio_weight_device: Some(vec![WeightDevice::default()]),
            blkio_device_read_bps: throttle(),
            blkio_device_write_bps: throttle(),
            blkio_device_read_iops: throttle(),
            blkio_device_write_iops: throttle(),
            ..HostConfig::default()
        }
    }

    fn with_files(files: &[&str]) -> Support {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let controllers = "cpuset cpu io memory pids";
            std::fs::write(&path, if file.ends_with("controllers") { controllers } else { "" }).unwrap();
        }
        Support::of(&Cgroups::at(folder.path().to_owned()))
    }

    #[test]
    fn what_the_kernel_lacks_is_left_out_and_told() {
        let mut host = all();
        let warnings = with_files(&[]).discard(&mut host).unwrap();
        assert_eq!(warnings.len(), 14, "{warnings:#?}");
        let expected = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.";
        assert!(warnings.iter().any(|warning| warning == expected), "{warnings:#?}");
        assert_eq!((host.memory, host.memory_swap, host.blkio_weight, host.pids_limit), (0, -1, 0, None));
        assert!(with_files(&[]).discard(&mut host).unwrap().is_empty(), "nothing is left to be discarded");
    }

    #[test]
    fn of_version_1_a_file_decides() {
        let mut host = all();
        let support = with_files(&["memory/cgroup.procs", "memory/memory.swappiness", "cpu/cpu.shares"]);
        let warnings = support.discard(&mut host).unwrap();
        assert_eq!(
            (host.memory, host.memory_swap, host.memory_swappiness, host.cpu_shares),
            (64 << 20, -1, Some(10), 100)
        );
        assert!(warnings.iter().any(|warning| warning.ends_with("Memory limited without swap.")), "{warnings:#?}");
        let refused = |host: HostConfig| support.discard(&mut host.clone()).unwrap_err().message;
        assert_eq!(
            refused(HostConfig { cpu_realtime_period: 1, ..HostConfig::default() }),
            "kernel does not support CPU real-time scheduler"
        );
        assert!(refused(HostConfig { nano_cpus: 1, ..HostConfig::default() }).starts_with("NanoCPUs can not be set"));
    }

    #[test]
    fn of_version_2_its_controllers_do() {
        let common = ["cgroup.controllers", "a/io.stat", "a/memory.max", "a/memory.swap.max"];
        let mut host = all();
        let warnings = with_files(&common).discard(&mut host).unwrap();
        let words: Vec<_> = warnings.iter().filter_map(|warning| warning.split_whitespace().last()).collect();
        assert_eq!(words.len(), 4, "swappiness, the OOM killer and both weights: {warnings:#?}");
        assert_eq!((host.memory_swap, host.pids_limit), (128 << 20, Some(5)));
        let with_weight = with_files(&[&common[..], &["a/io.weight"]].concat());
        assert!(with_weight.blkio_weight && with_weight.blkio_weight_device);
    }
}
