//! What a container may see and do.

use std::path::PathBuf;
use std::sync::Arc;

use shoal_engine::runtime::seccomp::Profile;
use shoal_engine::runtime::spec::{CapabilityChange, MountInput, MountKind, NamespaceMode, SeccompChoice, Shm};
use shoal_engine::runtime::user;

use super::sandbox::{Backend, Sandbox};

pub(crate) const TESTS: &[crate::Test] = &[
    ("isolation::namespaces_are_its_own", namespaces_are_its_own),
    ("isolation::namespaces_can_be_shared", namespaces_can_be_shared),
    ("isolation::capabilities_are_those_of_the_specification", capabilities_are_those_of_the_specification),
    ("isolation::the_filter_is_in_force", the_filter_is_in_force),
    ("isolation::a_custom_filter_is_in_force", a_custom_filter_is_in_force),
    ("isolation::nothing_is_gained_by_execve", nothing_is_gained_by_execve),
    ("isolation::paths_are_masked_and_read_only", paths_are_masked_and_read_only),
    ("isolation::the_root_can_be_read_only", the_root_can_be_read_only),
    ("isolation::only_three_descriptors_are_open", only_three_descriptors_are_open),
    ("isolation::the_working_directory_is_inside", the_working_directory_is_inside),
    ("isolation::the_user_is_that_of_the_specification", the_user_is_that_of_the_specification),
    ("isolation::mounts_are_as_asked", mounts_are_as_asked),
    ("isolation::a_subpath_stays_in_its_source", a_subpath_stays_in_its_source),
    ("isolation::the_program_of_the_shim_cannot_be_changed", the_program_of_the_shim_cannot_be_changed),
    ("isolation::devices_are_guarded", devices_are_guarded),
    ("isolation::privileged_is_privileged", privileged_is_privileged),
    ("isolation::sysctls_stay_in_their_namespace", sysctls_stay_in_their_namespace),
];

fn namespaces_are_its_own(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let inside = sandbox.shell(
        "for n in mnt net uts pid ipc cgroup; do readlink /proc/self/ns/$n; done; hostname; echo $$; ls /proc | grep -c '^[0-9]'",
        |_| {},
    );
    let mut lines: Vec<&str> = inside.lines().collect();
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().into_os_string().into_string().unwrap()
    };
    for (kind, line) in ["mnt", "net", "uts", "pid", "ipc", "cgroup"].into_iter().zip(lines.drain(..6)) {
        assert_ne!(line, own(kind), "{kind}");
    }
    assert_eq!(lines[0], "box");
    // With runc the first process is its init, too.
    assert_eq!(lines[1], "1");
    assert!(lines[2].parse::<u32>().unwrap() <= 4, "{inside}");
}

fn namespaces_can_be_shared(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let first = sandbox.create(&sandbox.input(&["sleep", "100"])).unwrap();
    sandbox.wait_for(first.shim.start()).unwrap();
    let of = |kind: &str| PathBuf::from(format!("/proc/{}/ns/{kind}", first.shim.pid()));
    let names = sandbox.shell("for n in net uts pid ipc; do readlink /proc/self/ns/$n; done; ps", |input| {
        input.network = NamespaceMode::Join(of("net"));
        input.uts = NamespaceMode::Join(of("uts"));
        input.pid = NamespaceMode::Join(of("pid"));
        input.ipc = NamespaceMode::Join(of("ipc"));
    });
    for (kind, line) in ["net", "uts", "pid", "ipc"].into_iter().zip(names.lines()) {
        assert_eq!(line, std::fs::read_link(of(kind)).unwrap().to_str().unwrap(), "{kind}");
    }
    assert!(names.contains("sleep 100"), "{names}");
    let host = sandbox.shell("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc", |input| {
        input.network = NamespaceMode::Host;
        input.ipc = NamespaceMode::Host;
        input.shm = Shm::Bind("/dev/shm".into());
    });
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().into_os_string().into_string().unwrap()
    };
    assert_eq!(host, format!("{}\n{}\n", own("net"), own("ipc")));
    sandbox.wait_for(async {
        first.shim.signal(9, true).await.unwrap();
        first.shim.wait().await.unwrap();
    });
}

