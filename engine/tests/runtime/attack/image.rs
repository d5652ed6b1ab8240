//! An image, or a volume over a part of it, that is not what a runtime expects to find.

use std::fs;
use std::os::unix::fs::symlink;

use shoal_engine::runtime::spec::{MountInput, MountKind};

use super::super::sandbox::{Backend, Sandbox};
use super::{Outside, SECRET, attempt, bind, script, tell};

pub(crate) const TESTS: &[crate::Test] = &[
    ("attack::image::a_link_in_the_place_of_proc_or_sys_is_refused", a_link_in_the_place_of_proc_or_sys_is_refused),
    ("attack::image::nothing_gets_into_proc_over_a_link", nothing_gets_into_proc_over_a_link),
    ("attack::image::a_link_in_the_place_of_dev_stays_inside", a_link_in_the_place_of_dev_stays_inside),
    ("attack::image::a_mask_needs_a_true_null_device", a_mask_needs_a_true_null_device),
];

/// Puts a link in the place of a folder of the root file system.
fn replace(sandbox: &Sandbox, name: &str, text: &str) {
    let place = sandbox.rootfs().join(name);
    match place.is_symlink() {
        true => fs::remove_file(&place).unwrap(),
        false => fs::remove_dir_all(&place).unwrap(),
    }
    symlink(text, place).unwrap();
}

fn a_link_in_the_place_of_proc_or_sys_is_refused(backend: Backend) {
    for place in ["proc", "sys"] {
        let sandbox = Sandbox::new(backend);
        let outside = Outside::new(&sandbox);
        // It works without the link, so it is the link that is refused.
        let input = || script(&sandbox, "cat /etc/passwd >/dev/null; echo ran", |_| {});
        assert_eq!(attempt(&sandbox, &input()).unwrap(), "ran\n");
        let [absolute, climbing] = outside.links();
        for text in [&absolute, &climbing, "/tmp", "tmp", "/dev", "/home/../tmp", "loop"] {
            replace(&sandbox, place, if text == "loop" { place } else { text });
            let outcome = attempt(&sandbox, &input());
            assert!(outcome.is_err(), "/{place} -> {text}: {outcome:?}");
            assert!(outside.is_untouched(), "/{place} -> {text}");
        }
    }
}

/// An image's link and the path of a volume, which an image may choose, too, make a place in `/proc`.
fn nothing_gets_into_proc_over_a_link(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let volume = sandbox.dir.path().join("volume");
    fs::create_dir_all(volume.join("self/attr")).unwrap();
    for file in ["word", "self/attr/exec"] {
        fs::write(volume.join(file), SECRET).unwrap();
    }
    let inside = sandbox.rootfs();
    symlink("/proc", inside.join("absolute")).unwrap();
    symlink("proc/sys", inside.join("relative")).unwrap();
    symlink("/proc/self/attr", inside.join("attr")).unwrap();
    fs::create_dir(inside.join("folder")).unwrap();
    symlink("../../../proc/tty", inside.join("folder/up")).unwrap();
    let look = "cat /proc/word /proc/sys/word /proc/self/attr/word /proc/tty/word /plain/word 2>/dev/null; true";
    let run = |mount: MountInput| attempt(&sandbox, &script(&sandbox, look, |input| input.mounts = vec![mount]));
    // The control: where a volume may be, this is seen.
    assert_eq!(run(bind(&volume, "/plain")).unwrap(), SECRET);
    let mut fired = Vec::new();
    for destination in ["/absolute", "/absolute/sys", "/relative", "/relative/kernel", "/attr", "/folder/up"] {
        let memory = MountKind::Tmpfs { options: Vec::new() };
        let memory = MountInput { destination: destination.into(), read_only: false, kind: memory };
        for mount in [bind(&volume, destination), memory] {
            if let Ok(seen) = run(mount) {
                fired.push(format!("{destination}: {seen:?}"));
            }
        }
    }
    tell(backend, "a volume in /proc", !fired.is_empty());
    if backend != Backend::Runc {
        assert!(fired.is_empty(), "{fired:?}");
    }
    // What tools such as lxcfs do goes on working.
    let input =
        script(&sandbox, "cat /proc/uptime", |input| input.mounts = vec![bind(&volume.join("word"), "/proc/uptime")]);
    assert_eq!(attempt(&sandbox, &input).unwrap(), SECRET);
}

