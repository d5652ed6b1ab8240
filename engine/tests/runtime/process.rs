//! The process itself: its limits, its signals, what its filter does, and what an exec has of its own.

use std::sync::Arc;

use oci_spec::runtime::{LinuxCapabilitiesBuilder, PosixRlimit, Process, UserBuilder};
use serde_json::json;
use shoal_engine::runtime::seccomp::Profile;
use shoal_engine::runtime::spec::SeccompChoice;
use shoal_engine::shim::client::{AttachEvent, AttachOptions};
use shoal_engine_sys::user_namespace::{Maps, UserNamespace};

use super::exec::Box;
use super::lifecycle::with_init;
use super::sandbox::{Backend, Sandbox, eventually, read_all};

pub(crate) const TESTS: &[crate::Test] = &[
    ("process::every_limit_is_set", every_limit_is_set),
    ("process::an_exec_is_what_its_process_says", an_exec_is_what_its_process_says),
    ("process::scheduling_and_personality_are_as_asked", scheduling_and_personality_are_as_asked),
    ("process::clocks_can_be_its_own", clocks_can_be_its_own),
    ("process::clocks_can_be_its_own_in_a_user_namespace", clocks_can_be_its_own_in_a_user_namespace),
    (
        "process::a_scheduler_that_forks_do_not_inherit_reaches_the_program",
        a_scheduler_that_forks_do_not_inherit_reaches_the_program,
    ),
    ("process::what_is_not_done_is_refused", what_is_not_done_is_refused),
    ("process::signals_reach_the_program", signals_reach_the_program),
    ("process::the_first_process_is_the_kernels_own_case", the_first_process_is_the_kernels_own_case),
    ("process::a_filter_does_what_it_says", a_filter_does_what_it_says),
];

/// Each with how the kernel calls it, and values that are no one's defaults.
const LIMITS: &[(&str, &str, u64, u64)] = &[
    ("RLIMIT_AS", "Max address space", 1 << 31, 1 << 32),
    ("RLIMIT_CORE", "Max core file size", 0, 4096),
    ("RLIMIT_CPU", "Max cpu time", 111, 222),
    ("RLIMIT_DATA", "Max data size", 1 << 29, 1 << 30),
    ("RLIMIT_FSIZE", "Max file size", 65536, 131_072),
    ("RLIMIT_LOCKS", "Max file locks", 11, 12),
    ("RLIMIT_MEMLOCK", "Max locked memory", 8192, 16384),
    ("RLIMIT_MSGQUEUE", "Max msgqueue size", 4096, 8192),
    ("RLIMIT_NICE", "Max nice priority", 0, 0),
    ("RLIMIT_NOFILE", "Max open files", 61, 72),
    ("RLIMIT_NPROC", "Max processes", 301, 302),
    ("RLIMIT_RSS", "Max resident set", 1 << 27, 1 << 28),
    ("RLIMIT_RTPRIO", "Max realtime priority", 0, 0),
    ("RLIMIT_RTTIME", "Max realtime timeout", 1000, 2000),
    ("RLIMIT_SIGPENDING", "Max pending signals", 101, 102),
    ("RLIMIT_STACK", "Max stack size", 1 << 20, 1 << 21),
];

fn limits() -> Vec<PosixRlimit> {
    let limit = |(name, _, soft, hard): &(&str, &str, u64, u64)| {
        serde_json::from_value(json!({"type": name, "soft": soft, "hard": hard})).unwrap()
    };
    LIMITS.iter().map(limit).collect()
}

fn assert_limits(table: &str) {
    for (name, words, soft, hard) in LIMITS {
        let line = table.lines().find_map(|line| line.strip_prefix(words)).unwrap_or_else(|| panic!("{name}: {table}"));
        let values: Vec<&str> = line.split_whitespace().take(2).collect();
        assert_eq!(values, [soft.to_string(), hard.to_string()], "{name}");
    }
}

fn every_limit_is_set(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let input = sandbox.input(&["cat", "/proc/self/limits"]);
    let created = sandbox.create_from(
        &input,
        |_| {},
        |spec| {
            spec.process_mut().as_mut().unwrap().set_rlimits(Some(limits()));
        },
    );
    assert_limits(&sandbox.finish(&created.unwrap()).stdout);
    // Those of an exec are its own.
    let container = Box::new(&sandbox, |_| {});
    let shim = container.prepare_process(&["cat", "/proc/self/limits"], |process| {
        process.set_rlimits(Some(limits()));
    });
    let outcome = sandbox.wait_for(async {
        let shim = shim.unwrap();
        let attachment = shim.attach(AttachOptions::default()).await.unwrap();
        shim.start().await.unwrap();
        read_all(attachment.output).await
    });
    assert_limits(&outcome.stdout);
}

