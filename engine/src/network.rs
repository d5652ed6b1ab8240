//! Networks: bridge, host, none and overlay; addresses, published ports, name servers, virtual addresses, routing mesh.
//!
//! ## Design notes
//! - [`NetworkController`] is the door; `core` is the state behind it. Callers' calls and the periodic comparison
//!   (`resync`) use the same steps, each of which compares what is with what should be: a call is only a comparison
//!   that comes early.
//! - What should be is computed as values ([`rules`], [`overlay::plan`], [`dns::zone`]) from what is known, without the
//!   kernel, and tested so.
//! - Kernel work goes through sockets that stay open in the namespace they were opened in; no thread of the runtime ever
//!   changes its namespace, no process is started.
//! - Links that this daemon made carry its device group, so that the next one finds what a crash left.

mod addresses;
mod bridge;
mod cluster;
pub mod controller;
mod core;
mod definition;
mod disk;
pub mod dns;
mod error;
mod files;
#[cfg(test)]
mod golden;
mod inspect;
pub mod overlay;
mod ports;
mod relay;
mod resync;
pub mod rules;
mod sandbox;
mod spares;
mod state;
pub mod types;

pub(crate) use addresses::parse_mac;
pub use controller::NetworkController;
pub use types::{
    AddressPool, ClusterNetwork, ClusterNetworkState, EndpointInfo, EndpointOptions, NetworkOptions, NetworkStatus,
    OverlayAttachment, PortPublish, PublishedPort, Sandbox, SandboxOptions, SandboxUser,
};
