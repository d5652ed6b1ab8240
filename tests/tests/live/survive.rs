//! Failures, each on real processes and networks.

use anyhow::{Context, ensure};
use shoal_tests::image;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::{now, pause, until};

use crate::service::converged;

fn leader(lab: &Lab, ask: &str) -> anyhow::Result<String> {
    let nodes = lab.ok(ask, "node ls --format {{.Hostname}}={{.ManagerStatus}}")?;
    let line = nodes.lines().find(|line| line.ends_with("=Leader")).context("no leader")?;
    Ok(line.trim_end_matches("=Leader").to_owned())
}

#[test]
fn acknowledged_writes_outlive_the_leader() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("leader", 3, 0)?;
    lab.load_image(&["m1", "m2", "m3"])?;
    lab.docker("m1", &["service", "create", "-d", "--name", "s", image::NAME, "sleep", "1000"])?.ok()?;
    converged(&lab, "m1", "s", "1/1")?;
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..3 {
        let dead = leader(&lab, "m1").or_else(|_| leader(&lab, "m2"))?;
        let ask = if dead == "m1" { "m2" } else { "m1" };
        for step in 0..6 {
            if step == 3 {
                lab.shoal(&["kill", &dead, "-9"])?.ok()?;
            }
            let label = format!("r{round}s{step}");
            let args = ["service", "update", "-d", "--label-add", &label, "s"];
            let begin = now();
            until(20, "a write is accepted", || lab.docker(ask, &args)?.ok().map(drop))?;
            if step == 3 {
                eprintln!("write accepted {:?} after the leader was killed", begin.elapsed());
            }
            acknowledged.push(label);
        }
        lab.shoal(&["start", &dead])?.ok()?;
        until(30, "all managers are reachable", || {
            let status = lab.ok(ask, "node ls --format {{.ManagerStatus}}")?;
            ensure!(status.matches("Reachable").count() == 2 && status.contains("Leader"), "{status}");
            Ok(())
        })?;
    }
    for host in ["m1", "m2", "m3"] {
        let labels = lab.ok(host, "service inspect s --format {{json .Spec.Labels}}")?;
        for label in &acknowledged {
            ensure!(labels.contains(&format!("\"{label}\"")), "{host} lost {label}: {labels}");
        }
    }
    lab.down()
}

#[test]
fn tasks_of_a_cut_off_worker_run_elsewhere() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("cut", 1, 2)?;
    lab.load_image(&["m1", "w1", "w2"])?;
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
            "1000",
        ],
    )?
    .ok()?;
    converged(&lab, "m1", "s", "4/4")?;
    ensure!(lab.ok("w1", "ps -q")?.lines().count() == 2, "spread over both workers");
    lab.shoal(&["cut", "w1"])?.ok()?;
    let took = until(30, "all four run on w2", || {
        let here = lab.ok("w2", "ps -q")?.lines().count();
        ensure!(here == 4, "{here}");
        Ok(())
    })?;
    eprintln!("tasks of the lost worker ran elsewhere after {took:?}");
    ensure!(lab.ok("w1", "ps -q")?.lines().count() == 2, "the cut-off worker's containers run on");
    lab.shoal(&["mend", "w1"])?.ok()?;
    until(30, "the stale containers stop", || {
        let stale = lab.ok("w1", "ps -q")?;
        ensure!(stale.is_empty(), "{stale}");
        Ok(())
    })?;
    converged(&lab, "m1", "s", "4/4")?;
    lab.down()
}

#[test]
fn everything_comes_back_after_all_nodes_died() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("blackout", 3, 1)?;
    let hosts = ["m1", "m2", "m3", "w1"];
    lab.load_image(&hosts)?;
    lab.ok("m1", "network create -d overlay app")?;
    lab.docker(
        "m1",
        &[
            "service",
            "create",
            "-d",
            "--name",
            "s",
            "--replicas",
            "6",
            "--network",
            "app",
            image::NAME,
            "sleep",
            "1000",
        ],
    )?
    .ok()?;
    converged(&lab, "m1", "s", "6/6")?;
    let ids = |hosts: &[&str]| -> anyhow::Result<Vec<String>> {
        let mut all = Vec::new();
        for host in hosts {
            all.extend(lab.ok(host, "ps -q --no-trunc")?.lines().map(str::to_owned));
        }
        all.sort();
        Ok(all)
    };
    let before = ids(&hosts)?;
    for host in hosts {
        lab.shoal(&["kill", host, "-9"])?.ok()?;
    }
    for host in hosts {
        lab.shoal(&["start", host])?.ok()?;
    }
    until(60, "the cluster answers", || lab.ok("m2", "service ls").map(drop))?;
    converged(&lab, "m1", "s", "6/6")?;
    pause(std::time::Duration::from_secs(3));
    ensure!(ids(&hosts)? == before, "containers were replaced though they ran on");
    lab.ok("m3", "service scale -d s=7")?;
    converged(&lab, "m2", "s", "7/7")?;
    lab.down()
}
