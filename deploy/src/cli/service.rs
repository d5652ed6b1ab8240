//! `service`: create, change and look at services.

mod create;
pub(crate) mod flags;
mod list;
mod logs;
mod pretty;
pub(crate) mod progress;
mod references;
pub(crate) mod spec;
#[cfg(test)]
mod tests;
mod update;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Filters, escape};
use super::context::Context;
use super::exit::Failures;
use super::look::Look as _;
use super::output;
use super::tasks::{self, TaskListFlags};

/// Manage Swarm services
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal service create --name web --replicas 3 -p 8080:80 nginx
  shoal service ps web")]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    Create(Box<create::CreateArgs>),
    Inspect(InspectArgs),
    Logs(logs::LogsArgs),
    #[command(alias = "list")]
    Ls(list::ListArgs),
    Ps(PsArgs),
    #[command(alias = "remove")]
    Rm(RmArgs),
    Rollback(update::RollbackArgs),
    Scale(update::ScaleArgs),
    Update(Box<update::UpdateArgs>),
}

/// Display detailed information on one or more services
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal service inspect --pretty web")]
struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Print the information in a human friendly format
    #[arg(long)]
    pretty: bool,
    /// Services
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// List the tasks of one or more services
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal service ps web
  shoal service ps --no-trunc --filter desired-state=running web")]
struct PsArgs {
    #[command(flatten)]
    flags: TaskListFlags,
    /// Services
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// Remove one or more services
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal service rm web")]
struct RmArgs {
    /// Services
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

impl ServiceArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            ServiceCommand::Create(args) => args.run(context).await,
            ServiceCommand::Inspect(args) => args.run(context).await,
            ServiceCommand::Logs(args) => args.run(context).await,
            ServiceCommand::Ls(args) => args.run(context).await,
            ServiceCommand::Ps(args) => args.run(context).await,
            ServiceCommand::Rm(args) => args.run(context).await,
            ServiceCommand::Rollback(args) => args.run(context).await,
            ServiceCommand::Scale(args) => args.run(context).await,
            ServiceCommand::Update(args) => args.run(context).await,
        }
    }
}

/// Shows the warnings of an answer on standard error.
pub(crate) fn warn(answer: &Value) {
    for warning in answer.texts("Warnings").into_iter().chain(answer.at("Warning").as_str().map(str::to_owned)) {
        if !warning.is_empty() {
            output::note(format!("WARNING: {warning}"));
        }
    }
}

impl InspectArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        let mut services = Vec::new();
        for name in &self.services {
            let request =
                context.client.get(format!("/services/{}", escape(name))).query_if("insertDefaults", self.pretty);
            services.extend(failures.keep(request.json().await));
        }
        if self.pretty {
            for service in &services {
                let mut networks = Vec::new();
                for id in pretty::networks(service) {
                    // One that is gone, or that this node may not see, is still told by its id.
                    let network = context.object("networks", id).await.unwrap_or_default();
                    networks.push(if network.is_null() { id.to_owned() } else { network.text("Name").to_owned() });
                }
                output::text(pretty::show(service, &networks))?;
            }
        } else {
            output::inspected(self.format.as_deref(), &services)?;
        }
        failures.finish()
    }
}

impl PsArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut filters = Filters::parse(&self.flags.filter)?;
        let mut failures = Failures::default();
        let mut found = false;
        for name in &self.services {
            if let Some(service) = failures.keep(context.object("services", name).await) {
                filters.add("service", service.text("ID"));
                found = true;
            }
        }
        if found {
            tasks::print(context, &self.flags, &filters).await?;
        }
        failures.finish()
    }
}

impl RmArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        for name in &self.services {
            if failures.keep(context.client.delete(format!("/services/{}", escape(name))).done().await).is_some() {
                output::line(name)?;
            }
        }
        failures.finish()
    }
}
