//! `lab agents`.

use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::NameArgs;
use super::cluster::{PORT, wait_for_tokens};
use super::daemon::client;
use super::fake_agents::{self, FakeAgentsOptions};
use super::layout::{Lab, Role};
use crate::cli::exit::fail;
use crate::cli::look::Look as _;
use crate::cli::output;

/// Run workers that only pretend to run containers, all in this process, until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = "Each agent joins with a token, gets a certificate and holds a session, as a node does.

Example:
  shoal lab up --managers 1 --workers 0
  shoal lab agents --count 1000")]
pub(super) struct AgentsArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    count: u32,
}

impl AgentsArgs {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let lab = Lab::load(&self.lab.name)?;
        let managers: Vec<_> = lab.hosts.iter().filter(|host| host.role == Role::Manager).collect();
        let first = managers.first().ok_or_else(|| fail(1, "the lab has no manager"))?;
        let swarm = wait_for_tokens(&client(&lab, first)).await?;
        let options = FakeAgentsOptions {
            remotes: managers.iter().map(|host| format!("{}:{PORT}", host.address)).collect(),
            token: swarm.text("JoinTokens.Worker").to_owned(),
            count: self.count as usize,
        };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.cancel();
            }
        });
        fake_agents::run(options, shutdown, |took: Duration| {
            output::line(format!("{} agents joined in {:.3} s", self.count, took.as_secs_f64()))
        })
        .await
    }
}
