//! The local container engine: images, snapshots, containers, networks and volumes of one node.
//!
//! [`Engine`] is the door. Behind it each part has its own module; what they speak with the API is in [`model`].

pub mod cdi;
pub mod cgroup;
pub mod checkpoint;
pub mod cluster;
pub mod container;
pub mod engine;
pub mod events;
pub(crate) mod exec;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod model;
pub mod network;
pub mod options;
pub mod remap;
pub mod runtime;
pub mod shim;
pub mod stats;

pub use engine::Engine;
pub use options::EngineOptions;
pub mod image;
pub mod snapshot;
pub mod volume;
