//! Network and UTS namespaces that stay because they are bound to files.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Makes a network namespace, and a UTS namespace with this hostname when asked to, unless they are there.
pub(super) fn ensure(network: &Path, uts: Option<(&Path, &str)>) -> anyhow::Result<()> {
    let missing = !is_bound(network) || uts.is_some_and(|(path, _)| !is_bound(path));
    if !missing {
        return Ok(());
    }
    let uts = uts.map(|(path, name)| (path.to_owned(), name.to_owned()));
    let network = network.to_owned();
    on_thread(move || {
        if !is_bound(&network) {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
            bind("net", &network)?;
            super::tool::ip("link set lo up")?;
        }
        if let Some((path, name)) = uts.filter(|(path, _)| !is_bound(path)) {
            unshare(CloneFlags::CLONE_NEWUTS).context("make a UTS namespace")?;
            rustix::system::sethostname(name.as_bytes()).context("set the hostname")?;
            bind("uts", &path)?;
        }
        Ok(())
    })
}

fn bind(kind: &str, path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    File::create(path).with_context(|| format!("create {}", path.display()))?;
    let own = format!("/proc/thread-self/ns/{kind}");
    mount(Some(own.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {}", path.display()))
}

/// Whether a namespace is bound to this file.
pub(super) fn is_bound(path: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}

/// The number that tells a namespace from others; what `/proc/<pid>/ns/net` shows for a process in it.
pub(super) fn number(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    is_bound(path).then(|| std::fs::metadata(path).ok().map(|metadata| metadata.ino())).flatten()
}

/// Moves the calling thread into namespaces.
pub(super) fn enter(network: &Path, uts: Option<&Path>) -> anyhow::Result<()> {
    let join = |path: &Path, kind: CloneFlags| {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        setns(&file, kind).with_context(|| format!("enter {}", path.display()))
    };
    join(network, CloneFlags::CLONE_NEWNET)?;
    uts.map_or(Ok(()), |path| join(path, CloneFlags::CLONE_NEWUTS))
}

/// Does something in namespaces, on a thread of its own; the calling thread stays where it is.
pub(super) fn inside<T: Send + 'static>(
    network: &Path,
    uts: Option<&Path>,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (network, uts) = (network.to_owned(), uts.map(Path::to_owned));
    on_thread(move || {
        enter(&network, uts.as_deref())?;
        work()
    })
}

/// Keeps what is in a folder in memory, as `/run` is kept on a machine of its own. A folder that is kept so already is left.
pub(super) fn keep_in_memory(folder: &Path) -> anyhow::Result<()> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    if rustix::fs::statfs(folder).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC) {
        return Ok(());
    }
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .with_context(|| format!("mount a file system in memory at {}", folder.display()))
}

fn on_thread<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    std::thread::spawn(work).join().map_err(|_| anyhow!("a thread of the lab panicked"))?
}

/// Takes whatever is mounted at a path away, however often.
pub(super) fn unmount(path: &Path) -> anyhow::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unmount {}", path.display())),
    }
}
