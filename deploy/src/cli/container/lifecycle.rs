//! Commands on containers that exist: stop, kill, restart, pause, rename, wait, remove, update, prune.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::client::{Filters, escape, is_not_found};
use crate::cli::context::Context;
use crate::cli::exit::Failures;
use crate::cli::look::{Look as _, set, set_some};
use crate::cli::parse::size;
use crate::cli::{human, output, service};

/// Runs an action on each container, prints the names of those that it worked on, and goes on after failures.
pub(crate) async fn each<F: Future<Output = anyhow::Result<()>>>(
    names: &[String],
    action: impl Fn(String) -> F,
) -> anyhow::Result<()> {
    // As docker does: at once for all, up to 50 at a time, and reported in order.
    use futures::StreamExt as _;
    let mut results = futures::stream::iter(names.iter().map(|name| {
        let run = action(name.clone());
        async move { (name, run.await) }
    }))
    .buffered(50);
    let mut failures = Failures::default();
    while let Some((name, result)) = results.next().await {
        if failures.keep(result).is_some() {
            output::line(name)?;
        }
    }
    failures.finish()
}

fn path(name: &str, action: &str) -> String {
    format!("/containers/{}/{action}", escape(name))
}

/// Stop one or more running containers
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal stop -t 30 web")]
pub(crate) struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short, long, alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl StopArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context, action: &str) -> anyhow::Result<()> {
        let (signal, time) = (self.signal.as_deref(), self.timeout);
        each(&self.containers, |name| async move {
            context.client.post(path(&name, action)).query_some("t", time).query_some("signal", signal).done().await
        })
        .await
    }
}

/// Kill one or more running containers
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal kill -s HUP web")]
pub(crate) struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    signal: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl KillArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let signal = self.signal.as_deref();
        each(&self.containers, |name| async move {
            context.client.post(path(&name, "kill")).query_some("signal", signal).done().await
        })
        .await
    }
}

/// Containers to pause or unpause
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal pause web && shoal unpause web")]
pub(crate) struct NamesArgs {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl NamesArgs {
    /// Runs the command for this action of the API.
    pub(crate) async fn run(self, context: &Context, action: &str) -> anyhow::Result<()> {
        each(&self.containers, |name| async move { context.client.post(path(&name, action)).done().await }).await
    }

    /// Blocks until the containers stop, then prints their exit codes.
    pub(crate) async fn wait(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        for name in &self.containers {
            let exit = async { super::run::wait_for(context, name, "not-running").await?.code().await };
            if let Some(code) = failures.keep(exit.await) {
                output::line(code.to_string())?;
            }
        }
        failures.finish()
    }
}

/// Rename a container
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal rename web web-old")]
pub(crate) struct RenameArgs {
    /// Container
    container: String,
    /// Its new name
    new_name: String,
}

impl RenameArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        context.client.post(path(&self.container, "rename")).query("name", &self.new_name).done().await
    }
}

/// Remove one or more containers
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal rm -f web")]
pub(crate) struct RmArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
    /// Remove the specified link
    #[arg(short, long)]
    link: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl RmArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (force, volumes, link) = (self.force, self.volumes, self.link);
        each(&self.containers, |name| async move {
            let request = context.client.delete(format!("/containers/{}", escape(name.trim_matches('/'))));
            match request.query_if("force", force).query_if("v", volumes).query_if("link", link).done().await {
                Err(error) if force && is_not_found(&error) => {
                    output::note(format!("{error}"));
                    Ok(())
                }
                result => result,
            }
        })
        .await
    }
}

