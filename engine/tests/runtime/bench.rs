//! Where the time of a container goes. `cargo test --release --test runtime -- bench 100`.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::Instant;

use shoal_engine::runtime::spec;
use shoal_engine::shim::client::Shim;

use super::sandbox::{Backend, Sandbox};

pub(crate) fn run(count: usize) {
    for backend in Backend::ALL {
        if Sandbox::is_possible(backend) {
            measure(backend, count);
        }
    }
}

fn measure(backend: Backend, count: usize) {
    // Where a daemon has its runtime state: in memory.
    let sandbox = Sandbox::new_in(backend, std::path::Path::new("/dev/shm"));
    let mut steps: [Vec<f64>; 5] = Default::default();
    for _ in 0..count {
        let input = sandbox.input(&["true"]);
        let begin = Instant::now();
        let built = spec::build(&input).unwrap();
        let config = sandbox.config(&input);
        let since = |steps: &mut Vec<f64>| steps.push(begin.elapsed().as_secs_f64() * 1e3);
        since(&mut steps[0]);
        let dir = sandbox.shim_dir(&input.id);
        let spawn = Shim::spawn(&sandbox.program, &dir, &config, built);
        let shim = sandbox.wait_for(spawn).unwrap();
        since(&mut steps[1]);
        sandbox.wait_for(shim.start()).unwrap();
        since(&mut steps[2]);
        sandbox.wait_for(shim.wait()).unwrap();
        since(&mut steps[3]);
        super::sandbox::assert_gone(&input.cgroup);
        since(&mut steps[4]);
    }
    println!("{:10} {:>8} {:>8} {:>8}", backend.name(), "p50 ms", "p10", "p90");
    for (name, values) in ["specification", "created", "started", "exit known", "cgroup gone"].iter().zip(&mut steps) {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
        println!("{name:14} {:8.2} {:8.2} {:8.2}", at(0.5), at(0.1), at(0.9));
    }
    memory(&sandbox);
}

fn memory(sandbox: &Sandbox) {
    let running = sandbox.create(&sandbox.input(&["sleep", "100"])).unwrap();
    sandbox.wait_for(running.shim.start()).unwrap();
    let state = shoal_engine::shim::config::ShimState::read(&running.dir).unwrap().unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", state.shim_pid)).unwrap();
    let wanted = ["Rss:", "Pss:", "Private_Clean:", "Private_Dirty:", "Pss_Anon:"];
    for line in rollup.lines().filter(|line| wanted.iter().any(|word| line.starts_with(word))) {
        println!("shim {line}");
    }
    sandbox.wait_for(running.shim.signal(9, true)).unwrap();
    sandbox.wait_for(running.shim.wait()).unwrap();
}
