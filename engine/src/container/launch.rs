//! From a record to a process: what the shim is told, and what must be there before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shoal_proto::error::{ErrorKind, Failure, chain};

use shoal_engine_sys::fs::Directory;
use tokio_util::sync::CancellationToken;

use super::instance::Container;
use super::lifecycle::Phase;
use super::record::{MountKind, MountRecord, Record};
use super::{files, log_source, signal, spec_input};
use crate::cdi;
use crate::cgroup::Cgroup;
use crate::engine::Inner;
use crate::model::{ExecCreate, HostConfig};
use crate::network::Sandbox;
use crate::options::{BUILTIN_RUNTIME, DOCKER_RUNTIME, LIBCONTAINER_RUNTIME};
use crate::runtime::spec::{self, ExecBasis};
use crate::runtime::user::{self, ContainerUser};
use crate::shim::client::{Shim, ShimError};
use crate::shim::config::{BUNDLE_FILE, ExecConfig, LogSink, Restore, RuntimeKind, SPEC_FILE, ShimConfig, WindowSize};
use crate::shim::protocol::{FailureKind, RuntimeFailure};
use crate::snapshot::RootfsMount;

/// How long killed processes may take to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Resolved users kept.
const USERS_KEPT: usize = 1_000;

/// Why a start failed, and the exit status that Docker gives it.
#[derive(Debug)]
pub(crate) struct LaunchError {
    pub(crate) failure: Failure,
    pub(crate) exit_code: i32,
}

impl From<Failure> for LaunchError {
    fn from(failure: Failure) -> Self {
        Self { failure, exit_code: 128 }
    }
}

impl From<ShimError> for LaunchError {
    fn from(error: ShimError) -> Self {
        let exit_code = error.exit_code();
        // As dockerd: a program that cannot be run is the user's mistake.
        let kind = if matches!(exit_code, 126 | 127) { ErrorKind::InvalidArgument } else { ErrorKind::Internal };
        let message = format!(
            "failed to create task for container: failed to create shim task: OCI runtime create failed: {}",
            chain(&error)
        );
        Self { failure: Failure::new(kind, message), exit_code }
    }
}

/// The container's cgroup, below the root of each hierarchy.
pub(crate) fn cgroup(inner: &Inner, container: &Container) -> String {
    cgroup_of(inner, &container.record())
}

pub(super) fn cgroup_of(inner: &Inner, record: &Record) -> String {
    let asked = record.host_config.cgroup_parent.as_str();
    let parent = if asked.is_empty() { inner.options.cgroup_parent.as_str() } else { asked };
    format!("/{}/{}", parent.trim_matches('/'), record.id)
}

/// A mount with its source on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvedMount {
    pub(crate) source: PathBuf,
    pub(crate) record: MountRecord,
}

/// What of a start was prepared on the disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) mounts: Vec<ResolvedMount>,
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Mounted images, by destination.
    pub(crate) images: BTreeMap<PathBuf, RootfsMount>,
    /// Who the process runs as.
    pub(crate) user: ContainerUser,
    /// Where its log goes.
    pub(crate) log: LogSink,
    /// What devices of vendors need.
    pub(crate) devices: cdi::Edits,
    /// The root file system.
    pub(crate) rootfs: Option<RootfsMount>,
}

