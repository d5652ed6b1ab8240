//! Mounts: from `-v`, `--mount`, `--volumes-from` and the image's volumes to one list.

use std::path::{Component, Path, PathBuf};

use shoal_proto::error::Failure;

use super::record::{MountKind, MountRecord};
use crate::model::{ContainerConfig, HostConfig, Mount};

const PROPAGATIONS: &[&str] = &["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// All mounts of a container, in the order of their destinations, parents first. `writable_below`: see
/// [`CreateRequest`](crate::model::CreateRequest). `inherited` are those of `--volumes-from`. Volumes without a name are
/// still without one: see [`MountRecord::anonymous`].
///
/// # Errors
/// When one of them is wrong, or two have the same destination.
pub fn plan(
    config: &ContainerConfig,
    host: &HostConfig,
    writable_below: bool,
    inherited: Vec<MountRecord>,
) -> Result<Vec<MountRecord>, Failure> {
    let mut mounts: Vec<MountRecord> = Vec::new();
    let mut asked: Vec<MountRecord> = Vec::new();
    for bind in host.binds.iter().flatten() {
        asked.push(parse_bind(bind, &host.volume_driver)?);
    }
    for mount in host.mounts.iter().flatten() {
        asked.push(from_mount(mount)?);
    }
    for bind in asked.iter_mut().filter(|mount| mount.kind == MountKind::Bind && !mount.writable) {
        bind.writable_below |= writable_below;
    }
    let tmpfs = host.tmpfs.iter().flatten().map(|(path, _)| path);
    tmpfs.clone().try_for_each(|path| absolute(path).map(drop))?;
    for (index, mount) in asked.iter().enumerate() {
        let twice = asked[..index].iter().any(|other| other.destination == mount.destination)
            || tmpfs.clone().any(|path| clean(path) == mount.destination);
        if twice {
            return Err(Failure::invalid(format!("Duplicate mount point: {}", mount.destination)));
        }
    }
    // What was asked for by name wins over what is inherited, and both over the image's.
    mounts.extend(inherited.into_iter().filter(|old| asked.iter().all(|new| new.destination != old.destination)));
    mounts.extend(asked);
    for path in config.volumes.iter().flatten().map(|(path, _)| path) {
        let destination = absolute(path)?;
        let taken = mounts.iter().any(|mount| mount.destination == destination)
            || tmpfs.clone().any(|path| clean(path) == destination);
        if !taken {
            let mut mount = MountRecord::new(MountKind::Volume, "", destination);
            (mount.anonymous, mount.driver) = (true, driver_or_local(&host.volume_driver));
            mounts.push(mount);
        }
    }
    mounts.sort_by_cached_key(|mount| (mount.destination.matches('/').count(), mount.destination.clone()));
    Ok(mounts)
}

/// Reads an entry of `--volumes-from`, `container[:mode]`: whose mounts, and are they read-only?
///
/// # Errors
/// When it names no container, or the mode is neither `ro` nor `rw`.
pub fn parse_volumes_from(entry: &str) -> Result<(&str, bool), Failure> {
    if entry.is_empty() {
        return Err(Failure::invalid("volumes-from specification cannot be an empty string"));
    }
    let (container, mode) = entry.split_once(':').unwrap_or((entry, "rw"));
    if !mode.is_empty() && !mode.split(',').all(|option| matches!(option, "ro" | "rw" | "z" | "Z")) {
        return Err(Failure::invalid(format!("invalid mode: {mode}")));
    }
    Ok((container, mode.split(',').any(|option| option == "ro")))
}

/// The mounts that `--volumes-from` takes over from another container.
pub fn inherit(from: &[MountRecord], read_only: bool) -> Vec<MountRecord> {
    let mut mounts: Vec<_> =
        from.iter().filter(|mount| !matches!(mount.kind, MountKind::Tmpfs | MountKind::Image)).cloned().collect();
    for mount in &mut mounts {
        mount.writable &= !read_only;
        // The container that made it removes it.
        mount.anonymous = false;
    }
    mounts
}

fn parse_bind(text: &str, volume_driver: &str) -> Result<MountRecord, Failure> {
    let invalid = || Failure::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts[..] {
        // A path alone is an anonymous volume.
        [destination] => ("", destination, ""),
        [source, destination] if is_mode(destination) && source.starts_with('/') => ("", source, destination),
        [source, destination] => (source, destination, ""),
        [source, destination, mode] => (source, destination, mode),
        _ => return Err(invalid()),
    };
    if destination.is_empty() || (source.is_empty() && parts.len() > 2) {
        return Err(invalid());
    }
    let destination = absolute(destination)?;
    let kind = if source.starts_with('/') { MountKind::Bind } else { MountKind::Volume };
    let mut mount = MountRecord::new(kind, "", destination);
    mode.clone_into(&mut mount.mode);
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.writable = false,
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "nocopy" if kind == MountKind::Volume => mount.no_copy = true,
            other if kind == MountKind::Bind && PROPAGATIONS.contains(&other) => {
                other.clone_into(&mut mount.propagation)
            }
            _ => return Err(Failure::invalid(format!("invalid mode: {mode}"))),
        }
    }
    if kind == MountKind::Bind {
        mount.source = clean(source);
        mount.create_source = true;
        if mount.propagation.is_empty() {
            "rprivate".clone_into(&mut mount.propagation);
        }
        return Ok(mount);
    }
    if mount.mode.is_empty() {
        // As dockerd shows it.
        "z".clone_into(&mut mount.mode);
    }
    mount.driver = driver_or_local(volume_driver);
    if source.is_empty() {
        mount.anonymous = true;
        mount.mode.clear();
        return Ok(mount);
    }
    check_volume_name(source)?;
    source.clone_into(&mut mount.volume);
    Ok(mount)
}

