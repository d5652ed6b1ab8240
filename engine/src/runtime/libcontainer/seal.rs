//! What the library leaves open is closed here: inside the container, while nothing of it runs yet.

use std::io::{self, Read};
use std::path::Path;

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, fsconfig_create, fsmount, fsopen,
};
use shoal_engine_sys::fs::Directory;
use shoal_engine_sys::namespace::MountChange;

use super::cannot;
use crate::runtime::spec::REPLACEABLE_IN_PROC;
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// Makes cgroups read-only and mounts private that are to be, and refuses a container with something in its `/proc` that has no business there.
pub(super) fn seal(spec: &Spec) -> Result<(), RuntimeFailure> {
    seal_cgroups(spec).map_err(|error| cannot("make the cgroups read-only", &error))?;
    seal_propagation(spec).map_err(|error| cannot("make mounts private", &error))?;
    let table = mount_table().map_err(|error| cannot("read the mounts", &error))?;
    match intruder(&table, spec) {
        None => Ok(()),
        Some(place) => {
            let text = format!("cannot mount at {place:?}: it is inside /proc");
            Err(RuntimeFailure::new(FailureKind::CannotApply, text))
        }
    }
}

/// The library leaves each hierarchy of v1 writable, and with it the release agent of one that has no namespace
/// (CVE-2022-0492).
fn seal_cgroups(spec: &Spec) -> io::Result<()> {
    const READ_ONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;
    let is_sealed = |mount: &&Mount| {
        let words = mount.options().as_deref().unwrap_or_default();
        mount.typ().as_deref().is_some_and(|kind| kind.starts_with("cgroup")) && words.iter().any(|word| word == "ro")
    };
    for mount in spec.mounts().iter().flatten().filter(is_sealed) {
        let place = Directory::open(Path::new("/"))?.open_any(mount.destination(), false)?;
        MountChange { set: READ_ONLY, recursive: true, ..MountChange::default() }.apply(&place)?;
    }
    Ok(())
}

/// The library leaves what is to be private a slave of the host's.
fn seal_propagation(spec: &Spec) -> io::Result<()> {
    const PRIVATE: u64 = MountPropagationFlags::PRIVATE.bits() as u64;
    for mount in spec.mounts().iter().flatten() {
        let words = mount.options().as_deref().unwrap_or_default();
        let Some(word) = words.iter().find(|word| matches!(word.as_str(), "private" | "rprivate")) else { continue };
        let place = Directory::open(Path::new("/"))?.open_any(mount.destination(), true)?;
        let recursive = word == "rprivate";
        MountChange { propagation: PRIVATE, recursive, ..MountChange::default() }.apply(&place)?;
    }
    Ok(())
}

/// From a procfs that nothing is mounted in.
fn mount_table() -> io::Result<String> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let proc = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let file = rustix::fs::openat(&proc, "self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

/// A mount in `/proc` that is neither the specification's own doing nor a file that may be replaced: a link of the image
/// led a volume there (CVE-2019-16884).
fn intruder<'a>(table: &'a str, spec: &Spec) -> Option<&'a str> {
    let linux = spec.linux().as_ref()?;
    let is_in = |list: &Option<Vec<String>>, place: &str| list.iter().flatten().any(|path| path == place);
    // What was made read-only is itself; what hides is anything, and shows nothing.
    let known = |place: &str, kind: &str| {
        REPLACEABLE_IN_PROC.contains(&place)
            || is_in(linux.masked_paths(), place)
            || (kind == "proc" && (place == "/proc" || is_in(linux.readonly_paths(), place)))
    };
    table.lines().find_map(|line| {
        // 36 35 98:0 /root /place options optional... - type source options
        let place = line.split(' ').nth(4)?;
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        (Path::new(place).starts_with("/proc") && !known(place, kind)).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_business_in_proc_is_seen() {
        let spec = serde_json::json!({"ociVersion": "1.0.2", "linux": {
            "maskedPaths": ["/proc/keys"], "readonlyPaths": ["/proc/sys"]}});
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let line = |place: &str, kind: &str| format!("36 35 98:0 / {place} rw,relatime shared:7 - {kind} x rw\n");
        let ours = [("/", "overlay"), ("/proc", "proc"), ("/proc/sys", "proc"), ("/proc/keys", "tmpfs")];
        let mut table: String = ours.iter().map(|(place, kind)| line(place, kind)).collect();
        table.push_str(&line("/proc/uptime", "fuse.lxcfs"));
        table.push_str(&line("/process", "ext4"));
        assert_eq!(intruder(&table, &spec), None);
        for (place, kind) in
            [("/proc", "ext4"), ("/proc/1/attr", "tmpfs"), ("/proc/sys", "tmpfs"), ("/proc/sys/net", "proc")]
        {
            assert_eq!(intruder(&(table.clone() + &line(place, kind)), &spec), Some(place));
        }
    }
}
