//! Somebody exchanges what a runtime looks at while it looks.

use std::fs;
use std::os::unix::fs::symlink;

use shoal_engine::runtime::spec::{MountInput, MountKind};

use super::super::sandbox::{Backend, Sandbox};
use super::{Outside, Racer, attempt, bind, control, script, tell};

pub(crate) const TESTS: &[crate::Test] = &[
    ("attack::race::a_mount_point_makes_nothing_outside", a_mount_point_makes_nothing_outside),
    ("attack::race::the_console_is_a_terminal", the_console_is_a_terminal),
    ("attack::race::proc_redirects_no_write", proc_redirects_no_write),
];

/// Starts containers as long as it takes for a race to be one.
fn against(backend: Backend, racer: &Racer, mut start: impl FnMut()) {
    // Starts and swaps.
    let least = match backend {
        Backend::Builtin => (20, 3000),
        Backend::Libcontainer => (3, 500),
        Backend::Runc => (6, 1000),
    };
    let mut starts = 0;
    while starts < least.0 || racer.swaps() < least.1 {
        start();
        starts += 1;
    }
}

fn a_mount_point_makes_nothing_outside(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outside = Outside::new(&sandbox);
    let payload = sandbox.dir.path().join("payload");
    fs::create_dir(&payload).unwrap();
    fs::write(payload.join("file"), "").unwrap();
    let mut fired = false;
    for (number, text) in outside.links().into_iter().enumerate() {
        let volume = sandbox.dir.path().join(format!("volume{number}"));
        fs::create_dir_all(volume.join("place")).unwrap();
        symlink(text, volume.join("link")).unwrap();
        let racer = Racer::start(volume.join("place"), volume.join("link"));
        against(backend, &racer, || {
            let input = script(&sandbox, "cat /v/place/secret /v/place/../secret /secret 2>/dev/null; true", |input| {
                let memory = MountKind::Tmpfs { options: Vec::new() };
                input.mounts = vec![
                    bind(&volume, "/v"),
                    MountInput { destination: "/v/place/memory".into(), read_only: false, kind: memory },
                    bind(&payload, "/v/place/deep/er"),
                    bind(&payload.join("file"), "/v/place/file"),
                ];
            });
            if let Ok(seen) = attempt(&sandbox, &input) {
                fired |= !seen.is_empty();
            }
        });
        drop(racer);
        fired |= !outside.is_untouched();
        if backend == Backend::Runc {
            outside.restore();
        } else {
            assert!(!fired, "a mount point was made on the host");
        }
    }
    tell(backend, "a race for a mount point", fired);
    let volume = sandbox.dir.path().join("volume0");
    let _racer = Racer::start(volume.join("place"), volume.join("link"));
    control("a mount point made by its path", || {
        let _fails_when_it_is_just_exchanged = fs::create_dir_all(volume.join("place/memory"));
        !outside.is_untouched()
    });
}

fn the_console_is_a_terminal(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outside = Outside::new(&sandbox);
    let devices = sandbox.dir.path().join("devices");
    fs::create_dir_all(devices.join("pts")).unwrap();
    let device = |name: &str, minor| {
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, devices.join(name), kind, mode, rustix::fs::makedev(1, minor)).unwrap();
    };
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        device(name, minor);
    }
    symlink("pts/ptmx", devices.join("ptmx")).unwrap();
    fs::write(devices.join("console"), "").unwrap();
    let mut fired = Vec::new();
    for (number, text) in
        [outside.path.join("new").display().to_string(), "/proc/interrupts".to_owned()].iter().enumerate()
    {
        let link = devices.join(format!("link{number}"));
        symlink(text, &link).unwrap();
        let racer = Racer::start(devices.join("console"), link);
        against(backend, &racer, || {
            // What it is, and what masks /proc: a terminal and the null device, or what the volume's owner put there.
            let text = "stat -L -c '%F %t' /dev/console; stat -c %t:%T /proc/interrupts";
            let input = script(&sandbox, text, |input| {
                input.terminal = true;
                input.mounts = vec![bind(&devices, "/dev"), bind("/dev/pts".as_ref(), "/dev/pts")];
            });
            let Ok(seen) = attempt(&sandbox, &input) else { return };
            let lines: Vec<&str> = seen.lines().collect();
            let is_good = |console: &str| {
                ["character special file 88", "character special file 1", "regular empty file 0"].contains(&console)
                    || console.contains("No such file")
            };
            if lines.len() != 2 || !is_good(lines[0]) || lines[1] != "1:3" {
                fired.push(seen);
            }
        });
        drop(racer);
        let has_file = fs::metadata(devices.join("console")).is_ok_and(|found| found.is_file());
        if !has_file {
            let (one, other) = (devices.join("console"), devices.join(format!("link{number}")));
            super::renameat_with(super::CWD, one, super::CWD, other, super::RenameFlags::EXCHANGE).unwrap();
        }
        if !outside.is_untouched() {
            fired.push("the host has a new file".to_owned());
        }
        if backend != Backend::Runc {
            assert!(fired.is_empty(), "{fired:?}");
        }
    }
    tell(backend, "a race for the console", !fired.is_empty());
    let _removed = fs::remove_file(outside.path.join("new"));
    let _racer = Racer::start(devices.join("console"), devices.join("link0"));
    control("a console made by its path", || {
        fs::File::create(devices.join("console")).unwrap();
        !outside.is_untouched()
    });
}

