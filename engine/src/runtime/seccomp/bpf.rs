//! From a resolved profile to classic BPF.
//!
//! The program checks the architecture, then searches the system call's number in a tree of ranges with equal outcome; a
//! leaf returns, or compares arguments first.

use std::collections::BTreeMap;

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};

use super::SeccompError;

/// The kernel's `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;
/// Bit 30 marks the x32 system calls of x86-64.
const X32_BIT: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in the kernel's `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const ARGUMENTS_OFFSET: u32 = 16;

const ENOSYS: u32 = 38;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_KILL_THREAD: u32 = 0;
const RETURN_KILL_PROCESS: u32 = 0x8000_0000;
const RETURN_TRAP: u32 = 0x0003_0000;
const RETURN_TRACE: u32 = 0x7ff0_0000;
const RETURN_LOG: u32 = 0x7ffc_0000;

/// System calls newer than libseccomp 2.5's table. Since Linux 5.1 all architectures give new ones the same number.
const NEW_SYSCALLS: &[(&str, u32)] = &[
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", NEWEST_SYSCALL),
];
/// i386 system calls that are also reached through `socketcall`: name, number of its own (zero: none), first argument there.
const SOCKET_CALLS: &[(&str, u32, u64)] = &[
    ("socket", 359, 1),
    ("bind", 361, 2),
    ("connect", 362, 3),
    ("listen", 363, 4),
    ("accept", 0, 5),
    ("getsockname", 367, 6),
    ("getpeername", 368, 7),
    ("socketpair", 360, 8),
    ("send", 0, 9),
    ("recv", 0, 10),
    ("sendto", 369, 11),
    ("recvfrom", 371, 12),
    ("shutdown", 373, 13),
    ("setsockopt", 366, 14),
    ("getsockopt", 365, 15),
    ("sendmsg", 370, 16),
    ("recvmsg", 372, 17),
    ("accept4", 364, 18),
    ("recvmmsg", 337, 19),
    ("sendmmsg", 345, 20),
];
/// The same for `ipc`.
const IPC_CALLS: &[(&str, u32, u64)] = &[
    ("semop", 0, 1),
    ("semget", 393, 2),
    ("semctl", 394, 3),
    ("semtimedop", 0, 4),
    ("msgsnd", 400, 11),
    ("msgrcv", 401, 12),
    ("msgget", 399, 13),
    ("msgctl", 402, 14),
    ("shmat", 397, 21),
    ("shmdt", 398, 22),
    ("shmget", 395, 23),
    ("shmctl", 396, 24),
];
const I386_SOCKETCALL: u32 = 102;
const I386_IPC: u32 = 117;
/// The newest of [`NEW_SYSCALLS`].
const NEWEST_SYSCALL: u32 = 469;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) operand: u32,
}

fn instruction(code: u16, jump_true: u8, jump_false: u8, operand: u32) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

fn statement(code: u16, operand: u32) -> Instruction {
    instruction(code, 0, 0, operand)
}

/// What happens to a system call: the first check that holds decides, else the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    checks: Vec<(Vec<Check>, u32)>,
    otherwise: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    argument: u32,
    operator: LinuxSeccompOperator,
    /// For a masked comparison the mask, otherwise the value.
    value: u64,
    /// For a masked comparison the value.
    masked_value: u64,
}

pub(super) fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<u8>, SeccompError> {
    let program = program(seccomp)?;
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong(program.len()));
    }
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for one in program {
        bytes.extend_from_slice(&one.code.to_ne_bytes());
        bytes.extend_from_slice(&[one.jump_true, one.jump_false]);
        bytes.extend_from_slice(&one.operand.to_ne_bytes());
    }
    Ok(bytes)
}

