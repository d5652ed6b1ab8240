//! Our programs against libseccomp's, run by a small interpreter.

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::LinuxSeccompOperator as Op;

use super::*;
use crate::runtime::capabilities;
use crate::runtime::seccomp::{Profile, resolve};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

fn run(program: &[Instruction], architecture: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(architecture.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let one = program[at];
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { one.jump_true } else { one.jump_false });
        match one.code {
            LOAD => {
                let offset = one.operand as usize;
                accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            AND => accumulator &= one.operand,
            JUMP => at += one.operand as usize,
            JUMP_EQUAL => branch(accumulator == one.operand),
            JUMP_GREATER => branch(accumulator > one.operand),
            JUMP_GREATER_EQUAL => branch(accumulator >= one.operand),
            RETURN => return one.operand,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn decode(bytes: &[u8]) -> Vec<Instruction> {
    let one = |bytes: &[u8]| Instruction {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jump_true: bytes[2],
        jump_false: bytes[3],
        operand: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    bytes.chunks_exact(8).map(one).collect()
}

/// What runc makes of the profile with libseccomp.
fn by_libseccomp(seccomp: &LinuxSeccomp) -> Vec<Instruction> {
    let translate = |action: LinuxSeccompAction, errno: Option<u32>| match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno.unwrap_or(1) as i32),
        other => panic!("{other:?}"),
    };
    let default = translate(seccomp.default_action(), seccomp.default_errno_ret());
    let mut context = ScmpFilterContext::new(default).unwrap();
    for arch in seccomp.architectures().iter().flatten() {
        context.add_arch(scmp_arch(*arch).unwrap()).unwrap();
    }
    for rule in seccomp.syscalls().iter().flatten() {
        let action = translate(rule.action(), rule.errno_ret());
        for name in rule.names() {
            let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
            let compare = |one: &LinuxSeccompArg| {
                let (op, datum) = match one.op() {
                    Op::ScmpCmpNe => (ScmpCompareOp::NotEqual, one.value()),
                    Op::ScmpCmpLt => (ScmpCompareOp::Less, one.value()),
                    Op::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, one.value()),
                    Op::ScmpCmpEq => (ScmpCompareOp::Equal, one.value()),
                    Op::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, one.value()),
                    Op::ScmpCmpGt => (ScmpCompareOp::Greater, one.value()),
                    Op::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(one.value()), one.value_two().unwrap()),
                };
                ScmpArgCompare::new(one.index() as u32, op, datum)
            };
            let args: Vec<_> = rule.args().iter().flatten().map(compare).collect();
            if action != default {
                context.add_rule_conditional(action, syscall, &args).unwrap();
            }
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    context.export_bpf(&file).unwrap();
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    decode(&bytes)
}

fn resolved(add: &[&str]) -> LinuxSeccomp {
    let mut held: Vec<String> = capabilities::DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    held.extend(add.iter().map(|name| (*name).to_owned()));
    resolve::resolve(&Profile::docker_default().unwrap(), &held).unwrap()
}

/// None above 32 bits: there libseccomp 2.5.4 lets several rules for one argument forget the high half in programs of this
/// size (`personality(1 << 32)` is allowed). The operators' own test has such values.
const ARGUMENTS: &[u64] =
    &[0, 1, 2, 7, 8, 16, 37, 38, 39, 40, 41, 131_072, 131_080, 0x7e02_0000, 0x1000_0000, 0xffff_ffff];

#[test]
fn the_default_profile_decides_as_libseccomp_would() {
    for add in [&[][..], &["CAP_SYS_ADMIN"], &["CAP_SYS_PTRACE", "CAP_SYS_TIME", "CAP_BPF"]] {
        let seccomp = resolved(add);
        let ours = decode(&compile(&seccomp).unwrap());
        let theirs = by_libseccomp(&seccomp);
        assert!(ours.len() < theirs.len(), "{} against {}", ours.len(), theirs.len());
        for (architecture, base) in [(X86_64, 0), (X86_64, X32_BIT), (I386, 0)] {
            // 450 is the newest system call that this libseccomp knows.
            for number in (0..=450).chain([512, 520, 547]) {
                for &first in ARGUMENTS {
                    let args = [first, 0, 0, 0, 0, 0];
                    let (mine, its) = (
                        run(&ours, architecture, base + number, args),
                        run(&theirs, architecture, base + number, args),
                    );
                    if (architecture, number, first) == (I386, I386_SOCKETCALL, 1) {
                        // libseccomp takes an allowed family for every family.
                        assert_eq!((mine, its), (RETURN_ERRNO | 1, RETURN_ALLOW));
                        continue;
                    }
                    let beyond = number > NEWEST_SYSCALL && its == RETURN_ERRNO | 1;
                    let its = if beyond { RETURN_ERRNO | ENOSYS } else { its };
                    assert_eq!(mine, its, "{architecture:#x} {number} {first:#x} with {add:?}");
                }
            }
        }
    }
}

#[test]
fn every_operator_decides_as_libseccomp_would() {
    let operators = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    for operator in operators {
        for value in [0_u64, 5, 0xffff_ffff, 0x5_0000_0005, 0xffff_ffff_0000_0000] {
            let profile = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
                {{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{{"index":2,"value":{value},"valueTwo":5,"op":"{operator}"}},
                {{"index":0,"value":3,"op":"SCMP_CMP_LT"}}]}}]}}"#
            );
            let seccomp = resolve::resolve(&Profile::parse(&profile).unwrap(), &[]).unwrap();
            let (ours, theirs) = (decode(&compile(&seccomp).unwrap()), by_libseccomp(&seccomp));
            for first in [0, 2, 3, 4, 0x1_0000_0000] {
                for third in
                    [0, 4, 5, 6, 0xffff_ffff, 0x1_0000_0000, 0x5_0000_0004, 0x5_0000_0005, 0x5_0000_0006, u64::MAX]
                {
                    let args = [first, 0, third, 0, 0, 0];
                    let (mine, its) = (run(&ours, X86_64, 0, args), run(&theirs, X86_64, 0, args));
                    assert_eq!(mine, its, "{operator} {value:#x}: {first:#x} {third:#x}");
                }
            }
        }
    }
}

