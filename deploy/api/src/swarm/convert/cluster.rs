//! The cluster's settings, and the bodies of `init` and `join`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv4Net;
use shoal_manager_core::store::Store;
use shoal_proto::object::Cluster;
use shoal_proto::spec::{AddressPools, ClusterSpec, LogDriver, RaftSpec};

use super::{duration, nanoseconds, node, not_offered, task};
use crate::error::ApiError;
use crate::node::{InitRequest, JoinRequest};
use crate::swarm::model;

/// Shorter heartbeats than this would be missed by healthy nodes under load.
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
/// Shortest life of a node's certificate.
const MIN_EXPIRY: Duration = Duration::from_secs(3600);

/// Settings as their user sent them. As in dockerd, what is left out or zero takes the value from `base`: the defaults
/// for `init`, the current settings for `update`. `is_new`: is it `init`?
pub(crate) fn cluster_spec(
    spec: model::ClusterSpec,
    base: &ClusterSpec,
    is_new: bool,
) -> Result<ClusterSpec, ApiError> {
    let ca = spec.ca_config;
    if !ca.external_cas.is_empty() {
        return Err(not_offered("CAConfig.ExternalCAs"));
    }
    // What a new cluster counts from is of no consequence: its certificate is new.
    let rotates = ca.force_rotate != base.force_rotate && !(is_new || ca.force_rotate == 0);
    if !ca.signing_ca_cert.is_empty() || !ca.signing_ca_key.is_empty() || rotates {
        return Err(not_offered(
            "rotation of the cluster's root CA (CAConfig.SigningCACert, SigningCAKey, ForceRotate)",
        ));
    }
    if spec.encryption_config.auto_lock_managers {
        return Err(autolock());
    }
    let heartbeat = duration("Dispatcher.HeartbeatPeriod", spec.dispatcher.heartbeat_period)?;
    if !heartbeat.is_zero() && heartbeat < MIN_HEARTBEAT {
        return Err(ApiError::invalid("Dispatcher.HeartbeatPeriod must be at least 100ms"));
    }
    let expiry = duration("CAConfig.NodeCertExpiry", ca.node_cert_expiry)?;
    // As dockerd. A node whose certificate ran out while it was away, or while nobody led, has to join again.
    if !expiry.is_zero() && expiry < MIN_EXPIRY {
        return Err(ApiError::invalid("minimum certificate expiry time is: 1h0m0s"));
    }
    let history = match spec.orchestration.task_history_retention_limit {
        None => base.task_history_limit,
        Some(limit) => u64::try_from(limit)
            .map_err(|_| ApiError::invalid("Orchestration.TaskHistoryRetentionLimit cannot be negative"))?,
    };
    let or_base = |given: Duration, base: Duration| if given.is_zero() { base } else { given };
    Ok(ClusterSpec {
        name: if spec.name.is_empty() { base.name.clone() } else { spec.name },
        labels: if spec.labels.is_empty() { base.labels.clone() } else { spec.labels },
        task_history_limit: history,
        raft: raft(&spec.raft, &base.raft)?,
        heartbeat_period: or_base(heartbeat, base.heartbeat_period),
        node_cert_expiry: or_base(expiry, base.node_cert_expiry),
        force_rotate: if ca.force_rotate == 0 { base.force_rotate } else { ca.force_rotate },
        auto_lock_managers: false,
        default_log_driver: spec
            .task_defaults
            .log_driver
            .map(|driver| LogDriver { name: driver.name, options: driver.options }),
    })
}

/// A manager's store is encrypted, but its key lies beside it: who asks for more must not believe to have it.
fn autolock() -> ApiError {
    ApiError::not_implemented("autolock (EncryptionConfig.AutoLockManagers) is not offered by Shoal yet: leave it off")
}

fn raft(raft: &model::Raft, base: &RaftSpec) -> Result<RaftSpec, ApiError> {
    // Clients send back what `inspect` showed them; another value would change nothing, so it is refused.
    let tick = |member: &str, given: i64, base: u32| match given {
        0 => Ok(base),
        given if given == i64::from(base) => Ok(base),
        ..0 => Err(ApiError::invalid(format!("Raft.{member} cannot be negative"))),
        _ => Err(not_offered(&format!("Raft.{member} other than {base}"))),
    };
    let or_base = |given: u64, base: u64| if given == 0 { base } else { given };
    Ok(RaftSpec {
        snapshot_interval: or_base(raft.snapshot_interval, base.snapshot_interval),
        keep_old_snapshots: raft.keep_old_snapshots.unwrap_or(base.keep_old_snapshots),
        log_entries_for_slow_followers: or_base(
            raft.log_entries_for_slow_followers,
            base.log_entries_for_slow_followers,
        ),
        election_tick: tick("ElectionTick", raft.election_tick, base.election_tick)?,
        heartbeat_tick: tick("HeartbeatTick", raft.heartbeat_tick, base.heartbeat_tick)?,
    })
}

