//! The kinds of failure that cross a crate's border on their way to a user. One place, the HTTP API, maps kinds to
//! status codes; nothing else looks at the text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure it was, from the view of whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request itself is wrong; sending it again will not help.
    InvalidArgument,
    /// The named thing does not exist.
    NotFound,
    /// The request clashes with what exists (name taken, in use, wrong state).
    Conflict,
    /// The request was based on an older version of the object.
    StaleVersion,
    /// The caller's identity does not permit it.
    PermissionDenied,
    /// The thing is already as asked.
    NotModified,
    /// Not possible now: no leader, not a manager, shutting down. Worth trying again.
    Unavailable,
    /// The option exists in the API but is not offered here.
    NotImplemented,
    /// Everything else: the machine failed, not the user.
    Internal,
}

/// A failure with its kind and a sentence for the user: what failed, on what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Failure {
    /// The kind, which decides the status code.
    pub kind: ErrorKind,
    /// The sentence: lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// The named thing does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// It clashes with what exists.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// Not possible now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// The machine failed. The whole chain of causes is put into the message.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(ErrorKind::Internal, chain(error))
    }
}

/// An error and its causes in one line, each cause once: `outer: inner: innermost`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
