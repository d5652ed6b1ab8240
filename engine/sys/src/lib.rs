//! shoal-engine-sys

pub mod signal;
pub mod proc;
pub mod namespace;
pub mod fs;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod process;
pub mod pty;
pub mod socket;
