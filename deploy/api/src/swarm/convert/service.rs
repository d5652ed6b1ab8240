//! Services.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::object::Service;
use shoal_proto::spec::{
    EndpointMode, EndpointSpec, FailureAction, NetworkAttachmentSpec, PortConfig, Protocol, PublishMode, RestartPolicy,
    ServiceMode, ServiceSpec, UpdateConfig, UpdateOrder,
};
use shoal_proto::time::Timestamp;

use super::{Resolve, duration, nanoseconds, not_offered, task};
use crate::error::ApiError;
use crate::swarm::model;

/// A service as its user sent it.
pub(crate) fn service_spec(spec: model::ServiceSpec, resolve: &dyn Resolve) -> Result<ServiceSpec, ApiError> {
    let mut template = spec.task_template;
    let networks_beside = template.networks.is_empty() && !spec.networks.is_empty();
    if networks_beside {
        template.networks = spec.networks;
    }
    Ok(ServiceSpec {
        name: spec.name,
        labels: spec.labels,
        task: Arc::new(task::task_spec(template, resolve)?),
        mode: mode(&spec.mode)?,
        update: spec.update_config.map(|config| update_config("UpdateConfig", &config)).transpose()?,
        rollback: spec.rollback_config.map(|config| rollback_config(&config)).transpose()?,
        endpoint: endpoint_spec(&spec.endpoint_spec.unwrap_or_default())?,
        networks_beside,
    })
}

fn mode(mode: &model::ServiceMode) -> Result<ServiceMode, ApiError> {
    if mode.replicated_job.is_some() {
        return Err(not_offered("Mode.ReplicatedJob"));
    }
    if mode.global_job.is_some() {
        return Err(not_offered("Mode.GlobalJob"));
    }
    match (&mode.replicated, &mode.global) {
        (Some(_), Some(_)) => Err(ApiError::invalid("must specify only one service mode")),
        (None, Some(_)) => Ok(ServiceMode::Global),
        (Some(replicated), None) => Ok(ServiceMode::Replicated { replicas: replicated.replicas.unwrap_or(1) }),
        (None, None) => Ok(ServiceMode::Replicated { replicas: 1 }),
    }
}

fn update_config(member: &str, config: &model::UpdateConfig) -> Result<UpdateConfig, ApiError> {
    let defaults = UpdateConfig::default();
    let ratio = config.max_failure_ratio;
    if !(0.0..=1.0).contains(&ratio) {
        return Err(ApiError::invalid(format!("{member}: MaxFailureRatio cannot be less than 0 or bigger than 1")));
    }
    let monitor = duration(&format!("{member}.Monitor"), config.monitor)?;
    Ok(UpdateConfig {
        parallelism: config.parallelism,
        delay: duration(&format!("{member}.Delay"), config.delay)?,
        failure_action: match config.failure_action.as_str() {
            "" | "pause" => FailureAction::Pause,
            "continue" => FailureAction::Continue,
            "rollback" => FailureAction::Rollback,
            other => return Err(ApiError::invalid(format!("unrecognized update failure action {other}"))),
        },
        monitor: if monitor.is_zero() { defaults.monitor } else { monitor },
        max_failure_ratio: ratio,
        order: match config.order.as_str() {
            "" | "stop-first" => UpdateOrder::StopFirst,
            "start-first" => UpdateOrder::StartFirst,
            other => return Err(ApiError::invalid(format!("unrecognized update order {other}"))),
        },
    })
}

fn rollback_config(config: &model::UpdateConfig) -> Result<UpdateConfig, ApiError> {
    let converted = update_config("RollbackConfig", config)?;
    if converted.failure_action == FailureAction::Rollback {
        return Err(ApiError::invalid("unrecognized rollback failure action rollback: use pause or continue"));
    }
    Ok(converted)
}

fn endpoint_spec(spec: &model::EndpointSpec) -> Result<EndpointSpec, ApiError> {
    Ok(EndpointSpec {
        mode: match spec.mode.to_ascii_lowercase().as_str() {
            "" | "vip" => EndpointMode::Vip,
            "dnsrr" => EndpointMode::Dnsrr,
            other => return Err(ApiError::invalid(format!("invalid resolution mode: {other:?}"))),
        },
        ports: spec.ports.iter().map(port).collect::<Result<_, _>>()?,
    })
}

fn port(port: &model::PortConfig) -> Result<PortConfig, ApiError> {
    let number = |member: &str, value: u32| {
        u16::try_from(value)
            .map_err(|_| ApiError::invalid(format!("{member} {value} is not a port: it is above 65535")))
    };
    if port.target_port == 0 {
        return Err(ApiError::invalid("EndpointSpec.Ports: TargetPort must be between 1 and 65535"));
    }
    Ok(PortConfig {
        name: port.name.clone(),
        protocol: match port.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(ApiError::invalid(format!("invalid protocol: {other:?}"))),
        },
        target: number("TargetPort", port.target_port)?,
        published: number("PublishedPort", port.published_port)?,
        mode: match port.publish_mode.to_ascii_lowercase().as_str() {
            "" | "ingress" => PublishMode::Ingress,
            "host" => PublishMode::Host,
            other => return Err(ApiError::invalid(format!("invalid publish mode: {other:?}"))),
        },
    })
}