fn a_link_in_the_place_of_dev_stays_inside(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outside = Outside::new(&sandbox);
    let mut fired = Vec::new();
    for text in outside.links() {
        replace(&sandbox, "dev", &text);
        for terminal in [false, true] {
            let input = script(&sandbox, "cat /dev/secret; true", |input| input.terminal = terminal);
            let seen = attempt(&sandbox, &input);
            if seen.is_ok_and(|seen| seen.contains(SECRET)) || !outside.is_untouched() {
                fired.push(text.clone());
                outside.restore();
            }
        }
        // A volume that brings the link.
        let volume = sandbox.dir.path().join("volume");
        fs::create_dir_all(&volume).unwrap();
        symlink(&text, volume.join("pts")).unwrap();
        let input = script(&sandbox, "true", |input| {
            input.terminal = true;
            input.mounts = vec![bind(&volume, "/dev")];
        });
        let _refused_or_not = attempt(&sandbox, &input);
        if !outside.is_untouched() {
            fired.push(format!("pts -> {text}"));
            outside.restore();
        }
        fs::remove_dir_all(&volume).unwrap();
    }
    tell(backend, "a link in the place of /dev", !fired.is_empty());
    if backend != Backend::Runc {
        assert!(fired.is_empty(), "the host's folder was furnished or read: {fired:?}");
    }
    // The control: by path, the host's folder is where one gets.
    replace(&sandbox, "dev", &outside.links()[0]);
    fs::create_dir_all(sandbox.rootfs().join("dev/pts")).unwrap();
    assert!(!outside.is_untouched());
}

fn a_mask_needs_a_true_null_device(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outside = Outside::new(&sandbox);
    let devices = sandbox.dir.path().join("devices");
    fs::create_dir(&devices).unwrap();
    let null = devices.join("null");
    let device = |minor| {
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &null, kind, mode, rustix::fs::makedev(1, minor)).unwrap();
    };
    // What is behind the mask, and what got there instead of the null device.
    let run = |masked: bool| {
        let text = "head -c 20 /proc/interrupts 2>/dev/null; (echo changed > /proc/timer_list) 2>/dev/null; true";
        attempt(
            &sandbox,
            &script(&sandbox, text, |input| {
                input.mounts = vec![bind(&devices, "/dev")];
                if !masked {
                    input.masked_paths = Some(Vec::new());
                }
            }),
        )
    };
    // The library makes no device where one is, true or not: there each of these is refused.
    if backend != Backend::Libcontainer {
        device(3);
        assert_eq!(run(true).unwrap(), "", "a true one masks");
    }
    // The control: without masks, this is seen.
    if backend != Backend::Libcontainer {
        assert_eq!(run(false).unwrap().len(), 20);
    }
    let mut fired = Vec::new();
    let secret = outside.path.join("secret").display().to_string();
    let fakes: [(&str, &dyn Fn()); 6] = [
        ("missing", &|| {}),
        ("a file", &|| fs::write(&null, "not null").unwrap()),
        ("zero", &|| device(5)),
        ("a link to a file of /proc", &|| symlink("/proc/sys/kernel/core_pattern", &null).unwrap()),
        ("a link to a file of the host", &|| symlink(&secret, &null).unwrap()),
        ("a link to a true one", &|| symlink("zero", &null).unwrap()),
    ];
    for (what, fake) in fakes {
        fs::remove_file(&null).unwrap_or(());
        fake();
        // One that is missing may be made.
        if let Ok(seen) = run(true)
            && (what != "missing" || !seen.is_empty())
        {
            fired.push(format!("{what}: {seen:?}"));
        }
        let changed = null.is_file() && !null.is_symlink() && fs::read(&null).unwrap() != b"not null";
        if changed || !outside.is_untouched() {
            fired.push(format!("{what}: it was written through the mask"));
        }
    }
    tell(backend, "a false null device", !fired.is_empty());
    if backend != Backend::Runc {
        assert!(fired.is_empty(), "{fired:?}");
    }
}
