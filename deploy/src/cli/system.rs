//! What a daemon and its machine are: info, version, events, system df, and inspect of anything.

mod df;
mod info;
mod prune;
mod verbose;

use std::io::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::stream::each_document;
use super::client::{Filters, escape, is_not_found, status_of};
use super::context::Context;
use super::exit::{Failures, fail};
use super::look::Look as _;
use super::output;
use super::parse::time;
use super::template::Template;

pub(crate) use info::InfoArgs;

/// Look at and tidy up a node
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal system df")]
pub(crate) struct SystemArgs {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    Df(df::DfArgs),
    Events(EventsArgs),
    Info(InfoArgs),
    Prune(prune::PruneArgs),
}

impl SystemArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            SystemCommand::Df(args) => args.run(context).await,
            SystemCommand::Events(args) => args.run(context).await,
            SystemCommand::Info(args) => args.run(context).await,
            SystemCommand::Prune(args) => args.run(context).await,
        }
    }
}

/// Show the Shoal version information
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal version -f '{{.Server.Version}}'")]
pub(crate) struct VersionArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

impl VersionArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let server = context.client.fetch("/version").await;
        let api = match &server {
            Ok(_) => context.client.version().await?.to_owned(),
            Err(_) => "1.51".to_owned(),
        };
        let client = json!({
            "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": api, "Os": std::env::consts::OS, "Arch": architecture(), "Context": context.client.endpoint().to_string()
        });
        let failure = server.as_ref().err().map(|error| fail(1, format!("{error:#}")));
        let both = json!({"Client": client, "Server": server.unwrap_or(Value::Null)});
        match self.format.as_deref().filter(|format| !format.is_empty()) {
            Some("json") => output::line(both.to_string())?,
            Some(format) => {
                let text =
                    Template::parse(format).and_then(|template| template.render(&both)).map_err(anyhow::Error::msg)?;
                output::line(text)?;
            }
            None => output::text(version_text(&both))?,
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The machine's architecture by the name that Go and so docker uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn version_text(both: &Value) -> String {
    let client = both.at("Client");
    let mut text = format!(
        "Client: Shoal\n Version:           {}\n API version:       {}\n OS/Arch:           {}/{}\n Host:              {}\n",
        client.text("Version"),
        client.text("ApiVersion"),
        client.text("Os"),
        client.text("Arch"),
        client.text("Context")
    );
    let server = both.at("Server");
    if server.is_null() {
        return text;
    }
    let platform = if server.text("Platform.Name").is_empty() { "Engine" } else { server.text("Platform.Name") };
    text.push_str(&format!("\nServer: {platform}\n"));
    for component in server.items("Components") {
        text.push_str(&format!(" {}:\n  {:<17} {}\n", component.text("Name"), "Version:", component.text("Version")));
        if component.text("Name") == "Engine" {
            let minimum = server.text("MinAPIVersion");
            text.push_str(&format!(
                "  {:<17} {} (minimum version {minimum})\n",
                "API version:",
                server.text("ApiVersion")
            ));
            text.push_str(&format!("  {:<17} {}/{}\n", "OS/Arch:", server.text("Os"), server.text("Arch")));
            text.push_str(&format!("  {:<17} {}\n", "Kernel:", server.text("KernelVersion")));
        }
    }
    if server.items("Components").is_empty() {
        text.push_str(&format!(
            " Version:           {}\n API version:       {}\n",
            server.text("Version"),
            server.text("ApiVersion")
        ));
    }
    text
}

/// Get real time events from the server
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal events --since 10m --filter type=container --filter event=die")]
pub(crate) struct EventsArgs {
    /// Filter output, as in type=container
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Format output: json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Show all events created since a time or for a span
    #[arg(long)]
    since: Option<String>,
    /// Stream events until a time or a span ago
    #[arg(long)]
    until: Option<String>,
}

impl EventsArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let instant = |text: &Option<String>| {
            text.as_deref().map(|text| time::instant(text, context.now())).transpose().map_err(anyhow::Error::msg)
        };
        let request = context.client.get("/events").filters(&Filters::parse(&self.filter)?);
        let request = request.query_some("since", instant(&self.since)?).query_some("until", instant(&self.until)?);
        let template = match self.format.as_deref() {
            None | Some("") => None,
            Some("json") => Some(Template::parse("{{json .}}").map_err(anyhow::Error::msg)?),
            Some(format) => Some(Template::parse(format).map_err(anyhow::Error::msg)?),
        };
        each_document(request.send().await?.into_body(), |event| {
            let text = match &template {
                Some(template) => template.render(&event).map_err(anyhow::Error::msg)?,
                None => event_text(&event),
            };
            output::line(text)?;
            Ok(std::io::stdout().lock().flush()?)
        })
        .await
    }
}

/// `time type action id (attributes)`, as docker prints events.
fn event_text(event: &Value) -> String {
    let nanoseconds = i128::from(event.number("timeNano"));
    let instant = match nanoseconds {
        0 => jiff::Timestamp::from_second(event.number("time")),
        nanoseconds => jiff::Timestamp::from_nanosecond(nanoseconds),
    };
    let zone = jiff::tz::TimeZone::try_system().unwrap_or(jiff::tz::TimeZone::UTC);
    let when = instant
        .map(|instant| instant.to_zoned_datetime(zone).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string())
        .unwrap_or_default();
    let attributes: Vec<String> = event
        .entries("Actor.Attributes")
        .into_iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let attributes = if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    format!("{when} {} {} {}{attributes}", event.text("Type"), event.text("Action"), event.text("Actor.ID"))
}

/// Return low-level information on Shoal objects
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal inspect web                  a container, image, network, volume, service, node, …
  shoal inspect --type service web")]
pub(crate) struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of this type (container, image, network, volume, service, task, node, …)
    #[arg(long = "type", value_name = "TYPE", value_parser = ["container", "image", "network", "volume", "node", "service", "task", "secret", "config"])]
    kind: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

impl InspectArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        let mut objects = Vec::new();
        for name in &self.names {
            objects.extend(failures.keep(self.find(context, name).await));
        }
        output::inspected(self.format.as_deref(), &objects)?;
        failures.finish()
    }

    async fn find(&self, context: &Context, name: &str) -> anyhow::Result<Value> {
        const KINDS: [&str; 9] =
            ["container", "image", "network", "volume", "service", "task", "node", "secret", "config"];
        for kind in KINDS {
            if self.kind.as_deref().is_some_and(|wanted| wanted != kind) {
                continue;
            }
            let result = match kind {
                "container" => {
                    context
                        .client
                        .get(format!("/containers/{}/json", escape(name)))
                        .query_if("size", self.size)
                        .json()
                        .await
                }
                "image" => super::image::inspect(context, name).await,
                _ => context.object(&format!("{kind}s"), name).await,
            };
            match result {
                Ok(object) => return Ok(object),
                // A daemon that is no manager says 503 to questions about the cluster.
                Err(error) if self.kind.is_none() && (is_not_found(&error) || status_of(&error) == Some(503)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(fail(1, format!("Error: No such object: {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_dockers() {
        let event = json!({"Type": "container", "Action": "die", "Actor": {"ID": "abc", "Attributes": {"exitCode": "1", "name": "web"}}, "timeNano": 1_000_000_000});
        let text = event_text(&event);
        assert!(text.ends_with(" container die abc (exitCode=1, name=web)"), "{text}");
        assert!(text.starts_with("1970-01-01T"), "{text}");
    }
}
