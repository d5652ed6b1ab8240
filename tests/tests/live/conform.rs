//! Answers of dockerd (20.10, recorded), and the same questions asked of Shoal.
//!
//! With `SHOAL_CONFORM_SOCKET=/path/of/a/socket` the questions go to a dockerd that listens there, which has to have the test
//! image and nothing else: so the answers were recorded, and can be checked again. Where Shoal answers otherwise on purpose,
//! [`Asked::but`] says how; the two reasons are that a mistake of the client's is answered with 400 (as newer dockerds do,
//! where the old one said 500), and that newer dockerds have other words. Words are compared without regard to case.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use shoal_tests::command::{Said, command, run, run_with_input};
use shoal_tests::image::NAME;
use shoal_tests::lab::{Lab, binary, live};

mod recorded;
mod testcontainers;
mod versions;

use recorded::{Asked, COPIES, FAULTS, GONE, LISTS, NAMES_AND_PAUSES, PRUNES, PYTHON, SHAPE, UPDATES, WAITS_AND_TOPS};

/// A daemon that is asked.
struct Daemon {
    socket: String,
    is_dockerd: bool,
    /// Ends with it.
    lab: Option<Lab>,
}

impl Daemon {
    /// A fresh one, or the dockerd of the environment.
    fn up(name: &str) -> anyhow::Result<Self> {
        if let Ok(socket) = std::env::var("SHOAL_CONFORM_SOCKET") {
            return Ok(Self { socket, is_dockerd: true, lab: None });
        }
        let lab = Lab::up_with(name, 1, 0, &["--no-cluster"])?;
        lab.load_image(&["m1"])?;
        let socket = lab.socket("m1").trim_start_matches("unix://").to_owned();
        Ok(Self { socket, is_dockerd: false, lab: Some(lab) })
    }

    fn docker(&self, args: &[&str]) -> anyhow::Result<Said> {
        let host = format!("unix://{}", self.socket);
        run_with_input(command("docker", &[&["-H", &host], args].concat()), b"")
    }

    /// Runs a program on the daemon's host.
    fn on(&self, words: &[&str]) -> anyhow::Result<Said> {
        match (&self.lab, words.split_first()) {
            (Some(lab), _) => lab.on("m1", words),
            (None, Some((program, args))) => run(program, args),
            (None, None) => anyhow::bail!("no program"),
        }
    }

    /// A line, split at spaces, that must succeed. `IMAGE` stands for the test image.
    fn ok(&self, line: &str) -> anyhow::Result<String> {
        let args: Vec<&str> = line.split(' ').map(|word| if word == "IMAGE" { NAME } else { word }).collect();
        self.docker(&args)?.ok().with_context(|| format!("docker {line}"))
    }

