//! The daemon is killed at any instant of any operation: what it acknowledged is there afterwards, and what was half done
//! leaves nothing on the host.
//!
//! `SHOAL_KILLS` chooses how often.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use shoal_tests::command::run;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::{pause, until};

/// Clients that work at the same time.
const CLIENTS: usize = 4;
/// So many containers are kept; the daemon finds them again each time.
const KEPT: usize = 40;

/// What the clients know of the containers they made.
#[derive(Debug, Default)]
struct Known {
    /// Creation was acknowledged, removal was never asked for.
    kept: Mutex<BTreeSet<String>>,
    /// Removal was acknowledged.
    removed: Mutex<BTreeSet<String>>,
}

#[test]
fn a_daemon_killed_at_any_instant_leaves_nothing_behind() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let kills: u64 = std::env::var("SHOAL_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let lab = Lab::up_with("killed", 1, 0, &["--no-cluster"])?;
    lab.load_image(&["m1"])?;
    // With everything once made that is made at the first use, and started as it will be at the end.
    lab.ok("m1", &format!("run --rm -p 9999:80 -v /v {} true", shoal_tests::image::NAME))?;
    lab.shoal(&["kill", "m1", "-9"])?.ok()?;
    lab.shoal(&["start", "m1"])?.ok()?;
    let before = left_on_host(&lab)?;

    let known = Known::default();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for client in 0..CLIENTS {
            let (lab, known, over) = (&lab, &known, &over);
            scope.spawn(move || {
                let mut step = 0;
                while !over.load(Ordering::Relaxed) {
                    // An error is the daemon's death, or what it left half done: the checks below find the latter.
                    if live_through(lab, known, client, step).is_err() {
                        pause(Duration::from_millis(10));
                    }
                    step += 1;
                }
            });
        }
        let killed = kill_again_and_again(&lab, kills);
        over.store(true, Ordering::Relaxed);
        killed
    })?;
    acknowledged_is_there(&lab, &known)?;
    let whole_lives = known.removed.lock().map_or(0, |removed| removed.len());
    ensure!(whole_lives > 0, "no container came to its end: nothing was tried");
    eprintln!(
        "{kills} kills; {} containers were kept, {} removed",
        known.kept.lock().map_or(0, |kept| kept.len()),
        known.removed.lock().map_or(0, |removed| removed.len())
    );

    let left = ids(&lab)?;
    ensure!(!left.is_empty(), "nothing was kept: nothing was tried");
    lab.docker("m1", &[&["rm", "-f", "-v"], &left.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())?
        .ok()?;
    lab.ok("m1", "volume prune -af").or_else(|_| lab.ok("m1", "volume prune -f"))?;
    until(60, "the host is as it was", || {
        let after = left_on_host(&lab)?;
        let more: Vec<_> = after.difference(&before).collect();
        ensure!(more.is_empty(), "left: {more:#?}");
        Ok(())
    })?;
    // And it works as before.
    lab.ok("m1", &format!("run --rm -p 9999:80 {} true", shoal_tests::image::NAME))?;
    lab.down()
}

