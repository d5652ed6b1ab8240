//! Checkpoints: the processes of a container, written to files by CRIU, and run on from them later.
//!
//! ## Design notes
//! - A checkpoint holds processes and what is in memory file systems, not the root file system: it is for the container
//!   that it was made of, as with dockerd.
//! - The daemon dumps: the shim, which is one loop, goes on to carry output meanwhile. The shim restores: what comes back
//!   has to be its child.
//! - Made under a hidden name and renamed when it is whole, so what is listed can be restored.

mod criu;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_engine_sys::{namespace, proc};
use shoal_proto::error::{ErrorKind, Failure, chain};

use self::criu::Dump;
pub(crate) use self::criu::{Places, restore_arguments, restore_log, restored, search_path, told};
use crate::container::instance::Container;
use crate::container::lifecycle::{Input, Phase};
use crate::container::names;
use crate::engine::Inner;
use crate::runtime::DEFAULT_PATH;
use crate::shim::config::{BUNDLE_FILE, Restore, RuntimeKind, ShimConfig, ShimState};

/// Where a container's own are, in its folder.
const FOLDER: &str = "checkpoints";
/// The end of the name of one that is being made.
const PARTIAL: &str = ".partial";
/// What says of a folder that it is a whole checkpoint.
const DESCRIPTION: &str = "checkpoint.json";
const SIZES: &str = "sizes.json";
/// How long the processes may take to go when they are not to run on.
const AFTER_DUMP: Duration = Duration::from_secs(10);

/// What is asked for with a new checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckpointCreate {
    /// Its name.
    #[serde(rename = "CheckpointID")]
    pub id: String,
    /// Folder to make it in; empty is the container's own.
    #[serde(rename = "CheckpointDir")]
    pub folder: String,
    /// End the container with it.
    pub exit: bool,
}

/// A checkpoint in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckpointSummary {
    /// Its name.
    pub name: String,
}

/// What a checkpoint says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    container: String,
    /// What the first process's standard streams were, as `/proc/<pid>/fd` shows them.
    streams: [String; 3],
}

/// Writes a running container's processes down.
///
/// # Errors
/// It does not run, a checkpoint of that name exists, CRIU is missing or cannot do it: then the container runs on.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    asked: &CheckpointCreate,
) -> Result<(), Failure> {
    let name = container.name();
    let turn = container.operation.lock().await;
    if container.phase() != Phase::Running {
        return Err(Failure::conflict(format!("Container {name} not running")));
    }
    if !names::is_valid(&asked.id) {
        return Err(invalid_name(&asked.id));
    }
    if !asked.folder.is_empty() && !Path::new(&asked.folder).is_absolute() {
        return Err(Failure::invalid(format!("the folder of checkpoints must be an absolute path: {}", asked.folder)));
    }
    let folder = folder_of(container, &asked.folder);
    let (shim_folder, order) = (inner.shim_folder(&container.id), asked.clone());
    let order = Order { shim_folder, folder, asked: order, id: container.id.clone(), name: name.clone() };
    if asked.exit {
        // As for a stop, and before it: what was put away is not to be started anew by its policy, whoever dies when.
        let _ended_already = container.step(Input::StopAsked);
        container.store().await;
    }
    let dumped = tokio::task::spawn_blocking(move || order.carry_out()).await;
    let dumped = dumped.map_err(|error| Failure::internal(&error)).and_then(|result| result);
    if dumped.is_err() && asked.exit {
        container.record().state.stopped_by_user = false;
        container.store().await;
    }
    dumped?;
    crate::container::tell(inner, container, "checkpoint", &[]);
    drop(turn);
    if asked.exit && tokio::time::timeout(AFTER_DUMP, container.ended()).await.is_err() {
        tracing::warn!(container = %container.id, "a container does not end after its checkpoint");
    }
    Ok(())
}

/// A dump to be made. Blocks.
struct Order {
    shim_folder: PathBuf,
    folder: PathBuf,
    asked: CheckpointCreate,
    id: String,
    name: String,
}