/// The files of a `/proc` that is none.
const FAKE: &[&str] = &[
    "sys/net/ipv4/ip_forward",
    "sys/kernel/shmmni",
    "self/oom_score_adj",
    "self/attr/exec",
    "self/attr/apparmor/exec",
    "self/loginuid",
    "self/setgroups",
    "thread-self/attr/exec",
];

/// Do these mounts hide a file of `/proc` and keep its settings from being written?
fn is_sealed(mounts: &str) -> bool {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ends = |fields: &[&str], end: &str| fields.len() > 5 && fields[4].ends_with(end);
    let count = |wanted: &dyn Fn(&[&str]) -> bool| fields.clone().filter(|fields| wanted(fields)).count();
    count(&|fields| ends(fields, "/interrupts")) > 0
        && count(&|fields| ends(fields, "/sys") && fields[3] == "/sys" && fields[5].starts_with("ro,")) > 0
}

fn proc_redirects_no_write(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outside = Outside::new(&sandbox);
    let (proc, fake) = (sandbox.rootfs().join("proc"), sandbox.rootfs().join("fake"));
    for file in FAKE {
        fs::create_dir_all(fake.join(file).parent().unwrap()).unwrap();
        fs::write(fake.join(file), "untouched").unwrap();
    }
    symlink(&outside.path, fake.join("fs")).unwrap();
    symlink(&outside.path, fake.join("bus")).unwrap();
    let is_intact = || {
        [&proc, &fake].iter().any(|place| {
            FAKE.iter().all(|file| fs::read_to_string(place.join(file)).is_ok_and(|text| text == "untouched"))
        })
    };
    let (mut looks, mut unmasked) = (0, Vec::new());
    let racer = Racer::start(proc.clone(), fake.clone());
    let mut attack = || {
        // Wherever the true one has ended up, its secrets are hidden and the host's settings cannot be written.
        let text = "cat /proc/self/mountinfo /fake/self/mountinfo 2>/dev/null; true";
        let input = script(&sandbox, text, |input| {
            input.sysctls.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
            input.sysctls.insert("kernel.shmmni".to_owned(), "77".to_owned());
            input.oom_score_adj = Some(500);
        });
        if let Ok(seen) = attempt(&sandbox, &input) {
            looks += u32::from(!seen.is_empty());
            unmasked.extend(Some(seen).filter(|seen| !seen.is_empty() && !is_sealed(seen)));
        }
        looks
    };
    against(backend, &racer, || {
        attack();
    });
    // All of them may have been refused so far.
    for _ in 0..500 {
        if backend != Backend::Builtin || attack() > 0 {
            break;
        }
    }
    drop(racer);
    let fired = !is_intact() || !outside.is_untouched() || !unmasked.is_empty();
    tell(backend, "a race for /proc", fired);
    // The library looks for what it hides where /proc was. Nobody but a container's own processes can write to its root.
    if backend == Backend::Builtin {
        assert!(looks > 0, "nobody could tell");
        assert!(is_intact() && outside.is_untouched(), "a file of the attacker's was written instead of the kernel's");
        assert!(unmasked.is_empty(), "{unmasked:?}");
    }
    let _racer = Racer::start(proc.clone(), fake.clone());
    control("a setting written by its path", || {
        let file = proc.join(FAKE[0]);
        let opened = fs::File::options().write(true).open(file);
        opened.is_ok_and(|mut file| std::io::Write::write_all(&mut file, b"1").is_ok()) && !is_intact()
    });
}
