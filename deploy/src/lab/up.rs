//! `lab up`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use rustix::fs::{FlockOperation, flock};

use super::layout::{self, Engine, Lab, RUN};
use super::{NameArgs, cluster, daemon, network};
use crate::cli::exit::fail;
use crate::cli::output;

/// Start a lab: a switch, hosts with their daemons, and a cluster of them
#[derive(Debug, Args)]
#[command(after_help = "Example; run again, it repairs or extends what is there:
  shoal lab up --managers 3 --workers 2
  export SHOAL_HOST=unix:///run/shoal-lab/lab/m1.sock
  shoal node ls")]
pub(super) struct UpArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Number of managers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=80))]
    managers: u8,
    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=140))]
    workers: u8,
    /// Folder of the hosts' data and logs (default: /var/lib/shoal-lab/<name>)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Start the daemons but make no cluster
    #[arg(long)]
    no_cluster: bool,
    /// Which program the daemons are (shoal, dockerd); dockerd is there to compare with
    #[arg(long, value_enum, default_value_t = Engine::Shoal)]
    engine: Engine,
    /// Path of the daemons' program (default: this program, or dockerd from the path)
    #[arg(long)]
    program: Option<PathBuf>,
    /// One more argument for every daemon, as in --daemon-argument=--debug
    #[arg(long, value_name = "ARGUMENT")]
    daemon_argument: Vec<String>,
}

impl UpArgs {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let lab = {
            let _lock = lock()?;
            let lab = self.plan()?;
            lab.save()?;
            network::ensure_switch(&lab).context("make the switch")?;
            lab
        };
        output::line(format!("switch: {}/24, this machine is {}", lab.gateway(), lab.root_address()))?;
        for host in &lab.hosts {
            network::ensure_host(&lab, host).with_context(|| format!("make host {}", host.name))?;
            daemon::start(&lab, host)?;
        }
        for host in &lab.hosts {
            daemon::ensure(&lab, host).await?;
            output::line(format!("{}: {} daemon up", host.name, host.address))?;
        }
        if self.no_cluster {
            return Ok(());
        }
        cluster::ensure(&lab).await?;
        let name = &lab.name;
        output::line(format!(
            "cluster ready: {} nodes\n\nSpeak to it:\n  export SHOAL_HOST=unix://{}\n  shoal node ls\n  shoal lab shell --name {name} {}\n  shoal lab down --name {name}",
            lab.hosts.len(),
            lab.socket(&lab.hosts.first().map(|host| host.name.clone()).unwrap_or_default()).display(),
            lab.hosts.last().map(|host| host.name.as_str()).unwrap_or_default(),
        ))
    }

    /// What the lab is to be: what is there already, with the hosts that are added now.
    fn plan(&self) -> anyhow::Result<Lab> {
        let name = &self.lab.name;
        let found = Lab::find(name)?;
        let subnet = found.as_ref().map_or_else(network::free_subnet, |lab| Ok(lab.subnet))?;
        let dir = match &self.dir {
            Some(dir) => std::path::absolute(dir).context("find the data folder")?,
            None => found.as_ref().map_or_else(|| Lab::default_dir(name), |lab| lab.dir.clone()),
        };
        let program = match (&self.program, self.engine) {
            (Some(program), _) => std::path::absolute(program).context("find the daemons' program")?,
            (None, Engine::Shoal) => std::env::current_exe().context("find this program")?,
            (None, Engine::Dockerd) => PathBuf::from("dockerd"),
        };
        let hosts = layout::hosts(subnet, self.managers, self.workers);
        if let Some(found) = &found {
            let kept = found.hosts.iter().all(|host| hosts.contains(host));
            if !kept || found.engine != self.engine || found.dir != dir {
                return Err(fail(
                    1,
                    format!(
                        "lab '{name}' is up in another shape ({} hosts, {}): take it down first with 'shoal lab down --name {name}'",
                        found.hosts.len(),
                        found.dir.display()
                    ),
                ));
            }
        }
        Ok(Lab {
            name: name.clone(),
            dir,
            subnet,
            engine: self.engine,
            program,
            daemon_arguments: self.daemon_argument.clone(),
            hosts,
        })
    }
}

/// Two labs that start at the same time must not take the same subnet. Held until dropped.
fn lock() -> anyhow::Result<std::fs::File> {
    std::fs::create_dir_all(RUN).with_context(|| format!("make {RUN}"))?;
    let path = format!("{RUN}/lock");
    let file = std::fs::File::create(&path).with_context(|| format!("open {path}"))?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("lock {path}"))?;
    Ok(file)
}