fn is_mode(text: &str) -> bool {
    text.split(',').all(|option| {
        matches!(option, "ro" | "rw" | "z" | "Z" | "nocopy" | "cached" | "delegated" | "consistent")
            || PROPAGATIONS.contains(&option)
    })
}

fn check_volume_name(name: &str) -> Result<(), Failure> {
    if super::names::is_valid(name) {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If \
         you intended to pass a host directory, use absolute path"
    )))
}

fn driver_or_local(driver: &str) -> String {
    if driver.is_empty() { "local".to_owned() } else { driver.to_owned() }
}

fn from_mount(mount: &Mount) -> Result<MountRecord, Failure> {
    let wrong = |what: &str| Failure::invalid(format!("invalid mount config for type \"{}\": {what}", mount.kind));
    if mount.target.is_empty() {
        return Err(wrong("field Target must not be empty"));
    }
    let destination = absolute(&mount.target)?;
    let strange = [
        ("BindOptions", mount.kind != "bind" && mount.bind_options.is_some()),
        ("VolumeOptions", mount.kind != "volume" && mount.volume_options.is_some()),
        ("TmpfsOptions", mount.kind != "tmpfs" && mount.tmpfs_options.is_some()),
        ("ImageOptions", mount.kind != "image" && mount.image_options.is_some()),
    ];
    if let Some((name, _)) = strange.iter().find(|(_, given)| *given) {
        return Err(wrong(&format!("field {name} must not be specified")));
    }
    let mut record = match mount.kind.as_str() {
        "bind" => from_bind(mount, destination, &wrong)?,
        "volume" => from_volume(mount, destination, &wrong)?,
        "tmpfs" => from_tmpfs(mount, destination, &wrong)?,
        "image" => from_image(mount, destination, &wrong)?,
        _ => return Err(wrong("mount type unknown")),
    };
    record.writable = !mount.read_only;
    Ok(record)
}

fn from_bind(mount: &Mount, destination: String, wrong: &dyn Fn(&str) -> Failure) -> Result<MountRecord, Failure> {
    if mount.source.is_empty() {
        return Err(wrong("field Source must not be empty"));
    }
    if !mount.source.starts_with('/') {
        return Err(wrong(&format!("invalid mount path: '{}' mount path must be absolute", mount.source)));
    }
    let mut record = MountRecord::new(MountKind::Bind, clean(&mount.source), destination);
    let options = mount.bind_options.clone().unwrap_or_default();
    record.propagation = if options.propagation.is_empty() { "rprivate".to_owned() } else { options.propagation };
    if !PROPAGATIONS.contains(&record.propagation.as_str()) {
        return Err(wrong(&format!("invalid propagation mode: {}", record.propagation)));
    }
    (record.non_recursive, record.create_source) = (options.non_recursive, options.create_mountpoint);
    if (options.read_only_non_recursive || options.read_only_force_recursive) && !mount.read_only {
        return Err(wrong("ReadOnlyNonRecursive and ReadOnlyForceRecursive need ReadOnly"));
    }
    if options.read_only_non_recursive && options.read_only_force_recursive {
        return Err(wrong("ReadOnlyNonRecursive and ReadOnlyForceRecursive exclude each other"));
    }
    if options.read_only_force_recursive && options.non_recursive {
        return Err(wrong("ReadOnlyForceRecursive and NonRecursive exclude each other"));
    }
    // Without either, all below is read-only, too: a kernel that cannot do that is too old for everything else here.
    record.writable_below = options.read_only_non_recursive;
    if !record.create_source && !Path::new(&record.source).exists() {
        return Err(wrong(&format!("bind source path does not exist: {}", record.source)));
    }
    Ok(record)
}

