//! Processes as `/proc` shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Its id.
    pub(super) pid: u32,
    /// When it started, in clock ticks since boot.
    pub(super) started: u64,
}

/// What one line of `/proc/<pid>/stat` says.
struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, even parentheses: what counts begins after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

impl Process {
    /// The process that has this id now.
    pub(super) fn with_id(pid: u32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// Whether it runs. A process that has ended and is not reaped yet does not.
    pub(super) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z' && stat.state != 'X')
    }

    /// Sends a signal, unless it has ended.
    pub(super) fn signal(self, signal: Signal) -> anyhow::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = Pid::from_raw(i32::try_from(self.pid)?);
        match kill(pid, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(anyhow::anyhow!("send {signal} to process {}: {error}", self.pid)),
        }
    }

    /// Its command line, for people.
    pub(super) fn command(self) -> String {
        let bytes = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words: Vec<String> =
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        words.join(" ").trim().to_owned()
    }
}

/// What makes a process one of a lab's.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Numbers of network namespaces.
    pub(super) namespaces: BTreeSet<u64>,
    /// A cgroup, in any hierarchy, with everything below it.
    pub(super) cgroup: String,
    /// The lab's folder of run-time parts; a shim or a daemon names it in its arguments.
    pub(super) run_folder: String,
}

/// The processes that bear a mark, without this process and those it descends from.
pub(super) fn marked(marks: &Marks) -> Vec<Process> {
    let ancestors = ancestors();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let found = ids.filter(|pid| !ancestors.contains(pid) && bears(*pid, marks)).filter_map(Process::with_id);
    found.filter(|process| process.is_alive()).collect()
}

fn bears(pid: u32, marks: &Marks) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let in_namespace = std::fs::metadata(format!("/proc/{pid}/ns/net"))
        .is_ok_and(|metadata| marks.namespaces.contains(&metadata.ino()));
    if in_namespace {
        return true;
    }
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let below =
        |path: &str| path.strip_prefix(&marks.cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !marks.cgroup.is_empty() && cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(below) {
        return true;
    }
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    is_server_of(&bytes, &marks.run_folder)
}

/// Whether arguments are those of a shim or a daemon whose folders are the lab's. Clients name the folder too, for the socket.
fn is_server_of(arguments: &[u8], run_folder: &str) -> bool {
    if run_folder.is_empty() {
        return false;
    }
    let words: Vec<String> =
        arguments.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let program = words
        .first()
        .map(|word| Path::new(word).file_name().unwrap_or_default().to_string_lossy().into_owned())
        .unwrap_or_default();
    let verb = words.get(1).map(String::as_str).unwrap_or_default();
    let serves = ["shim", "daemon"].contains(&verb)
        || ["dockerd", "containerd"].contains(&program.as_str())
        || program.starts_with("containerd-shim");
    serves
        && words
            .iter()
            .any(|word| word.starts_with(&format!("{run_folder}/")) || word.contains(&format!("={run_folder}/")))
}

fn ancestors() -> BTreeSet<u32> {
    let mut ancestors = BTreeSet::new();
    let mut pid = std::process::id();
    while pid > 0 && ancestors.insert(pid) {
        pid = stat(pid).map_or(0, |stat| stat.parent);
    }
    ancestors
}

/// Mount points at or below any of these folders, deepest first.
pub(super) fn mounts_below(folders: &[&Path]) -> Vec<std::path::PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: BTreeMap<usize, Vec<std::path::PathBuf>> = BTreeMap::new();
    for (line_number, line) in text.lines().enumerate() {
        let point = std::path::PathBuf::from(unescape(line.split(' ').nth(4).unwrap_or_default()));
        if folders.iter().any(|folder| point.starts_with(folder)) {
            points.entry(line_number).or_default().push(point);
        }
    }
    // A later mount may lie on an earlier one, so the latest goes first.
    points.into_values().rev().flatten().collect()
}

/// `\040` and the like, as the kernel writes blanks in paths.
fn unescape(text: &str) -> String {
    let mut result = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(|_| *first == b'\\') {
            Some(byte) => {
                result.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                result.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&result).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = parse_stat("42 (a) b) (c) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 6 7").unwrap();
        assert_eq!((stat.state, stat.parent, stat.started), ('S', 7, 12345));
    }

    #[test]
    fn this_process_is_alive_and_its_id_is_not_enough() {
        let own = Process::with_id(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!Process { started: own.started + 1, ..own }.is_alive());
    }

    #[test]
    fn servers_of_a_lab_are_told_from_its_clients() {
        let words = |text: &str| text.replace(' ', "\0").into_bytes();
        let folder = "/run/shoal-lab/lab";
        assert!(is_server_of(&words("/x/shoal shim run --dir /run/shoal-lab/lab/m1/exec/shim/1"), folder));
        assert!(is_server_of(&words("dockerd --exec-root=/run/shoal-lab/lab/m1/exec"), folder));
        assert!(!is_server_of(&words("shoal shim run --dir /run/shoal-lab/lab2/m1/exec/shim/1"), folder));
        assert!(!is_server_of(&words("shoal -H unix:///run/shoal-lab/lab/m1.sock ps"), folder));
        assert!(!is_server_of(&words("tail -f /run/shoal-lab/lab/m1/x"), folder));
    }

    #[test]
    fn paths_in_mountinfo_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
