//! `shoal`: the one binary. What it is depends on its first words: a container's shim, a container's init, the daemon, or
//! the command line.

mod cli;
mod lab;

fn main() {
    let arguments: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    std::process::exit(cli::main(arguments));
}
