//! The top level of the command line.

use clap::{Command, Parser, Subcommand};

use super::checkpoint::CheckpointArgs;
use super::container::{ContainerArgs, ContainerCommand, copy, exec, files, lifecycle, list, run, stats, view};
use super::context::Context;
use super::payload::{Kind, PayloadArgs};
use super::refused::{self, RefusedArgs};
use super::{completion, image, manual, network, node, service, swarm, system, volume};

/// A container platform: one daemon on every machine, from `run` on one to services on many
#[derive(Debug, Parser)]
#[command(name = "shoal", version, disable_help_subcommand = true, infer_long_args = false, max_term_width = 100)]
pub(crate) struct Cli {
    /// Daemon to speak to, as in unix:///run/shoal/shoal.sock or tcp://10.0.0.1:2375 [env: SHOAL_HOST, DOCKER_HOST]
    #[arg(short = 'H', long)]
    host: Option<String>,
    #[command(subcommand)]
    command: TopCommand,
}

#[derive(Debug, Subcommand)]
enum TopCommand {
    Attach(run::AttachArgs),
    Checkpoint(CheckpointArgs),
    Commit(files::CommitArgs),
    Completion(completion::CompletionArgs),
    /// Manage configs: files that services read
    #[command(
        after_help = "Example:\n  shoal config create site nginx.conf\n  shoal service create --config source=site,target=/etc/nginx/nginx.conf nginx"
    )]
    Config(PayloadArgs),
    Container(ContainerArgs),
    Cp(copy::CopyArgs),
    Create(Box<run::CreateArgs>),
    /// Run a node: engine, agent, manager and API
    #[command(
        after_help = "Example; 'shoal swarm init' then makes a cluster of it:\n  shoal daemon\n  shoal daemon --data-root /srv/shoal -H unix:///run/shoal/shoal.sock -H tcp://127.0.0.1:2375"
    )]
    Daemon(Box<crate::daemon::DaemonOptions>),
    Diff(files::DiffArgs),
    Events(system::EventsArgs),
    Exec(exec::ExecArgs),
    Export(files::ExportArgs),
    History(image::HistoryArgs),
    Image(image::ImageArgs),
    Images(image::ListArgs),
    Import(image::ImportArgs),
    Info(system::InfoArgs),
    Inspect(system::InspectArgs),
    Kill(lifecycle::KillArgs),
    Lab(crate::lab::LabArgs),
    Load(image::LoadArgs),
    Logs(view::LogsArgs),
    Man(manual::ManualArgs),
    Network(network::NetworkArgs),
    Node(node::NodeArgs),
    /// Pause all processes within one or more containers
    Pause(lifecycle::NamesArgs),
    Port(view::PortArgs),
    Ps(list::ListArgs),
    Rename(lifecycle::RenameArgs),
    /// Restart one or more containers
    Restart(lifecycle::StopArgs),
    Rm(lifecycle::RmArgs),
    Rmi(image::RmArgs),
    Run(Box<run::RunArgs>),
    Save(image::SaveArgs),
    /// Manage secrets: files that only the services see that use them
    #[command(
        after_help = "Example:\n  printf 's3cret' | shoal secret create db-password -\n  shoal service create --secret db-password web"
    )]
    Secret(PayloadArgs),
    Service(service::ServiceArgs),
    Start(run::StartArgs),
    Stats(stats::StatsArgs),
    Stop(lifecycle::StopArgs),
    Swarm(swarm::SwarmArgs),
    System(system::SystemArgs),
    Tag(image::TagArgs),
    Top(view::TopArgs),
    /// Unpause all processes within one or more containers
    Unpause(lifecycle::NamesArgs),
    Update(lifecycle::UpdateArgs),
    Version(system::VersionArgs),
    Volume(volume::VolumeArgs),
    /// Block until one or more containers stop, then print their exit codes
    Wait(lifecycle::NamesArgs),
    /// Build an image (not available yet)
    #[command(hide = true)]
    Build(RefusedArgs),
    /// Manage builds (not available yet)
    #[command(hide = true)]
    Builder(RefusedArgs),
    /// Build with BuildKit (not available yet)
    #[command(hide = true)]
    Buildx(RefusedArgs),
    /// Manage contexts (not offered)
    #[command(hide = true)]
    Context(RefusedArgs),
    /// Authenticate to a registry (not available yet)
    #[command(hide = true)]
    Login(RefusedArgs),
    /// Log out from a registry (not available yet)
    #[command(hide = true)]
    Logout(RefusedArgs),
    /// Manage image manifests (not available yet)
    #[command(hide = true)]
    Manifest(RefusedArgs),
    /// Manage plugins (not offered)
    #[command(hide = true)]
    Plugin(RefusedArgs),
    /// Download an image from a registry (not available yet)
    #[command(hide = true)]
    Pull(RefusedArgs),
    /// Upload an image to a registry (not available yet)
    #[command(hide = true)]
    Push(RefusedArgs),
    /// Search a registry for images (not available yet)
    #[command(hide = true)]
    Search(RefusedArgs),
    /// Manage stacks (not available yet)
    #[command(hide = true)]
    Stack(RefusedArgs),
    /// Manage trust on images (not offered)
    #[command(hide = true)]
    Trust(RefusedArgs),
}

