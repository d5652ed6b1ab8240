//! Containers for real: as root, in a network namespace of its own, with a busybox image.
//!
//! This program is its own shim: started as `<program> shim ...` it is one. So it has no test harness but a small one of its
//! own: `container [filter...]` runs the tests whose names hold a filter; `--list` names them.

#![expect(clippy::unwrap_used, reason = "tests, though not of the usual harness")]

mod container {
    pub(crate) mod attack;
    pub(crate) mod bench;
    pub(crate) mod chaos;
    pub(crate) mod checks;
    pub(crate) mod cluster;
    pub(crate) mod fields;
    pub(crate) mod files;
    pub(crate) mod harness;
    pub(crate) mod life;
    pub(crate) mod logging;
    pub(crate) mod neighbour;
    pub(crate) mod remap;
    pub(crate) mod restore;
    pub(crate) mod sessions;
}

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|word| word == "shim") {
        let code = shoal_engine::shim::main(&arguments[2..]);
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    if arguments.get(1).is_some_and(|word| word == "daemon") {
        return container::chaos::daemon(&arguments[2..]);
    }
    if arguments.first().is_some_and(|name| name == "/sbin/docker-init") {
        let code = shoal_engine::shim::init_main(&arguments[1..]);
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    container::harness::run()
}
