//! `shoal`: the one binary. What it is depends on its first words: a container's shim, a container's init, the daemon, or
//! the command line.

mod cli;
mod daemon;
mod lab;

use std::path::Path;

fn main() {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    std::process::exit(run(arguments));
}

/// Dispatches before any thread exists: a shim and an init fork, which only a process of one thread may do safely.
fn run(arguments: Vec<String>) -> i32 {
    let program = arguments.first().map(String::as_str).unwrap_or_default();
    let program = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let verb = arguments.get(1).map(String::as_str).unwrap_or_default();
    match (program.as_str(), verb) {
        ("docker-init", _) => shoal_engine::shim::init_main(arguments),
        (_, "shim") => shoal_engine::shim::main(arguments),
        // Started under docker's name, as by a script that runs `dockerd --data-root …`.
        ("dockerd", _) => {
            let rest = arguments.into_iter().skip(1);
            cli::main(["shoal", "daemon"].map(str::to_owned).into_iter().chain(rest).collect())
        }
        _ => cli::main(arguments),
    }
}
