//! The daemon itself: its options, its file, its signals, its metrics, TLS, and two daemons on one host.

mod checkpoint;
mod host;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, ensure};
use shoal_tests::command::run;
use shoal_tests::image;
use shoal_tests::lab::live;
use shoal_tests::wait::until;

use host::{Daemon, Host};

#[test]
fn options_are_checked_as_dockerd_checks_them() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("options")?;
    let dockerd = host.dockerd()?;
    let good =
        host.write("good.json", r#"{"debug": true, "log-opts": {"max-size": "1m"}, "proxies": {"no-proxy": "a"}}"#)?;
    let empty = host.write("empty.json", "")?;
    let bad = host.write("bad.json", r#"{"lables": ["a=b"]}"#)?;
    ensure!(run(&dockerd, &["--validate", "--config-file", &good])?.ok()? == "configuration OK");
    let refused = |words: &[&str]| run(&dockerd, words)?.refused();
    let unknown = refused(&["--validate", "--config-file", &bad])?;
    ensure!(unknown.contains("don't match any configuration option: lables"), "{unknown}");
    let both = refused(&["--validate", "--config-file", &good, "-D"])?;
    ensure!(
        both.contains("as a flag and in the configuration file: debug: (from flag: true, from file: true)"),
        "{both}"
    );
    let nobody = ["--validate", "--config-file", &good, "--userns-remap", "nobody-of-this-name"];
    ensure!(refused(&nobody)?.contains("user \"nobody-of-this-name\" has no entry in /etc/passwd"));
    for (name, value, expected) in [
        ("--log-driver", "carrier-pigeon", "plugin \"carrier-pigeon\" not found"),
        ("--log-opt", "foo=bar", "unknown log opt 'foo'"),
        ("--group", "nosuch-group", "group nosuch-group not found"),
    ] {
        let said = refused(&["--validate", "--config-file", &empty, name, value])?;
        ensure!(said.contains(expected), "{name}: {said}");
    }
    ensure!(run(&dockerd, &["--nonsense"])?.code == 125);
    // What only the engine can judge.
    let (data, exec, pid) = (host.path("data"), host.path("exec"), host.path("pid"));
    let socket = format!("unix://{}", host.path("x.sock"));
    let folders =
        ["--data-root", &data, "--exec-root", &exec, "--pidfile", &pid, "-H", &socket, "--config-file", &good];
    let log: Vec<&str> = folders.into_iter().chain(["--log-driver", "carrier-pigeon"]).collect();
    let driver = host.run(&[&[dockerd.as_str()], log.as_slice()].concat())?.refused()?;
    ensure!(driver.contains("plugin \"carrier-pigeon\" not found"), "{driver}");
    Ok(())
}

#[test]
fn a_reload_takes_effect_and_a_bad_file_does_not() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("reload")?;
    host.write("a.json", r#"{"labels": ["zone=a"], "insecure-registries": ["reg.local:5000"]}"#)?;
    let daemon = host.start("a", &["--shutdown-timeout", "1"])?;
    let info = |field: &str| daemon.ok(&["info", "--format", field]);
    ensure!(info("{{json .Labels}} {{.Debug}}")? == r#"["zone=a"] false"#);
    ensure!(info("{{(index .RegistryConfig.IndexConfigs \"reg.local:5000\").Secure}}")? == "false");
    daemon.reload(r#"{"labels": ["zone=b"], "debug": true, "data-root": "/elsewhere"}"#)?;
    // Given on the command line, too: the file as a whole cannot be used.
    until(10, "the refusal", || daemon.log().contains("specified both as a flag").then_some(()).context("not yet"))?;
    ensure!(info("{{json .Labels}} {{.Debug}}")? == r#"["zone=a"] false"#);
    daemon.reload(
        r#"{"labels": ["zone=b"], "debug": true, "default-shm-size": "1m", "registry-mirrors": ["https://m.local"], "mtu": 1400}"#,
    )?;
    until(10, "the reload", || {
        ensure!(
            info("{{json .Labels}} {{.Debug}} {{.RegistryConfig.Mirrors}}")? == r#"["zone=b"] true [https://m.local/]"#
        );
        Ok(())
    })?;
    until(10, "the note on what needs a restart", || daemon.log().contains("mtu").then_some(()).context("none"))?;
    let past = ["events", "--since", "0", "--until", "0s", "--filter", "type=daemon", "--format", "{{json .}}"];
    until(10, "the event", || {
        let event: serde_json::Value = serde_json::from_str(daemon.ok(&past)?.lines().last().context("none")?)?;
        let attributes = &event["Actor"]["Attributes"];
        ensure!(event["Action"] == "reload" && attributes["labels"] == r#"["zone=b"]"#, "{event}");
        ensure!(attributes["default-shm-size"] == "1048576", "{event}");
        Ok(())
    })?;
    daemon.load_image()?;
    ensure!(daemon.ok(&["run", "--rm", image::NAME, "grep", "/dev/shm", "/proc/mounts"])?.contains("size=1024k"));
    // The cluster hears of new labels at once.
    daemon.ok(&["swarm", "init", "--advertise-addr", "127.0.0.1"])?;
    let labels = ["node", "inspect", "self", "--format", "{{json .Description.Engine.Labels}}"];
    let are = |wanted: &str| {
        let shown = daemon.ok(&labels)?;
        ensure!(shown == wanted, "{shown}");
        Ok(())
    };
    until(10, "the labels", || are(r#"{"zone":"b"}"#))?;
    daemon.reload(r#"{"labels": ["zone=c"]}"#)?;
    until(10, "the new labels", || are(r#"{"zone":"c"}"#))?;
    daemon.ok(&["swarm", "leave", "--force"])?;
    daemon.reload("{")?;
    until(10, "the refusal", || {
        ensure!(daemon.log().matches("is not reloaded").count() == 2, "not yet");
        Ok(())
    })?;
    ensure!(info("{{json .Labels}}")? == r#"["zone=c"]"#);
    // A file that would be waited for does not take the other signals with it.
    let file = host.path("a.json");
    std::fs::remove_file(&file)?;
    host.run(&["mkfifo", &file])?.ok()?;
    daemon.signal("-HUP")?;
    until(10, "the refusal", || daemon.log().contains("no regular file").then_some(()).context("not yet"))?;
    // The clean-up reads it, too.
    std::fs::remove_file(&file)?;
    host.write("a.json", "{}")?;
    daemon.stop()
}

/// Starts a container that serves a page with this daemon's name.
fn serve(daemon: &Daemon<'_>, port: &str) -> anyhow::Result<()> {
    let (page, publish) =
        (format!("echo {} > /www/index.html; exec httpd -f -h /www", daemon.name), format!("{port}:80"));
    let run = ["run", "-d", "--name", "web", "-p", &publish, image::NAME, "sh", "-c", &page];
    daemon.ok(&run).map(drop)
}

/// The page at this port of the host.
fn fetch(host: &Host, port: &str) -> anyhow::Result<String> {
    host.run(&["timeout", "2", "busybox", "wget", "-q", "-O", "-", &format!("http://127.0.0.1:{port}/")])?.ok()
}

#[test]
fn two_daemons_on_one_host_do_not_disturb_each_other() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("two")?;
    let one = host.start("one", &["--bip", "10.91.0.1/24"])?;
    let two = host.start("two", &["--bip", "10.92.0.1/24"])?;
    for (daemon, port) in [(&one, "8001"), (&two, "8002")] {
        daemon.load_image()?;
        serve(daemon, port)?;
    }
    let serves = |port: &str, page: &str| {
        until(10, "the page", || {
            ensure!(fetch(&host, port)? == page, "another page");
            Ok(())
        })
    };
    serves("8001", "one")?;
    serves("8002", "two")?;
    for (daemon, subnet) in [(&one, "10.91.0."), (&two, "10.92.0.")] {
        let addr = daemon.ok(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"])?;
        ensure!(addr.starts_with(subnet), "{addr}");
    }
    let tables = host.run(&["nft", "list", "tables"])?.ok()?;
    ensure!(tables.lines().collect::<BTreeSet<_>>().len() == 2, "{tables}");
    let words = format!(
        "{} --data-root {} --exec-root {} -H unix://{} --pidfile {} --config-file {}",
        host.dockerd()?,
        host.path("third"),
        host.path("one/exec"),
        host.path("third.sock"),
        host.path("third.pid"),
        host.path("one.json")
    );
    let third = host.run(&words.split(' ').collect::<Vec<_>>())?.refused()?;
    ensure!(third.contains("is in use by another daemon"), "{third}");
    // One goes and comes; the other does not notice.
    one.ok(&["rm", "-f", "web"])?;
    one.stop()?;
    serves("8002", "two")?;
    let one = host.start("one", &["--bip", "10.91.0.1/24"])?;
    serves("8002", "two")?;
    one.stop()?;
    two.ok(&["rm", "-f", "web"])?;
    two.stop()
}

#[test]
fn options_reach_containers_and_networks() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("reach")?;
    let options = "--bip 10.94.0.1/24 --fixed-cidr 10.94.0.64/28 --icc=false --mtu 1400 --default-ulimit nofile=99:99 \
        --dns 192.0.2.53 --init --no-new-privileges --log-opt max-size=1m --ip 127.0.0.1 \
        --default-address-pool base=10.95.0.0/16,size=24 --default-network-opt bridge=com.docker.network.driver.mtu=1234";
    let daemon = host.start("a", &options.split_whitespace().collect::<Vec<_>>())?;
    daemon.load_image()?;
    serve(&daemon, "8001")?;
    until(10, "the page", || fetch(&host, "8001").map(drop))?;
    let inside = |script: &str| daemon.ok(&["exec", "web", "sh", "-c", script]);
    ensure!(inside("ulimit -n")? == "99");
    ensure!(inside("cat /etc/resolv.conf")?.contains("nameserver 192.0.2.53"));
    ensure!(inside("cat /proc/1/cmdline")?.contains("init"), "no init");
    ensure!(inside("grep NoNewPrivs /proc/self/status")?.ends_with('1'));
    ensure!(inside("ip link show eth0")?.contains("mtu 1400"));
    let inspect = |format: &str| daemon.ok(&["inspect", "-f", format, "web"]);
    ensure!(inspect("{{.HostConfig.LogConfig.Config}}")? == "map[max-size:1m]");
    ensure!(inspect("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostIp}}")? == "127.0.0.1");
    let addr = inspect("{{.NetworkSettings.IPAddress}}")?;
    ensure!(addr.starts_with("10.94.0.6"), "{addr} is not of the fixed part");
    let page = format!("http://{addr}/");
    let neighbour = daemon.docker(&["run", "--rm", image::NAME, "timeout", "2", "wget", "-q", "-O", "-", &page])?;
    ensure!(neighbour.code != 0, "--icc=false lets neighbours in");
    daemon.ok(&["network", "create", "more"])?;
    let network = daemon.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}} {{.Options}}", "more"])?;
    ensure!(network == "10.95.0.0/24 map[com.docker.network.driver.mtu:1234]", "{network}");
    daemon.ok(&["rm", "-f", "web"])?;
    daemon.stop()
}

#[test]
fn disk_usage_is_measured() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("disk")?;
    let daemon = host.start("a", &["--bridge", "none"])?;
    daemon.load_image()?;
    daemon.ok(&["volume", "create", "unused"])?;
    let script = "head -c 100000 /dev/zero > /x; head -c 5000 /dev/zero > /data/y; exec sleep 1000";
    daemon.ok(&["run", "-d", "--name", "writer", "-v", "used:/data", image::NAME, "sh", "-c", script])?;
    until(10, "what the container writes", || {
        let usage = daemon.ok(&["system", "df", "--format", "{{.Type}}: {{.TotalCount}} {{.Active}} {{.Size}}"])?;
        ensure!(usage.contains("Images: 1 1 ") && usage.contains("Containers: 1 1 100kB"), "{usage}");
        ensure!(usage.contains("Local Volumes: 2 1 5kB"), "{usage}");
        Ok(())
    })?;
    let detailed = daemon.ok(&["system", "df", "-v"])?;
    let line = |name: &str| {
        let words = detailed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.into_iter().find(|words| words.first() == Some(&name)).with_context(|| detailed.clone())
    };
    ensure!(line("used")?[1..] == ["1", "5kB"] && line("unused")?[1..] == ["0", "0B"], "{detailed}");
    ensure!(line("page")?.contains(&"0B") && line("page")?.ends_with(&["1"]), "{detailed}");
    daemon.ok(&["rm", "-f", "writer"])?;
    daemon.stop()
}

#[test]
fn containers_end_with_the_daemon_when_told_so() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("ends")?;
    let options = ["--live-restore=false", "--shutdown-timeout", "1", "--bridge", "none"];
    let daemon = host.start("a", &options)?;
    daemon.load_image()?;
    ensure!(daemon.ok(&["info", "--format", "{{.LiveRestoreEnabled}}"])? == "false");
    ensure!(!daemon.ok(&["network", "ls", "--format", "{{.Name}}"])?.contains("bridge"));
    // A shell that is process 1 does not hear SIGTERM.
    daemon.ok(&["run", "-d", "--name", "again", "--restart", "always", image::NAME, "sleep", "1000"])?;
    daemon.ok(&["run", "-d", "--name", "once", image::NAME, "sleep", "1000"])?;
    ensure!(daemon.ok(&["exec", "once", "ip", "-o", "link"])?.lines().count() == 1, "only loopback");
    let pid: u32 = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "once"])?.parse()?;
    daemon.stop()?;
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "it outlives the daemon");
    let daemon = host.start("a", &options)?;
    until(10, "the container that is to run always", || {
        ensure!(daemon.ok(&["inspect", "-f", "{{.State.Running}}", "again"])? == "true", "not yet");
        Ok(())
    })?;
    ensure!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "once"])? == "exited");
    daemon.ok(&["rm", "-f", "again", "once"])?;
    daemon.stop()
}

