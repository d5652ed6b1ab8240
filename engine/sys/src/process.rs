//! Processes: programs that cannot be changed through `/proc/<pid>/exe`, forks of single-threaded processes, pidfds.

#![expect(unsafe_code, reason = "system calls that no safe wrapper covers")]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::OpenTreeFlags;
use rustix::process::WaitOptions;

/// An executable file held through a read-only mount of its own that is in no mount namespace.
///
/// A process started from it has a `/proc/<pid>/exe` that nobody can open for writing (`EROFS`), not even root inside a
/// container that was handed such a process: the class of CVE-2019-5736 ends here, without copying the program.
#[derive(Debug)]
pub struct SealedProgram {
    mount: OwnedFd,
    path: PathBuf,
}

impl SealedProgram {
    /// Clones the mount of `path` read-only.
    ///
    /// # Errors
    /// When the file does not exist or the kernel refuses (needs root and Linux 5.12).
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = rustix::mount::open_tree(rustix::fs::CWD, path, flags)?;
        crate::namespace::MountChange { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() }.apply(&mount)?;
        Ok(Self { mount, path: path.to_owned() })
    }

    /// Where the program was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that executes it, with an empty environment and `/` as working directory.
    #[expect(clippy::disallowed_methods, reason = "this is the place that makes children")]
    pub fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.mount.as_raw_fd()));
        command.arg0("shoal").env_clear().current_dir("/");
        command
    }
}

/// A command for a program on the host, with an empty environment and `/` as working directory. Descriptors of this
/// process are close-on-exec, so the child gets the three that the caller sets.
#[expect(clippy::disallowed_methods, reason = "this is the place that makes children")]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/");
    command
}

/// The same for a program that is somebody else's: no signal is blocked or ignored in it, whatever this process does.
pub fn command_of_others(program: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = command(program);
    // SAFETY: nothing but `signal` and `sigprocmask`, which are safe there.
    unsafe {
        command.pre_exec(|| {
            crate::signal::reset();
            Ok(())
        })
    };
    command
}

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The process that called, with the child's id.
    Parent(u32),
}

/// Proof that this process had one thread, which is what makes forking it and going on with Rust code sound: no other
/// thread can hold a lock that the child would wait for. Whoever has it starts no thread as long as it is used.
#[derive(Debug)]
pub struct SingleThread(std::marker::PhantomData<*const ()>);

impl SingleThread {
    /// Looks how many threads there are: the links of `/proc/self/task` less `.` and `..`.
    ///
    /// # Errors
    /// `EBUSY` with several threads, or when `/proc` is not there.
    pub fn prove() -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata("/proc/self/task")?.nlink() {
            3 => Ok(Self(std::marker::PhantomData)),
            _ => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        }
    }

    /// Forks.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fork(&self) -> io::Result<Fork> {
        // SAFETY: there is no other thread, so every lock and the allocator are in a consistent state in the child.
        forked(unsafe { libc::fork() }.into())
    }

    /// Forks into new namespaces: `CLONE_NEW*` flags.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fork_into(&self, namespaces: u32) -> io::Result<Fork> {
        let flags = libc::c_long::from(namespaces) | libc::c_long::from(libc::SIGCHLD);
        // SAFETY: as above; without a stack the child goes on with a copy of this one, as after `fork`.
        forked(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })
    }

    /// Makes a child that is a sibling: its parent is this process's parent. Otherwise as [`Self::fork`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fork_sibling(&self) -> io::Result<Fork> {
        self.fork_sibling_into(0)
    }

    /// Makes a sibling in new namespaces: `CLONE_NEW*` flags.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fork_sibling_into(&self, namespaces: u32) -> io::Result<Fork> {
        let flags = libc::c_long::from(namespaces) | libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
        // SAFETY: as above; without a stack the child goes on with a copy of this one, as after `fork`.
        forked(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })
    }
}

