//! From creation to the end.

use std::path::Path;

use shoal_engine::logs::remote::Buffer;
use shoal_engine::runtime::spec::{MountInput, MountKind, SpecInput};
use shoal_engine::shim::client::{AttachOptions, Shim};
use shoal_engine::shim::config::{ExitRecord, LogFile, LogSink};
use shoal_engine::shim::protocol::Phase;

use super::sandbox::{Backend, Sandbox, assert_gone, eventually, read_all};

pub(crate) const TESTS: &[crate::Test] = &[
    ("lifecycle::output_and_exit_codes_arrive", output_and_exit_codes_arrive),
    ("lifecycle::nothing_runs_before_the_start", nothing_runs_before_the_start),
    ("lifecycle::a_missing_program_fails_the_creation", a_missing_program_fails_the_creation),
    ("lifecycle::signals_end_it", signals_end_it),
    ("lifecycle::a_created_one_can_be_killed", a_created_one_can_be_killed),
    ("lifecycle::one_that_nobody_starts_ends", one_that_nobody_starts_ends),
    ("lifecycle::a_request_that_was_given_up_confuses_no_other", a_request_that_was_given_up_confuses_no_other),
    ("lifecycle::a_shim_out_of_reach_is_not_lost", a_shim_out_of_reach_is_not_lost),
    ("lifecycle::it_outlives_its_daemon", it_outlives_its_daemon),
    ("lifecycle::pause_and_resume", pause_and_resume),
    ("lifecycle::a_log_that_hangs_holds_up_only_who_wants_that", a_log_that_hangs_holds_up_only_who_wants_that),
    ("lifecycle::a_log_beside_the_shim_is_whole", a_log_beside_the_shim_is_whole),
    ("lifecycle::the_log_is_whole", the_log_is_whole),
    ("lifecycle::init_reaps_and_forwards", init_reaps_and_forwards),
    ("lifecycle::a_long_path_is_no_trouble", a_long_path_is_no_trouble),
];

fn output_and_exit_codes_arrive(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outcome = sandbox.run(&sandbox.input(&["sh", "-c", "echo out; echo err >&2; exit 7"]));
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((outcome.exit.code, outcome.exit.signal, outcome.exit.oom_killed), (7, None, false));
    assert!(outcome.exit.finished_at.0 > 1_700_000_000_000_000_000);
    assert_eq!(sandbox.run(&sandbox.input(&["true"])).exit.code, 0);
    let killed = sandbox.run(&sandbox.input(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]));
    assert_eq!(killed.exit.code, 137);
}

fn nothing_runs_before_the_start(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["touch", "/started"])).unwrap();
    let status = sandbox.wait_for(running.shim.status()).unwrap();
    assert_eq!((status.phase, status.paused, status.exit), (Phase::Created, false, None));
    assert_eq!(status.pid, running.shim.pid());
    assert!(!sandbox.rootfs().join("started").exists());
    assert_eq!(sandbox.finish(&running).exit.code, 0);
    assert!(sandbox.rootfs().join("started").exists());
    assert!(ExitRecord::read(&running.dir).unwrap().is_some());
}

fn a_missing_program_fails_the_creation(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    std::fs::write(sandbox.rootfs().join("bin/plain"), "x").unwrap();
    for (program, code, words) in [
        ("nope", 127, "executable file not found in $PATH"),
        ("/bin/nope", 127, "no such file or directory"),
        ("/bin/plain", 126, "permission denied"),
    ] {
        let input = sandbox.input(&[program]);
        // runc finds the last one out only when it starts.
        let error = match sandbox.create(&input) {
            Err(error) => error,
            Ok(running) => sandbox.wait_for(running.shim.start()).unwrap_err(),
        };
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.exit_code(), code, "{error}");
        assert_gone(&input.cgroup);
    }
    // What the kernel refuses only when it is executed fails the start.
    std::os::unix::fs::symlink("/bin/plain2", sandbox.rootfs().join("bin/link")).unwrap();
    std::fs::write(sandbox.rootfs().join("bin/plain2"), "no program").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(sandbox.rootfs().join("bin/plain2"), mode).unwrap();
    if backend != Backend::Runc {
        let running = sandbox.create(&sandbox.input(&["/bin/link"])).unwrap();
        let error = sandbox.wait_for(running.shim.start()).unwrap_err();
        assert!(error.to_string().contains("exec format error"), "{error}");
        assert_eq!(error.exit_code(), 126);
        let exit = sandbox.wait_for(running.shim.wait()).unwrap();
        assert_eq!(exit.code, 126);
        assert!(exit.error.unwrap().contains("exec format error"));
        assert_gone(&running.cgroup);
    }
}

