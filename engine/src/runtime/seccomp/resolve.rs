//! From Docker's profile to the OCI one: rules that hold for this container's capabilities, architecture and kernel.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::{Argument, Condition, Profile, SeccompError, SyscallRule};

pub(super) fn resolve(profile: &Profile, capabilities: &[String]) -> Result<LinuxSeccomp, SeccompError> {
    if profile.listener_path.is_some() {
        return Err(SeccompError::Unsupported("listenerPath"));
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.iter().flatten() {
        if holds(rule, capabilities) {
            syscalls.push(syscall(rule)?);
        }
    }
    let seccomp = LinuxSeccompBuilder::default()
        .default_action(action(&profile.default_action)?)
        .architectures(architectures(profile)?)
        .syscalls(syscalls);
    let mut seccomp = seccomp.build()?;
    seccomp.set_default_errno_ret(profile.default_errno_ret);
    let flags: Result<Vec<_>, _> = profile.flags.iter().flatten().map(|name| flag(name)).collect();
    seccomp.set_flags(Some(flags?).filter(|flags| !flags.is_empty()));
    Ok(seccomp)
}

fn architectures(profile: &Profile) -> Result<Vec<Arch>, SeccompError> {
    match (&profile.architectures, &profile.arch_map) {
        (Some(list), Some(map)) if !list.is_empty() && !map.is_empty() => Err(SeccompError::ArchitecturesTwice),
        (_, Some(map)) if !map.is_empty() => {
            let native = native_name();
            let entry = map.iter().find(|entry| entry.architecture == native);
            let subs = entry.iter().flat_map(|entry| entry.sub_architectures.iter().flatten());
            entry.iter().map(|entry| &entry.architecture).chain(subs).map(|name| arch(name)).collect()
        }
        (Some(list), _) => list.iter().map(|name| arch(name)).collect(),
        _ => Ok(Vec::new()),
    }
}

fn holds(rule: &SyscallRule, capabilities: &[String]) -> bool {
    let empty = Condition::default();
    let includes = rule.includes.as_ref().unwrap_or(&empty);
    let excludes = rule.excludes.as_ref().unwrap_or(&empty);
    let has = |name: &String| capabilities.contains(name);
    let here = |name: &String| name == go_architecture();
    let any_arch = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| list.iter().any(here));
    let included = includes.caps.iter().flatten().all(has)
        && (includes.arches.as_ref().is_none_or(Vec::is_empty) || any_arch(&includes.arches))
        && includes.min_kernel.as_ref().is_none_or(|version| kernel_is_at_least(version));
    let excluded = excludes.caps.iter().flatten().any(has)
        || any_arch(&excludes.arches)
        || excludes.min_kernel.as_ref().is_some_and(|version| kernel_is_at_least(version));
    included && !excluded
}

fn kernel_is_at_least(version: &str) -> bool {
    let release = rustix::system::uname();
    numbers(&release.release().to_string_lossy()) >= numbers(version)
}

fn numbers(version: &str) -> (u32, u32) {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn syscall(rule: &SyscallRule) -> Result<LinuxSyscall, SeccompError> {
    let names: Vec<String> = rule.names.iter().flatten().chain(&rule.name).cloned().collect();
    let mut syscall = LinuxSyscallBuilder::default().names(names).action(action(&rule.action)?).build()?;
    syscall.set_errno_ret(rule.errno_ret);
    let args: Result<Vec<_>, _> = rule.args.iter().flatten().map(argument).collect();
    syscall.set_args(Some(args?).filter(|args| !args.is_empty()));
    Ok(syscall)
}

fn argument(argument: &Argument) -> Result<LinuxSeccompArg, SeccompError> {
    let operator = match argument.op.as_str() {
        "SCMP_CMP_NE" => LinuxSeccompOperator::ScmpCmpNe,
        "SCMP_CMP_LT" => LinuxSeccompOperator::ScmpCmpLt,
        "SCMP_CMP_LE" => LinuxSeccompOperator::ScmpCmpLe,
        "SCMP_CMP_EQ" => LinuxSeccompOperator::ScmpCmpEq,
        "SCMP_CMP_GE" => LinuxSeccompOperator::ScmpCmpGe,
        "SCMP_CMP_GT" => LinuxSeccompOperator::ScmpCmpGt,
        "SCMP_CMP_MASKED_EQ" => LinuxSeccompOperator::ScmpCmpMaskedEq,
        other => return Err(SeccompError::Unknown { what: "operator", value: other.to_owned() }),
    };
    if argument.index > 5 {
        return Err(SeccompError::Unknown { what: "argument", value: argument.index.to_string() });
    }
    let built = LinuxSeccompArgBuilder::default().index(argument.index as usize).value(argument.value).op(operator);
    let masked = operator == LinuxSeccompOperator::ScmpCmpMaskedEq;
    Ok(if masked { built.value_two(argument.value_two) } else { built }.build()?)
}

fn action(name: &str) -> Result<LinuxSeccompAction, SeccompError> {
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => LinuxSeccompAction::ScmpActKillThread,
        "SCMP_ACT_KILL_PROCESS" => LinuxSeccompAction::ScmpActKillProcess,
        "SCMP_ACT_TRAP" => LinuxSeccompAction::ScmpActTrap,
        "SCMP_ACT_ERRNO" => LinuxSeccompAction::ScmpActErrno,
        "SCMP_ACT_TRACE" => LinuxSeccompAction::ScmpActTrace,
        "SCMP_ACT_ALLOW" => LinuxSeccompAction::ScmpActAllow,
        "SCMP_ACT_LOG" => LinuxSeccompAction::ScmpActLog,
        "SCMP_ACT_NOTIFY" => return Err(SeccompError::Unsupported("SCMP_ACT_NOTIFY")),
        other => return Err(SeccompError::Unknown { what: "action", value: other.to_owned() }),
    })
}

fn flag(name: &str) -> Result<LinuxSeccompFilterFlag, SeccompError> {
    // The built-in runtime installs filters with none of the kernel's flags; one that changes what is enforced is refused.
    match name {
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(LinuxSeccompFilterFlag::SeccompFilterFlagTsync),
        "SECCOMP_FILTER_FLAG_LOG" => Err(SeccompError::Unsupported("SECCOMP_FILTER_FLAG_LOG")),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Err(SeccompError::Unsupported("SECCOMP_FILTER_FLAG_SPEC_ALLOW")),
        other => Err(SeccompError::Unknown { what: "flag", value: other.to_owned() }),
    }
}

fn arch(name: &str) -> Result<Arch, SeccompError> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .map_err(|_| SeccompError::Unknown { what: "architecture", value: name.to_owned() })
}

/// The machine as seccomp profiles name it.
fn native_name() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "SCMP_ARCH_X86_64",
        "aarch64" => "SCMP_ARCH_AARCH64",
        "riscv64" => "SCMP_ARCH_RISCV64",
        _ => "",
    }
}

/// The machine as the conditions of a profile name it.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
