//! Services.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::error::Failure;
use shoal_proto::object::Service;
use shoal_proto::spec::{
    EndpointMode, EndpointSpec, FailureAction, Placement, PublishMode, ResourceAmount, ServiceMode, ServiceSpec,
    TaskSpec, UpdateConfig,
};

use super::{container, dns_name, size};
use crate::allocator;
use crate::constraint::Constraint;
use crate::reconcile::AUTOMATIC_PORTS;
use crate::scheduler::is_spread_descriptor;
use crate::store::{Store, host_ports, ingress_ports};

/// Most slots of one service.
const MOST_REPLICAS: u64 = 1_000_000;
/// Durations beyond this are mistakes.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// May a service be made of this spec?
///
/// # Errors
/// When it may not, with the reason. (That the name is free is checked where the change is made.)
pub fn service(spec: &ServiceSpec, store: &Store) -> Result<(), Failure> {
    check(spec, None, store)
}

/// May the service be changed to this spec?
///
/// # Errors
/// When it may not, with the reason.
pub fn service_update(service: &Service, spec: &ServiceSpec, store: &Store) -> Result<(), Failure> {
    if spec.name != service.spec.name {
        return Err(Failure::invalid("renaming services is not supported"));
    }
    if std::mem::discriminant(&spec.mode) != std::mem::discriminant(&service.spec.mode) {
        return Err(Failure::invalid("service mode change is not allowed"));
    }
    check(spec, Some(service), store)
}

fn check(spec: &ServiceSpec, own: Option<&Service>, store: &Store) -> Result<(), Failure> {
    size("service", spec)?;
    dns_name(&spec.name)?;
    if let ServiceMode::Replicated { replicas } = spec.mode
        && replicas > MOST_REPLICAS
    {
        return Err(Failure::invalid(format!("replicas must be at most {MOST_REPLICAS}, not {replicas}")));
    }
    task(spec, store)?;
    update_config("update", spec.update.as_ref())?;
    update_config("rollback", spec.rollback.as_ref())?;
    if spec.rollback.as_ref().is_some_and(|config| config.failure_action == FailureAction::Rollback) {
        return Err(Failure::invalid("TaskSpec: rollback-failure-action cannot be rollback"));
    }
    endpoint(&spec.endpoint)?;
    networks(&spec.task, store)?;
    ports_are_free(spec, own, store)
}

fn task(spec: &ServiceSpec, store: &Store) -> Result<(), Failure> {
    let task = &spec.task;
    amounts("limit", &task.resources.limits)?;
    amounts("reservation", &task.resources.reservations)?;
    swap(task)?;
    if let Some(policy) = &task.restart {
        duration("TaskSpec: restart-delay", policy.delay)?;
        duration("TaskSpec: restart-window", policy.window)?;
    }
    placement(&task.placement, spec.mode)?;
    if task.log_driver.as_ref().is_some_and(|driver| driver.name.is_empty() && !driver.options.is_empty()) {
        return Err(Failure::invalid("TaskSpec: log options need the name of a log driver"));
    }
    container::check(&task.container, &spec.labels, store)
}

fn duration(what: &str, value: Duration) -> Result<(), Failure> {
    if value > LONGEST { Err(Failure::invalid(format!("{what} cannot be longer than a year"))) } else { Ok(()) }
}

fn amounts(what: &str, amount: &ResourceAmount) -> Result<(), Failure> {
    if amount.nano_cpus != 0 && amount.nano_cpus < 1_000_000 {
        #[expect(clippy::cast_precision_loss, reason = "only shown")]
        let cpus = amount.nano_cpus as f64 / 1e9;
        return Err(Failure::invalid(format!("invalid cpu value {cpus} of the {what}: Must be at least 0.001")));
    }
    if amount.memory_bytes != 0 && amount.memory_bytes < 4 << 20 {
        let bytes = amount.memory_bytes;
        return Err(Failure::invalid(format!("invalid memory value {bytes} of the {what}: Must be at least 4MiB")));
    }
    if amount.pids < 0 {
        return Err(Failure::invalid(format!("invalid pids value {} of the {what}: cannot be negative", amount.pids)));
    }
    if let Some((kind, value)) = amount.generic.iter().find(|(kind, value)| **value <= 0 || kind.is_empty()) {
        return Err(Failure::invalid(format!(
            "invalid generic resource {kind}={value} of the {what}: a kind and a positive number are needed"
        )));
    }
    Ok(())
}

fn swap(task: &TaskSpec) -> Result<(), Failure> {
    let (swap, memory) = (task.resources.memory_swap_bytes, task.resources.limits.memory_bytes);
    if swap < -1 {
        return Err(Failure::invalid(format!("invalid memory-swap value {swap}: -1 means unlimited")));
    }
    if swap > 0 && memory == 0 {
        return Err(Failure::invalid("You should always set the Memory limit when using Memoryswap limit"));
    }
    if swap > 0 && swap < memory {
        return Err(Failure::invalid("Minimum memoryswap limit should be larger than memory limit"));
    }
    Ok(())
}

