//! `node`: look at and change the nodes of the cluster.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Filters, escape};
use super::context::Context;
use super::exit::{Failures, fail};
use super::human::binary_size;
use super::listing::{Listing, Row, row};
use super::look::{Look as _, object_at, set, set_some};
use super::output;
use super::parse::pair;
use super::tasks::{self, TaskListFlags, capitalized, natural};

const LISTING: Listing = Listing {
    headers: &[
        ("ID", "ID"),
        ("Self", ""),
        ("Hostname", "HOSTNAME"),
        ("Status", "STATUS"),
        ("Availability", "AVAILABILITY"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("EngineVersion", "ENGINE VERSION"),
        ("TLSStatus", "TLS STATUS"),
    ],
    table: "{{.ID}} {{if .Self}}*{{else}} {{ end }}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}",
    quiet: "{{.ID}}",
};

/// Manage Swarm nodes
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal node ls
  shoal node update --availability drain w1")]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    Demote(RoleArgs),
    Inspect(InspectArgs),
    #[command(alias = "list")]
    Ls(ListArgs),
    Promote(PromoteArgs),
    Ps(PsArgs),
    #[command(alias = "remove")]
    Rm(RmArgs),
    Update(UpdateArgs),
}

/// Demote one or more nodes from manager in the swarm
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal node demote m3")]
struct RoleArgs {
    /// Nodes
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// Promote one or more nodes to manager in the swarm
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal node promote w1")]
struct PromoteArgs {
    /// Nodes
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// Display detailed information on one or more nodes
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal node inspect --pretty self")]
struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Print the information in a human friendly format
    #[arg(long)]
    pretty: bool,
    /// Nodes; self is the one spoken to
    #[arg(required = true, value_name = "self|NODE")]
    nodes: Vec<String>,
}

/// List nodes in the swarm
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal node ls --filter role=manager")]
struct ListArgs {
    /// Filter output, as in role=manager
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Only display IDs
    #[arg(short, long)]
    quiet: bool,
}

/// List tasks running on one or more nodes, defaults to current node
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal node ps w1")]
struct PsArgs {
    #[command(flatten)]
    flags: TaskListFlags,
    /// Nodes
    #[arg(value_name = "NODE", default_value = "self")]
    nodes: Vec<String>,
}

/// Remove one or more nodes from the swarm
#[derive(Debug, Args)]
#[command(after_help = "Example; the node is down, or has left:
  shoal node rm w2")]
struct RmArgs {
    /// Force remove a node from the swarm
    #[arg(short, long)]
    force: bool,
    /// Nodes
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// Update a node
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal node update --availability drain w1      its tasks move away
  shoal node update --label-add zone=b w1")]
struct UpdateArgs {
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, value_parser = ["active", "pause", "drain"])]
    availability: Option<String>,
    /// Role of the node ("worker", "manager")
    #[arg(long, value_parser = ["worker", "manager"])]
    role: Option<String>,
    /// Add or update a node label (key=value)
    #[arg(long, value_name = "KEY=VALUE")]
    label_add: Vec<String>,
    /// Remove a node label if exists
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Node
    node: String,
}

impl NodeArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            NodeCommand::Demote(args) => set_role(context, &args.nodes, "worker").await,
            NodeCommand::Promote(args) => set_role(context, &args.nodes, "manager").await,
            NodeCommand::Inspect(args) => args.run(context).await,
            NodeCommand::Ls(args) => args.run(context).await,
            NodeCommand::Ps(args) => args.run(context).await,
            NodeCommand::Rm(args) => args.run(context).await,
            NodeCommand::Update(args) => args.run(context).await,
        }
    }
}

/// The id for `self`, and any other name as it is.
async fn reference(context: &Context, name: &str) -> anyhow::Result<String> {
    if name != "self" {
        return Ok(name.to_owned());
    }
    let info = context.client.fetch("/info").await?;
    match info.text("Swarm.NodeID") {
        "" => Err(fail(
            1,
            "This node is not a swarm manager. Use \"shoal swarm init\" or \"shoal swarm join\" to connect this node to swarm and try again.",
        )),
        id => Ok(id.to_owned()),
    }
}