fn signals_end_it(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let script = "trap 'echo got term; exit 3' TERM; echo ready; while true; do sleep 0.1; done";
    let running = sandbox.create(&sandbox.input(&["sh", "-c", script])).unwrap();
    let outcome = sandbox.wait_for(async {
        let mut attachment = running.shim.attach(AttachOptions::default()).await.unwrap();
        running.shim.start().await.unwrap();
        attachment.output.next().await.unwrap();
        running.shim.signal(15, false).await.unwrap();
        read_all(attachment.output).await
    });
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (3, "got term\n"));
    let running = sandbox.create(&sandbox.input(&["sleep", "100"])).unwrap();
    let exit = sandbox.wait_for(async {
        running.shim.start().await.unwrap();
        running.shim.signal(9, true).await.unwrap();
        let (one, other) = tokio::join!(running.shim.wait(), running.shim.wait());
        assert_eq!(one.as_ref().unwrap(), &other.unwrap());
        one.unwrap()
    });
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    assert!(sandbox.wait_for(running.shim.signal(9, false)).is_err());
    assert_gone(&running.cgroup);
}

fn a_created_one_can_be_killed(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["true"])).unwrap();
    let exit = sandbox.wait_for(async {
        running.shim.signal(9, true).await.unwrap();
        running.shim.wait().await.unwrap()
    });
    assert_eq!(exit.code, 137);
    assert_gone(&running.cgroup);
}

fn one_that_nobody_starts_ends(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["true"])).unwrap();
    let (dir, cgroup) = (running.dir.clone(), running.cgroup.clone());
    // The daemon dies before the start. That another listens or waits is no reason to go on.
    drop(running.shim);
    let exit = sandbox.wait_for(shoal_engine::shim::client::wait_in(&dir)).unwrap();
    assert!(exit.error.unwrap().contains("before the start"));
    assert_gone(&cgroup);
}

fn a_request_that_was_given_up_confuses_no_other(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["sleep", "100"])).unwrap();
    sandbox.wait_for(async {
        running.shim.start().await.unwrap();
        for _ in 0..20 {
            // Asked, and given up before the answer, which would be a refusal.
            let _given_up = tokio::time::timeout(std::time::Duration::ZERO, running.shim.resize(80, 24)).await;
            assert_eq!(running.shim.status().await.unwrap().phase, Phase::Running);
        }
        running.shim.signal(9, true).await.unwrap();
        assert_eq!(running.shim.wait().await.unwrap().code, 137);
    });
    assert_gone(&running.cgroup);
}

fn a_shim_out_of_reach_is_not_lost(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["sleep", "100"])).unwrap();
    let (socket, away) = (running.dir.join("shim.sock"), running.dir.join("away.sock"));
    sandbox.wait_for(async {
        running.shim.start().await.unwrap();
        std::fs::rename(&socket, &away).unwrap();
        let waiting = running.shim.wait();
        tokio::pin!(waiting);
        let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut waiting).await;
        assert!(early.is_err(), "given up: {early:?}");
        std::fs::rename(&away, &socket).unwrap();
        running.shim.signal(9, true).await.unwrap();
        assert_eq!(waiting.await.unwrap().code, 137);
    });
    assert_gone(&running.cgroup);
}

fn it_outlives_its_daemon(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let input = sandbox.input(&["sh", "-c", "while ! test -e /go; do sleep 0.05; done; echo alive; exit 4"]);
    let running = sandbox.create(&input).unwrap();
    sandbox.wait_for(running.shim.start()).unwrap();
    let (dir, pid) = (running.dir.clone(), running.shim.pid());
    // The daemon dies: every connection closes.
    drop(running);
    let shim = sandbox.wait_for(Shim::connect(&dir)).unwrap();
    assert_eq!(shim.pid(), pid);
    let outcome = sandbox.wait_for(async {
        let attachment = shim.attach(AttachOptions::default()).await.unwrap();
        std::fs::write(sandbox.rootfs().join("go"), "").unwrap();
        read_all(attachment.output).await
    });
    assert_eq!((outcome.stdout.as_str(), outcome.exit.code), ("alive\n", 4));
    eventually("the shim has ended", || sandbox.wait_for(Shim::connect(&dir)).is_err());
    assert_eq!(ExitRecord::read(&dir).unwrap().unwrap().code, 4);
    // Whoever waits now reads the record.
    assert_eq!(sandbox.wait_for(shim.wait()).unwrap().code, 4);
}

