//! Live tests of shim and runtimes: real containers, made by this very program, which re-executes itself as the shim.
//!
//! It has its own `main` because a shim must begin before any thread exists, and libtest starts threads. `--list` and
//! `--exact` work as with libtest. Needs root; without, every test says that it was skipped.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

mod runtime {
    pub(crate) mod attach;
    pub(crate) mod attack;
    pub(crate) mod bench;
    pub(crate) mod cgroup;
    pub(crate) mod exec;
    pub(crate) mod hooks;
    pub(crate) mod isolation;
    pub(crate) mod lifecycle;
    pub(crate) mod limits;
    pub(crate) mod mounts;
    pub(crate) mod process;
    pub(crate) mod sandbox;
}

use runtime::sandbox::{Backend, Sandbox};

/// A test gets the runtime that it is to use.
type Test = (&'static str, fn(Backend));

/// A test with one runtime.
struct Case {
    name: String,
    backend: Backend,
    test: fn(Backend),
}

fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = Vec::new();
    tests.extend(runtime::lifecycle::TESTS);
    tests.extend(runtime::isolation::TESTS);
    tests.extend(runtime::limits::TESTS);
    tests.extend(runtime::exec::TESTS);
    tests.extend(runtime::attach::TESTS);
    tests.extend(runtime::cgroup::TESTS);
    tests.extend(runtime::hooks::TESTS);
    tests.extend(runtime::mounts::TESTS);
    tests.extend(runtime::process::TESTS);
    tests.extend(runtime::attack::image::TESTS);
    tests.extend(runtime::attack::race::TESTS);
    tests.extend(runtime::attack::process::TESTS);
    tests.extend(runtime::attack::kernel::TESTS);
    tests
}

fn main() {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.first().is_some_and(|program| program == "/sbin/docker-init") {
        std::process::exit(shoal_engine::shim::init_main(&args[1..]));
    }
    if args.get(1).is_some_and(|verb| verb == "shim") {
        std::process::exit(shoal_engine::shim::main(&args[2..]));
    }
    let words: Vec<String> = args[1..].iter().filter_map(|arg| arg.to_str().map(str::to_owned)).collect();
    if words.first().is_some_and(|word| word == "bench") {
        return runtime::bench::run(words.get(1).and_then(|count| count.parse().ok()).unwrap_or(50));
    }
    let has = |word: &str| words.iter().any(|other| other == word);
    let case = |(name, test): Test| {
        Backend::ALL.map(|backend| Case { name: format!("{}::{name}", backend.name()), backend, test })
    };
    let cases: Vec<Case> = tests().into_iter().flat_map(case).collect();
    if has("--list") {
        if !has("--ignored") {
            cases.iter().for_each(|case| println!("{}: test", case.name));
        }
        return;
    }
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if has("--exact") { name == *filter } else { name.contains(*filter) })
    };
    std::process::exit(i32::from(!run(cases.into_iter().filter(|case| chosen(&case.name)).collect())));
}

/// One after the other; each has its deadline.
fn run(cases: Vec<Case>) -> bool {
    let mut failed = Vec::new();
    let count = cases.len();
    for Case { name, backend, test } in cases {
        if !Sandbox::is_possible(backend) {
            println!("test {name} ... skipped: needs root and the runtime");
            continue;
        }
        let begun = tokio::time::Instant::now();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| test(backend)));
            let _ = sender.send(result.is_ok());
        });
        let passed = receiver.recv_timeout(Duration::from_secs(60)).unwrap_or(false);
        println!("test {name} ... {} ({} ms)", if passed { "ok" } else { "FAILED" }, begun.elapsed().as_millis());
        if !passed {
            failed.push(name);
        }
    }
    println!(
        "\ntest result: {}. {} passed; {} failed",
        if failed.is_empty() { "ok" } else { "FAILED" },
        count - failed.len(),
        failed.len()
    );
    failed.iter().for_each(|name| println!("    {name}"));
    failed.is_empty()
}
