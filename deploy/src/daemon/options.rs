//! Options of `shoal daemon`: dockerd's names for dockerd's things, on the command line and in the config file.
//!
//! ## Design notes
//! [`directive`] is the table of them all. [`command_line`] and [`merge`] make one set of directives of the flags and the
//! file, and [`settings`] reads it. The set is kept: a reload makes a new one of the same flags and the file as it is then.

mod command_line;
mod directive;
mod host;
mod merge;
mod registry;
mod settings;
#[cfg(test)]
mod tests;
mod value;

use serde_json::{Map, Value};

pub(crate) use command_line::{AS_DOCKERD, DaemonOptions};
pub(crate) use host::{Guard, Listen};
pub(crate) use settings::Settings;

use merge::Source;
use settings::Reader;

/// The options as they hold, and where they came from.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    source: Source,
    as_dockerd: bool,
    directives: Map<String, Value>,
    /// With nothing left open.
    pub(crate) settings: Settings,
}

/// Puts command line, config file and defaults together.
///
/// # Errors
/// When a value cannot be used, the named config file cannot be read, or an option is given in both places.
pub(crate) fn settle(options: &DaemonOptions) -> anyhow::Result<Options> {
    let source = Source::new(options);
    let directives = source.merged()?;
    let settings = read(&directives, options.as_dockerd)?;
    Ok(Options { source, as_dockerd: options.as_dockerd, directives, settings })
}

fn read(directives: &Map<String, Value>, as_dockerd: bool) -> anyhow::Result<Settings> {
    Settings::read(&Reader::new(directives), as_dockerd)
}

impl Options {
    /// The config file.
    pub(crate) fn file(&self) -> &std::path::Path {
        &self.source.path
    }

    /// What was accepted and changes nothing, each with the reason.
    pub(crate) fn idle(&self) -> Vec<(&'static str, &'static str)> {
        merge::idle(&self.directives)
    }

    /// Reads the config file again. Only what can change while the daemon runs is taken over; the second are the keys of what
    /// changed and needs a restart.
    ///
    /// # Errors
    /// As [`settle`]; these options still hold then.
    pub(crate) fn reload(&self) -> anyhow::Result<(Self, Vec<String>)> {
        let new = self.source.merged()?;
        // All of the file must be usable, or the next start would fail.
        read(&new, self.as_dockerd)?;
        let (directives, late) = merge::reloaded(&self.directives, &new);
        let settings = read(&directives, self.as_dockerd)?;
        Ok((Self { directives, settings, ..self.clone() }, late))
    }
}
