//! Is a specification acceptable? Texts follow swarmkit and dockerd, so that people find them on the web.

mod container;
mod network;
mod service;

use std::time::Duration;

use serde::Serialize;
use shoal_proto::codec;
use shoal_proto::error::Failure;
use shoal_proto::spec::{ClusterSpec, ConfigSpec, NodeSpec, SecretSpec};

use crate::store::Store;

pub use network::{network, network_removal};
pub use service::{service, service_update, service_warnings};

/// Largest spec, as in Swarm: it has to fit a log entry.
pub const LARGEST_SPEC: usize = 3 << 19;
/// A secret is smaller than this.
pub const SECRET_LIMIT: usize = 500 << 10;
/// A config is at most as large as this.
pub const CONFIG_LIMIT: usize = 1_000 << 10;

/// As swarmkit's `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`, at most 63 characters.
fn dns_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() {
        return Err(Failure::invalid("meta: name must be provided"));
    }
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if !inner || !edge(name.bytes().next()) || !edge(name.bytes().next_back()) {
        return Err(Failure::invalid(format!("name must be valid as a DNS name component: {name:?}")));
    }
    if name.len() > 63 {
        return Err(Failure::invalid("name must be 63 characters or fewer"));
    }
    Ok(())
}

fn payload_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() {
        return Err(Failure::invalid("name must be provided"));
    }
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if name.len() > 64 || !inner || !edge(name.bytes().next()) || !edge(name.bytes().next_back()) {
        return Err(Failure::invalid(
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be \
             [a-zA-Z0-9]",
        ));
    }
    Ok(())
}

/// The whole of a spec has to fit a log entry.
fn size<T: Serialize>(kind: &str, spec: &T) -> Result<(), Failure> {
    let bytes = codec::encode(spec).len();
    if bytes > LARGEST_SPEC {
        return Err(Failure::invalid(format!(
            "{kind} spec is too large: {bytes} bytes, at most {LARGEST_SPEC} (1.5 MiB) are allowed"
        )));
    }
    Ok(())
}

/// May a secret be made of this spec?
///
/// # Errors
/// When it may not, with the reason. (That the name is free is checked where the change is made.)
pub fn secret(spec: &SecretSpec, _store: &Store) -> Result<(), Failure> {
    payload_name(&spec.name)?;
    if spec.data.is_empty() || spec.data.len() >= SECRET_LIMIT {
        return Err(Failure::invalid(format!("secret data must be larger than 0 and less than {SECRET_LIMIT} bytes")));
    }
    size("secret", &spec.labels)
}

/// May a config be made of this spec?
///
/// # Errors
/// When it may not, with the reason. (That the name is free is checked where the change is made.)
pub fn config(spec: &ConfigSpec, _store: &Store) -> Result<(), Failure> {
    payload_name(&spec.name)?;
    if spec.data.len() > CONFIG_LIMIT {
        return Err(Failure::invalid(format!("config data must be less than or equal to {CONFIG_LIMIT} bytes")));
    }
    size("config", &spec.labels)
}

/// Is this acceptable for a node?
///
/// # Errors
/// When it is not, with the reason.
pub fn node(spec: &NodeSpec) -> Result<(), Failure> {
    if let Some(label) = spec.labels.keys().find(|label| label.trim().is_empty()) {
        return Err(Failure::invalid(format!("invalid node label {label:?}: a label needs a name")));
    }
    size("node", spec)
}

/// Is this acceptable for the cluster?
///
/// # Errors
/// When it is not, with the reason.
pub fn cluster(spec: &ClusterSpec) -> Result<(), Failure> {
    if spec.heartbeat_period < Duration::from_millis(100) || spec.heartbeat_period > Duration::from_secs(3600) {
        return Err(Failure::invalid("invalid dispatcher heartbeat period: it must be between 100ms and 1h"));
    }
    if spec.node_cert_expiry < Duration::from_secs(1) {
        return Err(Failure::invalid("minimum certificate expiry time is: 1s"));
    }
    if spec.raft.snapshot_interval == 0 {
        return Err(Failure::invalid("the snapshot interval must be at least 1 log entry"));
    }
    if spec.raft.heartbeat_tick == 0 || spec.raft.election_tick <= spec.raft.heartbeat_tick {
        return Err(Failure::invalid("the election tick must be greater than the heartbeat tick"));
    }
    size("cluster", spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::error::ErrorKind;

    #[test]
    fn names_of_services_are_dns_labels() {
        for name in ["a", "web", "Web-1", "a_b", "0", &"x".repeat(63)] {
            assert_eq!(dns_name(name), Ok(()), "{name}");
        }
        for name in ["", "-web", "web-", "_a", "we b", "web.1", "w\u{e4}b", "a/b", &"x".repeat(64)] {
            assert_eq!(dns_name(name).unwrap_err().kind, ErrorKind::InvalidArgument, "{name}");
        }
    }

    #[test]
    fn names_of_payloads_may_have_dots() {
        for name in ["a", "app.conf", "a-b_c.d", &"x".repeat(64)] {
            assert_eq!(payload_name(name), Ok(()), "{name}");
        }
        for name in ["", ".conf", "conf.", "a b", "a/b", &"x".repeat(65)] {
            assert!(payload_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn payloads_have_limits() {
        let store = Store::new();
        let secret_of =
            |bytes| secret(&SecretSpec { name: "s".into(), data: vec![1; bytes], ..Default::default() }, &store);
        assert!(secret_of(0).is_err());
        assert!(secret_of(1).is_ok());
        assert!(secret_of(SECRET_LIMIT - 1).is_ok());
        assert!(secret_of(SECRET_LIMIT).is_err());
        let config_of =
            |bytes| config(&ConfigSpec { name: "c".into(), data: vec![1; bytes], ..Default::default() }, &store);
        assert!(config_of(CONFIG_LIMIT).is_ok());
        assert!(config_of(CONFIG_LIMIT + 1).is_err());
    }

    #[test]
    fn cluster_settings_have_ranges() {
        assert_eq!(cluster(&ClusterSpec::default()), Ok(()));
        let bad = |change: fn(&mut ClusterSpec)| {
            let mut spec = ClusterSpec::default();
            change(&mut spec);
            assert!(cluster(&spec).is_err());
        };
        bad(|spec| spec.heartbeat_period = Duration::ZERO);
        bad(|spec| spec.node_cert_expiry = Duration::from_millis(1));
        bad(|spec| spec.raft.snapshot_interval = 0);
        bad(|spec| spec.raft.election_tick = 1);
        bad(|spec| spec.labels = [("l".to_owned(), "x".repeat(2 << 20))].into());
    }

    #[test]
    fn node_labels_need_names() {
        assert!(node(&NodeSpec::default()).is_ok());
        assert!(node(&NodeSpec { labels: [(" ".to_owned(), String::new())].into(), ..NodeSpec::default() }).is_err());
    }
}
