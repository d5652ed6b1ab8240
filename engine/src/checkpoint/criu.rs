//! The command lines of CRIU.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use shoal_engine_sys::process;

use crate::cgroup::Cgroup;
use crate::cgroup::tree::Layout;
use crate::runtime::bundle::INIT_ANNOTATION;
use crate::runtime::{DEFAULT_PATH, STATE_DIRECTORY};
use crate::shim::config::{Restore, SPEC_FILE, ShimConfig};

/// CRIU's name for the network namespace, which is not its to make.
const NETWORK: &str = "network";
const DUMP_LOG: &str = "dump.log";
const RESTORE_LOG: &str = "restore.log";
/// In the shim's folder: the number of the process that was restored.
const PID_FILE: &str = "restored.pid";

/// What of a container lies outside of it, and is there again when it is restored.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Mounts that the host gives: where they are, and what they show.
    mounts: Vec<(PathBuf, PathBuf)>,
    /// The network namespace, when the container is not in the host's.
    network: Option<PathBuf>,
    obstacle: Option<&'static str>,
}

impl Places {
    /// Those of the container whose shim is in `dir`. Blocks.
    pub(crate) fn of(dir: &Path, config: &ShimConfig) -> io::Result<Self> {
        let spec: Spec = serde_json::from_slice(&std::fs::read(dir.join(SPEC_FILE))?)?;
        let mut places = Self { obstacle: obstacle(&spec, config), ..Self::default() };
        for mount in spec.mounts().iter().flatten() {
            let words = mount.options().as_deref().unwrap_or_default();
            let binds = words.iter().any(|word| word == "bind" || word == "rbind");
            match (binds, mount.typ().as_deref(), mount.source()) {
                (true, _, Some(source)) => places.mounts.push((mount.destination().clone(), source.clone())),
                (false, Some("cgroup" | "cgroup2"), _) => {
                    places.mounts.extend(cgroup_mounts(&Cgroup::open(&config.cgroup)?, config, mount.destination()));
                }
                _ => {}
            }
        }
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let network = namespaces.into_iter().flatten().find(|one| one.typ() == LinuxNamespaceType::Network);
        places.network = network.and_then(|network| network.path().clone());
        Ok(places)
    }

    /// Why such a container cannot be checkpointed.
    pub(crate) fn obstacle(&self) -> Option<&'static str> {
        self.obstacle
    }

    /// The namespace of its network.
    pub(crate) fn network(&self) -> Option<&Path> {
        self.network.as_deref()
    }
}

fn obstacle(spec: &Spec, config: &ShimConfig) -> Option<&'static str> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).unwrap_or_default();
    let own = |kind| namespaces.iter().any(|one| one.typ() == kind && one.path().is_none());
    let shared = |kind| namespaces.iter().any(|one| one.typ() == kind && one.path().is_some());
    let has_init = spec.annotations().as_ref().is_some_and(|annotations| annotations.contains_key(INIT_ANNOTATION));
    [
        (config.terminal, "it has a terminal"),
        (config.id_map.is_some(), "it is in a user namespace"),
        (has_init, "it was started with --init"),
        (spec.hooks().is_some(), "a device of its was made by hooks of its vendor"),
        (!own(LinuxNamespaceType::Pid), "it does not have a PID namespace of its own"),
        (shared(LinuxNamespaceType::Ipc), "it shares the IPC namespace of another container"),
        (!config.images.is_empty() || !config.subpaths.is_empty(), "it has an image or a subpath of a volume mounted"),
    ]
    .into_iter()
    .find_map(|(holds, why)| holds.then_some(why))
}

fn cgroup_mounts(cgroup: &Cgroup, config: &ShimConfig, at: &Path) -> Vec<(PathBuf, PathBuf)> {
    let below = config.cgroup.trim_start_matches('/');
    match cgroup.layout() {
        Layout::V2(root) => vec![(at.to_owned(), root.join(below))],
        Layout::V1(hierarchies) => {
            let named = hierarchies.iter().filter_map(|hierarchy| Some((hierarchy.file_name()?, hierarchy)));
            named.map(|(name, hierarchy)| (at.join(name), hierarchy.join(below))).collect()
        }
    }
}

