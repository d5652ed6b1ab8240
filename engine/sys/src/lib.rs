//! One narrow module per kernel facility. The only crate of the workspace with `unsafe`.

pub mod cgroup;
pub mod fs;
pub mod memory;
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

#[cfg(test)]
mod testing {
    /// Is this root? Says loudly when it is not: the test then is skipped.
    pub(crate) fn root() -> bool {
        let is = rustix::process::geteuid().is_root();
        if !is {
            eprintln!("SKIPPED: needs root");
        }
        is
    }
}
