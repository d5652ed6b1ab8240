//! Checkpoints by CRIU. Where that is not installed, or does not run on this kernel (as Debian 12's 3.17 on recent ones), the
//! tests say so and end.

use anyhow::{Context, ensure};
use shoal_tests::command::run;
use shoal_tests::image::NAME;
use shoal_tests::lab::live;
use shoal_tests::wait::until;

use super::host::{Daemon, Host};

/// Counts once a tenth of a second, on its output and in a memory file system.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /memory/i; sleep 0.1; done";

fn criu_runs() -> bool {
    let why = match run("criu", &["check"]) {
        Err(error) => error.to_string(),
        Ok(said) if said.code == 0 => return true,
        Ok(said) => format!("criu check: {}{}", said.out, said.err),
    };
    eprintln!("SKIPPED: CRIU does not run here: {}", why.trim());
    false
}

/// The numbers that a container has written.
fn numbers(daemon: &Daemon<'_>, name: &str) -> anyhow::Result<Vec<u32>> {
    daemon.ok(&["logs", name])?.lines().map(|line| line.parse().context("no number")).collect()
}

fn grows_beyond(daemon: &Daemon<'_>, name: &str, number: u32) -> anyhow::Result<()> {
    until(20, "more numbers", || {
        ensure!(numbers(daemon, name)?.last().is_some_and(|last| *last > number), "not beyond {number}");
        Ok(())
    })
    .map(drop)
}

#[test]
fn without_experiments_there_are_no_checkpoints() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("no-checkpoints")?;
    let daemon = host.start("a", &[])?;
    daemon.load_image()?;
    daemon.ok(&["create", "--name", "one", NAME, "true"])?;
    let socket = host.path("a.sock");
    let ask = |method: &str, path: &str| -> anyhow::Result<String> {
        let words = ["-s", "-w", "%{http_code}", "--unix-socket", &socket, "-X", method];
        let json = ["-H", "Content-Type: application/json", "-d", "{\"CheckpointID\":\"c1\"}"];
        let json: &[&str] = if method == "POST" { &json } else { &[] };
        run("curl", &[&words, json, &[&format!("http://d/containers/{path}")]].concat())?.ok()
    };
    for (method, path) in [("GET", "one/checkpoints"), ("POST", "one/checkpoints"), ("DELETE", "one/checkpoints/c1")] {
        let answer = ask(method, path)?;
        ensure!(answer.contains("experimental mode") && answer.ends_with("501"), "{answer}");
    }
    let start =
        run("curl", &["-s", "--unix-socket", &socket, "-X", "POST", "http://d/containers/one/start?checkpoint=c1"])?;
    ensure!(start.out.contains("checkpoint is only supported in experimental mode"), "{}", start.out);
    ensure!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "one"])? == "created");
    daemon.ok(&["rm", "one"])?;
    daemon.stop()
}