/// `CapInh`, `CapPrm`, `CapEff`, `CapBnd`, `CapAmb`.
fn capabilities(sandbox: &Sandbox, change: impl FnOnce(&mut shoal_engine::runtime::spec::SpecInput)) -> [u64; 5] {
    let text = sandbox.shell("grep ^Cap /proc/self/status | cut -f2", change);
    let values: Vec<u64> = text.lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect();
    values.try_into().unwrap()
}

fn capabilities_are_those_of_the_specification(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    const DEFAULT: u64 = 0xa804_25fb;
    assert_eq!(capabilities(&sandbox, |_| {}), [0, DEFAULT, DEFAULT, DEFAULT, 0]);
    let changed = capabilities(&sandbox, |input| {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        input.capabilities = CapabilityChange { add: own(&["NET_ADMIN"]), drop: own(&["CHOWN"]) };
    });
    let expected = DEFAULT & !1 | 1 << 12;
    assert_eq!(changed, [0, expected, expected, expected, 0]);
    let user = capabilities(&sandbox, |input| input.user = user::resolve_at(&sandbox.rootfs(), "web", &[]).unwrap());
    assert_eq!(user, [0, 0, 0, DEFAULT, 0]);
    let none = capabilities(&sandbox, |input| input.capabilities.drop = vec!["ALL".to_owned()]);
    assert_eq!(none, [0; 5]);
}

fn the_filter_is_in_force(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    assert_eq!(sandbox.shell("grep ^Seccomp: /proc/self/status | cut -f2", |_| {}), "2\n");
    // Refused by the filter even with every capability but those that open the call.
    let with = |input: &mut shoal_engine::runtime::spec::SpecInput| {
        input.capabilities.add = vec!["ALL".to_owned()];
        input.capabilities.drop = vec!["SYS_ADMIN".to_owned(), "SYS_CHROOT".to_owned()];
    };
    let refused = sandbox.shell_fails("unshare -U true", with);
    assert!(refused.stderr.contains("Operation not permitted"), "{refused:?}");
    let refused = sandbox.shell_fails("unshare -m true", |_| {});
    assert!(refused.stderr.contains("Operation not permitted"), "{refused:?}");
    let unconfined = sandbox.shell("grep ^Seccomp: /proc/self/status | cut -f2", |input| {
        input.seccomp = SeccompChoice::Unconfined;
    });
    assert_eq!(unconfined, "0\n");
}

fn a_custom_filter_is_in_force(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    let profile = Arc::new(Profile::parse(profile).unwrap());
    for no_new_privileges in [false, true] {
        let refused = sandbox.shell_fails("mkdir /tmp/x", |input| {
            input.seccomp = SeccompChoice::Profile(Arc::clone(&profile));
            input.no_new_privileges = no_new_privileges;
        });
        assert!(refused.stderr.contains("No space left on device"), "{refused:?}");
    }
}

fn nothing_is_gained_by_execve(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let bit = |no_new_privileges: bool| {
        sandbox
            .shell("grep ^NoNewPrivs /proc/self/status | cut -f2", |input| input.no_new_privileges = no_new_privileges)
    };
    assert_eq!((bit(false).as_str(), bit(true).as_str()), ("0\n", "1\n"));
    // A set-user-id program is an ordinary one then.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::copy(sandbox.rootfs().join("bin/busybox"), sandbox.rootfs().join("bin/busybox.suid")).unwrap();
    std::fs::set_permissions(sandbox.rootfs().join("bin/busybox.suid"), mode).unwrap();
    let euid = |no_new_privileges: bool| {
        sandbox.shell("/bin/busybox.suid grep ^Uid: /proc/self/status | cut -f3", |input| {
            input.user = user::resolve_at(&sandbox.rootfs(), "web", &[]).unwrap();
            input.no_new_privileges = no_new_privileges;
        })
    };
    // Busybox gives the right up by itself for this applet, so only the kernel's word counts.
    assert_eq!(euid(true), "1000\n");
}

