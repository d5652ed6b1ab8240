//! A lab (`shoal lab`) as a value: made by [`Lab::up`], gone when dropped, and dropping checks that nothing is left.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::command::{Said, command, run, run_with_input};
use crate::wait::until;

/// Path of the binary under test.
pub fn binary() -> String {
    std::env::var("SHOAL_BINARY")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/shoal").to_owned())
}

/// Should tests that need root and a built binary run? `tests/run live` says so.
pub fn live() -> bool {
    let live = std::env::var("SHOAL_LIVE").is_ok_and(|value| value == "1");
    if !live {
        eprintln!("SKIPPED: a live test; run ./tests/run live");
    }
    live
}

/// Hosts on this machine, each with a daemon.
#[derive(Debug)]
pub struct Lab {
    /// Its name.
    pub name: String,
    down: bool,
}

impl Lab {
    /// Brings up a cluster of so many managers (`m1`…) and workers (`w1`…).
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(name: &str, managers: u32, workers: u32) -> anyhow::Result<Self> {
        Self::up_with(name, managers, workers, &[])
    }

    /// The same with more arguments to `shoal lab up`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up_with(name: &str, managers: u32, workers: u32, more: &[&str]) -> anyhow::Result<Self> {
        let lab = Self { name: name.to_owned(), down: false };
        lab.shoal(&["down"])?.ok().context("removing what an earlier run left")?;
        let (managers, workers) = (managers.to_string(), workers.to_string());
        let mut args = vec!["up", "--managers", &managers, "--workers", &workers];
        args.extend(more);
        lab.shoal(&args)?.ok().context("lab up")?;
        Ok(lab)
    }

    /// `shoal lab VERB --name NAME …`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn shoal(&self, args: &[&str]) -> anyhow::Result<Said> {
        let (verb, rest) = args.split_first().context("no verb")?;
        let mut all = vec!["lab", verb, "--name", &self.name];
        all.extend(rest);
        run(&binary(), &all)
    }

    /// The folder of its hosts' data.
    pub fn dir(&self) -> String {
        format!("/var/lib/shoal-lab/{}", self.name)
    }

    /// The API socket of a host.
    pub fn socket(&self, host: &str) -> String {
        format!("unix:///run/shoal-lab/{}/{host}.sock", self.name)
    }

    /// The docker CLI, talking to this host.
    pub fn docker_command(&self, host: &str, args: &[&str]) -> Command {
        let socket = self.socket(host);
        let mut all = vec!["-H", &socket];
        all.extend(args);
        command("docker", &all)
    }

    /// Runs the docker CLI against this host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn docker(&self, host: &str, args: &[&str]) -> anyhow::Result<Said> {
        run_with_input(self.docker_command(host, args), b"")
    }

    /// The same as one line, split at spaces, that must succeed.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok(&self, host: &str, line: &str) -> anyhow::Result<String> {
        let args: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        self.docker(host, &args)?.ok().with_context(|| format!("docker {line} on {host}"))
    }

    /// What the host's API answers to a GET of this path, without the docker CLI's own cost.
    ///
    /// # Errors
    /// When it does not answer with success and JSON.
    pub fn get(&self, host: &str, path: &str) -> anyhow::Result<serde_json::Value> {
        let socket = self.socket(host);
        let mut stream = UnixStream::connect(socket.trim_start_matches("unix://"))?;
        // HTTP/1.0: the answer ends with the connection, and is not chunked.
        write!(stream, "GET /v1.51{path} HTTP/1.0\r\nHost: shoal\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8(answer)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(status == "200", "GET {path}: {status}: {body}");
        Ok(serde_json::from_str(body)?)
    }

    /// What the host's API answers to a request: its status, and its JSON (null when there is none).
    ///
    /// # Errors
    /// When it does not answer in HTTP.
    pub fn request(
        &self,
        method: &str,
        host: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<(u16, serde_json::Value)> {
        self.request_of_version("1.51", method, host, path, body)
    }

    /// The same in a version of the API that an older peer speaks as well.
    ///
    /// # Errors
    /// When it does not answer in HTTP.
    pub fn request_of_version(
        &self,
        version: &str,
        method: &str,
        host: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<(u16, serde_json::Value)> {
        let socket = self.socket(host);
        let mut stream = UnixStream::connect(socket.trim_start_matches("unix://"))?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
        let length = body.len();
        write!(
            stream,
            "{method} /v{version}{path} HTTP/1.0\r\nHost: shoal\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body.as_bytes()).with_context(|| format!("sending {length} bytes to {path}"))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}: no answer"))?;
        let text = String::from_utf8(answer)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// The process id of a host's daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn daemon(&self, host: &str) -> anyhow::Result<u32> {
        let said = self.shoal(&["status", "--format", "{{.Host}} {{.PID}}"])?.ok()?;
        let found = said.lines().find_map(|line| line.strip_prefix(host)?.strip_prefix(' ')?.parse().ok());
        found.with_context(|| format!("no daemon on {host}: {said}"))
    }

    /// The process ids of a host's shims.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn shims(&self, host: &str) -> anyhow::Result<Vec<u32>> {
        let folder = format!("/run/shoal-lab/{}/{host}/", self.name);
        let said = run("pgrep", &["-f", &format!("shim .*{folder}")])?;
        Ok(said.out.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Creates a service of the test image, without waiting; `flags` is split at spaces. Its tasks have a second to end:
    /// a shell or a `sleep` that is process 1 does not hear SIGTERM.
    ///
    /// # Errors
    /// When it is refused.
    pub fn service(&self, host: &str, name: &str, flags: &str, command: &[&str]) -> anyhow::Result<String> {
        let mut args = vec!["service", "create", "-d", "--stop-grace-period", "1s", "--name", name];
        args.extend(flags.split_whitespace());
        args.push(crate::image::NAME);
        args.extend(command);
        self.docker(host, &args)?.ok().with_context(|| format!("service create --name {name} on {host}"))
    }

    /// Runs a program on a host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn on(&self, host: &str, program: &[&str]) -> anyhow::Result<Said> {
        let mut args = vec!["run", host, "--"];
        args.extend(program);
        self.shoal(&args)
    }

    /// Loads the test image on these hosts.
    ///
    /// # Errors
    /// When a host refuses it.
    pub fn load_image(&self, hosts: &[&str]) -> anyhow::Result<()> {
        let tar = crate::image::busybox()?;
        for host in hosts {
            run_with_input(self.docker_command(host, &["import", "-", crate::image::NAME]), &tar)?
                .ok()
                .with_context(|| format!("import on {host}"))?;
        }
        Ok(())
    }

    /// Waits until no container of any kind is on these hosts.
    ///
    /// # Errors
    /// When some are left after 30 s.
    pub fn until_empty(&self, hosts: &[&str]) -> anyhow::Result<()> {
        until(30, "no container of the service is left", || {
            for host in hosts {
                let left = self.ok(host, "ps -aq")?;
                ensure!(left.is_empty(), "{host} still has {left}");
            }
            Ok(())
        })
        .map(drop)
    }

    /// Takes it down and fails unless everything is gone.
    ///
    /// # Errors
    /// When something is left, by name.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.down = true;
        let said = self.shoal(&["down"])?;
        ensure!(said.code == 0, "lab down left something: {}{}", said.out, said.err);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.down && std::env::var_os("SHOAL_KEEP_LAB").is_none() {
            drop(self.shoal(&["down"]));
        }
    }
}
