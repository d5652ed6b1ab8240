//! `secret` and `config`: small files that the cluster keeps and gives to services.

use std::io::Read as _;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::{Filters, escape};
use super::container::lifecycle;
use super::context::Context;
use super::exit::Failures;
use super::human;
use super::listing::{Listing, Row, row, with_labels};
use super::look::{Look as _, set};
use super::output;
use super::parse::pair;

const SECRETS: Listing = Listing {
    headers: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("CreatedAt", "CREATED"),
        ("UpdatedAt", "UPDATED"),
        ("Labels", "LABELS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
    quiet: "{{.ID}}",
};

const CONFIGS: Listing = Listing {
    headers: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("CreatedAt", "CREATED"),
        ("UpdatedAt", "UPDATED"),
        ("Labels", "LABELS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
    quiet: "{{.ID}}",
};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Secrets: encrypted, never shown again.
    Secret,
    /// Configs: shown by inspect.
    Config,
}

impl Kind {
    fn path(self) -> &'static str {
        if self == Self::Secret { "secrets" } else { "configs" }
    }
}

/// Manage secrets, or configs
#[derive(Debug, Args)]
pub(crate) struct PayloadArgs {
    #[command(subcommand)]
    command: PayloadCommand,
}

#[derive(Debug, Subcommand)]
enum PayloadCommand {
    Create(CreateArgs),
    Inspect(InspectArgs),
    #[command(alias = "list")]
    Ls(ListArgs),
    #[command(alias = "remove")]
    Rm(RmArgs),
}

/// Create one from a file or STDIN
#[derive(Debug, Args)]
#[command(after_help = "Example:
  printf 's3cret' | shoal secret create db-password -
  shoal service create --secret db-password web       read it at /run/secrets/db-password")]
struct CreateArgs {
    /// Driver
    #[arg(short, long)]
    driver: Option<String>,
    /// Labels
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Template driver
    #[arg(long, value_name = "DRIVER")]
    template_driver: Option<String>,
    /// Name
    name: String,
    /// A file, or - for STDIN
    #[arg(value_name = "file|-")]
    file: Option<String>,
}

/// Display detailed information on one or more of them
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal config inspect --pretty site")]
struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Print the information in a human friendly format
    #[arg(long)]
    pretty: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// List them
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal secret ls --filter name=db")]
struct ListArgs {
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

/// Remove one or more of them
#[derive(Debug, Args)]
#[command(after_help = "Example; refused while a service uses it:
  shoal secret rm db-password")]
struct RmArgs {
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl PayloadArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context, kind: Kind) -> anyhow::Result<()> {
        match self.command {
            PayloadCommand::Create(args) => args.run(context, kind).await,
            PayloadCommand::Inspect(args) => args.run(context, kind).await,
            PayloadCommand::Ls(args) => args.run(context, kind).await,
            PayloadCommand::Rm(args) => {
                lifecycle::each(&args.names, |name| async move {
                    context.client.delete(format!("/{}/{}", kind.path(), escape(&name))).done().await
                })
                .await
            }
        }
    }
}

impl CreateArgs {
    async fn run(self, context: &Context, kind: Kind) -> anyhow::Result<()> {
        let mut data = Vec::new();
        match self.file.as_deref() {
            Some("-") => drop(std::io::stdin().lock().read_to_end(&mut data).context("read standard input")?),
            Some(file) => data = std::fs::read(file).with_context(|| format!("error reading from {file}"))?,
            None if self.driver.is_some() => {}
            None => anyhow::bail!("either using a secret driver or specifying a file (or - for STDIN) is required"),
        }
        let mut body = json!({"Name": self.name, "Labels": pair::map(&self.label), "Data": STANDARD.encode(&data)});
        if let Some(driver) = self.driver {
            set(&mut body, "Driver", json!({"Name": driver}));
        }
        if let Some(driver) = self.template_driver {
            set(&mut body, "Templating", json!({"Name": driver}));
        }
        let created = context.client.post(format!("/{}/create", kind.path())).body(body).json().await?;
        output::line(created.text("ID"))
    }
}

impl InspectArgs {
    async fn run(self, context: &Context, kind: Kind) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        let mut objects = Vec::new();
        for name in &self.names {
            objects.extend(failures.keep(context.object(kind.path(), name).await));
        }
        if self.pretty {
            for object in &objects {
                output::text(pretty(object))?;
            }
        } else {
            output::inspected(self.format.as_deref(), &objects)?;
        }
        failures.finish()
    }
}

fn pretty(object: &Value) -> String {
    let mut text = format!("ID:\t\t\t{}\nName:\t\t\t{}\n", object.text("ID"), object.text("Spec.Name"));
    text.push_str("Labels:\n");
    for (key, value) in object.entries("Spec.Labels") {
        text.push_str(&format!(" - {key}={}\n", value.as_str().unwrap_or_default()));
    }
    text.push_str(&format!(
        "Created at:\t\t{}\nUpdated at:\t\t{}\n",
        object.text("CreatedAt"),
        object.text("UpdatedAt")
    ));
    if let Ok(data) = STANDARD.decode(object.text("Spec.Data"))
        && !data.is_empty()
    {
        text.push_str(&format!("Data:\n{}\n", String::from_utf8_lossy(&data)));
    }
    text
}

impl ListArgs {
    async fn run(self, context: &Context, kind: Kind) -> anyhow::Result<()> {
        let objects =
            context.client.get(format!("/{}", kind.path())).filters(&Filters::parse(&self.filter)?).json().await?;
        let mut objects: Vec<&Value> = objects.items("").iter().collect();
        objects.sort_by_cached_key(|object| super::tasks::natural(object.text("Spec.Name")));
        let listing = if kind == Kind::Secret { SECRETS } else { CONFIGS };
        listing.print(
            self.format.as_deref(),
            self.quiet,
            objects.into_iter().map(|object| payload_row(object, kind, context.now())).collect(),
        )
    }
}

fn payload_row(object: &Value, kind: Kind, now: Timestamp) -> Row {
    let ago = |field: &str| format!("{} ago", human::since(object.text(field), now));
    let mut row = row([
        ("ID", object.text("ID").to_owned()),
        ("Name", object.text("Spec.Name").to_owned()),
        ("CreatedAt", ago("CreatedAt")),
        ("UpdatedAt", ago("UpdatedAt")),
    ]);
    if kind == Kind::Secret {
        row.insert("Driver".to_owned(), Value::from(object.text("Spec.Driver.Name")));
    }
    with_labels(row, object.at("Spec.Labels"))
}
