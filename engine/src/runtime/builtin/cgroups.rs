//! What a container sees of its cgroups.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};
use shoal_engine_sys::fs::Directory;
use shoal_engine_sys::namespace::MountChange;

use super::options::{self, Options};
use super::rootfs::{Root, attach, clone_tree, new_file_system};
use crate::cgroup::Cgroup;
use crate::cgroup::tree::Layout;
use crate::shim::config::ShimConfig;

/// Controllers of v1. A hierarchy of another name is a named one.
const CONTROLLERS: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "net_prio",
    "blkio",
    "perf_event",
    "hugetlb",
    "pids",
    "rdma",
    "misc",
    "debug",
];

/// Mounts them: v2 as it is, of v1 each hierarchy in a directory of a tmpfs.
pub(super) fn add(root: &Root, config: &ShimConfig, linux: &Linux, path: &Path, asked: &Options) -> io::Result<()> {
    let cgroup = Cgroup::open(&config.cgroup)?;
    let target = root.target(path, true)?;
    let attributes = Options { set: asked.set, ..Options::default() };
    let hierarchies = match cgroup.layout() {
        Layout::V2(_) => return attach(new_file_system("cgroup2", "cgroup", &attributes)?, &target),
        Layout::V1(hierarchies) => hierarchies.clone(),
    };
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let own_view = namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup);
    let shelf = Options {
        set: asked.set & !options::READ_ONLY,
        data: vec![("mode".to_owned(), Some("755".to_owned()))],
        ..Options::default()
    };
    let shelf = new_file_system("tmpfs", "tmpfs", &shelf)?;
    attach(&shelf, &target)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = Directory::from(rustix::fs::openat(&shelf, ".", flags, Mode::empty())?);
    for hierarchy in &hierarchies {
        let Some(name) = hierarchy.file_name() else { continue };
        directory.make_dir(name, 0o755)?;
        let place = directory.open_any(Path::new(name), false)?;
        let tree = if own_view {
            new_file_system("cgroup", "cgroup", &Options { data: hierarchy_options(name), ..attributes.clone() })?
        } else {
            let tree = clone_tree(&hierarchy.join(config.cgroup.trim_start_matches('/')), false)?;
            MountChange { propagation: options::PRIVATE, ..MountChange::default() }.apply(&tree)?;
            MountChange { set: asked.set, ..MountChange::default() }.apply(&tree)?;
            tree
        };
        attach(&tree, &place)?;
        // Co-mounted controllers are found by their single names, too.
        let names = name.to_string_lossy();
        for single in names.split(',').filter(|single| *single != names) {
            directory.make_link(OsStr::new(single), name)?;
        }
    }
    if asked.set & options::READ_ONLY != 0 {
        MountChange { set: options::READ_ONLY, ..MountChange::default() }.apply(&shelf)?;
    }
    Ok(())
}

fn hierarchy_options(name: &OsStr) -> Vec<(String, Option<String>)> {
    let name = name.to_string_lossy();
    let controllers: Vec<&str> = name.split(',').collect();
    if controllers.iter().all(|controller| CONTROLLERS.contains(controller)) {
        controllers.into_iter().map(|controller| (controller.to_owned(), None)).collect()
    } else {
        vec![("name".to_owned(), Some(name.into_owned()))]
    }
}
