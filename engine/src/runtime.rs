//! Creating containers from OCI runtime specifications.

pub mod bundle;
