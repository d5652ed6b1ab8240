//! Flags onto a `ServiceSpec`, the API's JSON. Pure.

use anyhow::bail;
use serde_json::{Value, json};

use super::flags::{HealthFlags, SpecFlags};
use crate::cli::look::{Look as _, set, set_some};
use crate::cli::parse::{pair, words};

/// A container's part of a spec.
pub(super) const CONTAINER: &str = "TaskTemplate.ContainerSpec";

/// Sets on the spec what the flags say.
pub(super) fn apply(spec: &mut Value, flags: &SpecFlags) -> anyhow::Result<()> {
    apply_container(spec, flags)?;
    apply_resources(spec, flags);
    apply_mode(spec, flags)?;
    apply_policies(spec, flags);
    set_some(spec, "EndpointSpec.Mode", flags.endpoint_mode.clone());
    set_some(spec, "TaskTemplate.Placement.MaxReplicas", flags.replicas_max_per_node);
    if let Some(driver) = &flags.log_driver {
        set(spec, "TaskTemplate.LogDriver", json!({"Name": driver, "Options": pair::map(&flags.log_opt)}));
    } else if !flags.log_opt.is_empty() {
        for (key, value) in pair::map(&flags.log_opt) {
            crate::cli::look::object_at(spec, "TaskTemplate.LogDriver.Options").insert(key, value);
        }
    }
    Ok(())
}

fn apply_container(spec: &mut Value, flags: &SpecFlags) -> anyhow::Result<()> {
    if flags.isolation.is_some() || flags.credential_spec.is_some() {
        bail!("--isolation and --credential-spec are for Windows nodes, which a Shoal cluster does not have");
    }
    if let Some(entrypoint) = &flags.entrypoint {
        set(spec, &format!("{CONTAINER}.Command"), words::words(entrypoint).map_err(anyhow::Error::msg)?);
    }
    let mut put = |field: &str, value: Option<Value>| set_some(spec, &format!("{CONTAINER}.{field}"), value);
    put("Dir", flags.workdir.clone().map(Value::from));
    put("User", flags.user.clone().map(Value::from));
    put("Hostname", flags.hostname.clone().map(Value::from));
    put("StopGracePeriod", flags.stop_grace_period.map(Value::from));
    put("StopSignal", flags.stop_signal.clone().map(Value::from));
    put("OomScoreAdj", flags.oom_score_adj.map(Value::from));
    put("Init", flags.init.map(Value::from));
    put("ReadOnly", flags.read_only.map(Value::from));
    put("TTY", flags.tty.map(Value::from));
    let before = spec.at(&format!("{CONTAINER}.Healthcheck")).clone();
    if let Some(health) = healthcheck(&before, &flags.health)? {
        set(spec, &format!("{CONTAINER}.Healthcheck"), health);
    }
    Ok(())
}

