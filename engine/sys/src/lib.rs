//! shoal-engine-sys

pub mod process;
pub mod pty;
