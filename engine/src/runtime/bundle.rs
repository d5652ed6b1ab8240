//! The files that a runtime reads.

use std::path::Path;

use oci_spec::runtime::{PosixRlimitType, Process, Spec};

use super::spec::{BuiltSpec, INIT_PATH};
use crate::shim::client::{ShimError, write_file, write_json};
use crate::shim::config::{RuntimeKind, SECCOMP_FILE, SPEC_FILE, ShimConfig};
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// Directory in the shim's that libcontainer gets as its bundle.
pub(crate) const INNER_BUNDLE: &str = "bundle";

/// Marks a specification whose program is to run below an init.
pub(crate) const INIT_ANNOTATION: &str = "io.shoal.init";

/// Writes them into `dir`.
///
/// `config.json` is the specification. A runtime binary gets the filter in it. Runtimes inside the shim install it as
/// compiled code: compiling the default profile takes 10 ms, which the daemon pays once and not each container.
/// libcontainer gets a copy without capabilities besides: dropping them comes after the filter, so [`super::launch`] does
/// both.
///
/// # Errors
/// When the specification has a filter that was not compiled, asks for what this machine does not allow, or a file cannot be
/// written.
pub(crate) fn write(dir: &Path, config: &ShimConfig, built: BuiltSpec) -> Result<(), ShimError> {
    let BuiltSpec { mut spec, filter } = built;
    if let Some(process) = spec.process() {
        check_rlimits(process)?;
        check_oom_score(process)?;
    }
    let path = dir.join(SPEC_FILE);
    if matches!(config.runtime, RuntimeKind::Binary { .. }) {
        if let (Some(linux), Some(filter)) = (spec.linux_mut(), filter) {
            linux.set_seccomp(Some(filter.oci.clone()));
        }
        return write_json(&path, &spec);
    }
    if spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some()) {
        return Err(refuse("the specification has a seccomp profile, but it was not compiled"));
    }
    if let Some(filter) = filter {
        write_file(&dir.join(SECCOMP_FILE), &filter.program)?;
    }
    fold_init(&mut spec);
    write_json(&path, &spec)?;
    if config.runtime == RuntimeKind::Builtin {
        return Ok(());
    }
    if let Some(process) = spec.process_mut() {
        process.set_capabilities(None);
    }
    if let Some(mut hooks) = spec.hooks().clone() {
        // These are ours to run: the library would run the first with all rights, and never knows of the other steps.
        hooks.set_start_container(None).set_poststart(None).set_poststop(None);
        spec.set_hooks(Some(hooks));
    }
    let inner = dir.join(INNER_BUNDLE);
    std::fs::create_dir(&inner).map_err(|source| ShimError::Prepare { path: inner.clone(), source })?;
    write_json(&inner.join(SPEC_FILE), &spec)
}

/// Says by an annotation that the program runs below an init, instead of by a program in the container: the runtimes
/// inside the shim are that init themselves, which needs no file that runs in every image.
fn fold_init(spec: &mut Spec) {
    let args = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
    let [first, second, rest @ ..] = args.as_slice() else { return };
    let is_init = |mount: &oci_spec::runtime::Mount| mount.destination() == Path::new(INIT_PATH);
    if first != INIT_PATH || second != "--" || !spec.mounts().iter().flatten().any(is_init) {
        return;
    }
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(rest.to_vec()));
    }
    if let Some(mounts) = spec.mounts_mut() {
        mounts.retain(|mount| !is_init(mount));
    }
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.insert(INIT_ANNOTATION.to_owned(), "true".to_owned());
    spec.set_annotations(Some(annotations));
}

/// Raising a limit needs `CAP_SYS_RESOURCE`; the kernel would only say that it is not permitted.
fn check_rlimits(process: &Process) -> Result<(), ShimError> {
    if holds_sys_resource() {
        return Ok(());
    }
    for rlimit in process.rlimits().iter().flatten() {
        let own = shoal_engine_sys::process::hard_resource_limit(resource_number(rlimit.typ())).unwrap_or(u64::MAX);
        if rlimit.hard() > own {
            let name = rlimit.typ().to_string().trim_start_matches("RLIMIT_").to_lowercase();
            return Err(refuse(&format!(
                "ulimit {name}: {} is above this daemon's own limit of {own}, and raising it needs CAP_SYS_RESOURCE",
                rlimit.hard()
            )));
        }
    }
    Ok(())
}

/// So does lowering the score below the one that this process was given.
fn check_oom_score(process: &Process) -> Result<(), ShimError> {
    let Some(wanted) = process.oom_score_adj() else { return Ok(()) };
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    let own: i32 = own.unwrap_or(0);
    if wanted < own && !holds_sys_resource() {
        return Err(refuse(&format!(
            "oom_score_adj: {wanted} is below this daemon's own {own}, and lowering it needs CAP_SYS_RESOURCE"
        )));
    }
    Ok(())
}

fn holds_sys_resource() -> bool {
    let held = rustix::thread::capabilities(None);
    held.is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE))
}

/// The kernel's number of a resource (the same on all architectures that we build for).
pub(crate) fn resource_number(resource: PosixRlimitType) -> u32 {
    match resource {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

fn refuse(message: &str) -> ShimError {
    ShimError::Runtime(RuntimeFailure::new(FailureKind::CannotApply, message))
}
