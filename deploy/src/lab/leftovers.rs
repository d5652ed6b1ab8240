//! What is there of a lab: by namespace, cgroup path, folder and link, whatever its record says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::layout::{CGROUP, Lab};
use super::process::{self, Marks};
use super::{namespace, network};

/// Where the parts of one lab can be.
#[derive(Debug)]
pub(super) struct Scope {
    name: String,
    /// The lab's folder of run-time parts.
    pub(super) run: PathBuf,
    /// The lab's folder of data.
    pub(super) dir: PathBuf,
    link: Option<String>,
    namespaces: BTreeSet<u64>,
}

impl Scope {
    /// The scope of a lab; its namespaces are looked up now, while they are bound.
    pub(super) fn new(name: &str, dir: &Path, lab: Option<&Lab>) -> Self {
        let run = Lab::run_folder(name);
        let bound = std::fs::read_dir(run.join("ns")).into_iter().flatten().flatten();
        let namespaces = bound.filter_map(|entry| namespace::number(&entry.path())).collect();
        Self { name: name.to_owned(), run, dir: dir.to_owned(), link: lab.map(Lab::root_link), namespaces }
    }

    /// What makes a process one of the lab's.
    pub(super) fn marks(&self) -> Marks {
        Marks {
            namespaces: self.namespaces.clone(),
            cgroup: format!("/{CGROUP}/{}", self.name),
            run_folder: self.run.display().to_string(),
        }
    }

    /// Both folders.
    pub(super) fn folders(&self) -> [&Path; 2] {
        [&self.run, &self.dir]
    }

    /// The lab's cgroup in every hierarchy that has it.
    pub(super) fn cgroups(&self) -> Vec<PathBuf> {
        let in_hierarchy = |root: PathBuf| root.join(CGROUP).join(&self.name);
        cgroup_roots().into_iter().map(in_hierarchy).filter(|folder| folder.is_dir()).collect()
    }

    /// Whether the data folder is a lab's: it is where labs' data is by default, or it bears a lab's mark.
    pub(super) fn may_remove_data(&self) -> bool {
        self.dir == Lab::default_dir(&self.name) || self.dir.join("lab.json").is_file()
    }
}

/// The roots of all cgroup hierarchies: one on v2, one for each controller (and the unified one) on v1 and hybrid.
pub(super) fn cgroup_roots() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| {
        line.split_once(" - ").is_some_and(|(_, rest)| rest.starts_with("cgroup ") || rest.starts_with("cgroup2 "))
    };
    let points: BTreeSet<PathBuf> =
        text.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect();
    points.into_iter().collect()
}

/// Everything that is there of the lab, in words.
pub(super) fn find(scope: &Scope, keep_data: bool) -> Vec<String> {
    let mut found = Vec::new();
    for process in process::marked(&scope.marks()) {
        found.push(format!("process {}: {}", process.pid, process.command()));
    }
    found.extend(process::mounts_below(&scope.folders()).iter().map(|point| format!("mount {}", point.display())));
    found.extend(scope.cgroups().iter().map(|folder| format!("cgroup {}", folder.display())));
    if let Some(link) = scope.link.as_ref().filter(|link| network::links().unwrap_or_default().contains(link)) {
        found.push(format!("link {link}"));
    }
    if scope.run.exists() {
        found.push(format!("folder {}", scope.run.display()));
    }
    if !keep_data && scope.dir.exists() {
        let why = if scope.may_remove_data() { "" } else { " (not removed: it does not bear the mark of a lab)" };
        found.push(format!("folder {}{why}", scope.dir.display()));
    }
    found
}