/// A dump to be made.
#[derive(Debug)]
pub(crate) struct Dump<'a> {
    pub(crate) criu: &'a Path,
    /// Where to.
    pub(crate) images: &'a Path,
    /// The container's first process.
    pub(crate) pid: u32,
    /// Let it run on afterwards?
    pub(crate) leave_running: bool,
}

impl Dump<'_> {
    /// Dumps a container whose cgroup and namespaces are ours.
    pub(crate) fn run(&self, places: &Places) -> io::Result<()> {
        let network = std::fs::metadata(format!("/proc/{}/ns/net", self.pid))?;
        let inode = std::os::unix::fs::MetadataExt::ino(&network);
        let mut command = process::command_of_others(self.criu);
        command.args(self.arguments(places, inode));
        self.finish(command)
    }

    fn arguments(&self, places: &Places, network_inode: u64) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        arguments.word("dump").pair("--tree", self.pid.to_string());
        arguments.common(self.images, self.images, DUMP_LOG);
        if self.leave_running {
            arguments.word("--leave-running");
        }
        if places.network.is_some() {
            arguments.pair("--external", format!("net[{network_inode}]:{NETWORK}"));
        }
        for (at, _) in &places.mounts {
            arguments.external_mount(at.as_os_str(), at.as_os_str());
        }
        arguments.0
    }

    /// Dumps a container that a runtime binary made.
    pub(crate) fn run_by(&self, runtime: &Path, args: &[String], shim_folder: &Path, id: &str) -> io::Result<()> {
        let mut command = process::command_of_others(runtime);
        command.args(args).arg("--root").arg(shim_folder.join(STATE_DIRECTORY));
        command.args(["checkpoint", "--image-path"]).arg(self.images).arg("--work-path").arg(self.images);
        if self.leave_running {
            command.arg("--leave-running");
        }
        command.arg(id);
        self.finish(command)
    }

    fn finish(&self, mut command: Command) -> io::Result<()> {
        command.env("PATH", search_path(self.criu));
        let output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(
            told(&self.images.join(DUMP_LOG)).unwrap_or_else(|| format!("CRIU failed: {}", said.trim())),
        ))
    }
}

/// Where CRIU, and who runs it, find programs: itself first, and what it calls (tar, the packet filter's).
pub(crate) fn search_path(criu: &Path) -> OsString {
    let mut path = criu.parent().map(Path::as_os_str).unwrap_or_default().to_owned();
    path.push(":");
    path.push(DEFAULT_PATH);
    path
}

/// How the processes of a checkpoint are restored below `root`.
/// `streams` are descriptors for the standard streams, `network` is one of the network namespace.
pub(crate) fn restore_arguments(
    restore: &Restore,
    places: &Places,
    (root, shim_folder): (&Path, &Path),
    streams: [RawFd; 3],
    network: Option<RawFd>,
) -> Vec<OsString> {
    let pid_file = shim_folder.join(PID_FILE);
    let mut arguments = Arguments::default();
    arguments.word("restore").word("--restore-detached").pair("--root", root).pair("--pidfile", &pid_file);
    arguments.common(&restore.images, shim_folder, RESTORE_LOG);
    for (name, descriptor) in restore.streams.iter().zip(streams) {
        if name.starts_with("pipe:[") {
            arguments.pair("--inherit-fd", format!("fd[{descriptor}]:{name}"));
        }
    }
    if let Some(descriptor) = network {
        arguments.pair("--inherit-fd", format!("fd[{descriptor}]:{NETWORK}"));
    }
    for (at, source) in &places.mounts {
        arguments.external_mount(at.as_os_str(), source.as_os_str());
    }
    arguments.0
}

/// The first process, after CRIU has restored it.
pub(crate) fn restored(shim_folder: &Path) -> io::Result<u32> {
    let text = std::fs::read_to_string(shim_folder.join(PID_FILE))?;
    text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is no process")))
}

