//! How a shim's process begins.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use shoal_engine_sys::process;
use shoal_engine_sys::signal::ChildEvents;

use super::config::{BUNDLE_FILE, EXEC_FILE, ExecConfig, LogSink, SOCKET_FILE, SPEC_FILE, ShimConfig};
use super::protocol::{Response, RuntimeFailure, message};
use super::server::{Manner, Parts, Server, Streams, say};
use super::zygote::{self, Order};
use crate::logs::Log;
use crate::logs::remote::Target;
use crate::runtime;

/// Runs a shim: `run --dir D` for a container, `exec --dir D` for an exec, `zygote` for what both are forked from. `args` is
/// what follows the word `shim`. Returns the process's exit code. Must be called before any thread exists.
pub fn main(args: &[OsString]) -> i32 {
    let order = match args {
        [verb, ..] if verb == "zygote" => detach().and_then(zygote::run),
        [verb, flag, dir] if flag == "--dir" && (verb == "run" || verb == "exec") => {
            detach().map(|control| Some(Order { is_exec: verb == "exec", dir: PathBuf::from(dir), control }))
        }
        _ => {
            eprintln!("usage: shoal shim run|exec --dir DIR (started by the daemon)");
            return 2;
        }
    };
    match order.and_then(|order| order.map_or(Ok(true), serve)) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            say(&format!("the shim failed: {error}"));
            1
        }
    }
}

/// Cuts all ties with whoever started this process but descriptor 0, which it gave us.
fn detach() -> io::Result<OwnedFd> {
    process::close_from(3)?;
    let control = process::take_stdin()?;
    rustix::process::chdir("/")?;
    // What a container's first process begins with, as with runc.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(control)
}

/// False when the container could not be created.
fn serve(order: Order) -> io::Result<bool> {
    let Order { is_exec, dir, control } = order;
    // Fails only for a leader of a process group, which has the session it needs.
    let _ = rustix::process::setsid();
    process::become_subreaper()?;
    rustix::thread::set_name(c"shoal-shim")?;
    let verb: &[u8] = if is_exec { b"exec" } else { b"run" };
    // Only for whoever reads `ps`.
    let _ = process::set_title(&[b"shoal", b"shim", verb, b"--dir", dir.as_os_str().as_bytes()]);
    let parts = if is_exec { exec_parts(&dir, control) } else { container_parts(&dir, control) };
    let mut server = match parts {
        Ok(parts) => Server::new(parts)?,
        Err((control, failure)) => {
            let mut control = std::os::unix::net::UnixStream::from(control);
            io::Write::write_all(&mut control, &message(&Response::Failed(failure)))?;
            return Ok(false);
        }
    };
    if !server.create() {
        return Ok(false);
    }
    server.run()?;
    Ok(true)
}

type Refused = (OwnedFd, RuntimeFailure);

fn container_parts(dir: &Path, control: OwnedFd) -> Result<Parts, Refused> {
    let build = || -> io::Result<Result<_, RuntimeFailure>> {
        let config: ShimConfig = read_json(&dir.join(BUNDLE_FILE))?;
        let streams = if config.terminal {
            Streams::terminal_in(dir)?
        } else {
            Streams::pipes(config.open_stdin, on_host(&config, owner(dir)?)?)?
        };
        let log = match Log::open(&config.log) {
            Ok(log) => log,
            Err(error) => return Ok(Err(log_failure(&config.log, &error))),
        };
        Ok(Ok((config, streams, log, listen(dir)?, ChildEvents::open()?)))
    };
    match build() {
        Ok(Err(failure)) => Err((control, failure)),
        Ok(Ok((config, streams, log, listener, children))) => Ok(Parts {
            runtime: runtime::for_container(dir, &config),
            manner: Manner {
                patient: false,
                stdin_once: config.stdin_once,
                terminal: config.terminal,
                console_size: config.console_size,
            },
            dir: dir.to_owned(),
            children,
            listener,
            control,
            streams,
            log,
        }),
        Err(error) => Err((control, RuntimeFailure::other(format!("cannot begin a shim in {dir:?}: {error}")))),
    }
}

fn log_failure(sink: &LogSink, error: &io::Error) -> RuntimeFailure {
    let what = match sink {
        LogSink::Syslog { settings, .. } => match &settings.target {
            Target::Unix(_) => "Unix syslog delivery error".to_owned(),
            Target::Udp(address) => format!("dial udp {address}"),
            Target::Tcp(address) => format!("dial tcp {address}"),
        },
        LogSink::Journald { .. } => "cannot reach the journal".to_owned(),
        _ => "cannot open the log".to_owned(),
    };
    RuntimeFailure::other(format!("failed to initialize logging driver: {what}: {error}"))
}

fn exec_parts(dir: &Path, control: OwnedFd) -> Result<Parts, Refused> {
    let build = || -> io::Result<_> {
        let config: ExecConfig = read_json(&dir.join(EXEC_FILE))?;
        let container: ShimConfig = read_json(&config.container_dir.join(BUNDLE_FILE))?;
        let terminal = config.process.terminal() == Some(true);
        let user = config.process.user();
        let streams = if terminal {
            Streams::terminal_in(dir)?
        } else {
            Streams::pipes(config.open_stdin, on_host(&container, (user.uid(), user.gid()))?)?
        };
        Ok((config, container, streams, terminal, listen(dir)?, ChildEvents::open()?))
    };
    match build() {
        Ok((config, container, streams, terminal, listener, children)) => Ok(Parts {
            runtime: runtime::for_exec(dir, &config, &container),
            manner: Manner { patient: true, stdin_once: true, terminal, console_size: config.console_size },
            dir: dir.to_owned(),
            children,
            listener,
            control,
            streams,
            log: None,
        }),
        Err(error) => Err((control, RuntimeFailure::other(format!("cannot begin an exec in {dir:?}: {error}")))),
    }
}

/// Who is on the host whom the container knows as this one.
fn on_host(container: &ShimConfig, owner: (u32, u32)) -> io::Result<(u32, u32)> {
    let Some(map) = &container.id_map else { return Ok(owner) };
    map.owner_on_host(owner)
        .ok_or_else(|| io::Error::other(format!("user {}:{} is outside of the container's ids", owner.0, owner.1)))
}

/// Who the container's process runs as.
fn owner(dir: &Path) -> io::Result<(u32, u32)> {
    #[derive(serde::Deserialize)]
    struct SpecPart {
        process: ProcessPart,
    }
    #[derive(serde::Deserialize)]
    struct ProcessPart {
        user: UserPart,
    }
    #[derive(serde::Deserialize)]
    struct UserPart {
        uid: u32,
        gid: u32,
    }
    let spec: SpecPart = read_json(&dir.join(SPEC_FILE))?;
    Ok((spec.process.user.uid, spec.process.user.gid))
}

/// Through a descriptor of the directory: its path may be longer than a socket address can be.
fn listen(dir: &Path) -> io::Result<UnixListener> {
    let handle = std::fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", handle.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = std::fs::read(path)?;
    serde_json::from_slice(&bytes).map_err(io::Error::from)
}
