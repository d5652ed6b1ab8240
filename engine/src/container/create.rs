//! Making a container: check, merge with the image, snapshot, volumes, record.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use shoal_proto::error::{ErrorKind, Failure, chain};

use super::instance::Container;
use super::lifecycle::State;
use super::record::{MountKind, MountRecord, Record};
use super::{defaults, files, image_mounts, links, merge, mounts, names, network, validate};
use crate::engine::{Inner, volumes};
use crate::image::ImageRecord;
use crate::model::{CreateRequest, CreateResponse, VolumeCreate};
use crate::snapshot::PrepareOptions;

/// How often a free name is looked for.
const NAME_TRIES: u32 = 12;

/// Makes a container.
#[tracing::instrument(level = "debug", skip_all)]
pub(crate) async fn create(
    inner: &Arc<Inner>,
    name: Option<String>,
    request: CreateRequest,
) -> Result<CreateResponse, Failure> {
    if request.config.image.is_empty() {
        return Err(Failure::invalid("no image was given: config cannot be empty in order to create a container"));
    }
    let image = inner.images.resolve(&request.config.image)?;
    check_platform(&request, &image)?;
    let id = inner.new_id();
    let (record, warnings) = plan(inner, &id, request, &image)?;
    let name = reserve(inner, name.filter(|name| !name.is_empty()), &id)?;
    let record = Record { name: name.clone(), ..record };
    let made = {
        let inner = Arc::clone(inner);
        tokio::task::spawn_blocking(move || make(&inner, record)).await
    };
    match made.map_err(|error| Failure::internal(&error)).and_then(|made| made) {
        Ok(container) => {
            inner.containers.insert(&id, Arc::clone(&container));
            super::tell(inner, &container, "create", &[]);
            Ok(CreateResponse { id, warnings })
        }
        Err(failure) => {
            inner.containers.release(&name, &id);
            Err(failure)
        }
    }
}

/// `os[/architecture[/variant]]`.
fn is_platform(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 3 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(is_word))
}

/// An image of another platform than the wanted one is none, as in dockerd: clients then look for the right one elsewhere.
fn check_platform(request: &CreateRequest, image: &ImageRecord) -> Result<(), Failure> {
    let wanted = &request.platform;
    if !wanted.is_empty() && !is_platform(wanted) {
        return Err(Failure::invalid(format!("{wanted:?}: cannot parse platform specifier: invalid argument")));
    }
    let mut parts = wanted.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let differs = (!os.is_empty() && !image.os.is_empty() && os != image.os)
        || (!architecture.is_empty() && !image.architecture.is_empty() && architecture != image.architecture);
    if !differs {
        return Ok(());
    }
    Err(Failure::not_found(format!(
        "image with reference {} was found but does not match the specified platform: wanted {wanted}, actual: {}/{}",
        request.config.image, image.os, image.architecture
    )))
}

/// The record of the container to be, without its name. Pure but for looks at other containers and the host's files.
fn plan(
    inner: &Arc<Inner>,
    id: &str,
    request: CreateRequest,
    image: &ImageRecord,
) -> Result<(Record, Vec<String>), Failure> {
    let CreateRequest { config, mut host_config, networking_config, internal, writable_below, .. } = request;
    validate::config(&config)?;
    let options = inner.current();
    defaults::fill_in(&options.containers, &mut host_config);
    let mut warnings = validate::supported(&mut host_config)?;
    warnings.extend(validate::host_config(&options, &config, &host_config)?);
    let mut config = merge::merge(config, &image.config)?;
    links::check(inner, &host_config)?;
    for mode in [&host_config.ipc_mode, &host_config.pid_mode] {
        if let Some(other) = mode.strip_prefix("container:") {
            inner.containers.find(other).map_err(of_request)?;
        }
    }
    validate::fill_in(&options, &mut host_config);
    let inherited = inherited(inner, host_config.volumes_from.as_deref().unwrap_or_default())?;
    let mut mounts = mounts::plan(&config, &host_config, writable_below, inherited)?;
    image_mounts::resolve(inner, id, &mut mounts)?;
    if let Some(other) = host_config.network_mode.strip_prefix("container:") {
        // Its hosts file is shared, so its name is, too.
        if let Ok(other) = inner.containers.find(other) {
            let shared = other.record().config.clone();
            (config.hostname, config.domainname) = (shared.hostname, shared.domainname);
        }
    } else if config.hostname.is_empty() {
        let of_host = host_config.network_mode == "host" || host_config.uts_mode == "host";
        config.hostname = if of_host { inner.options.hostname.clone() } else { id[..12].to_owned() };
    }
    let on_cluster: Vec<_> = internal.attachments.iter().map(|one| one.network_name.clone()).collect();
    let networks =
        network::initial(&host_config.network_mode, config.network_disabled, &networking_config, &on_cluster)?;
    let (path, args) = merge::command_line(&config);
    let record = Record {
        id: id.to_owned(),
        name: String::new(),
        created: inner.now(),
        image: image.id,
        layers: image.layers.clone(),
        path,
        args,
        config,
        host_config,
        asked_macs: networks.iter().map(|(name, settings)| (name.clone(), settings.mac_address.clone())).collect(),
        networks,
        places: Default::default(),
        ports: Default::default(),
        mounts,
        internal,
        files: Vec::new(),
        state: State::default(),
    };
    Ok((record, warnings))
}

