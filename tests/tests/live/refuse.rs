//! Bad input: a clear message, and nothing half-made.

use anyhow::ensure;
use shoal_tests::command::run_with_input;
use shoal_tests::image;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::until;

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
    lab.down()
}

#[test]
fn hostile_archives_do_not_climb_out() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("tar", 1, 0, &["--no-cluster"])?;
    let load = |verb: &[&str], data: &[u8]| run_with_input(lab.docker_command("m1", verb), data);
    let refused = load(&["load"], b"this is no archive")?.refused()?;
    ensure!(!refused.is_empty(), "no reason");
    let cut = &image::busybox()?[..5000];
    let refused = load(&["import", "-", "cut:1"], cut)?.refused()?;
    ensure!(!refused.is_empty(), "no reason");
    ensure!(lab.ok("m1", "images -q")?.is_empty(), "half an image was made");
    lab.down()
}
