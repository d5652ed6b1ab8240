//! What a container may use.

use std::collections::BTreeMap;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpu, LinuxCpuBuilder, LinuxHugepageLimitBuilder, LinuxMemory,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};
use serde::{Deserialize, Serialize};

/// A limit on one block device: bytes or operations a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// The share of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWeight {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// 10 to 1000.
    pub weight: u16,
}

/// Limits of a container. `None` leaves the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Processor time per period, in microseconds; -1: no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Relative weight, 2 to 262144; 1024 is the default of the kernel.
    pub cpu_shares: Option<u64>,
    /// Processors it may run on, as `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
    /// Real-time period, in microseconds (v1 only).
    pub cpu_realtime_period_us: Option<u64>,
    /// Real-time share of it, in microseconds (v1 only).
    pub cpu_realtime_runtime_us: Option<i64>,
    /// Memory, in bytes; -1: no limit.
    pub memory_bytes: Option<i64>,
    /// Memory and swap together, in bytes, as Docker counts; -1: no limit.
    pub memory_and_swap_bytes: Option<i64>,
    /// Memory that is kept when others need some, in bytes.
    pub memory_reservation_bytes: Option<i64>,
    /// 0 to 100 (v1 only).
    pub memory_swappiness: Option<u64>,
    /// Let processes wait instead of killing one at the memory limit (v1 only).
    pub oom_kill_disable: bool,
    /// Processes and threads; -1: no limit.
    pub pids: Option<i64>,
    /// Relative weight for block devices, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Weights of single devices.
    pub blkio_weight_devices: Vec<DeviceWeight>,
    /// Bytes read a second.
    pub read_bytes_per_second: Vec<Throttle>,
    /// Bytes written a second.
    pub write_bytes_per_second: Vec<Throttle>,
    /// Reads a second.
    pub reads_per_second: Vec<Throttle>,
    /// Writes a second.
    pub writes_per_second: Vec<Throttle>,
    /// Bytes of huge pages by page size as the kernel names it (`2MB`).
    pub huge_pages: BTreeMap<String, i64>,
}

/// A limit that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLimit(pub String);

impl Limits {
    /// Sets quota and period so that it may use so many processors, in billionths, as Docker's `NanoCpus` says.
    #[must_use]
    pub fn with_nano_cpus(mut self, nano_cpus: i64) -> Self {
        if nano_cpus > 0 {
            self.cpu_period_us = Some(100_000);
            self.cpu_quota_us = Some(nano_cpus / 10_000);
        }
        self
    }

    /// What these limits become when those of `update` are set over them.
    #[must_use]
    pub fn updated(&self, update: &Self) -> Self {
        macro_rules! over {
            ($($field:ident),*) => { Self { $($field: update.$field.clone().or_else(|| self.$field.clone()),)*
                oom_kill_disable: self.oom_kill_disable || update.oom_kill_disable,
                blkio_weight_devices: or(&update.blkio_weight_devices, &self.blkio_weight_devices),
                read_bytes_per_second: or(&update.read_bytes_per_second, &self.read_bytes_per_second),
                write_bytes_per_second: or(&update.write_bytes_per_second, &self.write_bytes_per_second),
                reads_per_second: or(&update.reads_per_second, &self.reads_per_second),
                writes_per_second: or(&update.writes_per_second, &self.writes_per_second),
                huge_pages: if update.huge_pages.is_empty() { self.huge_pages.clone() } else { update.huge_pages.clone() },
            } };
        }
        over!(
            cpu_quota_us,
            cpu_period_us,
            cpu_shares,
            cpuset_cpus,
            cpuset_mems,
            cpu_realtime_period_us,
            cpu_realtime_runtime_us,
            memory_bytes,
            memory_and_swap_bytes,
            memory_reservation_bytes,
            memory_swappiness,
            pids,
            blkio_weight
        )
    }

    /// Checks what dockerd checks, in its words where it has some.
    ///
    /// # Errors
    /// With the first limit that cannot be meant.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        let refuse = |text: &str| Err(InvalidLimit(text.to_owned()));
        let memory = self.memory_bytes.unwrap_or(0);
        if (1..6 << 20).contains(&memory) {
            return refuse("Minimum memory limit allowed is 6MB");
        }
        match self.memory_and_swap_bytes {
            Some(total) if total > 0 && memory <= 0 => {
                return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
            }
            Some(total) if total > 0 && total < memory => {
                return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
            }
            _ => {}
        }
        if self.memory_reservation_bytes.is_some_and(|reserved| memory > 0 && reserved > memory) {
            return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
        }
        if self.memory_swappiness.is_some_and(|value| value > 100) {
            return refuse("Invalid value, valid memory swappiness range is 0-100");
        }
        if self.cpu_period_us.is_some_and(|period| period != 0 && !(1_000..=1_000_000).contains(&period)) {
            return refuse("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
        }
        if self.cpu_quota_us.is_some_and(|quota| quota > 0 && quota < 1_000) {
            return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
        }
        let weights = self.blkio_weight.into_iter().chain(self.blkio_weight_devices.iter().map(|one| one.weight));
        if weights.into_iter().any(|weight| weight != 0 && !(10..=1000).contains(&weight)) {
            return refuse("Range of blkio weight is from 10 to 1000");
        }
        Ok(())
    }

