//! Small things that dockerd does, and people rely on.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use shoal_tests::command::run;
use shoal_tests::image::NAME;
use shoal_tests::lab::{Lab, binary, live};
use shoal_tests::wait::{pause, until};

use super::service::converged;

/// The container of a service's only task on a host.
fn container(lab: &Lab, host: &str, service: &str) -> anyhow::Result<String> {
    lab.ok(host, &format!("ps -q --no-trunc --filter label=com.docker.swarm.service.name={service}"))
}

#[test]
fn placeholders_limits_and_the_default_log_driver() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("parity", 1, 0)?;
    lab.load_image(&["m1"])?;
    let swarm = lab.get("m1", "/swarm")?;
    let mut changed = swarm["Spec"].clone();
    changed["TaskDefaults"] = json!({ "LogDriver": { "Name": "json-file", "Options": { "max-file": "3" } } });
    let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
    let (status, answer) = lab.request("POST", "m1", &path, &changed.to_string())?;
    ensure!(status == 200, "{status} {answer}");

    let spec = json!({
        "Name": "web",
        "Labels": { "tier": "front", "a.b": "dotted" },
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": NAME,
                "Args": ["sleep", "1000"],
                "Env": [
                    "TIER={{.Service.Labels.tier}}",
                    "DOTTED={{index .Service.Labels \"a.b\"}}",
                    "TRIMMED=x {{- .Task.Slot -}} y",
                ],
                "HealthCheck": { "Test": ["CMD", "true"], "Interval": 1_000_000_000_u64 },
            },
            "Resources": {
                "Limits": { "NanoCPUs": 64_000_000_000_u64, "MemoryBytes": 64 << 20 },
                "Reservations": { "MemoryBytes": 128 << 20 },
            },
        },
    });
    let (status, answer) = lab.request("POST", "m1", "/services/create", &spec.to_string())?;
    ensure!(status == 201, "{status} {answer}");
    converged(&lab, "m1", "web", "1/1")?;
    let inspected = lab.get("m1", &format!("/containers/{}/json", container(&lab, "m1", "web")?))?;
    let env = &inspected["Config"]["Env"];
    for pair in ["TIER=front", "DOTTED=dotted", "TRIMMED=x1y"] {
        ensure!(env.as_array().is_some_and(|all| all.contains(&json!(pair))), "{pair}: {env}");
    }
    let host = &inspected["HostConfig"];
    ensure!(host["CpuPeriod"] == 100_000 && host["CpuQuota"] == 6_400_000, "{host}");
    ensure!(host["MemoryReservation"] == 0, "a reservation reached the cgroup: {host}");
    ensure!(host["LogConfig"]["Config"]["max-file"] == "3", "{host}");
    ensure!(inspected["Config"]["Healthcheck"]["Test"][0] == "CMD", "the health check was dropped");

    let least = ["service", "create", "-d", "--name", "least", "--limit-cpu", "0.001", NAME, "sleep", "1000"];
    lab.docker("m1", &least)?.ok()?;
    converged(&lab, "m1", "least", "1/1")?;
    lab.down()
}

#[test]
fn overlays_are_seen_where_they_are_used() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("overlays", 1, 2)?;
    lab.load_image(&["m1", "w1", "w2"])?;
    lab.ok("m1", "network create -d overlay front")?;
    for host in ["m1", "w1"] {
        let constraint = format!("node.hostname=={host}");
        let create =
            ["service", "create", "-d", "--name", host, "--network", "front", "--constraint", &constraint, NAME];
        lab.docker("m1", &[&create[..], &["sleep", "1000"]].concat())?.ok()?;
        converged(&lab, "m1", host, "1/1")?;
        let shown = lab.get(host, "/networks/front")?;
        let containers = shown["Containers"].as_object().context("no containers")?;
        ensure!(containers.contains_key(&container(&lab, host, host)?), "{host}: {shown}");
        ensure!(shown["Scope"] == "swarm" && shown["Driver"] == "overlay", "{host}: {shown}");
        ensure!(lab.ok(host, "network ls --filter scope=swarm --format {{.Name}}")?.contains("front"), "{host}");
    }
    // It has no task on that network, so it does not know it.
    ensure!(lab.request("GET", "w2", "/networks/front", "")?.0 == 404, "w2 knows a network that it does not use");
    lab.down()
}

