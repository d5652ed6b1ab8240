//! Containers that are no tasks, on attachable networks.

use anyhow::ensure;
use shoal_tests::image::NAME;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::until;

use crate::service::{PAGE, converged};
use crate::survive::leader;

/// A container's address on a network, as its own host shows it; empty without one.
fn address(lab: &Lab, host: &str, container: &str) -> anyhow::Result<String> {
    let format = "{{with (index .NetworkSettings.Networks \"app\")}}{{.IPAddress}}{{end}}";
    lab.docker(host, &["inspect", container, "--format", format])?.ok()
}

fn inside(lab: &Lab, host: &str, container: &str, line: &str) -> anyhow::Result<String> {
    lab.docker(host, &["exec", container, "sh", "-c", line])?.ok()
}

/// Waits until a name is reached from a container.
fn reaches(lab: &Lab, host: &str, container: &str, name: &str) -> anyhow::Result<()> {
    until(10, &format!("{name} from {container} on {host}"), || {
        let said = inside(lab, host, container, &format!("ping -c 1 -W 2 {name}"))?;
        ensure!(said.contains(" 0% packet loss"), "{said}");
        Ok(())
    })
    .map(drop)
}

fn run(lab: &Lab, host: &str, name: &str, flags: &str) -> anyhow::Result<String> {
    lab.ok(host, &format!("run -d --name {name} --stop-timeout 0 {flags} {NAME} sleep 1000"))
}

#[test]
fn containers_join_services_on_any_node_and_keep_their_addresses() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("attach", 3, 2)?;
    lab.load_image(&["m1", "m2", "m3", "w1", "w2"])?;
    lab.ok("m1", "network create -d overlay --attachable app")?;
    lab.ok("m1", "network create -d overlay closed")?;
    lab.service("m1", "web", "--replicas 2 --network app --constraint node.role==manager", &["sh", "-c", PAGE])?;
    converged(&lab, "m1", "web", "2/2")?;
    ensure!(!lab.ok("w1", "network ls --format {{.Name}}")?.contains("app"), "a worker knows what it has no part in");

    // On a worker and on a manager: services, tasks, and each other, by name.
    run(&lab, "w1", "one", "--network app --network-alias first")?;
    run(&lab, "m2", "two", "--network app")?;
    for (host, container, other) in [("w1", "one", "two"), ("m2", "two", "one"), ("m2", "two", "first")] {
        reaches(&lab, host, container, other)?;
        until(10, "the service's page", || {
            let page = inside(&lab, host, container, "timeout 2 wget -q -O - http://web/")?;
            ensure!(!page.is_empty(), "nothing");
            Ok(())
        })?;
        let all = inside(&lab, host, container, "nslookup tasks.web 127.0.0.11 | grep -c '^Address.*10\\.'")?;
        ensure!(all == "2", "tasks.web has {all} addresses on {host}");
    }
    let on = lab.ok("m1", "service ps web --filter desired-state=running --format {{.Node}}")?;
    let on = on.lines().next().unwrap_or_default();
    let task = lab.ok(on, "ps -q --filter label=com.docker.swarm.service.name=web")?;
    reaches(&lab, on, task.lines().next().unwrap_or_default(), "one")?;
    ensure!(lab.ok("w1", "network ls --format {{.Name}}:{{.Scope}}")?.contains("app:swarm"));
    let shown = lab.docker("w1", &["network", "inspect", "app", "--format", "{{json .Containers}}"])?.ok()?;
    ensure!(shown.contains("\"one\"") && !shown.contains("\"two\""), "the containers of this node: {shown}");
    ensure!(lab.get("m1", "/tasks")?.as_array().is_some_and(|tasks| tasks.len() == 2), "an attachment is no task");

    lab.ok("m2", "rename two second")?;
    reaches(&lab, "w1", "one", "second")?;

    // What is refused, and how.
    let refused = |host: &str, flags: &str| -> anyhow::Result<String> {
        let line = format!("run --rm {flags} {NAME} true");
        lab.docker(host, &line.split_whitespace().collect::<Vec<_>>())?.refused()
    };
    for host in ["m1", "w2"] {
        let said = refused(host, "--network closed")?;
        let words = "Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not manually attachable";
        ensure!(said.contains(words), "{said}");
        let said = refused(host, "--network nosuch")?;
        ensure!(said.contains("network nosuch not found"), "{said}");
    }
    let one = address(&lab, "w1", "one")?;
    let said = refused("w2", &format!("--network app --ip {one}"))?;
    ensure!(said.contains(&format!("address {one} is already in use")), "{said}");
    let said = refused("w2", "--network app --ip 10.250.0.9")?;
    ensure!(said.contains("not in the subnet"), "{said}");
    let said = lab.docker("m1", &["network", "rm", "app"])?.refused()?;
    ensure!(said.contains("network app is in use by container"), "{said}");
    let said = lab.docker("w1", &["network", "connect", "app", "one"])?.refused()?;
    ensure!(said.contains("already attached to network app"), "{said}");

    // Another leader hands out nothing twice, and gives what is asked for.
    let old = leader(&lab, "m1")?;
    let other = if old == "m1" { "m2" } else { "m1" };
    lab.shoal(&["kill", &old, "-9"])?.ok()?;
    run(&lab, "w2", "three", "--network app")?;
    let three = address(&lab, "w2", "three")?;
    ensure!(![one.clone(), address(&lab, "m2", "second").unwrap_or_default()].contains(&three), "{three} twice");
    reaches(&lab, "w2", "three", "one")?;
    lab.shoal(&["start", &old])?.ok()?;
    until(20, "a leader", || leader(&lab, other).map(drop))?;

    // Off and on again, elsewhere, and with a chosen address that somebody had before.
    lab.ok("w1", "network disconnect app one")?;
    let left = inside(&lab, "w1", "one", "ip -o link; ping -c 1 -W 1 second || true")?;
    ensure!(address(&lab, "w1", "one")?.is_empty() && !left.contains("eth"), "still connected: {left}");
    run(&lab, "w2", "heir", &format!("--network app --ip {one}"))?;
    ensure!(address(&lab, "w2", "heir")? == one, "an address that was given back");
    lab.ok("w1", "network connect --alias again app one")?;
    reaches(&lab, "w2", "heir", "again")?;
    reaches(&lab, "w1", "one", "heir")?;

    lab.ok("w1", "rm -f one")?;
    lab.ok("w2", "rm -f three heir")?;
    lab.ok("m2", "rm -f second")?;
    lab.ok("m1", "service rm web")?;
    until(20, "the network can be removed", || lab.ok("m1", "network rm app").map(drop))?;
    until(10, "the worker has forgotten it", || {
        ensure!(!lab.ok("w1", "network ls --format {{.Name}}")?.contains("app"));
        Ok(())
    })?;
    lab.down()
}