    /// What OCI resources say, without devices.
    pub fn from_oci(resources: &LinuxResources) -> Self {
        let mut limits = Self::default();
        if let Some(cpu) = resources.cpu() {
            limits.cpu_quota_us = cpu.quota();
            limits.cpu_period_us = cpu.period();
            limits.cpu_shares = cpu.shares();
            limits.cpuset_cpus = cpu.cpus().clone();
            limits.cpuset_mems = cpu.mems().clone();
            limits.cpu_realtime_period_us = cpu.realtime_period();
            limits.cpu_realtime_runtime_us = cpu.realtime_runtime();
        }
        if let Some(memory) = resources.memory() {
            limits.memory_bytes = memory.limit();
            limits.memory_and_swap_bytes = memory.swap();
            limits.memory_reservation_bytes = memory.reservation();
            limits.memory_swappiness = memory.swappiness();
            limits.oom_kill_disable = memory.disable_oom_killer() == Some(true);
        }
        limits.pids = resources.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit);
        if let Some(block_io) = resources.block_io() {
            let number = |number: i64| u32::try_from(number).unwrap_or(0);
            let throttles = |list: &Option<Vec<LinuxThrottleDevice>>| -> Vec<Throttle> {
                let one = |one: &LinuxThrottleDevice| Throttle {
                    major: number(one.major()),
                    minor: number(one.minor()),
                    rate: one.rate(),
                };
                list.iter().flatten().map(one).collect()
            };
            limits.blkio_weight = block_io.weight();
            limits.blkio_weight_devices = block_io
                .weight_device()
                .iter()
                .flatten()
                .map(|one| DeviceWeight {
                    major: number(one.major()),
                    minor: number(one.minor()),
                    weight: one.weight().unwrap_or(0),
                })
                .collect();
            limits.read_bytes_per_second = throttles(block_io.throttle_read_bps_device());
            limits.write_bytes_per_second = throttles(block_io.throttle_write_bps_device());
            limits.reads_per_second = throttles(block_io.throttle_read_iops_device());
            limits.writes_per_second = throttles(block_io.throttle_write_iops_device());
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            limits.huge_pages.insert(limit.page_size().clone(), limit.limit());
        }
        limits
    }

    /// The same as OCI resources, without devices.
    ///
    /// # Errors
    /// When a builder refuses.
    pub fn to_oci(&self) -> Result<LinuxResources, OciSpecError> {
        let mut resources = LinuxResourcesBuilder::default().build()?;
        resources.set_cpu(self.oci_cpu()?);
        resources.set_memory(self.oci_memory()?);
        if let Some(limit) = self.pids.filter(|limit| *limit != 0) {
            resources.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build()?));
        }
        resources.set_block_io(self.oci_block_io()?);
        if !self.huge_pages.is_empty() {
            let limits = self.huge_pages.iter();
            let limits: Result<Vec<_>, _> = limits
                .map(|(size, bytes)| LinuxHugepageLimitBuilder::default().page_size(size.clone()).limit(*bytes).build())
                .collect();
            resources.set_hugepage_limits(Some(limits?));
        }
        Ok(resources)
    }

    fn oci_cpu(&self) -> Result<Option<LinuxCpu>, OciSpecError> {
        let mut cpu = LinuxCpuBuilder::default().build()?;
        cpu.set_quota(self.cpu_quota_us.filter(|quota| *quota != 0));
        cpu.set_period(self.cpu_period_us.filter(|period| *period != 0));
        cpu.set_shares(self.cpu_shares.filter(|shares| *shares != 0));
        cpu.set_cpus(self.cpuset_cpus.clone().filter(|cpus| !cpus.is_empty()));
        cpu.set_mems(self.cpuset_mems.clone().filter(|mems| !mems.is_empty()));
        cpu.set_realtime_period(self.cpu_realtime_period_us.filter(|period| *period != 0));
        cpu.set_realtime_runtime(self.cpu_realtime_runtime_us.filter(|runtime| *runtime != 0));
        Ok((cpu != LinuxCpuBuilder::default().build()?).then_some(cpu))
    }

    fn oci_memory(&self) -> Result<Option<LinuxMemory>, OciSpecError> {
        let mut memory = LinuxMemoryBuilder::default().build()?;
        memory.set_limit(self.memory_bytes.filter(|bytes| *bytes != 0));
        memory.set_swap(self.memory_and_swap_bytes.filter(|bytes| *bytes != 0));
        memory.set_reservation(self.memory_reservation_bytes.filter(|bytes| *bytes != 0));
        memory.set_swappiness(self.memory_swappiness);
        memory.set_disable_oom_killer(self.oom_kill_disable.then_some(true));
        Ok((memory != LinuxMemoryBuilder::default().build()?).then_some(memory))
    }

    fn oci_block_io(&self) -> Result<Option<LinuxBlockIo>, OciSpecError> {
        let throttles = |list: &[Throttle]| -> Result<Option<Vec<LinuxThrottleDevice>>, OciSpecError> {
            let list: Result<Vec<_>, _> = list
                .iter()
                .map(|one| {
                    let device = LinuxThrottleDeviceBuilder::default();
                    device.major(i64::from(one.major)).minor(i64::from(one.minor)).rate(one.rate).build()
                })
                .collect();
            Ok(Some(list?).filter(|list| !list.is_empty()))
        };
        let mut block_io = LinuxBlockIoBuilder::default().build()?;
        block_io.set_weight(self.blkio_weight.filter(|weight| *weight != 0));
        if !self.blkio_weight_devices.is_empty() {
            let devices: Result<Vec<_>, _> = self
                .blkio_weight_devices
                .iter()
                .map(|one| {
                    let device = LinuxWeightDeviceBuilder::default();
                    device.major(i64::from(one.major)).minor(i64::from(one.minor)).weight(one.weight).build()
                })
                .collect();
            block_io.set_weight_device(Some(devices?));
        }
        block_io.set_throttle_read_bps_device(throttles(&self.read_bytes_per_second)?);
        block_io.set_throttle_write_bps_device(throttles(&self.write_bytes_per_second)?);
        block_io.set_throttle_read_iops_device(throttles(&self.reads_per_second)?);
        block_io.set_throttle_write_iops_device(throttles(&self.writes_per_second)?);
        Ok((block_io != LinuxBlockIoBuilder::default().build()?).then_some(block_io))
    }
}

