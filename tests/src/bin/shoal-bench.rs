//! Benchmarks: figures as ratios to Debian's dockerd, measured in turn on the same machine in the same run.
//!
//! Usage: `shoal-bench [deploy] [run] [failover]`; without an argument all of them.

use std::time::Duration;

use anyhow::{Context, ensure};
use shoal_tests::command::Said;
use shoal_tests::image;
use shoal_tests::lab::Lab;
use shoal_tests::wait::{now, pause, until};

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let run = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if run("run") {
        start_speed()?;
    }
    if run("deploy") {
        deploy_speed()?;
    }
    if run("failover") {
        failover()?;
    }
    Ok(())
}

/// The docker CLI, talking to one side.
type Docker<'a> = &'a dyn Fn(&[&str]) -> anyhow::Result<Said>;

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn row(what: &str, ours: f64, peer: f64, unit: &str) {
    println!("{what:<44} {ours:>9.3} {unit}   dockerd {peer:>9.3} {unit}   ratio {:>6.1}x", peer / ours);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn time(docker: Docker<'_>, args: &[&str]) -> anyhow::Result<f64> {
    let begin = now();
    docker(args)?.ok().with_context(|| args.join(" "))?;
    Ok(seconds(begin.elapsed()))
}

/// `run --rm … true`, A B A B, and exec into a running container.
fn start_speed() -> anyhow::Result<()> {
    let lab = Lab::up_with("bench-run", 1, 0, &["--no-cluster"])?;
    let peer = Lab::up_with("peer-run", 1, 0, &["--engine", "dockerd", "--no-cluster"])?;
    lab.load_image(&["m1"])?;
    peer.load_image(&["m1"])?;
    let ours = |args: &[&str]| lab.docker("m1", args);
    let theirs = |args: &[&str]| peer.docker("m1", args);
    let run = ["run", "--rm", image::NAME, "true"];
    let start = ["run", "-d", "--name", "x", image::NAME, "sleep", "1000"];
    let exec = ["exec", "x", "true"];
    for side in [&ours as Docker<'_>, &theirs as Docker<'_>] {
        side(&start)?.ok()?;
        for _ in 0..3 {
            side(&run)?.ok()?;
        }
    }
    // The CLI's own start is part of what a user waits for, and the same on both sides: shown, not subtracted.
    let floor = median((0..20).map(|_| time(&ours, &["context", "show"])).collect::<Result<_, _>>()?);
    println!("{:<44} {floor:>9.3} s", "the docker CLI alone");
    for (what, args) in [("docker run --rm true, default bridge", &run[..]), ("docker exec true", &exec[..])] {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            a.push(time(&ours, args)?);
            b.push(time(&theirs, args)?);
        }
        row(what, median(a), median(b), "s");
    }
    lab.down()?;
    peer.down()
}

/// 100 replicas on four workers, and an update of 60 tasks.
fn deploy_speed() -> anyhow::Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The peer's tasks here use no network, and its virtual addresses need IPVS: its firewall and bridge are left out.
    let peer_arguments =
        ["--engine", "dockerd", "--daemon-argument=--iptables=false", "--daemon-argument=--bridge=none"];
    for (name, arguments, figures) in
        [("bench-deploy", &[][..], &mut ours), ("peer-deploy", &peer_arguments[..], &mut theirs)]
    {
        let lab = Lab::up_with(name, 1, 4, arguments)?;
        lab.load_image(&["m1", "w1", "w2", "w3", "w4"])?;
        figures.extend(deploy_on(&|args| lab.docker("m1", args))?);
        lab.down()?;
    }
    row("100 replicas on 4 workers, all running", ours[0], theirs[0], "s");
    row("rolling update of 60 tasks, 10 at a time", ours[1], theirs[1], "s");
    Ok(())
}

fn deploy_on(docker: Docker<'_>) -> anyhow::Result<[f64; 2]> {
    let create = |name: &str, replicas: &str| {
        docker(&[
            "service",
            "create",
            "-d",
            "--name",
            name,
            "--replicas",
            replicas,
            "--constraint",
            "node.role==worker",
            "--stop-grace-period",
            "0s",
            "--update-parallelism",
            "10",
            "--update-delay",
            "0s",
            "--update-monitor",
            "0s",
            image::NAME,
            "sleep",
            "100000",
        ])?
        .ok()
    };
    let running = |name: &str, expected: &str| {
        until(300, expected, || {
            let shown =
                docker(&["service", "ls", "--filter", &format!("name={name}"), "--format", "{{.Replicas}}"])?.ok()?;
            ensure!(shown == expected, "{shown}");
            Ok(())
        })
    };
    let begin = now();
    create("hundred", "100")?;
    running("hundred", "100/100")?;
    let deployed = seconds(begin.elapsed());
    docker(&["service", "rm", "hundred"])?.ok()?;
    create("sixty", "60")?;
    running("sixty", "60/60")?;
    pause(Duration::from_secs(5));
    let begin = now();
    docker(&["service", "update", "-d", "--env-add", "A=b", "sixty"])?.ok()?;
    until(300, "the update completes", || {
        let state = docker(&["service", "inspect", "sixty", "--format", "{{.UpdateStatus.State}}"])?.ok()?;
        ensure!(state == "completed", "{state}");
        Ok(())
    })?;
    let updated = seconds(begin.elapsed());
    docker(&["service", "rm", "sixty"])?.ok()?;
    Ok([deployed, updated])
}

/// 20 times: the leader is killed; when is the next write accepted? And a worker is cut off; when do its tasks run elsewhere?
fn failover() -> anyhow::Result<()> {
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
