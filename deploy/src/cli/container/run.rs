//! `run` and `create`, and containers in the foreground.

use clap::Args;
use serde_json::Value;

use super::body::Attached;
use super::options::ContainerOptions;
use crate::cli::attach::{self, Ended, SignalProxy, Streams};
use crate::cli::client::stream::Hijacked;
use crate::cli::client::{ApiError, escape, status_of};
use crate::cli::context::Context;
use crate::cli::exit::{fail, silent};
use crate::cli::look::{Look as _, set};
use crate::cli::{output, service, terminal};

/// Create and run a new container from an image
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "shoal run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Examples:
  shoal run --rm -it busybox sh
  shoal run -d --name web -p 8080:80 --memory 256m --restart unless-stopped nginx"
)]
pub(crate) struct RunArgs {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Proxy received signals to the process
    #[arg(long, num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, default_missing_value = "true", default_value = "true", value_name = "BOOL")]
    sig_proxy: bool,
    #[command(flatten)]
    options: ContainerOptions,
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
    /// Image, and the command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    image: Vec<String>,
}

/// Create a new container
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "shoal create [OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Example:
  shoal create --name web -p 8080:80 nginx"
)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    options: ContainerOptions,
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
    /// Image, and the command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    image: Vec<String>,
}

/// A failure before the container's command ran, with docker's exit code for it.
fn before_start(error: anyhow::Error, code: i32) -> anyhow::Error {
    let hint = match error.downcast_ref::<ApiError>() {
        Some(error) if error.status == 404 && error.message.starts_with("No such image") => {
            "\nBring it in with 'shoal image load -i file.tar' or 'shoal image import file.tar name'; see what is there with 'shoal images'."
        }
        Some(_) | None => "",
    };
    fail(code, format!("shoal: {error:#}{hint}\n\nRun 'shoal run --help' for more information"))
}

/// The exit code for a start that failed: 127 when the command is not there, 126 when it cannot be run, else 125.
fn start_code(message: &str) -> i32 {
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    if says(&["executable file not found", "no such file or directory", "system cannot find the file"]) {
        127
    } else if says(&["permission denied", "is a directory"]) {
        126
    } else {
        125
    }
}

async fn create(
    context: &Context,
    options: &ContainerOptions,
    image: &[String],
    attached: Attached,
) -> anyhow::Result<String> {
    let (image, command) = image.split_first().map_or(("", &[][..]), |(image, rest)| (image.as_str(), rest));
    if let Some(file) = options.cidfile.as_ref().filter(|file| file.exists()) {
        anyhow::bail!(
            "container ID file found, make sure the other container isn't running or delete {}",
            file.display()
        );
    }
    options.refused.check()?;
    let mut body = options.body(image, command, attached)?;
    if let Some((rows, columns)) = terminal::size().filter(|_| options.tty) {
        set(&mut body, "HostConfig.ConsoleSize", vec![rows, columns]);
    }
    let request = context
        .client
        .post("/containers/create")
        .query_some("name", options.name.as_deref())
        .query_some("platform", options.platform.as_deref());
    let created = request.body(body).json().await?;
    service::warn(&created);
    let id = created.text("Id").to_owned();
    if let Some(file) = &options.cidfile {
        std::fs::write(file, &id)?;
    }
    Ok(id)
}

impl CreateArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let attached = self.options.attached(false);
        let id = create(context, &self.options, &self.image, attached)
            .await
            .map_err(|error| fail(1, format!("{error:#}")))?;
        output::line(id)
    }
}

