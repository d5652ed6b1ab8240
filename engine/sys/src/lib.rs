//! One narrow module per kernel facility. The only crate of the workspace with `unsafe`.

pub mod cgroup;
pub mod fs;
pub mod mount;
pub mod mount_tree;
pub mod namespace;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod proc;
pub mod process;
pub mod pty;
pub mod scheduling;
pub mod signal;
pub mod socket;
pub mod user_namespace;
