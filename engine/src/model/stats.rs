//! What a container uses. Docker writes these in snake case.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Name with a leading slash.
    pub name: String,
    /// Id.
    pub id: String,
    /// When it was taken.
    pub read: String,
    /// When `precpu_stats` was taken.
    pub preread: String,
    /// Processes.
    pub pids_stats: PidsStats,
    /// Block devices.
    pub blkio_stats: BlkioStats,
    /// Always 0 on Linux.
    pub num_procs: u32,
    /// Always empty on Linux.
    pub storage_stats: BTreeMap<String, u64>,
    /// Processor.
    pub cpu_stats: CpuStats,
    /// Processor, one sample earlier.
    pub precpu_stats: CpuStats,
    /// Memory.
    pub memory_stats: MemoryStats,
    /// By interface; absent without a network of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<BTreeMap<String, NetworkStats>>,
}

/// Processes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// How many.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// Limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Block devices. On cgroup v2 only the first is known; the others are null.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioStats {
    /// Bytes.
    pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    /// Operations.
    pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
    /// Queued.
    pub io_queue_recursive: Option<Vec<BlkioEntry>>,
    /// Time in service.
    pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
    /// Time waiting.
    pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
    /// Merged.
    pub io_merged_recursive: Option<Vec<BlkioEntry>>,
    /// Time.
    pub io_time_recursive: Option<Vec<BlkioEntry>>,
    /// Sectors.
    pub sectors_recursive: Option<Vec<BlkioEntry>>,
}

/// A number of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// Major device number.
    pub major: u64,
    /// Minor device number.
    pub minor: u64,
    /// `read`, `write` and others.
    pub op: String,
    /// The number.
    pub value: u64,
}

/// Processor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// Time used.
    pub cpu_usage: CpuUsage,
    /// Time of all processors of the host, nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub system_cpu_usage: u64,
    /// Processors.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub online_cpus: u32,
    /// Throttling.
    pub throttling_data: ThrottlingData,
}

/// Processor time, nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// In all.
    pub total_usage: u64,
    /// By processor; only on cgroup v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percpu_usage: Option<Vec<u64>>,
    /// In the kernel.
    pub usage_in_kernelmode: u64,
    /// In programs.
    pub usage_in_usermode: u64,
}

/// Throttling.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottlingData {
    /// Periods.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// Used.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most ever used; only on cgroup v1.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_usage: u64,
    /// `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stats: BTreeMap<String, u64>,
    /// How often the limit was hit; only on cgroup v1.
    #[serde(skip_serializing_if = "is_zero")]
    pub failcnt: u64,
    /// Limit; the host's memory when there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    /// Bytes in.
    pub rx_bytes: u64,
    /// Packets in.
    pub rx_packets: u64,
    /// Errors in.
    pub rx_errors: u64,
    /// Dropped in.
    pub rx_dropped: u64,
    /// Bytes out.
    pub tx_bytes: u64,
    /// Packets out.
    pub tx_packets: u64,
    /// Errors out.
    pub tx_errors: u64,
    /// Dropped out.
    pub tx_dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}
