//! Devices: which nodes exist in the container, and which the devices cgroup lets it open.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::{DeviceInput, SpecError, SpecInput};

/// Type, major and minor (`None`: any), access: what every container may use, besides making nodes. dockerd's list.
const DEFAULT_RULES: &[(LinuxDeviceType, Option<i64>, Option<i64>, &str)] = &[
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"), // null
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"), // zero
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"), // full
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"), // random
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"), // urandom
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"), // tty
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"), // console
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"), // ptmx
    (LinuxDeviceType::C, Some(136), None, "rwm"),  // pts/*
];

/// The rules, deny-all first. A privileged container may use every device.
pub(super) fn rules(input: &SpecInput) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    if input.privileged {
        return Ok(vec![rule(true, LinuxDeviceType::A, None, None, "rwm")?]);
    }
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")?];
    for (kind, major, minor, access) in DEFAULT_RULES {
        rules.push(rule(true, *kind, *major, *minor, access)?);
    }
    for device in &input.devices {
        let access = if device.permissions.is_empty() { "rwm" } else { device.permissions.as_str() };
        for found in find(device)? {
            rules.push(rule(true, found.typ(), Some(found.major()), Some(found.minor()), access)?);
        }
    }
    for text in &input.device_cgroup_rules {
        rules.push(parse_rule(text)?);
    }
    Ok(rules)
}

/// The nodes besides the default ones.
pub(super) fn list(input: &SpecInput) -> Result<Vec<LinuxDevice>, SpecError> {
    let mut devices = Vec::new();
    if input.privileged {
        let all = DeviceInput {
            path_on_host: PathBuf::from("/dev"),
            path_in_container: PathBuf::new(),
            permissions: String::new(),
        };
        devices = find(&all)?;
    }
    for device in &input.devices {
        for found in find(device)? {
            devices.retain(|other: &LinuxDevice| other.path() != found.path());
            devices.push(found);
        }
    }
    Ok(devices)
}

/// One device, or all below a directory.
fn find(device: &DeviceInput) -> Result<Vec<LinuxDevice>, SpecError> {
    let inside =
        if device.path_in_container.as_os_str().is_empty() { &device.path_on_host } else { &device.path_in_container };
    if !device.permissions.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(SpecError::DeviceRule(device.permissions.clone()));
    }
    let failed = |source| SpecError::Device { path: device.path_on_host.clone(), source };
    let mut found = Vec::new();
    let metadata = std::fs::metadata(&device.path_on_host).map_err(failed)?;
    if metadata.is_dir() {
        walk(&device.path_on_host, inside, &mut found).map_err(failed)?;
        return Ok(found);
    }
    match node(&metadata, inside)? {
        Some(node) => Ok(vec![node]),
        None => Err(failed(std::io::Error::other("not a device node"))),
    }
}

fn walk(directory: &Path, inside: &Path, found: &mut Vec<LinuxDevice>) -> std::io::Result<()> {
    // As dockerd does: these are mounts of the container's own, or not devices.
    const SKIPPED: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        let metadata = entry.metadata()?;
        let inside = inside.join(&name);
        if metadata.is_dir() {
            walk(&entry.path(), &inside, found)?;
        } else if let Some(node) = node(&metadata, &inside).map_err(std::io::Error::other)? {
            found.push(node);
        }
    }
    Ok(())
}

fn node(metadata: &std::fs::Metadata, inside: &Path) -> Result<Option<LinuxDevice>, SpecError> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return Ok(None),
    };
    let device = LinuxDeviceBuilder::default()
        .path(inside)
        .typ(kind)
        .major(i64::from(rustix::fs::major(metadata.rdev())))
        .minor(i64::from(rustix::fs::minor(metadata.rdev())))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid());
    Ok(Some(device.build()?))
}

/// `c 42:* rmw`, as `--device-cgroup-rule` takes it.
fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup, SpecError> {
    let invalid = || SpecError::DeviceRule(text.to_owned());
    let fields: Vec<&str> = text.split(' ').collect();
    let &[kind, numbers, access] = fields.as_slice() else { return Err(invalid()) };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(invalid()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| invalid()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    if access.is_empty() || access.len() > 3 || !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(invalid());
    }
    rule(true, kind, number(major)?, number(minor)?, access)
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup, SpecError> {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access).build()?;
    rule.set_major(major);
    rule.set_minor(minor);
    Ok(rule)
}
