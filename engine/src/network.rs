//! Networks: bridge, host, none and overlay; addresses, published ports, name servers, virtual addresses, routing mesh.

pub mod controller;
pub mod types;

pub use controller::NetworkController;
pub use types::{
    AddressPool, ClusterNetwork, ClusterNetworkState, EndpointInfo, EndpointOptions, NetworkOptions, NetworkStatus,
    OverlayAttachment, PortPublish, PublishedPort, Sandbox, SandboxOptions,
};
