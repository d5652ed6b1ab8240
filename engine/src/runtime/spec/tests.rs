//! Specifications by option mix, against files. `UPDATE_GOLDENS=1 cargo test` writes them anew: read the difference.

use std::path::Path;

use super::*;
use crate::cgroup::limits::{Limits, Throttle};

fn input() -> SpecInput {
    SpecInput {
        id: "c0ffee".to_owned(),
        rootfs: "/rootfs".into(),
        args: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        hostname: "box".to_owned(),
        cgroup: "/shoal/c0ffee".to_owned(),
        ..SpecInput::default()
    }
}

/// Compares, with the system call filter replaced by what can be read.
fn golden(name: &str, input: &SpecInput) {
    let built = build(input).unwrap();
    let mut value = serde_json::to_value(&built.spec).unwrap();
    if let Some(filter) = &built.filter {
        let mut seccomp = serde_json::to_value(&filter.oci).unwrap();
        let rules = seccomp["syscalls"].as_array().unwrap().len();
        seccomp["syscalls"] = format!("{rules} rules").into();
        value["linux"]["seccomp"] = seccomp;
    }
    sort_sets(&mut value);
    let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/runtime/spec/goldens").join(format!("{name}.json"));
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name}: UPDATE_GOLDENS=1 writes {path:?}");
}

/// Capabilities come from hash sets.
fn sort_sets(value: &mut serde_json::Value) {
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        let names = value["process"]["capabilities"][set].as_array_mut().unwrap();
        names.sort_by_key(ToString::to_string);
    }
}

#[test]
fn default() {
    golden("default", &input());
}

#[test]
fn hardened() {
    golden(
        "hardened",
        &SpecInput {
            read_only_root: true,
            no_new_privileges: true,
            capabilities: CapabilityChange { add: vec!["net_bind_service".to_owned()], drop: vec!["ALL".to_owned()] },
            user: ContainerUser { uid: 1000, gid: 1001, additional_gids: vec![40, 1001], home: "/home/web".to_owned() },
            cwd: "/srv".to_owned(),
            mounts: vec![MountInput {
                destination: "/tmp".into(),
                read_only: false,
                kind: MountKind::Tmpfs { options: vec!["size=64m,mode=1777".to_owned(), "exec".to_owned()] },
            }],
            ulimits: vec![UlimitInput { name: "nofile".to_owned(), soft: 100, hard: -1 }],
            oom_score_adj: Some(300),
            annotations: [("com.example".to_owned(), "x".to_owned())].into(),
            ..input()
        },
    );
}

#[test]
fn limited() {
    let throttle = Throttle { major: 8, minor: 0, rate: 1 << 20 };
    golden(
        "limited",
        &SpecInput {
            limits: Limits {
                cpu_shares: Some(512),
                cpuset_cpus: Some("0-1".to_owned()),
                memory_bytes: Some(64 << 20),
                memory_and_swap_bytes: Some(128 << 20),
                memory_reservation_bytes: Some(32 << 20),
                pids: Some(100),
                blkio_weight: Some(300),
                write_bytes_per_second: vec![throttle],
                ..Limits::default()
            }
            .with_nano_cpus(1_500_000_000),
            ..input()
        },
    );
}

#[test]
fn mounted() {
    let bind = |destination: &str, read_only, propagation| MountInput {
        destination: destination.into(),
        read_only,
        kind: MountKind::Bind {
            source: "/host/data".into(),
            recursive: true,
            propagation,
            read_only_non_recursive: false,
        },
    };
    golden(
        "mounted",
        &SpecInput {
            mounts: vec![
                bind("/data/below", true, None),
                bind("/data", false, Some(Propagation::RSlave)),
                bind("/dev/shm", false, None),
            ],
            init: Some("/run/shoal/docker-init".into()),
            shm: Shm::None,
            ..input()
        },
    );
}

