//! Cluster networks on this node: for each one a namespace with a bridge and a VXLAN device.
//!
//! ## Design notes
//! Nothing is learned from the wire. Where an address lives comes from the store: a neighbour entry gives its hardware
//! address, a forwarding entry the node. The VXLAN device answers address requests for remote endpoints from its
//! neighbour table, so that no request is ever flooded over the underlay. The device's UDP socket lives in the daemon's
//! namespace, because the device is made from there.

pub mod device;
pub mod plan;
