//! `system df`.

use clap::Args;
use serde_json::{Value, json};

use super::verbose;

use crate::cli::client::status_of;
use crate::cli::context::Context;
use crate::cli::human::decimal_size;
use crate::cli::listing::{Listing, Row, row};
use crate::cli::look::Look as _;
use crate::cli::output;

const LISTING: Listing = Listing {
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: "{{.Type}}",
};

/// Show disk usage
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal system df")]
pub(super) struct DfArgs {
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
}

impl DfArgs {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let usage = match context.client.fetch("/system/df").await {
            Err(error) if matches!(status_of(&error), Some(404 | 501)) => from_lists(context).await?,
            result => result?,
        };
        if self.verbose && self.format.is_none() {
            return output::text(verbose::text(&usage, context.now()).map_err(anyhow::Error::msg)?);
        }
        LISTING.print(self.format.as_deref(), false, rows(&usage))
    }
}

/// For a daemon without that route: what the lists tell.
async fn from_lists(context: &Context) -> anyhow::Result<Value> {
    let containers = context.client.get("/containers/json").query("all", "1").query("size", "1").json().await?;
    let volumes = context.client.fetch("/volumes").await?;
    Ok(
        json!({"Images": context.client.fetch("/images/json").await?, "Containers": containers, "Volumes": volumes.at("Volumes")}),
    )
}

fn rows(usage: &Value) -> Vec<Row> {
    let containers = usage.items("Containers");
    let uses = |image: &Value| containers.iter().any(|container| container.text("ImageID") == image.text("Id"));
    let is_up = |container: &Value| ["running", "paused", "restarting"].contains(&container.text("State"));
    let mounts = |volume: &Value| {
        volume.number("UsageData.RefCount") > 0
            || containers.iter().any(|container| {
                container.items("Mounts").iter().any(|mount| mount.text("Name") == volume.text("Name"))
            })
    };
    vec![
        usage_row("Images", usage.items("Images"), uses, |image| image.number("Size")),
        usage_row("Containers", containers, is_up, |container| container.number("SizeRw")),
        usage_row("Local Volumes", usage.items("Volumes"), mounts, |volume| volume.number("UsageData.Size").max(0)),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a percentage without digits")]
fn usage_row(kind: &str, items: &[Value], active: impl Fn(&Value) -> bool, size: impl Fn(&Value) -> i64) -> Row {
    let total: i64 = items.iter().map(&size).sum();
    let free: i64 = items.iter().filter(|item| !active(item)).map(&size).sum();
    let percent = if total > 0 { format!(" ({:.0}%)", free as f64 / total as f64 * 100.0) } else { String::new() };
    row([
        ("Type", kind.to_owned()),
        ("TotalCount", items.len().to_string()),
        ("Active", items.iter().filter(|item| active(item)).count().to_string()),
        ("Size", decimal_size(total)),
        ("Reclaimable", format!("{}{percent}", decimal_size(free))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_images_can_be_reclaimed() {
        let usage = json!({"Images": [{"Id": "a", "Size": 1000}, {"Id": "b", "Size": 3000}], "Containers": [{"ImageID": "a", "State": "running", "SizeRw": 5}], "Volumes": null});
        assert_eq!(
            LISTING.render(None, false, rows(&usage)).unwrap(),
            "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\n\
             Images          2         1         4kB       3kB (75%)\n\
             Containers      1         1         5B        0B (0%)\n\
             Local Volumes   0         0         0B        0B\n"
        );
    }
}