#[test]
fn sockets_of_the_kernels_crypto_and_of_hypervisors_are_denied() {
    let program = decode(&compile(&resolved(&[])).unwrap());
    let socket = |architecture, number, family| run(&program, architecture, number, [family, 0, 0, 0, 0, 0]);
    for (architecture, number) in [(X86_64, 41), (X86_64, 41 | X32_BIT), (I386, 359)] {
        for family in (0..64).chain([(1 << 32) + 38, (1 << 32) + 40, (1 << 32) + 2]) {
            // The last ones would be 38, 40 and 2 for the kernel, which takes an int.
            let expected = if matches!(family, 38 | 40 | 46..) { RETURN_ERRNO | 1 } else { RETURN_ALLOW };
            assert_eq!(socket(architecture, number, family), expected, "{architecture:#x} {family}");
        }
    }
}

#[test]
fn what_is_newer_than_the_tables_is_not_there() {
    let program = decode(&compile(&resolved(&[])).unwrap());
    let plain = |number| run(&program, X86_64, number, [0; 6]);
    assert_eq!(plain(452), RETURN_ALLOW, "fchmodat2 is in the profile");
    assert_eq!(plain(467), RETURN_ERRNO | 1, "open_tree_attr is known, and not for everybody");
    assert_eq!(plain(NEWEST_SYSCALL + 1), RETURN_ERRNO | ENOSYS);
    assert_eq!(plain(435), RETURN_ERRNO | ENOSYS, "clone3 says ENOSYS, so that libc takes clone");
    assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]), RETURN_KILL_THREAD, "another architecture");
}

#[test]
fn a_foreign_architecture_is_an_error() {
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_S390X"]}"#;
    let seccomp = resolve::resolve(&Profile::parse(profile).unwrap(), &[]).unwrap();
    assert!(compile(&seccomp).is_err());
    assert_eq!(ScmpArch::native(), ScmpArch::X8664);
}

#[test]
fn calls_inside_i386_multiplexers_follow_their_own_names() {
    let profile = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"syscalls":[
        {"names":["socket","accept","shmget","semop"],"action":"SCMP_ACT_ALLOW"}]}"#;
    let seccomp = resolve::resolve(&Profile::parse(profile).unwrap(), &[]).unwrap();
    let (ours, theirs) = (decode(&compile(&seccomp).unwrap()), by_libseccomp(&seccomp));
    for number in 0..=450 {
        for call in 0..32 {
            let args = [call, 0, 0, 0, 0, 0];
            assert_eq!(run(&ours, I386, number, args), run(&theirs, I386, number, args), "{number} {call}");
        }
    }
}
