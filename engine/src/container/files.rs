//! Files that the engine gives to a container: host name, hosts, resolver, secrets and configs.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags};
use shoal_proto::error::{ErrorKind, Failure, chain};

use super::instance::Container;
use super::network::{self, Mode};
use super::record::{PlacedFile, Record};
use crate::engine::Inner;
use crate::model::InternalFile;
use crate::remap::IdMap;

/// The three files, and where they appear.
pub(crate) const FILES: [(&str, &str); 3] =
    [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Internal, format!("cannot {what} {}: {}", path.display(), chain(error)))
}

/// Writes in place: the file is bind-mounted, a new one would not be seen.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| failed("write", path, &error))
}

/// Makes the files before the container is created. Blocks.
pub(crate) fn prepare(record: &Record, folder: &Path, map: Option<&IdMap>) -> Result<(), Failure> {
    if matches!(network::mode(record), Mode::Shared(_)) {
        return Ok(());
    }
    write(&folder.join("hostname"), &format!("{}\n", record.config.hostname))?;
    for name in ["hosts", "resolv.conf"] {
        let path = folder.join(name);
        if !path.exists() {
            write(&path, "")?;
        }
    }
    let Some((uid, gid)) = map.map(IdMap::root) else { return Ok(()) };
    for (name, _) in FILES {
        let path = folder.join(name);
        chown(&path, Some(uid), Some(gid)).map_err(|error| failed("set the owner of", &path, &error))?;
    }
    Ok(())
}

/// Fills hosts and resolver once the addresses are known. Short enough to be done in place.
pub(crate) fn fill(inner: &Inner, container: &Container) -> Result<(), Failure> {
    let record = container.record().clone();
    let mode = network::mode(&record);
    if matches!(mode, Mode::Shared(_)) {
        return Ok(());
    }
    write(&container.folder.join("hosts"), &hosts(inner, &record, &mode))?;
    let resolver = inner.networks.resolv_conf(&record.id, &network::sandbox_options(inner, &record));
    write(&container.folder.join("resolv.conf"), &resolver)
}

fn hosts(inner: &Inner, record: &Record, mode: &Mode) -> String {
    let mut extra = record.host_config.extra_hosts.clone().unwrap_or_default();
    extra.extend(super::links::hosts(inner, record));
    if *mode != Mode::Host {
        return inner.networks.hosts_file(&record.id, &record.config.hostname, &record.config.domainname, &extra);
    }
    let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in extra {
        if let Some((name, address)) = entry.split_once([':', '=']) {
            let address = if address == "host-gateway" { "127.0.0.1" } else { address };
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    text
}

/// After a network was joined or left while the container runs.
pub(crate) fn rewrite_hosts(inner: &Inner, container: &Container) {
    if let Err(failure) = fill(inner, container) {
        tracing::warn!(container = %container.id, error = failure.message, "cannot write the hosts file");
    }
}

/// Where the three files are of a container: its own, or those of the one whose network it shares. Those that a mount of
/// the user covers are left out.
pub(crate) fn mounts(inner: &Arc<Inner>, container: &Arc<Container>) -> Vec<(PathBuf, &'static str)> {
    let folder = network::owner(inner, container).folder.clone();
    let record = container.record();
    let covered = |path: &str| record.mounts.iter().any(|mount| mount.destination == path);
    FILES.into_iter().filter(|(_, path)| !covered(path)).map(|(name, path)| (folder.join(name), path)).collect()
}

/// Puts secrets and configs into a memory file system of their own. Blocks.
pub(crate) fn place(folder: &Path, files: &[InternalFile], map: Option<&IdMap>) -> Result<Vec<PlacedFile>, Failure> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed("make", folder, &error))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = c"mode=0700";
    rustix::mount::mount("tmpfs", folder, "tmpfs", flags, options)
        .map_err(|error| failed("mount a memory file system at", folder, &error.into()))?;
    let placed = files.iter().enumerate().map(|(index, file)| place_one(folder, index, file, map)).collect();
    if let Err(Failure { .. }) = placed {
        remove(folder);
    }
    placed
}

fn place_one(folder: &Path, index: usize, file: &InternalFile, map: Option<&IdMap>) -> Result<PlacedFile, Failure> {
    let owner = map.map_or(Some((file.uid, file.gid)), |map| map.owner_on_host((file.uid, file.gid)));
    let Some((uid, gid)) = owner else {
        return Err(Failure::invalid(format!(
            "owner {}:{} of {} is outside of the containers' range of ids",
            file.uid, file.gid, file.path
        )));
    };
    if !file.path.starts_with('/') {
        return Err(Failure::invalid(format!("the path of a secret or config must be absolute: {}", file.path)));
    }
    let name = index.to_string();
    let path = folder.join(&name);
    let written = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut handle| handle.write_all(&file.data))
        .and_then(|()| chown(&path, Some(uid), Some(gid)))
        // After the change of owner, which would clear set-id bits.
        .and_then(|()| {
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(file.mode & 0o7777))
        });
    written.map_err(|error| failed("write", &path, &error))?;
    Ok(PlacedFile { name, target: super::mounts::clean(&file.path) })
}

/// Removes them. Missing is fine. Blocks.
pub(crate) fn remove(folder: &Path) {
    if !folder.exists() {
        return;
    }
    if let Err(error) = rustix::mount::unmount(folder, UnmountFlags::DETACH)
        && error != rustix::io::Errno::INVAL
    {
        tracing::warn!(folder = %folder.display(), %error, "cannot unmount a container's files");
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove a container's files");
    }
}
