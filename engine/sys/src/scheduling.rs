//! How the kernel treats this process among others, and which kind of system it shows to it.

#![expect(unsafe_code, reason = "system calls that no safe wrapper covers")]

use std::io;

/// What `sched_setattr(2)` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19, for the policies of ordinary processes.
    pub nice: i32,
    /// 1 to 99, for real-time policies.
    pub priority: u32,
    /// Of the deadline policy: nanoseconds of work in each period.
    pub runtime_ns: u64,
    /// Nanoseconds from a period's begin until the work has to be done.
    pub deadline_ns: u64,
    /// Nanoseconds of a period.
    pub period_ns: u64,
}

impl Scheduler {
    /// Makes it this process's.
    ///
    /// # Errors
    /// As `sched_setattr(2)`.
    pub fn apply(&self) -> io::Result<()> {
        /// The first version of the kernel's structure, which every kernel takes.
        #[repr(C)]
        struct Attributes {
            size: u32,
            policy: u32,
            flags: u64,
            nice: i32,
            priority: u32,
            runtime: u64,
            deadline: u64,
            period: u64,
        }
        let attributes = Attributes {
            size: size_of::<Attributes>() as u32,
            policy: self.policy,
            flags: self.flags,
            nice: self.nice,
            priority: self.priority,
            runtime: self.runtime_ns,
            deadline: self.deadline_ns,
            period: self.period_ns,
        };
        // SAFETY: the structure lives through the call and is as long as its first field says.
        check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
    }
}

/// Sets this process's class of input and output (1: real time, 2: best effort, 3: idle), and its level in it, 0 to 7.
///
/// # Errors
/// As `ioprio_set(2)`.
pub fn set_io_priority(class: u16, level: u16) -> io::Result<()> {
    const WHO_PROCESS: libc::c_long = 1;
    const CLASS_SHIFT: u32 = 13;
    const MOST: u16 = 7;
    // The bits above mean other things.
    if level > MOST {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let value = libc::c_long::from(class) << CLASS_SHIFT | libc::c_long::from(level);
    // SAFETY: the call takes plain numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) })
}

/// Sets this process's execution domain: `PER_*`.
///
/// # Errors
/// As `personality(2)`.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: the call takes a plain number.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
