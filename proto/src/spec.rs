//! What users want: the specifications of cluster objects. What is observed lives in [`crate::object`].
//!
//! Absent means default everywhere: each type documents what its `None` and its empty list mean. Durations are
//! `std::time::Duration`; sizes are bytes; CPU is billionths of a core, as in the Engine API.

mod cluster;
mod container;
mod network;
mod node;
mod service;

pub use cluster::*;
pub use container::*;
pub use network::*;
pub use node::*;
pub use service::*;

use std::collections::BTreeMap;

/// Labels of an object. Ordered, so that two equal specs encode to equal bytes.
pub type Labels = BTreeMap<String, String>;
