//! `volume`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Filters, escape};
use super::container::lifecycle::{self, PruneAllArgs};
use super::context::Context;
use super::exit::Failures;
use super::listing::{Listing, row, with_labels};
use super::look::Look as _;
use super::output;
use super::parse::pair;
use super::refused::{self, ClusterVolumeFlags, RefusedArgs};

const LISTING: Listing = Listing {
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
    ],
    table: "{{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
};

/// Manage volumes
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal volume create data
  shoal run -v data:/data busybox touch /data/x")]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    Create(Box<CreateArgs>),
    Inspect(InspectArgs),
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove unused local volumes
    Prune(PruneAllArgs),
    #[command(alias = "remove")]
    Rm(RmArgs),
    /// Update a cluster volume (not offered)
    #[command(hide = true)]
    Update(RefusedArgs),
}

/// Create a volume
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal volume create --label team=blue data")]
struct CreateArgs {
    /// Specify volume driver name
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    opt: Vec<String>,
    #[command(flatten)]
    cluster: ClusterVolumeFlags,
    /// Volume name
    #[arg(long, hide = true)]
    name: Option<String>,
    /// Name; the daemon makes one up when it is absent
    volume: Option<String>,
}

/// Display detailed information on one or more volumes
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal volume inspect -f '{{.Mountpoint}}' data")]
struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// List volumes
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal volume ls --filter dangling=true")]
struct ListArgs {
    /// Display only cluster volumes
    #[arg(long, hide = true)]
    cluster: bool,
    /// Filter output, as in dangling=true
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
}

/// Remove one or more volumes. You cannot remove a volume that is in use by a container
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal volume rm data")]
struct RmArgs {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    force: bool,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

impl VolumeArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            VolumeCommand::Update(args) => args.run(refused::CLUSTER_VOLUME),
            VolumeCommand::Create(args) => {
                args.cluster.check()?;
                let name = args.volume.or(args.name).unwrap_or_default();
                let body = json!({"Name": name, "Driver": args.driver, "DriverOpts": pair::map(&args.opt), "Labels": pair::map(&args.label)});
                let volume = context.client.post("/volumes/create").body(body).json().await?;
                output::line(volume.text("Name"))
            }
            VolumeCommand::Inspect(args) => {
                let mut failures = Failures::default();
                let mut volumes = Vec::new();
                for name in &args.volumes {
                    volumes.extend(failures.keep(context.object("volumes", name).await));
                }
                output::inspected(args.format.as_deref(), &volumes)?;
                failures.finish()
            }
            VolumeCommand::Ls(args) => args.run(context).await,
            VolumeCommand::Prune(args) => {
                let (warning, more) = match args.all {
                    true => {
                        ("This will remove all local volumes not used by at least one container.", Some(("all", "1")))
                    }
                    false => ("This will remove anonymous local volumes not used by at least one container.", None),
                };
                args.rest.run_with(context, "volumes", warning, "VolumesDeleted", more).await
            }
            VolumeCommand::Rm(args) => {
                let force = args.force;
                lifecycle::each(&args.volumes, |name| async move {
                    context.client.delete(format!("/volumes/{}", escape(&name))).query_if("force", force).done().await
                })
                .await
            }
        }
    }
}

impl ListArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        refused::check(&[("--cluster", self.cluster, refused::CLUSTER_VOLUME)])?;
        let answer = context.client.get("/volumes").filters(&Filters::parse(&self.filter)?).json().await?;
        let mut volumes: Vec<&Value> = answer.items("Volumes").iter().collect();
        volumes.sort_by_key(|volume| volume.text("Name"));
        let volume_row = |volume: &Value| {
            let row = row([
                ("Name", volume.text("Name").to_owned()),
                ("Driver", volume.text("Driver").to_owned()),
                ("Scope", volume.text("Scope").to_owned()),
                ("Mountpoint", volume.text("Mountpoint").to_owned()),
                ("Links", "N/A".to_owned()),
                ("Size", "N/A".to_owned()),
            ]);
            with_labels(row, volume.at("Labels"))
        };
        LISTING.print(self.format.as_deref(), self.quiet, volumes.into_iter().map(volume_row).collect())
    }
}
