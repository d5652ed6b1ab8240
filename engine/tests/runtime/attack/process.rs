//! The process that goes into a container, as long as it still holds something of the host's.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use shoal_engine::runtime::spec::SpecInput;
use shoal_engine::runtime::user;
use shoal_engine::shim::client::ShimProgram;

use super::super::exec::Box;
use super::super::sandbox::{Backend, Sandbox, eventually};
use super::{Outside, SECRET, attempt, bind, script, tell};

pub(crate) const TESTS: &[crate::Test] = &[
    ("attack::process::whoever_comes_in_cannot_be_changed", whoever_comes_in_cannot_be_changed),
    ("attack::process::descriptors_lead_nowhere", descriptors_lead_nowhere),
    ("attack::process::an_exec_has_what_its_user_has", an_exec_has_what_its_user_has),
];

/// Takes hold of the program of every process that it sees come in, and writes to it once that has ended.
const OVERWRITE: &str = "hold() { exec 9< $1/exe || exit; echo > /tmp/held.${1##*/}; \
    while [ -d $1 ]; do sleep 0.02; done; for n in 1 2 3 4 5 6 7 8 9 10; do \
    (echo evil >> /proc/self/fd/9) 2>/dev/null && echo > /tmp/wrote; sleep 0.02; done; echo > /tmp/over.${1##*/}; }; \
    while :; do for p in /proc/[0-9]*; do [ -e /tmp/held.${p##*/} ] && continue; \
    case $(readlink $p/exe) in /bin/busybox) ;; *) (hold $p) 2>/dev/null & ;; esac; done; done";

/// The host's program runs in the container only with the libraries that it wants: the attacker brings them.
fn bring_libraries(sandbox: &Sandbox) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libraries: std::collections::BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| line.split_once('/'))
        .map(|(_, path)| path)
        .filter(|path| path.contains(".so"))
        .collect();
    for library in libraries {
        let place = sandbox.rootfs().join(library);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(std::path::Path::new("/").join(library), &place).unwrap();
        if library.contains("/ld-") {
            // Where programs look for their loader.
            fs::create_dir_all(sandbox.rootfs().join("lib64")).unwrap();
            let name = place.file_name().unwrap();
            let _is_there = fs::copy(&place, sandbox.rootfs().join("lib64").join(name));
        }
    }
}

