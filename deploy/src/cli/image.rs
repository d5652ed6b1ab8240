//! `image`, and `images` and `rmi` at the top level.

mod list;
mod transfer;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::escape;
use super::container::lifecycle::PruneAllArgs;
use super::context::Context;
use super::exit::Failures;
use super::human;
use super::listing::{Listing, row};
use super::look::Look as _;
use super::output;
use super::refused::{self, PlatformOption, RefusedArgs};

pub(crate) use list::{ListArgs, image_rows};
pub(crate) use transfer::{ImportArgs, LoadArgs, SaveArgs, save_to, stdin_stream};

/// Manage images
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal image load -i web.tar
  shoal image ls")]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Build an image (not available yet)
    #[command(hide = true)]
    Build(RefusedArgs),
    History(HistoryArgs),
    Import(ImportArgs),
    Inspect(InspectArgs),
    Load(LoadArgs),
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove unused images
    Prune(PruneAllArgs),
    /// Pull an image (not available yet)
    #[command(hide = true)]
    Pull(RefusedArgs),
    /// Push an image (not available yet)
    #[command(hide = true)]
    Push(RefusedArgs),
    #[command(alias = "remove")]
    Rm(RmArgs),
    Save(SaveArgs),
    Tag(TagArgs),
}

impl ImageArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            ImageCommand::Build(args) => args.run(refused::BUILD),
            ImageCommand::Pull(args) => args.run(refused::PULL),
            ImageCommand::Push(args) => args.run(refused::PUSH),
            ImageCommand::History(args) => args.run(context).await,
            ImageCommand::Import(args) => args.run(context).await,
            ImageCommand::Inspect(args) => args.run(context).await,
            ImageCommand::Load(args) => args.run(context).await,
            ImageCommand::Ls(args) => args.run(context).await,
            ImageCommand::Prune(args) => {
                let (warning, dangling) = match args.all {
                    true => ("This will remove all images without at least one container associated to them.", "false"),
                    false => ("This will remove all dangling images.", "true"),
                };
                let more = Some(("dangling", dangling));
                args.rest.run_with(context, "images", warning, "ImagesDeleted", more).await
            }
            ImageCommand::Rm(args) => args.run(context).await,
            ImageCommand::Save(args) => args.run(context).await,
            ImageCommand::Tag(args) => args.run(context).await,
        }
    }
}

/// An image's name as part of a URL's path, where `/` separates and stays.
fn path(name: &str) -> String {
    name.split('/').map(escape).collect::<Vec<_>>().join("/")
}

/// Display detailed information on one or more images
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal image inspect -f '{{.Config.Cmd}}' web")]
struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
    #[command(flatten)]
    platform: PlatformOption,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl InspectArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        self.platform.check()?;
        let mut failures = Failures::default();
        let mut images = Vec::new();
        for name in &self.images {
            images.extend(failures.keep(inspect(context, name).await));
        }
        output::inspected(self.format.as_deref(), &images)?;
        failures.finish()
    }
}

/// An image as the API tells it.
pub(super) async fn inspect(context: &Context, name: &str) -> anyhow::Result<Value> {
    context.client.fetch(format!("/images/{}/json", path(name))).await
}

/// Remove one or more images
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal rmi web:1")]
pub(crate) struct RmArgs {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    #[command(flatten)]
    platform: PlatformOption,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl RmArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        self.platform.check()?;
        let mut failures = Failures::default();
        for name in &self.images {
            let request = context
                .client
                .delete(format!("/images/{}", path(name)))
                .query_if("force", self.force)
                .query_if("noprune", self.no_prune);
            let Some(answer) = failures.keep(request.json().await) else { continue };
            for item in answer.items("") {
                for kind in ["Untagged", "Deleted"] {
                    if !item.text(kind).is_empty() {
                        output::line(format!("{kind}: {}", item.text(kind)))?;
                    }
                }
            }
        }
        failures.finish()
    }
}

/// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal tag web:1 web:latest")]
pub(crate) struct TagArgs {
    /// Image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// The repository and the tag of a name; a colon before a slash is a port's.
pub(crate) fn split_name(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, ""),
    }
}

impl TagArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (repository, tag) = split_name(&self.target);
        context
            .client
            .post(format!("/images/{}/tag", path(&self.source)))
            .query("repo", repository)
            .query("tag", tag)
            .done()
            .await
    }
}

/// Show the history of an image
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal history web:1")]
pub(crate) struct HistoryArgs {
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, default_missing_value = "true", default_value = "true", value_name = "BOOL")]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    platform: PlatformOption,
    /// Image
    image: String,
}

const HISTORY: Listing = Listing {
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    quiet: "{{.ID}}",
};

impl HistoryArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        self.platform.check()?;
        let history = context.client.fetch(format!("/images/{}/history", path(&self.image))).await?;
        let entry = |entry: &Value| {
            let by = entry.text("CreatedBy").replace('\t', " ");
            let created = entry.number("Created");
            let id = entry.text("Id");
            row([
                ("ID", if self.no_trunc { id } else { human::short_id(id) }.to_owned()),
                (
                    "CreatedSince",
                    if self.human { human::ago(created, context.now()) } else { human::local_time(created) },
                ),
                ("CreatedAt", human::local_time(created)),
                ("CreatedBy", if self.no_trunc { by } else { human::ellipsis(&by, 45) }),
                (
                    "Size",
                    if self.human {
                        human::decimal_size3(entry.number("Size"))
                    } else {
                        entry.number("Size").to_string()
                    },
                ),
                ("Comment", entry.text("Comment").to_owned()),
            ])
        };
        HISTORY.print(self.format.as_deref(), self.quiet, history.items("").iter().map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(split_name("web"), ("web", ""));
        assert_eq!(split_name("host:5000/web:1"), ("host:5000/web", "1"));
        assert_eq!(split_name("host:5000/web"), ("host:5000/web", ""));
        assert_eq!(path("a/b:1"), "a/b%3A1");
    }
}