#[test]
fn metrics_and_dumps_tell_what_is_going_on() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("metrics")?;
    let daemon = host.start("a", &["--metrics-addr", "127.0.0.1:9323", "--log-format", "json", "--debug"])?;
    daemon.load_image()?;
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "sick",
        "--health-cmd",
        "false",
        "--health-interval",
        "100ms",
        image::NAME,
        "sleep",
        "1000",
    ])?;
    let page = || host.run(&["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9323/metrics"])?.ok();
    let value = |name: &str| {
        let page = page()?;
        let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        found.with_context(|| format!("no {name} in {page}"))
    };
    until(10, "a health check", || {
        ensure!(value("engine_daemon_health_checks_failed_total")? >= 1.0, "none yet");
        Ok(())
    })?;
    ensure!((value("engine_daemon_container_states_containers{state=\"running\"}")? - 1.0).abs() < 0.1);
    ensure!((value("engine_daemon_container_actions_seconds_count{action=\"start\"}")? - 1.0).abs() < 0.1);
    ensure!(value("process_resident_memory_bytes")? > 1e6);
    ensure!(page()?.contains("engine_daemon_engine_info{architecture="));
    daemon.signal("-USR1")?;
    let mut file = String::new();
    until(10, "a dump", || {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("stacks written")).context("not yet")?;
        let line: serde_json::Value = serde_json::from_str(line).context("the log is not JSON")?;
        line["file"].as_str().context("no file")?.clone_into(&mut file);
        Ok(())
    })?;
    ensure!(file.starts_with(&host.path("a/exec/")), "{file}");
    let dump = std::fs::read_to_string(&file)?;
    ensure!(dump.contains("threads:") && dump.contains(" sick running pid "), "{dump}");
    let debug = |path: &str| {
        let url = format!("http://shoal{path}");
        run("curl", &["-s", "--unix-socket", daemon.socket.trim_start_matches("unix://"), "-w", "%{http_code}", &url])?
            .ok()
    };
    ensure!(debug("/debug/pprof/goroutine")?.contains("containers:"));
    ensure!(debug("/debug/vars")?.contains("cmdline"));
    ensure!(debug("/debug/pprof/heap")?.ends_with("501"));
    daemon.ok(&["rm", "-f", "sick"])?;
    daemon.stop()
}

