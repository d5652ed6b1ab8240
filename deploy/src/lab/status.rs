//! `lab status`.

use clap::Args;
use serde_json::Value;

use super::layout::{Lab, Role};
use super::{NameArgs, cluster, daemon, network};
use crate::cli::listing::{Listing, row};
use crate::cli::look::Look as _;

const LISTING: Listing = Listing {
    headers: &[
        ("Host", "HOST"),
        ("Address", "ADDRESS"),
        ("Role", "ROLE"),
        ("PID", "PID"),
        ("Daemon", "DAEMON"),
        ("Cable", "CABLE"),
        ("Node", "NODE"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("NodeID", "NODE ID"),
        ("Socket", "SOCKET"),
        ("Log", "LOG"),
    ],
    table: "{{.Host}}\t{{.Address}}\t{{.Role}}\t{{.PID}}\t{{.Daemon}}\t{{.Cable}}\t{{.Node}}\t{{.ManagerStatus}}",
    quiet: "{{.Host}}",
};

/// Show the hosts of a lab: daemon, cable, and what the cluster thinks of each
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal lab status --format '{{.Host}} {{.Socket}}'")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Only display hosts
    #[arg(short, long)]
    quiet: bool,
}

impl StatusArgs {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let lab = Lab::load(&self.lab.name)?;
        let nodes = cluster::nodes(&lab).await;
        let cut = network::cut_ports(&lab).unwrap_or_default();
        let mut rows = Vec::new();
        for host in &lab.hosts {
            let process = daemon::last(&lab, host);
            let alive = process.is_some_and(|process| process.is_alive());
            let node = nodes
                .iter()
                .filter(|node| node.text("Description.Hostname") == host.name)
                .max_by_key(|node| node.text("CreatedAt"));
            let node = node.unwrap_or(&Value::Null);
            let manager =
                if node.truth("ManagerStatus.Leader") { "leader" } else { node.text("ManagerStatus.Reachability") };
            rows.push(row([
                ("Host", host.name.clone()),
                ("Address", host.address.to_string()),
                ("Role", if host.role == Role::Manager { "manager" } else { "worker" }.to_owned()),
                ("PID", process.filter(|_| alive).map(|process| process.pid.to_string()).unwrap_or_default()),
                ("Daemon", if alive { "up" } else { "down" }.to_owned()),
                ("Cable", if cut.contains(&host.name) { "cut" } else { "plugged" }.to_owned()),
                ("Node", node.text("Status.State").to_owned()),
                ("ManagerStatus", manager.to_owned()),
                ("NodeID", node.text("ID").to_owned()),
                ("Socket", lab.socket(&host.name).display().to_string()),
                ("Log", lab.log(&host.name).display().to_string()),
            ]));
        }
        LISTING.print(self.format.as_deref(), self.quiet, rows)
    }
}
