//! What a shim is told when it starts: the content of `bundle.json`, and of `exec.json` for an exec.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_proto::time::Timestamp;

use crate::logs::remote::Buffer;
use crate::logs::syslog;
use crate::remap::IdMap;
use crate::snapshot::RootfsMount;

/// File in the shim's directory that holds its [`ShimConfig`].
pub const BUNDLE_FILE: &str = "bundle.json";
/// File in an exec's directory that holds its [`ExecConfig`].
pub const EXEC_FILE: &str = "exec.json";
/// The OCI runtime specification, in the shim's directory.
pub const SPEC_FILE: &str = "config.json";
/// The compiled system call filter, in the shim's directory.
pub const SECCOMP_FILE: &str = "seccomp.bpf";
/// The control socket, in the shim's directory.
pub const SOCKET_FILE: &str = "shim.sock";
/// The process ids, written once the container's init exists.
pub const STATE_FILE: &str = "state.json";
/// The exit record, written whole when init has exited.
pub const EXIT_FILE: &str = "exit.json";
/// What the shim itself has to say; empty when all is well.
pub const SHIM_LOG_FILE: &str = "shim.log";

/// Which runtime creates the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// Our own, inside the shim.
    #[default]
    Builtin,
    /// libcontainer, inside the shim.
    Libcontainer,
    /// An OCI runtime binary (runc's command line), called by the shim.
    Binary {
        /// The program.
        path: PathBuf,
        /// Arguments before the command.
        #[serde(default)]
        args: Vec<String>,
    },
}

/// Where the container's output goes besides attached clients.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSink {
    /// Nowhere.
    #[default]
    None,
    /// Docker's json-file format.
    JsonFile {
        /// The file.
        #[serde(flatten)]
        file: LogFile,
        /// Extra attributes put on every line (`attrs`), as dockerd's `labels`, `env` and `tag` options give.
        #[serde(default)]
        attributes: Vec<(String, String)>,
        /// What waits for it.
        #[serde(default, skip_serializing_if = "Buffer::is_blocking")]
        buffer: Buffer,
    },
    /// Docker's local format.
    Local {
        /// The file.
        file: LogFile,
        /// What waits for it.
        #[serde(default, skip_serializing_if = "Buffer::is_blocking")]
        buffer: Buffer,
    },
    /// A syslog service.
    Syslog {
        /// Where and how.
        settings: syslog::Settings,
        /// What waits for it.
        buffer: Buffer,
        /// What is kept besides, in the local format.
        cache: Option<LogFile>,
    },
    /// The journal.
    Journald {
        /// Fields of every message.
        fields: Vec<(String, String)>,
        /// What waits for it.
        buffer: Buffer,
        /// What is kept besides, in the local format.
        cache: Option<LogFile>,
    },
}

/// A file of a log and when it is rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// The file; rotated files get `.1`, `.2`, ... appended, and `.gz` when they are packed.
    pub path: PathBuf,
    /// Rotate when the file has become as long as this; `None`: never.
    pub max_size_bytes: Option<u64>,
    /// How many files there are at most, the current one included.
    pub max_file: u32,
    /// Whether rotated files are packed.
    #[serde(default)]
    pub compress: bool,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Characters a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Everything a container's shim needs besides the OCI specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container's id.
    pub id: String,
    /// Who creates the container.
    #[serde(default)]
    pub runtime: RuntimeKind,
    /// Whether the container's streams are a terminal. Must agree with `process.terminal` of the specification.
    #[serde(default)]
    pub terminal: bool,
    /// The terminal's first size.
    #[serde(default)]
    pub console_size: Option<WindowSize>,
    /// Whether stdin is held open for attached clients; otherwise it is `/dev/null`.
    #[serde(default)]
    pub open_stdin: bool,
    /// Whether stdin is closed for good when the first client that attached to it leaves.
    #[serde(default)]
    pub stdin_once: bool,
    /// Where output is kept.
    #[serde(default)]
    pub log: LogSink,
    /// How the root file system at the specification's `root.path` is put together; mounted by the shim where only the
    /// container sees it. `None`: the path is a root file system already.
    #[serde(default)]
    pub rootfs: Option<RootfsMount>,
    /// Bind mounts of a folder in their source, by destination. Found by the built-in runtime below a handle of the source, so that
    /// whoever can write to the source cannot lead the mount out of it by a link, now or in the moment of mounting.
    #[serde(default)]
    pub subpaths: BTreeMap<PathBuf, PathBuf>,
    /// Images to be mounted where the specification has bind mounts, by destination. By the built-in runtime only.
    #[serde(default)]
    pub images: BTreeMap<PathBuf, RootfsMount>,
    /// The container's cgroup below the root of each hierarchy, for example `/shoal/<id>`.
    pub cgroup: String,
    /// Ids of the container's user namespace, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_map: Option<IdMap>,
    /// The checkpoint that the processes come from, instead of the specification's program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

/// A checkpoint to be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The program CRIU.
    pub criu: PathBuf,
    /// Folder of the checkpoint.
    pub images: PathBuf,
    /// What the first process's standard streams were, as `/proc/<pid>/fd` shows them; empty for one that was closed.
    pub streams: [String; 3],
}

/// An exec: one more process in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecConfig {
    /// The exec's id.
    pub id: String,
    /// The directory of the container's shim.
    pub container_dir: PathBuf,
    /// The process as an OCI `process` object: args, env, cwd, user, capabilities, no new privileges, terminal.
    pub process: oci_spec::runtime::Process,
    /// The container's execution domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<oci_spec::runtime::LinuxPersonality>,
    /// The terminal's first size.
    #[serde(default)]
    pub console_size: Option<WindowSize>,
    /// Whether stdin is held open for attached clients; otherwise it is `/dev/null`.
    #[serde(default)]
    pub open_stdin: bool,
    /// Run without the container's system call filter (`exec --privileged`).
    #[serde(default)]
    pub privileged: bool,
}

/// The process ids, as `state.json` holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// The shim's own process id.
    pub shim_pid: u32,
    /// When the shim's process started, in clock ticks since boot; zero when it did not say.
    #[serde(default)]
    pub shim_start_ticks: u64,
    /// The container's (or exec's) first process, as the host numbers it.
    pub init_pid: u32,
    /// When that process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`, to recognise it again.
    pub init_start_ticks: u64,
    /// What its standard streams were at first, as `/proc/<pid>/fd` names pipes; empty for what is none.
    #[serde(default)]
    pub streams: [String; 3],
}

/// How a container's (or exec's) first process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container because its memory limit was reached.
    #[serde(default)]
    pub oom_killed: bool,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Why it could not be started, when it never ran.
    #[serde(default)]
    pub error: Option<String>,
}

impl ExitRecord {
    /// Reads `exit.json` in `dir`; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or is not a record.
    pub fn read(dir: &Path) -> std::io::Result<Option<Self>> {
        read_json(&dir.join(EXIT_FILE))
    }
}

impl ShimState {
    /// Reads `state.json` in `dir`; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or is not a state.
    pub fn read(dir: &Path) -> std::io::Result<Option<Self>> {
        read_json(&dir.join(STATE_FILE))
    }

    /// Is there no such shim any more?
    ///
    /// # Errors
    /// When nobody can tell.
    pub fn is_gone(&self) -> std::io::Result<bool> {
        shoal_engine_sys::proc::is_running(self.shim_pid, self.shim_start_ticks).map(|running| !running)
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> std::io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(std::io::Error::from)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
