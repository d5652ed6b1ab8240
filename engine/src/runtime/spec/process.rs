//! The process of a container, and of an exec.

use std::path::Path;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxPersonality, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, Spec, User, UserBuilder,
};
use serde::Deserialize;

use super::mounts::INIT_PATH;
use super::{SpecError, SpecInput, UlimitInput};
use crate::runtime::capabilities;
use crate::runtime::user::ContainerUser;

pub(super) fn init_process(input: &SpecInput, capabilities: &[String]) -> Result<Process, SpecError> {
    let mut args = Vec::with_capacity(input.args.len() + 2);
    if input.init.is_some() {
        args.extend([INIT_PATH.to_owned(), "--".to_owned()]);
    }
    args.extend(input.args.iter().cloned());
    let mut process = process(&args, &input.env, &input.cwd, &input.user, input.terminal)?;
    process.set_capabilities(Some(capability_sets(capabilities)?));
    process.set_no_new_privileges(input.no_new_privileges.then_some(true));
    process.set_rlimits((!input.ulimits.is_empty()).then_some(rlimits(&input.ulimits)?));
    process.set_oom_score_adj(input.oom_score_adj);
    process.set_apparmor_profile(input.apparmor_profile.clone());
    Ok(process)
}

/// What an exec takes over from the specification of its container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecBasis {
    rlimits: Option<Vec<PosixRlimit>>,
    oom_score_adj: Option<i32>,
    apparmor_profile: Option<String>,
    capabilities: Option<LinuxCapabilities>,
    no_new_privileges: Option<bool>,
    personality: Option<LinuxPersonality>,
}

impl ExecBasis {
    /// That of a specification.
    pub fn of(spec: &Spec) -> Self {
        let personality = spec.linux().as_ref().and_then(|linux| linux.personality().clone());
        spec.process().as_ref().map_or_else(Self::default, |process| Self::of_parts(process, personality))
    }

    /// That of a specification in a file, whose other parts are skipped.
    ///
    /// # Errors
    /// When it is not there, or is none.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        #[derive(Deserialize)]
        struct SpecPart {
            process: Process,
            #[serde(default)]
            linux: LinuxPart,
        }
        #[derive(Default, Deserialize)]
        struct LinuxPart {
            #[serde(default)]
            personality: Option<LinuxPersonality>,
        }
        let part: SpecPart = serde_json::from_slice(&std::fs::read(path)?)?;
        Ok(Self::of_parts(&part.process, part.linux.personality))
    }

    fn of_parts(process: &Process, personality: Option<LinuxPersonality>) -> Self {
        Self {
            rlimits: process.rlimits().clone(),
            oom_score_adj: process.oom_score_adj(),
            apparmor_profile: process.apparmor_profile().clone(),
            capabilities: process.capabilities().clone(),
            no_new_privileges: process.no_new_privileges(),
            personality,
        }
    }

    /// The container's: nothing of it is among what describes a process.
    pub fn personality(&self) -> Option<LinuxPersonality> {
        self.personality.clone()
    }
}

/// The process of an exec in a container: same capabilities, limits and security, other program. `privileged` gives it every
/// capability.
///
/// # Errors
/// When there is no program, or the working directory is not absolute.
pub fn exec_process(
    container: &ExecBasis,
    args: &[String],
    env: &[String],
    cwd: &str,
    user: &ContainerUser,
    (terminal, privileged): (bool, bool),
) -> Result<Process, SpecError> {
    let mut process = process(args, env, cwd, user, terminal)?;
    process.set_rlimits(container.rlimits.clone());
    process.set_oom_score_adj(container.oom_score_adj);
    process.set_apparmor_profile(container.apparmor_profile.clone());
    if privileged {
        process.set_capabilities(Some(capability_sets(&capabilities::all())?));
    } else {
        process.set_capabilities(container.capabilities.clone());
        process.set_no_new_privileges(container.no_new_privileges);
    }
    Ok(process)
}

fn process(
    args: &[String],
    env: &[String],
    cwd: &str,
    user: &ContainerUser,
    terminal: bool,
) -> Result<Process, SpecError> {
    if args.is_empty() || args[0].is_empty() {
        return Err(SpecError::NoCommand);
    }
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    if !Path::new(cwd).is_absolute() {
        return Err(SpecError::RelativeWorkingDirectory(cwd.to_owned()));
    }
    let mut env = env.to_vec();
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    let mut process = ProcessBuilder::default()
        .args(args.to_vec())
        .env(env)
        .cwd(cwd)
        .user(oci_user(user)?)
        .terminal(terminal)
        .build()?;
    process.set_no_new_privileges(None);
    process.set_rlimits(None);
    process.set_capabilities(None);
    Ok(process)
}

fn oci_user(user: &ContainerUser) -> Result<User, SpecError> {
    let built = UserBuilder::default().uid(user.uid).gid(user.gid);
    Ok(built.additional_gids(user.additional_gids.clone()).build()?)
}

/// Bounding, permitted and effective; nothing is inheritable or ambient (CVE-2022-24769).
fn capability_sets(names: &[String]) -> Result<LinuxCapabilities, SpecError> {
    let set: Result<Capabilities, SpecError> = names
        .iter()
        .map(|name| {
            let known: Result<Capability, _> = serde_json::from_value(serde_json::Value::String(name.clone()));
            known.map_err(|_| SpecError::UnknownCapability(name.clone()))
        })
        .collect();
    let set = set?;
    let sets = LinuxCapabilitiesBuilder::default().bounding(set.clone()).permitted(set.clone()).effective(set);
    let mut sets = sets.build()?;
    sets.set_inheritable(Some(Capabilities::new()));
    sets.set_ambient(Some(Capabilities::new()));
    Ok(sets)
}

fn rlimits(ulimits: &[UlimitInput]) -> Result<Vec<PosixRlimit>, SpecError> {
    ulimits.iter().map(rlimit).collect()
}

fn rlimit(ulimit: &UlimitInput) -> Result<PosixRlimit, SpecError> {
    let kind = match ulimit.name.to_ascii_lowercase().as_str() {
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        other => return Err(SpecError::UnknownUlimit(other.to_owned())),
    };
    let (soft, hard) = (limit(ulimit.soft), limit(ulimit.hard));
    if soft > hard {
        return Err(SpecError::UlimitOrder { name: ulimit.name.clone(), soft: ulimit.soft, hard: ulimit.hard });
    }
    Ok(PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build()?)
}

/// Docker's -1 is the kernel's infinity.
fn limit(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
