//! Why no node fits, in words.

use std::collections::BTreeMap;

use super::node::{Candidate, Cluster, Needs};
use crate::constraint;

/// What keeps a task from a node: the first filter that says no.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    NotAvailable,
    Cpu,
    Memory,
    Generic(String),
    Constraint(String),
    Platform(String),
    Port(String),
    MaxReplicas,
}

/// How many nodes have an obstacle, and the most that any of them has free.
#[derive(Default)]
struct Count {
    nodes: usize,
    most_free: i64,
}

/// A sentence on why the task cannot be placed: on any node, or on the one it is bound to (`Some(None)` when that node
/// does not exist).
pub(super) fn explain(cluster: &Cluster, needs: &Needs, bound: Option<Option<usize>>) -> String {
    let mut counts: BTreeMap<Obstacle, Count> = BTreeMap::new();
    let nodes: Vec<&Candidate> = match bound {
        None => cluster.nodes.iter().collect(),
        Some(index) => index.and_then(|index| cluster.nodes.get(index)).into_iter().collect(),
    };
    for candidate in &nodes {
        if let Some((obstacle, free)) = obstacle(candidate, needs) {
            let count = counts.entry(obstacle).or_insert(Count { nodes: 0, most_free: i64::MIN });
            count.nodes += 1;
            count.most_free = count.most_free.max(free);
        }
    }
    if nodes.is_empty() {
        return if bound.is_some() {
            "no suitable node: the node of this task was removed".to_owned()
        } else {
            "no suitable node: the cluster has no nodes".to_owned()
        };
    }
    let parts: Vec<String> = counts.iter().map(|(obstacle, count)| sentence(obstacle, count, needs)).collect();
    format!("no suitable node: {}", parts.join(", "))
}

fn obstacle(candidate: &Candidate, needs: &Needs) -> Option<(Obstacle, i64)> {
    if !candidate.ready {
        return Some((Obstacle::NotAvailable, 0));
    }
    if needs.nano_cpus > 0 && candidate.nano_cpus < needs.nano_cpus {
        return Some((Obstacle::Cpu, candidate.nano_cpus));
    }
    if needs.memory_bytes > 0 && candidate.memory_bytes < needs.memory_bytes {
        return Some((Obstacle::Memory, candidate.memory_bytes));
    }
    for (kind, amount) in &needs.generic {
        let free = candidate.generic(kind);
        if free < *amount {
            return Some((Obstacle::Generic(kind.clone()), free));
        }
    }
    match &needs.constraints {
        None => return Some((Obstacle::Constraint(String::new()), 0)),
        Some(all) => {
            if let Some(failed) = all.iter().find(|constraint| !constraint.matches(&candidate.node)) {
                return Some((Obstacle::Constraint(failed.to_string()), 0));
            }
        }
    }
    if !constraint::platform_fits(&needs.platforms, &candidate.node) {
        let platform = candidate.node.description.as_ref().map(|d| d.platform.normalized()).unwrap_or_default();
        return Some((Obstacle::Platform(format!("{}/{}", platform.os, platform.architecture)), 0));
    }
    if let Some((protocol, port)) = needs.host_ports.iter().find(|port| candidate.has_port(**port)) {
        return Some((Obstacle::Port(format!("{port}/{}", protocol.as_str())), 0));
    }
    (needs.max_replicas > 0 && u64::from(candidate.of_service()) >= needs.max_replicas)
        .then_some((Obstacle::MaxReplicas, 0))
}

fn sentence(obstacle: &Obstacle, count: &Count, needs: &Needs) -> String {
    let many = count.nodes != 1;
    let nodes = format!("{} node{}", count.nodes, if many { "s" } else { "" });
    let (have, most) = if many { ("have", "at most ") } else { ("has", "") };
    let insufficient = |what: &str, wanted: String, free: String| {
        format!("{nodes} {have} insufficient {what} (needs {wanted}, {most}{free} free)")
    };
    match obstacle {
        Obstacle::NotAvailable => format!("{nodes} not available"),
        Obstacle::Cpu => insufficient("CPU", cores(needs.nano_cpus), cores(count.most_free)),
        Obstacle::Memory => insufficient("memory", bytes(needs.memory_bytes), bytes(count.most_free)),
        Obstacle::Generic(kind) => {
            let wanted = needs.generic.get(kind).copied().unwrap_or(0);
            insufficient(kind, wanted.to_string(), count.most_free.max(0).to_string())
        }
        Obstacle::Constraint(text) if text.is_empty() => {
            format!("{nodes} cannot match constraints that this manager does not understand")
        }
        Obstacle::Constraint(text) => {
            format!("{nodes} {} not match constraint {text}", if many { "do" } else { "does" })
        }
        Obstacle::Platform(platform) => format!("{nodes} {have} an unsupported platform ({platform})"),
        Obstacle::Port(port) => format!("{nodes} {have} port {port} in use"),
        Obstacle::MaxReplicas => {
            let most = needs.max_replicas;
            format!("{nodes} {have} the maximum of {most} replica{}", if most == 1 { "" } else { "s" })
        }
    }
}

/// `0.5`, `2`.
fn cores(nano_cpus: i64) -> String {
    let nano_cpus = nano_cpus.max(0);
    decimal(nano_cpus, 1_000_000_000)
}

/// `512 MiB`, `1.5 GiB`.
fn bytes(bytes: i64) -> String {
    let bytes = bytes.max(0);
    for (unit, size) in [("TiB", 1i64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size {
            return format!("{} {unit}", decimal(bytes, size));
        }
    }
    format!("{bytes} B")
}

/// A quotient with at most two decimals, rounded down, without trailing zeros.
fn decimal(value: i64, unit: i64) -> String {
    let hundredths = i128::from(value) * 100 / i128::from(unit);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match rest {
        0 => whole.to_string(),
        rest if rest % 10 == 0 => format!("{whole}.{}", rest / 10),
        rest => format!("{whole}.{rest:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(-5), "0 B");
        assert_eq!(bytes(512 << 20), "512 MiB");
        assert_eq!(bytes(2 << 30), "2 GiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes((1 << 30) + (1 << 30) / 20 + 1), "1.05 GiB");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(cores(500_000_000), "0.5");
        assert_eq!(cores(2_000_000_000), "2");
        assert_eq!(cores(1_999_999_999), "1.99");
    }
}