fn from_volume(mount: &Mount, destination: String, wrong: &dyn Fn(&str) -> Failure) -> Result<MountRecord, Failure> {
    let mut record = MountRecord::new(MountKind::Volume, "", destination);
    let options = mount.volume_options.clone().unwrap_or_default();
    "z".clone_into(&mut record.mode);
    (record.no_copy, record.subpath, record.volume_labels) = (options.no_copy, options.subpath, options.labels);
    let driver = options.driver_config.unwrap_or_default();
    (record.driver, record.volume_options) = (driver_or_local(&driver.name), driver.options);
    if leads_out(&record.subpath) {
        return Err(wrong("subpath must be a relative path within the volume"));
    }
    if mount.source.is_empty() {
        if !record.subpath.is_empty() {
            return Err(wrong("must not set Subpath when using anonymous volumes"));
        }
        record.anonymous = true;
    } else {
        check_volume_name(&mount.source)?;
        record.volume.clone_from(&mount.source);
    }
    Ok(record)
}

/// Could a subpath lead out of what it is in? Links in it are another matter: they are not followed out.
fn leads_out(subpath: &str) -> bool {
    Path::new(subpath).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
}

fn from_image(mount: &Mount, destination: String, wrong: &dyn Fn(&str) -> Failure) -> Result<MountRecord, Failure> {
    if mount.source.is_empty() {
        return Err(wrong("field Source must not be empty"));
    }
    let mut record = MountRecord::new(MountKind::Image, mount.source.clone(), destination);
    record.subpath = mount.image_options.clone().unwrap_or_default().subpath;
    if leads_out(&record.subpath) {
        return Err(wrong("subpath must be a relative path within the image"));
    }
    Ok(record)
}

fn from_tmpfs(mount: &Mount, destination: String, wrong: &dyn Fn(&str) -> Failure) -> Result<MountRecord, Failure> {
    if !mount.source.is_empty() {
        return Err(wrong("field Source must not be specified"));
    }
    let mut record = MountRecord::new(MountKind::Tmpfs, "", destination);
    let options = mount.tmpfs_options.clone().unwrap_or_default();
    if options.size_bytes < 0 {
        return Err(wrong("field SizeBytes must not be negative"));
    }
    if options.size_bytes > 0 {
        record.tmpfs_options.push(format!("size={}", options.size_bytes));
    }
    if options.mode != 0 {
        record.tmpfs_options.push(format!("mode={:o}", options.mode));
    }
    for option in options.options.iter().flatten() {
        match &option[..] {
            [name] => record.tmpfs_options.push(name.clone()),
            [name, value] => record.tmpfs_options.push(format!("{name}={value}")),
            _ => return Err(wrong("invalid option array length")),
        }
    }
    Ok(record)
}