impl Cli {
    /// The command as manual pages describe it.
    pub(super) fn for_manual() -> Command {
        <Self as clap::CommandFactory>::command()
    }

    /// The daemon's options when this is the daemon and no command to one.
    pub(super) fn into_daemon(self) -> Result<crate::daemon::DaemonOptions, Box<Self>> {
        match self.command {
            TopCommand::Daemon(options) => Ok(*options),
            command => Err(Box::new(Self { command, ..self })),
        }
    }

    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let context = Context::new(self.host.as_deref())?;
        let context = &context;
        match self.command {
            TopCommand::Completion(args) => args.run(),
            TopCommand::Checkpoint(args) => args.run(context).await,
            TopCommand::Config(args) => args.run(context, Kind::Config).await,
            TopCommand::Secret(args) => args.run(context, Kind::Secret).await,
            TopCommand::Container(args) => args.run(context).await,
            TopCommand::Events(args) => args.run(context).await,
            TopCommand::History(args) => args.run(context).await,
            TopCommand::Image(args) => args.run(context).await,
            TopCommand::Images(args) => args.run(context).await,
            TopCommand::Import(args) => args.run(context).await,
            TopCommand::Info(args) => args.run(context).await,
            TopCommand::Inspect(args) => args.run(context).await,
            TopCommand::Lab(args) => args.run().await,
            TopCommand::Load(args) => args.run(context).await,
            TopCommand::Man(args) => args.run(),
            TopCommand::Network(args) => args.run(context).await,
            TopCommand::Node(args) => args.run(context).await,
            TopCommand::Rmi(args) => args.run(context).await,
            TopCommand::Save(args) => args.run(context).await,
            TopCommand::Service(args) => args.run(context).await,
            TopCommand::Swarm(args) => args.run(context).await,
            TopCommand::System(args) => args.run(context).await,
            TopCommand::Tag(args) => args.run(context).await,
            TopCommand::Version(args) => args.run(context).await,
            TopCommand::Volume(args) => args.run(context).await,
            TopCommand::Build(args) => args.run(refused::BUILD),
            TopCommand::Builder(args) => args.run(refused::BUILD),
            TopCommand::Buildx(args) => args.run(refused::BUILD),
            TopCommand::Context(args) => args.run(refused::CONTEXTS),
            TopCommand::Login(args) => args.run(refused::REGISTRY),
            TopCommand::Logout(args) => args.run(refused::REGISTRY),
            TopCommand::Manifest(args) => args.run(refused::REGISTRY),
            TopCommand::Plugin(args) => args.run(refused::NOT_OFFERED),
            TopCommand::Pull(args) => args.run(refused::PULL),
            TopCommand::Push(args) => args.run(refused::PUSH),
            TopCommand::Search(args) => args.run(refused::REGISTRY),
            TopCommand::Stack(args) => args.run(refused::STACK),
            TopCommand::Trust(args) => args.run(refused::NOT_OFFERED),
            command => command.on_container().run(context).await,
        }
    }
}

