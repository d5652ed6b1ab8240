//! What the kernel takes for each step of a start when nothing else is done: the floor below the daemon's figures.
//!
//! Measured in a process of its own (`shoal-bench floor`) that has one thread, so that it may fork and change namespaces.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, ensure};
use nix::sched::CloneFlags;
use rustix::fs::{CWD, FileType, Mode};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use shoal_engine_sys::netlink::{Family, NetlinkSocket, address, link};
use shoal_engine_sys::process::{self, Fork, SingleThread};
use shoal_tests::command::run;
use shoal_tests::wait::now;

use crate::figures::{median, seconds};

const ROUNDS: usize = 40;

/// Asks a process of its own. Seconds by name.
pub(super) fn ask() -> anyhow::Result<BTreeMap<String, f64>> {
    let program = std::env::current_exe()?;
    let told = run(&program.to_string_lossy(), &["floor"])?.ok()?;
    let lines = told.lines().map(|line| {
        let (name, value) = line.split_once(' ').context("no value")?;
        Ok((name.to_owned(), value.parse()?))
    });
    lines.collect()
}

/// The process: prints a line for each floor.
pub(crate) fn main() -> anyhow::Result<()> {
    let scratch = std::env::temp_dir().join(format!("shoal-floor-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let measured = furnish(&scratch).and_then(|()| measure(&scratch));
    std::fs::remove_dir_all(&scratch)?;
    for (name, took) in measured? {
        println!("{name} {took}");
    }
    Ok(())
}

/// A root to mount, as small as an image can be.
fn furnish(scratch: &Path) -> anyhow::Result<()> {
    for name in ["lower", "upper", "work", "root"] {
        std::fs::create_dir(scratch.join(name))?;
    }
    for name in ["proc", "sys", "dev", "etc", "old"] {
        std::fs::create_dir(scratch.join("lower").join(name))?;
    }
    for name in FILES {
        std::fs::write(scratch.join("lower/etc").join(name), "")?;
    }
    Ok(())
}

fn measure(scratch: &Path) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let isolated =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    let none = CloneFlags::empty();
    let unshare = || timed(&|| Ok(nix::sched::unshare(CloneFlags::CLONE_NEWNET)?));
    let floors: [(&str, &dyn Fn() -> anyhow::Result<f64>); 9] = [
        ("namespace", &|| in_child(none, &unshare)),
        ("files", &|| files(scratch)),
        ("network", &|| in_child(CloneFlags::CLONE_NEWNET, &network)),
        ("fork", &|| born(none)),
        ("clone", &|| born(isolated)),
        ("cgroup", &cgroup),
        ("mounts", &|| in_child(isolated, &|| timed(&|| mounts(scratch)))),
        ("execute", &execute),
        ("write", &|| timed(&|| write(scratch))),
    ];
    let mut all = Vec::new();
    for (name, floor) in floors {
        let rounds = (0..ROUNDS).map(|_| floor()).collect::<Result<Vec<_>, _>>();
        all.push((name, median(rounds.with_context(|| format!("the floor {name}"))?)));
    }
    Ok(all)
}

fn timed(work: &dyn Fn() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = now();
    work()?;
    Ok(seconds(begin.elapsed()))
}

/// What a child in namespaces of its own measures.
fn in_child(namespaces: CloneFlags, work: &dyn Fn() -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    let (mut hears, says) = pipe()?;
    let Fork::Parent(pid) = SingleThread::prove()?.fork_into(namespaces.bits().cast_unsigned())? else {
        let told = match work() {
            Ok(took) => took.to_string(),
            Err(error) => format!("{error:#}"),
        };
        let _ = File::from(says).write_all(told.as_bytes());
        process::exit_now(0);
    };
    drop(says);
    let mut told = String::new();
    hears.read_to_string(&mut told)?;
    process::wait_for(pid)?;
    told.parse().map_err(|_| anyhow::anyhow!(told))
}

fn pipe() -> anyhow::Result<(File, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((reader.into(), writer))
}

/// From the fork to a word from the child.
fn born(namespaces: CloneFlags) -> anyhow::Result<f64> {
    let (mut hears, says) = pipe()?;
    let begin = now();
    let Fork::Parent(pid) = SingleThread::prove()?.fork_into(namespaces.bits().cast_unsigned())? else {
        let _ = File::from(says).write_all(b"!");
        process::exit_now(0);
    };
    hears.read_exact(&mut [0])?;
    let took = seconds(begin.elapsed());
    process::wait_for(pid)?;
    Ok(took)
}

/// From the word to go until the program is there.
fn execute() -> anyhow::Result<f64> {
    let (mut hears, says) = pipe()?;
    let (mut waits, go) = pipe()?;
    let Fork::Parent(pid) = SingleThread::prove()?.fork()? else {
        drop((hears, go));
        let _ = waits.read(&mut [0]);
        let failed = process::execute(c"/bin/busybox", &[c"true".to_owned()], &[]);
        let _ = File::from(says).write_all(failed.to_string().as_bytes());
        process::exit_now(1);
    };
    drop((says, waits));
    let begin = now();
    File::from(go).write_all(b"!")?;
    let mut told = String::new();
    // The other end is closed by the execution.
    hears.read_to_string(&mut told)?;
    let took = seconds(begin.elapsed());
    process::wait_for(pid)?;
    ensure!(told.is_empty(), "{told}");
    Ok(took)
}

/// The files that a container has of its own.
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

fn files(scratch: &Path) -> anyhow::Result<f64> {
    // New ones: a file system may hurry those to the disk that take the place of others.
    for name in FILES {
        let _ = std::fs::remove_file(scratch.join(name));
    }
    timed(&|| FILES.iter().try_for_each(|name| Ok(std::fs::write(scratch.join(name), "127.0.0.1 localhost\n")?)))
}

/// A record of some kilobytes, whole or not at all. It is not waited for the disk, as the daemon does not.
fn write(scratch: &Path) -> anyhow::Result<()> {
    std::fs::write(scratch.join("record.new"), [b'x'; 6 * 1024])?;
    std::fs::rename(scratch.join("record.new"), scratch.join("record"))?;
    Ok(())
}

/// A pair of links at a bridge, with an address and a route. In a network namespace of its own.
fn network() -> anyhow::Result<f64> {
    let mut socket = NetlinkSocket::open(Family::Route)?;
    socket.request(link::create_bridge("b0", None, 1500, 0))?;
    let bridge = link::find(&mut socket, "b0")?.context("no bridge")?.index;
    let here = File::open("/proc/self/ns/net")?;
    timed(&|| {
        let mut socket = NetlinkSocket::open(Family::Route)?;
        socket.request(link::create_veth(&link::Veth {
            name: "v0",
            master: bridge,
            peer_name: "eth0",
            peer_mac: None,
            peer_netns: here.as_fd(),
            mtu: 1500,
            group: 0,
        }))?;
        let index = link::find(&mut socket, "eth0")?.context("no link")?.index;
        let addr = Ipv4Addr::new(10, 9, 9, 2);
        socket.transact(&[
            address::add(address::Address { link: index, addr, prefix_len: 24 }),
            link::set_up(index),
            address::put_route(address::default_route(Ipv4Addr::new(10, 9, 9, 1), index)),
        ])?;
        Ok(())
    })
}

/// A directory in every hierarchy, and a process that goes into it.
fn cgroup() -> anyhow::Result<f64> {
    let name = format!("shoal-floor-{}", std::process::id());
    let mut made = Vec::new();
    for entry in std::fs::read_dir("/sys/fs/cgroup")? {
        let entry = entry?;
        // Links lead to what is there anyhow.
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            made.push(entry.path().join(&name));
        }
    }
    if made.is_empty() {
        made.push(Path::new("/sys/fs/cgroup").join(&name));
    }
    let took = in_child(CloneFlags::empty(), &|| {
        timed(&|| {
            for directory in &made {
                std::fs::create_dir(directory)?;
                let tasks = directory.join("tasks");
                if directory.to_string_lossy().contains("cpuset") {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        let inherited = std::fs::read(directory.with_file_name(file))?;
                        std::fs::write(directory.join(file), inherited)?;
                    }
                }
                let list = if tasks.exists() { tasks } else { directory.join("cgroup.procs") };
                std::fs::write(list, "0")?;
            }
            Ok(())
        })
    });
    for directory in &made {
        std::fs::remove_dir(directory)?;
    }
    took
}

