//! The peer: Debian's dockerd, one on each of several hosts that are network namespaces, joined by Swarm.
//!
//! Fair play: the same docker CLI calls, the same image, the same machine, in the same run. iptables and the default
//! bridge are off on the peer's side for services, because its tasks here use no network; `docker run` is measured
//! with both sides' default bridge.

use std::path::PathBuf;
use std::process::Child;

use anyhow::{Context, ensure};

use crate::command::{Said, command, run, run_with_input};
use crate::wait::{pause, until};

/// Hosts with a dockerd each.
#[derive(Debug)]
pub struct Peer {
    name: String,
    dir: PathBuf,
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    name: String,
    address: String,
    daemon: Child,
}

impl Peer {
    /// Brings up so many daemons, `p1`…, and makes them a Swarm with one manager when there is more than one.
    ///
    /// # Errors
    /// When a step fails; what was made is removed.
    pub fn up(name: &str, hosts: u32, bridge: bool) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("shoal-peer-{name}"));
        let mut peer = Self { name: name.to_owned(), dir, hosts: Vec::new() };
        peer.cleanup();
        let switch = peer.namespace("sw");
        run("ip", &["netns", "add", &switch])?.ok()?;
        in_namespace(&switch, &["ip", "link", "add", "br0", "type", "bridge"])?.ok()?;
        in_namespace(&switch, &["ip", "link", "set", "br0", "up"])?.ok()?;
        for number in 1..=hosts {
            peer.add_host(number, &switch, bridge)?;
        }
        for host in &peer.hosts {
            until(60, "dockerd answers", || peer.docker(&host.name, &["version"])?.ok().map(drop))?;
        }
        if hosts > 1 {
            peer.join()?;
        }
        Ok(peer)
    }

    fn namespace(&self, host: &str) -> String {
        format!("shoal-peer-{}-{host}", self.name)
    }

    fn add_host(&mut self, number: u32, switch: &str, bridge: bool) -> anyhow::Result<()> {
        let name = format!("p{number}");
        let (namespace, address) = (self.namespace(&name), format!("10.202.0.{number}"));
        run("ip", &["netns", "add", &namespace])?.ok()?;
        let port = format!("to-{name}");
        in_namespace(
            switch,
            &["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace],
        )?
        .ok()?;
        in_namespace(switch, &["ip", "link", "set", &port, "master", "br0", "up"])?.ok()?;
        in_namespace(&namespace, &["ip", "addr", "add", &format!("{address}/24"), "dev", "eth0"])?.ok()?;
        in_namespace(&namespace, &["ip", "link", "set", "eth0", "up"])?.ok()?;
        in_namespace(&namespace, &["ip", "link", "set", "lo", "up"])?.ok()?;
        let dir = self.dir.join(&name);
        std::fs::create_dir_all(&dir)?;
        let path = |file: &str| dir.join(file).display().to_string();
        let net = format!("--net=/run/netns/{namespace}");
        let (data, exec, pid) = (path("data"), path("exec"), path("pid"));
        let socket = self.socket(&name);
        let mut args =
            vec![&*net, "dockerd", "--data-root", &data, "--exec-root", &exec, "--pidfile", &pid, "-H", &socket];
        if !bridge {
            args.extend(["--iptables=false", "--bridge=none"]);
        }
        let log = std::fs::File::create(path("log"))?;
        let daemon = command("nsenter", &args).stdout(log.try_clone()?).stderr(log).spawn().context("start dockerd")?;
        self.hosts.push(Host { name, address, daemon });
        Ok(())
    }

    fn join(&self) -> anyhow::Result<()> {
        let (first, rest) = self.hosts.split_first().context("no hosts")?;
        self.docker(&first.name, &["swarm", "init", "--advertise-addr", &first.address])?.ok()?;
        let token = self.docker(&first.name, &["swarm", "join-token", "-q", "worker"])?.ok()?;
        for host in rest {
            self.docker(&host.name, &["swarm", "join", "--token", &token, &format!("{}:2377", first.address)])?.ok()?;
        }
        Ok(())
    }

    /// The API socket of a host.
    pub fn socket(&self, host: &str) -> String {
        format!("unix://{}", self.dir.join(host).join("sock").display())
    }

    /// Runs the docker CLI against a host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn docker(&self, host: &str, args: &[&str]) -> anyhow::Result<Said> {
        let socket = self.socket(host);
        let mut all = vec!["-H", &socket];
        all.extend(args);
        run("docker", &all)
    }

    /// Imports the test image on every host.
    ///
    /// # Errors
    /// When a host refuses it.
    pub fn load_image(&self) -> anyhow::Result<()> {
        let tar = crate::image::busybox()?;
        for host in &self.hosts {
            let socket = self.socket(&host.name);
            run_with_input(command("docker", &["-H", &socket, "import", "-", crate::image::NAME]), &tar)?.ok()?;
        }
        Ok(())
    }

    /// Process ids of the daemons, in the order of the hosts.
    pub fn pids(&self) -> Vec<u32> {
        self.hosts.iter().map(|host| host.daemon.id()).collect()
    }

    /// Stops everything and removes it.
    ///
    /// # Errors
    /// When a daemon does not stop.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        for host in &mut self.hosts {
            let socket = format!("unix://{}", self.dir.join(&host.name).join("sock").display());
            // Best effort: whatever still runs dies with its daemon's shims.
            drop(run("docker", &["-H", &socket, "swarm", "leave", "--force"]));
            drop(run("sh", &["-c", &format!("docker -H {socket} ps -aq | xargs -r docker -H {socket} rm -f")]));
            drop(run("kill", &["-TERM", &host.daemon.id().to_string()]));
        }
        for host in &mut self.hosts {
            let mut waited = 0;
            while host.daemon.try_wait()?.is_none() {
                waited += 1;
                ensure!(waited < 600, "dockerd on {} does not stop", host.name);
                pause(std::time::Duration::from_millis(50));
            }
        }
        self.hosts.clear();
        self.cleanup();
        Ok(())
    }

    fn cleanup(&self) {
        let dir = self.dir.display().to_string();
        // Best effort by nature: removes what an earlier run may have left.
        let script = format!(
            "for m in $(grep -o '{dir}[^ ]*' /proc/self/mounts | sort -r); do umount -l $m; done; rm -rf '{dir}'; \
             for n in $(ip netns list | cut -d' ' -f1 | grep '^shoal-peer-{}-'); do ip netns del $n; done",
            self.name
        );
        drop(run("sh", &["-c", &script]));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.hosts.is_empty() {
            drop(self.stop());
        }
    }
}

fn in_namespace(namespace: &str, args: &[&str]) -> anyhow::Result<Said> {
    let net = format!("--net=/run/netns/{namespace}");
    let mut all = vec![&*net];
    all.extend(args);
    run("nsenter", &all)
}