impl RunArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let attached = self.options.attached(self.detach);
        if self.options.tty && attached.stdin && !terminal::stdin_is_terminal() {
            return Err(fail(125, "the input device is not a TTY"));
        }
        let detach_keys = terminal::detach_keys(self.detach_keys.as_deref()).map_err(|why| fail(125, why))?;
        let proxy = (self.sig_proxy && !self.options.tty && !self.detach).then(SignalProxy::install).transpose()?;
        let id =
            create(context, &self.options, &self.image, attached).await.map_err(|error| before_start(error, 125))?;
        if self.detach || !(attached.stdin || attached.stdout || attached.stderr) {
            return self.in_background(context, &id).await;
        }
        let hijacked = attach_to(context, &id, attached, self.detach_keys.as_deref(), false)
            .await
            .map_err(|error| before_start(error, 125))?;
        let condition = if self.options.rm { "removed" } else { "next-exit" };
        let exit = wait_for(context, &id, condition).await.map_err(|error| before_start(error, 125))?;
        self.start(context, &id).await?;
        let streams = Streams { stdin: attached.stdin, tty: self.options.tty, detach_keys };
        foreground(context, &id, hijacked, streams, exit, proxy).await
    }

    async fn in_background(&self, context: &Context, id: &str) -> anyhow::Result<()> {
        self.start(context, id).await?;
        output::line(id)
    }

    async fn start(&self, context: &Context, id: &str) -> anyhow::Result<()> {
        let Err(error) = context.client.post(format!("/containers/{id}/start")).done().await else { return Ok(()) };
        if self.options.rm {
            // A container that never started is not removed by the daemon's automatic removal.
            let _ = context
                .client
                .delete(format!("/containers/{id}"))
                .query_if("force", true)
                .query_if("v", true)
                .done()
                .await;
        }
        let code = start_code(&error.to_string());
        Err(before_start(error, code))
    }
}

/// Joins the streams of a container that is about to start or that runs.
pub(super) async fn attach_to(
    context: &Context,
    id: &str,
    attached: Attached,
    detach_keys: Option<&str>,
    logs: bool,
) -> anyhow::Result<Hijacked> {
    let request = context
        .client
        .post(format!("/containers/{}/attach", escape(id)))
        .query_if("stream", true)
        .query_if("logs", logs);
    let request = request
        .query_if("stdin", attached.stdin)
        .query_if("stdout", attached.stdout)
        .query_if("stderr", attached.stderr);
    request.query_some("detachKeys", detach_keys).hijack().await
}

/// The end of a container, asked for before it starts so that it cannot be missed.
pub(super) struct Exit(http::Response<hyper::body::Incoming>);

/// Starts waiting for a container.
pub(super) async fn wait_for(context: &Context, id: &str, condition: &str) -> anyhow::Result<Exit> {
    context.client.post(format!("/containers/{}/wait", escape(id))).query("condition", condition).send().await.map(Exit)
}

impl Exit {
    /// The exit code.
    pub(super) async fn code(self) -> anyhow::Result<i32> {
        use http_body_util::BodyExt as _;
        let bytes = self.0.into_body().collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes)?;
        match answer.text("Error.Message") {
            "" => Ok(i32::try_from(answer.number("StatusCode")).unwrap_or(125)),
            message => Err(fail(125, format!("Error waiting for container: {message}"))),
        }
    }
}

/// Copies streams until the container ends or the user detaches, then ends with the container's exit code.
pub(super) async fn foreground(
    context: &Context,
    id: &str,
    hijacked: Hijacked,
    streams: Streams,
    exit: Exit,
    proxy: Option<SignalProxy>,
) -> anyhow::Result<()> {
    let tty = streams.tty;
    let size = async {
        match tty {
            true => attach::follow_size(&context.client, format!("/containers/{id}/resize")).await,
            false => std::future::pending().await,
        }
    };
    let signals = async {
        match proxy {
            Some(proxy) => proxy.run(&context.client, id).await,
            None => std::future::pending().await,
        }
    };
    let main = async {
        if attach::copy(hijacked, streams).await? == Ended::Detached {
            return Ok(0);
        }
        exit.code().await
    };
    let code = tokio::select! {
        code = main => code?,
        () = size => 0,
        () = signals => return Err(fail(1, "got 3 SIGTERM/SIGINTs, forcefully exiting; the container runs on")),
    };
    if code == 0 { Ok(()) } else { Err(silent(code)) }
}

/// Attach local standard input, output, and error streams to a running container
#[derive(Debug, Args)]
#[command(after_help = "Example; ctrl-p ctrl-q detaches from a container with a terminal:
  shoal attach web")]
pub(crate) struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, default_missing_value = "true", default_value = "true", value_name = "BOOL")]
    sig_proxy: bool,
    /// Container
    container: String,
}

