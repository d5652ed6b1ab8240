//! Bad input: a clear message, and nothing half-made.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use shoal_tests::image;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::{now, pause, until};

#[test]
fn nonsense_is_refused_in_words() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("bad", 1, 1)?;
    lab.load_image(&["m1", "w1"])?;
    lab.service("m1", "taken", "-p 8080:80", &["sleep", "1000"])?;
    let cases: &[(&[&str], &str)] = &[
        (&["--name", "taken", image::NAME], "already exists"),
        (&["--name", "UPPER_", image::NAME], "name"),
        (&["--network", "nowhere", image::NAME], "nowhere"),
        (&["--constraint", "node.hostname~x", image::NAME], "constraint"),
        (&["-p", "8080:80", image::NAME], "already in use"),
        (&["--limit-memory", "1k", image::NAME], "memory"),
        (&["--limit-cpu", "0.0001", image::NAME], "cpu"),
        (&["--mount", "type=bind,source=relative,target=/x", image::NAME], "mount"),
        (&["--mount", "type=tmpfs,target=relative", image::NAME], "mount"),
        (&["--endpoint-mode", "dnsrr", "-p", "81:80", image::NAME], "dnsrr"),
        (&["--update-max-failure-ratio", "2", image::NAME], "ratio"),
    ];
    for (args, expected) in cases {
        let mut all = vec!["service", "create", "-d"];
        all.extend(*args);
        let refused = lab.docker("m1", &all)?.refused()?.to_lowercase();
        ensure!(refused.contains(expected), "{args:?}: {refused:?} does not say {expected:?}");
    }
    ensure!(lab.ok("m1", "service ls -q")?.lines().count() == 1, "a refused service was made");

    // Not refused, but told why it waits.
    let waits: &[(&[&str], &str)] = &[
        (&["--name", "missing", "nosuch:1"], "No such image"),
        (&["--name", "huge", "--reserve-memory", "900g", image::NAME], "insufficient memory"),
        (&["--name", "nowhere", "--constraint", "node.labels.zone==mars", image::NAME], "no suitable node"),
    ];
    for (args, expected) in waits {
        let mut all = vec!["service", "create", "-d"];
        all.extend(*args);
        lab.docker("m1", &all)?.ok()?;
        until(15, expected, || {
            let shown = lab.docker("m1", &["service", "ps", "--no-trunc", args[1]])?.ok()?;
            ensure!(shown.contains(expected), "{shown}");
            Ok(())
        })?;
    }
    let refused = lab.docker("m1", &["service", "scale", "taken=-1"])?.refused()?;
    ensure!(refused.contains("-1"), "{refused}");
    lab.down()
}

#[test]
fn a_join_says_why_it_was_refused() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("join", 1, 2, &["--no-cluster"])?;
    let address = |host: &str| {
        lab.on(host, &["ip", "-4", "-o", "addr", "show", "dev", "eth0"])?.ok().map(|line| {
            line.split_whitespace().nth(3).and_then(|cidr| cidr.split('/').next()).unwrap_or_default().to_owned()
        })
    };
    let (m1, w1) = (address("m1")?, address("w1")?);
    lab.ok("m1", &format!("swarm init --advertise-addr {m1}"))?;
    lab.ok("w1", &format!("swarm init --advertise-addr {w1}"))?;
    let worker = lab.ok("m1", "swarm join-token -q worker")?;
    let foreign = lab.ok("w1", "swarm join-token -q worker")?;
    let (head, _) = worker.rsplit_once('-').unwrap_or_default();
    let wrong = format!("{head}-{}", "a".repeat(25));
    let rotated = worker.clone();
    lab.ok("m1", "swarm join-token --rotate -q worker")?;
    let remote = format!("{m1}:2377");
    for (token, expected) in
        [(&*wrong, "wrong"), (&*foreign, "another cluster"), (&*rotated, "rotated"), ("nonsense", "token")]
    {
        let refused = lab.docker("w2", &["swarm", "join", "--token", token, &remote])?.refused()?;
        ensure!(refused.contains(expected), "{refused:?} does not say {expected:?}");
        let state = lab.ok("w2", "info --format {{.Swarm.LocalNodeState}}")?;
        ensure!(state == "inactive", "half-made: {state}");
    }
    ensure!(lab.ok("m1", "node ls -q")?.lines().count() == 1, "a refused node was made");
    let fresh = lab.ok("m1", "swarm join-token -q worker")?;
    lab.ok("w2", &format!("swarm join --token {fresh} {remote}"))?;
    // A worker's token makes a worker, whatever the node would like to be.
    ensure!(lab.ok("w2", "info --format {{.Swarm.ControlAvailable}}")? == "false", "a worker's token made a manager");
    let refused = lab.docker("w2", &["node", "ls"])?.refused()?;
    ensure!(refused.contains("not a swarm manager"), "{refused}");
    lab.down()
}

