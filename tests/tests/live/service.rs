//! What people use a cluster for.

use anyhow::{Context, ensure};
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::until;

const HOSTS: [&str; 5] = ["m1", "m2", "m3", "w1", "w2"];
pub(crate) const PAGE: &str = "hostname > /www/index.html; exec httpd -f -vv -p 80 -h /www 2>&1";

/// Running tasks of a service, as `service ls` counts them.
pub(crate) fn replicas(lab: &Lab, host: &str, service: &str) -> anyhow::Result<String> {
    lab.ok(host, &format!("service ls --filter name={service} --format {{{{.Replicas}}}}"))
}

/// Waits until `service ls` shows this.
pub(crate) fn converged(lab: &Lab, host: &str, service: &str, expected: &str) -> anyhow::Result<()> {
    until(60, &format!("{service} at {expected}"), || {
        let shown = replicas(lab, host, service)?;
        ensure!(shown == expected, "{shown}");
        Ok(())
    })?;
    Ok(())
}

/// A page, as a host gets it.
pub(crate) fn fetch(lab: &Lab, from: &str, url: &str) -> anyhow::Result<String> {
    lab.on(from, &["timeout", "2", "busybox", "wget", "-q", "-O", "-", url])?.ok()
}

/// The address of a node, as the cluster knows it.
pub(crate) fn node_address(lab: &Lab, host: &str) -> anyhow::Result<String> {
    lab.ok(host, "info --format {{.Swarm.NodeAddr}}")
}

#[test]
fn a_service_runs_scales_rolls_and_goes() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("svc", 3, 2)?;
    lab.load_image(&HOSTS)?;
    ensure!(lab.ok("m2", "node ls -q")?.lines().count() == 5, "five nodes");
    lab.ok("m2", "network create -d overlay app")?;
    lab.service("m1", "web", "--replicas 3 -p 8080:80 --network app --rollback-parallelism 4", &["sh", "-c", PAGE])?;
    converged(&lab, "m3", "web", "3/3")?;

    // The routing mesh: any node answers, and all tasks are reached.
    for host in ["m1", "w2"] {
        let url = format!("http://{}:8080/", node_address(&lab, host)?);
        until(10, "the page through the mesh", || fetch(&lab, "m3", &url).map(drop))?;
        let mut seen: Vec<String> = (0..30).filter_map(|_| fetch(&lab, "m3", &url).ok()).collect();
        seen.sort();
        seen.dedup();
        ensure!(seen.len() == 3, "the mesh on {host} reaches {} of 3 tasks", seen.len());
    }

    // Through the follower's CLI, with its progress bar.
    let scaled = lab.ok("m2", "service scale web=8")?;
    ensure!(scaled.contains("converged"), "no progress: {scaled}");
    converged(&lab, "m1", "web", "8/8")?;
    // What docker says at its end is a race of its own (silent when the update was over before it saw the last task run).
    let updated =
        lab.ok("m1", "service update --update-parallelism 2 --update-monitor 200ms --env-add COLOUR=blue web")?;
    ensure!(updated.contains("overall progress: "), "no progress: {updated}");
    let state = lab.ok("m1", "service inspect web --format {{.UpdateStatus.State}}")?;
    ensure!(state == "completed", "update is {state}");
    let running = lab.ok("m1", "service ps web --filter desired-state=running -q")?;
    ensure!(running.lines().count() == 8, "eight tasks run");

    lab.ok("m1", "service rollback -d web")?;
    until(60, "the rollback", || {
        let state = lab.ok("m1", "service inspect web --format {{.UpdateStatus.State}}")?;
        ensure!(state == "rollback_completed", "{state}");
        Ok(())
    })?;
    let env = lab.ok("m1", "service inspect web --format {{.Spec.TaskTemplate.ContainerSpec.Env}}")?;
    ensure!(!env.contains("COLOUR"), "the rollback kept {env}");

    lab.ok("m1", "service rm web")?;
    lab.until_empty(&HOSTS)?;
    until(10, "the network can be removed", || lab.ok("m1", "network rm app").map(drop))?;
    lab.down()
}

#[test]
fn names_resolve_and_the_client_keeps_its_address() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("net", 1, 2)?;
    lab.load_image(&["m1", "w1", "w2"])?;
    lab.ok("m1", "network create -d overlay app")?;
    lab.service("m1", "web", "--replicas 3 --network app", &["sh", "-c", PAGE])?;
    lab.service("m1", "client", "--mode global --network app", &["sleep", "1000"])?;
    converged(&lab, "m1", "web", "3/3")?;
    converged(&lab, "m1", "client", "3/3")?;
    for host in ["m1", "w1", "w2"] {
        let client = lab.ok(host, "ps -q --filter label=com.docker.swarm.service.name=client")?;
        let inside = |line: &str| lab.docker(host, &["exec", &client, "sh", "-c", line])?.ok();
        until(10, "the name of the service", || {
            let all = inside("nslookup tasks.web 127.0.0.11 | grep -c '^Address.*10\\.'")?;
            ensure!(all == "3", "tasks.web has {all} addresses on {host}");
            Ok(())
        })?;
        let virtual_address = inside("nslookup web 127.0.0.11 | grep '^Address.*10\\.'")?;
        ensure!(virtual_address.lines().count() == 1, "one virtual address, not {virtual_address}");
        let mut seen: Vec<String> =
            (0..20).map(|_| inside("timeout 2 wget -q -O - http://web/")).collect::<Result<_, _>>()?;
        seen.sort();
        seen.dedup();
        ensure!(seen.len() == 3, "the virtual address reaches {} of 3 tasks from {host}", seen.len());
        // Each page is its server's host name, which leads to that server from everywhere.
        for name in &seen {
            let page = inside(&format!("timeout 2 wget -q -O - http://{name}/"))?;
            ensure!(page == *name, "{name} leads to {page} on {host}");
        }
        inside("ping -c 1 -W 2 web").with_context(|| format!("ping from {host}"))?;
        // The server writes down whom it answered: it must be the client itself, not a translator in between.
        let own = inside("ip -4 -o addr | grep -v ' lo ' | grep -o 'inet 10\\.0\\.[0-9.]*' | head -1")?;
        let own = own.trim_start_matches("inet ");
        until(10, "the client's address in the servers' logs", || {
            let logs = lab.docker("m1", &["service", "logs", "--raw", "web"])?.ok()?;
            ensure!(logs.contains(&format!("{own}]")) || logs.contains(&format!("{own}:")), "no {own} in {logs}");
            Ok(())
        })?;
    }
    lab.down()
}

