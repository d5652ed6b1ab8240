//! How much memory the processes of a node take.

use std::time::Duration;

use anyhow::{Context, ensure};
use shoal_tests::image;
use shoal_tests::lab::Lab;
use shoal_tests::wait::{pause, until};

use crate::figures::median;

/// Containers that a node has in the second figure of the shim.
const SHIMS: usize = 10;

/// A shim, an idle worker's daemon, and a manager with 1,000 tasks, as the memory that is theirs alone (`Pss`), in MiB.
pub(crate) fn measure() -> anyhow::Result<()> {
    let lab = Lab::up("bench-memory", 1, 1)?;
    lab.load_image(&["m1", "w1"])?;
    let worker = lab.daemon("w1")?;
    println!("{:<44} {:>9.1} MiB", "daemon of an idle worker", proportional_mib(worker)?);

    // What all shims share is counted by its share: so the figure depends on how many there are.
    for number in [1, SHIMS] {
        while lab.shims("w1")?.len() < number {
            lab.ok("w1", &format!("run -d {} sleep 100000", image::NAME))?;
        }
        // A shim gives back what only its start needed when the container has run for a second.
        pause(Duration::from_secs(3));
        let shims: Vec<f64> = lab.shims("w1")?.into_iter().map(proportional_mib).collect::<Result<_, _>>()?;
        let what = format!("shim of a container, {number} on the node");
        println!("{what:<44} {:>9.2} MiB", median(shims));
    }
    let sleepers = lab.ok("w1", "ps -q")?;
    lab.docker("w1", &[&["rm", "-f"], &sleepers.lines().collect::<Vec<_>>()[..]].concat())?.ok()?;

    // Tasks that wait for a node: the manager holds them, no engine runs them.
    lab.ok(
        "m1",
        &format!("service create -d --name many --replicas 1000 --constraint node.labels.none==x {} true", image::NAME),
    )?;
    until(60, "1,000 tasks", || {
        let tasks = lab.ok("m1", "service ps -q many")?.lines().count();
        ensure!(tasks == 1000, "{tasks}");
        Ok(())
    })?;
    println!("{:<44} {:>9.1} MiB", "daemon of a manager with 1,000 tasks", proportional_mib(lab.daemon("m1")?)?);
    lab.down()
}

/// Memory of a process, with what it shares counted by its share.
pub(crate) fn proportional_mib(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find(|line| line.starts_with("Pss:")).with_context(|| format!("no Pss in {path}"))?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}
