//! The cgroup of a container on this host.

use super::sandbox::{Backend, Sandbox};

pub(crate) const TESTS: &[crate::Test] = &[("cgroup::cgroups_below_it_go_with_it", cgroups_below_it_go_with_it)];

fn cgroups_below_it_go_with_it(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["sleep", "100"])).unwrap();
    sandbox.wait_for(running.shim.start()).unwrap();
    let below = format!("/sys/fs/cgroup/memory{}/below/it", running.cgroup);
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(format!("{below}/cgroup.procs"), running.shim.pid().to_string()).unwrap();
    let cgroup = shoal_engine::cgroup::Cgroup::open(&running.cgroup).unwrap();
    assert_eq!(cgroup.processes(), [running.shim.pid()]);
    sandbox.wait_for(async {
        running.shim.signal(9, true).await.unwrap();
        running.shim.wait().await.unwrap();
    });
    super::sandbox::assert_gone(&running.cgroup);
    assert!(shoal_engine::cgroup::Cgroup::open("/").is_err());
    assert!(shoal_engine::cgroup::Cgroup::open("/../process_api").is_err());
}
