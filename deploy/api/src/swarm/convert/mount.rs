//! Mounts of a task.

use shoal_engine::model::{BindOptions, Mount as MountJson, MountDriver, TmpfsOptions, VolumeOptions};
use shoal_proto::spec::{Mount, MountKind};

use super::not_offered;
use crate::error::ApiError;
use crate::swarm::model::SpecMount;

/// A mount as its user sent it.
pub(super) fn mount(spec: SpecMount) -> Result<Mount, ApiError> {
    if spec.cluster_options.is_some() || spec.mount.kind == "cluster" {
        return Err(not_offered("a mount of type cluster"));
    }
    if spec.mount.image_options.is_some() || spec.mount.kind == "image" {
        return Err(not_offered("a mount of type image"));
    }
    let given = spec.mount;
    let kind = match given.kind.as_str() {
        "bind" => MountKind::Bind,
        "volume" => MountKind::Volume,
        "tmpfs" => MountKind::Tmpfs,
        "npipe" => return Err(not_offered("a mount of type npipe")),
        other => return Err(ApiError::invalid(format!("invalid MountType: {other:?}"))),
    };
    let misplaced = [
        (kind != MountKind::Bind && given.bind_options.is_some(), "BindOptions"),
        (kind != MountKind::Volume && given.volume_options.is_some(), "VolumeOptions"),
        (kind != MountKind::Tmpfs && given.tmpfs_options.is_some(), "TmpfsOptions"),
    ];
    if let Some((_, member)) = misplaced.iter().find(|(wrong, _)| *wrong) {
        let kind = given.kind;
        return Err(ApiError::invalid(format!(
            "invalid mount config for type {kind:?}: field {member} must not be specified"
        )));
    }
    let bind = bind_options(given.bind_options.unwrap_or_default())?;
    let volume = given.volume_options.unwrap_or_default();
    let driver = volume.driver_config.unwrap_or_default();
    let tmpfs = given.tmpfs_options.unwrap_or_default();
    if tmpfs.options.is_some_and(|options| !options.is_empty()) {
        return Err(not_offered("Mounts.TmpfsOptions.Options"));
    }
    Ok(Mount {
        kind,
        source: given.source,
        target: given.target,
        read_only: given.read_only,
        propagation: bind.propagation,
        non_recursive: bind.non_recursive,
        no_copy: volume.no_copy,
        subpath: volume.subpath,
        volume_labels: volume.labels.unwrap_or_default(),
        volume_driver: driver.name,
        volume_options: driver.options.unwrap_or_default(),
        tmpfs_size_bytes: u64::try_from(tmpfs.size_bytes)
            .map_err(|_| ApiError::invalid("Mounts.TmpfsOptions.SizeBytes cannot be negative"))?,
        tmpfs_mode: tmpfs.mode,
    })
}

fn bind_options(options: BindOptions) -> Result<BindOptions, ApiError> {
    let unknown = [
        (options.create_mountpoint, "CreateMountpoint"),
        (options.read_only_non_recursive, "ReadOnlyNonRecursive"),
        (options.read_only_force_recursive, "ReadOnlyForceRecursive"),
    ];
    match unknown.iter().find(|(set, _)| *set) {
        Some((_, member)) => Err(not_offered(&format!("Mounts.BindOptions.{member}"))),
        None => Ok(options),
    }
}

/// A mount as the API shows it.
pub(super) fn mount_json(mount: &Mount) -> SpecMount {
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
    };
    let bind = BindOptions {
        propagation: mount.propagation.clone(),
        non_recursive: mount.non_recursive,
        ..BindOptions::default()
    };
    let volume = VolumeOptions {
        no_copy: mount.no_copy,
        labels: Some(mount.volume_labels.clone()).filter(|labels| !labels.is_empty()),
        subpath: mount.subpath.clone(),
        driver_config: (!mount.volume_driver.is_empty() || !mount.volume_options.is_empty()).then(|| MountDriver {
            name: mount.volume_driver.clone(),
            options: Some(mount.volume_options.clone()).filter(|options| !options.is_empty()),
        }),
    };
    let tmpfs = TmpfsOptions {
        size_bytes: i64::try_from(mount.tmpfs_size_bytes).unwrap_or(i64::MAX),
        mode: mount.tmpfs_mode,
        options: None,
    };
    let given = MountJson {
        kind: kind.to_owned(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        consistency: String::new(),
        bind_options: Some(bind).filter(|bind| *bind != BindOptions::default()),
        volume_options: Some(volume).filter(|volume| *volume != VolumeOptions::default()),
        tmpfs_options: Some(tmpfs).filter(|tmpfs| *tmpfs != TmpfsOptions::default()),
        // Services have no image mounts.
        image_options: None,
    };
    SpecMount { mount: given, cluster_options: None }
}
