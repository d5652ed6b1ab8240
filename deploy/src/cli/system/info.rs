//! `info`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::exit::fail;
use crate::cli::human::binary_size;
use crate::cli::look::{Look as _, set};
use crate::cli::output;
use crate::cli::parse::duration;
use crate::cli::template::Template;

/// Display system-wide information
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal info -f '{{.Swarm.LocalNodeState}}'")]
pub(crate) struct InfoArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

impl InfoArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut info = context.client.fetch("/info").await?;
        let host = context.client.endpoint().to_string();
        match self.format.as_deref().filter(|format| !format.is_empty()) {
            Some(format) => {
                set(&mut info, "ClientInfo", json!({"Version": env!("CARGO_PKG_VERSION"), "Host": host}));
                if format == "json" {
                    return output::line(info.to_string());
                }
                output::line(
                    Template::parse(format).and_then(|template| template.render(&info)).map_err(anyhow::Error::msg)?,
                )
            }
            None => {
                output::text(text(&info, &host))?;
                for warning in info.texts("Warnings") {
                    output::note(warning);
                }
                let errors = info.texts("ServerErrors");
                if errors.is_empty() { Ok(()) } else { Err(fail(1, errors.join("\n"))) }
            }
        }
    }
}

/// Lines of a label and a value, indented.
struct Lines(String);

impl Lines {
    fn put(&mut self, indent: usize, label: &str, value: impl std::fmt::Display) {
        self.0.push_str(&format!("{:indent$}{label}: {value}\n", ""));
    }

    fn put_text(&mut self, indent: usize, label: &str, value: &str) {
        if !value.is_empty() {
            self.put(indent, label, value);
        }
    }
}

fn text(info: &Value, host: &str) -> String {
    let mut lines = Lines(String::new());
    lines.0.push_str("Client: Shoal\n");
    lines.put(1, "Version", env!("CARGO_PKG_VERSION"));
    lines.put(1, "Host", host);
    lines.0.push_str("\nServer:\n");
    lines.put(1, "Containers", info.number("Containers"));
    lines.put(2, "Running", info.number("ContainersRunning"));
    lines.put(2, "Paused", info.number("ContainersPaused"));
    lines.put(2, "Stopped", info.number("ContainersStopped"));
    lines.put(1, "Images", info.number("Images"));
    lines.put_text(1, "Server Version", info.text("ServerVersion"));
    lines.put_text(1, "Storage Driver", info.text("Driver"));
    for pair in info.items("DriverStatus") {
        let pair = pair.texts("");
        lines.put(2, pair.first().map_or("", String::as_str), pair.get(1).map_or("", String::as_str));
    }
    lines.put_text(1, "Logging Driver", info.text("LoggingDriver"));
    lines.put_text(1, "Cgroup Driver", info.text("CgroupDriver"));
    lines.put_text(1, "Cgroup Version", info.text("CgroupVersion"));
    lines.0.push_str(" Plugins:\n");
    for (label, field) in [("Volume", "Plugins.Volume"), ("Network", "Plugins.Network"), ("Log", "Plugins.Log")] {
        lines.put_text(2, label, &info.texts(field).join(" "));
    }
    swarm(&mut lines, info.at("Swarm"));
    let runtimes: Vec<&str> = info.entries("Runtimes").into_iter().map(|(name, _)| name.as_str()).collect();
    lines.put_text(1, "Runtimes", &runtimes.join(" "));
    lines.put_text(1, "Default Runtime", info.text("DefaultRuntime"));
    lines.put_text(1, "Init Binary", info.text("InitBinary"));
    if !info.items("SecurityOptions").is_empty() {
        lines.0.push_str(" Security Options:\n");
        for option in info.texts("SecurityOptions") {
            let name = option.split(',').find_map(|part| part.strip_prefix("name=")).unwrap_or(&option).to_owned();
            lines.0.push_str(&format!("  {name}\n"));
        }
    }
    lines.put_text(1, "Kernel Version", info.text("KernelVersion"));
    lines.put_text(1, "Operating System", info.text("OperatingSystem"));
    lines.put_text(1, "OSType", info.text("OSType"));
    lines.put_text(1, "Architecture", info.text("Architecture"));
    lines.put(1, "CPUs", info.number("NCPU"));
    lines.put(1, "Total Memory", binary_size(info.number("MemTotal")));
    lines.put_text(1, "Name", info.text("Name"));
    lines.put_text(1, "ID", info.text("ID"));
    lines.put_text(1, "Root Dir", info.text("DockerRootDir"));
    lines.put(1, "Debug Mode", info.truth("Debug"));
    if !info.items("Labels").is_empty() {
        lines.0.push_str(" Labels:\n");
        for label in info.texts("Labels") {
            lines.0.push_str(&format!("  {label}\n"));
        }
    }
    lines.put(1, "Live Restore Enabled", info.truth("LiveRestoreEnabled"));
    lines.0
}

