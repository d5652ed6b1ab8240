//! From the API's JSON to the cluster's types and back.
//!
//! ## Design notes
//! What the API has and the cluster has not is refused with the member's name; nothing that would change how a service
//! runs is dropped in silence. What the client left out stays left out where the cluster's types can say so, so that
//! `inspect` shows what `create` was given.

mod cluster;
mod container;
mod mount;
mod network;
mod node;
mod payload;
mod service;
mod task;

use std::time::Duration;

use shoal_proto::id::{ConfigId, NetworkId, SecretId};

pub(crate) use self::cluster::{cluster_info, cluster_spec, init_request, join_request};
pub(crate) use self::network::{network_inspect, network_spec, vni_option};
pub(crate) use self::node::{node, node_spec};
pub(crate) use self::payload::{config, config_spec, secret, secret_spec};
#[cfg(test)]
pub(crate) use self::service::service_spec_json;
pub(crate) use self::service::{insert_defaults, service, service_spec};
pub(crate) use self::task::task;
use crate::error::ApiError;

/// Finds what a spec refers to.
pub(crate) trait Resolve {
    /// A cluster network by id, name, or beginning of an id.
    fn network(&self, target: &str) -> Result<NetworkId, ApiError>;
    /// A secret by its id; the name must be its name.
    fn secret(&self, id: &str, name: &str) -> Result<SecretId, ApiError>;
    /// A config by its id; the name must be its name.
    fn config(&self, id: &str, name: &str) -> Result<ConfigId, ApiError>;
}

/// A member that exists in the API but not here.
pub(crate) fn not_offered(member: &str) -> ApiError {
    ApiError::not_implemented(format!("{member} is not offered by Shoal: leave it out"))
}

/// Nanoseconds to a duration.
pub(crate) fn duration(member: &str, nanoseconds: i64) -> Result<Duration, ApiError> {
    u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .map_err(|_| ApiError::invalid(format!("{member} cannot be negative")))
}

/// A duration to nanoseconds.
pub(crate) fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