pub(super) fn program(seccomp: &LinuxSeccomp) -> Result<Vec<Instruction>, SeccompError> {
    let mut arches: Vec<Arch> = vec![native()?];
    for arch in seccomp.architectures().iter().flatten() {
        let arch = if *arch == Arch::ScmpArchNative { native()? } else { *arch };
        if !arches.contains(&arch) {
            arches.push(arch);
        }
    }
    let mut program = vec![statement(LOAD, ARCHITECTURE_OFFSET)];
    for arch in arches.iter().filter(|arch| **arch != Arch::ScmpArchX32) {
        let mut section = vec![statement(LOAD, NUMBER_OFFSET)];
        section.extend(search(&ranges(seccomp, *arch, arches.contains(&Arch::ScmpArchX32))?));
        append_section(&mut program, audit_number(*arch)?, section);
    }
    // As libseccomp does for an architecture that the profile does not name.
    program.push(statement(RETURN, RETURN_KILL_THREAD));
    Ok(program)
}

/// Appends `if the architecture is this one { section }`. Sections are longer than a conditional jump reaches.
fn append_section(program: &mut Vec<Instruction>, architecture: u32, section: Vec<Instruction>) {
    program.push(instruction(JUMP_EQUAL, 1, 0, architecture));
    program.push(statement(JUMP, section.len() as u32));
    program.extend(section);
}

/// Outcomes by the first number they hold for; the first begins at zero, neighbours differ.
fn ranges(seccomp: &LinuxSeccomp, arch: Arch, x32: bool) -> Result<Vec<(u32, Outcome)>, SeccompError> {
    let plain = |action| Outcome { checks: Vec::new(), otherwise: action };
    let default = plain(action(seccomp.default_action(), seccomp.default_errno_ret())?);
    let unknown = plain(unknown_action(seccomp, default.otherwise));
    let mut starts = BTreeMap::new();
    let mut add = |base: u32, numbers: BTreeMap<u32, Outcome>| {
        let first_unknown = base + NEWEST_SYSCALL + 1;
        starts.insert(base, default.clone());
        starts.insert(first_unknown, unknown.clone());
        for (number, outcome) in numbers {
            starts.insert(number, outcome);
            let after = if number < first_unknown { &default } else { &unknown };
            starts.entry(number + 1).or_insert_with(|| after.clone());
        }
    };
    add(0, outcomes(seccomp, arch, &default)?);
    if arch == Arch::ScmpArchX86_64 {
        if x32 {
            add(X32_BIT, outcomes(seccomp, Arch::ScmpArchX32, &default)?);
        } else {
            // libseccomp's answer to x32 system calls when the profile does not name x32.
            starts.insert(X32_BIT, plain(RETURN_KILL_THREAD));
        }
    }
    let mut merged: Vec<(u32, Outcome)> = Vec::with_capacity(starts.len());
    for (start, outcome) in starts {
        if merged.last().is_none_or(|last| last.1 != outcome) {
            merged.push((start, outcome));
        }
    }
    Ok(merged)
}

/// What a system call newer than all tables gets: `ENOSYS` where known ones get an error.
fn unknown_action(seccomp: &LinuxSeccomp, default: u32) -> u32 {
    if seccomp.default_action() == LinuxSeccompAction::ScmpActErrno { RETURN_ERRNO | ENOSYS } else { default }
}

fn outcomes(seccomp: &LinuxSeccomp, arch: Arch, default: &Outcome) -> Result<BTreeMap<u32, Outcome>, SeccompError> {
    let mut unconditional: BTreeMap<u32, u32> = BTreeMap::new();
    let mut conditional: BTreeMap<u32, Vec<(Vec<Check>, u32)>> = BTreeMap::new();
    for rule in seccomp.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        for name in rule.names() {
            let number = number(name, arch);
            match (rule.args().as_deref(), number) {
                (None | Some([]), number) => {
                    if let Some((multiplexer, check)) = multiplexed(name, arch) {
                        conditional.entry(multiplexer).or_default().push((vec![check], action));
                    }
                    if let Some(number) = number {
                        unconditional.entry(number).or_insert(action);
                    }
                }
                (Some(args), Some(number)) => {
                    conditional.entry(number).or_default().extend(alternatives(args, action));
                }
                (Some(_), None) => {}
            }
        }
    }
    let mut outcomes: BTreeMap<u32, Outcome> = BTreeMap::new();
    for (number, action) in &unconditional {
        outcomes.insert(*number, Outcome { checks: Vec::new(), otherwise: *action });
    }
    for (number, mut checks) in conditional {
        let otherwise = unconditional.get(&number).copied().unwrap_or(default.otherwise);
        checks.retain(|(_, action)| *action != otherwise);
        outcomes.insert(number, Outcome { checks, otherwise });
    }
    Ok(outcomes)
}