/// Update configuration of one or more containers
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal update --memory 512m --cpus 2 web")]
pub(crate) struct UpdateArgs {
    /// Memory limit
    #[arg(short, long, value_name = "BYTES", value_parser = size::bytes)]
    memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "BYTES", value_parser = size::bytes_or_unlimited)]
    memory_swap: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "DECIMAL", value_parser = size::nano_cpus)]
    cpus: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "N")]
    cpu_shares: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,
    /// Limit the CPU real-time period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<i64>,
    /// Limit the CPU real-time runtime in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_runtime: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "NODES")]
    cpuset_mems: Option<String>,
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "N")]
    pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl UpdateArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let body = self.body()?;
        if body.entries("").is_empty() {
            anyhow::bail!("you must provide one or more flags when using this command");
        }
        let body = &body;
        each(&self.containers, |name| async move {
            let answer = context.client.post(path(&name, "update")).body(body.clone()).json().await?;
            service::warn(&answer);
            Ok(())
        })
        .await
    }

    fn body(&self) -> anyhow::Result<Value> {
        let mut body = json!({});
        set_some(&mut body, "Memory", self.memory);
        set_some(&mut body, "MemoryReservation", self.memory_reservation);
        set_some(&mut body, "MemorySwap", self.memory_swap);
        set_some(&mut body, "NanoCpus", self.cpus);
        set_some(&mut body, "CpuShares", self.cpu_shares);
        set_some(&mut body, "CpuPeriod", self.cpu_period);
        set_some(&mut body, "CpuQuota", self.cpu_quota);
        set_some(&mut body, "CpuRealtimePeriod", self.cpu_rt_period);
        set_some(&mut body, "CpuRealtimeRuntime", self.cpu_rt_runtime);
        set_some(&mut body, "CpusetCpus", self.cpuset_cpus.clone());
        set_some(&mut body, "CpusetMems", self.cpuset_mems.clone());
        set_some(&mut body, "BlkioWeight", self.blkio_weight);
        set_some(&mut body, "PidsLimit", self.pids_limit);
        if let Some(policy) = &self.restart {
            set(&mut body, "RestartPolicy", super::body::restart_policy(policy)?);
        }
        Ok(body)
    }
}

/// Remove all stopped containers
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal container prune -f --filter until=24h")]
pub(crate) struct PruneArgs {
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Provide filter values, as in until=24h
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
}

impl PruneArgs {
    /// Prunes a kind of objects.
    pub(crate) async fn run(self, context: &Context, kind: &str, warning: &str, deleted: &str) -> anyhow::Result<()> {
        self.run_with(context, kind, warning, deleted, None).await
    }

    /// The same, with one filter more.
    pub(crate) async fn run_with(
        self,
        context: &Context,
        kind: &str,
        warning: &str,
        deleted: &str,
        more: Option<(&str, &str)>,
    ) -> anyhow::Result<()> {
        let mut filters = Filters::parse(&self.filter)?;
        if let Some((name, value)) = more {
            filters.add(name, value);
        }
        if !self.force && !super::super::confirm(warning)? {
            return Ok(());
        }
        let pruned = prune_kind(context, kind, deleted, &filters).await?;
        output::text(pruned.text)?;
        match pruned.reclaimed {
            Some(bytes) => output::line(format!("Total reclaimed space: {}", human::decimal_size(bytes))),
            None => Ok(()),
        }
    }
}

/// Remove what is not used, of all or of some
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal image prune -af --filter until=24h")]
pub(crate) struct PruneAllArgs {
    /// Remove all that is unused, not just what has no name
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) rest: PruneArgs,
}

/// What a prune did.
pub(crate) struct Pruned {
    /// What is gone, as docker prints it; empty when nothing is.
    pub(crate) text: String,
    /// Bytes; `None` for what takes no space.
    pub(crate) reclaimed: Option<i64>,
}

/// Prunes a kind of objects. `deleted` is the member of the answer that names them.
pub(crate) async fn prune_kind(
    context: &Context,
    kind: &str,
    deleted: &str,
    filters: &Filters,
) -> anyhow::Result<Pruned> {
    let answer = context.client.post(format!("/{kind}/prune")).filters(filters).json().await?;
    let image = |item: &Value| match item.text("Untagged") {
        "" => format!("deleted: {}", item.text("Deleted")),
        name => format!("untagged: {name}"),
    };
    let names: Vec<String> =
        answer.items(deleted).iter().map(|item| item.as_str().map_or_else(|| image(item), str::to_owned)).collect();
    let text = match names.is_empty() {
        true => String::new(),
        false => format!("Deleted {}:\n{}\n\n", capital(kind), names.join("\n")),
    };
    let reclaimed = answer.get("SpaceReclaimed").is_some().then(|| answer.number("SpaceReclaimed"));
    Ok(Pruned { text, reclaimed })
}

fn capital(kind: &str) -> String {
    crate::cli::tasks::capitalized(kind)
}
