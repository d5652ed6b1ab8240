//! Tables of tasks: `service ps` and `node ps`.

use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::client::Filters;
use super::context::Context;
use super::human;
use super::listing::{Listing, Row, row};
use super::look::Look as _;

/// The table of tasks.
pub(crate) const LISTING: Listing = Listing {
    headers: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Image", "IMAGE"),
        ("Node", "NODE"),
        ("DesiredState", "DESIRED STATE"),
        ("CurrentState", "CURRENT STATE"),
        ("Error", "ERROR"),
        ("Ports", "PORTS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}\t{{.Ports}}",
    quiet: "{{.ID}}",
};

/// How tasks are listed.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TaskListFlags {
    /// Filter output, as in desired-state=running
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Do not map IDs to Names
    #[arg(long)]
    pub(crate) no_resolve: bool,
    /// Do not truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only display task IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Names of services and nodes by id.
#[derive(Debug, Default)]
pub(crate) struct Names {
    services: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
}

impl Names {
    /// Asks for all names; with `no_resolve` ids stand for names.
    pub(crate) async fn fetch(context: &Context, no_resolve: bool) -> anyhow::Result<Self> {
        if no_resolve {
            return Ok(Self::default());
        }
        let collect = |list: &Value, name: &str| {
            list.items("")
                .iter()
                .map(|object| (object.text("ID").to_owned(), object.text(name).to_owned()))
                .filter(|(_, name)| !name.is_empty())
                .collect()
        };
        let services = context.client.fetch("/services").await?;
        let nodes = context.client.fetch("/nodes").await?;
        Ok(Self { services: collect(&services, "Spec.Name"), nodes: collect(&nodes, "Description.Hostname") })
    }

    /// A node's name.
    pub(crate) fn node<'a>(&'a self, id: &'a str) -> &'a str {
        self.nodes.get(id).map_or(id, String::as_str)
    }

    /// A task's name: `<service>.<slot>`, or `<service>.<node id>` for a global service.
    pub(crate) fn task(&self, task: &Value) -> String {
        let service = task.text("ServiceID");
        let service = self.services.get(service).map_or(service, String::as_str);
        match task.number("Slot") {
            0 => format!("{service}.{}", task.text("NodeID")),
            slot => format!("{service}.{slot}"),
        }
    }
}

/// Lists the tasks that pass the filters.
pub(crate) async fn print(context: &Context, flags: &TaskListFlags, filters: &Filters) -> anyhow::Result<()> {
    let tasks = context.client.get("/tasks").filters(filters).json().await?;
    let names = Names::fetch(context, flags.no_resolve).await?;
    LISTING.print(flags.format.as_deref(), flags.quiet, rows(tasks.items(""), &names, flags.no_trunc, context.now()))
}

/// The rows of tasks: by name, the youngest of each slot first and its predecessors indented below it.
pub(crate) fn rows(tasks: &[Value], names: &Names, no_trunc: bool, now: Timestamp) -> Vec<Row> {
    let mut named: Vec<(String, &Value)> = tasks.iter().map(|task| (names.task(task), task)).collect();
    named.sort_by(|(left_name, left), (right_name, right)| {
        natural(left_name).cmp(&natural(right_name)).then_with(|| right.text("CreatedAt").cmp(left.text("CreatedAt")))
    });
    let mut before = String::new();
    let mut rows = Vec::new();
    for (name, task) in named {
        let shown = if name == before { format!(" \\_ {name}") } else { name.clone() };
        before = name;
        rows.push(task_row(shown, task, names, no_trunc, now));
    }
    rows
}

/// Digits compare as numbers, so that `web.10` comes after `web.9`.
pub(crate) fn natural(text: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, tail) = rest.split_at(rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len()));
        let (digits, tail) =
            tail.split_at(tail.find(|character: char| !character.is_ascii_digit()).unwrap_or(tail.len()));
        parts.push((word.to_owned(), digits.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    parts
}

fn task_row(name: String, task: &Value, names: &Names, no_trunc: bool, now: Timestamp) -> Row {
    let id = task.text("ID");
    let image = task.text("Spec.ContainerSpec.Image");
    let error = match task.text("Status.Err") {
        "" => String::new(),
        error if no_trunc => format!("\"{error}\""),
        error => format!("\"{}\"", human::ellipsis(error, 30)),
    };
    let since = human::since(task.text("Status.Timestamp"), now).to_lowercase();
    row([
        ("ID", if no_trunc { id } else { human::short_id(id) }.to_owned()),
        ("Name", name),
        ("Image", if no_trunc { image } else { image.split('@').next().unwrap_or(image) }.to_owned()),
        ("Node", names.node(task.text("NodeID")).to_owned()),
        ("DesiredState", capitalized(task.text("DesiredState"))),
        ("CurrentState", format!("{} {since} ago", capitalized(task.text("Status.State")))),
        ("Error", error),
        ("Ports", task.items("Status.PortStatus.Ports").iter().map(port).collect::<Vec<_>>().join(",")),
    ])
}

fn port(port: &Value) -> String {
    format!("*:{}->{}/{}", port.number("PublishedPort"), port.number("TargetPort"), port.text("Protocol"))
}

/// With the first letter raised, as docker shows states.
pub(crate) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_reads_as_dockers() {
        let names = Names {
            services: BTreeMap::from([("s1".to_owned(), "web".to_owned())]),
            nodes: BTreeMap::from([("n1".to_owned(), "m1".to_owned())]),
        };
        let task = |id: &str, slot: u64, state: &str, created: &str, error: &str| {
            json!({"ID": id, "ServiceID": "s1", "NodeID": "n1", "Slot": slot, "CreatedAt": created, "DesiredState": "running",
                "Spec": {"ContainerSpec": {"Image": "web:1@sha256:00"}}, "Status": {"State": state, "Err": error, "Timestamp": "1970-01-01T00:16:40Z"}})
        };
        let tasks = [
            task("abcdefghijklmnop", 10, "running", "2", ""),
            task("b", 2, "failed", "1", "task: non-zero exit (1): the whole story"),
            task("c", 2, "running", "2", ""),
        ];
        let now = Timestamp::from_second(1_010).unwrap();
        let table = LISTING.render(None, false, rows(&tasks, &names, false, now)).unwrap();
        assert_eq!(
            table,
            "ID             NAME        IMAGE     NODE      DESIRED STATE   CURRENT STATE            ERROR                              PORTS\n\
             c              web.2       web:1     m1        Running         Running 10 seconds ago                                      \n\
             b               \\_ web.2   web:1     m1        Running         Failed 10 seconds ago    \"task: non-zero exit (1): the …\"   \n\
             abcdefghijkl   web.10      web:1     m1        Running         Running 10 seconds ago                                      \n"
        );
    }
}
