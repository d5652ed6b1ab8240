//! Processes of a container, read from `/proc` in the columns of `ps`: the host's `ps` is not run, and the container's not
//! either.

use std::collections::BTreeMap;

use shoal_proto::error::Failure;

use crate::model::Top;

/// Clock ticks in a second: fixed for user space.
const HERTZ: u64 = 100;

/// What is read of one process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Parent.
    pub ppid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// State and its modifiers, `Ss`.
    pub state: String,
    /// Terminal, `pts/0` or `?`.
    pub tty: String,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Processor time, clock ticks.
    pub ticks: u64,
    /// Start, clock ticks after boot.
    pub start_ticks: u64,
    /// Nice value.
    pub nice: i64,
    /// Threads.
    pub threads: u64,
    /// Virtual size, KiB.
    pub vsz_kib: u64,
    /// Resident size, KiB.
    pub rss_kib: u64,
    /// Command name.
    pub comm: String,
    /// Command line; `[comm]` when there is none.
    pub args: String,
}

/// What is read of the host, once for all processes.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Seconds since the epoch.
    pub now: i64,
    /// Boot, seconds since the epoch.
    pub boot: i64,
    /// Memory, KiB.
    pub memory_kib: u64,
    /// User names.
    pub users: BTreeMap<u32, String>,
    /// Group names.
    pub groups: BTreeMap<u32, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    UserNumber,
    Group,
    GroupNumber,
    Pid,
    Ppid,
    Pgid,
    Sid,
    CpuInteger,
    CpuPercent,
    MemoryPercent,
    Vsz,
    Rss,
    Tty,
    State,
    StartedAt,
    StartedAtBsd,
    Time,
    TimeBsd,
    Elapsed,
    Nice,
    Threads,
    Comm,
    Args,
}

const FULL: &[(&str, Column)] = &[
    ("UID", Column::User),
    ("PID", Column::Pid),
    ("PPID", Column::Ppid),
    ("C", Column::CpuInteger),
    ("STIME", Column::StartedAt),
    ("TTY", Column::Tty),
    ("TIME", Column::Time),
    ("CMD", Column::Args),
];
const BSD: &[(&str, Column)] = &[
    ("USER", Column::User),
    ("PID", Column::Pid),
    ("%CPU", Column::CpuPercent),
    ("%MEM", Column::MemoryPercent),
    ("VSZ", Column::Vsz),
    ("RSS", Column::Rss),
    ("TTY", Column::Tty),
    ("STAT", Column::State),
    ("START", Column::StartedAtBsd),
    ("TIME", Column::TimeBsd),
    ("COMMAND", Column::Args),
];
const SHORT: &[(&str, Column)] =
    &[("PID", Column::Pid), ("TTY", Column::Tty), ("TIME", Column::Time), ("CMD", Column::Comm)];
/// Names after `-o`, with their heads.
const NAMED: &[(&[&str], &str, Column)] = &[
    (&["user", "euser", "uname"], "USER", Column::User),
    (&["uid", "euid"], "UID", Column::UserNumber),
    (&["group", "egroup"], "GROUP", Column::Group),
    (&["gid", "egid"], "GID", Column::GroupNumber),
    (&["pid", "tgid"], "PID", Column::Pid),
    (&["ppid"], "PPID", Column::Ppid),
    (&["pgid", "pgrp"], "PGID", Column::Pgid),
    (&["sid", "sess", "session"], "SID", Column::Sid),
    (&["c"], "C", Column::CpuInteger),
    (&["%cpu", "pcpu"], "%CPU", Column::CpuPercent),
    (&["%mem", "pmem"], "%MEM", Column::MemoryPercent),
    (&["vsz", "vsize"], "VSZ", Column::Vsz),
    (&["rss", "rssize", "rsz"], "RSS", Column::Rss),
    (&["tty", "tt", "tname"], "TT", Column::Tty),
    (&["stat"], "STAT", Column::State),
    (&["state", "s"], "S", Column::State),
    (&["stime", "start_time", "start", "bsdstart"], "STIME", Column::StartedAt),
    (&["time", "cputime"], "TIME", Column::Time),
    (&["bsdtime"], "TIME", Column::TimeBsd),
    (&["etime"], "ELAPSED", Column::Elapsed),
    (&["ni", "nice"], "NI", Column::Nice),
    (&["nlwp", "thcount"], "NLWP", Column::Threads),
    (&["comm", "ucmd", "ucomm"], "COMMAND", Column::Comm),
    (&["cmd"], "CMD", Column::Args),
    (&["args", "command"], "COMMAND", Column::Args),
];

/// A table of processes. `ps_args` as `ps` takes them: `-ef` (when empty), `aux`, `-o pid,args` and the like.
///
/// # Errors
/// The columns are not known.
pub fn table(ps_args: &str, host: &Host, processes: &[Process]) -> Result<Top, Failure> {
    let columns = columns(ps_args)?;
    Ok(Top {
        titles: columns.iter().map(|(head, _)| head.clone()).collect(),
        processes: processes
            .iter()
            .map(|process| columns.iter().map(|(_, column)| cell(*column, host, process)).collect())
            .collect(),
    })
}

