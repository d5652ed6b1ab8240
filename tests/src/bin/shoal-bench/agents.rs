//! One manager and a thousand agents that pretend to run containers; everything else is real.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use shoal_tests::command::command;
use shoal_tests::image;
use shoal_tests::lab::{Lab, binary};
use shoal_tests::wait::{now, pause, until};

use crate::figures::seconds;
use crate::memory::proportional_mib;

const AGENTS: usize = 1_000;
const REPLICAS: usize = 10_000;

/// Kills the agents when the benchmark ends, however it does.
struct Agents(Child);

impl Drop for Agents {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Joined and ready; 10,000 replicas from create to all running; the manager's memory.
pub(crate) fn measure() -> anyhow::Result<()> {
    let lab = Lab::up("bench-agents", 1, 0)?;
    lab.ok("m1", "node update --availability drain m1")?;
    let begin = now();
    let count = AGENTS.to_string();
    let child = command(&binary(), &["lab", "agents", "--name", &lab.name, "--count", &count])
        .stdout(Stdio::null())
        .spawn()
        .context("start the agents")?;
    let agents = Agents(child);
    let ready = |seconds: u64| {
        until(seconds, "all agents are ready", || {
            let nodes = lab.get("m1", "/nodes")?;
            let nodes = nodes.as_array().context("no list of nodes")?;
            let ready = nodes.iter().filter(|node| node["Status"]["State"] == "ready").count();
            ensure!(ready == AGENTS + 1, "{ready} nodes are ready");
            Ok(())
        })
    };
    ready(120)?;
    println!(
        "{:<44} {:>9.3} s   (dockerd on such a machine: 7.5 s)",
        "1,000 agents joined and ready",
        seconds(begin.elapsed())
    );

    let begin = now();
    let replicas = REPLICAS.to_string();
    lab.docker("m1", &["service", "create", "-d", "--name", "many", "--replicas", &replicas, image::NAME])?.ok()?;
    until(300, "all replicas run", || {
        let services = lab.get("m1", "/services?status=true")?;
        let running = services[0]["ServiceStatus"]["RunningTasks"].as_u64().context("no number of running tasks")?;
        ensure!(running == REPLICAS as u64, "{running} run");
        Ok(())
    })?;
    println!(
        "{:<44} {:>9.3} s   (dockerd on such a machine: 19.3 s)",
        "10,000 replicas created and running",
        seconds(begin.elapsed())
    );
    let manager = lab.daemon("m1")?;
    println!("{:<44} {:>9.1} MiB   (dockerd: 1,280 MiB)", "the manager then", proportional_mib(manager)?);
    // Heartbeats go on: nobody may be called down by mistake.
    pause(Duration::from_secs(10));
    ready(1).context("agents were lost while idle")?;
    drop(agents);
    lab.down()
}