fn an_exec_is_what_its_process_says(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let script = "umask; pwd; echo $WORD; id -u; id -g; grep -E '^(Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):' \
                  /proc/self/status | cut -f2";
    let shim = container.prepare_process(&["sh", "-c", script], |process| {
        let raw = |names: &[&str]| serde_json::from_value(json!(names)).unwrap();
        let one = ["CAP_NET_RAW"];
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding::<oci_spec::runtime::Capabilities>(raw(&["CAP_NET_RAW", "CAP_CHOWN"]))
            .permitted::<oci_spec::runtime::Capabilities>(raw(&one))
            .effective::<oci_spec::runtime::Capabilities>(raw(&one))
            .inheritable::<oci_spec::runtime::Capabilities>(raw(&one))
            .ambient::<oci_spec::runtime::Capabilities>(raw(&one))
            .build()
            .unwrap();
        let user = UserBuilder::default().uid(1234_u32).gid(56_u32).umask(0o027_u32).additional_gids([7, 8]).build();
        process.set_capabilities(Some(sets)).set_user(user.unwrap()).set_no_new_privileges(Some(true));
        process.set_cwd("/home/web".into()).set_env(Some(vec!["PATH=/bin".to_owned(), "WORD=two words".to_owned()]));
    });
    let outcome = sandbox.wait_for(async {
        let shim = shim.unwrap();
        let attachment = shim.attach(AttachOptions::default()).await.unwrap();
        shim.start().await.unwrap();
        read_all(attachment.output).await
    });
    let (raw, both) = ("0000000000002000", "0000000000002001");
    // runc 1.1 has no word for it.
    let umask = if backend == Backend::Runc { "0022" } else { "0027" };
    let expected = format!("{umask}\n/home/web\ntwo words\n1234\n56\n7 8\n{raw}\n{raw}\n{raw}\n{both}\n{raw}\n1\n");
    assert_eq!(outcome.stdout.replace(" \n", "\n"), expected, "{outcome:?}");
}

/// runc 1.1 knows nothing of these: what it would do differently is to be seen with the library.
fn scheduling_and_personality_are_as_asked(backend: Backend) {
    if backend == Backend::Runc {
        return;
    }
    let sandbox = Sandbox::new(backend);
    // Niceness and policy, class and level of input and output, machine.
    let look = "cut -d ' ' -f 19,41 /proc/self/stat; busybox ionice -p $$; busybox uname -m";
    let set = |process: &mut Process, nice: i32, level: i64| {
        let scheduler = json!({"policy": "SCHED_BATCH", "nice": nice});
        let priority = json!({"class": "IOPRIO_CLASS_BE", "priority": level});
        process.set_scheduler(serde_json::from_value(scheduler).unwrap());
        process.set_io_priority(serde_json::from_value(priority).unwrap());
    };
    let input = sandbox.input(&["sh", "-c", &format!("{look}; sleep 100")]);
    let created = sandbox.create_from(
        &input,
        |_| {},
        |spec| {
            set(spec.process_mut().as_mut().unwrap(), 5, 6);
            let personality = serde_json::from_value(json!({"domain": "LINUX32"})).unwrap();
            spec.linux_mut().as_mut().unwrap().set_personality(personality);
        },
    );
    let container = Box::around(&sandbox, input, created.unwrap());
    let seen = started_until(&sandbox, &container, "86\n");
    assert_eq!(seen, "5 3\nbest-effort: prio 6\ni686\n");
    let shim = container.prepare_process(&["sh", "-c", look], |process| set(process, 7, 1)).unwrap();
    let outcome = sandbox.wait_for(async {
        let attachment = shim.attach(AttachOptions::default()).await.unwrap();
        shim.start().await.unwrap();
        read_all(attachment.output).await
    });
    assert_eq!(outcome.stdout, "7 3\nbest-effort: prio 1\ni686\n", "{outcome:?}");
    drop(container);
    // What the kernel does not do is an error.
    let wrong =
        sandbox.create_from(&sandbox.input(&["true"]), |_| {}, |spec| set(spec.process_mut().as_mut().unwrap(), 5, 99));
    assert!(backend != Backend::Builtin || wrong.is_err());
}