fn or<T: Clone>(first: &[T], second: &[T]) -> Vec<T> {
    if first.is_empty() { second.to_vec() } else { first.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_in_oci_terms() {
        let limits = Limits {
            cpu_quota_us: Some(1_000),
            cpu_period_us: Some(2_000),
            cpu_shares: Some(3),
            cpuset_cpus: Some("0".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            cpu_realtime_period_us: Some(4),
            cpu_realtime_runtime_us: Some(5),
            memory_bytes: Some(6 << 20),
            memory_and_swap_bytes: Some(-1),
            memory_reservation_bytes: Some(7),
            memory_swappiness: Some(0),
            oom_kill_disable: true,
            pids: Some(8),
            blkio_weight: Some(10),
            blkio_weight_devices: vec![DeviceWeight { major: 1, minor: 2, weight: 11 }],
            read_bytes_per_second: vec![Throttle { major: 1, minor: 2, rate: 3 }],
            write_bytes_per_second: vec![Throttle { major: 1, minor: 2, rate: 4 }],
            reads_per_second: vec![Throttle { major: 1, minor: 2, rate: 5 }],
            writes_per_second: vec![Throttle { major: 1, minor: 2, rate: 6 }],
            huge_pages: [("2MB".to_owned(), 9)].into(),
        };
        assert_eq!(Limits::from_oci(&limits.to_oci().unwrap()), limits);
        assert_eq!(Limits::from_oci(&Limits::default().to_oci().unwrap()), Limits::default());
        assert_eq!(Limits::default().updated(&limits), limits);
        assert_eq!(limits.updated(&Limits::default()), limits);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |limits: Limits| limits.validate().unwrap_err().to_string();
        assert!(refused(Limits { memory_bytes: Some(1024), ..Limits::default() }).contains("6MB"));
        let swap = Limits { memory_bytes: Some(64 << 20), memory_and_swap_bytes: Some(32 << 20), ..Limits::default() };
        assert!(refused(swap).contains("memoryswap"));
        assert!(refused(Limits { memory_and_swap_bytes: Some(1), ..Limits::default() }).contains("Memory limit"));
        assert!(refused(Limits { cpu_quota_us: Some(10), ..Limits::default() }).contains("quota"));
        assert!(refused(Limits { blkio_weight: Some(5), ..Limits::default() }).contains("10 to 1000"));
        assert!(Limits::default().validate().is_ok());
    }
}
