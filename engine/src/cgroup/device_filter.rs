//! Device rules as an eBPF program, for cgroup v2. The last rule that fits decides; without one, nothing is allowed.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// The kernel's bits for what is done to a device.
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
/// And for its type.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

const LOAD_WORD: u8 = 0x61;
const MOVE_CONSTANT: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_CONSTANT: u8 = 0x57;
const SHIFT_RIGHT_CONSTANT: u8 = 0x77;
const JUMP_UNLESS_CONSTANT: u8 = 0x55;
const JUMP_UNLESS_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// Registers: the context comes in 1, the answer goes out in 0.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Instructions that an answer takes.
const ANSWER_LENGTH: usize = 2;

/// One instruction: code, destination, source, offset, constant.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, constant: u32) -> u64 {
    u64::from(code)
        | u64::from(destination) << 8
        | u64::from(source) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(constant) << 32
}

/// The program for these rules.
pub fn program(rules: &[LinuxDeviceCgroup]) -> Vec<u64> {
    // struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }, the access in the upper half of the first.
    let mut program = vec![
        instruction(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        instruction(SHIFT_RIGHT_CONSTANT, ACCESS, 0, 0, 16),
        instruction(AND_CONSTANT, TYPE, 0, 0, 0xffff),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let block = block(rule);
        let decides_all = block.len() == ANSWER_LENGTH;
        program.extend(block);
        if decides_all {
            // The kernel refuses programs with instructions that cannot be reached.
            return program;
        }
    }
    program.push(instruction(MOVE_CONSTANT, ANSWER, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// Answers when the rule fits, otherwise jumps behind itself.
fn block(rule: &LinuxDeviceCgroup) -> Vec<u64> {
    /// A comparison whose jump is filled in when the length is known.
    struct Check(u8, u8, u8, u32);
    let mut before = Vec::new();
    let mut checks = Vec::new();
    match rule.typ() {
        Some(LinuxDeviceType::B) => checks.push(Check(JUMP_UNLESS_CONSTANT, TYPE, 0, BLOCK)),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => checks.push(Check(JUMP_UNLESS_CONSTANT, TYPE, 0, CHARACTER)),
        _ => {}
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        if let Some(number) = number.and_then(|number| u32::try_from(number).ok()) {
            checks.push(Check(JUMP_UNLESS_CONSTANT, register, 0, number));
        }
    }
    let bits = access(rule.access().as_deref().unwrap_or("rwm"));
    if bits != MAKE | READ | WRITE {
        // All that is asked for has to be among what the rule names.
        before = vec![instruction(MOVE_REGISTER, ANSWER, ACCESS, 0, 0), instruction(AND_CONSTANT, ANSWER, 0, 0, bits)];
        checks.push(Check(JUMP_UNLESS_REGISTER, ANSWER, ACCESS, 0));
    }
    let answer: [u64; ANSWER_LENGTH] =
        [instruction(MOVE_CONSTANT, ANSWER, 0, 0, u32::from(rule.allow())), instruction(EXIT, 0, 0, 0, 0)];
    let count = checks.len();
    let mut block = before;
    for (index, Check(code, destination, source, constant)) in checks.into_iter().enumerate() {
        let over = count - index - 1 + answer.len();
        block.push(instruction(code, destination, source, over as i16, constant));
    }
    block.extend(answer);
    block
}

fn access(text: &str) -> u32 {
    let bit = |letter: char| match letter {
        'r' => READ,
        'w' => WRITE,
        'm' => MAKE,
        _ => 0,
    };
    text.chars().map(bit).fold(0, |bits, bit| bits | bit)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    use super::*;

    fn rule(
        allow: bool,
        kind: LinuxDeviceType,
        numbers: (Option<i64>, Option<i64>),
        access: &str,
    ) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access).build().unwrap();
        rule.set_major(numbers.0);
        rule.set_minor(numbers.1);
        rule
    }

    /// What the program answers.
    fn ask(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let one = program[at];
            let (code, destination, source) = (one as u8, (one >> 8 & 15) as usize, (one >> 12 & 15) as usize);
            let (offset, constant) = ((one >> 16) as u16 as i16, one >> 32);
            at += 1;
            match code {
                LOAD_WORD => registers[destination] = u64::from(context[offset as usize / 4]),
                MOVE_CONSTANT => registers[destination] = constant,
                MOVE_REGISTER => registers[destination] = registers[source],
                AND_CONSTANT => registers[destination] &= constant,
                SHIFT_RIGHT_CONSTANT => registers[destination] >>= constant,
                JUMP_UNLESS_CONSTANT if registers[destination] != constant => at += offset as usize,
                JUMP_UNLESS_REGISTER if registers[destination] != registers[source] => at += offset as usize,
                JUMP_UNLESS_CONSTANT | JUMP_UNLESS_REGISTER => {}
                EXIT => return registers[0],
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused() {
        let rules = [
            rule(false, LinuxDeviceType::A, (None, None), "rwm"),
            rule(true, LinuxDeviceType::C, (None, None), "m"),
            rule(true, LinuxDeviceType::C, (Some(1), Some(3)), "rwm"),
            rule(true, LinuxDeviceType::C, (Some(136), None), "rw"),
            rule(true, LinuxDeviceType::B, (Some(8), Some(0)), "r"),
        ];
        let program = program(&rules);
        assert_eq!(ask(&program, CHARACTER, READ | WRITE, 1, 3), 1);
        assert_eq!(ask(&program, CHARACTER, READ, 1, 4), 0);
        assert_eq!(ask(&program, BLOCK, READ, 1, 3), 0);
        assert_eq!(ask(&program, CHARACTER, MAKE, 9, 9), 1);
        assert_eq!(ask(&program, CHARACTER, MAKE | READ, 9, 9), 0);
        assert_eq!(ask(&program, CHARACTER, READ | WRITE, 136, 77), 1);
        assert_eq!(ask(&program, BLOCK, READ, 8, 0), 1);
        assert_eq!(ask(&program, BLOCK, WRITE, 8, 0), 0);
        assert_eq!(ask(&super::program(&[]), CHARACTER, READ, 1, 3), 0);
        let all = super::program(&[rule(true, LinuxDeviceType::A, (None, None), "rwm")]);
        assert_eq!(ask(&all, BLOCK, READ | WRITE | MAKE, 8, 1), 1);
    }

    #[test]
    fn the_kernel_takes_it() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let rules = [
            rule(false, LinuxDeviceType::A, (None, None), "rwm"),
            rule(true, LinuxDeviceType::C, (Some(1), Some(5)), "r"),
        ];
        shoal_engine_sys::cgroup::load_device_filter(&program(&rules)).unwrap();
        shoal_engine_sys::cgroup::load_device_filter(&program(&rules[1..])).unwrap();
        shoal_engine_sys::cgroup::load_device_filter(&program(&[])).unwrap();
    }

    /// In a v2 hierarchy, which hybrid hosts have, too.
    #[test]
    fn it_is_in_force() {
        let Some(root) = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .map(std::path::Path::new)
            .find(|root| rustix::process::geteuid().is_root() && root.join("cgroup.controllers").exists())
        else {
            eprintln!("skipped: needs root and a v2 hierarchy");
            return;
        };
        let directory = root.join(format!("shoal-test-devices-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let program = program(&[rule(true, LinuxDeviceType::C, (Some(1), Some(5)), "r")]);
        let program = shoal_engine_sys::cgroup::load_device_filter(&program).unwrap();
        let cgroup = std::fs::File::open(&directory).unwrap();
        shoal_engine_sys::cgroup::attach_device_filter(&cgroup, &program).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs; head -c 1 /dev/zero >/dev/stdout && echo zero; head -c 1 /dev/urandom && echo urandom",
            directory.display()
        );
        let mut command = shoal_engine_sys::process::command(std::path::Path::new("/bin/sh"));
        let output = command.args(["-c", &script]).env("PATH", "/bin:/usr/bin").output().unwrap();
        let removed = std::fs::remove_dir(&directory);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("zero") && !text.contains("urandom"), "{text}");
        removed.unwrap();
    }
}
