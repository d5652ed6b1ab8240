//! How a command ends: the process's exit code and what is said on standard error.

use std::fmt;

/// An end that is not success. Travels as the source of an [`anyhow::Error`] up to [`crate::cli::main`].
#[derive(Debug)]
pub(crate) struct Exit {
    /// Exit code of the process.
    pub(crate) code: i32,
    /// What to print on standard error; `None` when everything has been said already (a container's own exit code).
    pub(crate) message: Option<String>,
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => formatter.write_str(message),
            None => write!(formatter, "exit status {}", self.code),
        }
    }
}

impl std::error::Error for Exit {}

/// Ends with this code and says why.
pub(crate) fn fail(code: i32, message: impl Into<String>) -> anyhow::Error {
    Exit { code, message: Some(message.into()) }.into()
}

/// Ends with this code, silently.
pub(crate) fn silent(code: i32) -> anyhow::Error {
    Exit { code, message: None }.into()
}

/// Collects the failures of a command that goes on over its arguments, as `docker rm a b c` does.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<String>);

impl Failures {
    /// Keeps the failure of one argument; `None` when it failed.
    pub(crate) fn keep<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.push(format!("{error:#}"));
                None
            }
        }
    }

    /// The end of the command: exit code 1 when anything failed.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(fail(1, self.0.join("\n"))) }
    }
}