fn whoever_comes_in_cannot_be_changed(backend: Backend) {
    // A runc that is open to it would be overwritten.
    if backend == Backend::Runc {
        return;
    }
    let mut sandbox = Sandbox::new(backend);
    let copy = sandbox.dir.path().join("shoal");
    fs::copy("/proc/self/exe", &copy).unwrap();
    sandbox.program = ShimProgram::open(&copy).unwrap();
    let before = fs::read(&copy).unwrap();
    let victim = sandbox.dir.path().join("victim");
    fs::copy("/bin/busybox", &victim).unwrap();
    let intact = fs::read(&victim).unwrap();
    fs::write(sandbox.rootfs().join("bin/self"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(sandbox.rootfs().join("bin/self"), fs::Permissions::from_mode(0o755)).unwrap();
    bring_libraries(&sandbox);
    let container = Box::new(&sandbox, |input| {
        input.args = ["sh", "-c", OVERWRITE].map(str::to_owned).into();
        // To have a chance at all: without it, nobody may look at the processes that come in.
        input.capabilities.add = vec!["SYS_PTRACE".to_owned()];
        input.mounts = vec![bind(&victim, "/bin/victim")];
    });
    let tmp = sandbox.rootfs().join("tmp");
    let count = |word: &str| {
        let names = fs::read_dir(&tmp).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(word.as_bytes())).count()
    };
    let mut execs = 0;
    while count("held.") < 3 {
        assert!(execs < 2000, "nobody got hold of a process");
        execs += 1;
        let shim = container.prepare(&["/bin/self", "--list"], |_, _, _| {}).unwrap();
        if sandbox.wait_for(shim.start()).is_ok() {
            sandbox.wait_for(shim.wait()).unwrap();
        }
    }
    eventually("all have tried to write", || count("over.") == count("held."));
    assert!(!tmp.join("wrote").exists());
    // The control: of a program of the container's own, this works.
    eventually("the victim was written to", || {
        container.exec(&["/bin/victim", "sleep", "0.3"], |_, _, _| {});
        tmp.join("wrote").exists() && fs::read(&victim).unwrap() != intact
    });
    drop(container);
    assert!(fs::read(&copy).unwrap() == before, "the host's program was changed");
}

fn descriptors_lead_nowhere(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outside = Outside::new(&sandbox);
    let secret = outside.path.join("secret");
    let secret = secret.display();
    let look = format!("cat .{secret} ../../../../../../../../..{secret} 2>/dev/null; true");
    symlink("/proc/self/fd", sandbox.rootfs().join("fds")).unwrap();
    // The control: a folder of the host's as working directory shows what this looks for.
    let seen = attempt(
        &sandbox,
        &script(&sandbox, &look, |input| {
            input.mounts = vec![bind("/".as_ref(), "/host")];
            input.cwd = "/host".to_owned();
        }),
    );
    assert!(seen.unwrap().contains(SECRET));
    let container = Box::new(&sandbox, |_| {});
    let most = if backend == Backend::Builtin { 16 } else { 8 };
    let mut fired = Vec::new();
    for number in 3..most {
        for place in [format!("/proc/self/fd/{number}"), format!("/fds/{number}/../../..")] {
            let shim = container.prepare(&["sh", "-c", &look], |_, _, cwd| *cwd = place.clone()).unwrap();
            let outcome = sandbox.wait_for(async {
                let attachment = shim.attach(Default::default()).await.unwrap();
                let started = shim.start().await;
                let outcome = super::super::sandbox::read_all(attachment.output).await;
                started.map(|()| outcome)
            });
            fired.extend(outcome.ok().map(|outcome| format!("exec in {place}: {outcome:?}")));
        }
        // On the way to the program.
        let program = format!("/proc/self/fd/{number}/bin/sh");
        let refused = container.prepare(&[&program, "-c", &look], |_, _, _| {}).unwrap();
        let started = sandbox.wait_for(refused.start());
        fired.extend(started.ok().map(|()| format!("exec of {program}")));
    }
    for number in 3..most {
        let mut input = sandbox.input(&[&format!("/proc/self/fd/{number}/bin/sh"), "-c", &look]);
        fired.extend(attempt(&sandbox, &input).ok().map(|seen| format!("{:?}: {seen}", input.args)));
        input = script(&sandbox, &look, |input| input.cwd = format!("/fds/{number}/../../.."));
        fired.extend(attempt(&sandbox, &input).ok().map(|seen| format!("in {:?}: {seen}", input.cwd)));
    }
    tell(backend, "a descriptor of the host's", !fired.is_empty());
    if backend != Backend::Runc {
        assert!(fired.is_empty(), "{fired:?}");
    }
}

fn an_exec_has_what_its_user_has(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    const DEFAULT: &str = "00000000a80425fb";
    const NONE: &str = "0000000000000000";
    let text = "grep -E '^(Uid|Gid|Groups|Cap...):' /proc/self/status | cut -f2-";
    let ids = |id: &str| format!("{id}\t{id}\t{id}\t{id}");
    let everything = |input: &mut SpecInput| {
        input.user.additional_gids = vec![0, 7, 40, 99];
        input.capabilities.add = vec!["SYS_ADMIN".to_owned()];
    };
    let plain = Box::new(&sandbox, |_| {});
    let rich = Box::new(&sandbox, everything);
    for (container, bounding) in [(&plain, DEFAULT), (&rich, "00000000a82425fb")] {
        let of = |name: &str| {
            let said = container.exec(&["sh", "-c", text], |_, user, _| {
                *user = user::resolve_at(&sandbox.rootfs(), name, &[]).unwrap();
            });
            said.stdout.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
        };
        // Inheritable ones would come back with a program that has capabilities of its own.
        let root = [&*ids("0"), &ids("0"), "0", NONE, bounding, bounding, bounding, NONE];
        assert_eq!(of(""), root);
        // Nothing of the container's groups, and the primary one is among the others.
        assert_eq!(of("web"), [&*ids("1000"), &ids("1001"), "40 1001", NONE, NONE, NONE, bounding, NONE]);
        assert_eq!(of("3000:4000"), [&*ids("3000"), &ids("4000"), "4000", NONE, NONE, NONE, bounding, NONE]);
    }
    // The control: who is given groups and capabilities has them.
    let rich = sandbox.shell(text, everything);
    assert!(rich.contains("\n0 7 40 99") && rich.contains("00000000a82425fb"), "{rich}");
}
