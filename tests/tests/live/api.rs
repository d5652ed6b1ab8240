//! The HTTP API as the stock docker CLIs, and clients older than them, use it: one host, both CLIs, the same questions.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use shoal_tests::command::{Said, command, run_with_input};
use shoal_tests::image::NAME;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait;

/// The CLIs that are on this machine: docker's own and Debian's.
fn clis() -> Vec<&'static str> {
    let all = ["/usr/local/bin/docker", "/usr/bin/docker"];
    all.into_iter().filter(|path| std::path::Path::new(path).exists()).collect()
}

/// One CLI, talking to one host.
struct Cli<'a> {
    program: &'a str,
    socket: String,
}

impl Cli<'_> {
    fn with_input(&self, line: &str, input: &[u8]) -> anyhow::Result<Said> {
        let mut args = vec!["-H", &self.socket];
        args.extend(line.split(' ').filter(|word| !word.is_empty()));
        run_with_input(command(self.program, &args), input)
    }

    fn ok(&self, line: &str) -> anyhow::Result<String> {
        self.with_input(line, b"")?.ok().with_context(|| format!("{} {line}", self.program))
    }

    fn refused(&self, line: &str) -> anyhow::Result<String> {
        self.with_input(line, b"")?.refused().with_context(|| format!("{} {line}", self.program))
    }
}

/// Sends bytes to the API and gives all that comes back until the daemon closes, or nothing comes for two seconds.
fn raw(lab: &Lab, request: &[u8], then: &[u8]) -> anyhow::Result<String> {
    let socket = lab.socket("m1");
    let mut stream = UnixStream::connect(socket.trim_start_matches("unix://"))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(request)?;
    stream.write_all(then)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..read]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether a text has a part, in whatever case: the CLIs differ in it.
fn contains(text: &str, part: &str) -> anyhow::Result<()> {
    ensure!(text.to_lowercase().contains(&part.to_lowercase()), "expected {part:?} in: {text}");
    Ok(())
}

#[test]
fn both_clis_drive_containers() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("api", 1, 0)?;
    lab.load_image(&["m1"])?;
    for (number, program) in clis().into_iter().enumerate() {
        let cli = Cli { program, socket: lab.socket("m1") };
        let name = format!("c{number}");
        contains(&cli.ok("version --format {{.Server.APIVersion}}")?, "1.51")?;
        contains(&cli.ok("info --format {{.Swarm.LocalNodeState}}")?, "active")?;
        ensure!(cli.ok(&format!("run --rm {NAME} echo hello"))? == "hello");
        let said = cli.with_input(&format!("run --rm -i {NAME} cat"), b"through standard input\n")?;
        ensure!(said.out == "through standard input\n", "{said:?}");
        let said = cli.with_input(&format!("run --rm {NAME} sh -c exit${{IFS}}7"), b"")?;
        ensure!(said.code == 7, "{said:?}");
        cli.ok(&format!("run -d --name {name} --label a=b {NAME} sleep 1000"))?;
        contains(&cli.ok("ps --filter label=a=b --format {{.Names}}:{{.Status}}")?, &format!("{name}:Up"))?;
        ensure!(cli.ok(&format!("exec {name} echo inside"))? == "inside");
        let said = cli.with_input(&format!("exec -i {name} cat"), b"into the exec")?;
        ensure!(said.out == "into the exec", "{said:?}");
        let said = cli.with_input(&format!("exec {name} nosuch"), b"")?;
        ensure!(said.code == 127 && said.out.contains("executable file not found"), "{said:?}");
        contains(&cli.ok(&format!("top {name}"))?, "sleep 1000")?;
        contains(&cli.ok(&format!("stats --no-stream --format {{{{.Name}}}} {name}"))?, &name)?;
        ensure!(cli.ok(&format!("inspect --format {{{{.State.Status}}}} {name}"))? == "running");
        contains(&cli.refused(&format!("rm {name}"))?, "running")?;
        cli.ok(&format!("rename {name} {name}x"))?;
        cli.ok(&format!("kill -s KILL {name}x"))?;
        ensure!(cli.ok(&format!("wait {name}x"))? == "137");
        contains(&cli.ok("events --since 1m --until 0s --filter type=container")?, "container die")?;
        cli.ok(&format!("rm {name}x"))?;
        contains(&cli.refused(&format!("inspect {name}x"))?, "No such object")?;
        contains(&cli.ok("system prune -f")?, "reclaimed")?;
    }
    lab.down()
}