impl AttachArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let container = super::inspect(context, &self.container).await?;
        if !container.truth("State.Running") {
            return Err(fail(1, "You cannot attach to a stopped container, start it first"));
        }
        if container.truth("State.Paused") {
            return Err(fail(1, "You cannot attach to a paused container, unpause it first"));
        }
        let tty = container.truth("Config.Tty");
        let stdin = !self.no_stdin && container.truth("Config.OpenStdin");
        if tty && stdin && !terminal::stdin_is_terminal() {
            return Err(fail(1, "the input device is not a TTY"));
        }
        let detach_keys = terminal::detach_keys(self.detach_keys.as_deref()).map_err(anyhow::Error::msg)?;
        let proxy = (self.sig_proxy && !tty).then(SignalProxy::install).transpose()?;
        let id = container.text("Id");
        let exit = wait_for(context, id, "not-running").await?;
        let attached = Attached { stdin, stdout: true, stderr: true };
        let hijacked = attach_to(context, id, attached, self.detach_keys.as_deref(), false).await?;
        foreground(context, id, hijacked, Streams { stdin, tty, detach_keys }, exit, proxy).await
    }
}

/// Start one or more stopped containers
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal start web
  shoal start -ai box")]
pub(crate) struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Restore from this checkpoint
    #[arg(long, value_name = "NAME")]
    checkpoint: Option<String>,
    /// Use a custom checkpoint storage directory
    #[arg(long, value_name = "DIR", requires = "checkpoint")]
    checkpoint_dir: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl StartArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        if self.checkpoint.is_some() && (self.attach || self.interactive || self.containers.len() > 1) {
            return Err(fail(1, "you cannot restore multiple containers at once, nor attach to a restored one"));
        }
        if self.attach || self.interactive {
            let [name] = self.containers.as_slice() else {
                return Err(fail(1, "you cannot start and attach multiple containers at once"));
            };
            return self.attached(context, name).await;
        }
        let (checkpoint, folder) = (self.checkpoint.as_deref(), self.checkpoint_dir.as_deref());
        super::lifecycle::each(&self.containers, |name| async move {
            let start = context.client.post(format!("/containers/{}/start", escape(&name)));
            let start = start.query_some("checkpoint", checkpoint);
            start.query_some("checkpoint-dir", folder).done().await
        })
        .await
    }

    async fn attached(&self, context: &Context, name: &str) -> anyhow::Result<()> {
        let container = super::inspect(context, name).await?;
        let (id, tty) = (container.text("Id"), container.truth("Config.Tty"));
        let stdin = self.interactive && container.truth("Config.OpenStdin");
        let detach_keys = terminal::detach_keys(self.detach_keys.as_deref()).map_err(anyhow::Error::msg)?;
        let proxy = (!tty).then(SignalProxy::install).transpose()?;
        let attached = Attached { stdin, stdout: true, stderr: true };
        let hijacked = attach_to(context, id, attached, self.detach_keys.as_deref(), false).await?;
        let condition = if container.truth("HostConfig.AutoRemove") { "removed" } else { "next-exit" };
        let exit = wait_for(context, id, condition).await?;
        context.client.post(format!("/containers/{id}/start")).done().await.map_err(|error| {
            match status_of(&error) {
                Some(_) => fail(1, format!("{error:#}")),
                None => error,
            }
        })?;
        foreground(context, id, hijacked, Streams { stdin, tty, detach_keys }, exit, proxy).await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Start {
        #[command(flatten)]
        args: StartArgs,
    }

    #[test]
    fn a_folder_of_checkpoints_needs_the_name_of_one() {
        assert!(Start::try_parse_from(["start", "--checkpoint-dir", "/d", "web"]).is_err());
        let both = ["start", "--checkpoint", "c1", "--checkpoint-dir", "/d", "web"];
        assert_eq!(Start::try_parse_from(both).unwrap().args.checkpoint_dir.as_deref(), Some("/d"));
    }

    #[test]
    fn exit_codes_of_failed_starts() {
        assert_eq!(start_code("exec: \"nope\": executable file not found in $PATH"), 127);
        assert_eq!(start_code("exec /etc/passwd: permission denied"), 126);
        assert_eq!(start_code("driver failed programming external connectivity"), 125);
    }
}
