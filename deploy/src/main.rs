//! `shoal`: the one binary. What it is depends on its first words: a container's shim, a container's init, the daemon, or
//! the command line.

mod cli;
mod daemon;
mod lab;

use std::ffi::{OsStr, OsString};
use std::path::Path;

fn main() {
    std::process::exit(run(std::env::args_os().collect()));
}

/// Dispatches before any thread exists: a shim and an init fork, which only a process of one thread may do safely.
fn run(arguments: Vec<OsString>) -> i32 {
    let program = arguments.first().and_then(|program| Path::new(program).file_name());
    let is_named = |name: &str| program == Some(OsStr::new(name));
    match arguments.get(1..).unwrap_or_default() {
        rest if is_named("docker-init") => shoal_engine::shim::init_main(rest),
        [verb, rest @ ..] if verb == "shim" => shoal_engine::shim::main(rest),
        // Started under docker's name, as by a script that runs `dockerd --data-root …`.
        rest if is_named("dockerd") => {
            let as_dockerd = format!("--{}", daemon::AS_DOCKERD);
            cli::main(["shoal", "daemon", &as_dockerd].map(OsString::from).iter().chain(rest).cloned().collect())
        }
        _ => cli::main(arguments),
    }
}