fn paths_are_masked_and_read_only(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let text = sandbox.shell(
        "cat /proc/timer_list /proc/interrupts 2>/dev/null | wc -c; ls /sys/firmware | wc -l; ls /proc/acpi 2>/dev/null | wc -l; \
         for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/x /sys/kernel/x; do \
         (echo x > $f) 2>/dev/null && echo wrote $f; done; true",
        |_| {},
    );
    assert_eq!(text, "0\n0\n0\n");
    let open = sandbox.shell("ls /sys/firmware | wc -l", |input| input.masked_paths = Some(Vec::new()));
    assert_eq!(open.trim() == "0", std::fs::read_dir("/sys/firmware").unwrap().count() == 0);
    let own = sandbox.shell_fails("cat /etc/passwd | grep root", |input| {
        input.masked_paths = Some(vec!["/etc/passwd".to_owned(), "/does/not/exist".to_owned()]);
    });
    assert_eq!(own.stdout, "");
    let own = sandbox.shell_fails("touch /etc/passwd", |input| {
        input.read_only_paths = Some(vec!["/etc".to_owned(), "/does/not/exist".to_owned()]);
    });
    assert!(own.stderr.contains("Read-only file system"), "{own:?}");
}

fn the_root_can_be_read_only(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outcome = sandbox.shell_fails("echo x > /dev/shm/x && echo x > /tmp/x", |input| input.read_only_root = true);
    assert!(outcome.stderr.contains("/tmp/x: Read-only file system"), "{outcome:?}");
    assert!(!sandbox.rootfs().join("tmp/x").exists());
}

fn only_three_descriptors_are_open(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let script = "ls /proc/1/fd; true";
    assert_eq!(sandbox.shell(script, |_| {}), "0\n1\n2\n");
    let running = sandbox.create(&sandbox.input(&["sleep", "100"])).unwrap();
    sandbox.wait_for(running.shim.start()).unwrap();
    // runc says that it has started before its init has executed the program.
    let open = || std::fs::read_dir(format!("/proc/{}/fd", running.shim.pid())).unwrap().count();
    super::sandbox::eventually("three descriptors", || open() == 3);
    sandbox.wait_for(running.shim.signal(9, true)).unwrap();
    sandbox.wait_for(running.shim.wait()).unwrap();
}

fn the_working_directory_is_inside(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    assert_eq!(sandbox.shell("pwd", |input| input.cwd = "/home/web".to_owned()), "/home/web\n");
    // Descriptors of the shim as working directory (CVE-2024-21626): refused, or at least inside.
    for descriptor in 3..24 {
        let mut input = sandbox.input(&[
            "sh",
            "-c",
            "cat ../../../../../../../etc/hostname-of-host ../../../../../../etc/shadow; pwd",
        ]);
        input.cwd = format!("/proc/self/fd/{descriptor}");
        match sandbox.create(&input) {
            Err(_) => super::sandbox::assert_gone(&input.cgroup),
            Ok(running) => {
                sandbox.wait_for(async {
                    if running.shim.start().await.is_ok() {
                        running.shim.wait().await.unwrap();
                        panic!("started in {}", input.cwd);
                    }
                    running.shim.wait().await.unwrap();
                });
            }
        }
    }
}

fn the_user_is_that_of_the_specification(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let id = |user: &str, add: &[&str]| {
        let add: Vec<String> = add.iter().map(|group| (*group).to_owned()).collect();
        sandbox.shell(
            "id -u; id -g; grep ^Groups: /proc/self/status | cut -f2; echo $HOME; echo out > /dev/stdout",
            |input| {
                input.user = user::resolve_at(&sandbox.rootfs(), user, &add).unwrap();
            },
        )
    };
    let id = |user: &str, add: &[&str]| id(user, add).replace(" \n", "\n");
    assert_eq!(id("", &[]), "0\n0\n0\n/root\nout\n");
    assert_eq!(id("web", &["7"]), "1000\n1001\n7 40 1001\n/home/web\nout\n");
    assert_eq!(id("3000:4000", &[]), "3000\n4000\n4000\n/\nout\n");
}

