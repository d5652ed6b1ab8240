//! What a task runs, and tasks.

use std::collections::BTreeMap;

use shoal_proto::id::NetworkId;
use shoal_proto::object::{Network, Task};
use shoal_proto::spec::{
    LogDriver, NetworkAttachmentSpec, Placement, Platform, ResourceAmount, Resources, RestartCondition, RestartPolicy,
    TaskSpec,
};

use super::{Resolve, container, duration, nanoseconds, network, not_offered, service};
use crate::error::ApiError;
use crate::swarm::model;

/// Stands between the kind of a named resource and its name, in what the store keeps.
const NAMED: char = '=';

/// What the tasks of a service run.
pub(super) fn task_spec(spec: model::TaskSpec, resolve: &dyn Resolve) -> Result<TaskSpec, ApiError> {
    if spec.plugin_spec.is_some() || spec.runtime == "plugin" {
        return Err(not_offered("TaskTemplate.PluginSpec"));
    }
    if spec.network_attachment_spec.is_some() || spec.runtime == "attachment" {
        return Err(ApiError::invalid("the network attachment task runtime cannot be specified by users"));
    }
    if !matches!(spec.runtime.as_str(), "" | "container") {
        return Err(ApiError::invalid(format!("invalid task spec: runtime {:?} is not known", spec.runtime)));
    }
    let Some(container_spec) = spec.container_spec else {
        return Err(ApiError::invalid("TaskTemplate: missing ContainerSpec in service spec"));
    };
    let networks = spec.networks.into_iter().map(|config| service::attachment(config, resolve));
    Ok(TaskSpec {
        container: container::container_spec(container_spec, resolve)?,
        resources: resources(spec.resources.unwrap_or_default())?,
        restart: spec.restart_policy.map(|policy| restart_policy(&policy)).transpose()?,
        placement: placement(spec.placement.unwrap_or_default())?,
        networks: networks.collect::<Result<_, _>>()?,
        log_driver: spec.log_driver.map(|driver| LogDriver { name: driver.name, options: driver.options }),
        force_update: spec.force_update,
        // The only one. Shown as `container`, kept as nothing, so that a spec sent back as it was shown restarts no task.
        runtime: String::new(),
    })
}

fn resources(requirements: model::ResourceRequirements) -> Result<Resources, ApiError> {
    if requirements.memory_swappiness.is_some() {
        return Err(not_offered("TaskTemplate.Resources.MemorySwappiness"));
    }
    let limits = requirements.limits.unwrap_or_default();
    if !limits.generic_resources.is_empty() {
        return Err(ApiError::invalid("TaskTemplate.Resources.Limits: generic resources can only be reserved"));
    }
    Ok(Resources {
        limits: amount(limits)?,
        reservations: amount(requirements.reservations.unwrap_or_default())?,
        memory_swap_bytes: requirements.swap_bytes.unwrap_or(0),
    })
}

fn amount(resources: model::Resources) -> Result<ResourceAmount, ApiError> {
    let mut generic = BTreeMap::new();
    for resource in resources.generic_resources {
        let (kind, value) = generic_resource(resource)?;
        *generic.entry(kind).or_insert(0) += value;
    }
    Ok(ResourceAmount {
        nano_cpus: resources.nano_cpus,
        memory_bytes: resources.memory_bytes,
        pids: resources.pids,
        generic,
    })
}

/// How many of what. One that is named is the only one of its kind.
fn generic_resource(resource: model::GenericResource) -> Result<(String, i64), ApiError> {
    let is_kind = |kind: &str| !kind.is_empty() && !kind.contains(NAMED);
    if let Some(named) = resource.named_resource_spec {
        if !is_kind(&named.kind) || named.value.is_empty() {
            return Err(ApiError::invalid("GenericResources: a named resource needs a Kind, without '=', and a Value"));
        }
        return Ok((format!("{}{NAMED}{}", named.kind, named.value), 1));
    }
    let discrete = resource.discrete_resource_spec.unwrap_or_default();
    if !is_kind(&discrete.kind) || discrete.value < 1 {
        return Err(ApiError::invalid(
            "GenericResources: a resource needs a Kind, without '=', and a Value of at least 1",
        ));
    }
    Ok((discrete.kind, discrete.value))
}

fn restart_policy(policy: &model::RestartPolicy) -> Result<RestartPolicy, ApiError> {
    let defaults = RestartPolicy::default();
    let time = |member: &str, given: Option<i64>, default| match given {
        Some(given) => duration(member, given),
        None => Ok(default),
    };
    Ok(RestartPolicy {
        condition: match policy.condition.as_str() {
            "" | "any" => RestartCondition::Any,
            "none" => RestartCondition::None,
            "on-failure" => RestartCondition::OnFailure,
            other => return Err(ApiError::invalid(format!("invalid RestartCondition: {other:?}"))),
        },
        delay: time("RestartPolicy.Delay", policy.delay, defaults.delay)?,
        max_attempts: policy.max_attempts.unwrap_or(defaults.max_attempts),
        window: time("RestartPolicy.Window", policy.window, defaults.window)?,
        window_given: policy.window.is_some(),
    })
}

