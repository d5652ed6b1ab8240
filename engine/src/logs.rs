//! The drivers of container logs: from the bytes of two streams to records in files, and to log services. They run in the
//! shim, so that a log has no gap when the daemon is away.

pub(crate) mod file;
pub mod journald;
pub mod json_file;
pub mod lines;
pub mod local;
pub(crate) mod log;
pub mod remote;
pub mod syslog;
mod writer;

pub(crate) use file::packed_identity;
pub(crate) use log::Log;