impl Order {
    fn carry_out(&self) -> Result<(), Failure> {
        let criu = find_criu()?;
        let config = std::fs::read(self.shim_folder.join(BUNDLE_FILE)).map_err(|error| Failure::internal(&error))?;
        let config: ShimConfig = serde_json::from_slice(&config).map_err(|error| Failure::internal(&error))?;
        let refused = |why: &str| Failure::new(ErrorKind::InvalidArgument, self.cannot(why));
        let places = Places::of(&self.shim_folder, &config).map_err(|error| Failure::internal(&error))?;
        if let Some(why) = places.obstacle() {
            return Err(refused(why));
        }
        adopt(&self.folder, &self.asked.id);
        let whole = self.folder.join(&self.asked.id);
        if whole.symlink_metadata().is_ok() {
            let text = format!("checkpoint with name {} already exists for container {}", self.asked.id, self.name);
            return Err(Failure::conflict(self.cannot(&text)));
        }
        let partial = partial(&self.folder, &self.asked.id);
        let failed = |error: io::Error| Failure::new(ErrorKind::Internal, self.cannot(&chain(&error)));
        remove_tree(&partial).map_err(failed)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&partial).map_err(failed)?;
        if let Err(error) = self.dump(&criu, &config, &places, &partial) {
            let _ = remove_tree(&partial);
            return Err(failed(error));
        }
        // From here on it may be all that there is of the processes: it is not removed, whatever happens.
        note_sizes(&partial);
        std::fs::rename(&partial, &whole).map_err(failed)
    }

    fn dump(&self, criu: &Path, config: &ShimConfig, places: &Places, images: &Path) -> io::Result<()> {
        let state = ShimState::read(&self.shim_folder)?.ok_or_else(|| io::Error::other("it has no process yet"))?;
        // Held while it is looked at: its number cannot become another's then.
        let _process = namespace::open_process(state.init_pid)?;
        if proc::start_ticks(state.init_pid)? != state.init_start_ticks {
            return Err(io::Error::other("its process has ended"));
        }
        // Written before: afterwards there may be neither processes nor room on the disk.
        let description = Description { container: self.id.clone(), streams: first_streams(&state) };
        std::fs::write(images.join(DESCRIPTION), serde_json::to_vec(&description)?)?;
        let dump = Dump { criu, images, pid: state.init_pid, leave_running: !self.asked.exit };
        match &config.runtime {
            RuntimeKind::Builtin | RuntimeKind::Libcontainer => dump.run(places),
            RuntimeKind::Binary { path, args } => dump.run_by(path, args, &self.shim_folder, &config.id),
        }
    }

    fn cannot(&self, why: &str) -> String {
        format!("cannot checkpoint container {}: {why}", self.name)
    }
}

/// Notes how long the files of a new checkpoint are. Without the note, on a full disk, they are not checked later.
fn note_sizes(images: &Path) {
    let noted = sizes(images).and_then(|sizes| std::fs::write(images.join(SIZES), serde_json::to_vec(&sizes)?));
    if let Err(error) = noted {
        tracing::warn!(%error, images = %images.display(), "the sizes of a checkpoint are not noted");
    }
}

/// The lengths of CRIU's images by name.
fn sizes(images: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for entry in std::fs::read_dir(images)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".img") {
            sizes.insert(name, entry.metadata()?.len());
        }
    }
    Ok(sizes)
}

/// Fails for a checkpoint that is not as it was written. CRIU restores what is cut short into processes that spin.
fn check_sizes(images: &Path, name: &str) -> Result<(), Failure> {
    let Ok(noted) = std::fs::read(images.join(SIZES)) else { return Ok(()) };
    let noted: BTreeMap<String, u64> = serde_json::from_slice(&noted).map_err(|error| Failure::internal(&error))?;
    let found = sizes(images).map_err(|error| Failure::internal(&error))?;
    match noted.iter().find(|(file, size)| found.get(*file) != Some(*size)) {
        None => Ok(()),
        Some((file, _)) => {
            Err(Failure::invalid(format!("checkpoint {name} is damaged: {file} is not as it was written")))
        }
    }
}

/// What the standard streams were before the program could change them. A shim of before does not tell: then as they are.
fn first_streams(state: &ShimState) -> [String; 3] {
    if state.streams.iter().any(|name| !name.is_empty()) {
        return state.streams.clone();
    }
    let now = |number: usize| std::fs::read_link(format!("/proc/{}/fd/{number}", state.init_pid));
    // A program may have closed some.
    [0, 1, 2].map(|number| now(number).map(|target| target.to_string_lossy().into_owned()).unwrap_or_default())
}

/// Where a checkpoint is made.
fn partial(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}{PARTIAL}"))
}

