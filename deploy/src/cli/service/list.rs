//! `service ls`.

use clap::Args;
use serde_json::Value;

use crate::cli::client::Filters;
use crate::cli::context::Context;
use crate::cli::human::short_id;
use crate::cli::listing::{Listing, Row, row, with_labels};
use crate::cli::look::Look as _;
use crate::cli::tasks::natural;

const LISTING: Listing = Listing {
    headers: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Mode", "MODE"),
        ("Replicas", "REPLICAS"),
        ("Image", "IMAGE"),
        ("Ports", "PORTS"),
        ("Labels", "LABELS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Image}}\t{{.Ports}}",
    quiet: "{{.ID}}",
};

/// List services
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal service ls --filter mode=global --format '{{.Name}}: {{.Replicas}}'")]
pub(super) struct ListArgs {
    /// Filter output, as in name=web
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Only display IDs
    #[arg(short, long)]
    quiet: bool,
}

impl ListArgs {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let services = context
            .client
            .get("/services")
            .query("status", "true")
            .filters(&Filters::parse(&self.filter)?)
            .json()
            .await?;
        let mut services = services.items("").to_vec();
        if services.iter().any(|service| service.at("ServiceStatus").is_null()) {
            count_tasks(context, &mut services).await?;
        }
        services.sort_by_cached_key(|service| natural(service.text("Spec.Name")));
        LISTING.print(self.format.as_deref(), self.quiet, services.iter().map(service_row).collect())
    }
}

/// For a daemon whose API is older than 1.41.
async fn count_tasks(context: &Context, services: &mut [Value]) -> anyhow::Result<()> {
    let tasks = context.client.fetch("/tasks").await?;
    let nodes = context.client.fetch("/nodes").await?;
    let down: Vec<&str> =
        nodes.items("").iter().filter(|node| node.text("Status.State") == "down").map(|node| node.text("ID")).collect();
    for service in services {
        let id = service.text("ID").to_owned();
        let of_service = |task: &&Value| task.text("ServiceID") == id && task.text("DesiredState") != "shutdown";
        let wanted = tasks.items("").iter().filter(of_service).count();
        let running = |task: &&Value| task.text("Status.State") == "running" && !down.contains(&task.text("NodeID"));
        let running = tasks.items("").iter().filter(of_service).filter(running).count();
        let desired =
            service.at("Spec.Mode.Replicated.Replicas").as_u64().map_or_else(|| Value::from(wanted), Value::from);
        crate::cli::look::set(
            service,
            "ServiceStatus",
            serde_json::json!({"RunningTasks": running, "DesiredTasks": desired}),
        );
    }
    Ok(())
}

fn service_row(service: &Value) -> Row {
    let spec = service.at("Spec");
    let image = spec.text("TaskTemplate.ContainerSpec.Image");
    let row = row([
        ("ID", short_id(service.text("ID")).to_owned()),
        ("Name", spec.text("Name").to_owned()),
        ("Mode", mode(spec).to_owned()),
        ("Replicas", replicas(service)),
        ("Image", image.split('@').next().unwrap_or(image).to_owned()),
        ("Ports", ports(service)),
    ]);
    with_labels(row, spec.at("Labels"))
}

/// The mode's name.
pub(super) fn mode(spec: &Value) -> &'static str {
    let is = |mode: &str| spec.at("Mode").get(mode).is_some_and(|value| !value.is_null());
    match () {
        () if is("Global") => "global",
        () if is("ReplicatedJob") => "replicated job",
        () if is("GlobalJob") => "global job",
        () => "replicated",
    }
}

fn replicas(service: &Value) -> String {
    let status = service.at("ServiceStatus");
    let base = format!("{}/{}", status.number("RunningTasks"), status.number("DesiredTasks"));
    let mode = service.at("Spec.Mode");
    if mode.at("ReplicatedJob").is_object() {
        let all = mode.number("ReplicatedJob.TotalCompletions");
        return format!("{base} ({}/{all} completed)", status.number("CompletedTasks"));
    }
    if mode.at("GlobalJob").is_object() {
        let completed = status.number("CompletedTasks");
        return format!("{base} ({completed}/{} completed)", status.number("DesiredTasks") + completed);
    }
    match service.number("Spec.TaskTemplate.Placement.MaxReplicas") {
        0 => base,
        most => format!("{base} (max {most} per node)"),
    }
}

/// Ingress ports as `*:8080->80/tcp`, ranges joined.
fn ports(service: &Value) -> String {
    let mut ports: Vec<(i64, i64, &str)> = service
        .items("Endpoint.Ports")
        .iter()
        .filter(|port| port.text("PublishMode") != "host")
        .map(|port| (port.number("PublishedPort"), port.number("TargetPort"), port.text("Protocol")))
        .collect();
    ports.sort_by_key(|(published, target, protocol)| (*protocol, *published, *target));
    let mut ranges: Vec<(i64, i64, i64, &str)> = Vec::new();
    for (published, target, protocol) in ports {
        match ranges.last_mut() {
            Some((first, first_target, length, last))
                if *last == protocol && published == *first + *length && target == *first_target + *length =>
            {
                *length += 1
            }
            _ => ranges.push((published, target, 1, protocol)),
        }
    }
    let show = |(published, target, length, protocol): (i64, i64, i64, &str)| match length {
        1 => format!("*:{published}->{target}/{protocol}"),
        _ => format!("*:{published}-{}->{target}-{}/{protocol}", published + length - 1, target + length - 1),
    };
    ranges.into_iter().map(show).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_as_docker_lists_it() {
        let port = |published: u64, target: u64| json!({"Protocol": "tcp", "TargetPort": target, "PublishedPort": published, "PublishMode": "ingress"});
        let service = json!({
            "ID": "abcdefghijklmnop", "Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 3}}, "TaskTemplate": {"ContainerSpec": {"Image": "web:1"}}},
            "Endpoint": {"Ports": [port(8081, 81), port(8080, 80), port(9000, 90)]},
            "ServiceStatus": {"RunningTasks": 2, "DesiredTasks": 3}
        });
        let table = LISTING.render(None, false, vec![service_row(&service)]).unwrap();
        assert_eq!(
            table,
            "ID             NAME      MODE         REPLICAS   IMAGE     PORTS\n\
             abcdefghijkl   web       replicated   2/3        web:1     *:8080-8081->80-81/tcp, *:9000->90/tcp\n"
        );
    }

    #[test]
    fn jobs_and_limits_are_told() {
        let job = json!({"Spec": {"Mode": {"ReplicatedJob": {"TotalCompletions": 5}}}, "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 3}});
        assert_eq!(replicas(&job), "1/2 (3/5 completed)");
        let limited = json!({"Spec": {"Mode": {"Replicated": {}}, "TaskTemplate": {"Placement": {"MaxReplicas": 2}}}, "ServiceStatus": {}});
        assert_eq!(replicas(&limited), "0/0 (max 2 per node)");
    }
}