fn fixed(columns: &[(&str, Column)]) -> Vec<(String, Column)> {
    columns.iter().map(|(head, column)| ((*head).to_owned(), *column)).collect()
}

fn columns(ps_args: &str) -> Result<Vec<(String, Column)>, Failure> {
    let mut chosen: Vec<(String, Column)> = Vec::new();
    let mut format = SHORT;
    let mut words = ps_args.split_whitespace();
    if ps_args.trim().is_empty() {
        format = FULL;
    }
    while let Some(word) = words.next() {
        let letters = word.trim_start_matches('-');
        if let Some(names) = word.strip_prefix("--format=") {
            chosen.extend(named(names)?);
        } else if let Some(position) = letters.find('o').filter(|_| !word.starts_with("--")) {
            let rest = &letters[position + 1..];
            let names = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
            chosen.extend(named(names)?);
        } else if letters.contains('u') && !word.starts_with('-') {
            format = BSD;
        } else if word.starts_with('-') && letters.contains(['f', 'F']) {
            format = FULL;
        } else if !letters.chars().all(|letter| "aAefFwxTHj".contains(letter)) {
            return Err(Failure::invalid(format!(
                "ps: unsupported option {word}: use -ef, aux, or -o with a list of columns"
            )));
        }
    }
    if chosen.is_empty() {
        return Ok(fixed(format));
    }
    // As dockerd, which finds its processes in the table by it.
    if !chosen.iter().any(|(_, column)| *column == Column::Pid) {
        return Err(Failure::invalid("Couldn't find PID field in ps output"));
    }
    Ok(chosen)
}

fn named(names: &str) -> Result<Vec<(String, Column)>, Failure> {
    let find = |entry: &str| {
        let (name, head) = entry.split_once('=').map_or((entry, None), |(name, head)| (name, Some(head)));
        let known = NAMED.iter().find(|(known, ..)| known.contains(&name));
        known
            .map(|(_, default, column)| (head.unwrap_or(default).to_owned(), *column))
            .ok_or_else(|| Failure::invalid(format!("ps: unknown user-defined format specifier \"{name}\"")))
    };
    names.split(',').filter(|name| !name.is_empty()).map(find).collect()
}

fn cell(column: Column, host: &Host, process: &Process) -> String {
    let name = |names: &BTreeMap<u32, String>, id: u32| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let seconds = process.ticks / HERTZ;
    let started = host.boot + i64::try_from(process.start_ticks / HERTZ).unwrap_or(0);
    let alive = u64::try_from(host.now - started).unwrap_or(0).max(1);
    // In thousandths, as `ps` computes it.
    let cpu = process.ticks * 1000 / HERTZ / alive;
    match column {
        Column::User => name(&host.users, process.uid),
        Column::UserNumber => process.uid.to_string(),
        Column::Group => name(&host.groups, process.gid),
        Column::GroupNumber => process.gid.to_string(),
        Column::Pid => process.pid.to_string(),
        Column::Ppid => process.ppid.to_string(),
        Column::Pgid => process.pgid.to_string(),
        Column::Sid => process.sid.to_string(),
        Column::CpuInteger => (cpu / 10).min(99).to_string(),
        Column::CpuPercent => format!("{}.{}", cpu / 10, cpu % 10),
        Column::MemoryPercent => {
            let share = (process.rss_kib * 1000).checked_div(host.memory_kib).unwrap_or(0);
            format!("{}.{}", share / 10, share % 10)
        }
        Column::Vsz => process.vsz_kib.to_string(),
        Column::Rss => process.rss_kib.to_string(),
        Column::Tty => process.tty.clone(),
        Column::State => process.state.clone(),
        Column::StartedAt | Column::StartedAtBsd => clock(started, host.now),
        Column::Time => format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        Column::TimeBsd => format!("{}:{:02}", seconds / 60, seconds % 60),
        Column::Elapsed => elapsed(alive),
        Column::Nice => process.nice.to_string(),
        Column::Threads => process.threads.to_string(),
        Column::Comm => process.comm.clone(),
        Column::Args => process.args.clone(),
    }
}

/// `14:05` of the last day, else `Nov24`. In UTC, as the daemon has no other zone.
fn clock(started: i64, now: i64) -> String {
    let Ok(instant) = jiff::Timestamp::from_second(started) else { return "?".to_owned() };
    let form = if now - started < 86_400 { "%H:%M" } else { "%b%d" };
    instant.strftime(form).to_string()
}

fn elapsed(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{:02}", seconds % 60),
        (0, hours) => format!("{hours:02}:{minutes:02}:{:02}", seconds % 60),
        (days, hours) => format!("{days}-{hours:02}:{minutes:02}:{:02}", seconds % 60),
    }
}