async fn node(context: &Context, name: &str) -> anyhow::Result<Value> {
    context.object("nodes", &reference(context, name).await?).await
}

async fn update(context: &Context, node: &Value, spec: Value) -> anyhow::Result<()> {
    let request = context.client.post(format!("/nodes/{}/update", escape(node.text("ID"))));
    request.query("version", node.number("Version.Index")).body(spec).done().await
}

async fn set_role(context: &Context, names: &[String], role: &str) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for name in names {
        let change = async {
            let node = node(context, name).await?;
            if node.text("Spec.Role") == role {
                return output::line(format!("Node {name} is already a {role}."));
            }
            let mut spec = node.at("Spec").clone();
            set(&mut spec, "Role", role);
            update(context, &node, spec).await?;
            let done = if role == "manager" { "promoted to a manager" } else { "demoted" };
            output::line(format!("Node {name} {done} in the swarm."))
        };
        failures.keep(change.await);
    }
    failures.finish()
}

impl InspectArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        let mut nodes = Vec::new();
        for name in &self.nodes {
            nodes.extend(failures.keep(node(context, name).await));
        }
        if self.pretty {
            for node in &nodes {
                output::text(pretty(node))?;
            }
        } else {
            output::inspected(self.format.as_deref(), &nodes)?;
        }
        failures.finish()
    }
}

impl ListArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let nodes = context.client.get("/nodes").filters(&Filters::parse(&self.filter)?).json().await?;
        let info = context.client.fetch("/info").await?;
        let mut nodes: Vec<&Value> = nodes.items("").iter().collect();
        nodes.sort_by_cached_key(|node| natural(node.text("Description.Hostname")));
        LISTING.print(self.format.as_deref(), self.quiet, nodes.into_iter().map(|node| node_row(node, &info)).collect())
    }
}

fn node_row(node: &Value, info: &Value) -> Row {
    let manager = node.at("ManagerStatus");
    let manager = if manager.truth("Leader") { "Leader".to_owned() } else { capitalized(manager.text("Reachability")) };
    let root = info.text("Swarm.Cluster.TLSInfo.TrustRoot");
    let tls = match node.text("Description.TLSInfo.TrustRoot") {
        "" => "Unknown",
        theirs if theirs == root => "Ready",
        _ => "Needs Rotation",
    };
    let mut row = row([
        ("ID", node.text("ID").to_owned()),
        ("Hostname", node.text("Description.Hostname").to_owned()),
        ("Status", capitalized(node.text("Status.State"))),
        ("Availability", capitalized(node.text("Spec.Availability"))),
        ("ManagerStatus", manager),
        ("EngineVersion", node.text("Description.Engine.EngineVersion").to_owned()),
        ("TLSStatus", tls.to_owned()),
    ]);
    row.insert("Self".to_owned(), json!(node.text("ID") == info.text("Swarm.NodeID")));
    row
}

impl PsArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut filters = Filters::parse(&self.flags.filter)?;
        let mut failures = Failures::default();
        for name in &self.nodes {
            if let Some(node) = failures.keep(node(context, name).await) {
                filters.add("node", node.text("ID"));
            }
        }
        if filters.has("node") {
            tasks::print(context, &self.flags, &filters).await?;
        }
        failures.finish()
    }
}

impl RmArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        for name in &self.nodes {
            let request = context.client.delete(format!("/nodes/{}", escape(name))).query_if("force", self.force);
            if failures.keep(request.done().await).is_some() {
                output::line(name)?;
            }
        }
        failures.finish()
    }
}