/// Several comparisons of one argument are alternatives, of different ones they all have to hold: what libseccomp's users
/// (runc first) make of a profile.
fn alternatives(args: &[LinuxSeccompArg], action: u32) -> Vec<(Vec<Check>, u32)> {
    let check = |argument: &LinuxSeccompArg| Check {
        argument: argument.index() as u32,
        operator: argument.op(),
        value: argument.value(),
        masked_value: argument.value_two().unwrap_or(0),
    };
    let twice = args.iter().enumerate().any(|(i, one)| args[..i].iter().any(|other| other.index() == one.index()));
    if twice {
        args.iter().map(|argument| (vec![check(argument)], action)).collect()
    } else {
        vec![(args.iter().map(check).collect(), action)]
    }
}

/// The i386 system call that also leads to the one of this name, and the comparison that tells. What arguments the inner
/// one gets lies in memory, so rules about arguments do not reach it.
fn multiplexed(name: &str, arch: Arch) -> Option<(u32, Check)> {
    if arch != Arch::ScmpArchX86 {
        return None;
    }
    let found = |list: &[(&str, u32, u64)]| list.iter().find(|(known, ..)| *known == name).map(|(.., call)| *call);
    let socket = found(SOCKET_CALLS).map(|call| (I386_SOCKETCALL, call));
    let (multiplexer, value) = socket.or_else(|| found(IPC_CALLS).map(|call| (I386_IPC, call)))?;
    Some((multiplexer, Check { argument: 0, operator: LinuxSeccompOperator::ScmpCmpEq, value, masked_value: 0 }))
}

fn number(name: &str, arch: Arch) -> Option<u32> {
    if let Some((_, number)) = NEW_SYSCALLS.iter().find(|(new, _)| *new == name) {
        return Some(if arch == Arch::ScmpArchX32 { number | X32_BIT } else { *number });
    }
    if arch == Arch::ScmpArchX86
        && let Some((_, number, _)) = SOCKET_CALLS.iter().chain(IPC_CALLS).find(|(known, ..)| *known == name)
    {
        return Some(*number).filter(|number| *number != 0);
    }
    // Negative numbers are libseccomp's marks for a system call that this architecture does not have.
    let found = ScmpSyscall::from_name_by_arch(name, scmp_arch(arch)?).ok()?;
    u32::try_from(found.as_raw_syscall()).ok()
}

fn search(ranges: &[(u32, Outcome)]) -> Vec<Instruction> {
    if let [(_, outcome)] = ranges {
        return leaf(outcome);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (below, above) = (search(low), search(high));
    let mut program = Vec::with_capacity(below.len() + above.len() + 2);
    match u8::try_from(below.len()) {
        Ok(distance) => program.push(instruction(JUMP_GREATER_EQUAL, distance, 0, high[0].0)),
        Err(_) => {
            program.push(instruction(JUMP_GREATER_EQUAL, 0, 1, high[0].0));
            program.push(statement(JUMP, below.len() as u32));
        }
    }
    program.extend(below);
    program.extend(above);
    program
}

fn leaf(outcome: &Outcome) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (checks, action) in &outcome.checks {
        let mut block = vec![statement(RETURN, *action)];
        for check in checks.iter().rev() {
            let mut longer = compare(check, block.len() as u8);
            longer.extend(block);
            block = longer;
        }
        program.extend(block);
    }
    program.push(statement(RETURN, outcome.otherwise));
    program
}