impl TopCommand {
    /// The command below `container` that a top-level command stands for.
    fn on_container(self) -> ContainerCommand {
        match self {
            Self::Attach(args) => ContainerCommand::Attach(args),
            Self::Commit(args) => ContainerCommand::Commit(args),
            Self::Cp(args) => ContainerCommand::Cp(args),
            Self::Create(args) => ContainerCommand::Create(args),
            Self::Diff(args) => ContainerCommand::Diff(args),
            Self::Export(args) => ContainerCommand::Export(args),
            Self::Exec(args) => ContainerCommand::Exec(args),
            Self::Kill(args) => ContainerCommand::Kill(args),
            Self::Logs(args) => ContainerCommand::Logs(args),
            Self::Pause(args) => ContainerCommand::Pause(args),
            Self::Port(args) => ContainerCommand::Port(args),
            Self::Ps(args) => ContainerCommand::Ls(args),
            Self::Rename(args) => ContainerCommand::Rename(args),
            Self::Restart(args) => ContainerCommand::Restart(args),
            Self::Rm(args) => ContainerCommand::Rm(args),
            Self::Run(args) => ContainerCommand::Run(args),
            Self::Start(args) => ContainerCommand::Start(args),
            Self::Stats(args) => ContainerCommand::Stats(args),
            Self::Stop(args) => ContainerCommand::Stop(args),
            Self::Top(args) => ContainerCommand::Top(args),
            Self::Unpause(args) => ContainerCommand::Unpause(args),
            Self::Update(args) => ContainerCommand::Update(args),
            Self::Wait(args) => ContainerCommand::Wait(args),
            other => unreachable!("{other:?} is run above"),
        }
    }
}

/// What the overview shows, by what people want to do.
const OVERVIEW: [(&str, &[&str]); 5] = [
    ("Cluster", &["swarm", "node", "service", "secret", "config"]),
    (
        "Containers",
        &[
            "run",
            "ps",
            "exec",
            "logs",
            "attach",
            "start",
            "stop",
            "restart",
            "kill",
            "rm",
            "cp",
            "stats",
            "top",
            "inspect",
            "container",
        ],
    ),
    ("Images, networks, volumes", &["image", "images", "load", "import", "save", "tag", "rmi", "network", "volume"]),
    ("This daemon", &["daemon", "info", "version", "events", "system"]),
    ("More", &["lab", "completion"]),
];

/// Replaces the flat list of commands in the top-level help by a grouped one.
pub(super) fn with_overview(command: Command) -> Command {
    let mut text = String::from(
        "A container platform: one daemon on every machine, from `run` on one to services on many.\n\nUsage: shoal [-H HOST] COMMAND\n",
    );
    for (title, names) in OVERVIEW {
        text.push_str(&format!("\n{title}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about).map(ToString::to_string);
            if let Some(about) = about {
                text.push_str(&format!("  {name:<12} {about}\n"));
            }
        }
    }
    text.push_str(
        "\nAlso: commit, create, diff, export, history, pause, unpause, port, rename, update, wait, as 'shoal container' and 'shoal image' have them.\n\n\
         Options:\n  -H, --host <HOST>  Daemon to speak to [env: SHOAL_HOST, DOCKER_HOST] [default: unix:///run/shoal/shoal.sock]\n  \
         -h, --help         Print help\n  -V, --version      Print version\n\n\
         First steps:\n  shoal lab up                                          five nodes on this machine, in network namespaces\n  \
         shoal swarm init --advertise-addr 192.0.2.1           a cluster of this machine; others join it\n  \
         shoal service create --name web --replicas 3 -p 8080:80 web:1\n  \
         shoal service ps web\n\nRun 'shoal COMMAND --help' for more information on a command, with an example.\n",
    );
    command.override_help(text)
}