fn placement(placement: &Placement, mode: ServiceMode) -> Result<(), Failure> {
    for text in &placement.constraints {
        Constraint::parse(text).map_err(|error| Failure::invalid(format!("invalid constraint {text:?}: {error}")))?;
    }
    if placement.max_replicas > 0 && mode == ServiceMode::Global {
        return Err(Failure::invalid("replicas-max-per-node can only be used with replicated mode"));
    }
    Ok(())
}

/// What is taken as it is, and of no effect.
pub fn service_warnings(spec: &ServiceSpec) -> Vec<String> {
    // As in Swarm: the scheduler passes over preferences that it does not know.
    let unknown = spec.task.placement.spread.iter().filter(|descriptor| !is_spread_descriptor(descriptor));
    unknown
        .map(|descriptor| {
            format!(
                "placement preference spread={descriptor} is ignored: use node.labels.<name>, engine.labels.<name> or \
                 node.hostname"
            )
        })
        .collect()
}

fn update_config(what: &str, config: Option<&UpdateConfig>) -> Result<(), Failure> {
    let Some(config) = config else { return Ok(()) };
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        return Err(Failure::invalid(format!(
            "TaskSpec: {what}-maxfailureratio cannot be less than 0 or bigger than 1"
        )));
    }
    duration(&format!("TaskSpec: {what}-delay"), config.delay)?;
    duration(&format!("TaskSpec: {what}-monitor"), config.monitor)
}

fn endpoint(spec: &EndpointSpec) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for port in &spec.ports {
        if spec.mode == EndpointMode::Dnsrr && port.mode == PublishMode::Ingress {
            return Err(Failure::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        if port.target == 0 {
            return Err(Failure::invalid("EndpointSpec: a published port needs a target port from 1 to 65535"));
        }
        if port.published != 0 && !seen.insert((port.protocol, port.published)) {
            return Err(Failure::invalid("EndpointSpec: duplicate published ports provided"));
        }
    }
    Ok(())
}

fn networks(task: &TaskSpec, store: &Store) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for attachment in &task.networks {
        let id = attachment.target;
        let network = store.network(id).filter(|network| !network.pending_delete);
        let network = network.ok_or_else(|| Failure::not_found(format!("network {id} not found")))?;
        let name = &network.spec.name;
        if network.spec.ingress {
            return Err(Failure::invalid(format!(
                "Service cannot be explicitly attached to the ingress network \"{name}\""
            )));
        }
        if !seen.insert(id) {
            return Err(Failure::invalid(format!("network {name} is given more than once")));
        }
        if let Some(alias) =
            attachment.aliases.iter().find(|alias| alias.is_empty() || alias.contains(char::is_whitespace))
        {
            return Err(Failure::invalid(format!("invalid alias {alias:?} on network {name}")));
        }
    }
    Ok(())
}

/// Clashes with the ports of other services, and what can be known of automatic ones.
fn ports_are_free(spec: &ServiceSpec, own: Option<&Service>, store: &Store) -> Result<(), Failure> {
    if spec.endpoint.ports.is_empty() {
        return Ok(());
    }
    let own_id = own.map(|service| service.id);
    let in_use = |port: u16, user: &Service, how: &str| {
        let (name, id) = (&user.spec.name, user.id);
        Failure::invalid(format!("port '{port}' is already in use by service '{name}' ({id}) as {how} port"))
    };
    for (protocol, port) in ingress_ports(&spec.endpoint.ports).chain(host_ports(&spec.endpoint.ports)) {
        if let Some(user) = store.port_owner(protocol, port).filter(|id| Some(*id) != own_id)
            && let Some(user) = store.service(user)
        {
            return Err(in_use(port, user, "an ingress"));
        }
    }
    let wanted: BTreeSet<_> = ingress_ports(&spec.endpoint.ports).collect();
    for user in store.services().filter(|service| !service.pending_delete && Some(service.id) != own_id) {
        if let Some((_, port)) = host_ports(&user.spec.endpoint.ports).find(|port| wanted.contains(port)) {
            return Err(in_use(port, user, "a host-published"));
        }
    }
    let automatic = spec.endpoint.ports.iter().find(|port| port.mode == PublishMode::Ingress && port.published == 0);
    if let Some(port) = automatic {
        let taken = store.ports_from(port.protocol, *AUTOMATIC_PORTS.start()).filter(|p| AUTOMATIC_PORTS.contains(p));
        let had = own.is_some_and(|service| !service.endpoint.ports.is_empty());
        if !had && taken.count() >= AUTOMATIC_PORTS.len() {
            return Err(Failure::conflict(format!(
                "no {} port from {} to {} is left to publish: name one",
                port.protocol.as_str(),
                AUTOMATIC_PORTS.start(),
                AUTOMATIC_PORTS.end()
            )));
        }
    }
    if allocator::uses_ingress(&spec.endpoint.ports) && store.ingress_network().is_none_or(|net| net.pending_delete) {
        return Err(Failure::invalid("service needs ingress network, but no ingress network is present"));
    }
    Ok(())
}