/// Falls through to the next instruction when the check holds, otherwise jumps over the `body` instructions that follow.
fn compare(check: &Check, body: u8) -> Vec<Instruction> {
    use LinuxSeccompOperator as Op;
    let low_first = cfg!(target_endian = "little");
    let base = ARGUMENTS_OFFSET + 8 * check.argument;
    let (low_at, high_at) = if low_first { (base, base + 4) } else { (base + 4, base) };
    // libseccomp masks both sides.
    let masked = check.masked_value & check.value;
    let value = if check.operator == Op::ScmpCmpMaskedEq { masked } else { check.value };
    let (high, low) = ((value >> 32) as u32, value as u32);
    let load_high = statement(LOAD, high_at);
    let load_low = statement(LOAD, low_at);
    match check.operator {
        Op::ScmpCmpEq => {
            vec![load_high, instruction(JUMP_EQUAL, 0, 2 + body, high), load_low, instruction(JUMP_EQUAL, 0, body, low)]
        }
        Op::ScmpCmpNe => {
            vec![load_high, instruction(JUMP_EQUAL, 0, 2, high), load_low, instruction(JUMP_EQUAL, body, 0, low)]
        }
        Op::ScmpCmpMaskedEq => vec![
            load_high,
            statement(AND, (check.value >> 32) as u32),
            instruction(JUMP_EQUAL, 0, 3 + body, high),
            load_low,
            statement(AND, check.value as u32),
            instruction(JUMP_EQUAL, 0, body, low),
        ],
        // Greater: the high half decides unless it is equal.
        Op::ScmpCmpGt | Op::ScmpCmpGe => {
            let jump = if check.operator == Op::ScmpCmpGt { JUMP_GREATER } else { JUMP_GREATER_EQUAL };
            vec![
                load_high,
                instruction(JUMP_GREATER, 3, 0, high),
                instruction(JUMP_EQUAL, 0, 2 + body, high),
                load_low,
                instruction(jump, 0, body, low),
            ]
        }
        Op::ScmpCmpLt | Op::ScmpCmpLe => {
            let jump = if check.operator == Op::ScmpCmpLt { JUMP_GREATER_EQUAL } else { JUMP_GREATER };
            vec![
                load_high,
                instruction(JUMP_GREATER, 3 + body, 0, high),
                instruction(JUMP_EQUAL, 0, 2, high),
                load_low,
                instruction(jump, body, 0, low),
            ]
        }
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    use LinuxSeccompAction as Action;
    // EPERM, as libseccomp's users default to.
    let data = errno.unwrap_or(1) & 0xffff;
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => RETURN_KILL_THREAD,
        Action::ScmpActKillProcess => RETURN_KILL_PROCESS,
        Action::ScmpActTrap => RETURN_TRAP,
        Action::ScmpActErrno => RETURN_ERRNO | data,
        Action::ScmpActTrace => RETURN_TRACE | data,
        Action::ScmpActLog => RETURN_LOG,
        Action::ScmpActAllow => RETURN_ALLOW,
        Action::ScmpActNotify => return Err(SeccompError::Unsupported("SCMP_ACT_NOTIFY")),
    })
}

fn native() -> Result<Arch, SeccompError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Arch::ScmpArchX86_64),
        "aarch64" => Ok(Arch::ScmpArchAarch64),
        "riscv64" => Ok(Arch::ScmpArchRiscv64),
        other => Err(SeccompError::Unknown { what: "architecture", value: other.to_owned() }),
    }
}

/// The kernel's `AUDIT_ARCH_*`.
fn audit_number(arch: Arch) -> Result<u32, SeccompError> {
    Ok(match arch {
        Arch::ScmpArchX86_64 => 0xc000_003e,
        Arch::ScmpArchX86 => 0x4000_0003,
        Arch::ScmpArchAarch64 => 0xc000_00b7,
        Arch::ScmpArchArm => 0x4000_0028,
        Arch::ScmpArchRiscv64 => 0xc000_00f3,
        other => return Err(SeccompError::Unknown { what: "architecture", value: format!("{other:?}") }),
    })
}

fn scmp_arch(arch: Arch) -> Option<ScmpArch> {
    Some(match arch {
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
