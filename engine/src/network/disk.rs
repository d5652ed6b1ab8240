//! What is kept in files: definitions of local networks for ever, the rest until the machine restarts.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shoal_proto::codec;

use super::definition::LocalNetwork;
use super::error::{NetworkError, Result};
use super::state::SandboxRecord;
use super::types::ClusterNetworkState;

/// What a file is called until it is whole.
const HALF: &str = "new";

/// Where the files are.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    /// `<data_root>/network`.
    lasting: PathBuf,
    /// `<exec_root>/network`.
    transient: PathBuf,
}

impl Disk {
    /// Makes the folders, and removes what a daemon before was writing when it was killed.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(super) fn open(data_root: &Path, exec_root: &Path) -> Result<Self> {
        let disk = Self { lasting: data_root.join("network"), transient: exec_root.join("network") };
        for folder in [&disk.lasting, &disk.transient] {
            fs::create_dir_all(folder).map_err(NetworkError::io(format!("make folder {}", folder.display())))?;
            let half = |path: &PathBuf| path.extension().is_some_and(|extension| extension == HALF);
            let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            for path in entries.filter(half) {
                // It would be in nobody's way: the next writer of it begins anew.
                let _ = fs::remove_file(path);
            }
        }
        Ok(disk)
    }

    fn networks_file(&self) -> PathBuf {
        self.lasting.join("networks.json")
    }

    fn cluster_file(&self) -> PathBuf {
        self.transient.join("cluster.state")
    }

    fn sandbox_file(&self, id: &str) -> PathBuf {
        self.transient.join(format!("{id}.json"))
    }

    /// The local networks; none at the first start.
    ///
    /// # Errors
    /// When the file is there but cannot be read: networks must not be forgotten.
    pub(super) fn load_networks(&self) -> Result<Vec<LocalNetwork>> {
        let path = self.networks_file();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| NetworkError::io(format!("understand {}", path.display()))(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(NetworkError::io(format!("read {}", path.display()))(error)),
        }
    }

    /// Replaces the local networks, durably.
    ///
    /// # Errors
    /// When the disk does not take them; the old ones are still there.
    pub(super) fn save_networks<'a>(&self, networks: impl Iterator<Item = &'a LocalNetwork>) -> Result<()> {
        let path = self.networks_file();
        let list: Vec<_> = networks.collect();
        let write = || {
            write_file(&path, &serde_json::to_vec_pretty(&list)?, true)?;
            File::open(&self.lasting)?.sync_all()
        };
        write().map_err(NetworkError::io(format!("write {}", path.display())))
    }

    /// The sandboxes of the daemon before. What cannot be understood is dropped: its namespace is then garbage.
    pub(super) fn load_sandboxes(&self) -> Vec<SandboxRecord> {
        let Ok(entries) = fs::read_dir(&self.transient) else { return Vec::new() };
        let json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        let mut records = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()).filter(json) {
            match fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(Into::into)) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "dropped an unreadable record of a sandbox")
                }
            }
        }
        records
    }

    /// Notes a sandbox, for the next daemon.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn save_sandbox(&self, record: &SandboxRecord) -> Result<()> {
        let path = self.sandbox_file(&record.id);
        let write = || write_file(&path, &serde_json::to_vec(record)?, false);
        write().map_err(NetworkError::io(format!("write {}", path.display())))
    }

    /// Forgets a sandbox.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(super) fn remove_sandbox(&self, id: &str) -> Result<()> {
        let path = self.sandbox_file(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NetworkError::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// The cluster's networks as last known on this node.
    pub(super) fn load_cluster(&self) -> Option<ClusterNetworkState> {
        codec::decode(&fs::read(self.cluster_file()).ok()?).ok()
    }

    /// Notes the cluster's networks, so that names and virtual addresses work at once after a restart.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn save_cluster(&self, state: &ClusterNetworkState) -> Result<()> {
        let path = self.cluster_file();
        write_file(&path, &codec::encode(state), false).map_err(NetworkError::io(format!("write {}", path.display())))
    }

    /// Removes the transient folder.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn remove_transient(&self) -> Result<()> {
        match fs::remove_dir_all(&self.transient) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NetworkError::io(format!("remove {}", self.transient.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temporary = path.with_extension(HALF);
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_written_files_go_with_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), &root.path().join("exec")).unwrap();
        let (id, options, endpoints) = ("ab".to_owned(), Default::default(), Vec::new());
        disk.save_sandbox(&SandboxRecord { id, own_namespace: true, options, endpoints, name_ports: None }).unwrap();
        for half in [disk.transient.join("cd.new"), disk.lasting.join("networks.new")] {
            fs::write(half, "{").unwrap();
        }
        let again = Disk::open(root.path(), &root.path().join("exec")).unwrap();
        let names =
            |folder: &Path| -> Vec<_> { fs::read_dir(folder).unwrap().map(|one| one.unwrap().file_name()).collect() };
        assert_eq!(names(&again.transient), ["ab.json"]);
        assert!(names(&again.lasting).is_empty());
        assert_eq!(again.load_sandboxes().len(), 1);
    }
}
