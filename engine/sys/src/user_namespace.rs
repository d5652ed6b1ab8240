//! User namespaces: made with a map of ids, held by a descriptor, and used to map mounts and to own other namespaces.
//!
//! ## Design notes
//! - A thread of a process with several cannot enter a user namespace, and one that is made by a thread would be its own. So
//!   each is made with a short-lived child that does nothing but wait to be killed, and is kept by its handle.
//! - The child has this process's memory, not a copy: that would be a millisecond for a daemon of 25 MB, and each page that
//!   it writes meanwhile would have to be copied as well. So the child has a stack of its own, makes bare system calls, which
//!   touch nothing of the thread that it shares its thread-local storage with, but for `errno` when one fails; that thread
//!   waits for the child's word, and after that the child sleeps for good.

#![expect(unsafe_code, reason = "a child that makes only system calls has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
    /// It is in use until the child is gone.
    _stack: Stack,
}

/// What the child is told. It lives until the child has given its word.
struct Order {
    join: Option<libc::c_int>,
    told: libc::c_int,
    parent: u32,
}

/// Memory for a child's stack, with a page below it that cannot be touched.
struct Stack {
    start: *mut libc::c_void,
}

impl Stack {
    const BYTES: usize = 64 * 1024;
    const GUARD_BYTES: usize = 64 * 1024;

    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: new memory, wherever the kernel has room.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), Self::GUARD_BYTES + Self::BYTES, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { start };
        // SAFETY: the upper part of the memory that was just made.
        let writable = unsafe {
            libc::mprotect(stack.start.byte_add(Self::GUARD_BYTES), Self::BYTES, libc::PROT_READ | libc::PROT_WRITE)
        };
        if writable == 0 { Ok(stack) } else { Err(io::Error::last_os_error()) }
    }

    /// It grows downwards from here.
    fn top(&self) -> *mut libc::c_void {
        // SAFETY: one past the end of what was made.
        unsafe { self.start.byte_add(Self::GUARD_BYTES + Self::BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the memory is this value's own, and its child is gone.
        unsafe { libc::munmap(self.start, Self::GUARD_BYTES + Self::BYTES) };
    }
}

impl Waiting {
    /// Into new namespaces, or into this user namespace and a new network namespace.
    fn start(flags: libc::c_int, join: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let stack = Stack::new()?;
        let mut order =
            Order { join: join.map(|fd| fd.as_raw_fd()), told: write.as_raw_fd(), parent: std::process::id() };
        // SAFETY: sets of signals are plain memory. With all blocked, no handler of this process runs in the child.
        let old = unsafe {
            let mut all = std::mem::zeroed();
            let mut old = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
            old
        };
        // SAFETY: the child has a stack of its own, which outlives it, and makes nothing but bare system calls (see the
        // design notes), so that it does not matter what other threads do. `order` outlives the child's use of it: this
        // function returns after its word, or after its end. Without a signal at its end only `__WALL` waits for it.
        let pid =
            unsafe { libc::clone(wait_to_be_killed, stack.top(), libc::CLONE_VM | flags, (&raw mut order).cast()) };
        let failed = (pid < 0).then(io::Error::last_os_error);
        drop(write);
        let mut code = [0_u8; 1];
        let heard = match &failed {
            None => rustix::io::retry_on_intr(|| rustix::io::read(&read, &mut code)),
            Some(_) => Ok(0),
        };
        // Not before its word: a handler might change the child's `errno`.
        // SAFETY: `old` was filled above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
        if let Some(error) = failed {
            return Err(error);
        }
        // Its end is waited for on every way out of here.
        let child = Self { pid, _stack: stack };
        match (heard?, code[0]) {
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

/// The child's whole life. Nothing but `syscall`: other functions of the C library keep notes in the thread's storage, which
/// here is that of the parent's thread.
extern "C" fn wait_to_be_killed(order: *mut libc::c_void) -> libc::c_int {
    let failed = 1;
    // SAFETY: the parent's thread keeps the order until it hears the word that is written below, and changes nothing of it.
    let Order { join, told, parent } = unsafe { &*order.cast::<Order>() };
    // SAFETY: plain system calls, on descriptors that the child has copies of.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // Who was killed before that sends no signal any more.
        if libc::syscall(libc::SYS_getppid) != libc::c_long::from(*parent) {
            return failed;
        }
        // Locks and ports of the parent are not to be held here, too.
        let (low, high) = ((*told).min(join.unwrap_or(*told)), (*told).max(join.unwrap_or(*told)));
        let close = |first: libc::c_int, last: libc::c_uint| {
            if first.cast_unsigned() <= last {
                libc::syscall(libc::SYS_close_range, first.cast_unsigned(), last, 0);
            }
        };
        close(0, low.cast_unsigned().saturating_sub(1));
        close(low + 1, high.cast_unsigned().saturating_sub(1));
        close(high + 1, libc::c_uint::MAX);
        let joined = join.is_none_or(|fd| {
            libc::syscall(libc::SYS_setns, fd, libc::CLONE_NEWUSER) == 0
                && libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNET) == 0
        });
        let code = if joined { 0 } else { u8::try_from(*libc::__errno_location()).unwrap_or(u8::MAX) };
        if libc::syscall(libc::SYS_write, *told, (&raw const code), 1) != 1 {
            return failed;
        }
        loop {
            // For nothing and without a limit; every signal but the last one is blocked.
            libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

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

    /// The child shares this process's memory: whatever other threads do meanwhile, and how many of these there are.
    #[test]
    fn many_are_made_at_once_and_leave_this_process_as_it_was() {
        if !root() {
            return;
        }
        let dumpable = || rustix::process::dumpable_behavior().unwrap();
        let before = dumpable();
        let work = |number: usize| {
            for round in 0..20 {
                let (user, first) = UserNamespace::create_with_network(MAPS).unwrap();
                let second = user.new_network().unwrap();
                assert_ne!(first.identity().unwrap(), second.identity().unwrap());
                let noise: Vec<String> = (0..100).map(|word| format!("{number} {round} {word}")).collect();
                assert!(noise.iter().enumerate().all(|(word, text)| text.ends_with(&format!(" {word}"))));
                // A failure is told as what it is.
                let refused = Waiting::start(0, Some(first.as_fd())).err().unwrap();
                assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|number| drop(scope.spawn(move || work(number))));
        });
        assert_eq!(dumpable(), before);
    }

    #[test]
    fn maps_that_are_none_are_refused() {
        if root() {
            UserNamespace::create(Maps { uids: "0 1 0\n", gids: "0 1 1\n" }).unwrap_err();
            UserNamespace::create(Maps { uids: "nonsense", gids: "0 1 1\n" }).unwrap_err();
        }
    }
}