/// The mounts and devices of a container with the default options.
fn mounts(scratch: &Path) -> anyhow::Result<()> {
    use rustix::mount::{mount, mount_bind, mount_change, mount_remount, unmount};
    let root = scratch.join("root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let at = |name: &str| scratch.join(name).to_string_lossy().into_owned();
    let layers = format!("lowerdir={},upperdir={},workdir={}\0", at("lower"), at("upper"), at("work"));
    let none = MountFlags::empty();
    mount("overlay", &root, "overlay", none, std::ffi::CStr::from_bytes_with_nul(layers.as_bytes())?)?;
    mount("proc", root.join("proc"), "proc", MountFlags::NOSUID, None)?;
    mount("tmpfs", root.join("dev"), "tmpfs", MountFlags::NOSUID, c"mode=755,size=65536k")?;
    for name in ["pts", "shm", "mqueue"] {
        std::fs::create_dir(root.join("dev").join(name))?;
    }
    mount("devpts", root.join("dev/pts"), "devpts", MountFlags::NOSUID, c"newinstance,ptmxmode=0666,mode=0620")?;
    mount("shm", root.join("dev/shm"), "tmpfs", MountFlags::NOSUID, c"mode=1777,size=65536k")?;
    mount("mqueue", root.join("dev/mqueue"), "mqueue", MountFlags::NOSUID, None)?;
    mount("sysfs", root.join("sys"), "sysfs", MountFlags::RDONLY, None)?;
    for name in FILES {
        mount_bind(scratch.join(name), root.join("etc").join(name))?;
    }
    for (name, device) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let number = rustix::fs::makedev(1, device);
        rustix::fs::mknodat(CWD, root.join("dev").join(name), FileType::CharacterDevice, Mode::from(0o666), number)?;
    }
    // A kernel has not all of them.
    let there =
        |names: &[&str]| names.iter().map(|name| root.join(name)).filter(|path| path.exists()).collect::<Vec<_>>();
    for path in there(&["proc/kcore", "proc/keys", "proc/timer_list"]) {
        mount_bind(root.join("dev/null"), path)?;
    }
    for path in there(&["proc/bus", "proc/fs", "proc/irq", "proc/sys"]) {
        mount_bind(&path, &path)?;
        mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    for path in there(&["proc/acpi", "sys/firmware"]) {
        mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, None)?;
    }
    rustix::process::chdir(&root)?;
    rustix::process::pivot_root(".", "old")?;
    unmount("old", UnmountFlags::DETACH)?;
    Ok(())
}
