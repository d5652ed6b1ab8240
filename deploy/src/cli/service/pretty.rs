//! `service inspect --pretty`.

use serde_json::Value;

use super::list::mode;
use crate::cli::human::binary_size;
use crate::cli::look::Look as _;
use crate::cli::parse::duration;
use crate::cli::tasks::capitalized;

/// The service in words, as docker lays it out.
pub(super) fn show(service: &Value) -> String {
    let spec = service.at("Spec");
    let mut text = format!("\nID:\t\t{}\nName:\t\t{}\n", service.text("ID"), spec.text("Name"));
    if !spec.entries("Labels").is_empty() {
        text.push_str("Labels:\n");
        for (key, value) in spec.entries("Labels") {
            text.push_str(&format!(" {key}={}\n", value.as_str().unwrap_or_default()));
        }
    }
    let mode = mode(spec).split(' ').map(capitalized).collect::<Vec<_>>().join(" ");
    text.push_str(&format!("Service Mode:\t{mode}\n"));
    if let Some(replicas) = spec.at("Mode.Replicated.Replicas").as_u64() {
        text.push_str(&format!(" Replicas:\t{replicas}\n"));
    }
    update_status(&mut text, service.at("UpdateStatus"));
    placement(&mut text, spec.at("TaskTemplate.Placement"));
    rolling(&mut text, "Update", spec.at("UpdateConfig"));
    rolling(&mut text, "Rollback", spec.at("RollbackConfig"));
    container(&mut text, spec.at("TaskTemplate.ContainerSpec"));
    resources(&mut text, spec.at("TaskTemplate.Resources"));
    endpoint(&mut text, service);
    text
}

fn update_status(text: &mut String, status: &Value) {
    if status.is_null() {
        return;
    }
    text.push_str(&format!("UpdateStatus:\n State:\t\t{}\n", status.text("State")));
    for (label, field) in [("Started", "StartedAt"), ("Completed", "CompletedAt"), ("Message", "Message")] {
        if !status.text(field).is_empty() {
            text.push_str(&format!(" {label}:\t{}\n", status.text(field)));
        }
    }
}

fn placement(text: &mut String, placement: &Value) {
    text.push_str("Placement:\n");
    if !placement.items("Constraints").is_empty() {
        text.push_str(&format!(" Constraints:\t[{}]\n", placement.texts("Constraints").join(" ")));
    }
    for preference in placement.items("Preferences") {
        text.push_str(&format!(" Preference:\tspread={}\n", preference.text("Spread.SpreadDescriptor")));
    }
    if placement.number("MaxReplicas") > 0 {
        text.push_str(&format!(" Max Replicas Per Node:\t{}\n", placement.number("MaxReplicas")));
    }
}

fn rolling(text: &mut String, what: &str, config: &Value) {
    if config.is_null() {
        return;
    }
    text.push_str(&format!("{what}Config:\n Parallelism:\t{}\n", config.number("Parallelism")));
    if config.number("Delay") > 0 {
        text.push_str(&format!(" Delay:\t\t{}\n", duration::show(config.number("Delay"))));
    }
    text.push_str(&format!(" On failure:\t{}\n", config.text("FailureAction")));
    if config.number("Monitor") > 0 {
        text.push_str(&format!(" Monitoring Period: {}\n", duration::show(config.number("Monitor"))));
    }
    let ratio = config.at("MaxFailureRatio").as_f64().unwrap_or_default();
    text.push_str(&format!(" Max failure ratio: {ratio}\n"));
    text.push_str(&format!(" {:<19}{}\n", format!("{what} order:"), config.text("Order")));
}

fn container(text: &mut String, container: &Value) {
    text.push_str(&format!("ContainerSpec:\n Image:\t\t{}\n", container.text("Image")));
    for field in ["Command", "Args", "Env", "Hosts"] {
        if !container.items(field).is_empty() {
            text.push_str(&format!(" {field}:\t\t{}\n", container.texts(field).join(" ")));
        }
    }
    for field in ["Dir", "User", "Hostname"] {
        if !container.text(field).is_empty() {
            text.push_str(&format!(" {field}:\t\t{}\n", container.text(field)));
        }
    }
    for mount in container.items("Mounts") {
        let (kind, source, target) = (mount.text("Type"), mount.text("Source"), mount.text("Target"));
        text.push_str(&format!(
            "Mounts:\n Target:\t{target}\n  Source:\t{source}\n  ReadOnly:\t{}\n  Type:\t\t{kind}\n",
            mount.truth("ReadOnly")
        ));
    }
    for (title, name) in [("Secrets", "SecretName"), ("Configs", "ConfigName")] {
        if !container.items(title).is_empty() {
            text.push_str(&format!("{title}:\n"));
        }
        for reference in container.items(title) {
            text.push_str(&format!(" Target:\t{}\n  Source:\t{}\n", reference.text("File.Name"), reference.text(name)));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "CPUs are shown with few digits")]
fn resources(text: &mut String, resources: &Value) {
    text.push_str("Resources:\n");
    for title in ["Reservations", "Limits"] {
        let (cpus, memory) =
            (resources.number(&format!("{title}.NanoCPUs")), resources.number(&format!("{title}.MemoryBytes")));
        if cpus == 0 && memory == 0 {
            continue;
        }
        text.push_str(&format!(" {title}:\n"));
        if cpus > 0 {
            text.push_str(&format!("  CPU:\t\t{}\n", cpus as f64 / 1e9));
        }
        if memory > 0 {
            text.push_str(&format!("  Memory:\t{}\n", binary_size(memory)));
        }
    }
}

fn endpoint(text: &mut String, service: &Value) {
    text.push_str(&format!("Endpoint Mode:\t{}\n", service.text("Spec.EndpointSpec.Mode")));
    if !service.items("Endpoint.Ports").is_empty() {
        text.push_str("Ports:\n");
    }
    for port in service.items("Endpoint.Ports") {
        let (published, target) = (port.number("PublishedPort"), port.number("TargetPort"));
        let (protocol, mode) = (port.text("Protocol"), port.text("PublishMode"));
        text.push_str(&format!(
            " PublishedPort = {published}\n  Protocol = {protocol}\n  TargetPort = {target}\n  PublishMode = {mode}\n"
        ));
    }
    text.push('\n');
}