#[test]
fn places_outlive_daemons_and_go_with_their_containers() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("places", 1, 2)?;
    lab.load_image(&["m1", "w1", "w2"])?;
    lab.ok("m1", "network create -d overlay --attachable app")?;
    run(&lab, "m1", "probe", "--network app")?;
    run(&lab, "w1", "stays", "--network app --restart always")?;
    run(&lab, "w1", "dies", "--network app")?;
    run(&lab, "w1", "removed", "--network app --rm")?;
    let (stays, dies) = (address(&lab, "w1", "stays")?, address(&lab, "w1", "dies")?);
    let removed = address(&lab, "w1", "removed")?;
    reaches(&lab, "m1", "probe", "stays")?;

    // A restart keeps the address; so does one by policy, also while no manager answers.
    lab.ok("w1", "restart -t 0 stays")?;
    ensure!(address(&lab, "w1", "stays")? == stays, "another address after a restart");
    lab.shoal(&["kill", "m1", "-9"])?.ok()?;
    let pid = |container: &str| lab.ok("w1", &format!("inspect {container} --format {{{{.State.Pid}}}}"));
    let before = pid("stays")?;
    lab.on("w1", &["kill", "-9", &before])?.ok()?;
    until(10, "the restart by policy", || {
        let now = pid("stays")?;
        ensure!(now != before && now != "0", "pid {now}");
        Ok(())
    })?;
    ensure!(address(&lab, "w1", "stays")? == stays, "another address without a manager");
    lab.shoal(&["start", "m1"])?.ok()?;

    // The daemon dies, and some containers while it is away.
    let (dead, gone) = (pid("dies")?, pid("removed")?);
    lab.shoal(&["kill", "w1", "-9"])?.ok()?;
    for process in [dead, gone] {
        lab.on("w1", &["kill", "-9", &process])?.ok()?;
    }
    lab.shoal(&["start", "w1"])?.ok()?;
    reaches(&lab, "m1", "probe", "stays")?;
    ensure!(address(&lab, "w1", "stays")? == stays, "another address after the daemon's death");
    for (name, addr) in [("heir1", &dies), ("heir2", &removed)] {
        until(20, "the address of a container that died unseen", || {
            lab.docker("w2", &["rm", "-f", name])?;
            run(&lab, "w2", name, &format!("--network app --ip {addr}")).map(drop)
        })?;
    }
    reaches(&lab, "w1", "stays", "heir1")?;

    // After the machine's restart, as far as a container can tell, and before any manager answers: it waits for its place.
    let process = pid("stays")?;
    lab.shoal(&["kill", "m1", "-9"])?.ok()?;
    lab.shoal(&["kill", "w1", "-9"])?.ok()?;
    lab.on("w1", &["kill", "-9", &process])?.ok()?;
    lab.shoal(&["start", "w1"])?.ok()?;
    let state = lab.ok("w1", "inspect stays --format {{.State.Status}}")?;
    ensure!(state == "restarting", "it is {state}");
    lab.shoal(&["start", "m1"])?.ok()?;
    until(30, "the start with the daemon", || {
        let now = address(&lab, "w1", "stays")?;
        ensure!(now == stays, "address {now:?}");
        Ok(())
    })?;
    reaches(&lab, "m1", "probe", "stays")?;

    // A node that leaves takes its containers off, and its addresses are free.
    lab.ok("w1", "swarm leave")?;
    ensure!(inside(&lab, "w1", "stays", "ip -4 -o addr").is_ok_and(|shown| !shown.contains(&stays)), "still on it");
    run(&lab, "w2", "heir3", &format!("--network app --ip {stays}"))?;
    reaches(&lab, "m1", "probe", "heir3")?;
    lab.ok("w1", "rm -f stays dies")?;
    lab.ok("w2", "stop heir1 heir2 heir3")?;
    lab.ok("m1", "rm -f probe")?;
    lab.ok("m1", "network rm app")?;
    lab.down()
}