#[test]
fn both_clis_handle_images_volumes_and_networks() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("api-objects", 1, 0)?;
    lab.load_image(&["m1"])?;
    for (number, program) in clis().into_iter().enumerate() {
        let cli = Cli { program, socket: lab.socket("m1") };
        let tag = format!("copy:{number}");
        cli.ok(&format!("tag {NAME} {tag}"))?;
        contains(&cli.ok("images --format {{.Repository}}:{{.Tag}}")?, &tag)?;
        let archive = command(program, &["-H", &cli.socket, "save", &tag]).output()?;
        ensure!(archive.status.success());
        cli.ok(&format!("rmi {tag}"))?;
        contains(&cli.with_input("load", &archive.stdout)?.ok()?, &tag)?;
        cli.ok(&format!("history {tag}"))?;
        cli.ok(&format!("rmi {tag}"))?;
        let text = cli.refused("run --rm not-here:1 true")?;
        contains(&text, "Unable to find image 'not-here:1' locally")?;
        contains(&text, "pull is not available yet")?;
        cli.ok(&format!("pull {NAME}"))?;
        cli.ok(&format!("volume create vol{number}"))?;
        contains(&cli.ok("volume ls -q")?, &format!("vol{number}"))?;
        cli.ok(&format!("volume rm vol{number}"))?;
        contains(&cli.refused(&format!("volume inspect vol{number}"))?, "no such volume")?;
        cli.ok(&format!("network create net{number}"))?;
        cli.ok(&format!("network create -d overlay over{number}"))?;
        let all = cli.ok("network ls --format {{.Name}}:{{.Scope}}")?;
        contains(&all, &format!("net{number}:local"))?;
        contains(&all, &format!("over{number}:swarm"))?;
        ensure!(!cli.ok("network ls --filter scope=local --format {{.Name}}")?.contains("over"));
        contains(&cli.refused(&format!("network create over{number}"))?, "already exists")?;
        cli.ok(&format!("network rm net{number} over{number}"))?;
        cli.ok("system df")?;
        contains(&cli.refused("login -u a -p b localhost:1")?, "registries are not available yet")?;
    }
    lab.down()
}

#[test]
fn bad_requests_get_clear_answers() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("api-bad", 1, 0)?;
    let get = |path: &str| raw(&lab, format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\n").as_bytes(), b"");
    let answer = get("/v1.99/info")?;
    ensure!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    contains(&answer, "client version 1.99 is too new. Maximum supported API version is 1.51")?;
    contains(&get("/v1.12/info")?, "client version 1.12 is too old")?;
    contains(&get("/nowhere")?, r#"{"message":"page not found"}"#)?;
    contains(&get("/containers/none/json")?, "No such container: none")?;
    contains(&get("/containers/json?filters=nonsense")?, "invalid filter")?;
    contains(&get("/services?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D")?, "invalid filter 'colour'")?;
    let post = |path: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        raw(&lab, head.as_bytes(), b"")
    };
    let answer = post("/services/create", r#"{"Name":"web","TaskTempl"#)?;
    ensure!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    contains(&answer, "cut short")?;
    contains(&post("/containers/create", "{}")?, "no image was given")?;
    contains(
        &post("/services/create", r#"{"Mode":{"ReplicatedJob":{}},"TaskTemplate":{"ContainerSpec":{}}}"#)?,
        "501",
    )?;
    contains(&post("/swarm/init", "{}")?, "already part of a swarm")?;
    lab.down()
}

/// As docker-py's tests do it: a change that is based on what the API said just before.
#[test]
fn what_is_told_of_a_new_cluster_holds() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("api-new", 1, 0)?;
    for _ in 0..3 {
        lab.ok("m1", "swarm leave --force")?;
        lab.ok("m1", "swarm init --advertise-addr eth0")?;
        let version = || lab.ok("m1", "node inspect self --format {{.Version.Index}}");
        let before = version()?;
        // Changes of the cluster, one after the other, so that whatever is still under way comes to its end.
        for name in ["one", "two", "three"] {
            lab.ok("m1", &format!("config create {name} /etc/hostname"))?;
            wait::pause(Duration::from_millis(200));
        }
        ensure!(before == version()?, "the node has changed by itself since version {before}");
    }
    lab.down()
}

#[test]
fn networks_have_any_name() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("api-name", 1, 0)?;
    lab.load_image(&["m1"])?;
    for name in ["test 01", ".x", "a/b", "Käse"] {
        lab.docker("m1", &["network", "create", name])?.ok()?;
        lab.docker("m1", &["run", "-d", "--name", "kept", "--network", name, NAME, "sleep", "100"])?.ok()?;
        contains(&lab.docker("m1", &["network", "inspect", name])?.ok()?, "\"Name\": \"kept\"")?;
        lab.docker("m1", &["network", "disconnect", "-f", name, "kept"])?.ok()?;
        lab.docker("m1", &["rm", "-f", "kept"])?.ok()?;
        lab.docker("m1", &["network", "rm", name])?.ok()?;
    }
    contains(&lab.docker("m1", &["network", "create", " "])?.refused()?, "empty")?;
    lab.down()
}

#[test]
fn clients_of_old_take_connections_over_without_asking() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("api-old", 1, 0)?;
    lab.load_image(&["m1"])?;
    lab.ok("m1", &format!("run -d -i --name cc {NAME} cat"))?;
    let answer = raw(
        &lab,
        b"POST /v1.41/containers/cc/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n",
        b"hello\n",
    )?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    contains(&answer, "application/vnd.docker.raw-stream")?;
    contains(&answer, "\u{1}\0\0\0\0\0\0\u{6}hello\n")?;
    lab.down()
}