/// An authority, and what it has signed for the daemon (`server`) and a client, made by openssl.
fn certificates(host: &Host, authority: &str) -> anyhow::Result<()> {
    let dir = host.folder.join(authority);
    std::fs::create_dir_all(&dir)?;
    let name = |file: &str| dir.join(file).display().to_string();
    let openssl = |words: &[&str]| run("openssl", words)?.ok().map(drop);
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let (ca, ca_key) = (name("ca.pem"), name("ca-key.pem"));
    openssl(&[&["req", "-x509", "-subj", "/CN=ca", "-keyout", &ca_key, "-out", &ca], &key[..]].concat())?;
    for who in ["server", "client"] {
        let (cert, cert_key) = (name(&format!("{who}.pem")), name(&format!("{who}-key.pem")));
        let subject = format!("/CN={who}");
        openssl(
            &[
                &[
                    "req",
                    "-x509",
                    "-subj",
                    &subject,
                    "-addext",
                    "subjectAltName=IP:127.0.0.1",
                    "-addext",
                    "basicConstraints=critical,CA:FALSE",
                ],
                &["-CA", &ca, "-CAkey", &ca_key, "-keyout", &cert_key, "-out", &cert],
                &key[..],
            ]
            .concat(),
        )?;
    }
    Ok(())
}