/// An absolute destination other than the root, cleaned.
fn absolute(path: &str) -> Result<String, Failure> {
    if !path.starts_with('/') {
        return Err(Failure::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    let cleaned = clean(path);
    if cleaned == "/" {
        return Err(Failure::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(cleaned)
}

/// Without `.`, `..`, doubled and trailing slashes, as Go's `path.Clean` of an absolute path.
pub fn clean(path: &str) -> String {
    let mut cleaned = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{TmpfsOptions, VolumeOptions};

    fn bind(text: &str) -> MountRecord {
        parse_bind(text, "").unwrap_or_else(|failure| panic!("{text}: {failure}"))
    }

    #[test]
    fn binds_are_read_as_docker_does() {
        let mount = bind("/host/../a:/b/:ro,rshared");
        assert_eq!((mount.source.as_str(), mount.destination.as_str()), ("/a", "/b"));
        assert_eq!((mount.writable, mount.propagation.as_str(), mount.kind), (false, "rshared", MountKind::Bind));
        let mount = bind("data:/d:nocopy");
        assert_eq!((mount.volume.as_str(), mount.no_copy, mount.kind), ("data", true, MountKind::Volume));
        assert!(bind("/only").anonymous);
        assert_eq!(bind("vol:/data").mode, "z");
    }

    #[test]
    fn wrong_binds_are_refused() {
        for text in ["", "a:b:c:d", "x:/", "x:relative", ":/a:ro", "/a:/b:rw,what", "../a:/b", "v:/x:rshared"] {
            assert!(parse_bind(text, "").is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn duplicates_are_refused_and_image_volumes_give_way() {
        let config =
            ContainerConfig { volumes: Some([("/data".into(), Default::default())].into()), ..Default::default() };
        let host = |binds: &[&str]| HostConfig {
            binds: Some(binds.iter().map(|bind| (*bind).to_owned()).collect()),
            ..HostConfig::default()
        };
        let mounts = plan(&config, &host(&["v1:/data", "/tmp:/a/b/c", "w1:/a"]), false, Vec::new()).unwrap();
        let order: Vec<_> = mounts.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(order, ["/a", "/data", "/a/b/c"]);
        assert!(!mounts[1].anonymous);
        assert!(plan(&config, &host(&["v1:/x", "w1:/x"]), false, Vec::new()).is_err());
        assert!(plan(&config, &host(&[]), false, Vec::new()).unwrap()[0].anonymous);
    }

    #[test]
    fn of_old_read_only_ends_at_the_mount() {
        let binds = ["/tmp:/a:ro", "/tmp:/b", "v1:/c:ro"].map(str::to_owned);
        let host = HostConfig { binds: Some(binds.into()), ..HostConfig::default() };
        for (of_old, expected) in [(true, [true, false, false]), (false, [false; 3])] {
            let mounts = plan(&ContainerConfig::default(), &host, of_old, Vec::new()).unwrap();
            assert_eq!(mounts.iter().map(|mount| mount.writable_below).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn mounts_are_checked_as_docker_does() {
        let mount = |kind: &str, source: &str, target: &str| Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            target: target.to_owned(),
            ..Mount::default()
        };
        for (mount, text) in [
            (
                mount("bind", "/does/not/exist", "/x"),
                "invalid mount config for type \"bind\": bind source path does not exist: /does/not/exist",
            ),
            (mount("volume", "v", ""), "invalid mount config for type \"volume\": field Target must not be empty"),
            (mount("tmpfs", "x", "/x"), "invalid mount config for type \"tmpfs\": field Source must not be specified"),
            (mount("npipe", "", "/x"), "invalid mount config for type \"npipe\": mount type unknown"),
        ] {
            assert_eq!(from_mount(&mount).unwrap_err().message, text);
        }
        let mut tmpfs = mount("tmpfs", "", "/x");
        tmpfs.tmpfs_options = Some(TmpfsOptions { size_bytes: 64, mode: 0o700, options: None });
        assert_eq!(from_mount(&tmpfs).unwrap().tmpfs_options, ["size=64", "mode=700"]);
        tmpfs.tmpfs_options = Some(TmpfsOptions { size_bytes: -1, ..TmpfsOptions::default() });
        assert!(from_mount(&tmpfs).unwrap_err().message.contains("SizeBytes"));
        let mut volume = mount("volume", "v", "/x");
        volume.volume_options = Some(VolumeOptions { subpath: "../up".to_owned(), ..VolumeOptions::default() });
        assert!(from_mount(&volume).is_err());
    }

    #[test]
    fn a_tmpfs_stands_at_an_absolute_path_below_the_root() {
        for (path, expected) in [
            ("x", "invalid mount path: 'x' mount path must be absolute"),
            ("", "invalid mount path: '' mount path must be absolute"),
            ("/", "invalid specification: destination can't be '/'"),
        ] {
            let host = HostConfig { tmpfs: Some([(path.to_owned(), String::new())].into()), ..HostConfig::default() };
            let refused = plan(&ContainerConfig::default(), &host, false, Vec::new()).unwrap_err();
            assert_eq!(refused.message, expected);
        }
    }

    #[test]
    fn inherited_mounts_may_be_read_only() {
        let from = vec![bind("v1:/data"), bind("/only")];
        let mounts = inherit(&from, true);
        assert!(mounts.iter().all(|mount| !mount.writable && !mount.anonymous));
    }

    #[test]
    fn whose_volumes_and_how_is_read_as_dockerd_does() {
        for (entry, expected) in
            [("a", ("a", false)), ("a:ro", ("a", true)), ("a:", ("a", false)), ("a:z,ro", ("a", true))]
        {
            assert_eq!(parse_volumes_from(entry).unwrap(), expected, "{entry}");
        }
        for (entry, expected) in [
            ("", "volumes-from specification cannot be an empty string"),
            ("a:x", "invalid mode: x"),
            ("a:b:c", "invalid mode: b:c"),
        ] {
            assert_eq!(parse_volumes_from(entry).unwrap_err().message, expected, "{entry}");
        }
    }
}