/// Everything of a start that touches the disk before the shim does. Blocks.
#[tracing::instrument(level = "debug", skip_all)]
pub(crate) fn prepare_disk(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Disk, Failure> {
    let record = container.record().clone();
    // Of a run whose end could not be recorded.
    super::remove::remove_folder(&inner.shim_folder(&record.id));
    files::prepare(&record, &container.folder, inner.id_map(&record.host_config))?;
    let rootfs = inner.snapshots.describe(&record.id)?;
    let mut disk = Disk {
        user: user_of(inner, container, &record)?,
        log: log_source::sink(&record, &container.folder, &inner.options.hostname)?,
        devices: vendor_devices(inner, &record)?,
        rootfs: Some(rootfs),
        ..Disk::default()
    };
    for mount in &record.mounts {
        let source = match mount.kind {
            MountKind::Volume => volume_source(inner, &record.id, mount)?,
            MountKind::Bind => bind_source(mount)?,
            MountKind::Tmpfs => PathBuf::new(),
            MountKind::Image => {
                let mounted = inner.snapshots.describe(&mount.snapshot)?;
                let target = mounted.target.clone();
                disk.images.insert(PathBuf::from(&mount.destination), mounted);
                target
            }
        };
        disk.mounts.push(ResolvedMount { source, record: mount.clone() });
    }
    disk.files = files::mounts(inner, container).into_iter().map(|(path, target)| (path, target.to_owned())).collect();
    let secrets = inner.files_folder(&record.id);
    for file in &record.files {
        let source = secrets.join(&file.name);
        if !source.exists() {
            return Err(Failure::conflict(format!(
                "the secret or config for {} is gone with the machine's last restart: create the container again",
                file.target
            )));
        }
        disk.files.push((source, file.target.clone()));
    }
    Ok(disk)
}

fn vendor_devices(inner: &Inner, record: &Record) -> Result<cdi::Edits, Failure> {
    let names = cdi::names(record.host_config.device_requests.as_deref().unwrap_or_default())?;
    if names.is_empty() {
        return Ok(cdi::Edits::default());
    }
    cdi::Registry::read(&cdi::folders(&inner.options.containers.cdi_folders)).edits(&names)
}

fn volume_source(inner: &Arc<Inner>, id: &str, mount: &MountRecord) -> Result<PathBuf, Failure> {
    let root = inner.volumes.mount(&mount.volume, id)?;
    let attributes = [
        ("container", id.to_owned()),
        ("destination", mount.destination.clone()),
        ("driver", mount.driver.clone()),
        ("propagation", mount.propagation.clone()),
        ("read/write", mount.writable.to_string()),
    ];
    let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    inner.events.publish("volume", "mount", &mount.volume, attributes);
    if mount.subpath.is_empty() {
        return Ok(root);
    }
    // Only to say what is wrong with it. The runtime looks it up again when it mounts it: until then it may change.
    inner.volumes.open_subpath(&mount.volume, Path::new(&mount.subpath))?;
    Ok(root)
}

/// Mounts of a folder in a volume or image, by destination.
fn subpaths(disk: &Disk, runtime: &RuntimeKind) -> Result<BTreeMap<PathBuf, PathBuf>, Failure> {
    let with = disk.mounts.iter().map(|mount| &mount.record).filter(|record| !record.subpath.is_empty());
    let found: BTreeMap<PathBuf, PathBuf> =
        with.map(|record| (PathBuf::from(&record.destination), PathBuf::from(&record.subpath))).collect();
    if *runtime != RuntimeKind::Builtin && !(found.is_empty() && disk.images.is_empty()) {
        return Err(Failure::invalid(
            "an image, or a subpath of a volume, can be mounted by the built-in runtime only",
        ));
    }
    Ok(found)
}

pub(super) fn bind_source(mount: &MountRecord) -> Result<PathBuf, Failure> {
    let source = PathBuf::from(&mount.source);
    if source.exists() {
        return Ok(source);
    }
    if !mount.create_source {
        return Err(Failure::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            mount.source
        )));
    }
    std::fs::create_dir_all(&source).map_err(|error| {
        Failure::new(
            ErrorKind::Internal,
            format!("error while creating mount source path '{}': {}", mount.source, chain(&error)),
        )
    })?;
    Ok(source)
}

/// Gives back what [`prepare_disk`] took. Goes on after failures. Blocks.
#[tracing::instrument(level = "debug", skip_all)]
pub(crate) fn release_disk(inner: &Arc<Inner>, container: &Arc<Container>) {
    let volumes: Vec<_> = {
        let record = container.record();
        record.mounts.iter().filter(|mount| mount.kind == MountKind::Volume).map(|mount| mount.volume.clone()).collect()
    };
    for volume in volumes {
        match inner.volumes.unmount(&volume, &container.id) {
            Ok(()) => {
                let attributes = [("container", container.id.clone()), ("driver", "local".to_owned())];
                let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                inner.events.publish("volume", "unmount", &volume, attributes);
            }
            Err(failure) => {
                tracing::warn!(container = %container.id, volume, error = failure.message, "cannot unmount a volume");
            }
        }
    }
}

