//! Is a specification acceptable? Texts follow swarmkit, so that people find them on the web.

use shoal_proto::error::Failure;
use shoal_proto::object::{Network, Service};
use shoal_proto::spec::{ClusterSpec, ConfigSpec, NetworkSpec, NodeSpec, SecretSpec, ServiceSpec};

use crate::store::Store;

/// May a service be made of this spec?
pub fn service(spec: &ServiceSpec, store: &Store) -> Result<(), Failure> {
    let _ = (spec, store);
    Ok(())
}

/// May the service be changed to this spec?
pub fn service_update(service: &Service, spec: &ServiceSpec, store: &Store) -> Result<(), Failure> {
    let _ = (service, spec, store);
    Ok(())
}

/// May a network be made of this spec?
pub fn network(spec: &NetworkSpec, store: &Store) -> Result<(), Failure> {
    let _ = (spec, store);
    Ok(())
}

/// May a secret be made of this spec?
pub fn secret(spec: &SecretSpec, store: &Store) -> Result<(), Failure> {
    let _ = (spec, store);
    Ok(())
}

/// May a config be made of this spec?
pub fn config(spec: &ConfigSpec, store: &Store) -> Result<(), Failure> {
    let _ = (spec, store);
    Ok(())
}

/// Is this acceptable for a node?
pub fn node(spec: &NodeSpec) -> Result<(), Failure> {
    let _ = spec;
    Ok(())
}

/// Is this acceptable for the cluster?
pub fn cluster(spec: &ClusterSpec) -> Result<(), Failure> {
    let _ = spec;
    Ok(())
}

/// May the network be removed?
pub fn network_removal(network: &Network, store: &Store) -> Result<(), Failure> {
    let _ = (network, store);
    Ok(())
}
