//! What can go wrong below the controller's door.

use std::io;

use shoal_engine_sys::netlink::NetlinkError;
use shoal_proto::error::{ErrorKind, Failure};

/// A failed step.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The request cannot be fulfilled; the sentence is for the user.
    #[error("{0}")]
    Refused(#[from] Failure),
    /// The kernel refused a change of its network tables.
    #[error("the kernel refused to {}", .0.what)]
    Kernel(#[from] NetlinkError),
    /// Reading or writing failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried, with the path or name.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Several steps of a teardown failed; the others were carried out.
    #[error("{}", .0.join("; "))]
    Several(Vec<String>),
}

/// Shorthand of this module tree.
pub(super) type Result<T, E = NetworkError> = std::result::Result<T, E>;

impl NetworkError {
    /// Wraps an I/O error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Refused(failure) => failure,
            NetworkError::Kernel(error) => {
                let why = if error.message.is_empty() { String::new() } else { format!(" ({})", error.message) };
                Self::new(ErrorKind::Internal, format!("the kernel refused to {}{why}: {}", error.what, error.source))
            }
            other => Self::internal(&other),
        }
    }
}

/// Errors of a teardown, which goes on after each.
#[derive(Debug, Default)]
pub(super) struct Collected(Vec<String>);

impl Collected {
    /// Notes a failed step.
    pub(super) fn note<T, E: Into<NetworkError>>(&mut self, result: std::result::Result<T, E>) {
        if let Err(error) = result {
            self.0.push(Failure::from(error.into()).message);
        }
    }

    /// All of them as one error.
    ///
    /// # Errors
    /// When any step failed.
    pub(super) fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(NetworkError::Several(self.0)) }
    }
}
