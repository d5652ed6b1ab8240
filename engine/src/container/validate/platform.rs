//! Fields that mean something on another platform only, or nothing any more: refused, since they would do nothing.

use shoal_proto::error::Failure;

use crate::model::HostConfig;

/// Refuses what only Windows has. Texts as dockerd's where it refuses, too.
pub(super) fn check(host: &HostConfig) -> Result<(), Failure> {
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Failure::invalid(format!(
            "Invalid isolation: \"{}\" - linux only supports 'default'",
            host.isolation
        )));
    }
    let asked = [
        (host.io_maximum_iops > 0, "Invalid QoS settings: linux does not support configuration of maximum IOPs"),
        (
            host.io_maximum_bandwidth > 0,
            "Invalid QoS settings: linux does not support configuration of maximum bandwidth",
        ),
        (host.cpu_count > 0, "linux does not support CPU count: use NanoCpus"),
        (host.cpu_percent > 0, "linux does not support CPU percent: use NanoCpus"),
        (!host.cgroup.is_empty(), "the cgroup of another container cannot be used: use CgroupParent to share limits"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, text)) => Err(Failure::invalid(*text)),
        None => Ok(()),
    }
}
