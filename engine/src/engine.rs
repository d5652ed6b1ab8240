//! The engine: everything that runs on this node, behind one handle.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::fs::FlockOperation;
use shoal_engine_sys::user_namespace::UserNamespace;
use shoal_kit::entropy::Entropy;
use shoal_proto::error::{ErrorKind, Failure, chain};
use shoal_proto::id::TaskId;
use shoal_proto::time::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::Cgroup;
use crate::cluster::Door;
use crate::container::file_watch::FileWatch;
use crate::container::instance::Container;
use crate::container::registry::Registry;
use crate::container::teardown::Teardowns;
use crate::container::{Containers, TaskContainer, defaults, restore, stop};
use crate::events::Events;
use crate::exec::Exec;
use crate::image::{Digest, ImageStore, ImageStoreOptions};
use crate::metrics::Metrics;
use crate::model::{EngineInfo, EngineVersion, HostConfig};
use crate::network::{NetworkController, NetworkOptions};
use crate::options::EngineOptions;
use crate::remap::IdMap;
use crate::runtime::user::ContainerUser;
use crate::shim::client::ShimProgram;
use crate::snapshot::Snapshots;
use crate::volume::{VolumeStore, VolumeStoreOptions};

pub mod networks;
mod observers;
mod system;
pub mod volumes;

pub use networks::Networks;
pub use volumes::Volumes;

/// The engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// Image, name and added groups.
pub(crate) type UserKey = (Digest, String, Vec<String>);

/// What all handles share.
pub(crate) struct Inner {
    /// How it was opened. What can change since is in [`Inner::current`].
    pub(crate) options: EngineOptions,
    current: ArcSwap<EngineOptions>,
    /// Tells that they have changed.
    reconfigured: watch::Sender<()>,
    pub(crate) events: Events,
    pub(crate) entropy: Entropy,
    pub(crate) containers: Arc<Registry<Container>>,
    pub(crate) execs: Mutex<HashMap<String, Arc<Exec>>>,
    pub(crate) images: ImageStore,
    pub(crate) snapshots: Snapshots,
    pub(crate) volumes: VolumeStore,
    pub(crate) networks: NetworkController,
    pub(crate) shim_program: ShimProgram,
    pub(crate) file_watch: FileWatch,
    /// Users as the files of an image resolve them: by image, name and added groups.
    pub(crate) users: Mutex<HashMap<UserKey, ContainerUser>>,
    pub(crate) teardowns: Teardowns,
    pub(crate) metrics: Metrics,
    /// Cancelled when no container is to be started again by its policy.
    pub(crate) ending: CancellationToken,
    /// The cluster that this node is in.
    pub(crate) cluster: Door,
    /// Everything that runs in the background.
    pub(crate) tasks: TaskTracker,
    /// Tells it to end.
    pub(crate) stopping: CancellationToken,
    /// Holds the data root against a second daemon.
    lock: Mutex<Option<File>>,
    id: String,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// The options as they are now.
    pub(crate) fn current(&self) -> Arc<EngineOptions> {
        self.current.load_full()
    }

    /// Ids of the user namespace of a container with this configuration, when it has one of its own.
    pub(crate) fn id_map(&self, host: &HostConfig) -> Option<&IdMap> {
        self.options.remap.as_ref().filter(|_| host.userns_mode != "host")
    }

    /// Folder of a container.
    pub(crate) fn container_folder(&self, id: &str) -> PathBuf {
        self.options.data_root.join("containers").join(id)
    }

    /// Folder of a container's shim.
    pub(crate) fn shim_folder(&self, id: &str) -> PathBuf {
        self.options.exec_root.join("shim").join(id)
    }

    /// Folder of an exec's shim.
    pub(crate) fn exec_folder(&self, id: &str) -> PathBuf {
        self.options.exec_root.join("exec").join(id)
    }

    /// Where a container's secrets and configs are kept while it exists.
    pub(crate) fn files_folder(&self, id: &str) -> PathBuf {
        self.options.exec_root.join("files").join(id)
    }

    /// A fresh id of 64 hexadecimal digits. As dockerd: not one that reads as a number when cut short.
    pub(crate) fn new_id(&self) -> String {
        loop {
            let mut bytes = [0; 32];
            self.entropy.fill(&mut bytes);
            let id = crate::container::hex(&bytes);
            if id[..12].bytes().any(|digit| digit.is_ascii_alphabetic()) {
                return id;
            }
        }
    }
}

fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(ErrorKind::Internal, format!("{what}: {}", chain(error)))
}

