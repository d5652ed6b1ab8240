//! Failures, each on real processes and networks.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use shoal_tests::command::{run, run_with_input};
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::{pause, until};

use crate::service::converged;

const MANAGERS: [&str; 3] = ["m1", "m2", "m3"];

/// The leader, as this manager knows it.
pub(crate) fn leader(lab: &Lab, ask: &str) -> anyhow::Result<String> {
    let nodes = lab.ok(ask, "node ls --format {{.Hostname}}={{.ManagerStatus}}")?;
    let line = nodes.lines().find(|line| line.ends_with("=Leader")).context("no leader")?;
    Ok(line.trim_end_matches("=Leader").to_owned())
}

/// Updates the service again and again through one manager after the other, until told to stop; gives what was acknowledged.
fn stream_of_updates(lab: &Lab, writer: usize, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let host = MANAGERS[step % MANAGERS.len()];
        let label = format!("w{writer}s{step}");
        let args = ["service", "update", "-d", "--label-add", &label, "s"];
        // Refused while nobody leads, or because the other writer was first: that is no loss.
        if lab.docker(host, &args).is_ok_and(|said| said.code == 0) {
            acknowledged.push(label);
        }
    }
    acknowledged
}

#[test]
fn acknowledged_writes_outlive_the_leader() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("leader", 3, 0)?;
    lab.load_image(&MANAGERS)?;
    lab.service("m1", "s", "", &["sleep", "1000"])?;
    converged(&lab, "m1", "s", "1/1")?;
    let stop = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| -> anyhow::Result<Vec<String>> {
        let writers = [0, 1].map(|writer| {
            let (lab, stop) = (&lab, &stop);
            scope.spawn(move || stream_of_updates(lab, writer, stop))
        });
        let killed = (0..4).try_for_each(|round| kill_leader(&lab, MANAGERS[round % MANAGERS.len()]));
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for writer in writers {
            all.extend(writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        }
        killed.map(|()| all)
    })?;
    ensure!(acknowledged.len() > 10, "only {} writes were acknowledged", acknowledged.len());
    for host in MANAGERS {
        let labels = lab.docker(host, &["service", "inspect", "s", "--format", "{{json .Spec.Labels}}"])?.ok()?;
        for label in &acknowledged {
            ensure!(labels.contains(&format!("\"{label}\"")), "{host} lost {label}: {labels}");
        }
    }
    lab.down()
}

/// Kills the leader's daemon, lets the others go on for a while, and brings it back.
fn kill_leader(lab: &Lab, ask: &str) -> anyhow::Result<()> {
    let mut dead = String::new();
    until(20, "a leader", || {
        dead = leader(lab, ask)?;
        Ok(())
    })?;
    let ask = MANAGERS.into_iter().find(|host| *host != dead).unwrap_or_default();
    lab.shoal(&["kill", &dead, "-9"])?.ok()?;
    until(20, "another leader", || {
        ensure!(leader(lab, ask)? != dead, "still {dead}");
        Ok(())
    })?;
    lab.shoal(&["start", &dead])?.ok()?;
    until(30, "all managers are reachable", || {
        let status = lab.ok(ask, "node ls --format {{.ManagerStatus}}")?;
        ensure!(status.matches("Reachable").count() == 2 && status.contains("Leader"), "{status}");
        Ok(())
    })
    .map(drop)
}

