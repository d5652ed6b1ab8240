//! `lab down`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::layout::{CGROUP, DATA, Lab, RUN};
use super::leftovers::{self, Scope};
use super::{NameArgs, daemon, namespace, network, process};
use crate::cli::exit::fail;
use crate::cli::output;

const POLL: Duration = Duration::from_millis(20);
/// How long daemons may take to stop by themselves, and how long killed processes and their cgroups may take to go.
const PATIENCE: Duration = Duration::from_secs(15);

/// Remove a lab: daemons, containers, namespaces, mounts, cgroups, links and files; and check that nothing is left
#[derive(Debug, Args)]
#[command(after_help = "Example; it also clears up a lab that is half there:
  shoal lab down")]
pub(super) struct DownArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Folder of the hosts' data, when the lab's own record of it is lost
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the hosts' data and logs
    #[arg(long)]
    keep_data: bool,
}

impl DownArgs {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let name = &self.lab.name;
        // A record that cannot be read must not keep a lab from being removed.
        let lab = Lab::find(name).unwrap_or_else(|error| {
            output::note(format!("{error:#}"));
            None
        });
        let dir = self
            .dir
            .clone()
            .or_else(|| lab.as_ref().map(|lab| lab.dir.clone()))
            .unwrap_or_else(|| Lab::default_dir(name));
        let scope = Scope::new(name, &dir, lab.as_ref());
        if lab.is_none() && leftovers::find(&scope, self.keep_data).is_empty() {
            return output::line(format!("lab '{name}' is not up"));
        }
        let mut problems = Vec::new();
        let mut keep = |step: &str, result: anyhow::Result<()>| {
            if let Err(error) = result {
                problems.push(format!("{step}: {error:#}"));
            }
        };
        if let Some(lab) = &lab {
            keep("stop daemons", stop_daemons(lab).await);
            output::line("daemons stopped")?;
        }
        keep("end processes", end_processes(&scope).await);
        if let Some(lab) = &lab {
            keep("remove the link to this machine", network::remove_root_link(lab));
        }
        keep("unmount", unmount(&scope));
        keep("remove cgroups", remove_cgroups(&scope).await);
        output::line("processes, namespaces, mounts, links and cgroups removed")?;
        keep("remove files", remove_files(&scope, self.keep_data));
        let left = leftovers::find(&scope, self.keep_data);
        for problem in &problems {
            output::note(problem);
        }
        if left.is_empty() {
            return output::line(format!("lab '{name}' is down; nothing is left of it"));
        }
        Err(fail(1, format!("lab '{name}' is down, but these are left:\n  {}", left.join("\n  "))))
    }
}

async fn stop_daemons(lab: &Lab) -> anyhow::Result<()> {
    let running: Vec<_> = lab.hosts.iter().filter_map(|host| daemon::running(lab, host)).collect();
    for process in &running {
        process.signal(Signal::SIGTERM)?;
    }
    let deadline = Instant::now() + PATIENCE;
    while running.iter().any(|process| process.is_alive()) && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    for process in running {
        process.signal(Signal::SIGKILL)?;
    }
    Ok(())
}

/// Kills what is left: shims, containers, shells in the hosts.
async fn end_processes(scope: &Scope) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = process::marked(&scope.marks());
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            anyhow::bail!("{} processes do not end", left.len());
        }
        for process in left {
            process.signal(Signal::SIGKILL)?;
        }
        // What is paused dies only when it goes on.
        scope.cgroups().iter().for_each(|cgroup| thaw(cgroup));
        tokio::time::sleep(POLL).await;
    }
}

/// Lets what is frozen in a cgroup and those below it go on. A hierarchy without a freezer has no such file.
fn thaw(cgroup: &Path) {
    for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let file = cgroup.join(file);
        if file.exists() {
            let _ = std::fs::write(file, word);
        }
    }
    for below in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            thaw(&below.path());
        }
    }
}

fn unmount(scope: &Scope) -> anyhow::Result<()> {
    // Twice: what lay below a mount is seen only after it has gone.
    for _ in 0..2 {
        for point in process::mounts_below(&scope.folders()) {
            namespace::unmount(&point)?;
        }
    }
    Ok(())
}

async fn remove_cgroups(scope: &Scope) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<PathBuf> = scope.cgroups();
        if left.is_empty() {
            break;
        }
        let errors: Vec<String> = left
            .iter()
            .filter_map(|folder| remove_tree(folder).err().map(|error| format!("{}: {error}", folder.display())))
            .collect();
        if errors.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            anyhow::bail!("{}", errors.join("; "));
        }
        tokio::time::sleep(POLL).await;
    }
    // The common parent goes with the last lab; another lab's cgroups keep it.
    for root in leftovers::cgroup_roots() {
        let _ = std::fs::remove_dir(root.join(CGROUP));
    }
    Ok(())
}

/// Removes a cgroup and those below it; the files in it are the kernel's.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(folder)
}

fn remove_files(scope: &Scope, keep_data: bool) -> anyhow::Result<()> {
    let mounted = process::mounts_below(&scope.folders());
    if !mounted.is_empty() {
        anyhow::bail!(
            "something is still mounted there, so nothing is deleted: {}",
            mounted.iter().map(|point| point.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    let remove = |folder: &Path| match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    };
    remove(&scope.run)?;
    if !keep_data && scope.may_remove_data() {
        remove(&scope.dir)?;
    }
    // The folders of all labs go with the last one.
    if Lab::all().is_empty() {
        let _ = std::fs::remove_file(format!("{RUN}/lock"));
        let _ = std::fs::remove_dir(RUN);
        let _ = std::fs::remove_dir(DATA);
    }
    Ok(())
}
