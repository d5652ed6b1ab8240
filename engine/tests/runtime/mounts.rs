//! Mounts: their options, how deep read-only goes, and what propagates.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount as mount_at, mount_change, unmount};
use shoal_engine::runtime::spec::{MountInput, MountKind, Propagation, SeccompChoice};

use super::sandbox::{Backend, Sandbox, eventually};

pub(crate) const TESTS: &[crate::Test] = &[
    ("mounts::options_reach_the_kernel", options_reach_the_kernel),
    ("mounts::read_only_is_as_deep_as_asked", read_only_is_as_deep_as_asked),
    ("mounts::propagation_is_as_asked", propagation_is_as_asked),
    ("mounts::links_to_nowhere_are_followed_inside", links_to_nowhere_are_followed_inside),
];

/// Mounts of a test on the host, the first above the others. They end with it.
struct OnHost(Vec<PathBuf>);

impl OnHost {
    fn add(&mut self, place: PathBuf) -> &Path {
        fs::create_dir_all(&place).unwrap();
        mount_at("tmpfs", &place, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
        self.0.push(place);
        self.0.last().unwrap()
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        for place in self.0.iter().rev() {
            let _may_be_gone = unmount(place, UnmountFlags::DETACH);
        }
    }
}

fn options_reach_the_kernel(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let source = sandbox.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let tmpfs: &[(&[&str], &[&str])] = &[
        (&["ro"], &["ro"]),
        (&["rw", "nosuid", "nodev", "noexec"], &["rw", "nosuid", "nodev", "noexec"]),
        (
            &["nosuid", "suid", "nodev", "dev", "noexec", "exec", "ro", "rw"],
            &["rw", "!nosuid", "!nodev", "!noexec", "!ro"],
        ),
        (&["noatime"], &["noatime"]),
        (&["nodiratime"], &["nodiratime"]),
        (&["strictatime"], &["!relatime", "!noatime"]),
        (&["noatime", "atime"], &["!noatime"]),
        (
            &["size=64k", "mode=750", "uid=1000", "gid=1001", "nr_inodes=10"],
            &["size=64k", "mode=750", "uid=1000", "gid=1001", "nr_inodes=10"],
        ),
    ];
    let binds: &[(&[&str], &[&str])] = &[
        (&["rbind", "ro"], &["ro"]),
        (&["bind", "nosuid", "nodev", "noexec"], &["nosuid", "nodev", "noexec"]),
        (&["bind", "ro", "noatime", "rprivate"], &["ro", "noatime"]),
        (&["rbind", "rro"], &["ro"]),
    ];
    // The library hands these on to the file system, or drops them.
    let words: &[(&[&str], &[&str])] = match backend {
        Backend::Libcontainer => &[],
        _ => &[
            (&["relatime", "norelatime", "silent"], &["relatime"]),
            (&["noatime", "atime", "loud"], &["!noatime"]),
            (&["sync", "dirsync"], &["sync", "dirsync"]),
        ],
    };
    let all: Vec<(bool, &[&str], &[&str])> = tmpfs
        .iter()
        .chain(words)
        .map(|(with, wanted)| (false, *with, *wanted))
        .chain(binds.iter().map(|(with, wanted)| (true, *with, *wanted)))
        .collect();
    let mounts: Vec<Mount> = all
        .iter()
        .enumerate()
        .map(|(number, (is_bind, with, _))| {
            let options: Vec<String> = with.iter().map(|word| (*word).to_owned()).collect();
            let built = MountBuilder::default().destination(format!("/m{number}")).options(options);
            match is_bind {
                true => built.typ("bind").source(&source).build().unwrap(),
                false => built.typ("tmpfs").source("tmpfs").build().unwrap(),
            }
        })
        .collect();
    let input = sandbox.input(&["cat", "/proc/mounts"]);
    let created = sandbox.create_from(&input, |_| {}, |spec| spec.mounts_mut().as_mut().unwrap().extend(mounts));
    let table = sandbox.finish(&created.unwrap()).stdout;
    for (number, (_, with, wanted)) in all.iter().enumerate() {
        let line = table.lines().find(|line| line.split(' ').nth(1) == Some(&format!("/m{number}"))).unwrap();
        let words: Vec<&str> = line.split(' ').nth(3).unwrap().split(',').collect();
        for word in *wanted {
            match word.strip_prefix('!') {
                Some(word) => assert!(!words.contains(&word), "{with:?}: {line}"),
                None => assert!(words.contains(word), "{with:?}: {line}"),
            }
        }
    }
}

fn read_only_is_as_deep_as_asked(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let mut mounts = OnHost(Vec::new());
    let top = mounts.add(sandbox.dir.path().join("top")).to_owned();
    mounts.add(top.join("below"));
    let write = |read_only, read_only_non_recursive, recursive| {
        let kind = MountKind::Bind { source: top.clone(), recursive, propagation: None, read_only_non_recursive };
        sandbox.shell("for f in /m/f /m/below/f; do (echo x > $f) 2>/dev/null && echo $f; done; true", |input| {
            input.mounts = vec![MountInput { destination: "/m".into(), read_only, kind }]
        })
    };
    assert_eq!(write(false, false, true), "/m/f\n/m/below/f\n");
    assert_eq!(write(true, false, true), "");
    assert_eq!(write(true, true, true), "/m/below/f\n");
    assert_eq!(write(true, false, false), "");
    // Without what is mounted below, the folder there is the upper mount's own.
    fs::remove_file(top.join("below/f")).unwrap();
    assert_eq!(write(false, false, false), "/m/f\n/m/below/f\n");
    assert!(!top.join("below/f").exists());
}

fn propagation_is_as_asked(backend: Backend) {
    let kinds = [
        (None, false, false),
        (Some(Propagation::Private), false, false),
        (Some(Propagation::RSlave), true, false),
        (Some(Propagation::RShared), true, true),
    ];
    for (propagation, to_container, to_host) in kinds {
        let sandbox = Sandbox::new(backend);
        let mut mounts = OnHost(Vec::new());
        let top = mounts.add(sandbox.dir.path().join("top")).to_owned();
        mount_change(&top, MountPropagationFlags::SHARED).unwrap();
        for folder in ["late", "own"] {
            fs::create_dir(top.join(folder)).unwrap();
        }
        let script = "until [ -e /m/go ]; do sleep 0.01; done; ls /m/late > /m/seen; \
                      mount -t tmpfs x /m/own && echo inner > /m/own/f && echo > /m/done; sleep 100";
        let mut input = sandbox.input(&["sh", "-c", script]);
        let kind =
            MountKind::Bind { source: top.clone(), recursive: true, propagation, read_only_non_recursive: false };
        input.mounts = vec![MountInput { destination: "/m".into(), read_only: false, kind }];
        input.capabilities.add = vec!["SYS_ADMIN".to_owned()];
        input.seccomp = SeccompChoice::Unconfined;
        let running = sandbox.create(&input).unwrap();
        sandbox.wait_for(running.shim.start()).unwrap();
        let late = mounts.add(top.join("late")).to_owned();
        fs::write(late.join("f"), "").unwrap();
        fs::write(top.join("go"), "").unwrap();
        eventually("the container has mounted", || top.join("done").exists());
        let seen = fs::read_to_string(top.join("seen")).unwrap();
        assert_eq!(seen == "f\n", to_container, "{propagation:?}: {seen:?}");
        assert_eq!(top.join("own/f").exists(), to_host, "{propagation:?}");
        sandbox.wait_for(async {
            running.shim.signal(9, true).await.unwrap();
            running.shim.wait().await.unwrap();
        });
        if to_host {
            mounts.0.push(top.join("own"));
        }
    }
}

/// As in images of machines whose `/etc/resolv.conf` is a link into `/run`, and with `/var/run` where there is no `/run`.
fn links_to_nowhere_are_followed_inside(backend: Backend) {
    if backend == Backend::Libcontainer {
        // The library refuses them.
        return;
    }
    let sandbox = Sandbox::new(backend);
    let link = |name: &str, target: &str| std::os::unix::fs::symlink(target, sandbox.rootfs().join(name)).unwrap();
    fs::create_dir_all(sandbox.rootfs().join("var")).unwrap();
    link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
    link("etc/escape", "../../../../../../../outside/of/it");
    link("var/run", "/run");
    let file = sandbox.dir.path().join("file");
    fs::write(&file, "from the host\n").unwrap();
    let bind = |destination: &str| MountInput {
        destination: destination.into(),
        read_only: true,
        kind: MountKind::Bind {
            source: file.clone(),
            recursive: true,
            propagation: None,
            read_only_non_recursive: false,
        },
    };
    let text = sandbox.shell(
        "cat /etc/resolv.conf /run/systemd/resolve/stub-resolv.conf /outside/of/it; pwd; stat -c %a /run/scratch",
        |input| {
            let scratch = MountKind::Tmpfs { options: Vec::new() };
            input.mounts = vec![
                bind("/etc/resolv.conf"),
                bind("/etc/escape"),
                MountInput { destination: "/var/run/scratch".into(), read_only: false, kind: scratch },
            ];
            input.cwd = "/var/run/work".to_owned();
        },
    );
    assert_eq!(text, "from the host\nfrom the host\nfrom the host\n/run/work\n1777\n");
    assert!(!Path::new("/outside").exists());
}
