//! One node as a plain container engine, by the docker CLI.

use anyhow::ensure;
use shoal_tests::image;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::until;

#[test]
fn containers_as_docker_runs_them() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("eng", 1, 0, &["--no-cluster"])?;
    lab.load_image(&["m1"])?;
    let run = |args: &[&str]| {
        let mut all = vec!["run", "--rm"];
        all.extend(args);
        lab.docker("m1", &all)
    };
    ensure!(run(&[image::NAME, "echo", "hello"])?.ok()? == "hello");
    ensure!(run(&[image::NAME, "sh", "-c", "exit 7"])?.code == 7, "exit status");
    ensure!(run(&[image::NAME, "/no/such"])?.code == 127, "no such command");
    ensure!(
        run(&["-e", "A=b", "-w", "/tmp", "-u", "web", image::NAME, "sh", "-c", "echo $A; id -u; ls -d ."])?.ok()?
            == "b\n1000\n."
    );
    let runtime = ["--runtime", "libcontainer", "--init", image::NAME, "sh", "-c", "echo from libcontainer"];
    ensure!(run(&runtime)?.ok()? == "from libcontainer");
    ensure!(run(&["--runtime", "nosuch", image::NAME, "true"])?.refused()?.contains("runtime name: nosuch"));
    let caps = run(&[image::NAME, "sh", "-c", "cat /proc/self/status"])?.ok()?;
    ensure!(caps.contains("CapEff:\t00000000a80425fb"), "default capabilities: {caps}");
    ensure!(caps.contains("Seccomp:\t2"), "no seccomp filter: {caps}");
    let limited = run(&["-m", "32m", "--pids-limit", "20", image::NAME, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"])?.ok()?;
    ensure!(limited == "33554432\n20", "limits: {limited}");
    ensure!(run(&["--read-only", image::NAME, "touch", "/x"])?.code != 0, "read-only root");
    ensure!(run(&["--network", "none", image::NAME, "ip", "-o", "link"])?.ok()?.lines().count() == 1, "only loopback");

    lab.docker(
        "m1",
        &[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "8080:80",
            image::NAME,
            "sh",
            "-c",
            "echo up; echo page > /www/index.html; exec httpd -f -h /www",
        ],
    )?
    .ok()?;
    until(10, "the published port", || {
        lab.on("m1", &["timeout", "2", "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"])?.ok().map(drop)
    })?;
    ensure!(lab.ok("m1", "logs web")? == "up");
    ensure!(lab.ok("m1", "exec web cat /www/index.html")? == "page");
    ensure!(lab.ok("m1", "top web")?.contains("httpd"));
    ensure!(lab.ok("m1", "stats --no-stream --format {{.PIDs}} web")? == "1");
    ensure!(lab.docker("m1", &["run", "--name", "web", image::NAME, "true"])?.refused()?.contains("already in use"));
    ensure!(
        lab.docker("m1", &["rmi", image::NAME])?.refused()?.contains("web")
            || lab.docker("m1", &["rmi", image::NAME])?.refused()?.contains("container")
    );
    ensure!(lab.docker("m1", &["rm", "web"])?.refused()?.contains("running"));
    lab.ok("m1", "stop -t 1 web")?;
    ensure!(lab.ok("m1", "ps -a --filter name=web --format {{.Status}}")?.starts_with("Exited"));
    lab.ok("m1", "rm web")?;
    lab.down()
}

#[test]
fn volumes_keep_and_networks_name() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("vol", 1, 0, &["--no-cluster"])?;
    lab.load_image(&["m1"])?;
    lab.docker("m1", &["run", "--rm", "-v", "data:/data", image::NAME, "sh", "-c", "echo kept > /data/x"])?.ok()?;
    ensure!(lab.docker("m1", &["run", "--rm", "-v", "data:/data:ro", image::NAME, "cat", "/data/x"])?.ok()? == "kept");
    ensure!(lab.ok("m1", "volume ls -q")? == "data");
    lab.ok("m1", "volume rm data")?;
    lab.ok("m1", "network create lan")?;
    lab.docker(
        "m1",
        &[
            "run",
            "-d",
            "--name",
            "server",
            "--network",
            "lan",
            "--network-alias",
            "alias",
            image::NAME,
            "sleep",
            "1000",
        ],
    )?
    .ok()?;
    for name in ["server", "alias"] {
        lab.docker("m1", &["run", "--rm", "--network", "lan", image::NAME, "ping", "-c", "1", "-W", "2", name])?
            .ok()?;
    }
    ensure!(lab.docker("m1", &["network", "rm", "lan"])?.refused()?.contains("active endpoints"));
    // Who shares a network shares its names; and some networks go with no other.
    lab.docker(
        "m1",
        &["run", "-d", "--name", "alone", "--hostname", "box", "--network", "none", image::NAME, "sleep", "1000"],
    )?
    .ok()?;
    let guest = ["run", "--rm", "--network", "container:alone", image::NAME, "hostname"];
    ensure!(lab.docker("m1", &guest)?.ok()? == "box");
    let host_network = lab.ok("m1", "network inspect -f {{.Id}} host")?;
    for network in ["lan", "host", &host_network] {
        let refused = lab.docker("m1", &["network", "connect", network, "alone"])?.refused()?;
        ensure!(refused.contains("container cannot be"), "{network}: {refused}");
    }
    ensure!(lab.docker("m1", &["network", "connect", "none", "server"])?.refused()?.contains("private (none) mode"));
    ensure!(lab.docker("m1", &["exec", "-u", "nobody-knows", "alone", "true"])?.code == 126);
    lab.ok("m1", "rm -f alone")?;
    lab.ok("m1", "rm -f server")?;
    lab.ok("m1", "network rm lan")?;
    // A link goes by the two names that it has.
    lab.ok("m1", &format!("run -d --name store {} sleep 1000", shoal_tests::image::NAME))?;
    lab.ok("m1", &format!("run -d --name user --link store:shop {} sleep 1000", shoal_tests::image::NAME))?;
    lab.ok("m1", "rm --link user/shop")?;
    ensure!(lab.ok("m1", "inspect --format {{.HostConfig.Links}} user")? == "[]", "the link is there");
    ensure!(lab.docker("m1", &["rm", "--link", "user/shop"])?.refused()?.contains("No such container: user/shop"));
    lab.down()
}

#[test]
fn containers_outlive_their_daemon() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("restore", 1, 0, &["--no-cluster"])?;
    lab.load_image(&["m1"])?;
    lab.docker(
        "m1",
        &[
            "run",
            "-d",
            "--name",
            "count",
            image::NAME,
            "sh",
            "-c",
            "i=0; while true; do echo $i; i=$((i+1)); sleep 0.01; done",
        ],
    )?
    .ok()?;
    let pid = lab.ok("m1", "inspect count --format {{.State.Pid}}")?;
    for round in 1..=5 {
        until(10, "some more lines", || {
            let lines = lab.ok("m1", "logs count")?.lines().count();
            ensure!(lines >= round * 50, "{lines}");
            Ok(())
        })?;
        lab.shoal(&["kill", "m1", "-9"])?.ok()?;
        lab.shoal(&["start", "m1"])?.ok()?;
    }
    ensure!(lab.ok("m1", "inspect count --format {{.State.Pid}}")? == pid, "another process");
    lab.ok("m1", "stop -t 0 count")?;
    let logs = lab.ok("m1", "logs count")?;
    for (expected, line) in logs.lines().enumerate() {
        ensure!(line == expected.to_string(), "line {expected} is {line}");
    }
    ensure!(logs.lines().count() > 250, "too few lines to tell");
    lab.down()
}
