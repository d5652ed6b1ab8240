//! What older versions of the API do not have: dockerd drops it from their requests, so that a client that copies
//! members it does not know changes nothing.

use super::model::{InitBody, PayloadSpec, ServiceSpec, TaskSpec};
use crate::version::ApiVersion;

/// Drops members of a new cluster's description that are younger than the client's version.
pub(super) fn init(body: &mut InitBody, version: ApiVersion) {
    if !version.at_least(39) {
        body.default_addr_pool.clear();
        body.subnet_size = 0;
    }
    if !version.at_least(40) {
        body.data_path_port = 0;
    }
}

/// 1.37: secrets and configs may be templates.
pub(super) fn payload(spec: &mut PayloadSpec, version: ApiVersion) {
    if !version.at_least(37) {
        spec.templating = None;
    }
}

/// Drops members that are younger than the client's version.
pub(super) fn service_spec(spec: &mut ServiceSpec, version: ApiVersion) {
    task_spec(&mut spec.task_template, version);
    if !version.at_least(41) {
        spec.mode.replicated_job = None;
        spec.mode.global_job = None;
    }
}

fn task_spec(task: &mut TaskSpec, version: ApiVersion) {
    if !version.at_least(40)
        && let Some(placement) = &mut task.placement
    {
        placement.max_replicas = 0;
    }
    if !version.at_least(41)
        && let Some(limits) = task.resources.as_mut().and_then(|resources| resources.limits.as_mut())
    {
        limits.pids = 0;
    }
    let Some(container) = &mut task.container_spec else { return };
    if !version.at_least(40) {
        container.sysctls.clear();
    }
    if !version.at_least(41) {
        container.capability_add.clear();
        container.capability_drop.clear();
        container.ulimits.clear();
    }
    if !version.at_least(44) {
        if let Some(privileges) = &mut container.privileges {
            privileges.seccomp = None;
            privileges.app_armor = None;
            privileges.no_new_privileges = false;
        }
        if let Some(check) = &mut container.healthcheck {
            check.start_interval = 0;
        }
    }
    if !version.at_least(46) {
        container.oom_score_adj = 0;
        for mount in &mut container.mounts {
            if let Some(tmpfs) = &mut mount.mount.tmpfs_options {
                tmpfs.options = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gated(minor: u32) -> ServiceSpec {
        let text = r#"{"Mode":{"ReplicatedJob":{}},"TaskTemplate":{"Placement":{"MaxReplicas":2},"Resources":{"Limits":{"Pids":5}},
            "ContainerSpec":{"Sysctls":{"a":"b"},"CapabilityAdd":["X"],"Ulimits":[{"Name":"nofile"}],"OomScoreAdj":5,
            "Privileges":{"NoNewPrivileges":true}}}}"#;
        let mut spec = serde_json::from_str(text).expect("spec");
        service_spec(&mut spec, ApiVersion::new(1, minor));
        spec
    }

    #[test]
    fn a_new_cluster_is_described_in_the_clients_version() {
        let given = |minor| {
            let text = r#"{"DefaultAddrPool":["10.9.0.0/16"],"SubnetSize":26,"DataPathPort":5000}"#;
            let mut body: InitBody = serde_json::from_str(text).expect("body");
            init(&mut body, ApiVersion::new(1, minor));
            (body.default_addr_pool.len(), body.subnet_size, body.data_path_port)
        };
        assert_eq!((given(38), given(39), given(40)), ((0, 0, 0), (1, 26, 0), (1, 26, 5000)));
    }

    #[test]
    fn members_appear_with_their_version() {
        let container = |minor| gated(minor).task_template.container_spec.expect("container");
        assert!(container(39).sysctls.is_empty() && !container(40).sysctls.is_empty());
        assert!(container(40).ulimits.is_empty() && !container(41).ulimits.is_empty());
        assert_eq!((container(45).oom_score_adj, container(46).oom_score_adj), (0, 5));
        let no_new_privileges = |minor| container(minor).privileges.expect("privileges").no_new_privileges;
        assert!(!no_new_privileges(43) && no_new_privileges(44));
        assert_eq!(gated(39).task_template.placement.expect("placement").max_replicas, 0);
        assert!(gated(40).mode.replicated_job.is_none() && gated(41).mode.replicated_job.is_some());
    }
}