fn swarm(lines: &mut Lines, swarm: &Value) {
    lines.put(1, "Swarm", swarm.text("LocalNodeState"));
    if ["inactive", "locked", ""].contains(&swarm.text("LocalNodeState")) {
        return;
    }
    lines.put_text(2, "NodeID", swarm.text("NodeID"));
    lines.put_text(2, "Error", swarm.text("Error"));
    lines.put(2, "Is Manager", swarm.truth("ControlAvailable"));
    let cluster = swarm.at("Cluster");
    if swarm.truth("ControlAvailable") && !cluster.is_null() {
        lines.put_text(2, "ClusterID", cluster.text("ID"));
        lines.put(2, "Managers", swarm.number("Managers"));
        lines.put(2, "Nodes", swarm.number("Nodes"));
        lines.put_text(2, "Default Address Pool", &cluster.texts("DefaultAddrPool").join("  "));
        lines.put(2, "SubnetSize", cluster.number("SubnetSize"));
        lines.put(2, "Data Path Port", cluster.number("DataPathPort"));
        lines.0.push_str("  Orchestration:\n");
        lines.put(3, "Task History Retention Limit", cluster.number("Spec.Orchestration.TaskHistoryRetentionLimit"));
        lines.0.push_str("  Dispatcher:\n");
        lines.put(3, "Heartbeat Period", duration::show(cluster.number("Spec.Dispatcher.HeartbeatPeriod")));
        lines.0.push_str("  CA Configuration:\n");
        lines.put(3, "Expiry Duration", duration::show(cluster.number("Spec.CAConfig.NodeCertExpiry")));
        lines.put(2, "Autolock Managers", cluster.truth("Spec.EncryptionConfig.AutoLockManagers"));
    }
    lines.put_text(2, "Node Address", swarm.text("NodeAddr"));
    let mut managers: Vec<&str> = swarm.items("RemoteManagers").iter().map(|manager| manager.text("Addr")).collect();
    managers.sort_unstable();
    if !managers.is_empty() {
        lines.0.push_str("  Manager Addresses:\n");
        for address in managers {
            lines.0.push_str(&format!("   {address}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_swarm_is_told() {
        let info = json!({"Containers": 2, "Swarm": {"LocalNodeState": "active", "NodeID": "n1", "ControlAvailable": true, "Managers": 3, "Nodes": 5,
            "NodeAddr": "10.0.0.1", "RemoteManagers": [{"Addr": "10.0.0.1:2377"}], "Cluster": {"ID": "c1", "Spec": {"Dispatcher": {"HeartbeatPeriod": 5_000_000_000_i64}}}}});
        let text = text(&info, "unix:///x");
        for line in [
            " Containers: 2\n",
            " Swarm: active\n",
            "  Managers: 3\n",
            "   Heartbeat Period: 5s\n",
            "   10.0.0.1:2377\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
    }
}
