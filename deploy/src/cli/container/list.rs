//! `ps`.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::client::Filters;
use crate::cli::context::Context;
use crate::cli::human;
use crate::cli::listing::{Listing, Row, row, with_labels};
use crate::cli::look::Look as _;

const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];

const LISTING: Listing = Listing {
    headers: HEADERS,
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    quiet: "{{.ID}}",
};

const WITH_SIZE: Listing = Listing {
    headers: HEADERS,
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    quiet: "{{.ID}}",
};

/// List containers
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'")]
pub(crate) struct ListArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter output, as in status=exited or label=a=b
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    last: i64,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

impl ListArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let last = if self.latest { 1 } else { self.last };
        let size = self.size || self.format.as_deref().is_some_and(|format| format.contains(".Size"));
        let request = context.client.get("/containers/json").query_if("all", self.all).query_if("size", size);
        let request = request.query_some("limit", (last > 0).then_some(last)).filters(&Filters::parse(&self.filter)?);
        let containers = request.json().await?;
        let rows = containers
            .items("")
            .iter()
            .map(|container| container_row(container, self.no_trunc, context.now()))
            .collect();
        if self.size { WITH_SIZE } else { LISTING }.print(self.format.as_deref(), self.quiet, rows)
    }
}

/// The line of a container.
pub(crate) fn container_row(container: &Value, no_trunc: bool, now: Timestamp) -> Row {
    let id = container.text("Id");
    let image = match container.text("Image") {
        "" => "<no image>",
        image if no_trunc => image,
        image if image.starts_with("sha256:") => human::short_id(image),
        image => image.split("@sha256:").next().unwrap_or(image),
    };
    let command = container.text("Command");
    let command = format!("\"{}\"", if no_trunc { command.to_owned() } else { human::ellipsis(command, 20) });
    let names = container.texts("Names");
    let own_name = |name: &&String| no_trunc || name.trim_start_matches('/').split('/').count() == 1;
    let names: Vec<&str> = names.iter().filter(own_name).map(|name| name.trim_start_matches('/')).collect();
    let mounts: Vec<String> = container
        .items("Mounts")
        .iter()
        .map(|mount| if mount.text("Name").is_empty() { mount.text("Source") } else { mount.text("Name") })
        .map(|name| if no_trunc { name.to_owned() } else { human::ellipsis(name, 15) })
        .collect();
    let local = container.items("Mounts").iter().filter(|mount| mount.text("Driver") == "local").count();
    let size = match (container.number("SizeRw"), container.number("SizeRootFs")) {
        (own, 0) => human::decimal_size3(own),
        (own, all) => format!("{} (virtual {})", human::decimal_size3(own), human::decimal_size3(all)),
    };
    let networks: Vec<&str> =
        container.entries("NetworkSettings.Networks").into_iter().map(|(name, _)| name.as_str()).collect();
    let row = row([
        ("ID", if no_trunc { id } else { human::short_id(id) }.to_owned()),
        ("Image", image.to_owned()),
        ("Command", command),
        ("CreatedAt", human::local_time(container.number("Created"))),
        ("RunningFor", human::ago(container.number("Created"), now)),
        ("Ports", ports(container.items("Ports"))),
        ("State", container.text("State").to_owned()),
        ("Status", container.text("Status").to_owned()),
        ("Size", size),
        ("Names", names.join(",")),
        ("Mounts", mounts.join(",")),
        ("LocalVolumes", local.to_string()),
        ("Networks", networks.join(",")),
    ]);
    with_labels(row, container.at("Labels"))
}

/// Ports as docker shows them: `0.0.0.0:8080->80/tcp, 90/tcp`, ranges joined.
fn ports(ports: &[Value]) -> String {
    let mut ports: Vec<(&str, i64, i64, &str)> = ports
        .iter()
        .map(|port| (port.text("IP"), port.number("PublicPort"), port.number("PrivatePort"), port.text("Type")))
        .collect();
    ports.sort_by_key(|(address, public, private, protocol)| (*protocol, *address, *private, *public));
    ports.dedup();
    let mut ranges: Vec<(&str, i64, i64, &str, i64)> = Vec::new();
    for (address, public, private, protocol) in ports {
        let continues =
            ranges.last().is_some_and(|(last_address, last_public, last_private, last_protocol, length)| {
                *last_address == address
                    && *last_protocol == protocol
                    && private == last_private + length
                    && public == if *last_public == 0 { 0 } else { last_public + length }
            });
        match ranges.last_mut() {
            Some((.., length)) if continues => *length += 1,
            _ => ranges.push((address, public, private, protocol, 1)),
        }
    }
    ranges.sort_by_key(|(address, public, private, protocol, _)| {
        (*public == 0, *private, *protocol, address.contains(':'))
    });
    let span = |first: i64, length: i64| {
        if length == 1 { first.to_string() } else { format!("{first}-{}", first + length - 1) }
    };
    let show = |(address, public, private, protocol, length): (&str, i64, i64, &str, i64)| {
        let inside = format!("{}/{protocol}", span(private, length));
        match (public, address.contains(':')) {
            (0, _) => inside,
            (public, true) => format!("[{address}]:{}->{inside}", span(public, length)),
            (public, false) => format!("{address}:{}->{inside}", span(public, length)),
        }
    };
    ranges.into_iter().map(show).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_reads_as_dockers() {
        let container = json!({
            "Id": "0123456789abcdef", "Image": "busybox", "Command": "httpd -f -p 80 -h /www", "Created": 880, "State": "running", "Status": "Up 2 minutes",
            "Names": ["/web"], "Labels": {}, "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"PrivatePort": 90, "Type": "tcp"}]
        });
        let now = Timestamp::from_second(1_000).unwrap();
        let table = LISTING.render(None, false, vec![container_row(&container, false, now)]).unwrap();
        assert_eq!(
            table,
            "CONTAINER ID   IMAGE     COMMAND                  CREATED         STATUS         PORTS                          NAMES\n\
             0123456789ab   busybox   \"httpd -f -p 80 -h /…\"   2 minutes ago   Up 2 minutes   0.0.0.0:8080->80/tcp, 90/tcp   web\n"
        );
    }

    #[test]
    fn port_ranges_are_joined() {
        let port = |private: u64, public: u64| json!({"IP": "0.0.0.0", "PrivatePort": private, "PublicPort": public, "Type": "tcp"});
        assert_eq!(ports(&[port(81, 8081), port(80, 8080)]), "0.0.0.0:8080-8081->80-81/tcp");
        let six = json!({"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"});
        assert_eq!(ports(&[six, port(80, 8080)]), "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp");
    }
}