fn forked(result: i64) -> io::Result<Fork> {
    match result {
        0 => Ok(Fork::Child),
        pid => u32::try_from(pid).map(Fork::Parent).map_err(|_| io::Error::last_os_error()),
    }
}

/// Ends this process at once: no destructors, no flushing. For the child side of a fork.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Replaces this process's program. Returns only when that failed.
///
/// # Errors
/// As `execve(2)`; a nul byte inside an argument is `EINVAL`.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: the arrays are terminated by null, and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// As `close_range(2)`.
pub fn close_from(first: u32) -> io::Result<()> {
    close_between(first, u32::MAX)
}

/// Closes every descriptor but these.
///
/// # Errors
/// As `close_range(2)`.
pub fn close_all_but(kept: &[i32]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 0;
    for fd in kept {
        if first < fd {
            close_between(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_between(first, u32::MAX)
}

fn close_between(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: callers are at a point where nothing in this process owns a descriptor in the range (start of a process,
    // or right before execve); closing others' descriptors would be a logic error, not a memory error.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the kernel reap children by itself. A child that is to wait for its own has to undo it.
pub fn ignore_children(ignored: bool) {
    let disposition = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: both are valid dispositions.
    unsafe { libc::signal(libc::SIGCHLD, disposition) };
}

/// Takes the descriptor 0 that the parent gave, and puts `/dev/null` in its place.
///
/// # Errors
/// When descriptor 0 is closed or `/dev/null` cannot be opened.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let taken = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(taken)
}

/// Makes `fd` a descriptor that this process owns.
///
/// # Errors
/// When it is not open.
pub fn adopt(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and the caller says that nothing else owns it (it came over `execve`).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Installs a system call filter (classic BPF, eight bytes an instruction) on this thread.
///
/// # Errors
/// `EINVAL` for a program that is not one, `EACCES` without `CAP_SYS_ADMIN` or no-new-privileges.
pub fn install_syscall_filter(program: &[u8]) -> io::Result<()> {
    const INSTRUCTION_BYTES: usize = size_of::<libc::sock_filter>();
    let count = program.len() / INSTRUCTION_BYTES;
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION_BYTES) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let length = u16::try_from(count).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION_BYTES)
        .map(|chunk| libc::sock_filter {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        })
        .collect();
    let filter = libc::sock_fprog { len: length, filter: instructions.as_mut_ptr() };
    // SAFETY: the structure points at `length` instructions that live through the call; the kernel copies them.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Ended {
    /// The code a shell would show: 128 and the signal's number for a signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Takes one child that has ended; `None` when none has (or there is none).
///
/// # Errors
/// As `waitpid(2)`, without `ECHILD`.
pub fn reap() -> io::Result<Option<(u32, Ended)>> {
    match rustix::process::wait(WaitOptions::NOHANG) {
        Ok(found) => {
            Ok(found.and_then(|(pid, status)| Some((pid.as_raw_nonzero().get().unsigned_abs(), ended(status)?))))
        }
        Err(rustix::io::Errno::CHILD) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits for this child to end.
///
/// # Errors
/// As `waitpid(2)`.
pub fn wait_for(pid: u32) -> io::Result<Ended> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(rustix::io::Errno::CHILD)?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(ended) = ended(status) {
                    return Ok(ended);
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills every process of the group that this process leads.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn kill_group(leader: u32) -> io::Result<()> {
    // A group of 1 would be every process there is.
    let group = i32::try_from(leader).ok().filter(|leader| *leader > 1).and_then(rustix::process::Pid::from_raw);
    Ok(rustix::process::kill_process_group(group.ok_or(rustix::io::Errno::SRCH)?, rustix::process::Signal::KILL)?)
}

fn ended(status: rustix::process::WaitStatus) -> Option<Ended> {
    let signal = status.terminating_signal().map(Ended::Signal);
    status.exit_status().map(Ended::Code).or(signal)
}

/// Makes orphaned descendants children of this process.
///
/// # Errors
/// As `prctl(2)`.
pub fn become_subreaper() -> io::Result<()> {
    // The kernel only looks whether the argument is zero.
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Keeps other processes from tracing this one and from reaching into it through `/proc`.
///
/// # Errors
/// As `prctl(2)`.
pub fn hide_from_tracers() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Capabilities as bits by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// The most that any program run from here can get.
    pub bounding: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What counts.
    pub effective: u64,
    /// What a program with inheritable file capabilities gets.
    pub inheritable: u64,
    /// What a plain program keeps.
    pub ambient: u64,
}

/// Gives this process exactly these capabilities. The bounding set goes first, since lowering it needs `CAP_SETPCAP`.
///
/// # Errors
/// With the first step that the kernel refuses.
pub fn set_capabilities(wanted: &Capabilities) -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    for number in 0..64 {
        if wanted.bounding >> number & 1 == 1 {
            continue;
        }
        // SAFETY: the call takes plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            // The first number that is no capability of this kernel.
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let set = CapabilitySet::from_bits_retain;
    let sets = CapabilitySets {
        effective: set(wanted.effective),
        permitted: set(wanted.permitted),
        inheritable: set(wanted.inheritable),
    };
    rustix::thread::set_capabilities(None, sets)?;
    for number in (0..64).filter(|number| wanted.ambient >> number & 1 == 1) {
        // SAFETY: the call takes plain numbers.
        if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Makes this process run as this user, keeping its permitted capabilities until [`set_capabilities`].
///
/// # Errors
/// With the first step that the kernel refuses.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)?;
    // The change of user emptied the effective set.
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Sets one of this process's resource limits by the kernel's number of it.
///
/// # Errors
/// `EPERM` for raising a hard limit without `CAP_SYS_RESOURCE`.
pub fn set_resource_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure lives through the call.
    match unsafe { libc::setrlimit(resource, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The hard limit of one of this process's resources, by the kernel's number of it.
///
/// # Errors
/// `EINVAL` for a number that is no resource.
pub fn hard_resource_limit(resource: u32) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through the call.
    match unsafe { libc::getrlimit(resource, &raw mut limit) } {
        0 => Ok(limit.rlim_max),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The limit of descriptors that this process began with, once [`raise_descriptor_limit`] has changed it.
static FIRST_DESCRIPTOR_LIMIT: std::sync::OnceLock<rustix::process::Rlimit> = std::sync::OnceLock::new();

/// Lets this process have as many descriptors as its hard limit allows. Programs get the limit that it began with only when
/// their starter gives it back with [`give_first_descriptor_limit`].
///
/// # Errors
/// What the kernel says.
pub fn raise_descriptor_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(());
    }
    FIRST_DESCRIPTOR_LIMIT.get_or_init(|| limit);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// Gives another process the limit of descriptors that this one began with. As Go's runtime does it for dockerd's children:
/// programs that use `select` or close every possible descriptor do badly with a high one.
///
/// # Errors
/// What the kernel says.
pub fn give_first_descriptor_limit(pid: u32) -> io::Result<()> {
    use rustix::process::{Pid, Resource, prlimit};
    let Some(first) = FIRST_DESCRIPTOR_LIMIT.get() else { return Ok(()) };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    prlimit(Some(pid), Resource::Nofile, *first)?;
    Ok(())
}

/// Words that this process shows in `ps` instead of those it was started with. They are cut to the room that those had.
///
/// # Errors
/// When `/proc` is not there.
pub fn set_title(words: &[&[u8]]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields 48 and 49: where the arguments lie in memory. The name in the second field may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let mut fields = fields.split(' ').skip(45).map_while(|field| field.trim().parse::<u64>().ok());
    let (Some(start), Some(end)) = (fields.next(), fields.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let room = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let mut title = words.join(&0);
    title.resize(room, 0);
    // The last byte has to stay zero: the kernel takes anything else for an older way to say this.
    if let Some(last) = title.last_mut() {
        *last = 0;
    }
    std::fs::File::options().write(true).open("/proc/self/mem")?.write_all_at(&title, start)
}
