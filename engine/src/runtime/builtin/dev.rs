//! What is in `/dev`.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use shoal_engine_sys::fs::{Directory, FileKind};

use super::cannot;
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

/// Makes the devices and links.
pub(super) fn fill(root: &Directory, devices: &[LinuxDevice]) -> Result<(), RuntimeFailure> {
    let old = rustix::process::umask(rustix::fs::Mode::empty());
    let result = fill_inner(root, devices);
    rustix::process::umask(old);
    result
}

fn fill_inner(root: &Directory, devices: &[LinuxDevice]) -> Result<(), RuntimeFailure> {
    let failed = |error: io::Error| cannot("fill /dev", &error);
    let dev = root.make_path(Path::new("/dev"), 0o755).map_err(failed)?;
    for (name, numbers) in DEFAULT_DEVICES {
        let path = Path::new("/dev").join(name);
        if !devices.iter().any(|device| *device.path() == path) {
            make(&dev, &Node { path, kind: FileKind::CharacterDevice, mode: 0o666, numbers: *numbers, owner: (0, 0) })
                .map_err(failed)?;
        }
    }
    for device in devices {
        let made = node(device).and_then(|node| {
            let parent = root.make_path(node.path.parent().unwrap_or(Path::new("/")), 0o755)?;
            make(&parent, &node)
        });
        made.map_err(|error| cannot(&format!("make device {:?}", device.path()), &error))?;
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