/// Reads the host's part. Blocks.
pub fn read_host(now: i64) -> Host {
    let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).map_or(0, number);
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")).map_or(0, number);
    Host {
        now,
        boot: i64::try_from(boot).unwrap_or(0),
        memory_kib,
        users: names("/etc/passwd"),
        groups: names("/etc/group"),
    }
}

fn names(path: &str) -> BTreeMap<u32, String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
        })
        .collect()
}

/// Reads one process; `None` when it has ended. Blocks.
pub fn read_process(pid: u32) -> Option<Process> {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let cmdline = read("cmdline").unwrap_or_default();
    parse(pid, &stat, &status, &cmdline)
}

fn parse(pid: u32, stat: &str, status: &str, cmdline: &[u8]) -> Option<Process> {
    // The name is in parentheses and may hold any character, parentheses included.
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let comm = stat.get(open + 1..close)?.to_owned();
    let fields: Vec<&str> = stat.get(close + 1..)?.split_whitespace().collect();
    // Field 3 of proc_pid_stat(5) is the first here.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or("0");
    let number = |index: usize| field(index).parse::<u64>().unwrap_or(0);
    let id = |index: usize| field(index).parse::<u32>().unwrap_or(0);
    let owner = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let words: Vec<_> = cmdline.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let line = words.join(" ").trim_end().to_owned();
    let mut state = field(3).to_owned();
    let (nice, session, group, foreground) = (field(19).parse::<i64>().unwrap_or(0), id(6), id(5), field(8));
    state.push_str(if nice < 0 {
        "<"
    } else if nice > 0 {
        "N"
    } else {
        ""
    });
    state.push_str(if session == pid { "s" } else { "" });
    state.push_str(if number(20) > 1 { "l" } else { "" });
    state.push_str(if foreground == group.to_string() { "+" } else { "" });
    Some(Process {
        pid,
        ppid: id(4),
        pgid: group,
        sid: session,
        state,
        tty: terminal(field(7).parse().unwrap_or(0)),
        uid: owner("Uid:")?,
        gid: owner("Gid:")?,
        ticks: number(14) + number(15),
        start_ticks: number(22),
        nice,
        threads: number(20),
        vsz_kib: number(23) / 1024,
        rss_kib: number(24) * 4,
        args: if line.is_empty() { format!("[{comm}]") } else { line },
        comm,
    })
}

fn terminal(device: i64) -> String {
    let device = u64::try_from(device).unwrap_or(0);
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a (b) c) S 7 42 42 34816 42 4194304 100 0 0 0 150 50 0 0 20 0 3 0 10000 8192000 250 0";
    const STATUS: &str = "Name:\tx\nUid:\t0\t1000\t0\t0\nGid:\t0\t100\t0\t0\n";

    fn host() -> Host {
        Host {
            now: 1_700_000_200,
            boot: 1_700_000_000,
            memory_kib: 100_000,
            users: [(1000, "ann".to_owned())].into(),
            groups: BTreeMap::new(),
        }
    }

    #[test]
    fn a_process_is_read() {
        let process = parse(42, STAT, STATUS, b"prog\0-x\0").unwrap();
        assert_eq!((process.comm.as_str(), process.args.as_str()), ("a (b) c", "prog -x"));
        assert_eq!((process.ppid, process.uid, process.gid), (7, 1000, 100));
        assert_eq!((process.tty.as_str(), process.state.as_str()), ("pts/0", "Ssl+"));
        assert_eq!((process.ticks, process.rss_kib, process.vsz_kib), (200, 1000, 8000));
        assert_eq!(parse(42, STAT, STATUS, b"").unwrap().args, "[a (b) c]");
    }

    #[test]
    fn the_usual_forms() {
        let process = parse(42, STAT, STATUS, b"prog\0-x\0").unwrap();
        let top = table("", &host(), std::slice::from_ref(&process)).unwrap();
        assert_eq!(top.titles, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        assert_eq!(top.processes[0], ["ann", "42", "7", "2", "22:15", "pts/0", "00:00:02", "prog -x"]);
        assert_eq!(table("-ef", &host(), &[]).unwrap().titles, top.titles);
        let top = table("aux", &host(), std::slice::from_ref(&process)).unwrap();
        assert_eq!(top.titles[2..4], ["%CPU", "%MEM"]);
        assert_eq!(top.processes[0][2..4], ["2.0", "1.0"]);
        for form in ["-o pid,comm", "-eo pid,comm", "--format=pid,comm", "-e -o pid -o comm"] {
            let top = table(form, &host(), std::slice::from_ref(&process)).unwrap();
            assert_eq!(top.processes[0], ["42", "a (b) c"], "{form}");
        }
    }

    #[test]
    fn unknown_columns_are_refused() {
        assert!(table("-o pid,colour", &host(), &[]).is_err());
        assert!(table("-o comm", &host(), &[]).is_err());
        assert!(table("--sort=pid", &host(), &[]).is_err());
    }

    #[test]
    fn this_process_is_found() {
        let process = read_process(std::process::id()).unwrap();
        assert_eq!(process.pid, std::process::id());
        assert!(read_host(0).memory_kib > 0);
    }
}
