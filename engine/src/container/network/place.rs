//! Cluster networks of containers that are no tasks.

use std::sync::Arc;

use shoal_proto::control::AttachmentWish;
use shoal_proto::error::{ErrorKind, Failure};

use super::super::files;
use super::super::instance::Container;
use super::super::record::{ClusterPlace, Record};
use super::{Mode, endpoint, fill, mode, tell};
use crate::cluster::{Busy, Door};
use crate::engine::Inner;
use crate::model::EndpointSettings;
use crate::network::{EndpointInfo, OverlayAttachment, PortPublish};

/// Is the container on networks that are not this node's own?
pub(crate) fn joins_cluster(inner: &Inner, record: &Record) -> bool {
    if record.internal.task.is_some() {
        return false;
    }
    let Mode::Own(networks) = mode(record) else { return false };
    networks.iter().any(|name| !inner.networks.has_network(name))
}

/// Lets a container keep its places on cluster networks while it is worked on; `None` when it has none to keep.
pub(crate) fn hold(inner: &Arc<Inner>, container: &Container) -> Option<Busy> {
    // A task's networks are given to it: at the start of one nothing is copied.
    if container.record().internal.task.is_some() {
        return None;
    }
    let record = container.record().clone();
    joins_cluster(inner, &record).then(|| Door::hold(inner, &container.id))
}

/// After a container was stopped or removed by a user: returns when the cluster has its places back, so that who removes the
/// network next does not find it there; or after some seconds.
pub(crate) async fn given_back(inner: &Arc<Inner>, container: &Container) {
    if container.record().places.is_empty() {
        return;
    }
    inner.teardowns.of(&container.id).await;
    inner.cluster.released(&container.id).await;
}

/// What is asked of the cluster for a container on a network.
fn request(record: &Record, name: &str, settings: &EndpointSettings) -> Result<AttachmentWish, Failure> {
    // The hardware address follows from the address: so the other nodes know it.
    if !settings.mac_address.is_empty() || !record.config.mac_address.is_empty() {
        return Err(Failure::invalid(format!(
            "a hardware address cannot be chosen on network {name}: on a cluster network it follows from the address"
        )));
    }
    let options = endpoint::options(settings, &[&record.id[..12]])?;
    Ok(AttachmentWish {
        network: name.to_owned(),
        container_id: record.id.clone(),
        name: record.name.clone(),
        aliases: options.aliases,
        addr: options.ip,
        last_addr: record.places.get(name).map(|place| place.addr),
    })
}

/// Puts a container's namespace on a cluster network. Gives its endpoint there, and perhaps one for the way out. The network
/// is filed under its name, whatever it was asked for by.
pub(super) async fn join(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    asked: &str,
    ports: Vec<PortPublish>,
) -> Result<Vec<EndpointInfo>, Failure> {
    let record = container.record().clone();
    let settings = record.networks.get(asked).cloned().unwrap_or_default();
    let request = request(&record, asked, &settings)?;
    let aliases = request.aliases.clone();
    let cluster = inner.cluster.networks().await;
    let cluster = cluster.ok_or_else(|| Failure::not_found(format!("network {asked} not found")))?;
    let place = cluster.attach(request).await?;
    {
        let mut record = container.record();
        if place.network_name != asked {
            record.places.remove(asked);
            if let Some(settings) = record.networks.remove(asked) {
                record.networks.entry(place.network_name.clone()).or_insert(settings);
            }
        }
        let noted = ClusterPlace { network: place.network, addr: place.addr };
        record.places.insert(place.network_name.clone(), noted);
    }
    let attachment = OverlayAttachment {
        network: place.network,
        addr: place.addr,
        task: None,
        service: None,
        aliases,
        hostname: record.config.hostname.clone(),
    };
    let attach = || inner.networks.attach_cluster(&record.id, vec![attachment.clone()], ports.clone());
    inner.teardowns.patiently(attach).await
}

