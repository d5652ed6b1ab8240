//! SIGUSR1: what the daemon is doing, in a file, as dockerd writes the stacks of its goroutines.
//!
//! ## Design notes
//! A thread's place is told by the kernel (`/proc/self/task`): state, system call, where it waits. Async tasks are counted, not
//! listed: that needs a runtime built for it, at a price for everybody.

use std::fmt::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shoal_engine::Engine;
use tokio::runtime::Handle;

/// Describes threads, the runtime, containers and networks.
pub(crate) fn describe(engine: &Engine, runtime: &Handle) -> String {
    let mut text = format!("shoal {}, process {}\n", env!("CARGO_PKG_VERSION"), std::process::id());
    let metrics = runtime.metrics();
    let _ = writeln!(
        text,
        "\nruntime: {} workers, {} tasks alive, {} tasks waiting for a worker",
        metrics.num_workers(),
        metrics.num_alive_tasks(),
        metrics.global_queue_depth()
    );
    threads(&mut text);
    let _ = writeln!(text, "\ncontainers:");
    for container in engine.containers().overview() {
        let _ = writeln!(
            text,
            "  {} {} {} pid {}{}",
            &container.id[..12],
            container.name,
            container.state,
            container.pid,
            if container.busy { ", an operation is under way" } else { "" }
        );
    }
    let status = engine.networks().controller().status();
    let _ = writeln!(text, "\nnetworks: {} differences repaired, {} problems", status.repaired, status.problems.len());
    for problem in &status.problems {
        let _ = writeln!(text, "  {problem}");
    }
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let _ = writeln!(
        text,
        "\nopen files: {files}\nevents: {} published, {} subscribers",
        engine.events().published(),
        engine.events().listeners()
    );
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("Vm") || line.starts_with("Threads")).for_each(|line| {
            let _ = writeln!(text, "{line}");
        });
    }
    text
}

fn threads(text: &mut String) {
    let _ = writeln!(text, "\nthreads:");
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| {
            std::fs::read_to_string(entry.path().join(name)).map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or_default().trim();
        let id = entry.file_name();
        let _ = writeln!(
            text,
            "  {} {}: {state}, system call {}, waits in {}",
            id.to_string_lossy(),
            read("comm"),
            read("syscall").split(' ').next().unwrap_or_default(),
            read("wchan")
        );
        read("stack").lines().for_each(|line| {
            let _ = writeln!(text, "      {line}");
        });
    }
}

/// Writes it into the folder, for root only. Returns where.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(folder: &Path, now: &str, text: &str) -> std::io::Result<PathBuf> {
    use std::io::Write as _;
    // As dockerd: colons are of no use in names of files.
    let path = folder.join(format!("stacks-{}.log", now.replace(':', "")));
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}