impl UpdateArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let node = node(context, &self.node).await?;
        let mut spec = node.at("Spec").clone();
        set_some(&mut spec, "Availability", self.availability);
        set_some(&mut spec, "Role", self.role);
        if !self.label_add.is_empty() || !self.label_rm.is_empty() {
            let labels = object_at(&mut spec, "Labels");
            for key in &self.label_rm {
                if labels.remove(key).is_none() {
                    return Err(fail(1, format!("key {key} doesn't exist in node's labels")));
                }
            }
            labels.extend(pair::map(&self.label_add));
        }
        update(context, &node, spec).await?;
        output::line(&self.node)
    }
}

fn pretty(node: &Value) -> String {
    let labels = |labels: &Value| {
        labels
            .entries("")
            .into_iter()
            .map(|(key, value)| format!(" - {key}={}\n", value.as_str().unwrap_or_default()))
            .collect::<String>()
    };
    let description = node.at("Description");
    let mut text = format!("ID:\t\t\t{}\n", node.text("ID"));
    if !node.entries("Spec.Labels").is_empty() {
        text.push_str(&format!("Labels:\n{}", labels(node.at("Spec.Labels"))));
    }
    text.push_str(&format!(
        "Hostname:\t\t{}\nJoined at:\t\t{}\nStatus:\n",
        description.text("Hostname"),
        node.text("CreatedAt")
    ));
    text.push_str(&format!(" State:\t\t\t{}\n", capitalized(node.text("Status.State"))));
    if !node.text("Status.Message").is_empty() {
        text.push_str(&format!(" Message:\t\t{}\n", node.text("Status.Message")));
    }
    text.push_str(&format!(
        " Availability:\t\t{}\n Address:\t\t{}\n",
        capitalized(node.text("Spec.Availability")),
        node.text("Status.Addr")
    ));
    if !node.at("ManagerStatus").is_null() {
        let leader = if node.truth("ManagerStatus.Leader") { "Yes" } else { "No" };
        let (address, raft) = (node.text("ManagerStatus.Addr"), capitalized(node.text("ManagerStatus.Reachability")));
        text.push_str(&format!(
            "Manager Status:\n Address:\t\t{address}\n Raft Status:\t\t{raft}\n Leader:\t\t{leader}\n"
        ));
    }
    let (system, machine) = (description.text("Platform.OS"), description.text("Platform.Architecture"));
    text.push_str(&format!("Platform:\n Operating System:\t{system}\n Architecture:\t\t{machine}\n"));
    let cpus = description.number("Resources.NanoCPUs") / 1_000_000_000;
    text.push_str(&format!(
        "Resources:\n CPUs:\t\t\t{cpus}\n Memory:\t\t{}\n",
        binary_size(description.number("Resources.MemoryBytes"))
    ));
    text.push_str(&format!("Engine Version:\t\t{}\n", description.text("Engine.EngineVersion")));
    if !description.entries("Engine.Labels").is_empty() {
        text.push_str(&format!("Engine Labels:\n{}", labels(description.at("Engine.Labels"))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_as_dockers() {
        let node = |id: &str, name: &str, manager: Value| {
            json!({"ID": id, "Spec": {"Availability": "active"}, "Status": {"State": "ready"}, "ManagerStatus": manager,
                "Description": {"Hostname": name, "Engine": {"EngineVersion": "28.5.2"}}})
        };
        let info = json!({"Swarm": {"NodeID": "aaaaaaaaaaaaaaaaaaaaaaaaa"}});
        let nodes = [
            node("aaaaaaaaaaaaaaaaaaaaaaaaa", "m1", json!({"Leader": true, "Reachability": "reachable"})),
            node("bbbbbbbbbbbbbbbbbbbbbbbbb", "w1", Value::Null),
        ];
        let table = LISTING.render(None, false, nodes.iter().map(|node| node_row(node, &info)).collect()).unwrap();
        assert_eq!(
            table,
            "ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION\n\
             aaaaaaaaaaaaaaaaaaaaaaaaa *   m1         Ready     Active         Leader           28.5.2\n\
             bbbbbbbbbbbbbbbbbbbbbbbbb     w1         Ready     Active                          28.5.2\n"
        );
    }
}
