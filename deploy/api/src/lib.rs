//! The Docker Engine HTTP API of a Shoal node.

pub mod node;

pub use node::NodeControl;
