//! `exec`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::attach::{self, Streams};
use crate::cli::client::{ApiError, escape};
use crate::cli::context::Context;
use crate::cli::exit::{fail, silent};
use crate::cli::look::{Look as _, set_some};
use crate::cli::parse::pair;
use crate::cli::terminal;

/// Execute a command in a running container
#[derive(Debug, Args)]
#[command(
    override_usage = "shoal exec [OPTIONS] CONTAINER COMMAND [ARG...]",
    after_help = "Example:
  shoal exec -it web sh"
)]
pub(crate) struct ExecArgs {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Container, and the command with its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER")]
    command: Vec<String>,
}

impl ExecArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (container, command) =
            self.command.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
        let stdin = self.interactive && !self.detach;
        if self.tty && stdin && !terminal::stdin_is_terminal() {
            return Err(fail(1, "the input device is not a TTY"));
        }
        let detach_keys = terminal::detach_keys(self.detach_keys.as_deref()).map_err(anyhow::Error::msg)?;
        let mut body = json!({
            "AttachStdin": stdin, "AttachStdout": !self.detach, "AttachStderr": !self.detach, "Tty": self.tty, "Detach": self.detach,
            "Privileged": self.privileged, "Env": pair::environment(&self.env, &self.env_file)?, "Cmd": command,
        });
        set_some(&mut body, "User", self.user.clone());
        set_some(&mut body, "WorkingDir", self.workdir.clone());
        set_some(&mut body, "DetachKeys", self.detach_keys.clone());
        let created = context.client.post(format!("/containers/{}/exec", escape(container))).body(body).json().await?;
        let id = created.text("Id");
        let mut start = json!({"Detach": self.detach, "Tty": self.tty});
        if let Some((rows, columns)) = terminal::size().filter(|_| self.tty) {
            start = json!({"Detach": self.detach, "Tty": self.tty, "ConsoleSize": [rows, columns]});
        }
        let request = context.client.post(format!("/exec/{id}/start")).body(start);
        if self.detach {
            return request.done().await.map_err(start_failed);
        }
        let hijacked = request.hijack().await.map_err(start_failed)?;
        let copy = attach::copy(hijacked, Streams { stdin, tty: self.tty, detach_keys });
        let resize = async {
            match self.tty {
                true => attach::follow_size(&context.client, format!("/exec/{id}/resize")).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = copy => drop(ended?),
            () = resize => {}
        }
        let exec = context.client.fetch(format!("/exec/{id}/json")).await?;
        match i32::try_from(exec.number("ExitCode")).unwrap_or(1) {
            0 => Ok(()),
            code => Err(silent(code)),
        }
    }
}

/// As docker: 127 for a command that is not there, 126 for one that cannot run.
fn start_failed(error: anyhow::Error) -> anyhow::Error {
    let message = error.to_string();
    match error.downcast_ref::<ApiError>() {
        Some(_) if message.contains("executable file not found") || message.contains("no such file or directory") => {
            fail(127, message)
        }
        Some(_) if message.contains("permission denied") || message.contains("is a directory") => fail(126, message),
        _ => error,
    }
}