fn runtime_of(inner: &Inner, name: &str) -> Result<RuntimeKind, Failure> {
    if name.is_empty() || name == BUILTIN_RUNTIME {
        return Ok(RuntimeKind::Builtin);
    }
    if name == LIBCONTAINER_RUNTIME {
        return Ok(RuntimeKind::Libcontainer);
    }
    match inner.current().runtimes.get(name).cloned() {
        Some(path) => Ok(RuntimeKind::Binary { path, args: Vec::new() }),
        None if name == DOCKER_RUNTIME => Ok(RuntimeKind::Builtin),
        None => Err(Failure::invalid(format!("unknown or invalid runtime name: {name}"))),
    }
}

/// The terminal's size; none when a side is zero.
fn console_size([rows, columns]: [u32; 2]) -> Option<WindowSize> {
    let (rows, columns) = (u16::try_from(rows).ok()?, u16::try_from(columns).ok()?);
    (rows > 0 && columns > 0).then_some(WindowSize { columns, rows })
}

/// Who a container's process runs as. Its files decide, which the container may have changed when it ran before.
fn user_of(inner: &Arc<Inner>, container: &Arc<Container>, record: &Record) -> Result<ContainerUser, Failure> {
    let groups = record.host_config.group_add.clone().unwrap_or_default();
    let fresh = record.state.started_at.0 == 0 && container.phase() == Phase::Created;
    let key = (record.image, record.config.user.clone(), groups);
    if fresh && let Some(known) = inner.users.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(known.clone());
    }
    let root = Directory::from(inner.snapshots.open_root(&record.id)?);
    let found = user::resolve(&root, &key.1, &key.2).map_err(|error| Failure::invalid(chain(&error)))?;
    if fresh {
        let mut users = inner.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS_KEPT {
            users.clear();
        }
        users.insert(key, found.clone());
    }
    Ok(found)
}

/// Creates a container's process, which waits before its program, unless the start is given up.
#[tracing::instrument(level = "debug", skip_all)]
pub(crate) async fn spawn(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    record: &Record,
    sandbox: Option<Sandbox>,
    disk: Disk,
    restore: Option<Restore>,
    given_up: &CancellationToken,
) -> Result<Shim, LaunchError> {
    let missing = || Failure::new(ErrorKind::Internal, "the container has no root file system");
    let rootfs = disk.rootfs.clone().ok_or_else(missing)?;
    let input = spec_input::describe(inner, record, &disk, sandbox, rootfs.target.clone(), disk.user.clone())?;
    let mut built = spec::build(&input).map_err(|error| Failure::invalid(chain(&error)))?;
    disk.devices.apply(&mut built.spec)?;
    container.set_exec_basis(Arc::new(ExecBasis::of(&built.spec)));
    let runtime = runtime_of(inner, &record.host_config.runtime)?;
    let config = ShimConfig {
        id: record.id.clone(),
        subpaths: subpaths(&disk, &runtime)?,
        images: disk.images,
        runtime,
        terminal: record.config.tty,
        console_size: console_size(record.host_config.console_size),
        open_stdin: record.config.open_stdin,
        stdin_once: record.config.stdin_once,
        log: disk.log,
        rootfs: Some(rootfs),
        cgroup: input.cgroup.clone(),
        id_map: input.user_namespace.map(|(_, map)| map),
        restore,
    };
    let folder = inner.shim_folder(&record.id);
    let shim = Shim::spawn_unless(&inner.shim_program, &folder, &config, built, given_up).await?;
    Ok(shim)
}

/// Ends a shim and what it runs, whatever state it is in.
pub(crate) async fn destroy(shim: &Shim) {
    match tokio::time::timeout(PATIENCE, shim.signal(signal::KILL, true)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(shim = %shim.dir().display(), %error, "nothing to kill"),
        Err(_) => tracing::warn!(shim = %shim.dir().display(), "a shim does not answer"),
    }
    match tokio::time::timeout(PATIENCE, shim.wait()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(shim = %shim.dir().display(), %error, "the shim was gone already"),
        Err(_) => tracing::warn!(shim = %shim.dir().display(), "a killed container does not end"),
    }
}

