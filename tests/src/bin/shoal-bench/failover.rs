//! How long failures are felt.

use anyhow::{Context, ensure};
use shoal_tests::image;
use shoal_tests::lab::Lab;
use shoal_tests::wait::{now, until};

use crate::figures::{median, seconds};

/// 20 times: the leader is killed; when is the next write accepted? And a worker is cut off; when do its tasks run elsewhere?
pub(crate) fn measure() -> anyhow::Result<()> {
    let lab = Lab::up("bench-failover", 3, 2)?;
    let hosts = ["m1", "m2", "m3"];
    lab.load_image(&["m1", "m2", "m3", "w1", "w2"])?;
    lab.docker(
        "m1",
        &[
            "service",
            "create",
            "-d",
            "--name",
            "s",
            "--replicas",
            "4",
            "--constraint",
            "node.role==worker",
            image::NAME,
            "sleep",
            "100000",
        ],
    )?
    .ok()?;
    let mut taken = Vec::new();
    for round in 0..20 {
        let nodes = lab.ok(hosts[round % 3], "node ls --format {{.Hostname}}={{.ManagerStatus}}")?;
        let leader = nodes.lines().find_map(|line| line.strip_suffix("=Leader")).context("no leader")?.to_owned();
        let ask = hosts.iter().find(|host| **host != leader).context("no follower")?;
        lab.shoal(&["kill", &leader, "-9"])?.ok()?;
        let begin = now();
        let label = format!("round{round}");
        until(30, "a write is accepted", || {
            lab.docker(ask, &["service", "update", "-d", "--label-add", &label, "s"])?.ok().map(drop)
        })?;
        taken.push(seconds(begin.elapsed()));
        lab.shoal(&["start", &leader])?.ok()?;
        until(30, "three managers again", || {
            let status = lab.ok(ask, "node ls --format {{.ManagerStatus}}")?;
            ensure!(status.matches("Reachable").count() == 2 && status.contains("Leader"), "{status}");
            Ok(())
        })?;
    }
    let worst = taken.iter().copied().fold(0.0, f64::max);
    println!(
        "{:<44} median {:>6.3} s, worst of 20 {worst:>6.3} s",
        "leader killed, next write accepted",
        median(taken)
    );
    until(60, "all run", || {
        let shown = lab.ok("m1", "service ls --format {{.Replicas}}")?;
        ensure!(shown == "4/4", "{shown}");
        Ok(())
    })?;
    lab.shoal(&["cut", "w1"])?.ok()?;
    let took = until(60, "all four run on w2", || {
        let here = lab.ok("w2", "ps -q")?.lines().count();
        ensure!(here == 4, "{here}");
        Ok(())
    })?;
    println!("{:<44} {:>9.3} s", "worker cut off, its tasks running elsewhere", seconds(took));
    lab.down()
}
