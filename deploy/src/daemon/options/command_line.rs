//! The command line of `shoal daemon`: a flag per directive, each read as dockerd reads it.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Map, Value, json};

use super::directive::{DIRECTIVES, Directive, Kind};
use super::value;

const CONFIG_FILE: &str = "config-file";
const VALIDATE: &str = "validate";
const TEARDOWN: &str = "teardown";
const VERSION: &str = "version";
/// Set by the program itself when it was started through a link that is named `dockerd`.
pub(crate) const AS_DOCKERD: &str = "as-dockerd";

/// What the command line of `shoal daemon` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct DaemonOptions {
    /// Directives by key, in the shape that the config file has them. What was not given is not there.
    pub(super) given: Map<String, Value>,
    /// JSON file with more of them; `None` takes the default one, which may be absent.
    pub(super) config_file: Option<PathBuf>,
    /// Only check?
    pub(crate) validate: bool,
    /// Only stop all containers and take everything out of the kernel?
    pub(crate) teardown: bool,
    /// Only tell the version?
    pub(crate) version: bool,
    /// Started under dockerd's name: its socket, pidfile and config file are the defaults.
    pub(super) as_dockerd: bool,
}

impl Args for DaemonOptions {
    fn augment_args(command: Command) -> Command {
        let command = DIRECTIVES.iter().filter_map(argument).fold(command, Command::arg);
        command
            .arg(
                Arg::new(CONFIG_FILE)
                    .long(CONFIG_FILE)
                    .value_name("FILE")
                    .help("JSON file with the same options; it may be absent unless it is named here [default: /etc/shoal/daemon.json]"),
            )
            .arg(switch(VALIDATE).help("Check the options and the config file, then end"))
            .arg(switch(TEARDOWN).help(
                "Stop all containers, take everything of this daemon out of the kernel, then end; data stays",
            ))
            .arg(switch(VERSION).short('v').help("Print the version, then end"))
            .arg(switch(AS_DOCKERD).hide(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn switch(name: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_name("BOOL")
        .value_parser(BoolishValueParser::new())
}

fn argument(directive: &Directive) -> Option<Arg> {
    let flag = directive.flag?;
    let argument = match directive.kind {
        Kind::Switch => switch(flag),
        Kind::Text | Kind::Number | Kind::Bytes => Arg::new(flag).long(flag).action(ArgAction::Set),
        _ => Arg::new(flag).long(flag).action(ArgAction::Append),
    };
    let argument = match directive.kind {
        Kind::Switch => argument,
        Kind::Number => argument.value_name("NUMBER"),
        Kind::Bytes => argument.value_name("BYTES"),
        Kind::Pairs | Kind::Runtimes | Kind::Ulimits | Kind::Features => argument.value_name("NAME=VALUE"),
        Kind::DriverOptions => argument.value_name("DRIVER=NAME=VALUE"),
        Kind::Pools => argument.value_name("POOL"),
        Kind::Text | Kind::List | Kind::Any => argument.value_name("VALUE"),
    };
    let argument = match directive.short {
        Some(short) => argument.short(short),
        None => argument,
    };
    let argument = if flag == "data-root" { argument.alias("graph") } else { argument };
    Some(argument.help(directive.described()))
}

impl FromArgMatches for DaemonOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Self::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for directive in DIRECTIVES {
            let Some(flag) = directive.flag.filter(|flag| matches.contains_id(flag)) else { continue };
            self.given.insert(directive.key.to_owned(), read(directive, flag, matches)?);
        }
        let is_set = |name: &str| matches.get_one::<bool>(name).copied().unwrap_or(false);
        self.config_file = matches.get_one::<String>(CONFIG_FILE).map(PathBuf::from);
        self.teardown = is_set(TEARDOWN);
        (self.validate, self.version, self.as_dockerd) = (is_set(VALIDATE), is_set(VERSION), is_set(AS_DOCKERD));
        Ok(())
    }
}

fn read(directive: &Directive, flag: &str, matches: &ArgMatches) -> Result<Value, clap::Error> {
    if directive.kind == Kind::Switch {
        return Ok(json!(matches.get_one::<bool>(flag).copied().unwrap_or_default()));
    }
    let texts: Vec<&String> = matches.get_many::<String>(flag).into_iter().flatten().collect();
    let mut read = Value::Null;
    for text in texts {
        value::add(directive.kind, &mut read, text).map_err(|why| {
            let message =
                format!("invalid argument {text:?} for \"--{flag}\" flag: {why}\nSee 'shoal daemon --help'.\n");
            clap::Error::raw(ErrorKind::ValueValidation, message)
        })?;
    }
    Ok(read)
}