impl Engine {
    /// Opens an engine: reads what is on disk, finds the containers that still run, and cleans up what a crash left.
    ///
    /// # Errors
    /// A directory cannot be made or read, or another engine uses it.
    pub async fn open(mut options: EngineOptions) -> Result<Self, Failure> {
        defaults::check(&options)?;
        // Each container costs a few descriptors; with the usual 1024 some hundred containers would be too many.
        if let Err(error) = shoal_engine_sys::process::raise_descriptor_limit() {
            tracing::warn!(%error, "cannot raise the limit of open descriptors");
        }
        let made = tokio::task::spawn_blocking(move || {
            let lock = prepare_roots(&mut options)?;
            let id = engine_id(&options)?;
            let images = ImageStore::open(ImageStoreOptions {
                root: options.data_root.join("image"),
                clock: Arc::clone(&options.clock),
            })?;
            let entropy = Entropy::from_system();
            let volumes = VolumeStore::open(VolumeStoreOptions {
                root: options.data_root.join("volumes"),
                clock: Arc::clone(&options.clock),
                entropy: entropy.clone(),
                owner: options.remap.as_ref().map_or((0, 0), IdMap::root),
            })?;
            if let Some(map) = &options.remap {
                prepare_remap(&options.data_root, &images.snapshots(), map)?;
                images.snapshots().let_through(map).map_err(|error| failed("cannot set up the data root", &error))?;
            }
            let shim_program = ShimProgram::open(&options.shim_program).map_err(|error| Failure::internal(&error))?;
            Ok::<_, Failure>((options, lock, id, images, entropy, volumes, shim_program))
        });
        let (options, lock, id, images, entropy, volumes, shim_program) =
            made.await.map_err(|error| Failure::internal(&error))??;
        let networks = NetworkController::open(NetworkOptions {
            bip: options.bip,
            local: options.local_networks.clone(),
            id_map: options.remap.clone(),
            clock: Arc::clone(&options.clock),
            entropy: entropy.clone(),
            ..NetworkOptions::new(&options.data_root, &options.exec_root)
        })
        .await?;
        let inner = Arc::new(Inner {
            events: Events::new(Arc::clone(&options.clock)),
            entropy,
            containers: Arc::default(),
            execs: Mutex::default(),
            snapshots: images.snapshots(),
            images,
            volumes,
            networks,
            shim_program,
            file_watch: FileWatch::new().map_err(|error| failed("cannot watch files", &error))?,
            users: Mutex::default(),
            teardowns: Teardowns::default(),
            metrics: Metrics::default(),
            ending: CancellationToken::new(),
            cluster: Door::new(options.joins_cluster),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            lock: Mutex::new(Some(lock)),
            id,
            current: ArcSwap::from_pointee(options.clone()),
            reconfigured: watch::Sender::new(()),
            options,
        });
        observers::install(&inner);
        restore::restore(&inner).await?;
        Ok(Self { inner })
    }

    /// Stops all containers, as for a daemon that they do not outlive. Each has its own grace period, and none has more than
    /// `at_most` (`None`: no bound). What a policy wants running is started again by the next engine.
    pub async fn stop_containers(&self, at_most: Option<Duration>) {
        self.inner.ending.cancel();
        stop::stop_all(&self.inner, at_most).await;
    }

    /// Stops all containers, and takes everything of this engine out of the kernel: namespaces, links, rules, cgroups. What is on
    /// disk stays, and the next engine makes of it what it needs.
    ///
    /// # Errors
    /// When something could not be taken down; the rest was.
    pub async fn tear_down(&self, at_most: Option<Duration>) -> Result<(), Failure> {
        self.stop_containers(at_most).await;
        self.inner.teardowns.all().await;
        self.inner.networks.purge().await?;
        // Another engine may have its containers there, too.
        if let Ok(parent) = Cgroup::open(&self.inner.options.cgroup_parent) {
            parent.remove_if_empty();
        }
        Ok(())
    }