    /// Status and text of an answer; ids are replaced by `ID`.
    fn api(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(u16, String)> {
        self.api_of(41, method, path, body)
    }

    /// The same in version `1.minor`.
    fn api_of(&self, minor: u32, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(u16, String)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // HTTP/1.0: the answer ends with the connection, and is not chunked.
        let head = format!(
            "{method} /v1.{minor}{path} HTTP/1.0\r\nHost: d\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            if path.contains("/archive") { "application/x-tar" } else { "application/json" },
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok((status, without_ids(body.trim())))
    }

    fn ask(&self, questions: &[Asked]) -> anyhow::Result<()> {
        for asked in questions {
            let body = asked.body.replace("IMAGE", NAME);
            let (status, text) = self.api(asked.method, asked.path, body.as_bytes())?;
            let (code, says) = if self.is_dockerd { asked.recorded } else { asked.here.unwrap_or(asked.recorded) };
            let says_so = text.to_lowercase().contains(&says.to_lowercase());
            ensure!(
                status == code && says_so,
                "{} {} {}: expected {code} {says:?}, got {status} {text}",
                asked.method,
                asked.path,
                asked.body
            );
        }
        Ok(())
    }

    fn down(self) -> anyhow::Result<()> {
        self.lab.map_or(Ok(()), Lab::down)
    }
}

/// Runs of 64 hexadecimal digits become `ID`.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut digits = String::new();
    for letter in text.chars().chain(['\n']) {
        if letter.is_ascii_hexdigit() {
            digits.push(letter);
            continue;
        }
        out.push_str(if digits.len() == 64 { "ID" } else { &digits });
        digits.clear();
        out.push(letter);
    }
    out.trim_end().to_owned()
}

/// A container of each kind.
fn furnish(daemon: &Daemon) -> anyhow::Result<()> {
    daemon.ok("create --name made -l a=1 -l b=2 IMAGE true")?;
    daemon.ok("run -d --name up -l a=1 -p 127.0.0.1:8081:80 --expose 90 -v vol:/v IMAGE sleep 1000")?;
    ensure!(daemon.docker(&["run", "--name", "done3", NAME, "sh", "-c", "exit 3"])?.code == 3);
    daemon.ok("run --name done0 -l c=3 IMAGE true")?;
    daemon.ok("run -d --name frozen IMAGE sleep 1000")?;
    daemon.ok("pause frozen")?;
    daemon.ok("network create --label n=1 netx")?;
    daemon.ok("run -d --name innet --network netx IMAGE sleep 1000")?;
    daemon.ok("tag IMAGE other:2").map(drop)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn lists(daemon: &Daemon) -> anyhow::Result<()> {
    for (filters, more, expected) in LISTS {
        let path = format!("/containers/json?filters={}{more}", encoded(filters));
        let (status, text) = daemon.api("GET", &path, b"")?;
        match expected {
            Ok(names) => {
                let found: Value =
                    serde_json::from_str(&text).with_context(|| format!("{filters}: {status} {text}"))?;
                let name = |container: &Value| container["Names"][0].as_str().map(|name| name[1..].to_owned());
                let mut found: Vec<_> = found.as_array().into_iter().flatten().filter_map(name).collect();
                found.sort();
                ensure!(status == 200 && found == *names, "{filters}{more}: {found:?} instead of {names:?}");
            }
            Err((code, words)) => {
                ensure!(status == *code && text.to_lowercase().contains(words), "{filters}: {status} {text}");
            }
        }
    }
    Ok(())
}

fn prunes(daemon: &Daemon) -> anyhow::Result<()> {
    for (kind, filters, recorded, here) in PRUNES {
        let (status, text) = daemon.api("POST", &format!("/{kind}/prune?filters={}", encoded(filters)), b"")?;
        let (code, words) = if daemon.is_dockerd { *recorded } else { here.unwrap_or(*recorded) };
        let says_so = text.to_lowercase().contains(&words.to_lowercase());
        ensure!(status == code && says_so, "{kind} {filters}: expected {code} {words:?}, got {status} {text}");
    }
    Ok(())
}

/// Waits that begin before what they wait for.
fn waits(daemon: &Daemon) -> anyhow::Result<()> {
    for (condition, then, code) in [("next-exit", "start -a done3", 3), ("removed", "rm done3", 3)] {
        let mut stream = UnixStream::connect(&daemon.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let path = format!("/v1.41/containers/done3/wait?condition={condition}");
        stream.write_all(format!("POST {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").as_bytes())?;
        // The head comes when the wait has begun.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        drop(daemon.docker(&then.split(' ').collect::<Vec<_>>())?);
        let mut rest = String::new();
        stream.read_to_string(&mut rest)?;
        ensure!(rest.contains(&format!("\"StatusCode\":{code}")), "{condition}: {rest}");
    }
    Ok(())
}

#[test]
fn what_dockerd_answers() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let daemon = Daemon::up("conform")?;
    furnish(&daemon)?;
    daemon.ask(NAMES_AND_PAUSES).context("names and pauses")?;
    daemon.ask(FAULTS).context("faults")?;
    daemon.ask(WAITS_AND_TOPS).context("waits and tops")?;
    lists(&daemon).context("lists")?;
    daemon.ok("run -d --rm --name auto IMAGE sleep 1000")?;
    daemon.ask(UPDATES).context("updates")?;
    shape(&daemon).context("inspect")?;
    waits(&daemon).context("waits")?;
    prunes(&daemon).context("prunes")?;
    daemon.ok("rm -f up frozen innet auto")?;
    daemon.ok("volume rm vol")?;
    daemon.ok("network rm netx")?;
    daemon.ok("rmi other:2")?;
    daemon.down()
}

fn shape(daemon: &Daemon) -> anyhow::Result<()> {
    let (_, text) = daemon.api("GET", "/containers/up/json", b"")?;
    let inspected: Value = serde_json::from_str(&text)?;
    let nested = ["Config", "HostConfig", "State", "NetworkSettings", "GraphDriver"];
    let mut found = Vec::new();
    for (name, value) in inspected.as_object().context("no object")? {
        match value.as_object().filter(|_| nested.contains(&name.as_str())) {
            Some(members) => found.extend(members.keys().map(|member| format!("{name}.{member}"))),
            None => found.push(name.clone()),
        }
    }
    let wanted: Vec<&str> = SHAPE.split_whitespace().filter(|name| daemon.is_dockerd || !GONE.contains(name)).collect();
    let missing: Vec<_> = wanted.iter().filter(|name| !found.iter().any(|have| have == *name)).collect();
    ensure!(missing.is_empty(), "missing: {missing:?}");
    if daemon.is_dockerd {
        let more: Vec<_> = found.iter().filter(|name| !wanted.contains(&name.as_str())).collect();
        ensure!(more.is_empty(), "not recorded: {more:?}");
    }
    for (path, value) in
        [("/Config/Volumes", Value::Null), ("/Config/Entrypoint", Value::Null), ("/ExecIDs", Value::Null)]
    {
        ensure!(inspected.pointer(path) == Some(&value), "{path}: {:?}", inspected.pointer(path));
    }
    ensure!(inspected["State"]["Status"] == "running" && inspected["Mounts"][0]["Name"] == "vol", "{inspected}");
    Ok(())
}

/// `cp`, `commit`, `export` and `diff` by a CLI: docker's own, and Shoal's as the second.
fn copies(daemon: &Daemon, program: &str, folder: &std::path::Path) -> anyhow::Result<()> {
    let path = |name: &str| folder.join(name);
    for (name, text) in [("src/f", "one"), ("src/sub/g", "two"), ("src/hosts", "x"), ("bind/b", "b"), ("out/o", "o")] {
        std::fs::create_dir_all(path(name).parent().context("no parent")?)?;
        std::fs::write(path(name), text)?;
    }
    std::os::unix::fs::symlink("f", path("src/l"))?;
    let bind = path("bind").display().to_string();
    let (shown, fixed) = (format!("{bind}:/bind"), format!("{bind}:/fixed:ro"));
    daemon.docker(&["run", "-d", "--name", "cc", "-v", &shown, "-v", &fixed, NAME, "sleep", "1000"])?.ok()?;
    daemon.ok("run -d --name sealed --read-only -v vol:/v IMAGE sleep 1000")?;
    let host = format!("unix://{}", daemon.socket);
    for (line, code, says, here) in COPIES {
        let mut args = vec!["-H", &host];
        args.extend(line.split(' '));
        let mut asked = command(program, &args);
        asked.current_dir(folder);
        let said = run_with_input(asked, b"").context("cannot start")?;
        let says = if daemon.is_dockerd { says } else { here.as_ref().unwrap_or(says) };
        let says_so = said.err.to_lowercase().contains(&says.to_lowercase());
        ensure!(said.code == *code && says_so, "{program} {line}: {} {}{}", said.code, said.err, said.out);
    }
    ensure!(
        daemon
            .ok("exec cc cat /tmp/new/sub/g /www/f /tmp/renamed /bind/f /etc/passwd")?
            .starts_with("twooneoneoneroot")
    );
    for (name, text) in [("out/new/f", "one"), ("out/other/sub/g", "two"), ("bind/f", "one")] {
        ensure!(std::fs::read_to_string(path(name))? == text, "{name}");
    }
    ensure!(std::fs::read_link(path("out/new/l"))?.as_os_str() == "f", "a link was followed");
    ensure!(std::fs::metadata(path("out/sh"))?.len() > 100_000, "a link was not followed");
    ensure!(std::fs::read_to_string(path("out/hosts"))?.contains("localhost"), "the hosts file is not the container's");
    ensure!(run("tar", &["tf", &path("out/e.tar").display().to_string()])?.ok()?.contains("tmp/new/sub/g"));
    let changes = daemon.ok("diff cc")?;
    for line in ["C /tmp", "A /tmp/new/sub/g", "C /www", "A /bind"] {
        ensure!(changes.lines().any(|have| have == line), "no {line} in {changes}");
    }
    ensure!(!changes.contains("/bind/f") && !changes.contains("/etc/hosts") && !changes.contains("/proc"), "{changes}");
    run(program, &["-H", &host, "commit", "-a", "me", "-m", "why", "-c", "USER web", "cc", "kept:1"])?.ok()?;
    let made = daemon.ok("inspect kept:1 --format {{.Author}},{{.Comment}},{{.Config.User}}")?;
    ensure!(made == "me,why,web", "{made}");
    ensure!(daemon.ok("run --rm kept:1 cat /tmp/new/f")? == "one");
    ensure!(daemon.ok("inspect cc --format {{.State.Status}}")? == "running", "it is still frozen");
    daemon.ok("rm -f cc sealed")?;
    daemon.ok("volume rm vol")?;
    daemon.ok("rmi kept:1").map(drop)
}

#[test]
fn files_go_in_and_out_as_with_dockerd() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let daemon = Daemon::up("files")?;
    let folder = std::env::temp_dir().join(format!("shoal-conform-{}", std::process::id()));
    let programs: &[&str] = if daemon.is_dockerd { &["docker"] } else { &["docker", &binary()] };
    for program in programs {
        let copied = copies(&daemon, program, &folder);
        std::fs::remove_dir_all(&folder)?;
        copied.with_context(|| (*program).to_owned())?;
    }
    daemon.down()
}

/// A Python that can import these modules, of these packages of PyPI; `None`, loudly, where they cannot be had.
fn python_with(name: &str, packages: &[&str], modules: &str) -> Option<String> {
    let place = std::env::temp_dir().join(format!("shoal-python-{name}")).display().to_string();
    let python = format!("{place}/bin/python");
    if run(&python, &["-c", &format!("import {modules}")]).is_ok_and(|said| said.code == 0) {
        return Some(python);
    }
    let made = run("python3", &["-m", "venv", &place])
        .and_then(Said::ok)
        .and_then(|_| run(&format!("{place}/bin/pip"), &[&["install", "-q"], packages].concat())?.ok());
    match made {
        Ok(_) => Some(python),
        Err(error) => {
            eprintln!("SKIPPED: {} cannot be installed for Python: {error:#}", packages.join(" and "));
            None
        }
    }
}

#[test]
fn the_sdk_for_python_finds_what_it_expects() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let packages = ["docker", "websocket-client"];
    let Some(python) = python_with("sdk", &packages, "docker, websocket") else { return Ok(()) };
    let daemon = Daemon::up("sdk")?;
    run(&python, &["-c", PYTHON, &daemon.socket, NAME])?.ok()?;
    daemon.down()
}