#[test]
fn shared() {
    golden(
        "shared",
        &SpecInput {
            network: NamespaceMode::Join("/run/shoal/netns/x".into()),
            default_network_sysctls: true,
            ipc: NamespaceMode::Join("/proc/7/ns/ipc".into()),
            shm: Shm::Bind("/proc/7/root/dev/shm".into()),
            pid: NamespaceMode::Host,
            uts: NamespaceMode::Host,
            cgroup_namespace: NamespaceMode::Host,
            sysctls: [("net.core.somaxconn".to_owned(), "1024".to_owned())].into(),
            seccomp: SeccompChoice::Unconfined,
            device_cgroup_rules: vec!["c 42:* rmw".to_owned()],
            terminal: true,
            ..input()
        },
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |input: SpecInput| build(&input).unwrap_err().to_string();
    assert_eq!(refused(SpecInput { args: Vec::new(), ..input() }), "no command specified");
    assert!(refused(SpecInput { cwd: "srv".to_owned(), ..input() }).contains("absolute"));
    let mount = |destination: &str| MountInput {
        destination: destination.into(),
        read_only: false,
        kind: MountKind::Tmpfs { options: Vec::new() },
    };
    for destination in ["/", "/../", "relative", "/proc", "/proc/../proc/sys"] {
        assert!(
            refused(SpecInput { mounts: vec![mount(destination)], ..input() }).contains("invalid mount"),
            "{destination}"
        );
    }
    let bind = |source: &str, destination: &str| MountInput {
        kind: MountKind::Bind {
            source: source.into(),
            recursive: true,
            propagation: None,
            read_only_non_recursive: false,
        },
        ..mount(destination)
    };
    for (source, destination) in
        [("/srv", "/proc"), ("/srv", "/proc/sys"), ("/proc", "/proc/self"), ("/srv", "/proc/1/attr")]
    {
        let text = refused(SpecInput { mounts: vec![bind(source, destination)], ..input() });
        assert!(text.contains("/proc"), "{destination}: {text}");
    }
    for (source, destination) in [("/proc", "/proc"), ("/srv", "/proc/meminfo"), ("/srv", "/process")] {
        assert!(build(&SpecInput { mounts: vec![bind(source, destination)], ..input() }).is_ok(), "{destination}");
    }
    let ulimit = |name: &str, soft, hard| vec![UlimitInput { name: name.to_owned(), soft, hard }];
    assert!(refused(SpecInput { ulimits: ulimit("nofile", 2, 1), ..input() }).contains("less than or equal"));
    assert!(refused(SpecInput { ulimits: ulimit("nofiles", 1, 1), ..input() }).contains("invalid ulimit type"));
    for rule in ["c 1:3", "x 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 rwmr", "c a:b r", ""] {
        let text = refused(SpecInput { device_cgroup_rules: vec![rule.to_owned()], ..input() });
        assert!(text.contains("invalid device cgroup rule format"), "{rule}");
    }
    let device = |path: &str| DeviceInput {
        path_on_host: path.into(),
        path_in_container: PathBuf::new(),
        permissions: String::new(),
    };
    for path in ["/dev/does-not-exist", "/etc/passwd"] {
        assert!(refused(SpecInput { devices: vec![device(path)], ..input() }).contains(path), "{path}");
    }
    assert!(refused(SpecInput { domainname: "x".to_owned(), uts: NamespaceMode::Host, ..input() }).contains("UTS"));
    let limits = Limits { memory_bytes: Some(1), ..Limits::default() };
    assert!(refused(SpecInput { limits, ..input() }).contains("6MB"));
}

#[test]
fn privileged_has_everything() {
    let built = build(&SpecInput { privileged: true, ..input() }).unwrap();
    assert!(built.filter.is_none());
    let linux = built.spec.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths().as_deref(), Some(&[][..]));
    assert_eq!(linux.readonly_paths().as_deref(), Some(&[][..]));
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    assert!(rules.len() == 1 && rules[0].allow() && rules[0].access().as_deref() == Some("rwm"));
    let sys =
        built.spec.mounts().as_ref().unwrap().iter().find(|mount| mount.destination() == Path::new("/sys")).unwrap();
    assert!(sys.options().as_ref().unwrap().contains(&"rw".to_owned()));
}

#[test]
fn an_exec_is_as_confined_as_its_container() {
    let container = build(&SpecInput { no_new_privileges: true, ..input() }).unwrap().spec;
    let user = ContainerUser::default();
    let args = ["ls".to_owned()];
    let process = exec_process(&ExecBasis::of(&container), &args, &[], "", &user, (false, false)).unwrap();
    let own = container.process().as_ref().unwrap();
    assert_eq!(process.capabilities(), own.capabilities());
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(process.cwd(), Path::new("/"));
    assert_eq!(process.env().as_deref(), Some(&["HOME=/root".to_owned()][..]));
    let privileged = exec_process(&ExecBasis::of(&container), &args, &[], "/", &user, (true, true)).unwrap();
    assert_eq!((privileged.no_new_privileges(), privileged.terminal()), (None, Some(true)));
    assert!(exec_process(&ExecBasis::of(&container), &[], &[], "/", &user, (false, false)).is_err());
}

#[test]
fn what_an_exec_takes_over_is_found_again_in_the_file() {
    let ulimits = vec![UlimitInput { name: "nofile".to_owned(), soft: 5, hard: 6 }];
    let mut spec =
        build(&SpecInput { no_new_privileges: true, ulimits, oom_score_adj: Some(7), ..input() }).unwrap().spec;
    let personality = serde_json::from_value(serde_json::json!({"domain": "LINUX32"})).unwrap();
    spec.linux_mut().as_mut().unwrap().set_personality(personality);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, serde_json::to_vec(&spec).unwrap()).unwrap();
    let basis = ExecBasis::of(&spec);
    assert!(basis.personality().is_some() && basis != ExecBasis::default());
    assert_eq!(ExecBasis::read(&path).unwrap(), basis);
}
