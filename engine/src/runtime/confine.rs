//! What the first process of a container and that of an exec have in common: no way to the host over what it was given.

use std::io;
use std::os::fd::OwnedFd;

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process,
    Scheduler,
};
use shoal_engine_sys::fs::Directory;
use shoal_engine_sys::scheduling;

use crate::shim::protocol::{FailureKind, RuntimeFailure};

fn cannot(what: &str, error: &io::Error) -> RuntimeFailure {
    RuntimeFailure::new(FailureKind::CannotApply, format!("cannot {what}: {error}"))
}

/// What is set through the host's `/proc`, as long as it is there: before the namespaces are entered. Forks of this process
/// inherit it, and the profile is taken on at `execve`.
pub(super) fn apply_to_self(oci: &Process) -> Result<(), RuntimeFailure> {
    if let Some(score) = oci.oom_score_adj() {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| cannot(&format!("set oom_score_adj to {score}"), &error))?;
    }
    if let Some(priority) = oci.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u16::try_from(priority.priority()).unwrap_or(u16::MAX);
        scheduling::set_io_priority(class, level).map_err(|error| cannot("set the I/O priority", &error))?;
    }
    if let (Some(asked), None) = (oci.scheduler(), last_scheduler(oci)) {
        scheduler(asked).apply().map_err(|error| cannot("set the scheduler", &error))?;
    }
    match oci.apparmor_profile().as_deref() {
        None | Some("" | "unconfined") => Ok(()),
        Some(profile) => std::fs::write("/proc/self/attr/apparmor/exec", format!("exec {profile}"))
            .map_err(|error| cannot(&format!("apply the AppArmor profile {profile:?}"), &error)),
    }
}

/// The scheduler, when a fork would not have it too, or could not be made: it is set right before the program.
pub(super) fn last_scheduler(oci: &Process) -> Option<scheduling::Scheduler> {
    let asked = oci.scheduler().as_ref()?;
    (*asked.policy() == LinuxSchedulerPolicy::SchedDeadline || resets_on_fork(asked)).then(|| scheduler(asked))
}

/// Can a process with this scheduler have children?
pub(super) fn may_fork(oci: &Process) -> bool {
    let deadline = |asked: &Scheduler| *asked.policy() == LinuxSchedulerPolicy::SchedDeadline && !resets_on_fork(asked);
    !oci.scheduler().as_ref().is_some_and(deadline)
}

fn resets_on_fork(asked: &Scheduler) -> bool {
    asked.flags().iter().flatten().any(|flag| *flag == LinuxSchedulerFlag::SchedResetOnFork)
}

fn scheduler(asked: &Scheduler) -> scheduling::Scheduler {
    use LinuxSchedulerFlag as Flag;
    use LinuxSchedulerPolicy as Policy;
    let policy = match asked.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flag = |flag: &Flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    };
    scheduling::Scheduler {
        policy,
        flags: asked.flags().iter().flatten().map(flag).fold(0, |all, one| all | one),
        nice: asked.nice().unwrap_or(0),
        // What is below zero the kernel refuses as too high.
        priority: asked.priority().unwrap_or(0).cast_unsigned(),
        runtime_ns: asked.runtime().unwrap_or(0),
        deadline_ns: asked.deadline().unwrap_or(0),
        period_ns: asked.period().unwrap_or(0),
    }
}

/// Makes the kernel show another kind of system to this process and what it executes.
pub(super) fn set_personality(asked: Option<&LinuxPersonality>) -> Result<(), RuntimeFailure> {
    let Some(asked) = asked else { return Ok(()) };
    if asked.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(RuntimeFailure::new(FailureKind::CannotApply, "flags of a personality are not supported"));
    }
    let domain = match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    scheduling::set_personality(domain).map_err(|error| cannot("set the personality", &error))
}

/// Makes these its standard streams. `inside` is the container's root.
pub(super) fn take_pipes(inside: &Directory, stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> io::Result<()> {
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    // A null device of the host's would be a way to the host's /dev: it becomes the container's.
    let status = rustix::fs::fstat(rustix::stdio::stdin())?;
    if rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::CharacterDevice {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let null = rustix::fs::openat(inside, "dev/null", flags, rustix::fs::Mode::empty())?;
        if rustix::fs::fstat(&null)?.st_rdev != status.st_rdev {
            return Err(io::Error::other("/dev/null is not the null device"));
        }
        rustix::stdio::dup2_stdin(&null)?;
    }
    Ok(())
}
