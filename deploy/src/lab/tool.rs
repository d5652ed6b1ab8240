//! Programs of the machine that the lab uses: `ip`, and the daemons themselves.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

#[expect(
    clippy::disallowed_methods,
    reason = "the lab is tooling around the product; it starts `ip`, daemons and shells, never a container"
)]
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// Runs `ip` with these words in the calling thread's network namespace and gives what it prints.
pub(super) fn ip(words: &str) -> anyhow::Result<String> {
    let output = command("ip").args(words.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.context("start 'ip' (Debian package iproute2)")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a program in a session of its own in the calling thread's namespaces, with its output appended to a log. Gives its
/// process id.
pub(super) fn start(program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<u32> {
    let output =
        File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
    let errors = output.try_clone().context("share the log")?;
    // `setsid` becomes the program, so the id that is given is the program's.
    let child = command("setsid")
        .arg(program)
        .args(arguments)
        .env_remove("DOCKER_HOST")
        .env_remove("SHOAL_HOST")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .current_dir("/")
        .spawn();
    Ok(child.with_context(|| format!("start {}", program.display()))?.id())
}

/// Replaces this process by a program; returns only when that fails.
pub(super) fn become_program(words: &[String], environment: &[(&str, &str)]) -> anyhow::Error {
    let Some((program, arguments)) = words.split_first() else { return anyhow::anyhow!("no command given") };
    let error = command(program).args(arguments).envs(environment.iter().copied()).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    crate::cli::exit::fail(code, format!("{program}: {error}"))
}
