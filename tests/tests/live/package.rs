//! The Debian package: built, installed, used, removed, purged, and nothing is left.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use shoal_tests::command::{command, run, run_with_input};
use shoal_tests::image;
use shoal_tests::lab::{binary, live};
use shoal_tests::wait::until;

const NAMESPACE: &str = "shoal-package";
/// All that a package, its daemon and its cluster may make outside of the package's own files.
const TRACES: [&str; 9] = [
    "/etc/shoal",
    "/run/shoal",
    "/run/shoal.pid",
    "/var/lib/shoal",
    "/usr/bin/shoal",
    "/usr/share/man/man1/shoal.1.gz",
    "/etc/systemd/system/shoal.service",
    "/etc/systemd/system/multi-user.target.wants/shoal.service",
    "/etc/systemd/system/sockets.target.wants/shoal.socket",
];

/// Everything of the test is gone when this is dropped.
struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        drop(run("dpkg", &["--purge", "shoal"]));
        drop(run("ip", &["netns", "del", NAMESPACE]));
    }
}

/// Runs a line, split at spaces, in the test's network namespace.
fn inside(line: &str) -> anyhow::Result<String> {
    let namespace = format!("--net=/run/netns/{NAMESPACE}");
    let words: Vec<&str> = std::iter::once(namespace.as_str()).chain(line.split(' ')).collect();
    run("nsenter", &words)?.ok().with_context(|| line.to_owned())
}

#[test]
fn the_package_installs_runs_and_leaves_nothing() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    // Its folders are those of a real installation, whose data this must not remove.
    for trace in TRACES {
        ensure!(!Path::new(trace).exists(), "{trace} is there already: this machine has a Shoal of its own");
    }
    ensure!(run("getent", &["group", "shoal"])?.code != 0, "there is a group shoal already");
    // Daemons with other folders may share it.
    let cgroup = Path::new("/sys/fs/cgroup/memory/shoal");
    let cgroup_is_ours = !cgroup.exists();
    let folder = format!("/tmp/shoal-package-{}", std::process::id());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/package");
    let build =
        command("env", &[&format!("SHOAL_BINARY={}", std::fs::canonicalize(binary())?.display()), script, &folder]);
    let package = run_with_input(build, b"")?.ok()?;
    drop(run("ip", &["netns", "del", NAMESPACE]));
    run("ip", &["netns", "add", NAMESPACE])?.ok()?;
    let installed = Installed;
    inside("ip link set lo up")?;
    inside(&format!("dpkg -i {package}"))?;
    std::fs::remove_dir_all(&folder)?;
    ensure!(inside("getent group shoal")?.starts_with("shoal:"));
    ensure!(inside("dpkg -V shoal")?.is_empty(), "files differ from the package");
    inside("bash -n /usr/share/bash-completion/completions/shoal")?;
    inside("gzip -t /usr/share/man/man1/shoal-service-create.1.gz /usr/share/doc/shoal/changelog.gz")?;

    let namespace = format!("--net=/run/netns/{NAMESPACE}");
    let mut daemon = command("nsenter", &[&namespace, "/usr/bin/shoal", "daemon", "--group", "shoal"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    until(20, "an answer of the daemon", || inside("/usr/bin/shoal version").map(drop))?;
    ensure!(inside("stat -c %G:%a /run/shoal/shoal.sock")? == "shoal:660");
    run_with_input(command("/usr/bin/shoal", &["import", "-", image::NAME]), &image::busybox()?)?.ok()?;
    inside(&format!("/usr/bin/shoal run -d --name web -p 8080:80 --restart always {} sleep 1000", image::NAME))?;
    let process: u32 = inside("/usr/bin/shoal inspect -f {{.State.Pid}} web")?.parse()?;

    inside("dpkg -r shoal")?;
    until(10, "the end of the daemon", || daemon.try_wait()?.map(drop).context("it runs"))?;
    ensure!(!Path::new(&format!("/proc/{process}")).exists(), "a container outlives the package");
    ensure!(inside("nft list tables")?.is_empty(), "rules are left");
    ensure!(inside("ip -o link")?.lines().count() == 1, "links are left");
    ensure!(!cgroup_is_ours || !cgroup.exists(), "a cgroup is left");
    ensure!(Path::new("/var/lib/shoal/containers").exists(), "data goes only with a purge");
    ensure!(Path::new("/etc/shoal/daemon.json").exists(), "configuration goes only with a purge");

    inside("dpkg -P shoal")?;
    for trace in TRACES {
        ensure!(!Path::new(trace).exists(), "{trace} is left");
    }
    ensure!(run("getent", &["group", "shoal"])?.code != 0, "the group is left");
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains("/run/shoal/") && !mounts.contains("/var/lib/shoal/"), "mounts are left: {mounts}");
    drop(installed);
    Ok(())
}