/// What a volume's owner puts in the place of the folder between the check and the mount does not lead out.
fn a_subpath_stays_in_its_source(backend: Backend) {
    if backend != Backend::Builtin {
        return;
    }
    let sandbox = Sandbox::new(backend);
    let volume = sandbox.dir.path().join("volume");
    for (folder, word) in [(volume.join("sub"), "plain"), (volume.join("etc"), "of the volume")] {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("word"), word).unwrap();
    }
    std::os::unix::fs::symlink("/etc", volume.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../etc", volume.join("climbing")).unwrap();
    for (subpath, word) in [("sub", "plain"), ("absolute", "of the volume"), ("climbing", "of the volume")] {
        let kind = MountKind::Bind {
            source: volume.clone(),
            recursive: true,
            propagation: None,
            read_only_non_recursive: false,
        };
        let mut input = sandbox.input(&["cat", "/data/word"]);
        input.mounts = vec![MountInput { destination: "/data".into(), read_only: false, kind }];
        let running = sandbox
            .create_with(&input, |config| {
                config.subpaths.insert("/data".into(), subpath.into());
            })
            .unwrap();
        assert_eq!(sandbox.finish(&running).stdout, word, "{subpath}");
        std::fs::remove_dir_all(&running.dir).unwrap();
    }
}

fn mounts_are_as_asked(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outside = sandbox.dir.path().join("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    std::fs::write(outside.join("file"), "content\n").unwrap();
    let bind = |source: PathBuf| MountKind::Bind {
        source,
        recursive: true,
        propagation: None,
        read_only_non_recursive: false,
    };
    let mount = |destination: &str, read_only, kind| MountInput { destination: destination.into(), read_only, kind };
    let text = sandbox.shell(
        "cat /data/file /one; echo y > /data/sub/new; echo x > /one 2>/dev/null || echo ro; \
         stat -c %a /scratch; grep -c ' /scratch tmpfs .*noexec' /proc/mounts; df -k /scratch >/dev/null 2>&1; \
         grep ' /scratch ' /proc/mounts | grep -o 'size=[0-9k]*'; grep -o ' /dev/shm .*size=[0-9k]*' /proc/mounts | grep -o 'size.*'",
        |input| {
            input.mounts = vec![
                mount("/data", false, bind(outside.clone())),
                mount("/one", true, bind(outside.join("file"))),
                mount("/scratch", false, MountKind::Tmpfs { options: vec!["size=1m,mode=1777".to_owned()] }),
            ];
            input.shm = Shm::Private { size_bytes: 8 << 20 };
        },
    );
    assert_eq!(text, "content\ncontent\nro\n1777\n1\nsize=1024k\nsize=8192k\n");
    assert_eq!(std::fs::read_to_string(outside.join("sub/new")).unwrap(), "y\n");
    // A link in the image does not lead a mount to the host.
    std::os::unix::fs::symlink("/../../../../../../../tmp", sandbox.rootfs().join("trap")).unwrap();
    let text = sandbox.shell("ls /tmp/inside", |input| {
        input.mounts = vec![mount("/trap/inside", false, bind(outside.clone()))];
    });
    assert!(text.contains("file"), "{text}");
    assert!(!std::path::Path::new("/tmp/inside").exists());
}

fn the_program_of_the_shim_cannot_be_changed(backend: Backend) {
    if backend == Backend::Runc {
        return;
    }
    // CVE-2019-5736: the container's program is the runtime's own, which it then tries to open for writing.
    let mut sandbox = Sandbox::new(backend);
    // A copy, so that nothing else executes it: the kernel says "busy" before it says "read-only".
    let copy = sandbox.dir.path().join("shoal");
    std::fs::copy("/proc/self/exe", &copy).unwrap();
    sandbox.program = shoal_engine::shim::client::ShimProgram::open(&copy).unwrap();
    let before = std::fs::read(&copy).unwrap();
    std::fs::write(sandbox.rootfs().join("bin/self"), "#!/proc/self/exe\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(sandbox.rootfs().join("bin/self"), mode).unwrap();
    if let Ok(running) = sandbox.create(&sandbox.input(&["/bin/self"])) {
        let started = sandbox.wait_for(running.shim.start());
        if started.is_ok() {
            sandbox.wait_for(running.shim.wait()).unwrap();
        }
    }
    // Whoever gets hold of the program while init waits cannot write it later.
    let running = sandbox.create(&sandbox.input(&["true"])).unwrap();
    let only_path = std::os::unix::fs::OpenOptionsExt::custom_flags(&mut std::fs::OpenOptions::new(), 0o10_000_000)
        .read(true)
        .open(format!("/proc/{}/exe", running.shim.pid()))
        .unwrap();
    let state = shoal_engine::shim::config::ShimState::read(&running.dir).unwrap().unwrap();
    sandbox.finish(&running);
    // Nor does the process that shims are forked from execute it any more.
    sandbox.program = shoal_engine::shim::client::ShimProgram::open(std::path::Path::new("/proc/self/exe")).unwrap();
    let shim = format!("/proc/{}", state.shim_pid);
    super::sandbox::eventually("the shim has ended", || !std::path::Path::new(&shim).join("exe").exists());
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&only_path));
    let refused = || std::fs::OpenOptions::new().write(true).open(&path).unwrap_err().raw_os_error();
    super::sandbox::eventually("it is read-only, and nobody executes it", || refused() == Some(30));
    assert!(std::fs::read(&copy).unwrap() == before);
}

