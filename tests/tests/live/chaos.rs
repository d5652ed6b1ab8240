//! Failures in any order, on one cluster that has to find its way back each time.
//!
//! `SHOAL_CHAOS_ROUNDS` and `SHOAL_CHAOS_SEED` choose how many and which; a failed run names its seed.

use std::fmt::Write as _;

use anyhow::{Context, ensure};
use serde_json::Value;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::{pause, until};

use crate::service::{PAGE, fetch, node_address};

const HOSTS: [&str; 5] = ["m1", "m2", "m3", "w1", "w2"];
const MANAGERS: [&str; 3] = ["m1", "m2", "m3"];
/// Time to find back: a node counts as down, its tasks as lost, and images and ports are where they were.
const SETTLE_SECONDS: u64 = 90;

#[derive(Debug, Clone, Copy)]
enum Blow {
    /// One daemon is asked to stop, and started again at once.
    Restart,
    /// One daemon is killed, and started again after the cluster has noticed.
    Kill,
    /// The leader is killed while a service is being updated.
    KillLeader,
    /// All daemons are killed at the same time.
    Blackout,
    /// One node is cut off until its tasks run elsewhere.
    Cut,
    /// The leader leaves by force, and joins again.
    LeaderLeaves,
    /// A worker leaves, and joins again.
    WorkerLeaves,
    /// All packet rules of one host are flushed.
    Flush,
    /// Every task is replaced.
    Force,
}

const BLOWS: [Blow; 9] = [
    Blow::Restart,
    Blow::Kill,
    Blow::KillLeader,
    Blow::Blackout,
    Blow::Cut,
    Blow::LeaderLeaves,
    Blow::WorkerLeaves,
    Blow::Flush,
    Blow::Force,
];

/// Choices that can be repeated.
struct Choices(u64);