    /// Ends the engine's own work. Containers go on.
    pub async fn shutdown(&self) {
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.networks.shutdown().await;
        drop(self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(crate) const fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// How it is set up now.
    pub fn options(&self) -> Arc<EngineOptions> {
        self.inner.current()
    }

    /// Could an engine have these options, as far as can be told without its data?
    ///
    /// # Errors
    /// When the defaults are none that a container could have: a log driver that there is not, for example.
    pub fn check(options: &EngineOptions) -> Result<(), Failure> {
        defaults::check(options)
    }

    /// Changes what can change while it runs: labels, debug, runtimes, defaults of containers to come, and whether containers
    /// outlive it. All else of the options must be as it was opened with.
    ///
    /// # Errors
    /// When the defaults are none that a container could have; nothing is changed then.
    pub fn reconfigure(&self, options: EngineOptions) -> Result<(), Failure> {
        defaults::check(&options)?;
        self.inner.current.store(Arc::new(options));
        self.inner.reconfigured.send_replace(());
        Ok(())
    }

    /// Changes whenever [`Self::options`] may have.
    pub fn reconfigurations(&self) -> watch::Receiver<()> {
        self.inner.reconfigured.subscribe()
    }

    /// Id of this engine, the same over restarts.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Containers and execs.
    pub fn containers(&self) -> Containers {
        Containers::new(Arc::clone(&self.inner))
    }

    /// Where specifications of vendors' devices are read.
    pub fn device_folders(&self) -> Vec<PathBuf> {
        crate::cdi::folders(&self.inner.options.containers.cdi_folders)
    }

    /// Full names of the devices that vendors' specifications define, as they are now.
    pub async fn devices(&self) -> BTreeSet<String> {
        let folders = self.device_folders();
        let read = move || crate::cdi::Registry::read(&folders).known();
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Images.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// Root file systems of containers.
    pub fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// Networks.
    pub fn networks(&self) -> Networks {
        Networks::new(Arc::clone(&self.inner))
    }

    /// Volumes.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(Arc::clone(&self.inner))
    }

    /// What was counted since it was opened.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What happened.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Containers that run tasks of the cluster.
    pub fn list_task_containers(&self) -> Vec<TaskContainer> {
        crate::container::task_containers(&self.inner)
    }

    /// The container of a task, which was made with this name.
    pub fn find_task_container(&self, task: TaskId, name: &str) -> Option<TaskContainer> {
        crate::container::find_task_container(&self.inner, task, name)
    }

    /// The engine's part of `docker info`.
    pub async fn info(&self) -> EngineInfo {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || system::info(&inner)).await.unwrap_or_default()
    }

    /// The engine's part of `docker version`.
    pub fn version(&self) -> EngineVersion {
        system::version(&self.inner)
    }
}

/// As dockerd has the folder of a user namespace's containers; and a look whether their layers can be mapped here.
fn prepare_remap(data_root: &std::path::Path, snapshots: &Snapshots, map: &IdMap) -> Result<(), Failure> {
    map.let_through(data_root).map_err(|error| failed(&format!("cannot set up {}", data_root.display()), &error))?;
    let user = map.with_text(UserNamespace::create);
    let user = user.map_err(|error| failed("cannot make a user namespace for --userns-remap", &error))?;
    let mapped = shoal_engine_sys::mount::clone_mapped(data_root, &user);
    mapped.map(drop).map_err(|error| cannot_map(data_root, MappingNeed::FileSystem, &error))?;
    snapshots.try_mapped(map).map_err(|error| cannot_map(data_root, MappingNeed::Overlay, &error))
}

/// What `--userns-remap` cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MappingNeed {
    FileSystem,
    Overlay,
}

fn cannot_map(data_root: &std::path::Path, need: MappingNeed, error: &std::io::Error) -> Failure {
    let place = data_root.display();
    let what = match need {
        MappingNeed::FileSystem => {
            format!("--userns-remap needs a file system whose mounts can be mapped, which {place} is not on")
        }
        MappingNeed::Overlay => format!(
            "--userns-remap needs overlays of mapped mounts, which this kernel does not make in {place} (Linux 6.15 and later can)"
        ),
    };
    failed(&what, error)
}

/// Makes the directories and takes the lock. Paths become absolute: they are kept in records and given to shims.
fn prepare_roots(options: &mut EngineOptions) -> Result<File, Failure> {
    for (root, mode) in [(&mut options.data_root, 0o711), (&mut options.exec_root, 0o711)] {
        let made = make_folder(root, mode).and_then(|()| std::fs::canonicalize(&*root));
        *root = made.map_err(|error| failed(&format!("cannot make {}", root.display()), &error))?;
    }
    for folder in [options.data_root.join("containers"), options.exec_root.join("shim"), options.exec_root.join("exec")]
    {
        make_folder(&folder, 0o700).map_err(|error| failed(&format!("cannot make {}", folder.display()), &error))?;
    }
    let path = options.data_root.join("engine.lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| failed(&format!("cannot open {}", path.display()), &error))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::conflict(format!(
            "another engine uses {}: give this one another data root",
            options.data_root.display()
        ))
    })?;
    Ok(lock)
}

fn make_folder(path: &std::path::Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// The engine's id, made once and kept.
fn engine_id(options: &EngineOptions) -> Result<String, Failure> {
    let path = options.data_root.join("engine-id");
    if let Ok(id) = std::fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return Ok(id.trim().to_owned());
    }
    let mut bytes = [0; 16];
    Entropy::from_system().fill(&mut bytes);
    let hex = crate::container::hex(&bytes);
    let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    crate::container::record::write_atomically(&path, id.as_bytes(), 0o600)
        .map_err(|error| failed(&format!("cannot write {}", path.display()), &error))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_cannot_map_layers_is_named_at_the_daemons_start() {
        let invalid = std::io::Error::from_raw_os_error(22);
        let refused = cannot_map(std::path::Path::new("/data"), MappingNeed::Overlay, &invalid).message;
        for part in ["--userns-remap", "/data", "Linux 6.15", "Invalid argument"] {
            assert!(refused.contains(part), "{refused}");
        }
    }
}