fn pause_and_resume(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["sleep", "100"])).unwrap();
    sandbox.wait_for(async {
        let shim = &running.shim;
        assert!(shim.pause().await.is_err(), "not started yet");
        shim.start().await.unwrap();
        shim.pause().await.unwrap();
        assert!(shim.status().await.unwrap().paused);
        shim.resume().await.unwrap();
        assert!(!shim.status().await.unwrap().paused);
        shim.pause().await.unwrap();
        // A frozen container can be ended.
        shim.signal(9, true).await.unwrap();
        // runc thaws it by itself.
        let _ = shim.resume().await;
        assert_eq!(shim.wait().await.unwrap().code, 137);
    });
    assert_gone(&running.cgroup);
}

fn the_log_is_whole(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let path = sandbox.dir.path().join("x-json.log");
    let input = sandbox.input(&["sh", "-c", "seq 20000; echo err >&2; printf end"]);
    let running = sandbox
        .create_with(&input, |config| {
            let path = path.clone();
            config.log = LogSink::JsonFile {
                file: LogFile { path, max_size_bytes: None, max_file: 1, compress: false },
                attributes: Vec::new(),
                buffer: Buffer::Blocking,
            };
        })
        .unwrap();
    sandbox.wait_for(async {
        running.shim.start().await.unwrap();
        running.shim.wait().await.unwrap();
    });
    assert_seq_is_logged(&std::fs::read_to_string(&path).unwrap());
}