/// What CRIU's log in a folder complains of first; rights that it does without are left out.
pub(crate) fn told(log: &Path) -> Option<String> {
    let log = std::fs::read(log).ok()?;
    let log = String::from_utf8_lossy(&log);
    let errors = log.lines().filter_map(|line| line.split_once("Error (")?.1.split_once("): "));
    let mut serious = errors.map(|(_, text)| text.trim()).filter(|text| !text.starts_with("rlimit: "));
    serious.next().map(|text| format!("CRIU failed: {text}"))
}

/// The log of a restoration in the shim's folder.
pub(crate) fn restore_log(shim_folder: &Path) -> PathBuf {
    shim_folder.join(RESTORE_LOG)
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn word(&mut self, word: &str) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn pair(&mut self, flag: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(flag.into());
        self.0.push(value.as_ref().to_owned());
        self
    }

    /// What has to be the same when it is dumped and when it is restored. The cgroup is ours to make.
    fn common(&mut self, images: &Path, work: &Path, log: &str) -> &mut Self {
        self.pair("--images-dir", images).pair("--work-dir", work).pair("--log-file", log).word("-v2");
        self.word("--manage-cgroups=ignore").word("--file-locks");
        self.word("--enable-external-sharing").word("--enable-external-masters")
    }

    fn external_mount(&mut self, of: &OsStr, as_: &OsStr) -> &mut Self {
        let mut value = OsString::from("mnt[");
        value.push(of);
        value.push("]:");
        value.push(as_);
        self.pair("--external", value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(arguments: &[OsString]) -> Vec<&str> {
        arguments.iter().map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn what_is_left_out_of_a_dump_is_given_to_the_restoration() {
        let places = Places {
            mounts: vec![(PathBuf::from("/etc/hosts"), PathBuf::from("/data/c/hosts"))],
            network: Some(PathBuf::from("/run/net")),
            obstacle: None,
        };
        let dump = Dump { criu: Path::new("/sbin/criu"), images: Path::new("/images"), pid: 7, leave_running: true };
        let dumped = dump.arguments(&places, 42);
        let dumped = words(&dumped);
        let restore = Restore {
            criu: PathBuf::from("/sbin/criu"),
            images: PathBuf::from("/images"),
            streams: ["/dev/null".to_owned(), "pipe:[5]".to_owned(), String::new()],
        };
        let restored =
            restore_arguments(&restore, &places, (Path::new("/root"), Path::new("/shim")), [3, 4, 5], Some(6));
        let restored = words(&restored);
        let has = |list: &[&str], flag: &str, value: &str| list.windows(2).any(|pair| pair == [flag, value]);
        assert!(has(&dumped, "--external", "net[42]:network") && has(&restored, "--inherit-fd", "fd[6]:network"));
        assert!(has(&dumped, "--external", "mnt[/etc/hosts]:/etc/hosts"));
        assert!(has(&restored, "--external", "mnt[/etc/hosts]:/data/c/hosts"));
        assert!(has(&restored, "--inherit-fd", "fd[4]:pipe:[5]"));
        assert_eq!(
            restored.iter().filter(|word| **word == "--inherit-fd").count(),
            2,
            "only what was a pipe: {restored:?}"
        );
        assert!(dumped.contains(&"--leave-running") && !restored.contains(&"--leave-running"));
    }

    #[test]
    fn the_first_serious_complaint_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(told(&log), None);
        std::fs::write(&log, "(00.1) Error (criu/util.c:15): rlimit: Can't\n(00.2) Warn  (a.c:1): x\n").unwrap();
        assert_eq!(told(&log), None);
        std::fs::write(
            &log,
            "Error (u.c:1): rlimit: no\n(00.2) Error (f.c:2): Can't dump: it\n(00.3) Error (g.c:3): z\n",
        )
        .unwrap();
        assert_eq!(told(&log).as_deref(), Some("CRIU failed: Can't dump: it"));
    }
}