/// How Docker's own options of endpoints begin.
const ENDPOINT_OPTIONS: &str = "com.docker.network.endpoint.";

/// One network of a service.
pub(super) fn attachment(
    config: model::NetworkAttachmentConfig,
    resolve: &dyn Resolve,
) -> Result<NetworkAttachmentSpec, ApiError> {
    // Those that Docker knows would have an effect; others have none in dockerd either.
    if let Some(name) = config.driver_opts.keys().find(|name| name.starts_with(ENDPOINT_OPTIONS)) {
        return Err(not_offered(&format!("Networks.DriverOpts {name:?}")));
    }
    Ok(NetworkAttachmentSpec {
        target: resolve.network(&config.target)?,
        aliases: config.aliases,
        driver_options: config.driver_opts,
    })
}

/// A service as the API shows it. `prefix_len` tells the prefix length of a network.
pub(crate) fn service(
    service: &Service,
    prefix_len: impl Fn(shoal_proto::id::NetworkId) -> Option<u8>,
) -> model::Service {
    let endpoint = &service.endpoint;
    let virtual_ips = endpoint.virtual_ips.iter().map(|vip| model::VirtualIp {
        network_id: vip.network.to_string(),
        addr: format!("{}/{}", vip.addr, prefix_len(vip.network).unwrap_or(32)),
    });
    model::Service {
        id: service.id.to_string(),
        meta: (&service.meta).into(),
        spec: service_spec_json(&service.spec),
        previous_spec: service.previous_spec.as_deref().map(service_spec_json),
        endpoint: model::Endpoint {
            spec: endpoint_spec_json(&service.spec.endpoint),
            ports: endpoint.ports.iter().map(port_json).collect(),
            virtual_ips: virtual_ips.collect(),
        },
        update_status: service.update_status.as_ref().map(|status| model::UpdateStatus {
            state: status.state.as_str().to_owned(),
            started_at: when(status.started_at),
            completed_at: when(status.completed_at),
            message: status.message.clone(),
        }),
        service_status: None,
    }
}

fn when(instant: Timestamp) -> Option<String> {
    (instant != Timestamp::ZERO).then(|| instant.to_string())
}

/// A service's spec as the API shows it.
pub(crate) fn service_spec_json(spec: &ServiceSpec) -> model::ServiceSpec {
    let mut task_template = task::task_spec_json(&spec.task);
    let networks = if spec.networks_beside { std::mem::take(&mut task_template.networks) } else { Vec::new() };
    model::ServiceSpec {
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        task_template,
        mode: match spec.mode {
            ServiceMode::Replicated { replicas } => model::ServiceMode {
                replicated: Some(model::Replicated { replicas: Some(replicas) }),
                ..model::ServiceMode::default()
            },
            ServiceMode::Global => {
                model::ServiceMode { global: Some(model::Global {}), ..model::ServiceMode::default() }
            }
        },
        update_config: spec.update.as_ref().map(update_config_json),
        rollback_config: spec.rollback.as_ref().map(update_config_json),
        networks,
        endpoint_spec: Some(endpoint_spec_json(&spec.endpoint)),
    }
}

fn update_config_json(config: &UpdateConfig) -> model::UpdateConfig {
    model::UpdateConfig {
        parallelism: config.parallelism,
        delay: nanoseconds(config.delay),
        failure_action: config.failure_action.as_str().to_owned(),
        monitor: nanoseconds(config.monitor),
        max_failure_ratio: config.max_failure_ratio,
        order: config.order.as_str().to_owned(),
    }
}

fn endpoint_spec_json(spec: &EndpointSpec) -> model::EndpointSpec {
    let mode = match spec.mode {
        EndpointMode::Vip => "vip",
        EndpointMode::Dnsrr => "dnsrr",
    };
    model::EndpointSpec { mode: mode.to_owned(), ports: spec.ports.iter().map(port_json).collect() }
}

/// A port as the API shows it.
pub(super) fn port_json(port: &PortConfig) -> model::PortConfig {
    let publish_mode = match port.mode {
        PublishMode::Ingress => "ingress",
        PublishMode::Host => "host",
    };
    model::PortConfig {
        name: port.name.clone(),
        protocol: port.protocol.as_str().to_owned(),
        target_port: port.target.into(),
        published_port: port.published.into(),
        publish_mode: publish_mode.to_owned(),
    }
}

/// Fills in what the cluster does where the user said nothing (`inspect?insertDefaults`).
pub(crate) fn insert_defaults(spec: &mut model::ServiceSpec) {
    let update = || Some(update_config_json(&UpdateConfig::default()));
    spec.update_config = spec.update_config.take().or_else(update);
    spec.rollback_config = spec.rollback_config.take().or_else(update);
    let template = &mut spec.task_template;
    let restart = || Some(task::restart_policy_json(&RestartPolicy::default()));
    template.restart_policy = template.restart_policy.take().or_else(restart);
    template.resources.get_or_insert_default();
    template.placement.get_or_insert_default();
    let container = template.container_spec.get_or_insert_default();
    container.stop_grace_period.get_or_insert(nanoseconds(Duration::from_secs(10)));
    container.dns_config.get_or_insert_default();
}