/// The API's `HealthConfig`, changed by flags; `None` when no flag is given.
pub(crate) fn healthcheck(before: &Value, flags: &HealthFlags) -> anyhow::Result<Option<Value>> {
    let numbers = [
        ("Interval", flags.health_interval),
        ("Timeout", flags.health_timeout),
        ("StartPeriod", flags.health_start_period),
        ("StartInterval", flags.health_start_interval),
        ("Retries", flags.health_retries),
    ];
    let any = flags.health_cmd.is_some() || numbers.iter().any(|(_, value)| value.is_some());
    if flags.no_healthcheck {
        if any {
            bail!("--no-healthcheck conflicts with --health-* options");
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    if !any {
        return Ok(None);
    }
    let mut health = before.clone();
    if let Some(command) = &flags.health_cmd {
        set(&mut health, "Test", if command.is_empty() { json!([]) } else { json!(["CMD-SHELL", command]) });
    } else if health.texts("Test") == ["NONE"] {
        set(&mut health, "Test", json!([]));
    }
    for (field, value) in numbers {
        if value.is_some_and(|value| value < 0) {
            bail!("--health-{} cannot be negative", field.to_lowercase());
        }
        set_some(&mut health, field, value);
    }
    Ok(Some(health))
}

fn apply_resources(spec: &mut Value, flags: &SpecFlags) {
    let mut put = |path: &str, value: Option<i64>| set_some(spec, &format!("TaskTemplate.Resources.{path}"), value);
    put("Limits.NanoCPUs", flags.limit_cpu);
    put("Limits.MemoryBytes", flags.limit_memory);
    put("Limits.Pids", flags.limit_pids);
    put("Reservations.NanoCPUs", flags.reserve_cpu);
    put("Reservations.MemoryBytes", flags.reserve_memory);
    put("SwapBytes", flags.memory_swap);
    put("MemorySwappiness", flags.memory_swappiness);
}

fn apply_mode(spec: &mut Value, flags: &SpecFlags) -> anyhow::Result<()> {
    let mode = |name: &str| spec.at("Mode").get(name).is_some_and(|value| !value.is_null());
    let (replicated, job) = (mode("Replicated"), mode("ReplicatedJob"));
    match flags.replicas {
        Some(replicas) if replicated => set(spec, "Mode.Replicated.Replicas", replicas),
        Some(replicas) if job => set(spec, "Mode.ReplicatedJob.TotalCompletions", replicas),
        Some(_) => bail!("replicas can only be used with replicated or replicated-job mode"),
        None => {}
    }
    match flags.max_concurrent {
        Some(_) if !job => bail!("max-concurrent can only be used with replicated-job mode"),
        Some(concurrent) => set(spec, "Mode.ReplicatedJob.MaxConcurrent", concurrent),
        None => {}
    }
    if flags.replicas_max_per_node.is_some_and(|most| most > 0) && !replicated && !job {
        bail!("replicas-max-per-node can only be used with replicated or replicated-job mode");
    }
    Ok(())
}

/// What the API would take for absent fields, so that one flag alone sends a complete policy, as docker does.
fn apply_policies(spec: &mut Value, flags: &SpecFlags) {
    let restart = [
        ("Condition", flags.restart_condition.clone().map(Value::from)),
        ("Delay", flags.restart_delay.map(Value::from)),
        ("MaxAttempts", flags.restart_max_attempts.map(Value::from)),
        ("Window", flags.restart_window.map(Value::from)),
    ];
    let restart_defaults = json!({"Condition": "any", "Delay": 5_000_000_000_i64, "MaxAttempts": 0, "Window": 0});
    policy(spec, "TaskTemplate.RestartPolicy", &restart_defaults, restart);
    let update = &flags.update;
    let update = [
        ("Parallelism", update.update_parallelism.map(Value::from)),
        ("Delay", update.update_delay.map(Value::from)),
        ("Monitor", update.update_monitor.map(Value::from)),
        ("FailureAction", update.update_failure_action.clone().map(Value::from)),
        ("MaxFailureRatio", update.update_max_failure_ratio.map(Value::from)),
        ("Order", update.update_order.clone().map(Value::from)),
    ];
    let rolling = json!({"Parallelism": 1, "Delay": 0, "Monitor": 5_000_000_000_i64, "FailureAction": "pause", "MaxFailureRatio": 0, "Order": "stop-first"});
    policy(spec, "UpdateConfig", &rolling, update);
    let rollback = &flags.rollback;
    let rollback = [
        ("Parallelism", rollback.rollback_parallelism.map(Value::from)),
        ("Delay", rollback.rollback_delay.map(Value::from)),
        ("Monitor", rollback.rollback_monitor.map(Value::from)),
        ("FailureAction", rollback.rollback_failure_action.clone().map(Value::from)),
        ("MaxFailureRatio", rollback.rollback_max_failure_ratio.map(Value::from)),
        ("Order", rollback.rollback_order.clone().map(Value::from)),
    ];
    policy(spec, "RollbackConfig", &rolling, rollback);
}

fn policy<const N: usize>(spec: &mut Value, path: &str, defaults: &Value, fields: [(&str, Option<Value>); N]) {
    if fields.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    if spec.at(path).is_null() {
        set(spec, path, defaults.clone());
    }
    for (field, value) in fields {
        set_some(spec, &format!("{path}.{field}"), value);
    }
}

/// The API's generic resource of `gpu=2` or `gpu=UUID1`.
pub(super) fn generic_resource(text: &str) -> anyhow::Result<Value> {
    let Some((kind, value)) = text.split_once('=').filter(|(kind, value)| !kind.is_empty() && !value.is_empty()) else {
        bail!("invalid generic-resource request '{text}': want name=number");
    };
    match value.parse::<i64>() {
        Ok(value) if value > 0 => Ok(json!({"DiscreteResourceSpec": {"Kind": kind, "Value": value}})),
        Ok(_) => bail!("invalid generic-resource request '{text}': the number must be positive"),
        Err(_) => bail!(
            "invalid generic-resource request '{text}': named generic resources are not supported for service create or service update"
        ),
    }
}

/// The API's placement preference of `spread=node.labels.zone`.
pub(super) fn preference(text: &str) -> anyhow::Result<Value> {
    match text.split_once('=') {
        Some((strategy, descriptor)) if strategy.eq_ignore_ascii_case("spread") && !descriptor.is_empty() => {
            Ok(json!({"Spread": {"SpreadDescriptor": descriptor}}))
        }
        Some((strategy, _)) if !strategy.eq_ignore_ascii_case("spread") => {
            bail!("unsupported placement preference \"{strategy}\": only spread strategy is supported")
        }
        _ => bail!(
            "placement preference '{text}' must be of format \"spread=<node label>\", as in spread=node.labels.zone"
        ),
    }
}