/// The least spec of a service with this name, and these members besides.
fn spec(name: &str, members: &[(&str, Value)]) -> Value {
    let mut spec = json!({
        "Name": name,
        "TaskTemplate": { "ContainerSpec": { "Image": image::NAME, "Args": ["sleep", "1000"] } },
    });
    for (path, value) in members {
        let mut place = &mut spec;
        for member in path.split('.') {
            place = &mut place[member];
        }
        *place = value.clone();
    }
    spec
}

#[test]
fn bodies_that_are_too_large_or_cut_short() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("bad-body", 3, 0)?;
    let writes = |name: &str| {
        let body = json!({ "Name": name, "Data": "eA==" }).to_string();
        let (status, answer) = lab.request("POST", "m2", "/secrets/create", &body)?;
        ensure!(status == 201, "the cluster does not write any more: {status} {answer}");
        Ok(())
    };
    let variable = |bytes: usize| json!([format!("A={}", "x".repeat(bytes))]);
    for host in ["m1", "m3"] {
        let large = spec("large", &[("TaskTemplate.ContainerSpec.Env", variable(2 << 20))]);
        let (status, answer) = lab.request("POST", host, "/services/create", &large.to_string())?;
        ensure!(status == 400, "2 MiB: {status} {answer}");
        ensure!(answer["message"].as_str().is_some_and(|text| text.contains("too large")), "{answer}");
        writes(&format!("after-large-{host}"))?;
        let larger = spec("larger", &[("TaskTemplate.ContainerSpec.Env", variable(5 << 20))]);
        let (status, answer) = lab.request("POST", host, "/services/create", &larger.to_string())?;
        ensure!(status == 413, "5 MiB: {status} {answer}");
        writes(&format!("after-larger-{host}"))?;
    }
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let socket = lab.socket("m1");
        let mut stream = UnixStream::connect(socket.trim_start_matches("unix://"))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let begun = if head.starts_with("Content") { "{\"Name\":" } else { "8\r\n{\"Name\":" };
        write!(
            stream,
            "POST /services/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n{head}\r\n\r\n{begun}"
        )?;
        pause(Duration::from_millis(200));
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("{head}: no answer to half a body"))?;
        ensure!(answer.starts_with("HTTP/1.1 400") && answer.contains("cut short"), "{head}: {answer}");
    }
    ensure!(lab.ok("m1", "service ls -q")?.is_empty(), "a refused service was made");
    lab.down()
}

#[test]
fn a_stale_version_is_refused() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("stale", 1, 0)?;
    lab.load_image(&["m1"])?;
    let (status, made) = lab.request("POST", "m1", "/services/create", &spec("web", &[]).to_string())?;
    ensure!(status == 201, "{status} {made}");
    for kind in ["secrets", "configs"] {
        let body = json!({ "Name": "thing", "Data": "eA==" }).to_string();
        let (status, answer) = lab.request("POST", "m1", &format!("/{kind}/create"), &body)?;
        ensure!(status == 201, "{kind}: {status} {answer}");
    }
    for (kind, name) in [("services", "web"), ("nodes", "self"), ("secrets", "thing"), ("configs", "thing")] {
        let id = match name {
            "self" => lab.ok("m1", "info --format {{.Swarm.NodeID}}")?,
            name => name.to_owned(),
        };
        // A new service or node still changes by itself: a version that is current is found by trying.
        let mut used = 0;
        until(20, "an update with the current version", || {
            let object = lab.get("m1", &format!("/{kind}/{id}"))?;
            let version = object["Version"]["Index"].as_u64().context("no version")?;
            let mut changed = object["Spec"].clone();
            changed["Labels"] = json!({ "changed": "once" });
            let path = format!("/{kind}/{id}/update?version={version}");
            let (status, answer) = lab.request("POST", "m1", &path, &changed.to_string())?;
            ensure!(status == 200, "{kind}: {status} {answer}");
            used = version;
            Ok(())
        })?;
        let mut changed = lab.get("m1", &format!("/{kind}/{id}"))?["Spec"].clone();
        changed["Labels"] = json!({ "changed": "twice" });
        let path = format!("/{kind}/{id}/update?version={used}");
        let (status, answer) = lab.request("POST", "m1", &path, &changed.to_string())?;
        ensure!(status == 409, "{kind}: {status} {answer}");
        ensure!(answer["message"].as_str().is_some_and(|text| text.contains("out of sequence")), "{kind}: {answer}");
        let labels = &lab.get("m1", &format!("/{kind}/{id}"))?["Spec"]["Labels"];
        ensure!(*labels == json!({ "changed": "once" }), "{kind}: {labels}");
    }
    lab.down()
}

