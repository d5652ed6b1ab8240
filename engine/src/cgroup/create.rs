//! Making a container's cgroup: directories, limits, device rules, and the first process.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::device_filter;
use super::limits::Limits;
use super::settings::{self, UpdateError};
use super::tree::{Cgroup, Layout, remove_tree};

/// Controllers that a container can have limits of, by v2's names.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// Why a cgroup could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A directory or a file of it.
    #[error("cannot {what} {path:?}")]
    Path {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: std::path::PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A limit.
    #[error(transparent)]
    Limit(#[from] UpdateError),
    /// The device rules.
    #[error("cannot enforce the device rules")]
    Devices(#[source] io::Error),
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CreateError {
    let path = path.to_owned();
    move |source| CreateError::Path { what, path, source }
}

/// Makes the cgroup in every hierarchy, with these limits and device rules. One that is left over without processes is
/// made anew.
///
/// # Errors
/// With the first thing that this host cannot enforce; what was made stays, for [`Cgroup::remove`].
pub fn create(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), CreateError> {
    let rules = resources.devices().clone().unwrap_or_default();
    match cgroup.layout() {
        Layout::V1(_) => {
            for directory in cgroup.directories() {
                make(&directory)?;
                if directory
                    .components()
                    .any(|part| part.as_os_str().to_string_lossy().split(',').any(|name| name == "cpuset"))
                {
                    inherit_cpuset(&directory)?;
                }
            }
            write_rules(cgroup, &rules)?;
        }
        Layout::V2(root) => {
            let directory = cgroup.directory("");
            enable_controllers(root, &directory)?;
            make(&directory)?;
            attach_rules(&directory, &rules)?;
        }
    }
    Ok(settings::apply(cgroup, &Limits::from_oci(resources))?)
}

fn make(directory: &Path) -> Result<(), CreateError> {
    let failed = failed("make", directory);
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(directory).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Limits of an earlier life must not count in this one.
            remove_tree(directory).and_then(|()| std::fs::create_dir(directory)).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// A new cpuset is empty, and nothing can run in it: it gets its parent's, who may be as new.
fn inherit_cpuset(directory: &Path) -> Result<(), CreateError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = directory.join(file);
        let read = |path: &Path| std::fs::read_to_string(path).map_err(failed("read", path));
        if !read(&path)?.trim().is_empty() {
            continue;
        }
        let Some(parent) = directory.parent().filter(|parent| parent.join(file).exists()) else { continue };
        inherit_cpuset(parent)?;
        let value = read(&parent.join(file))?;
        std::fs::write(&path, value.trim()).map_err(failed("write", &path))?;
    }
    Ok(())
}

/// v1: one write a rule.
fn write_rules(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<(), CreateError> {
    let directory = cgroup.directory("devices");
    let open = |file: &str| {
        let path = directory.join(file);
        File::options().write(true).open(&path).map_err(failed("open", &path))
    };
    if rules.is_empty() {
        return Ok(());
    }
    let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
    for rule in rules {
        let mut file = if rule.allow() { &allow } else { &deny };
        file.write_all(rule_text(rule).as_bytes()).map_err(CreateError::Devices)?;
    }
    Ok(())
}

fn rule_text(rule: &LinuxDeviceCgroup) -> String {
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        _ => return "a".to_owned(),
    };
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        _ => "*".to_owned(),
    };
    format!("{kind} {}:{} {}", number(rule.major()), number(rule.minor()), rule.access().as_deref().unwrap_or("rwm"))
}

/// v2: a program.
fn attach_rules(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), CreateError> {
    if rules.is_empty() {
        return Ok(());
    }
    let cgroup = File::open(directory).map_err(failed("open", directory))?;
    let program = shoal_engine_sys::cgroup::load_device_filter(&device_filter::program(rules));
    let attached = program.and_then(|program| shoal_engine_sys::cgroup::attach_device_filter(&cgroup, &program));
    attached.map_err(CreateError::Devices)
}

/// v2: a cgroup has the controllers that all above it hand on.
fn enable_controllers(root: &Path, directory: &Path) -> Result<(), CreateError> {
    let mut above: Vec<&Path> = directory.ancestors().skip(1).take_while(|path| path.starts_with(root)).collect();
    above.reverse();
    for path in above {
        if !path.exists() {
            std::fs::create_dir(path).map_err(failed("make", path))?;
        }
        let controllers = path.join("cgroup.controllers");
        let available = std::fs::read_to_string(&controllers).map_err(failed("read", &controllers))?;
        let control = path.join("cgroup.subtree_control");
        let enabled = std::fs::read_to_string(&control).map_err(failed("read", &control))?;
        let has = |list: &str, name: &str| list.split_whitespace().any(|one| one == name);
        for name in CONTROLLERS.iter().filter(|name| has(&available, name) && !has(&enabled, name)) {
            std::fs::write(&control, format!("+{name}")).map_err(failed("write", &control))?;
        }
    }
    Ok(())
}
