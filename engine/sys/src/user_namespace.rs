//! User namespaces: made with a map of ids, held by a descriptor, and used to map mounts and to own other namespaces.
//!
//! ## Design notes
//! A thread of a process with several cannot enter a user namespace, and one that is made by a thread would be its own. So
//! each is made with a short-lived child that does nothing but wait to be killed, and is kept by its handle.

#![expect(unsafe_code, reason = "a child that makes only system calls has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::netns::Namespace;
use crate::process;

/// The ids of a user namespace, in the kernel's words: lines of first id inside, first id outside, how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maps<'a> {
    /// Of users.
    pub uids: &'a str,
    /// Of groups.
    pub gids: &'a str,
}

/// An open user namespace. It lives at least as long as this.
#[derive(Debug)]
pub struct UserNamespace {
    file: OwnedFd,
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl UserNamespace {
    /// Makes one with these ids.
    ///
    /// # Errors
    /// When the kernel refuses, which it does for maps that are none.
    pub fn create(maps: Maps<'_>) -> io::Result<Self> {
        let child = Waiting::start(libc::CLONE_NEWUSER, None)?;
        child.write_maps(maps)?;
        child.user()
    }

    /// Makes one with these ids, and a network namespace that belongs to it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create_with_network(maps: Maps<'_>) -> io::Result<(Self, Namespace)> {
        let child = Waiting::start(libc::CLONE_NEWUSER | libc::CLONE_NEWNET, None)?;
        child.write_maps(maps)?;
        Ok((child.user()?, child.network()?))
    }

    /// One that is bound to a path.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file: OwnedFd = File::open(path)?.into();
        if !crate::netns::is_namespace_file(&file)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a user namespace"));
        }
        Ok(Self { file })
    }

    /// Binds it to a path, which makes it outlive this process.
    ///
    /// # Errors
    /// The path exists, or the mount is refused.
    pub fn bind(&self, path: &Path) -> io::Result<()> {
        crate::netns::bind_handle(self.file.as_fd(), path)
    }

    /// Makes a network namespace that belongs to it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new_network(&self) -> io::Result<Namespace> {
        Waiting::start(0, Some(self.file.as_fd()))?.network()
    }

    /// Moves this (single-threaded) process into it, as its root.
    ///
    /// # Errors
    /// As `setns(2)`.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: `setns` changes what this process may do, not memory or descriptors.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWUSER) } != 0 {
            return Err(io::Error::last_os_error());
        }
        process::become_user(0, 0, &[])
    }
}

/// A child that waits to be killed.
struct Waiting {
    pid: libc::pid_t,
}

impl Waiting {
    /// Into new namespaces, or into this user namespace and a new network namespace.
    fn start(flags: libc::c_int, join: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let mut told: [libc::c_int; 2] = [-1; 2];
        // SAFETY: the array has room for both ends.
        if unsafe { libc::pipe2(told.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both descriptors were just made and are nobody else's.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(told[0]), OwnedFd::from_raw_fd(told[1])) };
        let (join, write_fd) = (join.map(|fd| fd.as_raw_fd()), write.as_raw_fd());
        // SAFETY: sets of signals are plain memory. With all blocked, no handler of this process runs in the child.
        let old = unsafe {
            let mut all = std::mem::zeroed();
            let mut old = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
            old
        };
        // SAFETY: the child goes on with a copy of this stack, and makes nothing but system calls until it is killed, so it
        // does not matter what other threads were doing. Without a signal at its end only `__WALL` waits for it.
        let parent = std::process::id();
        // SAFETY: as above.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: see above.
            unsafe { wait_to_be_killed(join, write_fd, parent) }
        }
        let failed = io::Error::last_os_error();
        // SAFETY: `old` was filled above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
        drop(write);
        let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(failed)?;
        let child = Self { pid };
        let mut code = [0_u8; 1];
        match (rustix::io::read(&read, &mut code)?, code[0]) {
            (0, _) => Err(io::Error::other("the child that holds new namespaces died")),
            (_, 0) => Ok(child),
            (_, code) => Err(io::Error::from_raw_os_error(code.into())),
        }
    }

    fn write_maps(&self, maps: Maps<'_>) -> io::Result<()> {
        // One write each: the kernel takes no second one.
        std::fs::write(format!("/proc/{}/uid_map", self.pid), maps.uids)?;
        std::fs::write(format!("/proc/{}/gid_map", self.pid), maps.gids)
    }

    fn user(&self) -> io::Result<UserNamespace> {
        Ok(UserNamespace { file: File::open(format!("/proc/{}/ns/user", self.pid))?.into() })
    }

    fn network(&self) -> io::Result<Namespace> {
        Namespace::open(Path::new(&format!("/proc/{}/ns/net", self.pid)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // SAFETY: the process is this one's own child, and nobody else waits for it.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

/// The child's whole life.
///
/// # Safety
/// For the child of a fork only.
unsafe fn wait_to_be_killed(join: Option<libc::c_int>, told: libc::c_int, parent: u32) -> ! {
    // SAFETY: plain system calls on descriptors that the fork copied.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // Who was killed before that sends no signal any more.
        if libc::getppid().cast_unsigned() != parent {
            libc::_exit(1);
        }
        // Locks and ports of the parent are not to be held here, too.
        let (low, high) = (told.min(join.unwrap_or(told)), told.max(join.unwrap_or(told)));
        let close = |first: libc::c_int, last: libc::c_uint| {
            if first.cast_unsigned() <= last {
                libc::syscall(libc::SYS_close_range, first.cast_unsigned(), last, 0);
            }
        };
        close(0, low.cast_unsigned().saturating_sub(1));
        close(low + 1, high.cast_unsigned().saturating_sub(1));
        close(high + 1, libc::c_uint::MAX);
        let joined =
            join.is_none_or(|fd| libc::setns(fd, libc::CLONE_NEWUSER) == 0 && libc::unshare(libc::CLONE_NEWNET) == 0);
        let code = if joined { 0 } else { u8::try_from(*libc::__errno_location()).unwrap_or(u8::MAX) };
        if libc::write(told, (&raw const code).cast(), 1) != 1 {
            libc::_exit(1);
        }
        loop {
            libc::pause();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::root;

    const MAPS: Maps<'static> = Maps { uids: "0 300000 1000\n", gids: "0 400000 1000\n" };

    #[test]
    fn a_namespace_is_kept_by_a_path_and_owns_networks() {
        if !root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("user");
        let (user, network) = UserNamespace::create_with_network(MAPS).unwrap();
        user.bind(&path).unwrap();
        let again = UserNamespace::open(&path).unwrap();
        let second = again.new_network().unwrap();
        assert_ne!(network.identity().unwrap(), second.identity().unwrap());
        for network in [&network, &second] {
            // SAFETY: the request takes no argument, and gives a descriptor of our own.
            let owner = unsafe { OwnedFd::from_raw_fd(libc::ioctl(network.as_fd().as_raw_fd(), 0xb701)) };
            let inode = |file: OwnedFd| std::os::unix::fs::MetadataExt::ino(&File::from(file).metadata().unwrap());
            assert_eq!(inode(owner), inode(user.file.try_clone().unwrap()));
        }
        crate::netns::unbind(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn maps_that_are_none_are_refused() {
        if root() {
            UserNamespace::create(Maps { uids: "0 1 0\n", gids: "0 1 1\n" }).unwrap_err();
            UserNamespace::create(Maps { uids: "nonsense", gids: "0 1 1\n" }).unwrap_err();
        }
    }
}
