//! How fast a service is deployed and updated.

use std::time::Duration;

use anyhow::ensure;
use shoal_tests::image;
use shoal_tests::lab::Lab;
use shoal_tests::wait::{now, pause, until};

use crate::figures::{Docker, row, seconds};

const HOSTS: [&str; 5] = ["m1", "w1", "w2", "w3", "w4"];

/// The peer asks a registry for the image before each task, though it is there. Without this it would wait ten seconds for
/// the name of that registry each time; with it, it is told at once that there is no way to a name server.
fn refuse_names(lab: &Lab) -> anyhow::Result<()> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim);
    for server in servers.filter(|server| server.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| !ip.is_loopback())) {
        for host in HOSTS {
            lab.on(host, &["ip", "route", "replace", "unreachable", server])?.ok()?;
        }
    }
    Ok(())
}

/// 100 replicas on four workers, and an update of 60 tasks.
pub(crate) fn measure() -> anyhow::Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The peer's tasks here use no network, and its virtual addresses need IPVS: its firewall and bridge are left out.
    let peer_arguments =
        ["--engine", "dockerd", "--daemon-argument=--iptables=false", "--daemon-argument=--bridge=none"];
    for (name, arguments, figures) in
        [("bench-deploy", &[][..], &mut ours), ("peer-deploy", &peer_arguments[..], &mut theirs)]
    {
        let lab = Lab::up_with(name, 1, 4, arguments)?;
        lab.load_image(&HOSTS)?;
        refuse_names(&lab)?;
        figures.extend(deploy_on(&|args| lab.docker("m1", args))?);
        println!("{name:<44} {:>9.3} s deployed, {:.3} s updated", figures[0], figures[1]);
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
            // Not zero: zero asks for the default, five seconds, on both sides.
            "--update-monitor",
            "1ns",
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
