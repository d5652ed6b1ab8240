//! `checkpoint`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::escape;
use super::context::Context;
use super::listing::{Listing, row};
use super::look::Look as _;
use super::output;

const LISTING: Listing = Listing { headers: &[("Name", "CHECKPOINT NAME")], table: "{{.Name}}", quiet: "{{.Name}}" };

/// Manage checkpoints (needs a daemon with --experimental, and CRIU on its host)
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal checkpoint create web before
  shoal start --checkpoint before web")]
pub(crate) struct CheckpointArgs {
    #[command(subcommand)]
    command: CheckpointCommand,
}

#[derive(Debug, Subcommand)]
enum CheckpointCommand {
    Create(CreateArgs),
    #[command(alias = "list")]
    Ls(ListArgs),
    #[command(alias = "remove")]
    Rm(RemoveArgs),
}

/// Create a checkpoint from a running container
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal checkpoint create --leave-running web before")]
struct CreateArgs {
    /// Leave the container running after checkpoint
    #[arg(long)]
    leave_running: bool,
    /// Use a custom checkpoint storage directory
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<String>,
    /// Container
    container: String,
    /// Name of the checkpoint
    checkpoint: String,
}

/// List checkpoints for a container
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal checkpoint ls web")]
struct ListArgs {
    /// Use a custom checkpoint storage directory
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<String>,
    /// Container
    container: String,
}

/// Remove a checkpoint
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal checkpoint rm web before")]
struct RemoveArgs {
    /// Use a custom checkpoint storage directory
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<String>,
    /// Container
    container: String,
    /// Name of the checkpoint
    checkpoint: String,
}

fn path(container: &str) -> String {
    format!("/containers/{}/checkpoints", escape(container))
}

impl CheckpointArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            CheckpointCommand::Create(args) => {
                let body = json!({
                    "CheckpointID": args.checkpoint,
                    "CheckpointDir": args.checkpoint_dir.unwrap_or_default(),
                    "Exit": !args.leave_running,
                });
                context.client.post(path(&args.container)).body(body).done().await?;
                output::line(&args.checkpoint)
            }
            CheckpointCommand::Ls(args) => {
                let list =
                    context.client.get(path(&args.container)).query_some("dir", args.checkpoint_dir).json().await?;
                let names = list.as_array().into_iter().flatten();
                let rows = names.map(|one: &Value| row([("Name", one.text("Name").to_owned())])).collect();
                LISTING.print(None, false, rows)
            }
            CheckpointCommand::Rm(args) => {
                let path = format!("{}/{}", path(&args.container), escape(&args.checkpoint));
                context.client.delete(path).query_some("dir", args.checkpoint_dir).done().await
            }
        }
    }
}