fn placement(placement: model::Placement) -> Result<Placement, ApiError> {
    let spread = placement.preferences.into_iter().map(|preference| match preference.spread {
        Some(spread) => Ok(spread.spread_descriptor),
        None => Err(ApiError::invalid("Placement.Preferences: a preference needs a strategy; Spread is the only one")),
    });
    Ok(Placement {
        constraints: placement.constraints,
        spread: spread.collect::<Result<_, _>>()?,
        max_replicas: placement.max_replicas,
        platforms: placement
            .platforms
            .into_iter()
            .map(|platform| Platform { architecture: platform.architecture, os: platform.os })
            .collect(),
    })
}

/// What tasks run, as the API shows it.
pub(super) fn task_spec_json(spec: &TaskSpec) -> model::TaskSpec {
    let placement = &spec.placement;
    let preferences = placement
        .spread
        .iter()
        .map(|descriptor| model::Preference { spread: Some(model::Spread { spread_descriptor: descriptor.clone() }) });
    let platforms = placement
        .platforms
        .iter()
        .map(|platform| model::Platform { architecture: platform.architecture.clone(), os: platform.os.clone() });
    model::TaskSpec {
        container_spec: Some(container::container_spec_json(&spec.container)),
        plugin_spec: None,
        network_attachment_spec: None,
        resources: Some(model::ResourceRequirements {
            limits: Some(amount_json(&spec.resources.limits)),
            reservations: Some(amount_json(&spec.resources.reservations)),
            swap_bytes: Some(spec.resources.memory_swap_bytes).filter(|bytes| *bytes != 0),
            memory_swappiness: None,
        }),
        restart_policy: spec.restart.as_ref().map(restart_policy_json),
        placement: Some(model::Placement {
            constraints: placement.constraints.clone(),
            preferences: preferences.collect(),
            max_replicas: placement.max_replicas,
            platforms: platforms.collect(),
        }),
        networks: spec.networks.iter().map(attachment_json).collect(),
        log_driver: spec.log_driver.as_ref().map(log_driver_json),
        force_update: spec.force_update,
        runtime: if spec.runtime.is_empty() { "container".to_owned() } else { spec.runtime.clone() },
    }
}

/// A log driver as the API shows it.
pub(super) fn log_driver_json(driver: &LogDriver) -> model::Driver {
    model::Driver { name: driver.name.clone(), options: driver.options.clone() }
}

/// A restart policy as the API shows it.
pub(super) fn restart_policy_json(policy: &RestartPolicy) -> model::RestartPolicy {
    model::RestartPolicy {
        condition: policy.condition.as_str().to_owned(),
        delay: Some(nanoseconds(policy.delay)),
        max_attempts: Some(policy.max_attempts),
        window: policy.shown_window().map(nanoseconds),
    }
}

/// An amount as the API shows it.
pub(super) fn amount_json(amount: &ResourceAmount) -> model::Resources {
    let generic = amount.generic.iter().map(|(kind, value)| match kind.split_once(NAMED) {
        Some((kind, name)) => model::GenericResource {
            named_resource_spec: Some(model::NamedResource { kind: kind.to_owned(), value: name.to_owned() }),
            discrete_resource_spec: None,
        },
        None => model::GenericResource {
            named_resource_spec: None,
            discrete_resource_spec: Some(model::DiscreteResource { kind: kind.clone(), value: *value }),
        },
    });
    model::Resources {
        nano_cpus: amount.nano_cpus,
        memory_bytes: amount.memory_bytes,
        pids: amount.pids,
        generic_resources: generic.collect(),
    }
}

fn attachment_json(attachment: &NetworkAttachmentSpec) -> model::NetworkAttachmentConfig {
    model::NetworkAttachmentConfig {
        target: attachment.target.to_string(),
        aliases: attachment.aliases.clone(),
        driver_opts: attachment.driver_options.clone(),
    }
}

/// A task as the API shows it. `find` looks a network up.
pub(crate) fn task<'a>(task: &Task, find: impl Fn(NetworkId) -> Option<&'a Network>) -> model::Task {
    let status = &task.status;
    let attachments = task.networks.iter().map(|attachment| model::NetworkAttachment {
        network: match find(attachment.network) {
            Some(found) => network::network(found),
            None => model::Network { id: attachment.network.to_string(), ..model::Network::default() },
        },
        addresses: attachment.addr.iter().map(ToString::to_string).collect(),
    });
    model::Task {
        id: task.id.to_string(),
        meta: (&task.meta).into(),
        labels: BTreeMap::new(),
        spec: task_spec_json(&task.spec),
        service_id: task.service_id.to_string(),
        slot: task.slot,
        node_id: task.node_id.map(|id| id.to_string()).unwrap_or_default(),
        status: model::TaskStatus {
            timestamp: status.timestamp.to_string(),
            state: status.state.as_str().to_owned(),
            message: status.message.clone(),
            err: status.error.clone(),
            container_status: status.container.as_ref().map(|container| model::ContainerStatus {
                container_id: container.container_id.clone(),
                pid: container.pid,
                exit_code: container.exit_code.unwrap_or(0),
            }),
            port_status: model::PortStatus { ports: status.ports.iter().map(service::port_json).collect() },
        },
        desired_state: task.desired_state.as_str().to_owned(),
        networks_attachments: attachments.collect(),
        volumes: None,
    }
}
