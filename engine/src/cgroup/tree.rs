//! A container's cgroup in all hierarchies of the host: its processes, freezing, and its end.

use std::io;
use std::path::{Path, PathBuf};

use shoal_engine_sys::process::SingleThread;

/// Where hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC`.
const UNIFIED_MAGIC: rustix::fs::FsWord = 0x6367_7270;
/// `CGROUP_SUPER_MAGIC`.
const V1_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;
/// How often something that the kernel finishes in its own time is looked at again, a millisecond apart at first.
const TRIES: u32 = 200;
/// The same for hierarchies that dead processes are still in: about five seconds, since whoever has to reap them may be slow.
const BUSY_TRIES: u32 = 500;

/// How the host arranges its hierarchies. Hybrid hosts have their controllers on v1, and count as v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One hierarchy for each controller (or group of controllers): their mount points.
    V1(Vec<PathBuf>),
    /// One hierarchy for all.
    V2(PathBuf),
}

impl Layout {
    /// The host's.
    ///
    /// # Errors
    /// When nothing is mounted at `/sys/fs/cgroup`.
    pub fn detect() -> io::Result<Self> {
        let root = Path::new(ROOT);
        if rustix::fs::statfs(root)?.f_type == UNIFIED_MAGIC {
            return Ok(Self::V2(root.to_owned()));
        }
        let mut hierarchies = Vec::new();
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            // Links are second names (`cpu` for `cpu,cpuacct`); the empty v2 of a hybrid host is not used, and a folder
            // that somebody made there is none.
            if entry.file_type()?.is_dir() && rustix::fs::statfs(entry.path())?.f_type == V1_MAGIC {
                hierarchies.push(entry.path());
            }
        }
        if hierarchies.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted at /sys/fs/cgroup"));
        }
        hierarchies.sort();
        Ok(Self::V1(hierarchies))
    }
}