fn cluster_spec_json(spec: &ClusterSpec) -> model::ClusterSpec {
    model::ClusterSpec {
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        orchestration: model::Orchestration {
            task_history_retention_limit: i64::try_from(spec.task_history_limit).ok(),
        },
        raft: model::Raft {
            snapshot_interval: spec.raft.snapshot_interval,
            keep_old_snapshots: Some(spec.raft.keep_old_snapshots),
            log_entries_for_slow_followers: spec.raft.log_entries_for_slow_followers,
            election_tick: spec.raft.election_tick.into(),
            heartbeat_tick: spec.raft.heartbeat_tick.into(),
        },
        dispatcher: model::Dispatcher { heartbeat_period: nanoseconds(spec.heartbeat_period) },
        ca_config: model::CaConfig {
            node_cert_expiry: nanoseconds(spec.node_cert_expiry),
            force_rotate: spec.force_rotate,
            ..model::CaConfig::default()
        },
        task_defaults: model::TaskDefaults { log_driver: spec.default_log_driver.as_ref().map(task::log_driver_json) },
        encryption_config: model::EncryptionConfig { auto_lock_managers: spec.auto_lock_managers },
    }
}

/// The cluster as the API shows it.
pub(crate) fn cluster_info(cluster: &Cluster, store: &Store) -> model::ClusterInfo {
    let trust_root = &cluster.root_ca.certificate_pem;
    // Subject and key of the root certificate, as a node that trusts it describes them.
    let described = store.nodes().filter_map(|node| node.description.as_ref());
    let issuer = described.into_iter().find(|description| description.trust_root_pem == *trust_root);
    model::ClusterInfo {
        id: cluster.id.to_string(),
        meta: (&cluster.meta).into(),
        spec: cluster_spec_json(&cluster.spec),
        tls_info: model::TlsInfo {
            trust_root: trust_root.clone(),
            cert_issuer_subject: issuer.map(|node| STANDARD.encode(&node.issuer_subject)).unwrap_or_default(),
            cert_issuer_public_key: issuer.map(|node| STANDARD.encode(&node.issuer_public_key)).unwrap_or_default(),
        },
        root_rotation_in_progress: false,
        default_addr_pool: cluster.pools.pools.iter().map(ToString::to_string).collect(),
        subnet_size: cluster.pools.subnet_size.into(),
        data_path_port: cluster.pools.data_path_port.into(),
    }
}

/// The body of `swarm init`.
pub(crate) fn init_request(body: model::InitBody) -> Result<InitRequest, ApiError> {
    let spec = cluster_spec(body.spec, &ClusterSpec::default(), true)?;
    if body.auto_lock_managers {
        return Err(autolock());
    }
    Ok(InitRequest {
        listen_addr: body.listen_addr,
        advertise_addr: body.advertise_addr,
        data_path_addr: body.data_path_addr,
        force_new_cluster: body.force_new_cluster,
        availability: node::availability(&body.availability)?,
        pools: pools(&body.default_addr_pool, body.subnet_size, body.data_path_port)?,
        spec,
    })
}

fn pools(pools: &[String], subnet_size: u32, data_path_port: u32) -> Result<AddressPools, ApiError> {
    let defaults = AddressPools::default();
    let given = pools
        .iter()
        .map(|text| {
            text.parse::<Ipv4Net>().map_err(|_| {
                ApiError::invalid(format!("invalid default address pool {text}: expected an IPv4 network"))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let pools = if given.is_empty() { defaults.pools } else { given };
    let subnet_size = if subnet_size == 0 { u32::from(defaults.subnet_size) } else { subnet_size };
    let subnet_size = u8::try_from(subnet_size)
        .ok()
        .filter(|size| (8..=29).contains(size))
        .ok_or_else(|| ApiError::invalid("the subnet size of address pools must be between 8 and 29"))?;
    if let Some(small) = pools.iter().find(|pool| pool.prefix_len() > subnet_size) {
        return Err(ApiError::invalid(format!("address pool {small} is smaller than a subnet of size /{subnet_size}")));
    }
    let data_path_port = match data_path_port {
        0 => defaults.data_path_port,
        port => u16::try_from(port).ok().filter(|port| (1024..=49151).contains(port)).ok_or_else(|| {
            ApiError::invalid(format!("invalid port number {port}: the data path port must be between 1024 and 49151"))
        })?,
    };
    Ok(AddressPools { pools, subnet_size, data_path_port })
}

/// The body of `swarm join`.
pub(crate) fn join_request(body: model::JoinBody) -> Result<JoinRequest, ApiError> {
    if body.remote_addrs.is_empty() {
        return Err(ApiError::invalid("at least 1 RemoteAddr is required to join"));
    }
    Ok(JoinRequest {
        listen_addr: body.listen_addr,
        advertise_addr: body.advertise_addr,
        data_path_addr: body.data_path_addr,
        remote_addrs: body.remote_addrs,
        join_token: body.join_token,
        availability: node::availability(&body.availability)?,
    })
}