fn clocks_can_be_its_own(backend: Backend) {
    if backend == Backend::Runc {
        return;
    }
    let sandbox = Sandbox::new(backend);
    let look = "cat /proc/self/timens_offsets | tr -s ' '; cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time";
    let input = sandbox.input(&["sh", "-c", &format!("{look}; sleep 100")]);
    let created = sandbox.create_from(
        &input,
        |_| {},
        |spec| {
            let linux = spec.linux_mut().as_mut().unwrap();
            let mut namespaces = linux.namespaces().clone().unwrap();
            namespaces.push(serde_json::from_value(json!({"type": "time"})).unwrap());
            let offsets = json!({"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 100_000_000}});
            linux.set_namespaces(Some(namespaces)).set_time_offsets(serde_json::from_value(offsets).unwrap());
        },
    );
    let container = Box::around(&sandbox, input, created.unwrap());
    let seen = started_until(&sandbox, &container, "]\n");
    let again = container.exec(&["sh", "-c", look], |_, _, _| {}).stdout;
    let own = std::fs::read_link("/proc/self/ns/time").unwrap();
    for seen in [&seen, &again] {
        let lines: Vec<&str> = seen.lines().map(str::trim).collect();
        assert_eq!(lines[..2], ["monotonic 1000 5", "boottime 100000000 0"], "{seen}");
        assert!(lines[2].parse::<u64>().unwrap() > 100_000_000, "{seen}");
        assert_ne!(lines[3], own.to_str().unwrap());
    }
    assert_eq!(seen.lines().next_back(), again.lines().next_back(), "an exec has the same");
}

/// A container in a user namespace has its root from there, and its clocks.
fn clocks_can_be_its_own_in_a_user_namespace(backend: Backend) {
    if backend != Backend::Builtin {
        return;
    }
    let sandbox = Sandbox::new(backend);
    let place = sandbox.dir.path().join("user");
    let user = UserNamespace::create(Maps { uids: "0 300000 65536\n", gids: "0 300000 65536\n" }).unwrap();
    user.bind(&place).unwrap();
    let look = "cat /proc/self/timens_offsets | tr -s ' '; cut -d. -f1 /proc/uptime; id -u";
    let created = sandbox.create_from(
        &sandbox.input(&["sh", "-c", look]),
        |_| {},
        |spec| {
            let linux = spec.linux_mut().as_mut().unwrap();
            let mut namespaces = linux.namespaces().clone().unwrap();
            namespaces.push(serde_json::from_value(json!({"type": "time"})).unwrap());
            namespaces.push(serde_json::from_value(json!({"type": "user", "path": place})).unwrap());
            let offsets = json!({"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 100_000_000}});
            linux.set_namespaces(Some(namespaces)).set_time_offsets(serde_json::from_value(offsets).unwrap());
        },
    );
    shoal_engine_sys::netns::unbind(&place).unwrap();
    let running = created.unwrap();
    let took = running.shim.took().unwrap();
    let total_ns = took.clone_ns + took.specification_ns + took.cgroup_ns + took.mounts_ns + took.user_ns;
    assert!(total_ns < 900_000_000_000, "the change of clocks was taken for time: {took:?}");
    let outcome = sandbox.finish(&running);
    let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["monotonic 1000 5", "boottime 100000000 0"], "{outcome:?}");
    assert!(lines[2].parse::<u64>().unwrap() > 100_000_000 && lines[3] == "0", "{outcome:?}");
}

/// A process of the deadline scheduler may not fork, and that of one which is reset by a fork is lost by it: neither may come
/// before the program.
fn a_scheduler_that_forks_do_not_inherit_reaches_the_program(backend: Backend) {
    if backend != Backend::Builtin {
        return;
    }
    let sandbox = Sandbox::new(backend);
    let deadline =
        json!({"policy": "SCHED_DEADLINE", "runtime": 5_000_000, "deadline": 100_000_000, "period": 100_000_000});
    let reset = json!({"policy": "SCHED_BATCH", "nice": -5, "flags": ["SCHED_RESET_ON_FORK"]});
    let look = ["cut", "-d", " ", "-f", "19,41", "/proc/self/stat"];
    for (scheduler, number) in [(&deadline, "0 6\n"), (&reset, "-5 3\n")] {
        let sandbox = Sandbox::new(backend);
        let set = |process: &mut Process| {
            process.set_scheduler(serde_json::from_value(scheduler.clone()).unwrap());
        };
        for input in [sandbox.input(&look), with_init(&sandbox, &look)] {
            let created = sandbox.create_from(&input, |_| {}, |spec| set(spec.process_mut().as_mut().unwrap()));
            assert_eq!(sandbox.finish(&created.unwrap()).stdout, number, "{scheduler}");
        }
        let input = sandbox.input(&["sleep", "100"]);
        let created = sandbox.create(&input).unwrap();
        sandbox.wait_for(created.shim.start()).unwrap();
        let container = Box::around(&sandbox, input, created);
        let shim = container.prepare_process(&look, set).unwrap();
        let outcome = sandbox.wait_for(async {
            let attachment = shim.attach(AttachOptions::default()).await.unwrap();
            shim.start().await.unwrap();
            read_all(attachment.output).await
        });
        assert_eq!(outcome.stdout, number, "{outcome:?}");
    }
    let hooks = json!({"startContainer": [{"path": "/bin/true"}]});
    let refused = sandbox.create_from(
        &sandbox.input(&["true"]),
        |_| {},
        |spec| {
            spec.set_hooks(Some(serde_json::from_value(hooks).unwrap()));
            let process = spec.process_mut().as_mut().unwrap();
            process.set_scheduler(serde_json::from_value(deadline.clone()).unwrap());
        },
    );
    assert!(refused.err().unwrap().to_string().contains("deadline scheduler"));
    // There nobody has the right to set it.
    let refused = sandbox.create_from(
        &sandbox.input(&["true"]),
        |_| {},
        |spec| {
            let linux = spec.linux_mut().as_mut().unwrap();
            let mut namespaces = linux.namespaces().clone().unwrap();
            namespaces.push(serde_json::from_value(json!({"type": "user", "path": "/proc/self/ns/user"})).unwrap());
            linux.set_namespaces(Some(namespaces));
            let process = spec.process_mut().as_mut().unwrap();
            process.set_scheduler(serde_json::from_value(deadline.clone()).unwrap());
        },
    );
    assert!(refused.err().unwrap().to_string().contains("in a user namespace"));
}

/// What a container says from its start until these words.
fn started_until(sandbox: &Sandbox, container: &Box, words: &str) -> String {
    let mut seen = String::new();
    sandbox.wait_for(async {
        let mut attachment = container.running.shim.attach(AttachOptions::default()).await.unwrap();
        container.running.shim.start().await.unwrap();
        while !seen.contains(words) {
            let Some(AttachEvent::Stdout(bytes)) = attachment.output.next().await.unwrap() else { panic!("{seen}") };
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    });
    seen
}

/// What the built-in runtime leaves undone it does not promise.
fn what_is_not_done_is_refused(backend: Backend) {
    if backend != Backend::Builtin {
        return;
    }
    let sandbox = Sandbox::new(backend);
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    for (part, words) in [
        (json!({"namespaces": [{"type": "mount"}, {"type": "user"}]}), "a user namespace has to be made before"),
        (json!({"namespaces": [{"type": "pid"}]}), "mounts of its own"),
        (json!({"uidMappings": mapping}), "user mappings"),
        (json!({"gidMappings": mapping}), "user mappings"),
        (json!({"intelRdt": {"closID": "x"}}), "Intel RDT"),
        (json!({"timeOffsets": {"boottime": {"secs": 1}}}), "time offsets need"),
        (json!({"personality": {"domain": "LINUX", "flags": ["X"]}}), "flags of a personality"),
        (json!({"mountLabel": "system_u:object_r:x_t:s0"}), "SELinux"),
        (json!({"rootfsPropagation": "sideways"}), "root propagation"),
        (json!({"resources": {"unified": {"memory.high": "1"}}}), "unified"),
        (json!({"resources": {"network": {"classID": 1}}}), "network priorities"),
        (json!({"resources": {"rdma": {"mlx": {"hcaHandles": 1}}}}), "RDMA"),
    ] {
        let input = sandbox.input(&["true"]);
        let change = |spec: &mut oci_spec::runtime::Spec| {
            let mut whole = serde_json::to_value(&*spec).unwrap();
            let linux = whole["linux"].as_object_mut().unwrap();
            linux.extend(part.as_object().unwrap().clone());
            *spec = serde_json::from_value(whole).unwrap();
        };
        let error = sandbox.create_from(&input, |_| {}, change).err().unwrap_or_else(|| panic!("{part}"));
        assert!(error.to_string().contains(words), "{part}: {error}");
        super::sandbox::assert_gone(&input.cgroup);
    }
}

const SIGNALS: &[(i32, &str)] = &[
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (28, "WINCH"),
    (30, "PWR"),
];

fn signals_reach_the_program(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let traps: String = SIGNALS.iter().map(|(_, name)| format!("trap 'echo got {name}' {name}; ")).collect();
    let script = format!("{traps} trap 'exit 9' XCPU; echo ready; while :; do sleep 0.02; done");
    let args = ["sh", "-c", &script];
    for input in [sandbox.input(&args), with_init(&sandbox, &args)] {
        let below_init = input.init.is_some();
        let running = sandbox.create(&input).unwrap();
        sandbox.wait_for(async {
            let mut attachment = running.shim.attach(AttachOptions::default()).await.unwrap();
            running.shim.start().await.unwrap();
            let mut expect = async |words: &str| match attachment.output.next().await.unwrap() {
                Some(AttachEvent::Stdout(bytes)) => assert_eq!(String::from_utf8_lossy(&bytes), words),
                other => panic!("{words}: {other:?}"),
            };
            expect("ready\n").await;
            for (number, name) in SIGNALS {
                running.shim.signal(*number, false).await.unwrap();
                expect(&format!("got {name}\n")).await;
            }
            running.shim.signal(24, false).await.unwrap();
            assert_eq!(running.shim.wait().await.unwrap().code, 9, "below an init: {below_init}");
        });
    }
}

/// The kernel gives the first process of a namespace no signal that it does not handle.
fn the_first_process_is_the_kernels_own_case(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    // runc says that it has started before its own first process has become the program.
    let start = |input: &shoal_engine::runtime::spec::SpecInput, name: &str| {
        let running = sandbox.create(input).unwrap();
        sandbox.wait_for(running.shim.start()).unwrap();
        let comm = format!("/proc/{}/comm", running.shim.pid());
        eventually("it is the program", || std::fs::read_to_string(&comm).unwrap().trim() == name);
        running
    };
    for signal in [15, 1, 10] {
        let running = start(&sandbox.input(&["sleep", "100"]), "sleep");
        sandbox.wait_for(async {
            running.shim.signal(signal, false).await.unwrap();
            // The kernel has dropped it by the time that the next one is taken.
            running.shim.signal(9, false).await.unwrap();
            let exit = running.shim.wait().await.unwrap();
            assert_eq!((exit.code, exit.signal), (137, Some(9)), "{signal}");
        });
        let running = start(&with_init(&sandbox, &["sleep", "100"]), "docker-init");
        sandbox.wait_for(async {
            // Until it listens, and has a program to pass it on to.
            while running.shim.signal(signal, false).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            assert_eq!(running.shim.wait().await.unwrap().code, 128 + signal);
        });
    }
}

fn a_filter_does_what_it_says(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let code = |rule: &str| {
        let profile = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
        let profile = Arc::new(Profile::parse(&profile).unwrap());
        let said = sandbox.shell("mkdir /tmp/x 2>/dev/null; echo $?; rm -rf /tmp/x", |input| {
            input.seccomp = SeccompChoice::Profile(Arc::clone(&profile));
        });
        said.trim().parse::<i32>().unwrap()
    };
    let mkdir = |action: &str, more: &str| code(&format!(r#"{{"names":["mkdir"],"action":"{action}"{more}}}"#));
    assert_eq!(mkdir("SCMP_ACT_ALLOW", ""), 0);
    assert_eq!(mkdir("SCMP_ACT_LOG", ""), 0);
    assert_eq!(mkdir("SCMP_ACT_ERRNO", r#","errnoRet":17"#), 1);
    assert_eq!(mkdir("SCMP_ACT_TRAP", ""), 128 + 31);
    assert_eq!(mkdir("SCMP_ACT_KILL_PROCESS", ""), 128 + 31);
    assert_eq!(mkdir("SCMP_ACT_KILL", ""), 128 + 31);
    // The same program as with the built-in runtime.
    if backend == Backend::Libcontainer {
        return;
    }
    let mode = |operator: &str, value: u32, second: u32| {
        mkdir(
            "SCMP_ACT_ERRNO",
            &format!(r#","args":[{{"index":1,"value":{value},"valueTwo":{second},"op":"{operator}"}}]"#),
        )
    };
    // Busybox leaves the mode to the umask: it asks for 777.
    for (operator, value, second, refused) in [
        ("SCMP_CMP_EQ", 0o777, 0, true),
        ("SCMP_CMP_EQ", 0o776, 0, false),
        ("SCMP_CMP_NE", 0o777, 0, false),
        ("SCMP_CMP_NE", 0o776, 0, true),
        ("SCMP_CMP_GE", 0o777, 0, true),
        ("SCMP_CMP_GT", 0o777, 0, false),
        ("SCMP_CMP_LT", 0o1000, 0, true),
        ("SCMP_CMP_LE", 0o776, 0, false),
        ("SCMP_CMP_MASKED_EQ", 0o100, 0o100, true),
        ("SCMP_CMP_MASKED_EQ", 0o100, 0, false),
    ] {
        assert_eq!(mode(operator, value, second) != 0, refused, "{operator} {value:o} {second:o}");
    }
}
