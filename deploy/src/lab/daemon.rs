//! The hosts' daemons.

use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::layout::{Engine, Host, Lab};
use super::process::Process;
use super::{namespace, tool};
use crate::cli::client::{Client, Endpoint};
use crate::cli::exit::fail;

const POLL: Duration = Duration::from_millis(20);
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// The API of a host's daemon.
pub(super) fn client(lab: &Lab, host: &Host) -> Client {
    Client::new(Endpoint::Unix(lab.socket(&host.name)))
}

/// The daemon that was started last on a host, alive or not.
pub(super) fn last(lab: &Lab, host: &Host) -> Option<Process> {
    serde_json::from_slice(&std::fs::read(lab.process_file(&host.name)).ok()?).ok()
}

/// The daemon that runs on a host.
pub(super) fn running(lab: &Lab, host: &Host) -> Option<Process> {
    last(lab, host).filter(|process| process.is_alive())
}

/// Starts a host's daemon unless it runs, and waits until it answers.
pub(super) async fn ensure(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    start(lab, host)?;
    wait_until_up(lab, host).await
}

/// Starts a host's daemon unless it runs.
pub(super) fn start(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    if running(lab, host).is_some() {
        return Ok(());
    }
    for folder in [lab.host_dir(&host.name), lab.exec_root(&host.name)] {
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    }
    namespace::keep_in_memory(&lab.exec_root(&host.name))?;
    // Left by a daemon that was killed; its id may be another process's by now.
    let _ = std::fs::remove_file(pid_file(lab, host));
    if lab.engine == Engine::Dockerd {
        let _ = std::fs::remove_file(lab.exec_root(&host.name).join("containerd/containerd.pid"));
    }
    let (program, words, log) = (lab.program.clone(), arguments(lab, host), lab.log(&host.name));
    let uts = lab.uts(&host.name);
    let pid = namespace::inside(&lab.namespace(&host.name), Some(&uts), move || tool::start(&program, &words, &log))?;
    let process = Process::with_id(pid)
        .with_context(|| format!("the daemon of {} ended at once; see {}", host.name, lab.log(&host.name).display()))?;
    let file = lab.process_file(&host.name);
    std::fs::write(&file, serde_json::to_vec(&process)?).with_context(|| format!("write {}", file.display()))
}

fn pid_file(lab: &Lab, host: &Host) -> std::path::PathBuf {
    lab.run().join(&host.name).join("daemon.pid")
}

fn arguments(lab: &Lab, host: &Host) -> Vec<String> {
    let named = [
        ("--data-root", lab.host_dir(&host.name).join("data").display().to_string()),
        ("--exec-root", lab.exec_root(&host.name).display().to_string()),
        ("--host", format!("unix://{}", lab.socket(&host.name).display())),
        ("--pidfile", pid_file(lab, host).display().to_string()),
        ("--cgroup-parent", lab.cgroup(&host.name)),
    ];
    let mut words: Vec<String> = named.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    words.extend(lab.daemon_arguments.iter().cloned());
    if lab.engine == Engine::Shoal {
        words.insert(0, "daemon".to_owned());
    }
    words
}

async fn wait_until_up(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    let client = client(lab, host);
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let error = match client.version().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if running(lab, host).is_none() {
            return Err(fail(1, format!("the daemon of {} has ended:\n{}", host.name, end_of_log(lab, host))));
        }
        if Instant::now() >= deadline {
            return Err(fail(
                1,
                format!(
                    "the daemon of {} does not answer after {} s: {error:#}\n{}",
                    host.name,
                    START_DEADLINE.as_secs(),
                    end_of_log(lab, host)
                ),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last lines that a host's daemon said.
fn end_of_log(lab: &Lab, host: &Host) -> String {
    let path = lab.log(&host.name);
    let text = std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default();
    format!("  {}\n(from {})", last.join("\n  "), path.display())
}

/// Tells a host's daemon to stop, or kills it.
pub(super) fn signal(lab: &Lab, host: &Host, crash: bool) -> anyhow::Result<()> {
    match running(lab, host) {
        Some(process) => process.signal(if crash { Signal::SIGKILL } else { Signal::SIGTERM }),
        None => Err(fail(1, format!("the daemon of {} does not run", host.name))),
    }
}

/// Waits until a host's daemon has ended.
pub(super) async fn wait_until_gone(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    let deadline = Instant::now() + STOP_DEADLINE;
    while running(lab, host).is_some() {
        if Instant::now() >= deadline {
            return Err(fail(
                1,
                format!("the daemon of {} has not stopped after {} s", host.name, STOP_DEADLINE.as_secs()),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
