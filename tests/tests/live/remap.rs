//! A cluster whose nodes run containers in user namespaces (`--userns-remap`).

use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use anyhow::{Context, ensure};
use shoal_tests::command::{command, run_with_input};
use shoal_tests::image::NAME;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::until;

use super::service::{PAGE, converged, fetch, node_address};

/// Says that this process sees the ranges of ids.
const INSIDE: &str = "SHOAL_TEST_REMAPPED";
/// Who gives his ids to containers, and which.
const USER: &str = "nobody";
const FIRST: u32 = 300_000;
const HOSTS: [&str; 2] = ["m1", "w1"];

/// Runs this test again where `/etc/subuid` and `/etc/subgid` have a range: what the machine has stays as it is.
fn again_with_ranges(test: &str) -> anyhow::Result<()> {
    // Mounts go on to come in, so that the machine's own are seen in their state of now; none goes out.
    let script = "file=$(mktemp) && echo $0 >$file && mount --bind $file /etc/subuid && mount --bind $file /etc/subgid && \
                  rm $file && exec \"$@\"";
    let again = command("unshare", &["--mount", "--propagation", "slave", "sh", "-c", script])
        .arg(format!("{USER}:{FIRST}:65536"))
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stderr(Stdio::inherit())
        .output()?;
    let told = String::from_utf8_lossy(&again.stdout);
    ensure!(again.status.success(), "{test} failed where the ranges are: {told}");
    // A name that no test has is a success of none.
    ensure!(told.contains("1 passed"), "{test} did not run where the ranges are: {told}");
    Ok(())
}

#[test]
fn tasks_run_in_user_namespaces() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_none() {
        return again_with_ranges("remap::tasks_run_in_user_namespaces");
    }
    let remapped = format!("--userns-remap={USER}:nogroup");
    let lab = Lab::up_with("remap", 1, 1, &["--daemon-argument", &remapped])?;
    lab.load_image(&HOSTS)?;
    lab.ok("m1", "network create -d overlay app")?;
    for kind in ["secret", "config"] {
        let create = lab.docker_command("m1", &[kind, "create", "word", "-"]);
        run_with_input(create, format!("the {kind}").as_bytes())?.ok()?;
    }
    let flags = "--replicas 2 --replicas-max-per-node 1 --network app -p 8080:80 --mount type=volume,source=data,target=/data \
                 --secret source=word,target=word,uid=1000,gid=1000,mode=0400 --config source=word,target=/etc/word,mode=0440";
    lab.service("m1", "web", flags, &["sh", "-c", PAGE])?;
    converged(&lab, "m1", "web", "2/2 (max 1 per node)")?;
    let mut names = Vec::new();
    for host in HOSTS {
        let id = lab.ok(host, "ps -q --filter label=com.docker.swarm.service.name=web")?;
        let inside = |user: &str, line: &str| lab.docker(host, &["exec", "-u", user, &id, "sh", "-c", line])?.ok();
        let map = inside("0", "cat /proc/self/uid_map")?;
        ensure!(map.split_whitespace().eq(["0", "300000", "65536"]), "{host}: {map}");
        let pid = lab.ok(host, &format!("inspect --format {{{{.State.Pid}}}} {id}"))?;
        let owner = std::fs::metadata(format!("/proc/{pid}")).context("the task's process")?.uid();
        ensure!(owner == FIRST, "{host}: the task's root is {owner} on the host");
        // Whose files these are is for the service to say; nobody else gets at them.
        let look = "busybox stat -c '%u %g %a' /run/secrets/word /etc/word";
        let owners = inside("0", look)?;
        ensure!(owners.lines().eq(["1000 1000 400", "0 0 440"]), "{host}: {owners}");
        let read = inside("web", "cat /run/secrets/word; cat /etc/word 2>&1; true")?;
        ensure!(read.starts_with("the secret") && read.contains("Permission denied"), "{host}: {read}");
        ensure!(inside("0", "cat /etc/word")? == "the config", "{host}: the config");
        // A volume is the container's root's, on the disk as a user of the host who is nobody else.
        inside("0", "echo kept > /data/made && busybox chown 7:8 /data/made")?;
        let place = lab.ok(host, "volume inspect --format {{.Mountpoint}} data")?;
        let made = std::fs::metadata(format!("{place}/made")).with_context(|| format!("{place} on {host}"))?;
        ensure!((made.uid(), made.gid()) == (FIRST + 7, FIRST + 8), "{host}: {}:{}", made.uid(), made.gid());
        let name = inside("0", "hostname")?;
        until(10, "the page by the service's name", || {
            let page = inside("0", "timeout 2 wget -q -O - http://web/")?;
            ensure!(!page.is_empty(), "an empty page");
            Ok(())
        })?;
        names.push(name);
    }
    for host in HOSTS {
        let url = format!("http://{}:8080/", node_address(&lab, host)?);
        until(20, "both tasks through the mesh", || {
            let pages: Vec<String> = (0..20).filter_map(|_| fetch(&lab, "m1", &url).ok()).collect();
            ensure!(names.iter().all(|name| pages.contains(name)), "{pages:?} of {names:?}");
            Ok(())
        })?;
    }
    // A plain container on the same node takes the same namespace's ids; one that opts out has the host's.
    let plain = lab.docker("m1", &["run", "--rm", NAME, "cat", "/proc/self/uid_map"])?.ok()?;
    ensure!(plain.contains("300000"), "{plain}");
    let host = lab.docker("m1", &["run", "--rm", "--userns", "host", NAME, "cat", "/proc/self/uid_map"])?.ok()?;
    ensure!(host.contains("4294967295"), "{host}");
    lab.ok("m1", "service rm web")?;
    lab.until_empty(&HOSTS)?;
    lab.down()
}
