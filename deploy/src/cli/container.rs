//! `container`, and the same commands at the top level: `run`, `ps`, `exec`, `logs` and so on.

pub(crate) mod body;
pub(crate) mod copy;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod options;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod view;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::context::Context;

/// Manage containers
#[derive(Debug, Args)]
#[command(after_help = "Every subcommand is also there without 'container', as in 'shoal run' and 'shoal ps'.

Example:
  shoal container run --rm busybox echo hello
  shoal container prune -f")]
pub(crate) struct ContainerArgs {
    #[command(subcommand)]
    command: ContainerCommand,
}

/// Commands on containers.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    Attach(run::AttachArgs),
    Commit(files::CommitArgs),
    Cp(copy::CopyArgs),
    Create(Box<run::CreateArgs>),
    Diff(files::DiffArgs),
    Exec(exec::ExecArgs),
    Export(files::ExportArgs),
    Inspect(view::InspectArgs),
    Kill(lifecycle::KillArgs),
    Logs(view::LogsArgs),
    #[command(aliases = ["ps", "list"])]
    Ls(list::ListArgs),
    /// Pause all processes within one or more containers
    Pause(lifecycle::NamesArgs),
    Port(view::PortArgs),
    Prune(lifecycle::PruneArgs),
    Rename(lifecycle::RenameArgs),
    /// Restart one or more containers
    Restart(lifecycle::StopArgs),
    #[command(alias = "remove")]
    Rm(lifecycle::RmArgs),
    Run(Box<run::RunArgs>),
    Start(run::StartArgs),
    Stats(stats::StatsArgs),
    Stop(lifecycle::StopArgs),
    Top(view::TopArgs),
    /// Unpause all processes within one or more containers
    Unpause(lifecycle::NamesArgs),
    Update(lifecycle::UpdateArgs),
    /// Block until one or more containers stop, then print their exit codes
    Wait(lifecycle::NamesArgs),
}

impl ContainerArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        self.command.run(context).await
    }
}

impl ContainerCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Attach(args) => args.run(context).await,
            Self::Commit(args) => args.run(context).await,
            Self::Cp(args) => args.run(context).await,
            Self::Create(args) => args.run(context).await,
            Self::Diff(args) => args.run(context).await,
            Self::Export(args) => args.run(context).await,
            Self::Exec(args) => args.run(context).await,
            Self::Inspect(args) => args.run(context).await,
            Self::Kill(args) => args.run(context).await,
            Self::Logs(args) => args.run(context).await,
            Self::Ls(args) => args.run(context).await,
            Self::Pause(args) => args.run(context, "pause").await,
            Self::Port(args) => args.run(context).await,
            Self::Prune(args) => {
                args.run(context, "containers", "This will remove all stopped containers.", "ContainersDeleted").await
            }
            Self::Rename(args) => args.run(context).await,
            Self::Restart(args) => args.run(context, "restart").await,
            Self::Rm(args) => args.run(context).await,
            Self::Run(args) => args.run(context).await,
            Self::Start(args) => args.run(context).await,
            Self::Stats(args) => args.run(context).await,
            Self::Stop(args) => args.run(context, "stop").await,
            Self::Top(args) => args.run(context).await,
            Self::Unpause(args) => args.run(context, "unpause").await,
            Self::Update(args) => args.run(context).await,
            Self::Wait(args) => args.wait(context).await,
        }
    }
}

/// A container as the API tells it.
pub(super) async fn inspect(context: &Context, name: &str) -> anyhow::Result<Value> {
    context.client.fetch(format!("/containers/{}/json", super::client::escape(name))).await
}