#[test]
fn a_container_goes_on_where_its_checkpoint_was_made() -> anyhow::Result<()> {
    if !(live() && criu_runs()) {
        return Ok(());
    }
    let host = Host::new("checkpoint")?;
    let options = ["--experimental", "--add-runtime", "other=runc"];
    let mut daemon = host.start("a", &options)?;
    daemon.load_image()?;
    ensure!(daemon.ok(&["info", "-f", "{{.ExperimentalBuild}}"])? == "true");
    for (name, runtime) in [("ours", "shoal"), ("runcs", "other")] {
        let words = ["run", "-d", "--name", name, "--runtime", runtime, "--memory", "64m", "--restart", "always"];
        let mounts = ["--tmpfs", "/memory", "-v", "kept:/kept", NAME, "sh", "-c", COUNT];
        daemon.ok(&[&words[..], &mounts].concat())?;
        grows_beyond(&daemon, name, 2)?;
        // It runs on.
        daemon.ok(&["checkpoint", "create", "--leave-running", name, "first"])?;
        let reached = *numbers(&daemon, name)?.last().context("nothing written")?;
        grows_beyond(&daemon, name, reached)?;
        let twice = daemon.docker(&["checkpoint", "create", name, "first"])?.refused()?;
        ensure!(twice.contains("checkpoint with name first already exists"), "{twice}");
        // It ends, and no policy starts it anew.
        daemon.ok(&["checkpoint", "create", name, "second"])?;
        ensure!(daemon.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name])? == "exited 137");
        ensure!(daemon.ok(&["checkpoint", "ls", name])?.lines().skip(1).eq(["first", "second"]));
        let reached = *numbers(&daemon, name)?.last().context("nothing written")?;
        daemon.ok(&["start", "--checkpoint", "second", name])?;
        grows_beyond(&daemon, name, reached + 2)?;
        let all = numbers(&daemon, name)?;
        ensure!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "it began anew, or lost output: {all:?}");
        // As confined as before.
        let status = daemon.ok(&["exec", name, "cat", "/proc/1/status"])?;
        ensure!(status.contains("Seccomp:\t2") && status.contains("CapBnd:\t00000000a80425fb"), "{status}");
        let stats = daemon.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", name])?;
        ensure!(stats.ends_with("/ 64MiB"), "{stats}");
        daemon.ok(&["exec", name, "sh", "-c", "test -s /memory/i && touch /kept/from-exec"])?;
    }
    // What was restored outlives the daemon like anything else.
    let reached = *numbers(&daemon, "ours")?.last().context("nothing written")?;
    daemon.stop()?;
    daemon = host.start("a", &options)?;
    grows_beyond(&daemon, "ours", reached + 2)?;
    daemon.ok(&["restart", "-t", "0", "ours"])?;
    until(20, "a plain start to begin anew", || {
        let begun = numbers(&daemon, "ours")?.iter().filter(|number| **number == 1).count();
        ensure!(begun == 2, "it began {begun} times");
        Ok(())
    })?;
    daemon.ok(&["checkpoint", "rm", "ours", "first"])?;
    let gone = daemon.docker(&["start", "--checkpoint", "first", "runcs-or-none"])?.refused()?;
    ensure!(gone.contains("No such container"), "{gone}");
    daemon.ok(&["stop", "-t", "0", "ours"])?;
    let gone = daemon.docker(&["start", "--checkpoint", "first", "ours"])?.refused()?;
    ensure!(gone.contains("checkpoint first does not exist"), "{gone}");
    daemon.ok(&["rm", "-f", "ours", "runcs"])?;
    daemon.stop()
}

#[test]
fn what_cannot_be_restored_is_no_checkpoint() -> anyhow::Result<()> {
    if !(live() && criu_runs()) {
        return Ok(());
    }
    let host = Host::new("checkpoint-refused")?;
    let daemon = host.start("a", &["--experimental"])?;
    daemon.load_image()?;
    for (flags, why) in [
        ("-dt", "it has a terminal"),
        ("-d --init", "it was started with --init"),
        ("-d --pid host", "it does not have a PID namespace of its own"),
    ] {
        let words: Vec<&str> = ["run", "--name", "one"].into_iter().chain(flags.split(' ')).collect();
        daemon.ok(&[&words[..], &[NAME, "sleep", "1000"]].concat())?;
        let said = daemon.docker(&["checkpoint", "create", "one", "c1"])?.refused()?;
        ensure!(said.contains(why), "{said}");
        ensure!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "one"])? == "running");
        daemon.ok(&["rm", "-f", "one"])?;
    }
    // What CRIU itself refuses, a connection to somebody outside, costs nothing either.
    let serve = "(sleep 1000 | busybox nc -l -p 80) & \
                 (sleep 1000 | until busybox nc 127.0.0.1 80; do sleep 0.1; done) & sleep 1000";
    daemon.ok(&["run", "-d", "--name", "one", NAME, "sh", "-c", serve])?;
    until(20, "a connection", || {
        let sockets = daemon.ok(&["exec", "one", "busybox", "netstat", "-tn"])?;
        ensure!(sockets.contains("ESTABLISHED"), "{sockets}");
        Ok(())
    })?;
    let said = daemon.docker(&["checkpoint", "create", "one", "c1"])?.refused()?;
    ensure!(said.contains("cannot checkpoint container one: CRIU failed: "), "{said}");
    ensure!(daemon.ok(&["checkpoint", "ls", "one"])?.lines().count() == 1);
    ensure!(daemon.ok(&["exec", "one", "echo", "alive"])? == "alive");
    daemon.ok(&["rm", "-f", "one"])?;
    daemon.stop()
}
