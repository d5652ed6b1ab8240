//! The daemon's own files: the locks on its folders and the pidfile.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use tokio::time::Instant;

/// How long a daemon that was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds a folder for one daemon. The kernel gives it up when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes the folder if it is missing, and takes it. A daemon that was killed a moment ago holds it until the kernel has
    /// ended all of its threads: this waits for that, up to [`PATIENCE`].
    pub(crate) async fn take(folder: &Path) -> anyhow::Result<Self> {
        // Others may pass through to what is theirs (bind-mounted volumes), but not look around.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let deadline = Instant::now() + PATIENCE;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= deadline {
                bail!(
                    "the folder {} is in use by another daemon: give this one others with --data-root and --exec-root",
                    folder.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { _file: file })
    }
}

/// The pidfile: removed when the daemon stops in order.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes it; refuses when it names a process that lives.
    pub(crate) fn write(path: &Path) -> anyhow::Result<Self> {
        if let Some(pid) = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok())
            && pid != std::process::id()
            && Path::new(&format!("/proc/{pid}")).exists()
        {
            bail!(
                "process {pid} is running and {} is its pidfile: stop it, or name another with --pidfile",
                path.display()
            );
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let mut file = File::create(path).with_context(|| format!("cannot write the pidfile {}", path.display()))?;
        write!(file, "{}", std::process::id())?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A pidfile that outlives its process is found stale at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_daemon_a_data_folder_and_a_pidfile() {
        let folder = std::env::temp_dir().join(format!("shoal-files-{}", std::process::id()));
        let lock = FolderLock::take(&folder).await.expect("first");
        assert!(FolderLock::take(&folder).await.is_err());
        drop(lock);
        assert!(FolderLock::take(&folder).await.is_ok());
        let path = folder.join("pid");
        std::fs::write(&path, "1").expect("write");
        assert!(PidFile::write(&path).is_err(), "process 1 lives");
        std::fs::write(&path, "nonsense").expect("write");
        drop(PidFile::write(&path).expect("stale"));
        assert!(!path.exists());
        std::fs::remove_dir_all(folder).expect("remove");
    }
}
