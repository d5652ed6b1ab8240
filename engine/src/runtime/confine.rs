//! What the first process of a container and that of an exec have in common: no way to the host over what it was given.

use std::io;
use std::os::fd::OwnedFd;

use oci_spec::runtime::Process;
use shoal_engine_sys::fs::Directory;

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
    match oci.apparmor_profile().as_deref() {
        None | Some("" | "unconfined") => Ok(()),
        Some(profile) => std::fs::write("/proc/self/attr/apparmor/exec", format!("exec {profile}"))
            .map_err(|error| cannot(&format!("apply the AppArmor profile {profile:?}"), &error)),
    }
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