fn devices_are_guarded(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let text = sandbox.shell(
        "ls /dev | tr '\\n' ' '; echo; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x > /dev/null; \
         mknod /tmp/mem c 1 1 && (head -c 1 /tmp/mem 2>&1 | grep -o 'Operation not permitted'); rm /tmp/mem",
        |_| {},
    );
    assert_eq!(
        text,
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n4\n4\nOperation not permitted\n"
    );
    let device = shoal_engine::runtime::spec::DeviceInput {
        path_on_host: "/dev/kmsg".into(),
        path_in_container: "/dev/messages".into(),
        permissions: "r".to_owned(),
    };
    let text = sandbox.shell(
        "stat -c %t:%T /dev/messages; head -c 1 /dev/messages >/dev/null && echo read; (echo x > /dev/messages) 2>/dev/null || echo refused",
        |input| {
            input.devices = vec![device];
            input.capabilities.add = vec!["SYSLOG".to_owned()];
        },
    );
    assert_eq!(text, "1:b\nread\nrefused\n");
    let text = sandbox.shell("mknod /tmp/k c 1 11 && head -c 1 /tmp/k >/dev/null && echo open; rm /tmp/k", |input| {
        input.device_cgroup_rules = vec!["c 1:11 r".to_owned()];
        input.capabilities.add = vec!["SYSLOG".to_owned()];
    });
    assert_eq!(text, "open\n");
}

fn privileged_is_privileged(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let text = sandbox.shell(
        "grep ^Seccomp: /proc/self/status | cut -f2; grep ^CapEff /proc/self/status | cut -f2; test -e /dev/kmsg && echo kmsg; \
         mkdir /tmp/m; mount -t tmpfs none /tmp/m && echo mounted; ls /sys/firmware | wc -l",
        |input| input.privileged = true,
    );
    let lines: Vec<&str> = text.lines().collect();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    assert_eq!(lines[..4], ["0", bounding, "kmsg", "mounted"]);
    assert_ne!(lines[4], "0");
}

fn sysctls_stay_in_their_namespace(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let text = sandbox.shell(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni",
        |input| {
            input.default_network_sysctls = true;
            input.sysctls.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
            input.sysctls.insert("kernel.shmmni".to_owned(), "77".to_owned());
        },
    );
    assert_eq!(text, "0\n1\n77\n");
    for (name, value) in [
        ("kernel.core_pattern", "|/bin/x"),
        ("vm.swappiness", "1"),
        ("net/../kernel.core_pattern", "x"),
        ("net.ipv4.ip_forward", "1\n2"),
        ("net.ipv4.conf.a+b.x", "1"),
        ("kernel.shmmni", "1+kernel.core_pattern=x"),
    ] {
        let mut input = sandbox.input(&["true"]);
        input.sysctls.insert(name.to_owned(), value.to_owned());
        assert!(shoal_engine::runtime::spec::build(&input).is_err(), "{name}");
    }
}
