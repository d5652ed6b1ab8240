//! `--init`: a first process that does what a first process has to, and runs the program as its child. The runtimes inside
//! the shim have it built in; as a program of its own it serves runtime binaries, where `shoal` is linked statically.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use shoal_engine_sys::process::{self, Fork, SingleThread};
use shoal_engine_sys::signal;

/// Runs `PROGRAM [ARG...]` (after an optional `--`) as a child, passes signals on to it, takes orphans, and ends as it ends.
/// `args` is what follows the program's own name. Must be called before any thread exists.
pub fn init_main(args: &[OsString]) -> i32 {
    let args = match args {
        [first, rest @ ..] if first == "--" => rest,
        all => all,
    };
    if args.is_empty() {
        eprintln!("usage: docker-init -- PROGRAM [ARG...]");
        return 2;
    }
    match begin(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("docker-init: {error}");
            1
        }
    }
}

fn begin(args: &[OsString]) -> io::Result<i32> {
    let signals = signal::AllSignals::open()?;
    match SingleThread::prove()?.fork()? {
        Fork::Parent(child) => supervise(child, signals),
        Fork::Child => {
            let error = run(args);
            eprintln!("docker-init: exec {:?} failed: {error}", args[0]);
            process::exit_now(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
        }
    }
}

/// What a first process does: passes signals on to the child, takes the orphans that end, and gives the child's exit code.
pub(crate) fn supervise(child: u32, mut signals: signal::AllSignals) -> io::Result<i32> {
    loop {
        let number = signals.wait()?;
        if number != signal::SIGCHLD {
            // A child that is about to end does not need it any more.
            let _ = signal::send_to(child, number);
            continue;
        }
        let mut ended = None;
        while let Some((pid, how)) = process::reap()? {
            if pid == child {
                ended = Some(how);
            }
        }
        if let Some(how) = ended {
            return Ok(how.code());
        }
    }
}

/// Gives the child of an init a group of its own and the terminal, if there is one, so that it can read.
pub(crate) fn take_terminal() {
    let _ = rustix::process::setpgid(None, None);
    signal::with_terminal_signals_ignored(|| {
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpgrp());
    });
}

/// Becomes the program.
fn run(args: &[OsString]) -> io::Error {
    signal::reset();
    take_terminal();
    let strings: Result<Vec<CString>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
    let env: Result<Vec<CString>, _> = std::env::vars_os()
        .map(|(name, value)| {
            let mut variable = name.into_encoded_bytes();
            variable.push(b'=');
            variable.extend(value.as_bytes());
            CString::new(variable)
        })
        .collect();
    let (Ok(strings), Ok(env)) = (strings, env) else { return io::ErrorKind::InvalidInput.into() };
    if args[0].as_bytes().contains(&b'/') {
        return process::execute(&strings[0], &strings, &env);
    }
    let search = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for directory in std::env::split_paths(&search) {
        let Ok(path) = CString::new(directory.join(&args[0]).as_os_str().as_bytes()) else { continue };
        let error = process::execute(&path, &strings, &env);
        if error.kind() != io::ErrorKind::NotFound {
            last = error;
        }
    }
    last
}