impl Choices {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_cluster_finds_back_from_any_order_of_failures() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let rounds = number("SHOAL_CHAOS_ROUNDS").unwrap_or(6);
    let seed = number("SHOAL_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 0x9e37_79b9 + 1);
    let mut choices = Choices(seed.max(1));
    let lab = Lab::up("chaos", 3, 2)?;
    lab.load_image(&HOSTS)?;
    lab.ok("m1", "network create -d overlay app")?;
    let host_port = "--mode global --network app --publish mode=host,published=9090,target=80";
    lab.service("m1", "g", host_port, &["sh", "-c", PAGE])?;
    lab.service("m1", "r", "--replicas 6 --network app -p 8080:80 --update-parallelism 3", &["sh", "-c", PAGE])?;
    settled(&lab).with_context(|| format!("at the start: {}", report(&lab)))?;
    for round in 0..rounds {
        // Two blows in a row, without waiting, are more than one.
        let blows = [choices.of(&BLOWS), choices.of(&BLOWS)];
        eprintln!("seed {seed}, round {round}: {blows:?}");
        for blow in blows {
            strike(&lab, blow, &mut choices).with_context(|| {
                format!("seed {seed}, round {round}, {blows:?}, while striking {blow:?}\n{}", report(&lab))
            })?;
        }
        settled(&lab).with_context(|| format!("seed {seed}, round {round}, {blows:?}\n{}", report(&lab)))?;
    }
    lab.down()
}

fn strike(lab: &Lab, blow: Blow, choices: &mut Choices) -> anyhow::Result<()> {
    match blow {
        Blow::Restart => restart(lab, choices.of(&HOSTS), &[]),
        Blow::Kill => {
            let host = choices.of(&HOSTS);
            lab.shoal(&["kill", host, "-9"])?.ok()?;
            pause(std::time::Duration::from_millis(500 * choices.below(8) as u64));
            lab.shoal(&["start", host])?.ok().map(drop)
        }
        Blow::KillLeader => {
            let (leader, ask) = leader(lab)?;
            force(lab, ask, "r")?;
            restart(lab, leader, &["-9"])
        }
        Blow::Blackout => {
            for host in HOSTS {
                lab.shoal(&["kill", host, "-9"])?.ok()?;
            }
            for host in HOSTS {
                lab.shoal(&["start", host])?.ok()?;
            }
            Ok(())
        }
        Blow::Cut => {
            let host = choices.of(&HOSTS);
            lab.shoal(&["cut", host])?.ok()?;
            pause(std::time::Duration::from_millis(500 * choices.below(12) as u64));
            lab.shoal(&["mend", host])?.ok().map(drop)
        }
        Blow::LeaderLeaves => {
            let (leader, ask) = leader(lab)?;
            leave_and_join(lab, leader, ask, "manager")
        }
        Blow::WorkerLeaves => {
            let (_, ask) = leader(lab)?;
            leave_and_join(lab, choices.of(&["w1", "w2"]), ask, "worker")
        }
        Blow::Flush => lab.on(choices.of(&HOSTS), &["nft", "flush", "ruleset"])?.ok().map(drop),
        Blow::Force => {
            let (_, ask) = leader(lab)?;
            force(lab, ask, "g")?;
            force(lab, ask, "r")
        }
    }
}

fn restart(lab: &Lab, host: &str, how: &[&str]) -> anyhow::Result<()> {
    let mut args = vec!["kill", host];
    args.extend(how);
    lab.shoal(&args)?.ok()?;
    lab.shoal(&["start", host])?.ok().map(drop)
}

/// Refused while an update is being written by the planner at the same moment: asked again.
fn force(lab: &Lab, ask: &str, service: &str) -> anyhow::Result<()> {
    until(30, "the update is accepted", || lab.ok(ask, &format!("service update -d --force {service}")).map(drop))
        .map(drop)
}

/// The leader, and a manager that is not.
fn leader(lab: &Lab) -> anyhow::Result<(&'static str, &'static str)> {
    let mut found = None;
    until(SETTLE_SECONDS, "a leader", || {
        for ask in MANAGERS {
            let Ok(nodes) = lab.ok(ask, "node ls --format {{.Hostname}}={{.ManagerStatus}}") else { continue };
            let leads = |host: &&&str| nodes.lines().any(|line| line == format!("{host}=Leader"));
            if let Some(leader) = MANAGERS.iter().find(leads) {
                found = MANAGERS.iter().find(|host| *host != leader).map(|other| (*leader, *other));
                return Ok(());
            }
        }
        anyhow::bail!("no manager knows of one")
    })?;
    found.context("no leader")
}

fn leave_and_join(lab: &Lab, host: &str, ask: &str, role: &str) -> anyhow::Result<()> {
    // Two of three managers must be left, and able to write.
    until(SETTLE_SECONDS, "every manager is reachable", || managers_reachable(lab, ask))?;
    let id = lab.ok(host, "info --format {{.Swarm.NodeID}}")?;
    lab.ok(host, "swarm leave --force")?;
    // The members know of it at once or when they miss it.
    until(SETTLE_SECONDS, "the old node is removed", || {
        let gone = lab.ok(ask, "node ls -q")?.lines().all(|line| line != id);
        if gone { Ok(()) } else { lab.ok(ask, &format!("node rm --force {id}")).map(drop) }
    })?;
    let token = lab.ok(ask, &format!("swarm join-token -q {role}"))?;
    let address = node_address(lab, ask)?;
    until(SETTLE_SECONDS, "it joins again", || {
        lab.ok(host, &format!("swarm join --advertise-addr eth0 --token {token} {address}:2377")).map(drop)
    })
    .map(drop)
}

fn managers_reachable(lab: &Lab, ask: &str) -> anyhow::Result<()> {
    let status = lab.ok(ask, "node ls --format {{.ManagerStatus}}")?;
    ensure!(status.matches("Reachable").count() == 2 && status.matches("Leader").count() == 1, "{status}");
    Ok(())
}

/// Waits until everything is as it was asked for, from every point of view.
fn settled(lab: &Lab) -> anyhow::Result<()> {
    let mut addresses = Vec::new();
    for host in HOSTS {
        until(SETTLE_SECONDS, "a node knows its address", || {
            let address = node_address(lab, host)?;
            ensure!(!address.is_empty(), "{host} has none");
            addresses.push(address);
            Ok(())
        })?;
    }
    until(SETTLE_SECONDS, "the cluster is as it should be", || {
        let ready = lab.ok("m1", "node ls --format {{.Hostname}}={{.Status}}")?;
        ensure!(ready.lines().filter(|line| line.ends_with("=Ready")).count() == HOSTS.len(), "{ready}");
        managers_reachable(lab, "m2")?;
        tasks_run(lab)
    })?;
    for (host, address) in HOSTS.iter().zip(&addresses) {
        for port in [9090, 8080] {
            let url = format!("http://{address}:{port}/");
            let from = if *host == "w1" { "w2" } else { "w1" };
            until(SETTLE_SECONDS, "a published port answers", || fetch(lab, from, &url).map(drop))
                .with_context(|| format!("{url} of {host} from {from}"))?;
        }
    }
    Ok(())
}

/// One running task of `g` a node, six of `r`, all others gone, and just their containers on the hosts.
fn tasks_run(lab: &Lab) -> anyhow::Result<()> {
    let services = lab.ok("m3", "service ls --format {{.Name}}={{.Replicas}}")?;
    ensure!(services.contains("g=5/5") && services.contains("r=6/6"), "{services}");
    let tasks = lab.get("m1", "/tasks")?;
    let tasks = tasks.as_array().context("no list")?;
    let wanted: Vec<&Value> = tasks.iter().filter(|task| task["DesiredState"] == "running").collect();
    ensure!(wanted.len() == 11, "{} tasks are to run", wanted.len());
    ensure!(wanted.iter().all(|task| task["Status"]["State"] == "running"), "not all of them run");
    let mut containers = Vec::new();
    for host in HOSTS {
        containers.extend(lab.ok(host, "ps -q --no-trunc")?.lines().map(str::to_owned));
    }
    let known = |id: &String| wanted.iter().any(|task| task["Status"]["ContainerStatus"]["ContainerID"] == id.as_str());
    ensure!(containers.len() == 11, "{} containers run", containers.len());
    ensure!(containers.iter().all(known), "other containers run than those of the tasks");
    Ok(())
}

/// All that is known of the tasks that are not as they should be.
fn report(lab: &Lab) -> String {
    let mut out = String::new();
    for ask in MANAGERS {
        let Ok(nodes) = lab.ok(ask, "node ls") else { continue };
        let _ = writeln!(out, "{nodes}");
        let tasks = lab.get(ask, "/tasks").unwrap_or_default();
        for task in tasks.as_array().into_iter().flatten() {
            let (desired, status) = (&task["DesiredState"], &task["Status"]);
            if *desired != status["State"] && (*desired == "running" || status["State"] == "running") {
                let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
                let _ = writeln!(
                    out,
                    "task {} on {} wants {}: {status}",
                    text(&task["ID"]),
                    text(&task["NodeID"]),
                    text(desired)
                );
            }
        }
        break;
    }
    for host in HOSTS {
        let shown = lab.docker(host, &["ps", "-a", "--format", "{{.ID}} {{.Names}} {{.Status}}"]);
        let _ = writeln!(out, "{host}: {}", shown.map_or_else(|error| error.to_string(), |said| said.out + &said.err));
    }
    out
}