/// Joins a network that is not this node's: at once when the container runs, else at its next start. The caller has the
/// container's turn.
pub(super) async fn connect(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    network: &str,
    settings: EndpointSettings,
) -> Result<(), Failure> {
    endpoint::options(&settings, &[])?;
    let (running, taken) = {
        let record = container.record();
        (record.state.phase.has_process(), filed(&record, network).is_some())
    };
    if taken && running {
        return Err(Failure::conflict(format!("{} is already attached to network {network}", container.name())));
    }
    let _keeps_places = Door::hold(inner, &container.id);
    container.record().networks.insert(network.to_owned(), settings);
    if running {
        let before = container.record().networks.clone();
        match join(inner, container, network, Vec::new()).await {
            Ok(got) => {
                note(container, &got);
                files::rewrite_hosts(inner, container);
                for endpoint in &got {
                    tell(inner, "connect", &endpoint.network_id, &endpoint.network_name, &container.id);
                }
            }
            Err(failure) => {
                let mut record = container.record();
                let joined: Vec<_> =
                    record.networks.keys().filter(|name| !before.contains_key(*name)).cloned().collect();
                for name in joined.iter().map(String::as_str).chain([network]) {
                    record.networks.remove(name);
                    record.places.remove(name);
                }
                return Err(failure);
            }
        }
    }
    container.store().await;
    Ok(())
}

fn note(container: &Container, got: &[EndpointInfo]) {
    let mut record = container.record();
    for endpoint in got {
        if let Some(settings) = record.networks.get_mut(&endpoint.network_name) {
            fill(settings, endpoint);
        }
    }
}

/// The name under which a cluster network is filed that was given by name, id, or beginning of the id.
fn filed(record: &Record, network: &str) -> Option<String> {
    if record.networks.contains_key(network) {
        return Some(network.to_owned());
    }
    let is_it = |place: &ClusterPlace| !network.is_empty() && place.network.to_string().starts_with(network);
    record.places.iter().find(|(_, place)| is_it(place)).map(|(name, _)| name.clone())
}

/// Leaves a network that is not this node's. `unknown` is what to say when it is not known at all.
pub(super) async fn disconnect(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    network: &str,
    force: bool,
    unknown: Failure,
) -> Result<(), Failure> {
    let Some(name) = filed(&container.record(), network) else {
        if !inner.cluster.is_inside() {
            return Err(unknown);
        }
        return Err(Failure::conflict(format!("container {} is not connected to network {network}", container.id)));
    };
    let running = container.phase().has_process();
    if running && let Err(failure) = inner.networks.detach(&container.id, &name).await {
        // One that the cluster has taken off is connected by its record only.
        if !force && failure.kind != ErrorKind::PermissionDenied {
            return Err(failure);
        }
        tracing::warn!(container = %container.id, network = name, error = failure.message, "left all the same");
    }
    let place = {
        let mut record = container.record();
        record.networks.remove(&name);
        record.places.remove(&name)
    };
    if running {
        let id = place.map(|place| place.network.to_string()).unwrap_or_default();
        tell(inner, "disconnect", &id, &name, &container.id);
        files::rewrite_hosts(inner, container);
    }
    container.store().await;
    inner.cluster.released(&container.id).await;
    Ok(())
}

/// The cluster has taken a running container off a network: it is connected no more, but will ask again at its next start.
pub(crate) async fn lost(inner: &Arc<Inner>, container: &Arc<Container>, name: &str) {
    {
        let mut record = container.record();
        if let Some(settings) = record.networks.get_mut(name) {
            settings.endpoint_id.clear();
            settings.ip_address.clear();
            settings.mac_address.clear();
            settings.ip_prefix_len = 0;
        }
    }
    files::rewrite_hosts(inner, container);
    container.store().await;
}

/// Tells the cluster a container's new name, which others resolve. Nobody waits for it.
pub(crate) fn rename_places(inner: &Arc<Inner>, container: &Arc<Container>) {
    let record = container.record().clone();
    if !record.state.phase.has_process() || record.places.is_empty() {
        return;
    }
    let inner = Arc::clone(inner);
    let tracker = inner.tasks.clone();
    tracker.spawn(async move {
        let Some(cluster) = inner.cluster.networks().await else { return };
        for name in record.places.keys() {
            let settings = EndpointSettings {
                mac_address: String::new(),
                ..record.networks.get(name).cloned().unwrap_or_default()
            };
            let Ok(request) = request(&record, name, &settings) else { continue };
            let attached = tokio::select! {
                () = inner.stopping.cancelled() => return,
                attached = cluster.attach(request) => attached,
            };
            match attached {
                Err(failure) if failure.kind != ErrorKind::NotFound => {
                    let network = name.as_str();
                    tracing::warn!(
                        container = record.id,
                        network,
                        error = failure.message,
                        "its new name is not known there"
                    );
                }
                _ => {}
            }
        }
    });
}
