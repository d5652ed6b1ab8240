//! What a container may use.

use shoal_engine::runtime::spec::UlimitInput;

use super::sandbox::{Backend, Sandbox};

pub(crate) const TESTS: &[crate::Test] = &[
    ("limits::memory_ends_in_an_oom_kill_that_is_told", memory_ends_in_an_oom_kill_that_is_told),
    ("limits::processes_are_counted", processes_are_counted),
    ("limits::values_reach_the_kernel", values_reach_the_kernel),
    ("limits::ulimits_can_be_lowered_but_not_raised", ulimits_can_be_lowered_but_not_raised),
    ("limits::the_oom_score_can_be_raised", the_oom_score_can_be_raised),
    ("limits::what_the_host_lacks_is_an_error", what_the_host_lacks_is_an_error),
];

fn memory_ends_in_an_oom_kill_that_is_told(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let mut input = sandbox.input(&["sh", "-c", "head -c 100m /dev/zero | tail | wc -c; exit $?"]);
    input.limits.memory_bytes = Some(16 << 20);
    input.limits.memory_and_swap_bytes = Some(16 << 20);
    let outcome = sandbox.run(&input);
    assert!(outcome.exit.oom_killed, "{outcome:?}");
    // Of the first process itself.
    let mut input = sandbox.input(&["tail", "/dev/zero"]);
    input.limits.memory_bytes = Some(16 << 20);
    input.limits.memory_and_swap_bytes = Some(16 << 20);
    let outcome = sandbox.run(&input);
    assert_eq!((outcome.exit.code, outcome.exit.oom_killed), (137, true), "{outcome:?}");
}

fn processes_are_counted(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let outcome = sandbox.shell_fails("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; wait", |input| {
        input.limits.pids = Some(6);
    });
    assert!(outcome.stderr.contains("can't fork"), "{outcome:?}");
}

fn values_reach_the_kernel(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let mut input = sandbox.input(&["sleep", "100"]);
    input.limits.memory_bytes = Some(64 << 20);
    input.limits.memory_and_swap_bytes = Some(96 << 20);
    input.limits.memory_reservation_bytes = Some(32 << 20);
    input.limits.cpu_shares = Some(512);
    input.limits.cpuset_cpus = Some("0".to_owned());
    input.limits.pids = Some(50);
    input.limits = input.limits.clone().with_nano_cpus(500_000_000);
    let running = sandbox.create(&input).unwrap();
    let read = |file: &str| {
        let (controller, _) = file.split_once('.').unwrap();
        let path = format!("/sys/fs/cgroup/{controller}{}/{file}", running.cgroup);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
    };
    assert_eq!(read("memory.limit_in_bytes"), "67108864");
    assert_eq!(read("memory.memsw.limit_in_bytes"), "100663296");
    assert_eq!(read("memory.soft_limit_in_bytes"), "33554432");
    assert_eq!(read("cpu.shares"), "512");
    assert_eq!(read("cpu.cfs_quota_us"), "50000");
    assert_eq!(read("cpuset.cpus"), "0");
    assert_eq!(read("pids.max"), "50");
    let procs = std::fs::read_to_string(format!("/sys/fs/cgroup/memory{}/cgroup.procs", running.cgroup)).unwrap();
    assert_eq!(procs.trim(), running.shim.pid().to_string());
    sandbox.wait_for(running.shim.start()).unwrap();
    let update = shoal_engine::cgroup::limits::Limits {
        memory_bytes: Some(128 << 20),
        memory_and_swap_bytes: Some(256 << 20),
        pids: Some(-1),
        cpu_shares: Some(2048),
        ..Default::default()
    };
    shoal_engine::cgroup::update(&running.cgroup, &update).unwrap();
    assert_eq!(
        (read("memory.limit_in_bytes"), read("memory.memsw.limit_in_bytes")),
        ("134217728".into(), "268435456".into())
    );
    assert_eq!(
        (read("pids.max"), read("cpu.shares"), read("cpu.cfs_quota_us")),
        ("max".into(), "2048".into(), "50000".into())
    );
    let shrink = shoal_engine::cgroup::limits::Limits {
        memory_bytes: Some(32 << 20),
        memory_and_swap_bytes: Some(32 << 20),
        ..Default::default()
    };
    shoal_engine::cgroup::update(&running.cgroup, &shrink).unwrap();
    assert_eq!(read("memory.memsw.limit_in_bytes"), "33554432");
    sandbox.wait_for(running.shim.signal(9, true)).unwrap();
    sandbox.wait_for(running.shim.wait()).unwrap();
    super::sandbox::assert_gone(&running.cgroup);
}

fn ulimits_can_be_lowered_but_not_raised(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let with = |soft, hard| UlimitInput { name: "nofile".to_owned(), soft, hard };
    let text = sandbox.shell("ulimit -n; ulimit -Hn", |input| input.ulimits = vec![with(100, 200)]);
    assert_eq!(text, "100\n200\n");
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let can_raise =
        rustix::thread::capabilities(None).unwrap().effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    if let (Some(own), false) = (own, can_raise) {
        let mut input = sandbox.input(&["true"]);
        input.ulimits = vec![with(100, i64::try_from(own).unwrap() + 1)];
        let error = sandbox.create(&input).err().unwrap().to_string();
        assert!(error.contains("nofile") && error.contains("CAP_SYS_RESOURCE"), "{error}");
    }
}

fn the_oom_score_can_be_raised(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let text = sandbox.shell("cat /proc/self/oom_score_adj", |input| input.oom_score_adj = Some(500));
    assert_eq!(text, "500\n");
}

fn what_the_host_lacks_is_an_error(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    if std::path::Path::new("/sys/fs/cgroup/blkio/blkio.weight").exists() {
        return;
    }
    let mut input = sandbox.input(&["true"]);
    input.limits.blkio_weight = Some(500);
    // runc drops it in silence where the kernel has only the weights of bfq.
    if backend != Backend::Runc {
        assert!(sandbox.create(&input).is_err());
        super::sandbox::assert_gone(&input.cgroup);
    }
}