/// Gives one its name that was finished when the daemon died. CRIU writes its numbers last.
fn adopt(folder: &Path, name: &str) {
    let (partial, whole) = (partial(folder, name), folder.join(name));
    if partial.join("stats-dump").exists() && partial.join(DESCRIPTION).exists() && !whole.exists() {
        let adopted = std::fs::rename(&partial, &whole);
        tracing::info!(checkpoint = %whole.display(), ?adopted, "a checkpoint was finished when the daemon died");
    }
}

/// The checkpoints of a container in a folder, or, without one, in its own. Blocks.
///
/// # Errors
/// The folder cannot be read. One that does not exist has none.
pub(crate) fn list(container: &Container, folder: &str) -> Result<Vec<CheckpointSummary>, Failure> {
    let folder = folder_of(container, folder);
    let read = || match std::fs::read_dir(&folder) {
        Ok(entries) => Ok(entries.flatten().collect::<Vec<_>>()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::internal(&error)),
    };
    for entry in read()? {
        let name = entry.file_name().into_string().unwrap_or_default();
        if let Some(name) = name.strip_prefix('.').and_then(|name| name.strip_suffix(PARTIAL)) {
            adopt(&folder, name);
        }
    }
    let entries = read()?.into_iter();
    let whole = entries.filter(|entry| entry.path().join(DESCRIPTION).is_file());
    let names = whole.filter_map(|entry| entry.file_name().into_string().ok());
    let mut list: Vec<_> = names.filter(|name| names::is_valid(name)).map(|name| CheckpointSummary { name }).collect();
    list.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(list)
}

/// Removes a checkpoint. Blocks.
///
/// # Errors
/// It does not exist.
pub(crate) fn remove(container: &Container, name: &str, folder: &str) -> Result<(), Failure> {
    find(container, name, folder)?;
    remove_tree(&folder_of(container, folder).join(name)).map_err(|error| Failure::internal(&error))
}

/// What a shim is told to restore a checkpoint. Blocks.
///
/// # Errors
/// It does not exist, is another container's, or CRIU is missing.
pub(crate) fn restore(container: &Container, name: &str, folder: &str) -> Result<Restore, Failure> {
    let description = find(container, name, folder)?;
    if description.container != container.id {
        return Err(Failure::invalid(format!(
            "checkpoint {name} was made of another container than {}",
            container.name()
        )));
    }
    let images = folder_of(container, folder).join(name);
    check_sizes(&images, name)?;
    Ok(Restore { criu: find_criu()?, images, streams: description.streams })
}

fn find(container: &Container, name: &str, folder: &str) -> Result<Description, Failure> {
    let missing = || Failure::not_found(format!("checkpoint {name} does not exist for container {}", container.name()));
    if !names::is_valid(name) {
        return Err(missing());
    }
    adopt(&folder_of(container, folder), name);
    let bytes = std::fs::read(folder_of(container, folder).join(name).join(DESCRIPTION)).map_err(|_| missing())?;
    serde_json::from_slice(&bytes).map_err(|_| missing())
}

fn folder_of(container: &Container, asked: &str) -> PathBuf {
    if asked.is_empty() { container.folder.join(FOLDER) } else { PathBuf::from(asked) }
}

fn invalid_name(name: &str) -> Failure {
    Failure::invalid(format!("Invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"))
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Looked up at each use, so that it may be installed while the daemon runs.
fn find_criu() -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    search(&path, "criu").ok_or_else(|| {
        Failure::new(
            ErrorKind::Unavailable,
            "checkpoints are made by CRIU, and there is no program criu in the daemon's PATH",
        )
    })
}

fn search(path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(program)).find(|file| file.is_absolute() && file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_was_cut_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path();
        std::fs::write(images.join("pages-1.img"), [1; 9000]).unwrap();
        std::fs::write(images.join("dump.log"), "x").unwrap();
        assert_eq!(check_sizes(images, "c1"), Ok(()), "nothing is noted");
        note_sizes(images);
        std::fs::write(images.join("dump.log"), "longer").unwrap();
        assert_eq!(check_sizes(images, "c1"), Ok(()));
        std::fs::write(images.join("pages-1.img"), [1; 8192]).unwrap();
        let refused = check_sizes(images, "c1").unwrap_err().message;
        assert_eq!(refused, "checkpoint c1 is damaged: pages-1.img is not as it was written");
        std::fs::remove_file(images.join("pages-1.img")).unwrap();
        assert!(check_sizes(images, "c1").is_err());
    }
}