#[test]
fn tls_lets_in_whom_the_authority_knows() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let host = Host::new("tls")?;
    certificates(&host, "ours")?;
    certificates(&host, "theirs")?;
    let (ca, cert, key) = (host.path("ours/ca.pem"), host.path("ours/server.pem"), host.path("ours/server-key.pem"));
    let daemon = host.start(
        "a",
        &[
            "-H",
            "tcp://0.0.0.0:2376",
            "--tls",
            "--tlsverify",
            "--tlscacert",
            &ca,
            "--tlscert",
            &cert,
            "--tlskey",
            &key,
            "--group",
            "root",
        ],
    )?;
    let version = |of: &str, verify: &str| {
        let (cert, key) = (host.path(&format!("{of}/client.pem")), host.path(&format!("{of}/client-key.pem")));
        let files = ["--tlscacert", ca.as_str(), "--tlscert", &cert, "--tlskey", &key];
        host.run(
            &[
                &["docker", "-H", "tcp://127.0.0.1:2376", verify],
                &files[..],
                &["version", "--format", "{{.Server.Os}}"],
            ]
            .concat(),
        )
    };
    ensure!(version("ours", "--tlsverify")?.ok()? == "linux");
    ensure!(version("theirs", "--tlsverify")?.code != 0, "a certificate of another authority");
    let bare = host.run(&["docker", "-H", "tcp://127.0.0.1:2376", "version"])?;
    ensure!(bare.code != 0, "without TLS: {}", bare.out);
    ensure!(daemon.ok(&["info", "--format", "{{json .Warnings}}"])?.contains("null"));
    daemon.stop()?;
    let daemon = host.start("a", &["-H", "tcp://127.0.0.1:2375"])?;
    let warnings = daemon.ok(&["info", "--format", "{{json .Warnings}}"])?;
    ensure!(warnings.contains("API is accessible on http://127.0.0.1:2375 without encryption"), "{warnings}");
    daemon.stop()
}
