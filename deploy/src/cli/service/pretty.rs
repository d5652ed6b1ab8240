//! `service inspect --pretty`.

use serde_json::Value;

use super::list::mode;
use crate::cli::human::binary_size;
use crate::cli::look::Look as _;
use crate::cli::parse::duration;
use crate::cli::tasks::capitalized;

/// The ids of the networks a service's tasks are on.
pub(super) fn networks(service: &Value) -> Vec<&str> {
    let task = service.items("Spec.TaskTemplate.Networks");
    // Services of old have them elsewhere.
    let networks = if task.is_empty() { service.items("Spec.Networks") } else { task };
    networks.iter().map(|network| network.text("Target")).collect()
}

/// The service in words, as docker lays it out; with the names of its networks.
pub(super) fn show(service: &Value, networks: &[String]) -> String {
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
    log_driver(&mut text, spec.at("TaskTemplate.LogDriver"));
    resources(&mut text, spec.at("TaskTemplate.Resources"));
    if !networks.is_empty() {
        text.push_str(&format!("Networks: {} \n", networks.join(" ")));
    }
    endpoint(&mut text, service);
    health(&mut text, spec.at("TaskTemplate.ContainerSpec.Healthcheck"));
    text.push('\n');
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
    if let Some(init) = container.at("Init").as_bool() {
        text.push_str(&format!(" Init:\t\t{init}\n"));
    }
    for field in ["Dir", "User", "Hostname"] {
        if !container.text(field).is_empty() {
            text.push_str(&format!(" {field}:\t\t{}\n", container.text(field)));
        }
    }
    privileges(text, container);
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

/// Capabilities, kernel parameters and limits of processes.
fn privileges(text: &mut String, container: &Value) {
    let (add, drop) = (container.texts("CapabilityAdd"), container.texts("CapabilityDrop"));
    if !add.is_empty() || !drop.is_empty() {
        text.push_str("Capabilities:\n");
    }
    for (title, names) in [("Add", add), ("Drop", drop)] {
        if !names.is_empty() {
            text.push_str(&format!(" {title}: {}\n", names.join(", ")));
        }
    }
    if !container.entries("Sysctls").is_empty() {
        text.push_str("SysCtls:\n");
    }
    for (name, value) in container.entries("Sysctls") {
        text.push_str(&format!(" {name}: {}\n", value.as_str().unwrap_or_default()));
    }
    if !container.items("Ulimits").is_empty() {
        text.push_str("Ulimits:\n");
    }
    for limit in container.items("Ulimits") {
        text.push_str(&format!(" {}: {}:{}\n", limit.text("Name"), limit.number("Soft"), limit.number("Hard")));
    }
}

fn log_driver(text: &mut String, driver: &Value) {
    if driver.text("Name").is_empty() {
        return;
    }
    text.push_str(&format!("Log Driver:\n Name:\t\t{}\n", driver.text("Name")));
    if !driver.entries("Options").is_empty() {
        text.push_str(" LogOpts:\n");
    }
    for (name, value) in driver.entries("Options") {
        text.push_str(&format!("  {:<15} {}\n", format!("{name}:"), value.as_str().unwrap_or_default()));
    }
    text.push('\n');
}

fn health(text: &mut String, check: &Value) {
    if check.is_null() {
        return;
    }
    text.push_str(&format!(
        " Healthcheck:\n  Interval = {}\n  Retries = {}\n  StartPeriod =\t{}\n  Timeout =\t{}\n",
        duration::show(check.number("Interval")),
        check.number("Retries"),
        duration::show(check.number("StartPeriod")),
        duration::show(check.number("Timeout"))
    ));
    if !check.items("Test").is_empty() {
        text.push_str("  Tests:\n");
    }
    for word in check.texts("Test") {
        text.push_str(&format!("\t Test = {word}\n"));
    }
}

#[expect(clippy::cast_precision_loss, reason = "CPUs are shown with few digits")]
fn resources(text: &mut String, resources: &Value) {
    text.push_str("Resources:\n");
    for title in ["Reservations", "Limits"] {
        let (cpus, memory) =
            (resources.number(&format!("{title}.NanoCPUs")), resources.number(&format!("{title}.MemoryBytes")));
        let pids = resources.number(&format!("{title}.Pids"));
        if cpus == 0 && memory == 0 && pids == 0 {
            continue;
        }
        text.push_str(&format!(" {title}:\n"));
        if cpus > 0 {
            text.push_str(&format!("  CPU:\t\t{}\n", cpus as f64 / 1e9));
        }
        if memory > 0 {
            text.push_str(&format!("  Memory:\t{}\n", binary_size(memory)));
        }
        if pids > 0 {
            text.push_str(&format!("  PIDs:\t\t{pids}\n"));
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
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The layout of docker 28, of the parts that are seldom there.
    #[test]
    fn every_part_is_shown() {
        let service = json!({"ID": "je34ysp4", "Spec": {
            "Name": "web",
            "Mode": {"Replicated": {"Replicas": 0}},
            "EndpointSpec": {"Mode": "vip"},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": "page:1", "Args": ["sh"], "Init": true, "User": "1",
                    "CapabilityAdd": ["CAP_NET_ADMIN"], "Sysctls": {"net.core.somaxconn": "5"},
                    "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}],
                    "Healthcheck": {"Test": ["CMD-SHELL", "true"]},
                },
                "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
                "Resources": {"Limits": {"Pids": 5}},
                "Networks": [{"Target": "n1"}],
            },
        }});
        assert_eq!(networks(&service), ["n1"]);
        let expected = [
            "",
            "ID:\t\tje34ysp4",
            "Name:\t\tweb",
            "Service Mode:\tReplicated",
            " Replicas:\t0",
            "Placement:",
            "ContainerSpec:",
            " Image:\t\tpage:1",
            " Args:\t\tsh",
            " Init:\t\ttrue",
            " User:\t\t1",
            "Capabilities:",
            " Add: CAP_NET_ADMIN",
            "SysCtls:",
            " net.core.somaxconn: 5",
            "Ulimits:",
            " nofile: 5:6",
            "Log Driver:",
            " Name:\t\tjson-file",
            " LogOpts:",
            "  max-size:       1m",
            "",
            "Resources:",
            " Limits:",
            "  PIDs:\t\t5",
            "Networks: app ",
            "Endpoint Mode:\tvip",
            " Healthcheck:",
            "  Interval = 0s",
            "  Retries = 0",
            "  StartPeriod =\t0s",
            "  Timeout =\t0s",
            "  Tests:",
            "\t Test = CMD-SHELL",
            "\t Test = true",
            "",
            "",
        ];
        assert_eq!(show(&service, &["app".to_owned()]), expected.join("\n"));
    }
}
