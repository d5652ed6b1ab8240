//! Makes clap read flags as docker's command line does: `--detach=false` for switches, values that begin with a hyphen
//! (`--memory-swap -1`), and short flags in clusters (`-it`).

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Command};

/// The command with docker's rules applied to it and all its subcommands. Used for parsing; help is printed from the
/// command as it was, where switches look like switches.
pub(crate) fn adapt(command: Command) -> Command {
    command.mut_args(adapt_argument).mut_subcommands(adapt)
}

fn adapt_argument(argument: Arg) -> Arg {
    if argument.is_positional() {
        return argument;
    }
    match argument.get_action() {
        ArgAction::SetTrue => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(BoolishValueParser::new()),
        ArgAction::Set if argument.get_num_args().is_some_and(|count| count.min_values() == 0) => argument,
        ArgAction::Set | ArgAction::Append => argument.allow_hyphen_values(true),
        _ => argument,
    }
}

/// The command for its help: the description of a flag says its values, so they are not listed once more.
pub(crate) fn for_help(command: Command) -> Command {
    let tidy = |argument: Arg| match argument.get_action() {
        ArgAction::Set | ArgAction::Append if !argument.is_positional() => argument.hide_possible_values(true),
        _ => argument,
    };
    command.mut_args(tidy).mut_subcommands(for_help)
}
