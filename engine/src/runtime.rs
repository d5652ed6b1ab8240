//! Creating containers from OCI runtime specifications.

pub mod bundle;
pub mod capabilities;
pub mod seccomp;
pub mod spec;
pub mod user;