#[test]
fn numbers_that_make_no_sense() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("negative", 1, 0)?;
    let port = json!([{ "TargetPort": 0, "PublishedPort": 81 }]);
    let cases = [
        ("Mode.Replicated.Replicas", json!(-1)),
        ("TaskTemplate.Resources.Limits.NanoCPUs", json!(-1)),
        ("TaskTemplate.Resources.Limits.MemoryBytes", json!(-1)),
        ("TaskTemplate.Resources.Reservations.NanoCPUs", json!(-1)),
        ("TaskTemplate.Resources.Reservations.MemoryBytes", json!(-1)),
        ("EndpointSpec.Ports", port),
        ("UpdateConfig.Delay", json!(-1)),
        ("TaskTemplate.RestartPolicy.Delay", json!(-1)),
        ("TaskTemplate.RestartPolicy.MaxAttempts", json!(-1)),
        ("TaskTemplate.ContainerSpec.StopGracePeriod", json!(-1)),
        ("TaskTemplate.ContainerSpec.HealthCheck.Retries", json!(-1)),
    ];
    for (path, value) in cases {
        let body = spec("bad", &[(path, value)]).to_string();
        let (status, answer) = lab.request("POST", "m1", "/services/create", &body)?;
        ensure!(status == 400, "{path}: {status} {answer}");
        ensure!(answer["message"].as_str().is_some_and(|text| !text.is_empty()), "{path}: no reason");
    }
    let none = spec("none", &[("Mode.Replicated.Replicas", json!(0))]).to_string();
    let (status, answer) = lab.request("POST", "m1", "/services/create", &none)?;
    ensure!(status == 201, "no replicas are a number, too: {status} {answer}");
    ensure!(lab.ok("m1", "service ls -q")?.lines().count() == 1, "a refused service was made");
    let short = lab.docker("m1", &["swarm", "update", "--cert-expiry", "59m"])?.refused()?;
    ensure!(short.contains("minimum certificate expiry time is: 1h0m0s"), "{short}");
    lab.ok("m1", "swarm update --cert-expiry 1h")?;
    lab.down()
}

#[test]
fn an_unknown_image_is_tried_ever_more_seldom() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("back-off", 1, 0)?;
    let missing = [
        ("TaskTemplate.ContainerSpec.Image", json!("nosuch:1")),
        ("TaskTemplate.RestartPolicy", json!({ "Condition": "any", "Delay": 0 })),
    ];
    let (status, answer) = lab.request("POST", "m1", "/services/create", &spec("missing", &missing).to_string())?;
    ensure!(status == 201, "{status} {answer}");
    let filter = "%7B%22service%22%3A%5B%22missing%22%5D%7D";
    let mut seen = BTreeSet::new();
    let mut rejected = false;
    let begin = now();
    while begin.elapsed() < Duration::from_secs(12) {
        let tasks = lab.get("m1", &format!("/tasks?filters={filter}"))?;
        let tasks = tasks.as_array().context("no list")?;
        // Five are kept for each slot, and the next one is among them or about to be.
        ensure!(tasks.len() <= 7, "the history grows: {} tasks", tasks.len());
        for task in tasks {
            seen.insert(task["ID"].to_string());
            let reason = task["Status"]["Err"].as_str().unwrap_or_default();
            rejected |= task["Status"]["State"] == "rejected" && reason.contains("No such image");
        }
        pause(Duration::from_millis(50));
    }
    ensure!(rejected, "no task was rejected for its image");
    // The pauses are 0, 0.5, 1, 2, 4, 8… seconds.
    ensure!((3..=8).contains(&seen.len()), "{} tasks in 12 s", seen.len());
    let logs = lab.docker("m1", &["service", "logs", "missing"])?;
    ensure!(logs.code == 0 && logs.err.is_empty(), "tasks that never ran have no logs, which is no error: {logs:?}");
    lab.down()
}