/// Ends what a shim ran that is gone itself. Only processes in the cgroup named in the shim's own folder are touched.
pub(crate) async fn destroy_without_shim(folder: PathBuf) {
    let Ok(bytes) = std::fs::read(folder.join(BUNDLE_FILE)) else { return };
    let Ok(config) = serde_json::from_slice::<ShimConfig>(&bytes) else { return };
    let ended = tokio::task::spawn_blocking(move || {
        let cgroup = Cgroup::open(&config.cgroup)?;
        cgroup.signal_all(signal::KILL);
        cgroup.remove()
    });
    match ended.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(folder = %folder.display(), %error, "cannot clean up after a lost shim"),
        Err(error) => tracing::error!(folder = %folder.display(), %error, "cleaning up after a lost shim failed"),
    }
}

/// Starts the shim of an exec.
pub(crate) async fn spawn_exec(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    id: &str,
    config: &ExecCreate,
    console_size: Option<WindowSize>,
) -> Result<Shim, ShimError> {
    let refuse = |message: String| ShimError::Runtime(RuntimeFailure::new(FailureKind::Other, message));
    let record = container.record().clone();
    let folder = inner.shim_folder(&record.id);
    let (reader, wanted) = (folder.clone(), config.clone());
    // One that was linked may have ended since.
    let of_links = super::links::environment(inner, &record).unwrap_or_default();
    let executed = Arc::clone(container);
    let prepared = tokio::task::spawn_blocking(move || {
        let basis = exec_basis(&executed, &reader).map_err(|error| chain(&error))?;
        exec_process(&basis, &record, &wanted, of_links).map(|process| (process, basis.personality()))
    })
    .await;
    // As in dockerd, a user who does not exist is a command that cannot be executed.
    let unfit = |message| ShimError::Runtime(RuntimeFailure::new(FailureKind::CommandNotExecutable, message));
    let (process, personality) = prepared.map_err(|error| refuse(error.to_string()))?.map_err(unfit)?;
    let config = ExecConfig {
        id: id.to_owned(),
        container_dir: folder,
        process,
        personality,
        console_size,
        open_stdin: config.attach_stdin,
        privileged: config.privileged,
    };
    Shim::spawn_exec(&inner.shim_program, &inner.exec_folder(id), &config).await
}

/// What an exec takes over from its container, which is read once. Blocks.
fn exec_basis(container: &Container, folder: &Path) -> std::io::Result<Arc<ExecBasis>> {
    if let Some(known) = container.exec_basis() {
        return Ok(known);
    }
    let read = Arc::new(ExecBasis::read(&folder.join(SPEC_FILE))?);
    container.set_exec_basis(Arc::clone(&read));
    Ok(read)
}

/// The process of an exec. Blocks.
fn exec_process(
    basis: &ExecBasis,
    record: &Record,
    config: &ExecCreate,
    of_links: Vec<String>,
) -> Result<oci_spec::runtime::Process, String> {
    let name = if config.user.is_empty() { &record.config.user } else { &config.user };
    let groups = record.host_config.group_add.clone().unwrap_or_default();
    // The container's own view, with what is mounted in it.
    let root = PathBuf::from(format!("/proc/{}/root", record.state.pid));
    let user = user::resolve_at(&root, name, &groups).map_err(|error| chain(&error))?;
    let mut seen = record.clone();
    seen.config.tty = config.tty;
    let mut environment = spec_input::environment(&seen, of_links);
    spec_input::overlay(&mut environment, config.env.as_deref().unwrap_or_default());
    let directory = if config.working_dir.is_empty() { &record.config.working_dir } else { &config.working_dir };
    let command = config.cmd.as_deref().unwrap_or_default();
    let privileged = config.privileged || record.host_config.privileged;
    spec::exec_process(basis, command, &environment, directory, &user, (config.tty, privileged))
        .map_err(|error| chain(&error))
}

/// Sets the limits of a running container.
pub(crate) async fn apply_limits(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    host: &HostConfig,
) -> Result<(), String> {
    let limits = spec_input::limits(host).map_err(|failure| failure.message)?;
    let cgroup = cgroup(inner, container);
    let applied = tokio::task::spawn_blocking(move || crate::cgroup::update(&cgroup, &limits));
    applied.await.map_err(|error| chain(&error))?.map_err(|error| chain(&error))
}
