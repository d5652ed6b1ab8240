//! `lab`: a cluster of several hosts on this machine. A host is a network namespace with a daemon of its own; the hosts
//! hang on a switch, which is a bridge in a namespace of its own. The quickstart, the tests and the benchmarks all use it.
//!
//! ## Design notes
//! - Everything is ensured, not done: `up` looks at what is there and makes what is missing, so it can be run again on a lab
//!   that is half there, and it can add hosts to a lab.
//! - `down` does not trust its own records: it looks for processes, mounts, cgroups and links that belong to the lab by
//!   namespace, cgroup path and folder, removes them, and looks again.
//! - Links are made with the `ip` tool: this is tooling around the product, not the product's network.

mod agents;
mod cluster;
mod daemon;
mod down;
mod fake_agents;
mod layout;
mod leftovers;
mod namespace;
mod network;
mod process;
mod status;
mod tool;
mod up;

use clap::{Args, Subcommand};

use crate::cli::exit::fail;
use crate::cli::output;
use layout::Lab;

/// Run a cluster of several hosts on this machine, in network namespaces
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal lab up                             3 managers and 2 workers, joined to a cluster
  shoal lab status
  shoal lab run m1 -- shoal node ls
  shoal lab cut w1                         pull its network cable; 'mend' puts it back
  shoal lab kill -9 m1                     only the daemon; 'start' brings it back
  shoal lab agents --count 1000            a thousand workers that pretend to run containers
  shoal lab down                           remove everything, and check that")]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    Up(up::UpArgs),
    Down(down::DownArgs),
    Status(status::StatusArgs),
    Shell(ShellArgs),
    Run(RunArgs),
    Cut(HostsArgs),
    /// Put the network cables of hosts back
    Mend(HostsArgs),
    Kill(KillArgs),
    /// Start the daemons of hosts that are not running
    Start(HostsArgs),
    Agents(agents::AgentsArgs),
}

/// Which lab.
#[derive(Debug, Clone, Args)]
struct NameArgs {
    /// Name of the lab
    #[arg(long, default_value = "lab", value_parser = layout::lab_name)]
    name: String,
}

/// Open a shell on a host, with its network and its daemon
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal lab shell w1")]
struct ShellArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Host, as in m1 or w2
    host: String,
}

/// Run a command on a host, with its network and its daemon
#[derive(Debug, Args)]
#[command(
    override_usage = "shoal lab run [OPTIONS] HOST [--] COMMAND [ARG...]",
    after_help = "Example:
  shoal lab run m1 -- shoal service ls
  shoal lab run w1 -- ip address"
)]
struct RunArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Host, as in m1 or w2, and the command with its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "HOST")]
    command: Vec<String>,
}

/// Pull the network cables of hosts: their daemons and containers run on, alone
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal lab cut w1 && sleep 5 && shoal lab mend w1")]
struct HostsArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Hosts
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
}

/// Stop the daemons of hosts; their containers run on
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal lab kill -9 m1 && shoal lab start m1")]
struct KillArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// By SIGKILL, as when it crashes (default: SIGTERM)
    #[arg(short = '9', long = "crash")]
    crash: bool,
    /// Hosts
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
}

impl LabArgs {
    /// Runs the command.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Err(fail(1, "shoal lab makes network namespaces and cgroups: run it as root"));
        }
        match self.command {
            LabCommand::Up(args) => args.run().await,
            LabCommand::Down(args) => args.run().await,
            LabCommand::Status(args) => args.run().await,
            LabCommand::Shell(args) => {
                let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
                enter(&Lab::load(&args.lab.name)?, &args.host, &[shell])
            }
            LabCommand::Run(args) => {
                let (host, command) =
                    args.command.split_first().map_or(("", &[][..]), |(host, rest)| (host.as_str(), rest));
                let command = command.strip_prefix(&["--".to_owned()]).unwrap_or(command);
                enter(&Lab::load(&args.lab.name)?, host, command)
            }
            LabCommand::Cut(args) => args.each(|lab, host| network::set_cable(lab, host, false)),
            LabCommand::Mend(args) => args.each(|lab, host| network::set_cable(lab, host, true)),
            LabCommand::Kill(args) => args.run().await,
            LabCommand::Agents(args) => args.run().await,
            LabCommand::Start(args) => {
                let lab = Lab::load(&args.lab.name)?;
                for name in &args.hosts {
                    daemon::ensure(&lab, lab.host(name)?).await?;
                    output::line(name)?;
                }
                Ok(())
            }
        }
    }
}

impl HostsArgs {
    fn each(&self, action: impl Fn(&Lab, &layout::Host) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let lab = Lab::load(&self.lab.name)?;
        for name in &self.hosts {
            action(&lab, lab.host(name)?)?;
            output::line(name)?;
        }
        Ok(())
    }
}

impl KillArgs {
    async fn run(self) -> anyhow::Result<()> {
        let lab = Lab::load(&self.lab.name)?;
        // All signals before all waits: "every node at once" is what a power cut does.
        let hosts = self.hosts.iter().map(|name| lab.host(name)).collect::<anyhow::Result<Vec<_>>>()?;
        for host in &hosts {
            daemon::signal(&lab, host, self.crash)?;
        }
        for host in hosts {
            daemon::wait_until_gone(&lab, host).await?;
            output::line(&host.name)?;
        }
        Ok(())
    }
}

/// Becomes a command on a host.
fn enter(lab: &Lab, host: &str, command: &[String]) -> anyhow::Result<()> {
    let host = lab.host(host)?;
    namespace::enter(&lab.namespace(&host.name), Some(&lab.uts(&host.name)))?;
    let socket = format!("unix://{}", lab.socket(&host.name).display());
    let own_folder =
        std::env::current_exe().ok().and_then(|program| program.parent().map(|folder| folder.display().to_string()));
    let path = [own_folder.unwrap_or_default(), std::env::var("PATH").unwrap_or_default()].join(":");
    let environment = [
        ("SHOAL_HOST", socket.as_str()),
        ("DOCKER_HOST", socket.as_str()),
        ("PATH", path.as_str()),
        ("SHOAL_LAB_HOST", host.name.as_str()),
    ];
    Err(tool::become_program(command, &environment))
}
