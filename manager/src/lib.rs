//! A Shoal manager.
pub mod raft;
pub mod seal;