#[test]
fn a_cluster_may_use_another_port_for_overlays() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("data-port", 1, 1, &["--no-cluster"])?;
    lab.load_image(&["m1", "w1"])?;
    let line = lab.on("m1", &["ip", "-4", "-o", "addr", "show", "dev", "eth0"])?.ok()?;
    let address = line.split_whitespace().nth(3).and_then(|cidr| cidr.split('/').next()).context("no address")?;
    lab.ok("m1", &format!("swarm init --advertise-addr {address} --data-path-port 7789"))?;
    let token = lab.ok("m1", "swarm join-token -q worker")?;
    lab.ok("w1", &format!("swarm join --token {token} {address}:2377"))?;
    lab.ok("m1", "network create -d overlay app")?;
    for host in ["m1", "w1"] {
        let constraint = format!("node.hostname=={host}");
        let create = ["service", "create", "-d", "--name", host, "--network", "app", "--constraint", &constraint, NAME];
        lab.docker("m1", &[&create[..], &["sleep", "1000"]].concat())?.ok()?;
        converged(&lab, "m1", host, "1/1")?;
    }
    let inside = container(&lab, "m1", "m1")?;
    until(10, "a ping through the overlay", || {
        lab.ok("m1", &format!("exec {inside} ping -c 1 -W 1 tasks.w1")).map(drop)
    })?;
    // What is paused is taken away like anything else.
    lab.ok("m1", &format!("pause {inside}"))?;
    lab.down()
}

#[test]
fn a_rollback_that_is_complete_is_success() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("rollback", 1, 0)?;
    lab.load_image(&["m1"])?;
    lab.ok("m1", &format!("service create -d --name web {NAME} sleep 1000"))?;
    converged(&lab, "m1", "web", "1/1")?;
    let socket = lab.socket("m1");
    let update = |flags: &[&str]| {
        let args = [&["--host", &socket, "service", "update", "-q"], flags, &["web"]].concat();
        run(&binary(), &args)
    };
    update(&["--update-monitor", "200ms", "--rollback-monitor", "200ms", "--env-add", "A=1"])?.ok()?;
    update(&["--rollback"])?.ok().context("a rollback that is complete")?;
    let state = lab.ok("m1", "service inspect web --format {{.UpdateStatus.State}}")?;
    ensure!(state == "rollback_completed", "{state}");
    lab.down()
}

#[test]
fn logs_are_followed_through_a_restart_of_the_nodes_daemon() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("follow", 1, 1)?;
    lab.load_image(&["m1", "w1"])?;
    let count = "n=0; while true; do n=$((n+1)); echo line $n; sleep 0.2; done";
    let create =
        ["service", "create", "-d", "--name", "talk", "--constraint", "node.hostname==w1", NAME, "sh", "-c", count];
    lab.docker("m1", &create)?.ok()?;
    converged(&lab, "m1", "talk", "1/1")?;
    let mut following = lab
        .docker_command("m1", &["service", "logs", "-f", "--raw", "talk"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    pause(Duration::from_secs(1));
    lab.shoal(&["kill", "w1", "-9"])?.ok()?;
    lab.shoal(&["start", "w1"])?.ok()?;
    pause(Duration::from_secs(5));
    let seen_until: u64 = lab
        .ok("m1", "service logs --raw --tail 1 talk")?
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.trim().parse().ok())
        .max()
        .context("no last line")?;
    pause(Duration::from_secs(1));
    following.kill()?;
    let mut text = String::new();
    following.stdout.take().context("no output")?.read_to_string(&mut text)?;
    drop(following.wait());
    let numbers: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("line ")?.trim().parse().ok()).collect();
    ensure!(numbers.last().is_some_and(|last| *last >= seen_until), "cut off at {:?}: {text}", numbers.last());
    let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    ensure!(gap.is_none(), "a line was lost or told twice at {gap:?}");
    lab.down()
}
