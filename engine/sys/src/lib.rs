//! shoal-engine-sys

pub mod process;
pub mod pty;
pub mod fs;
pub mod mount;
