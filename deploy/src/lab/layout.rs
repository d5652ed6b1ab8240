//! What a lab consists of and where its parts are. Written to `lab.json` in the lab's run folder.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::cli::exit::fail;

/// Where the run-time parts of all labs are.
pub(super) const RUN: &str = "/run/shoal-lab";

/// Where the data of all labs is, unless `--dir` says otherwise.
pub(super) const DATA: &str = "/var/lib/shoal-lab";

/// The cgroup above those of all labs, in every hierarchy.
pub(super) const CGROUP: &str = "shoal-lab";

/// Which program the hosts' daemons are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    /// This program.
    #[default]
    Shoal,
    /// Docker's daemon, to compare with.
    Dockerd,
}

/// What a host is meant to be in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// Joins as a manager.
    Manager,
    /// Joins as a worker.
    Worker,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Host {
    /// `m1`, `w2`: also its hostname.
    pub(super) name: String,
    /// What it is meant to be.
    pub(super) role: Role,
    /// Its address.
    pub(super) address: Ipv4Addr,
}

/// A lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lab {
    /// Its name.
    pub(super) name: String,
    /// Where its hosts' data is.
    pub(super) dir: PathBuf,
    /// The third byte of its subnet, 10.201.x.0/24.
    pub(super) subnet: u8,
    /// Which program the daemons are.
    pub(super) engine: Engine,
    /// The program's path.
    pub(super) program: PathBuf,
    /// More arguments for every daemon.
    #[serde(default)]
    pub(super) daemon_arguments: Vec<String>,
    /// Its hosts, managers first.
    pub(super) hosts: Vec<Host>,
}

/// Checks a lab's name: it becomes part of names of folders, cgroups and namespaces.
pub(super) fn lab_name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 32
        && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '-');
    if fits && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid lab name '{text}': 1 to 32 letters, digits and hyphens"))
    }
}

/// Hosts by their numbers; managers have addresses from .11 on, workers from .101 on.
pub(super) fn hosts(subnet: u8, managers: u8, workers: u8) -> Vec<Host> {
    let host = |letter: char, role: Role, base: u8| {
        move |number: u8| Host {
            name: format!("{letter}{number}"),
            role,
            address: Ipv4Addr::new(10, 201, subnet, base + number),
        }
    };
    (1..=managers).map(host('m', Role::Manager, 10)).chain((1..=workers).map(host('w', Role::Worker, 100))).collect()
}

impl Lab {
    /// The folder of a lab's run-time parts.
    pub(super) fn run_folder(name: &str) -> PathBuf {
        Path::new(RUN).join(name)
    }

    /// The data folder of a lab when nothing else is said.
    pub(super) fn default_dir(name: &str) -> PathBuf {
        Path::new(DATA).join(name)
    }

    /// Reads a lab that is there.
    pub(super) fn load(name: &str) -> anyhow::Result<Self> {
        Self::find(name)?
            .ok_or_else(|| fail(1, format!("no lab named '{name}' is up: start one with 'shoal lab up --name {name}'")))
    }

    /// Reads a lab if it is there.
    pub(super) fn find(name: &str) -> anyhow::Result<Option<Self>> {
        let file = Self::run_folder(name).join("lab.json");
        match std::fs::read(&file) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("read {}", file.display()))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
        }
    }

    /// Every lab on this machine that can be read.
    pub(super) fn all() -> Vec<Self> {
        let entries = std::fs::read_dir(RUN).into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::find(&entry.file_name().to_string_lossy()).ok().flatten()).collect()
    }

    /// Writes the lab down: in its run folder, and as a mark in its data folder that says that the folder may be removed.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        for folder in [self.run(), self.dir.clone()] {
            std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            let (file, partial) = (folder.join("lab.json"), folder.join("lab.json.partial"));
            std::fs::write(&partial, &text).with_context(|| format!("write {}", partial.display()))?;
            std::fs::rename(&partial, &file).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }

    /// The host of this name.
    pub(super) fn host(&self, name: &str) -> anyhow::Result<&Host> {
        let known = || self.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .ok_or_else(|| fail(1, format!("lab '{}' has no host '{name}' (it has {})", self.name, known())))
    }

    /// The folder of this lab's run-time parts.
    pub(super) fn run(&self) -> PathBuf {
        Self::run_folder(&self.name)
    }

    /// Where a host's network namespace is bound.
    pub(super) fn namespace(&self, host: &str) -> PathBuf {
        self.run().join("ns").join(format!("{}-{host}", self.name))
    }

    /// Where the switch's network namespace is bound.
    pub(super) fn switch(&self) -> PathBuf {
        self.namespace("switch")
    }

    /// Where a host's UTS namespace is bound.
    pub(super) fn uts(&self, host: &str) -> PathBuf {
        self.run().join("uts").join(format!("{}-{host}", self.name))
    }

    /// A host's API socket.
    pub(super) fn socket(&self, host: &str) -> PathBuf {
        self.run().join(format!("{host}.sock"))
    }

    /// A host's `--exec-root`.
    pub(super) fn exec_root(&self, host: &str) -> PathBuf {
        self.run().join(host).join("exec")
    }

    /// The file in which a host's daemon's process is written down.
    pub(super) fn process_file(&self, host: &str) -> PathBuf {
        self.run().join(host).join("process.json")
    }

    /// A host's folder of data.
    pub(super) fn host_dir(&self, host: &str) -> PathBuf {
        self.dir.join(host)
    }

    /// What a host's daemon says.
    pub(super) fn log(&self, host: &str) -> PathBuf {
        self.host_dir(host).join("daemon.log")
    }

    /// The cgroup below which a host's containers are, in every hierarchy.
    pub(super) fn cgroup(&self, host: &str) -> String {
        format!("/{CGROUP}/{}/{host}", self.name)
    }

    /// The name of the link between this machine and the switch.
    pub(super) fn root_link(&self) -> String {
        format!("shlab{}", self.subnet)
    }

    /// The switch's own address, the hosts' default route.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.subnet, 1)
    }

    /// This machine's address on the switch.
    pub(super) fn root_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.subnet, 254)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_names_and_addresses() {
        let hosts = hosts(7, 2, 1);
        let shown: Vec<String> = hosts.iter().map(|host| format!("{} {}", host.name, host.address)).collect();
        assert_eq!(shown, ["m1 10.201.7.11", "m2 10.201.7.12", "w1 10.201.7.101"]);
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for name in ["", "..", "a/b", "-a", "a b", "a.b"] {
            assert!(lab_name(name).is_err(), "{name:?}");
        }
        assert!(lab_name("lab-2").is_ok());
    }
}
