//! `stats`.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::cli::client::escape;
use crate::cli::context::Context;
use crate::cli::human::{binary_size, decimal_size3, short_id};
use crate::cli::listing::{Listing, Row, row};
use crate::cli::look::Look as _;
use crate::cli::{output, terminal};

const LISTING: Listing = Listing {
    headers: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    quiet: "{{.ID}}",
};

/// Display a live stream of container(s) resource usage statistics
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal stats --no-stream web")]
pub(crate) struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Containers
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl StatsArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        loop {
            let names = self.names(context).await?;
            let one = |name: String| async move {
                context
                    .client
                    .get(format!("/containers/{}/stats", escape(&name)))
                    .query("stream", "false")
                    .json()
                    .await
                    .map(|stats| (name, stats))
            };
            let results = futures::future::join_all(names.into_iter().map(one)).await;
            let mut rows = Vec::new();
            for result in results {
                match result {
                    Ok((name, stats)) => rows.push(stats_row(&name, &stats, self.no_trunc)),
                    // A container that ended in between is not in the list any more.
                    Err(_) if self.containers.is_empty() => {}
                    Err(error) => return Err(error),
                }
            }
            let text = LISTING.render(self.format.as_deref(), false, rows).map_err(anyhow::Error::msg)?;
            if !self.no_stream && terminal::stdout_is_terminal() {
                output::text("\x1b[H\x1b[J")?;
            }
            output::text(text)?;
            if self.no_stream {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn names(&self, context: &Context) -> anyhow::Result<Vec<String>> {
        if !self.containers.is_empty() {
            return Ok(self.containers.clone());
        }
        let containers = context.client.get("/containers/json").query_if("all", self.all).json().await?;
        Ok(containers.items("").iter().map(|container| container.text("Id").to_owned()).collect())
    }
}

#[expect(clippy::cast_precision_loss, reason = "percentages are shown with two digits")]
fn percentages(stats: &Value) -> (f64, i64, i64, f64) {
    let cpu = stats.number("cpu_stats.cpu_usage.total_usage") - stats.number("precpu_stats.cpu_usage.total_usage");
    let system = stats.number("cpu_stats.system_cpu_usage") - stats.number("precpu_stats.system_cpu_usage");
    let online = match stats.number("cpu_stats.online_cpus") {
        0 => i64::try_from(stats.items("cpu_stats.cpu_usage.percpu_usage").len()).unwrap_or_default(),
        online => online,
    };
    let cpu_percent = if cpu > 0 && system > 0 { cpu as f64 / system as f64 * online as f64 * 100.0 } else { 0.0 };
    let memory = stats.at("memory_stats");
    // As docker: page cache that can be given back is not in use.
    let cache = match memory.number("stats.total_inactive_file") {
        0 => memory.number("stats.inactive_file"),
        inactive => inactive,
    };
    let used = (memory.number("usage") - cache).max(0);
    let limit = memory.number("limit");
    let memory_percent = if limit > 0 { used as f64 / limit as f64 * 100.0 } else { 0.0 };
    (cpu_percent, used, limit, memory_percent)
}

fn stats_row(name: &str, stats: &Value, no_trunc: bool) -> Row {
    let (cpu, used, limit, memory) = percentages(stats);
    let sum =
        |field: &str| stats.entries("networks").into_iter().map(|(_, network)| network.number(field)).sum::<i64>();
    let block = |operation: &str| {
        let entries = stats.items("blkio_stats.io_service_bytes_recursive");
        entries
            .iter()
            .filter(|entry| entry.text("op").eq_ignore_ascii_case(operation))
            .map(|entry| entry.number("value"))
            .sum::<i64>()
    };
    let id = stats.text("id");
    row([
        ("Container", name.to_owned()),
        ("ID", if no_trunc { id } else { short_id(id) }.to_owned()),
        ("Name", stats.text("name").trim_start_matches('/').to_owned()),
        ("CPUPerc", format!("{cpu:.2}%")),
        ("MemUsage", format!("{} / {}", binary_size(used), binary_size(limit))),
        ("MemPerc", format!("{memory:.2}%")),
        ("NetIO", format!("{} / {}", decimal_size3(sum("rx_bytes")), decimal_size3(sum("tx_bytes")))),
        ("BlockIO", format!("{} / {}", decimal_size3(block("read")), decimal_size3(block("write")))),
        ("PIDs", stats.number("pids_stats.current").to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row() {
        let stats = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3 << 20, "limit": 1 << 30, "stats": {"total_inactive_file": 1 << 20}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 20}}, "pids_stats": {"current": 3},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 5}, {"op": "Write", "value": 7}]}
        });
        let text = LISTING.render(
            Some("{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.MemPerc}} {{.NetIO}} {{.BlockIO}} {{.PIDs}}"),
            false,
            vec![stats_row("web", &stats, false)],
        );
        assert_eq!(text.unwrap(), "web 20.00% 2MiB / 1GiB 0.20% 1kB / 20B 5B / 7B 3\n");
    }
}
