//! Looking at containers: inspect, logs, top, port.

use clap::Args;
use serde_json::Value;

use crate::cli::attach::copy_output;
use crate::cli::client::escape;
use crate::cli::client::stream::Source;
use crate::cli::context::Context;
use crate::cli::exit::{Failures, fail};
use crate::cli::look::Look as _;
use crate::cli::parse::time;
use crate::cli::{output, table};

/// Display detailed information on one or more containers
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal container inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web")]
pub(crate) struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl InspectArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        let mut containers = Vec::new();
        for name in &self.containers {
            let request = context.client.get(format!("/containers/{}/json", escape(name))).query_if("size", self.size);
            containers.extend(failures.keep(request.json().await));
        }
        output::inspected(self.format.as_deref(), &containers)?;
        failures.finish()
    }
}

/// Fetch the logs of a container
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal logs -f --tail 20 --since 10m web")]
pub(crate) struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since a time (2026-01-02T13:23:37Z) or for a span (42m)
    #[arg(long)]
    since: Option<String>,
    /// Show logs before a time or a span ago
    #[arg(long)]
    until: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Container
    container: String,
}

impl LogsArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let container = super::inspect(context, &self.container).await?;
        let instant = |text: &Option<String>| {
            text.as_deref().map(|text| time::instant(text, context.now())).transpose().map_err(anyhow::Error::msg)
        };
        let request = context.client.get(format!("/containers/{}/logs", container.text("Id")));
        let request = request
            .query_if("stdout", true)
            .query_if("stderr", true)
            .query_if("follow", self.follow)
            .query_if("timestamps", self.timestamps);
        let request = request.query_if("details", self.details).query("tail", &self.tail);
        let request = request.query_some("since", instant(&self.since)?).query_some("until", instant(&self.until)?);
        copy_output(Source::Body(request.send().await?.into_body()), !container.truth("Config.Tty")).await
    }
}

/// Display the running processes of a container
#[derive(Debug, Args)]
#[command(
    override_usage = "shoal top CONTAINER [PS OPTIONS]",
    after_help = "Example:
  shoal top web -o pid,comm"
)]
pub(crate) struct TopArgs {
    /// Container, and options of ps
    #[arg(required = true, trailing_var_arg = true, value_name = "CONTAINER")]
    container: Vec<String>,
}

impl TopArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (name, options) =
            self.container.split_first().map_or(("", &[][..]), |(name, options)| (name.as_str(), options));
        let options = (!options.is_empty()).then(|| options.join(" "));
        let answer = context
            .client
            .get(format!("/containers/{}/top", escape(name)))
            .query_some("ps_args", options)
            .json()
            .await?;
        let mut text = answer.texts("Titles").join("\t");
        for process in answer.items("Processes") {
            text.push('\n');
            text.push_str(&process.texts("").join("\t"));
        }
        output::text(table::align_with(&text, 20))
    }
}

/// List port mappings or a specific mapping for the container
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal port web 80/tcp")]
pub(crate) struct PortArgs {
    /// Container
    container: String,
    /// Only this port of the container
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

impl PortArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let container = super::inspect(context, &self.container).await?;
        let address = |binding: &Value| match binding.text("HostIp") {
            ip if ip.contains(':') => format!("[{ip}]:{}", binding.text("HostPort")),
            ip => format!("{ip}:{}", binding.text("HostPort")),
        };
        let wanted =
            self.port.as_ref().map(|port| if port.contains('/') { port.clone() } else { format!("{port}/tcp") });
        let mut any = false;
        for (port, bindings) in container.entries("NetworkSettings.Ports") {
            for binding in bindings.items("") {
                match &wanted {
                    None => output::line(format!("{port} -> {}", address(binding)))?,
                    Some(wanted) if wanted == port => output::line(address(binding))?,
                    Some(_) => continue,
                }
                any = true;
            }
        }
        match self.port {
            Some(port) if !any => Err(fail(1, format!("no public port '{port}' published for {}", self.container))),
            _ => Ok(()),
        }
    }
}