#[test]
fn secrets_and_configs_reach_only_their_tasks() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("sec", 1, 1)?;
    lab.load_image(&["m1", "w1"])?;
    let create = |kind: &str, name: &str, data: &[u8]| {
        shoal_tests::command::run_with_input(lab.docker_command("m1", &[kind, "create", name, "-"]), data)?.ok()
    };
    create("secret", "password", b"xyzzy")?;
    create("config", "motd", b"hello")?;
    let template = lab.docker_command("m1", &["config", "create", "--template-driver", "golang", "page", "-"]);
    let text = b"{{.Service.Name}}.{{.Task.Slot}} of {{.Service.Labels.tier}}: {{secret \"password\"}} {{env \"A\"}}";
    shoal_tests::command::run_with_input(template, text)?.ok()?;
    let options =
        "--constraint node.role==worker --secret password --config motd --config page --label tier=front -e A=b";
    lab.service("m1", "s", options, &["sleep", "1000"])?;
    converged(&lab, "m1", "s", "1/1")?;
    let container = lab.ok("w1", "ps -q")?;
    ensure!(lab.ok("w1", &format!("exec {container} cat /run/secrets/password /motd"))? == "xyzzyhello");
    ensure!(lab.ok("w1", &format!("exec {container} cat /page"))? == "s.1 of front: xyzzy b");
    let mount = lab.ok("w1", &format!("exec {container} mount"))?;
    ensure!(mount.lines().any(|line| line.contains("/run/secrets") && line.contains("tmpfs")), "not a tmpfs: {mount}");
    let refused = lab.docker("m1", &["secret", "rm", "password"])?.refused()?;
    ensure!(refused.contains("in use"), "{refused}");
    lab.ok("m1", "service rm s")?;
    until(20, "the secret can be removed", || lab.ok("m1", "secret rm password").map(drop))?;
    lab.down()
}

#[test]
fn drain_promote_demote_and_global() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("nodes", 1, 2)?;
    lab.load_image(&["m1", "w1", "w2"])?;
    lab.service("m1", "g", "--mode global", &["sleep", "1000"])?;
    lab.service("m1", "r", "--replicas 4", &["sleep", "1000"])?;
    converged(&lab, "m1", "g", "3/3")?;
    converged(&lab, "m1", "r", "4/4")?;
    lab.ok("m1", "node update --availability drain w1")?;
    converged(&lab, "m1", "g", "2/2")?;
    converged(&lab, "m1", "r", "4/4")?;
    until(20, "w1 runs nothing", || {
        let left = lab.ok("w1", "ps -q")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    lab.ok("m1", "node update --availability active w1")?;
    converged(&lab, "m1", "g", "3/3")?;

    lab.ok("m1", "node promote w1")?;
    lab.ok("m1", "node promote w2")?;
    until(30, "three reachable managers", || {
        let status = lab.ok("w2", "node ls --format {{.ManagerStatus}}")?;
        ensure!(status.matches("Reachable").count() == 2 && status.contains("Leader"), "{status}");
        Ok(())
    })?;
    // The others see it before its own API does.
    until(10, "w1 answers as a manager", || lab.ok("w1", "node ls -q").map(drop))?;
    lab.ok("w1", "node demote w1")?;
    until(30, "w1 is a worker again", || {
        let refused = lab.docker("w1", &["node", "ls"])?.refused()?;
        ensure!(refused.contains("not a swarm manager"), "{refused}");
        Ok(())
    })?;
    converged(&lab, "m1", "g", "3/3")?;
    lab.down()
}

#[test]
fn a_failed_update_rolls_back() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("roll", 1, 1)?;
    lab.load_image(&["m1", "w1"])?;
    lab.service(
        "m1",
        "r",
        "--replicas 2 --update-failure-action rollback --update-monitor 500ms --restart-delay 200ms",
        &["sleep", "1000"],
    )?;
    converged(&lab, "m1", "r", "2/2")?;
    lab.docker("m1", &["service", "update", "-d", "--args", "false", "r"])?.ok()?;
    until(60, "the rollback", || {
        let state = lab.ok("m1", "service inspect r --format {{.UpdateStatus.State}}")?;
        ensure!(state == "rollback_completed", "{state}");
        Ok(())
    })?;
    converged(&lab, "m1", "r", "2/2")?;
    lab.down()
}

#[test]
fn logs_of_all_tasks_come_together() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("logs", 2, 1)?;
    lab.load_image(&["m1", "m2", "w1"])?;
    lab.service("m1", "l", "--mode global", &["sh", "-c", "echo started; exec sleep 1000"])?;
    converged(&lab, "m1", "l", "3/3")?;
    for host in ["m1", "m2"] {
        until(10, "three lines", || {
            let lines = lab.docker(host, &["service", "logs", "l"])?.ok()?;
            ensure!(lines.matches("started").count() == 3, "on {host}: {lines}");
            Ok(())
        })?;
    }
    lab.down()
}
