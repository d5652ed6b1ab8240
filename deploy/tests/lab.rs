//! The lab's own life: it comes up, can be broken in every way that it offers, and leaves nothing behind, however broken.
//!
//! Needs root; runs when `SHOAL_LIVE=1`, as `tests/run live` sets it. `SHOAL_LAB_ENGINE=dockerd` checks it with docker's daemon.

use std::path::Path;
use std::process::{Command, Output};

fn live() -> bool {
    let live = std::env::var("SHOAL_LIVE").is_ok_and(|value| value == "1");
    if !live {
        eprintln!("SKIPPED: a live test; run ./tests/run live");
    }
    live
}

#[expect(clippy::disallowed_methods, reason = "the test drives the binary and looks at the machine from outside")]
fn output_of(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn output(program: &str, words: &str) -> Output {
    output_of(program, &words.split_whitespace().collect::<Vec<_>>())
}

fn binary() -> String {
    std::env::var("SHOAL_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_shoal").to_owned())
}

/// A lab that is removed when the test fails.
struct Lab(&'static str);

impl Lab {
    fn up(name: &'static str, words: &str) -> Self {
        let lab = Self(name);
        let engine = std::env::var("SHOAL_LAB_ENGINE").unwrap_or_else(|_| "shoal".to_owned());
        lab.ok("down", "");
        lab.ok("up", &format!("--no-cluster --engine {engine} {words}"));
        lab
    }

    fn run(&self, verb: &str, words: &str) -> Output {
        output(&binary(), &format!("lab {verb} --name {} {words}", self.0))
    }

    fn ok(&self, verb: &str, words: &str) -> String {
        let output = self.run(verb, words);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "lab {verb} {words}: {out}{err}");
        out.into_owned()
    }

    fn status(&self, host: &str, field: &str) -> String {
        let lines = self.ok("status", &format!("--format {{{{.Host}}}}={{{{.{field}}}}}"));
        let value = lines.lines().find_map(|line| line.strip_prefix(&format!("{host}=")));
        value.unwrap_or_else(|| panic!("no host {host} in {lines}")).to_owned()
    }

    /// Whether one host reaches the other: a port where nobody listens refuses, a cut cable is silent.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let script = format!("exec 3<>/dev/tcp/{}/9", self.status(to, "Address"));
        let words = format!("lab run --name {} {from} -- timeout 2 bash -c", self.0);
        let words: Vec<&str> = words.split_whitespace().chain([script.as_str()]).collect();
        String::from_utf8_lossy(&output_of(&binary(), &words).stderr).contains("refused")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(self.run("down", ""));
        }
    }
}

/// What a lab of this name would leave.
fn left_of(name: &str) -> Vec<String> {
    let mut left: Vec<String> = [format!("/run/shoal-lab/{name}"), format!("/var/lib/shoal-lab/{name}")]
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    let mounts = mounts();
    left.extend(mounts.lines().filter(|line| line.contains(&format!("/shoal-lab/{name}/"))).map(str::to_owned));
    let cgroups = cgroup_roots().into_iter().map(|root| format!("{root}/shoal-lab/{name}"));
    left.extend(cgroups.filter(|path| Path::new(path).exists()));
    left
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_else(|error| panic!("mountinfo: {error}"))
}

fn cgroup_roots() -> Vec<String> {
    let mounts = mounts();
    let lines = mounts.lines().filter(|line| line.contains(" - cgroup"));
    lines.filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

#[test]
fn a_lab_can_be_broken_mended_and_removed() {
    if !live() {
        return;
    }
    let lab = Lab::up("test-life", "--managers 1 --workers 1");
    assert_eq!(lab.ok("run", "w1 -- hostname").trim(), "w1");
    assert_eq!(lab.run("run", "m1 -- false").status.code(), Some(1));
    assert!(lab.ok("run", "m1 -- ip address show eth0").contains("10.201."));
    assert!(lab.reaches("m1", "w1"));

    lab.ok("cut", "w1");
    assert_eq!((lab.status("w1", "Cable").as_str(), lab.status("w1", "Daemon").as_str()), ("cut", "up"));
    assert!(!lab.reaches("m1", "w1"), "a cut host is reached");
    lab.ok("mend", "w1");
    assert!(lab.reaches("m1", "w1"), "a mended host is not reached");

    let before = lab.status("m1", "PID");
    lab.ok("kill", "m1 -9");
    assert_eq!(lab.status("m1", "Daemon"), "down");
    assert!(!lab.run("kill", "m1").status.success(), "a daemon that does not run cannot be killed");
    lab.ok("start", "m1");
    assert_ne!(lab.status("m1", "PID"), before);

    lab.ok(
        "up",
        &format!(
            "--no-cluster --managers 1 --workers 2 --engine {}",
            std::env::var("SHOAL_LAB_ENGINE").unwrap_or_else(|_| "shoal".to_owned())
        ),
    );
    assert_eq!(lab.status("w2", "Daemon"), "up");
    lab.ok("down", "");
    assert_eq!(left_of("test-life"), Vec::<String>::new());
    assert!(lab.ok("down", "").contains("is not up"));
}

#[test]
fn a_lab_that_is_half_gone_is_removed() {
    if !live() {
        return;
    }
    let lab = Lab::up("test-half", "--managers 1 --workers 1");
    // Its record is lost, a namespace is unbound, a cable and a cgroup are strange.
    output("umount", "/run/shoal-lab/test-half/ns/test-half-w1");
    std::fs::write("/run/shoal-lab/test-half/lab.json", "not json").unwrap();
    std::fs::create_dir_all(format!("{}/shoal-lab/test-half/w1/stray", cgroup_roots()[0])).unwrap();
    lab.ok("down", "");
    assert_eq!(left_of("test-half"), Vec::<String>::new());
}

#[test]
fn what_is_no_lab_is_refused() {
    if !live() {
        return;
    }
    for words in [
        "lab status --name test-absent",
        "lab cut --name test-absent w1",
        "lab up --name ../x",
        "lab up --name test-absent --managers 0",
    ] {
        let output = output(&binary(), words);
        assert!(!output.status.success(), "{words}");
    }
    let lab = Lab("test-absent");
    lab.ok("down", "");
}