#[test]
fn clashes_of_ports_mounts_and_names() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("clash", 1, 0)?;
    lab.load_image(&["m1"])?;
    let host_port = |published: u16| json!([{ "TargetPort": 80, "PublishedPort": published, "PublishMode": "host" }]);
    let create = |spec: &Value| lab.request("POST", "m1", "/services/create", &spec.to_string());
    for name in ["first", "second"] {
        let (status, answer) = create(&spec(name, &[("EndpointSpec.Ports", host_port(8090))]))?;
        ensure!(status == 201, "{name}: {status} {answer}");
    }
    until(20, "one of two services on a host's port runs, the other says why not", || {
        let all = lab.ok("m1", "service ps --no-trunc first second")?;
        ensure!(all.matches("Running ").count() >= 1 && all.contains("port 8090/tcp in use"), "{all}");
        Ok(())
    })?;
    let (status, answer) =
        create(&spec("third", &[("EndpointSpec.Ports", json!([{ "TargetPort": 80, "PublishedPort": 8090 }]))]))?;
    ensure!(status == 400 && answer.to_string().contains("already in use"), "{status} {answer}");

    let mount = json!({ "Type": "volume", "Source": "v", "Target": "/data" });
    let (status, answer) = create(&spec("fourth", &[("TaskTemplate.ContainerSpec.Mounts", json!([mount, mount]))]))?;
    ensure!(status == 400 && answer.to_string().contains("duplicate mount"), "{status} {answer}");

    for (path, body) in [
        ("/networks/create", json!({ "Name": "same", "Driver": "overlay" })),
        ("/secrets/create", json!({ "Name": "same", "Data": "eA==" })),
        ("/configs/create", json!({ "Name": "same", "Data": "eA==" })),
    ] {
        let body = body.to_string();
        let (status, answer) = lab.request("POST", "m1", path, &body)?;
        ensure!(status == 201, "{path}: {status} {answer}");
        let (status, answer) = lab.request("POST", "m1", path, &body)?;
        ensure!(status == 409 && answer.to_string().contains("exist"), "{path}: {status} {answer}");
    }
    lab.down()
}

#[test]
fn an_update_that_is_refused_changes_nothing() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("bad-update", 1, 0)?;
    lab.load_image(&["m1"])?;
    let (status, answer) = lab.request("POST", "m1", "/services/create", &spec("web", &[]).to_string())?;
    ensure!(status == 201, "{status} {answer}");
    super::service::converged(&lab, "m1", "web", "1/1")?;
    let look = || -> anyhow::Result<(Value, Value)> {
        let tasks = lab.get("m1", "/tasks?filters=%7B%22service%22%3A%5B%22web%22%5D%7D")?;
        let ids = tasks.as_array().context("no list")?.iter().map(|task| task["ID"].clone()).collect();
        Ok((lab.get("m1", "/services/web")?, Value::Array(ids)))
    };
    let before = look()?;
    let version = &before.0["Version"]["Index"];
    let cases = [
        ("TaskTemplate.ContainerSpec.Env", json!(["=x"]), 400),
        ("TaskTemplate.ContainerSpec.Image", json!("NOT AN IMAGE"), 400),
        ("TaskTemplate.ContainerSpec.Hostname", json!("{{.Nonsense}}"), 400),
        ("TaskTemplate.Networks", json!([{ "Target": "nowhere" }]), 404),
        ("TaskTemplate.Placement.Constraints", json!(["node.id~x"]), 400),
        ("TaskTemplate.Resources.Limits.NanoCPUs", json!(-1), 400),
        ("Mode", json!({ "Global": {} }), 400),
        ("Name", json!("other"), 400),
        ("Name", json!(""), 400),
    ];
    for (path, value, expected) in cases {
        let body = spec("web", &[(path, value)]).to_string();
        let (status, answer) = lab.request("POST", "m1", &format!("/services/web/update?version={version}"), &body)?;
        ensure!(status == expected, "{path}: {status} {answer}");
        ensure!(look()? == before, "{path}: the refused update changed something");
    }
    lab.down()
}
