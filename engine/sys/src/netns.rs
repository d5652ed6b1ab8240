//! Network namespaces. Nothing here changes the namespace of the calling thread: work in a namespace is done by a
//! short-lived thread that enters it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NSFS_MAGIC: i64 = 0x6e73_6673;
const STACK_BYTES: usize = 256 * 1024;

/// An open network namespace. It lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: OwnedFd,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Namespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/thread-self/ns/net")?.into() })
    }

    /// A namespace bound to a path.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file: OwnedFd = File::open(path)?.into();
        if !is_namespace_file(&file)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"));
        }
        Ok(Self { file })
    }

    /// Makes a new namespace, and runs `work` in it, on a thread of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<(Self, T)> {
        on_thread(|| {
            unshare_network()?;
            Ok((Self::current()?, work()))
        })?
    }

    /// Runs `work` in the namespace, on a thread of its own. What it opens there stays there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?
    }

    /// Binds the namespace to a path, which makes it outlive this process.
    ///
    /// # Errors
    /// The path exists, or the mount is refused.
    pub fn bind(&self, path: &Path) -> io::Result<()> {
        bind_handle(self.file.as_fd(), path)
    }

    /// What tells namespaces apart.
    ///
    /// # Errors
    /// When the descriptor cannot be examined.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = File::from(self.file.try_clone()?).metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

#[expect(unsafe_code, reason = "rustix marks unshare unsafe for the sake of CLONE_FILES")]
fn unshare_network() -> io::Result<()> {
    // SAFETY: only the network namespace of this thread changes; descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.map_err(Into::into)
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(STACK_BYTES);
        let handle = thread.spawn_scoped(scope, work)?;
        handle.join().map_err(|_| io::Error::other("the thread in the network namespace panicked"))
    })
}

/// Binds a namespace of any kind to a path that does not exist.
pub(crate) fn bind_handle(namespace: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    File::options().write(true).create_new(true).open(path)?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    rustix::mount::mount_bind(source, path).map_err(|error| {
        let _ = std::fs::remove_file(path);
        error.into()
    })
}

pub(crate) fn is_namespace_file(file: &OwnedFd) -> io::Result<bool> {
    #[expect(clippy::useless_conversion, reason = "the field's type differs between machines")]
    Ok(i64::from(rustix::fs::fstatfs(file)?.f_type) == NSFS_MAGIC)
}

/// Is a namespace bound to this path?
pub fn is_bound(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| is_namespace_file(&file.into()).unwrap_or(false))
}

/// Unbinds a namespace and removes its path. It goes away with its last user. No error if there is none.
///
/// # Errors
/// When the mount or the file cannot be removed.
pub fn unbind(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the folder that namespaces are bound in a private mount point, so that they do not spread into other mount
/// namespaces, which would keep them alive. Does nothing when it is one already.
///
/// # Errors
/// When the folder cannot be made or mounted.
pub fn prepare_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    if is_mount_point(folder)? {
        return Ok(());
    }
    rustix::mount::mount_bind(folder, folder)?;
    rustix::mount::mount_change(folder, MountPropagationFlags::PRIVATE)?;
    Ok(())
}

/// Undoes [`prepare_folder`]. The folder must be empty.
///
/// # Errors
/// When it is in use.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    match rustix::mount::unmount(folder, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_mount_point(folder: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let status = statx(CWD, folder, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Writes a network setting of the calling thread's namespace: `ipv4/ip_forward`.
///
/// # Errors
/// When there is no such setting, or the value is refused.
pub fn write_setting(name: &str, value: &str) -> io::Result<()> {
    use std::io::Write;
    let mut file = File::options().write(true).open(format!("/proc/sys/net/{name}"))?;
    file.write_all(value.as_bytes())
}

/// Reads a network setting of the calling thread's namespace.
///
/// # Errors
/// When there is no such setting.
pub fn read_setting(name: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/sys/net/{name}"))?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Family, NetlinkSocket, link};
    use crate::testing::root;

    #[test]
    fn a_new_namespace_is_another_one_and_the_caller_stays_where_it_is() {
        if !root() {
            return;
        }
        let before = Namespace::current().unwrap().identity().unwrap();
        let (namespace, links) = Namespace::create(|| {
            link::list(&mut NetlinkSocket::open(Family::Route).unwrap()).unwrap().into_iter().map(|l| l.name).collect()
        })
        .map(|(n, l): (Namespace, Vec<String>)| (n, l))
        .unwrap();
        assert!(links.contains(&"lo".to_owned()));
        assert_ne!(namespace.identity().unwrap(), before);
        assert_eq!(Namespace::current().unwrap().identity().unwrap(), before);
        let inside = namespace.enter(|| Namespace::current().unwrap().identity().unwrap()).unwrap();
        assert_eq!(inside, namespace.identity().unwrap());
    }

    #[test]
    fn a_bound_namespace_can_be_opened_until_it_is_unbound() {
        if !root() {
            return;
        }
        let folder = std::env::temp_dir().join(format!("shoal-netns-test-{}", std::process::id()));
        prepare_folder(&folder).unwrap();
        prepare_folder(&folder).unwrap();
        let path = folder.join("one");
        let (namespace, ()) = Namespace::create(|| ()).unwrap();
        namespace.bind(&path).unwrap();
        assert!(is_bound(&path));
        assert_eq!(Namespace::open(&path).unwrap().identity().unwrap(), namespace.identity().unwrap());
        assert!(namespace.bind(&path).is_err(), "bound twice");
        unbind(&path).unwrap();
        unbind(&path).unwrap();
        assert!(!is_bound(&path));
        remove_folder(&folder).unwrap();
        assert!(!folder.exists());
    }
}