/// A file that takes nothing makes a container wait, unless it is not to: then its lines are lost.
fn a_log_that_hangs_holds_up_only_who_wants_that(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let path = sandbox.dir.path().join("log");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // For reading, too: opening it does not wait then.
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let run = |buffer: Buffer| {
        let input = sandbox.input(&["sh", "-c", "seq 300000; echo last >/done; exit 3"]);
        let running = sandbox.create_with(&input, |config| {
            let file = LogFile { path: path.clone(), max_size_bytes: None, max_file: 1, compress: false };
            config.log = LogSink::JsonFile { file, attributes: Vec::new(), buffer };
        });
        let running = running.unwrap();
        sandbox.wait_for(running.shim.start()).unwrap();
        running
    };
    let done = sandbox.rootfs().join("done");
    let dropping = run(Buffer::Dropping { max_bytes: 65536 });
    eventually("the program has gone on", || done.exists());
    assert_eq!(sandbox.wait_for(dropping.shim.wait()).unwrap().code, 3);
    std::fs::remove_file(&done).unwrap();
    let blocking = run(Buffer::Blocking);
    // As much of it as there is room for can be read; nothing else lets it go on.
    let mut read = 0;
    let mut piece = vec![0; 1 << 16];
    rustix::io::ioctl_fionbio(&file, true).unwrap();
    let mut idle = 0;
    while !done.exists() {
        match std::io::Read::read(&mut file, &mut piece) {
            Ok(count) => (read, idle) = (read + count, 0),
            Err(_) => {
                idle += 1;
                assert!(idle < 10_000, "nothing comes any more, after {read} bytes");
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
        }
    }
    rustix::io::ioctl_fionbio(&file, false).unwrap();
    assert!(read > 300_000 * 60, "the whole log was written: {read}");
    std::thread::spawn(move || while std::io::Read::read(&mut file, &mut piece).is_ok_and(|count| count > 0) {});
    assert_eq!(sandbox.wait_for(blocking.shim.wait()).unwrap().code, 3);
}

fn a_log_beside_the_shim_is_whole(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let path = sandbox.dir.path().join("x-json.log");
    let run = |path: &Path, compress: bool| {
        let input = sandbox.input(&["sh", "-c", "seq 20000; echo err >&2; printf end"]);
        let running = sandbox.create_with(&input, |config| {
            let file = LogFile { path: path.to_owned(), max_size_bytes: Some(200_000), max_file: 30, compress };
            let buffer = Buffer::Dropping { max_bytes: 16 << 20 };
            config.log = LogSink::JsonFile { file, attributes: Vec::new(), buffer };
        });
        let running = running.unwrap();
        sandbox.wait_for(async {
            running.shim.start().await.unwrap();
            running.shim.wait().await.unwrap();
        });
    };
    run(&path, false);
    let older = (1..30).rev().map(|number| path.with_extension(format!("log.{number}"))).filter(|path| path.exists());
    let files: Vec<_> = older.chain([path.clone()]).collect();
    assert!(files.len() > 5, "it was rotated: {files:?}");
    let log: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert_seq_is_logged(&log);
    let packed = sandbox.dir.path().join("packed.log");
    run(&packed, true);
    let number = |number: u32, end: &str| packed.with_extension(format!("log.{number}{end}"));
    assert!((1..=files.len() as u32 - 1).all(|n| number(n, ".gz").exists() && !number(n, "").exists()));
}

/// The log of a container that has counted to 20000, said `err`, and ended in the middle of a line.
fn assert_seq_is_logged(log: &str) {
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |stream: &str| -> String {
        let wanted = lines.iter().filter(|line| line["stream"] == stream);
        wanted.map(|line| line["log"].as_str().unwrap()).collect()
    };
    let numbers: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    assert_eq!(of("stdout"), format!("{numbers}end"));
    assert_eq!(of("stderr"), "err\n");
}

/// A container whose program runs below an init.
pub(crate) fn with_init(sandbox: &Sandbox, args: &[&str]) -> SpecInput {
    let mut input = sandbox.input(args);
    input.init = Some(std::env::current_exe().unwrap());
    // The test program is dynamic: where it runs in the container, its libraries come along.
    for library in ["/lib", "/lib64", "/usr/lib"] {
        let (source, propagation) = (library.into(), None);
        let kind = MountKind::Bind { source, recursive: true, propagation, read_only_non_recursive: false };
        if sandbox.backend == Backend::Runc {
            input.mounts.push(MountInput { destination: library.into(), read_only: true, kind });
        }
    }
    input
}

fn init_reaps_and_forwards(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let with_init = |args: &[&str]| with_init(&sandbox, args);
    let script = "test $$ != 1; echo $?; (sleep 0.1 &) ; sleep 0.3; ps -o pid,comm,stat | grep -c Z; exit 5";
    let outcome = sandbox.run(&with_init(&["sh", "-c", script]));
    assert_eq!((outcome.stdout.as_str(), outcome.exit.code), ("0\n0\n", 5), "{outcome:?}");
    let script = "trap 'exit 6' TERM; echo ready; while true; do sleep 0.05; done";
    let running = sandbox.create(&with_init(&["sh", "-c", script])).unwrap();
    let outcome = sandbox.wait_for(async {
        let mut attachment = running.shim.attach(AttachOptions::default()).await.unwrap();
        running.shim.start().await.unwrap();
        attachment.output.next().await.unwrap();
        running.shim.signal(15, false).await.unwrap();
        read_all(attachment.output).await
    });
    assert_eq!(outcome.exit.code, 6);
    if backend == Backend::Runc {
        return;
    }
    // It is as confined as what it runs, holds nothing of the host's, and lets nobody look.
    let script =
        "grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/1/status | cut -f2; readlink /proc/1/exe || echo refused";
    let mut input = with_init(&["sh", "-c", script]);
    input.no_new_privileges = true;
    let running = sandbox.create(&input).unwrap();
    let attachment = sandbox.wait_for(running.shim.attach(AttachOptions::default())).unwrap();
    sandbox.wait_for(running.shim.start()).unwrap();
    let outcome = sandbox.wait_for(read_all(attachment.output));
    assert_eq!(outcome.stdout, "00000000a80425fb\n1\n2\nrefused\n", "{outcome:?}");
    let running = sandbox.create(&with_init(&["sleep", "100"])).unwrap();
    sandbox.wait_for(running.shim.start()).unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", running.shim.pid())).unwrap().count();
    assert_eq!(open, 4, "three streams, and where it hears signals");
    let words = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ");
    assert_eq!(words(running.shim.pid()).trim_end(), "/sbin/docker-init -- sleep 100");
    let state = shoal_engine::shim::config::ShimState::read(&running.dir).unwrap().unwrap();
    assert_eq!(words(state.shim_pid).trim_end(), format!("shoal shim run --dir {}", running.dir.display()));
    sandbox.wait_for(async {
        running.shim.signal(9, true).await.unwrap();
        running.shim.wait().await.unwrap();
    });
    let error = sandbox.create(&with_init(&["nope"])).err().unwrap();
    assert_eq!(error.exit_code(), 127);
}

fn a_long_path_is_no_trouble(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let mut input = sandbox.input(&["tty"]);
    input.id = "a".repeat(64);
    let built = shoal_engine::runtime::spec::build(&input).unwrap();
    let dir = sandbox.dir.path().join("d".repeat(100)).join("e".repeat(100)).join(&input.id);
    let config = sandbox.config(&input);
    let shim = Shim::spawn(&sandbox.program, &dir, &config, built);
    let shim = sandbox.wait_for(shim).unwrap();
    sandbox.wait_for(async {
        shim.start().await.unwrap();
        assert_eq!(shim.wait().await.unwrap().code, 1);
    });
    assert_gone(&input.cgroup);
}
