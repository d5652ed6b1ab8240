//! The command line: docker's grammar over the Engine API. It knows nothing of the engine and of the cluster but what the
//! HTTP API says.
//!
//! ## Design notes
//! - A command is a clap struct with a `run`; bodies of requests are built by pure functions and golden-tested.
//! - The API's answers stay JSON ([`look::Look`]): a command shows what is there and is silent about what is not, so it
//!   works with older and newer daemons, and with dockerd.
//! - A usage error ends with docker's exit code 125, an unknown command with 1.

pub(crate) mod attach;
pub(crate) mod checkpoint;
pub(crate) mod client;
mod completion;
pub(crate) mod container;
pub(crate) mod context;
pub(crate) mod exit;
mod flags;
mod grammar;
pub(crate) mod human;
mod image;
pub(crate) mod listing;
pub(crate) mod look;
mod manual;
mod network;
mod node;
pub(crate) mod output;
mod parse;
mod payload;
mod refused;
mod service;
mod swarm;
mod system;
pub(crate) mod table;
pub(crate) mod tasks;
pub(crate) mod template;
pub(crate) mod terminal;
mod volume;

use std::ffi::OsString;
use std::io::BufRead as _;

use clap::{CommandFactory as _, FromArgMatches as _};

use exit::Exit;
use grammar::Cli;

/// The command as people read it.
fn command_for_help() -> clap::Command {
    grammar::with_overview(flags::for_help(Cli::command()))
}

/// The command as a shell's completion sees it.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line and gives the process's exit code.
pub(crate) fn main(arguments: Vec<OsString>) -> i32 {
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // The daemon serves many at once; a command waits for one thing at a time.
    let (mut builder, daemon) = match cli.into_daemon() {
        Ok(options) => (tokio::runtime::Builder::new_multi_thread(), Ok(options)),
        Err(cli) => (tokio::runtime::Builder::new_current_thread(), Err(cli)),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format!("shoal: cannot start: {error}"));
            return 1;
        }
    };
    let result = runtime.block_on(async {
        match daemon {
            Ok(options) => crate::daemon::run(options).await,
            Err(cli) => cli.run().await,
        }
    });
    // A thread may still wait for standard input.
    runtime.shutdown_background();
    match result {
        Ok(()) => 0,
        Err(error) => report(&error),
    }
}

fn report(error: &anyhow::Error) -> i32 {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        if let Some(message) = &exit.message {
            output::note(message);
        }
        return exit.code;
    }
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    // The reader of a pipe, such as `head`, has seen enough.
    if !error.chain().any(broken_pipe) {
        output::note(format!("{error:#}"));
    }
    1
}

/// `shoal help service create` is `shoal service create --help`, as with docker.
fn help_asked(arguments: &[OsString]) -> Option<Vec<OsString>> {
    match arguments {
        [program, help, command @ ..] if help == "help" => {
            let program = std::slice::from_ref(program);
            Some([program, command, &[OsString::from("--help")]].concat())
        }
        _ => None,
    }
}

/// Parses the arguments; a help text or an error is printed here and is the exit code.
fn parse(arguments: &[OsString]) -> Result<Cli, i32> {
    let asked = help_asked(arguments);
    let arguments = asked.as_deref().unwrap_or(arguments);
    let error = match flags::adapt(Cli::command()).try_get_matches_from(arguments) {
        Ok(matches) => match Cli::from_arg_matches(&matches) {
            Ok(cli) => return Ok(cli),
            Err(error) => error,
        },
        Err(error) => error,
    };
    use clap::error::ErrorKind;
    // Help is printed from the command as people read it, where `--rm` takes no value.
    let error = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            command_for_help().try_get_matches_from(arguments).err().unwrap_or(error)
        }
        _ => error,
    };
    let _ = error.print();
    Err(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::InvalidSubcommand
        | ErrorKind::MissingRequiredArgument => 1,
        _ => 125,
    })
}

/// Asks before something is removed; anything but `y` is a no.
pub(crate) fn confirm(warning: &str) -> anyhow::Result<bool> {
    confirm_text(&format!("WARNING! {warning}\n"))
}

/// The same with a text of its own.
pub(crate) fn confirm_text(warning: &str) -> anyhow::Result<bool> {
    output::text(format!("{warning}Are you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        std::iter::once("shoal").chain(text.split(' ')).map(OsString::from).collect()
    }

    #[test]
    fn the_grammar_is_sound() {
        flags::adapt(Cli::command()).debug_assert();
        command_for_help().debug_assert();
    }

    #[test]
    fn what_people_type_for_docker_is_understood() {
        let commands = [
            "run --rm -it busybox sh -c id",
            "run -d --name web -p 8080:80 -v data:/data -e A=1 --restart=always --memory-swap -1 nginx",
            "run -h box --sig-proxy=false --detach=false busybox",
            "-H unix:///x.sock ps -aq --filter status=exited",
            "service create --detach=true --name web --replicas=3 --publish published=80,target=80 nginx",
            "service update --env-add A=1 --tty=false web",
            "service scale web=3 db=2",
            "service logs -f --tail 10 web",
            "swarm init --advertise-addr eth0 --task-history-limit 1",
            "swarm join --token T 10.0.0.1:2377",
            "swarm join-token -q worker",
            "node update --availability drain n1",
            "exec -it web sh -c ls",
            "container ls -a",
            "image ls -q",
            "images --no-trunc",
            "rmi a b",
            "network create -d overlay --attachable n",
            "volume create data",
            "secret create s -",
            "logs --since 5m -ft web",
            "stop -t 0 web",
            "inspect --type service web",
            "completion bash",
            "cp -aL web:/etc/hosts .",
            "cp - web:/tmp",
            "commit -p=false -a me -m why -c USER=x web web:2",
            "diff web",
            "export -o web.tar web",
            "system prune -af --volumes --filter label=a",
            "system df -v",
            "image prune -a",
            "volume prune -af",
            "stop --timeout 3 web",
            "restart --time 3 web",
            "run --pull missing -q busybox",
            "pull --all-tags busybox",
            "build -t web .",
        ];
        for text in commands {
            assert!(parse(&words(text)).is_ok(), "{text}");
        }
    }

    #[test]
    fn help_is_a_word_as_well() {
        for text in ["help", "help service", "help service create", "service create --help"] {
            assert_eq!(parse(&words(text)).err(), Some(0), "{text}");
        }
        assert_eq!(parse(&words("help nonsense")).err(), Some(1));
    }

    #[test]
    fn what_is_wrong_has_dockers_exit_code() {
        assert_eq!(parse(&words("run --nonsense busybox")).err(), Some(125));
        assert_eq!(parse(&words("run -m 12x busybox")).err(), Some(125));
        assert_eq!(parse(&words("nonsense")).err(), Some(1));
        assert_eq!(parse(&words("service create")).err(), Some(1));
    }

    #[test]
    fn every_command_has_a_purpose_and_an_example() {
        fn check(path: &str, command: &clap::Command) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no purpose");
            let example = command.get_after_help().is_some_and(|help| help.to_string().contains("Example"));
            assert!(example || command.has_subcommands() || command.get_name() == "help", "{path} has no example");
            command.get_subcommands().for_each(|child| check(&path, child));
        }
        Cli::command().get_subcommands().for_each(|child| check("shoal", child));
    }
}