/// Another container that is not there is a fault of the request, as in dockerd: of "not found" clients conclude that it is
/// the image that lacks.
pub(super) fn of_request(failure: Failure) -> Failure {
    Failure::new(ErrorKind::InvalidArgument, failure.message)
}

fn inherited(inner: &Arc<Inner>, from: &[String]) -> Result<Vec<MountRecord>, Failure> {
    let mut all = Vec::new();
    for entry in from {
        let (reference, read_only) = mounts::parse_volumes_from(entry)?;
        let other = inner.containers.find(reference).map_err(of_request)?;
        let mounts = other.record().mounts.clone();
        all.extend(mounts::inherit(&mounts, read_only));
    }
    Ok(all)
}

fn reserve(inner: &Arc<Inner>, name: Option<String>, id: &str) -> Result<String, Failure> {
    if let Some(name) = name {
        let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
        return inner.containers.reserve(&name, id).map(|()| name);
    }
    for tries in 0..NAME_TRIES {
        let name = names::generate(&inner.entropy, tries);
        if inner.containers.reserve(&name, id).is_ok() {
            return Ok(name);
        }
    }
    // Ids are unique, so this one is free unless somebody wanted to annoy.
    let name = format!("container_{}", &id[..12]);
    inner.containers.reserve(&name, id).map(|()| name)
}

/// Everything of a creation that touches the disk. Undoes itself when it fails. Blocks.
#[tracing::instrument(level = "debug", skip_all)]
fn make(inner: &Arc<Inner>, mut record: Record) -> Result<Arc<Container>, Failure> {
    let mut undo = Undo { inner, id: record.id.clone(), volumes: Vec::new(), armed: true };
    let folder = inner.container_folder(&record.id);
    std::fs::DirBuilder::new().mode(0o710).create(&folder).map_err(|error| {
        Failure::new(ErrorKind::Internal, format!("cannot make {}: {}", folder.display(), chain(&error)))
    })?;
    let options =
        PrepareOptions { volatile: record.host_config.auto_remove, id_map: inner.id_map(&record.host_config).cloned() };
    inner.snapshots.prepare(&record.id, &record.layers, options)?;
    image_mounts::make(inner, &record)?;
    make_volumes(inner, &mut record, &mut undo.volumes)?;
    let files = std::mem::take(&mut record.internal.files);
    record.files = files::place(&inner.files_folder(&record.id), &files, inner.id_map(&record.host_config))?;
    record.save(&folder).map_err(|error| Failure::internal(&error))?;
    undo.armed = false;
    drop(undo);
    Ok(Container::new(record, folder))
}

/// Removes what a failed creation has made.
struct Undo<'a> {
    inner: &'a Arc<Inner>,
    id: String,
    volumes: Vec<String>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        files::remove(&self.inner.files_folder(&self.id));
        image_mounts::remove(self.inner, &self.id);
        if let Err(failure) = self.inner.snapshots.remove(&self.id) {
            tracing::warn!(container = self.id, error = failure.message, "cannot remove a snapshot");
        }
        for volume in &self.volumes {
            if let Err(failure) = volumes::remove(self.inner, volume, true) {
                tracing::warn!(volume, error = failure.message, "cannot remove a volume");
            }
        }
        super::remove::remove_folder(&self.inner.container_folder(&self.id));
    }
}

/// Makes the volumes that do not exist, and fills empty ones from the image.
fn make_volumes(inner: &Arc<Inner>, record: &mut Record, made: &mut Vec<String>) -> Result<(), Failure> {
    let id = record.id.clone();
    for mount in record.mounts.iter_mut().filter(|mount| mount.kind == MountKind::Volume) {
        let existed = !mount.volume.is_empty() && inner.volumes.inspect(&mount.volume).is_ok();
        let volume = volumes::create(
            inner,
            VolumeCreate {
                name: mount.volume.clone(),
                driver: mount.driver.clone(),
                driver_opts: mount.volume_options.clone(),
                labels: mount.volume_labels.clone(),
            },
        )?;
        if !existed {
            made.push(volume.name.clone());
        }
        (mount.volume, mount.source, mount.driver) = (volume.name, volume.mountpoint, volume.driver);
        if !mount.no_copy && mount.subpath.is_empty() {
            fill_volume(inner, &id, mount)?;
        }
    }
    Ok(())
}

fn fill_volume(inner: &Arc<Inner>, id: &str, mount: &MountRecord) -> Result<(), Failure> {
    let directory = inner.volumes.mount(&mount.volume, id)?;
    let empty = std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_none());
    let filled = match empty {
        true => inner.snapshots.copy_up(id, Path::new(&mount.destination), &directory),
        false => Ok(()),
    };
    let unmounted = inner.volumes.unmount(&mount.volume, id);
    filled.and(unmounted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_three_parts_at_most() {
        for good in ["linux", "linux/amd64", "linux/arm/v7"] {
            assert!(is_platform(good), "{good}");
        }
        for bad in ["", "/", "linux/", "bad/x/y/z", "linux /amd64"] {
            assert!(!is_platform(bad), "{bad}");
        }
    }
}