/// One container's life, by one client; another one each time.
fn live_through(lab: &Lab, known: &Known, client: usize, step: usize) -> anyhow::Result<()> {
    let name = format!("c{client}-{step}");
    let port = 10_000 + client * 1_000 + step % 1_000;
    let body = serde_json::json!({
        "Image": shoal_tests::image::NAME,
        "Cmd": ["sleep", "1000"],
        "StopTimeout": 0,
        "Volumes": if step.is_multiple_of(3) { serde_json::json!({"/v": {}}) } else { Value::Null },
        "HostConfig": {
            "AutoRemove": step.is_multiple_of(5),
            "RestartPolicy": {"Name": if step % 4 == 1 { "always" } else { "" }},
            "PortBindings": {"80/tcp": [{"HostPort": port.to_string()}]},
        },
    });
    let made = post(lab, &format!("/containers/create?name={name}"), &body.to_string())?;
    let id = made["Id"].as_str().context("no id")?;
    let keep = {
        let mut kept = known.kept.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        let keep = step % 7 == 3 && kept.len() < KEPT;
        if keep && !step.is_multiple_of(5) {
            kept.insert(name.clone());
        }
        keep
    };
    post(lab, &format!("/containers/{id}/start"), "")?;
    let exec = post(lab, &format!("/containers/{id}/exec"), r#"{"Cmd": ["true"], "AttachStdout": true}"#)?;
    post(lab, &format!("/exec/{}/start", exec["Id"].as_str().context("no exec")?), r#"{"Detach": false}"#)?;
    if keep {
        return Ok(());
    }
    if step.is_multiple_of(2) {
        post(lab, &format!("/containers/{id}/stop"), "")?;
    }
    let (status, answer) = lab.request("DELETE", "m1", &format!("/containers/{id}?force=1&v=1"), "")?;
    ensure!(status == 204 || status == 404, "{status}: {answer}");
    if status == 204 {
        known.removed.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.insert(name);
    }
    Ok(())
}

fn post(lab: &Lab, path: &str, body: &str) -> anyhow::Result<Value> {
    let (status, answer) = lab.request("POST", "m1", path, body)?;
    ensure!((200..300).contains(&status), "{path}: {status}: {answer}");
    Ok(answer)
}

fn kill_again_and_again(lab: &Lab, kills: u64) -> anyhow::Result<()> {
    for kill in 0..kills {
        // Different instants, the same in each run.
        pause(Duration::from_millis(kill.wrapping_mul(7_919) % 250));
        lab.shoal(&["kill", "m1", "-9"])?.ok()?;
        lab.shoal(&["start", "m1"])?.ok().with_context(|| format!("start after kill {kill}"))?;
    }
    Ok(())
}

fn ids(lab: &Lab) -> anyhow::Result<Vec<String>> {
    Ok(lab.ok("m1", "ps -aq --no-trunc")?.lines().map(str::to_owned).collect())
}

/// Containers that were made are there and, once started, run; those that were removed are gone.
fn acknowledged_is_there(lab: &Lab, known: &Known) -> anyhow::Result<()> {
    let names = lab.ok("m1", "ps -a --format {{.Names}}")?;
    let names: BTreeSet<&str> = names.lines().collect();
    let kept = known.kept.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    let lost: Vec<_> = kept.iter().filter(|name| !names.contains(name.as_str())).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    let removed = known.removed.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    let back: Vec<_> = removed.iter().filter(|name| names.contains(name.as_str())).collect();
    ensure!(back.is_empty(), "came back: {back:?}");
    for id in ids(lab)? {
        let shown = lab.docker("m1", &["inspect", "-f", "{{.State.Status}} {{.State.Pid}}", &id])?.ok()?;
        let (status, pid) = shown.split_once(' ').context("no state")?;
        let alive = std::path::Path::new("/proc").join(pid).exists() && pid != "0";
        ensure!((status == "running") == alive, "{id} is {status} with process {pid}");
        ensure!(status != "running" || lab.docker("m1", &["exec", &id, "true"])?.code == 0, "no exec in {id}");
    }
    Ok(())
}

/// Mounts, cgroups, shims, links, rules and files that belong to containers of the host.
fn left_on_host(lab: &Lab) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let (data, exec) = (format!("{}/m1/data", lab.dir()), format!("/run/shoal-lab/{}/m1/exec", lab.name));
    for line in std::fs::read_to_string("/proc/mounts")?.lines() {
        if line.contains(&data) || line.contains(&exec) {
            found.insert(format!("mount {}", line.split(' ').nth(1).unwrap_or_default()));
        }
    }
    let listed = |what: &str, program: &str, args: &[&str]| -> anyhow::Result<Vec<String>> {
        let said = run(program, args)?;
        Ok(said.out.lines().map(|line| format!("{what} {line}")).collect())
    };
    let cgroups = format!("*/shoal-lab/{}/m1/*", lab.name);
    found.extend(listed("cgroup", "find", &["/sys/fs/cgroup", "-type", "d", "-path", &cgroups])?);
    found.extend(lab.shims("m1")?.iter().map(|pid| format!("shim {pid}")));
    for folder in ["containers", "volumes", "image/layers", "image/snapshots", "image/staging", "image/l"] {
        found.extend(listed("file", "find", &[&format!("{data}/{folder}"), "-mindepth", "1", "-maxdepth", "1"])?);
    }
    found.extend(listed("file", "find", &[&exec, "-mindepth", "2", "-maxdepth", "2"])?);
    for line in lab.on("m1", &["ip", "-o", "link"])?.ok()?.lines() {
        found.insert(format!(
            "link {}",
            line.split(':').nth(1).unwrap_or_default().split('@').next().unwrap_or_default()
        ));
    }
    for line in lab.on("m1", &["nft", "list", "ruleset"])?.ok()?.lines() {
        // Counters and handles are not shown; what names a container's address or port is.
        found.insert(format!("rule {}", line.trim()));
    }
    Ok(found)
}