#[test]
fn a_manager_whose_disk_is_full_says_so_and_recovers() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("full", 1, 0, &["--no-cluster"])?;
    // The daemon starts once more, on a small disk of its own.
    lab.shoal(&["kill", "m1"])?.ok()?;
    let data = format!("{}/m1/data", lab.dir());
    run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", &data])?.ok()?;
    lab.shoal(&["start", "m1"])?.ok()?;
    lab.ok("m1", "swarm init --advertise-addr eth0")?;
    let secret = |name: &str| {
        run_with_input(lab.docker_command("m1", &["secret", "create", name, "-"]), b"a secret of some length")
    };
    secret("before")?.ok()?;

    let filler = format!("{data}/filler");
    let mut file = std::fs::File::create(&filler)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    // What is left of the last blocks may still take a write or two.
    let mut acknowledged = vec!["before".to_owned()];
    let mut refusal = String::new();
    for number in 0..2_000 {
        let name = format!("filling{number}");
        let said = secret(&name)?;
        if said.code != 0 {
            refusal = said.err;
            break;
        }
        acknowledged.push(name);
    }
    ensure!(refusal.contains("disk is full"), "the refusal does not say why: {refusal:?}");
    ensure!(lab.ok("m1", "secret ls --format {{.Name}}")?.contains("before"), "what is known can be read");

    std::fs::remove_file(&filler)?;
    until(30, "writes are accepted again", || secret("after")?.ok().map(drop))?;
    acknowledged.push("after".to_owned());
    lab.shoal(&["kill", "m1", "-9"])?.ok()?;
    lab.shoal(&["start", "m1"])?.ok()?;
    until(30, "all acknowledged secrets are there after a restart", || {
        let names = lab.ok("m1", "secret ls --format {{.Name}}")?;
        let lost = acknowledged.iter().find(|name| !names.lines().any(|line| line == name.as_str()));
        ensure!(lost.is_none(), "lost {lost:?}");
        Ok(())
    })?;
    lab.down()
}

#[test]
fn tasks_of_a_cut_off_worker_run_elsewhere() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("cut", 1, 2)?;
    lab.load_image(&["m1", "w1", "w2"])?;
    lab.service("m1", "s", "--replicas 4 --constraint node.role==worker", &["sleep", "1000"])?;
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

    // Cut off for good: removed from the cluster, it ends what it still runs as soon as it hears of that.
    lab.shoal(&["cut", "w2"])?.ok()?;
    until(30, "all four run on w1", || {
        let here = lab.ok("w1", "ps -q")?.lines().count();
        ensure!(here == 4, "{here}");
        Ok(())
    })?;
    lab.ok("m1", "node rm w2")?;
    lab.shoal(&["mend", "w2"])?.ok()?;
    until(30, "the removed node's containers stop", || {
        let stale = lab.ok("w2", "ps -aq")?;
        ensure!(stale.is_empty(), "{stale}");
        Ok(())
    })?;
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
    lab.service("m1", "s", "--replicas 6 --network app", &["sleep", "1000"])?;
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

#[test]
fn a_worker_that_stops_starts_and_leaves_is_counted_right() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("leave", 1, 2)?;
    lab.load_image(&["m1", "w1", "w2"])?;
    lab.ok("m1", "network create -d overlay app")?;
    lab.service("m1", "g", "--mode global --network app", &["sleep", "1000"])?;
    lab.service("m1", "r", "--replicas 6 --network app", &["sleep", "1000"])?;
    converged(&lab, "m1", "g", "3/3")?;
    converged(&lab, "m1", "r", "6/6")?;
    for _ in 0..4 {
        lab.shoal(&["kill", "w2", "-9"])?.ok()?;
        state_of(&lab, "w2", "Down")?;
        converged(&lab, "m1", "g", "2/2")?;
        converged(&lab, "m1", "r", "6/6")?;
        lab.shoal(&["start", "w2"])?.ok()?;
        converged(&lab, "m1", "g", "3/3")?;
    }
    let errors = lab.ok("m1", "service ps g --no-trunc --format {{.Error}}")?;
    ensure!(errors.trim().is_empty(), "tasks were refused: {errors}");
    lab.ok("w1", "swarm leave")?;
    state_of(&lab, "w1", "Down")?;
    converged(&lab, "m1", "g", "2/2")?;
    converged(&lab, "m1", "r", "6/6")?;
    lab.ok("m1", "node rm w1")?;
    lab.down()
}

/// Waits until the cluster thinks so of a node.
fn state_of(lab: &Lab, host: &str, expected: &str) -> anyhow::Result<()> {
    until(30, &format!("{host} is {expected}"), || {
        let shown = lab.ok("m1", &format!("node ls --filter name={host} --format {{{{.Status}}}}"))?;
        ensure!(shown == expected, "{shown}");
        Ok(())
    })
    .map(drop)
}
