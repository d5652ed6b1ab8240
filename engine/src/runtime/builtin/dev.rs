//! What is in `/dev`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use shoal_engine_sys::fs::{Directory, FileKind};

use super::cannot;
use super::rootfs::attach;
use super::stage::Stage;
use crate::shim::protocol::RuntimeFailure;

/// Devices that every container has, all of them open to everybody.
const DEFAULT_DEVICES: &[(&str, (u32, u32))] =
    &[("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("random", (1, 8)), ("urandom", (1, 9)), ("tty", (5, 0))];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// One device to be made.
struct Node {
    path: PathBuf,
    kind: FileKind,
    mode: u32,
    numbers: (u32, u32),
    owner: (u32, u32),
}

/// Folder of the stage that devices for a container in a user namespace are in.
pub(super) const STAGED: &str = "devices";

/// Makes the devices and links. In a user namespace nobody can make devices: there they are taken from the stage.
pub(super) fn fill(root: &Directory, devices: &[LinuxDevice], stage: Option<&Stage>) -> Result<(), RuntimeFailure> {
    let old = rustix::process::umask(rustix::fs::Mode::empty());
    let result = fill_inner(root, devices, stage);
    rustix::process::umask(old);
    result
}

/// Makes the devices on a stage, by number. They have the owners and modes of the host's, as dockerd shows those.
pub(super) fn stage(stage: &Directory, devices: &[LinuxDevice]) -> Result<(), RuntimeFailure> {
    let old = rustix::process::umask(rustix::fs::Mode::empty());
    let make_all = || -> Result<(), RuntimeFailure> {
        let folder = stage.make_path(Path::new(STAGED), 0o711).map_err(|error| cannot("make /dev", &error))?;
        for (index, node) in nodes(devices).enumerate() {
            let made = node.and_then(|node| make(&folder, &Node { path: PathBuf::from(index.to_string()), ..node }));
            made.map_err(|error| cannot("make a device", &error))?;
        }
        Ok(())
    };
    let result = make_all();
    rustix::process::umask(old);
    result
}

/// All of them: the default ones that are not asked for otherwise, and those asked for.
fn nodes(devices: &[LinuxDevice]) -> impl Iterator<Item = io::Result<Node>> {
    let default = DEFAULT_DEVICES.iter().map(|(name, numbers)| {
        let path = Path::new("/dev").join(name);
        Node { path, kind: FileKind::CharacterDevice, mode: 0o666, numbers: *numbers, owner: (0, 0) }
    });
    let default = default.filter(|node| devices.iter().all(|device| *device.path() != node.path));
    default.map(Ok).chain(devices.iter().map(node))
}

fn fill_inner(root: &Directory, devices: &[LinuxDevice], stage: Option<&Stage>) -> Result<(), RuntimeFailure> {
    let failed = |error: io::Error| cannot("fill /dev", &error);
    let dev = root.make_path(Path::new("/dev"), 0o755).map_err(failed)?;
    for (index, node) in nodes(devices).enumerate() {
        let node = node.map_err(failed)?;
        let made = root.make_path(node.path.parent().unwrap_or(Path::new("/")), 0o755).and_then(|parent| match stage {
            None => make(&parent, &node),
            Some(stage) => show(&parent, &node, &stage.take_device(&index.to_string())?),
        });
        made.map_err(|error| cannot(&format!("make device {:?}", node.path), &error))?;
    }
    for (name, text) in LINKS {
        match dev.make_link(OsStr::new(name), OsStr::new(text)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(())
}

fn node(device: &LinuxDevice) -> io::Result<Node> {
    let number = |number: i64| u32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let kind = match device.typ() {
        LinuxDeviceType::B => FileKind::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileKind::CharacterDevice,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device")),
    };
    Ok(Node {
        path: device.path().clone(),
        kind,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        numbers: (number(device.major())?, number(device.minor())?),
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
    })
}

/// Shows a device of the stage under its name.
fn show(parent: &Directory, node: &Node, device: &OwnedFd) -> io::Result<()> {
    let name = node.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match parent.create_file(name, 0o666) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => drop(made?),
    }
    attach(device, parent.open_any(Path::new(name), false)?)
}

fn make(parent: &Directory, node: &Node) -> io::Result<()> {
    let name = node.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match parent.make_special(name, node.kind, node.mode, node.numbers) {
        // In an image's own /dev: it counts when it is that device, and nothing else does.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return check(parent, name, node),
        other => other?,
    }
    if node.owner != (0, 0) {
        parent.set_owner(name, node.owner.0, node.owner.1)?;
    }
    Ok(())
}

fn check(parent: &Directory, name: &OsStr, node: &Node) -> io::Result<()> {
    let found = parent.open_any(Path::new(name), false)?;
    let status = rustix::fs::fstat(&found)?;
    let numbers = (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev));
    if shoal_engine_sys::fs::metadata(&found)?.kind == node.kind && numbers == node.numbers {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{:?} is something else", node.path)))
}
