//! Describing containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::instance::Container;
use super::lifecycle::State;
use super::network::{self, Mode};
use super::record::Record;
use crate::engine::Inner;
use crate::model::{ContainerConfig, ContainerInspect, ContainerState, Health, NetworkSettings};

/// Everything about one container, without sizes.
pub(crate) fn inspect(inner: &Arc<Inner>, container: &Arc<Container>) -> ContainerInspect {
    let record = container.record().clone();
    let health = crate::health::shown(container);
    let execs: Vec<String> =
        container.execs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().cloned().collect();
    let ran = record.state.started_at.0 != 0;
    let folder = network::owner(inner, container).folder.clone();
    let path = |name: &str| if ran { folder.join(name).to_string_lossy().into_owned() } else { String::new() };
    let logs = ran && record.host_config.log_config.kind == "json-file";
    ContainerInspect {
        id: record.id.clone(),
        created: record.created.to_string(),
        path: record.path.clone(),
        args: record.args.clone(),
        state: state(&record.state, health),
        image: record.image.to_string(),
        resolv_conf_path: path("resolv.conf"),
        hostname_path: path("hostname"),
        hosts_path: path("hosts"),
        log_path: if logs { container.log_path().to_string_lossy().into_owned() } else { String::new() },
        name: format!("/{}", record.name),
        restart_count: record.state.restart_count,
        driver: "overlay2".to_owned(),
        platform: "linux".to_owned(),
        mount_label: String::new(),
        process_label: String::new(),
        app_armor_profile: String::new(),
        exec_ids: (!execs.is_empty()).then_some(execs),
        graph_driver: inner.snapshots.graph_driver(&record.id),
        size_rw: None,
        size_root_fs: None,
        mounts: record.mounts.iter().map(super::record::MountRecord::point).collect(),
        network_settings: network_settings(inner, &record),
        config: config(&record),
        host_config: record.host_config,
    }
}

/// What runs. A hardware address asked for on the first network is shown here as well, where clients of old look for it.
fn config(record: &Record) -> ContainerConfig {
    let mut config = record.config.clone();
    let mode = record.host_config.network_mode.as_str();
    if config.mac_address.is_empty()
        && let Some(asked) = record.asked_macs.get(network::network_of(mode))
    {
        config.mac_address.clone_from(asked);
    }
    config
}

fn state(state: &State, health: Option<Health>) -> ContainerState {
    use super::lifecycle::Phase;
    ContainerState {
        status: state.phase.as_str().to_owned(),
        running: state.phase.is_running(),
        paused: state.phase == Phase::Paused,
        restarting: state.phase == Phase::Restarting,
        oom_killed: state.oom_killed,
        dead: state.phase == Phase::Dead,
        pid: i64::from(state.pid),
        exit_code: i64::from(state.exit_code),
        error: state.error.clone(),
        started_at: state.started_at.to_string(),
        finished_at: state.finished_at.to_string(),
        health,
    }
}

fn network_settings(inner: &Arc<Inner>, record: &Record) -> NetworkSettings {
    let sandbox = match network::mode(record) {
        Mode::Own(_) if record.state.phase.has_process() => inner.networks.sandbox(&record.id),
        _ => None,
    };
    let mut settings = NetworkSettings {
        sandbox_id: sandbox.as_ref().map(|sandbox| sandbox.id.clone()).unwrap_or_default(),
        sandbox_key: sandbox.map(|sandbox| sandbox.path.to_string_lossy().into_owned()).unwrap_or_default(),
        ports: record.ports.clone(),
        networks: record.networks.clone(),
        ..NetworkSettings::default()
    };
    // The fields of old show the default bridge.
    if let Some(bridge) = record.networks.get("bridge") {
        settings.endpoint_id.clone_from(&bridge.endpoint_id);
        settings.gateway.clone_from(&bridge.gateway);
        settings.ip_address.clone_from(&bridge.ip_address);
        settings.ip_prefix_len = bridge.ip_prefix_len;
        settings.mac_address.clone_from(&bridge.mac_address);
    }
    settings
}

/// Bytes that a container has written.
pub(crate) async fn writable_size(inner: &Arc<Inner>, container: &Arc<Container>) -> u64 {
    let (snapshots, id) = (inner.snapshots.clone(), container.id.clone());
    let usage = tokio::task::spawn_blocking(move || snapshots.usage(&id)).await;
    match usage {
        Ok(Ok(usage)) => usage.bytes,
        _ => 0,
    }
}

/// Bytes of the image below a container.
pub(crate) fn image_size(inner: &Arc<Inner>, container: &Arc<Container>) -> u64 {
    let image = container.record().image.to_string();
    inner.images.inspect(&image).map_or(0, |image| u64::try_from(image.size).unwrap_or(0))
}

/// The name to show for a container's image: as given, unless that name now is another image's.
pub(crate) fn image_name(inner: &Arc<Inner>, record: &Record, seen: &mut BTreeMap<String, bool>) -> String {
    let name = record.image_name();
    let key = format!("{name} {}", record.image);
    let still =
        *seen.entry(key).or_insert_with(|| inner.images.resolve(&name).is_ok_and(|image| image.id == record.image));
    if still { name } else { record.image.to_string() }
}