/// A container's cgroup.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: Layout,
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup with this path below the root of each hierarchy (`/shoal/<id>`). It need not exist.
    ///
    /// # Errors
    /// When the host has no cgroups.
    pub fn open(path: &str) -> io::Result<Self> {
        let relative = Path::new(path.trim_start_matches('/'));
        if relative.as_os_str().is_empty() || relative.components().any(|part| part.as_os_str() == "..") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a cgroup of a container"));
        }
        Ok(Self { layout: Layout::detect()?, path: relative.to_owned() })
    }

    /// How the host arranges its hierarchies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its directory for this controller.
    pub fn directory(&self, controller: &str) -> PathBuf {
        match &self.layout {
            Layout::V2(root) => root.join(&self.path),
            // Co-mounted controllers have links with their single names.
            Layout::V1(_) => Path::new(ROOT).join(controller).join(&self.path),
        }
    }

    pub(super) fn directories(&self) -> Vec<PathBuf> {
        match &self.layout {
            Layout::V2(root) => vec![root.join(&self.path)],
            Layout::V1(hierarchies) => hierarchies.iter().map(|hierarchy| hierarchy.join(&self.path)).collect(),
        }
    }

    /// Moves this process into it, in every hierarchy that has it.
    ///
    /// A move of a process takes a lock of the whole kernel that waits for an RCU grace period (8 ms and more). A thread
    /// that moves itself does without, and a process with one thread is moved with it; on v2 there is no such way.
    ///
    /// # Errors
    /// When no hierarchy has it, or one refuses.
    pub fn enter(&self, _single: &SingleThread) -> io::Result<()> {
        let list = match self.layout {
            Layout::V1(_) => "tasks",
            Layout::V2(_) => "cgroup.procs",
        };
        let mut found = false;
        for directory in self.directories() {
            // Zero is the writer, whatever its number is here.
            match std::fs::write(directory.join(list), "0") {
                Ok(()) => found = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if found { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotFound, "the container's cgroup is gone")) }
    }

    /// The processes in it and below it.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        let directory = match &self.layout {
            Layout::V2(root) => Some(root.join(&self.path)),
            Layout::V1(_) => ["pids", "memory", "freezer", "devices", "cpu"]
                .into_iter()
                .map(|controller| self.directory(controller))
                .find(|directory| directory.exists()),
        };
        if let Some(directory) = directory {
            collect(&directory, &mut pids);
        }
        pids
    }

    /// Sends a signal to every process in it, again and again until one round finds no new one, so that none escapes by
    /// forking. Signals but `SIGKILL` are sent once.
    pub fn signal_all(&self, signal: i32) {
        const SIGKILL: i32 = 9;
        if let (Layout::V2(root), SIGKILL) = (&self.layout, signal)
            && std::fs::write(root.join(&self.path).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        let mut seen = Vec::new();
        for _ in 0..TRIES {
            let found: Vec<u32> = self.processes().into_iter().filter(|pid| !seen.contains(pid)).collect();
            if found.is_empty() {
                return;
            }
            for pid in found {
                if let Ok(process) = shoal_engine_sys::namespace::open_process(pid) {
                    // One that has ended in the meantime is what we want.
                    let _ = shoal_engine_sys::signal::send(&process, signal);
                }
                seen.push(pid);
            }
            if signal != SIGKILL {
                return;
            }
        }
    }

    /// Freezes every process, and returns when they are.
    ///
    /// # Errors
    /// When the freezer refuses or does not finish.
    pub fn freeze(&self) -> io::Result<()> {
        self.set_frozen(true).inspect_err(|_| {
            // Half frozen is what nobody asked for, and the pause is reported as failed: it is to go on.
            let _ = self.set_frozen(false);
        })
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// When the freezer refuses.
    pub fn thaw(&self) -> io::Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        for attempt in 0..TRIES {
            // v1 loses a request when a process forks at the wrong moment: asked again each time, as runc does.
            match &self.layout {
                Layout::V1(_) => {
                    let word = if frozen { "FROZEN" } else { "THAWED" };
                    std::fs::write(self.directory("freezer").join("freezer.state"), word)?;
                }
                Layout::V2(_) => {
                    std::fs::write(self.directory("").join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
                }
            }
            if self.is_frozen()? == frozen {
                return Ok(());
            }
            pause(attempt);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the freezer does not finish"))
    }

    /// Whether every process is frozen.
    ///
    /// # Errors
    /// When the freezer cannot be read.
    pub fn is_frozen(&self) -> io::Result<bool> {
        match &self.layout {
            Layout::V1(_) => {
                let state = std::fs::read_to_string(self.directory("freezer").join("freezer.state"))?;
                Ok(state.trim_end() == "FROZEN")
            }
            Layout::V2(_) => {
                let events = std::fs::read_to_string(self.directory("").join("cgroup.events"))?;
                Ok(events.lines().any(|line| line == "frozen 1"))
            }
        }
    }

    /// How many processes the kernel has killed because the memory limit was reached; zero when nobody counts.
    pub fn oom_kills(&self) -> u64 {
        let file = match &self.layout {
            Layout::V1(_) => "memory.oom_control",
            Layout::V2(_) => "memory.events",
        };
        let text = std::fs::read_to_string(self.directory("memory").join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes it, with what the container made below it, from every hierarchy. The last processes may still be leaving.
    ///
    /// # Errors
    /// With what the first hierarchy said that did not let it go; the others were tried.
    pub fn remove(&self) -> io::Result<()> {
        let mut failure = None;
        // For all of them together: the same processes are in each.
        let mut attempt = 0;
        // Some runtimes use the second version besides, which such a host has without controllers.
        let beside = matches!(self.layout, Layout::V1(_)).then(|| Path::new(ROOT).join("unified").join(&self.path));
        for directory in self.directories().into_iter().chain(beside) {
            let mut result = remove_tree(&directory);
            while attempt < BUSY_TRIES && matches!(&result, Err(error) if error.raw_os_error() == Some(EBUSY)) {
                pause(attempt);
                attempt += 1;
                result = remove_tree(&directory);
            }
            failure = failure.or(result.err());
        }
        failure.map_or(Ok(()), Err)
    }

    /// Removes it from every hierarchy where nothing is in it any more.
    pub fn remove_if_empty(&self) {
        for directory in self.directories() {
            let _used_by_others = std::fs::remove_dir(directory);
        }
    }
}

const EBUSY: i32 = 16;

/// A short pause: a millisecond at first, ten later. Only the shim and blocking threads come here.
fn pause(attempt: u32) {
    let milliseconds = if attempt < 20 { 1 } else { 10 };
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
    let _ = rustix::event::poll(&mut [], Some(&timeout));
}

fn collect(directory: &Path, pids: &mut Vec<u32>) {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

/// Removes a cgroup; only when that says it has children, those first: listing costs more than removing.
pub(super) fn remove_tree(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(EBUSY) => {}
        other => return other,
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(directory)
}
