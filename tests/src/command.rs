//! Running programs and looking at what they said.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// What a program said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit status; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Its output, trimmed.
    ///
    /// # Errors
    /// When it did not end with success.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.code != 0 {
            bail!("exit {}: {}{}", self.code, self.err, self.out);
        }
        Ok(self.out.trim().to_owned())
    }

    /// What it complained of.
    ///
    /// # Errors
    /// When it ended with success.
    pub fn refused(self) -> anyhow::Result<String> {
        if self.code == 0 {
            bail!("expected a refusal, but it succeeded: {}", self.out);
        }
        Ok(self.err)
    }
}

/// A program that is to be run.
#[expect(clippy::disallowed_methods, reason = "tests are no daemon: inherited descriptors and signals do no harm")]
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<Said> {
    let output = command(program, args).output().with_context(|| format!("cannot start {program}"))?;
    Ok(said(&output))
}

/// Runs a program to its end with this on its standard input.
///
/// # Errors
/// When it cannot be started or does not read.
pub fn run_with_input(mut command: Command, input: &[u8]) -> anyhow::Result<Said> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let input = input.to_vec();
    // A program that refuses its input early closes the pipe: what it says matters then, not our write.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output()?;
    drop(writer.join());
    Ok(said(&output))
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
