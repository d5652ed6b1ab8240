//! The replicated log under the store.

pub mod log_store;
pub mod network;
pub mod node;
pub mod snapshot_file;
pub mod state;
pub mod state_machine;
pub mod types;

#[cfg(test)]
mod tests;
