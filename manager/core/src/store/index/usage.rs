//! What is in use of nodes, and by whom.

use std::collections::BTreeMap;

use shoal_proto::id::TaskId;
use shoal_proto::object::Task;
use shoal_proto::spec::{PortConfig, Protocol, PublishMode};
use shoal_proto::time::Timestamp;

/// What the tasks of a node take of it: those that were given to it and have not ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeUsage {
    /// Tasks that are wanted to run.
    pub active: u32,
    /// All tasks that have not ended.
    pub tasks: u32,
    /// Reserved billionths of a core.
    pub nano_cpus: i64,
    /// Reserved bytes.
    pub memory_bytes: i64,
    /// Reserved generic resources by kind.
    pub generic: BTreeMap<String, i64>,
    /// Ports published in host mode, sorted.
    pub host_ports: Vec<(Protocol, u16)>,
}

impl NodeUsage {
    pub(super) fn add(&mut self, task: &Task, active: bool) {
        self.active += u32::from(active);
        self.tasks += 1;
        let reserved = &task.spec.resources.reservations;
        self.nano_cpus = self.nano_cpus.saturating_add(reserved.nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_add(reserved.memory_bytes);
        for (kind, amount) in &reserved.generic {
            *self.generic.entry(kind.clone()).or_default() += amount;
        }
        for port in host_ports(&task.ports) {
            let at = self.host_ports.partition_point(|taken| *taken < port);
            self.host_ports.insert(at, port);
        }
    }

    pub(super) fn remove(&mut self, task: &Task, active: bool) {
        self.active -= u32::from(active);
        self.tasks -= 1;
        let reserved = &task.spec.resources.reservations;
        self.nano_cpus = self.nano_cpus.saturating_sub(reserved.nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_sub(reserved.memory_bytes);
        for (kind, amount) in &reserved.generic {
            if let Some(total) = self.generic.get_mut(kind) {
                *total -= amount;
                if *total == 0 {
                    self.generic.remove(kind);
                }
            }
        }
        for port in host_ports(&task.ports) {
            if let Ok(at) = self.host_ports.binary_search(&port) {
                self.host_ports.remove(at);
            }
        }
    }
}

/// The ports of a list that are published in host mode under a fixed number.
pub(crate) fn host_ports(ports: &[PortConfig]) -> impl Iterator<Item = (Protocol, u16)> + '_ {
    ports
        .iter()
        .filter(|port| port.mode == PublishMode::Host && port.published != 0)
        .map(|port| (port.protocol, port.published))
}

/// The ports of a list that are published on the routing mesh under a known number.
pub(crate) fn ingress_ports(ports: &[PortConfig]) -> impl Iterator<Item = (Protocol, u16)> + '_ {
    ports
        .iter()
        .filter(|port| port.mode == PublishMode::Ingress && port.published != 0)
        .map(|port| (port.protocol, port.published))
}

/// The tasks of one service on one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlacementCount {
    /// Those that were given to the node, have not ended, and are wanted to run.
    pub active: u32,
    /// Those that failed there and are still remembered: when, and the spec version they ran.
    pub failures: Vec<(Timestamp, u64, TaskId)>,
}
