//! `service inspect --pretty`.

use std::fmt::Write as _;

use serde_json::Value;

use super::list::mode;
use crate::cli::human::binary_size;
use crate::cli::look::Look as _;
use crate::cli::parse::duration;

/// The service in words, as docker lays it out.
pub(super) fn show(service: &Value) -> String {
    let mut text = String::new();
    let spec = service.at("Spec");
    let mut line = |indent: usize, label: &str, value: String| {
        let _ = if value.is_empty() {
            writeln!(text, "{:indent$}{label}:", "")
        } else {
            writeln!(text, "{:indent$}{label}:\t{value}", "")
        };
    };
    line(0, "\nID", service.text("ID").to_owned());
    line(0, "Name", spec.text("Name").to_owned());
    if !spec.entries("Labels").is_empty() {
        line(0, "Labels", String::new());
        for (key, value) in spec.entries("Labels") {
            line(1, key, value.as_str().unwrap_or_default().to_owned());
        }
    }
    line(0, "Service Mode", capital_words(mode(spec)));
    if let Some(replicas) = spec.at("Mode.Replicated.Replicas").as_u64() {
        line(1, "Replicas", replicas.to_string());
    }
    if !service.at("UpdateStatus").is_null() {
        line(0, "UpdateStatus", String::new());
        line(1, "State", service.text("UpdateStatus.State").to_owned());
        line(1, "Started", service.text("UpdateStatus.StartedAt").to_owned());
        line(1, "Completed", service.text("UpdateStatus.CompletedAt").to_owned());
        line(1, "Message", service.text("UpdateStatus.Message").to_owned());
    }
    let placement = spec.at("TaskTemplate.Placement");
    line(0, "Placement", String::new());
    for constraint in placement.texts("Constraints") {
        line(1, "Constraint", constraint);
    }
    for preference in placement.items("Preferences") {
        line(1, "Preference", format!("spread={}", preference.text("Spread.SpreadDescriptor")));
    }
    rolling(&mut line, "UpdateConfig", spec.at("UpdateConfig"));
    rolling(&mut line, "RollbackConfig", spec.at("RollbackConfig"));
    container(&mut line, spec.at("TaskTemplate.ContainerSpec"));
    resources(&mut line, spec.at("TaskTemplate.Resources"));
    endpoint(&mut line, service);
    text
}

fn rolling(line: &mut impl FnMut(usize, &str, String), title: &str, config: &Value) {
    if config.is_null() {
        return;
    }
    line(0, title, String::new());
    line(1, "Parallelism", config.number("Parallelism").to_string());
    if config.number("Delay") > 0 {
        line(1, "Delay", duration::show(config.number("Delay")));
    }
    line(1, "On failure", config.text("FailureAction").to_owned());
    if config.number("Monitor") > 0 {
        line(1, "Monitoring Period", duration::show(config.number("Monitor")));
    }
    line(1, "Max failure ratio", config.at("MaxFailureRatio").as_f64().unwrap_or_default().to_string());
    line(1, "Order", config.text("Order").to_owned());
}

fn container(line: &mut impl FnMut(usize, &str, String), container: &Value) {
    line(0, "ContainerSpec", String::new());
    line(1, "Image", container.text("Image").to_owned());
    for (label, field) in [("Command", "Command"), ("Args", "Args"), ("Env", "Env"), ("Hosts", "Hosts")] {
        if !container.items(field).is_empty() {
            line(1, label, container.texts(field).join(" "));
        }
    }
    for (label, field) in [("Dir", "Dir"), ("User", "User"), ("Hostname", "Hostname")] {
        if !container.text(field).is_empty() {
            line(1, label, container.text(field).to_owned());
        }
    }
    for mount in container.items("Mounts") {
        line(1, "Mount", format!("{} {} -> {}", mount.text("Type"), mount.text("Source"), mount.text("Target")));
    }
    for (label, list, name) in [("Secret", "Secrets", "SecretName"), ("Config", "Configs", "ConfigName")] {
        for reference in container.items(list) {
            line(1, label, format!("{} -> {}", reference.text(name), reference.text("File.Name")));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "CPUs are shown with few digits")]
fn resources(line: &mut impl FnMut(usize, &str, String), resources: &Value) {
    line(0, "Resources", String::new());
    for (title, part) in [("Reservations", "Reservations"), ("Limits", "Limits")] {
        let (cpus, memory) =
            (resources.number(&format!("{part}.NanoCPUs")), resources.number(&format!("{part}.MemoryBytes")));
        if cpus == 0 && memory == 0 {
            continue;
        }
        line(1, title, String::new());
        if cpus > 0 {
            line(2, "CPU", (cpus as f64 / 1e9).to_string());
        }
        if memory > 0 {
            line(2, "Memory", binary_size(memory));
        }
    }
}

fn endpoint(line: &mut impl FnMut(usize, &str, String), service: &Value) {
    line(0, "Endpoint Mode", service.text("Spec.EndpointSpec.Mode").to_owned());
    if !service.items("Endpoint.Ports").is_empty() {
        line(0, "Ports", String::new());
    }
    for port in service.items("Endpoint.Ports") {
        line(1, "PublishedPort", port.number("PublishedPort").to_string());
        line(2, "Protocol", port.text("Protocol").to_owned());
        line(2, "TargetPort", port.number("TargetPort").to_string());
        line(2, "PublishMode", port.text("PublishMode").to_owned());
    }
}

fn capital_words(text: &str) -> String {
    text.split(' ').map(crate::cli::tasks::capitalized).collect::<Vec<_>>().join(" ")
}
