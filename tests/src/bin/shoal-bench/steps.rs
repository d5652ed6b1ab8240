//! Where the time of a start goes: every step as the daemon counts it, beside what the bare system calls of that step take.
//!
//! The steps overlap (the network is made while the shim works), so their sum is more than the whole. What a row has above
//! its floor is what Shoal does besides: checks, settings, and the ways between threads and processes.

pub(crate) mod floor;

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use shoal_tests::image;
use shoal_tests::lab::Lab;
use shoal_tests::wait::{now, pause};

use crate::figures::{median, seconds};

/// Starts that the figures are of.
const STARTS: u32 = 60;
const METRICS: &str = "127.0.0.1:9323";

/// A step by the daemon's name, what it is, and the floor it stands beside.
const STEPS: [(&str, &str, Option<&str>); 13] = [
    ("namespace", "network namespace (made ahead)", Some("namespace")),
    ("disk", "files and root file system, prepared", Some("files")),
    ("network", "a way into the bridge network", Some("network")),
    ("shim", "shim, from the order to a made container", None),
    ("shim_fork", "  of it: its process, and the ways there", Some("fork")),
    ("shim_clone", "  of it: a process in own namespaces", Some("clone")),
    ("shim_specification", "  of it: reading the specification", None),
    ("shim_cgroup", "  of it: cgroup with limits and devices", Some("cgroup")),
    ("shim_mounts", "  of it: mounts, devices, masks, root", Some("mounts")),
    ("shim_user", "  of it: streams, limits, user", None),
    ("files", "names of hosts", None),
    ("program", "the word to go, filter, execve", Some("execute")),
    ("record", "that it runs, written down", Some("write")),
];

/// One container after the other, over the API.
pub(crate) fn measure() -> anyhow::Result<()> {
    let floors = floor::ask()?;
    let lab = Lab::up_with(
        "bench-steps",
        1,
        0,
        &["--no-cluster", &format!("--daemon-argument=--metrics-addr={METRICS}"), "--daemon-argument=--experimental"],
    )?;
    lab.load_image(&["m1"])?;
    for _ in 0..5 {
        start(&lab)?;
    }
    let before = counted(&lab)?;
    let mut whole = Vec::new();
    for _ in 0..STARTS {
        whole.push(start(&lab)?);
        // What the last one left is taken down behind the back of the next one.
        pause(std::time::Duration::from_millis(50));
    }
    let after = counted(&lab)?;
    let mut steps = BTreeMap::new();
    for (name, (sum, count)) in &after {
        let (old_sum, old_count) = before.get(name).copied().unwrap_or_default();
        ensure!(count - old_count == f64::from(STARTS), "{} starts had the step {name}", count - old_count);
        steps.insert(name.as_str(), (sum - old_sum) / (count - old_count));
    }
    let parts: f64 = steps.iter().filter(|(name, _)| name.starts_with("shim_")).map(|(_, took)| took).sum();
    let shim = *steps.get("shim").context("no step of the shim")?;
    steps.insert("shim_fork", shim - parts);
    println!("{:<44} {:>8.2} ms", "POST /containers/{id}/start, median", median(whole) * 1e3);
    for (name, what, floor) in STEPS {
        let took = steps.get(name).with_context(|| format!("the daemon does not count {name}"))?;
        let floor = floor.map(|name| floors.get(name).with_context(|| format!("no floor {name}"))).transpose()?;
        let beside = floor.map(|f| format!("   system calls {:>8.2} ms   ratio {:>5.1}x", f * 1e3, took / f));
        println!("{what:<44} {:>8.2} ms{}", took * 1e3, beside.unwrap_or_default());
    }
    lab.down()
}

/// Creates a container, starts it (that is timed), and lets it go.
fn start(lab: &Lab) -> anyhow::Result<f64> {
    let body = format!(r#"{{"Image": "{}", "Cmd": ["true"], "HostConfig": {{"AutoRemove": true}}}}"#, image::NAME);
    let (status, made) = lab.request_of_version("1.41", "POST", "m1", "/containers/create", &body)?;
    ensure!(status == 201, "create: {status}: {made}");
    let id = made["Id"].as_str().context("no container")?;
    let begin = now();
    let (status, answer) = lab.request_of_version("1.41", "POST", "m1", &format!("/containers/{id}/start"), "")?;
    ensure!(status == 204, "start: {status}: {answer}");
    Ok(seconds(begin.elapsed()))
}

/// Sum in seconds and count of each step so far.
fn counted(lab: &Lab) -> anyhow::Result<BTreeMap<String, (f64, f64)>> {
    let url = format!("http://{METRICS}/metrics");
    let page = lab.on("m1", &["timeout", "5", "busybox", "wget", "-q", "-O", "-", &url])?.ok()?;
    let mut steps: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for line in page.lines() {
        let Some(rest) = line.strip_prefix("shoal_container_start_step_seconds_") else { continue };
        let (kind, rest) = rest.split_once("{step=\"").context("no step")?;
        let (name, value) = rest.split_once("\"} ").context("no value")?;
        let entry = steps.entry(name.to_owned()).or_default();
        match kind {
            "sum" => entry.0 = value.parse()?,
            _ => entry.1 = value.parse()?,
        }
    }
    ensure!(!steps.is_empty(), "the daemon counts no steps");
    Ok(steps)
}
