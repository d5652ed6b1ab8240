//! Networks: those of this node, and those of the cluster, as one list.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use shoal_engine::model::network::{
    NetworkConnect, NetworkContainer, NetworkCreate, NetworkCreateResponse, NetworkDisconnect, NetworkInspect,
};
use shoal_proto::error::{ErrorKind, Failure};

use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, empty, json, json_status, no_content};
use crate::swarm::access::Cluster;
use crate::swarm::networks as cluster_networks;
use crate::swarm::networks::ServiceInfo;

type Answer = Result<Response, ApiError>;

/// The cluster, when this node is a manager: to be looked at, not to be changed.
async fn cluster(context: &Context) -> Option<Cluster> {
    Cluster::look(context).await
}

pub(super) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let filters = request.query.filters()?;
    let mut networks = context.engine.networks().list(&filters)?;
    let shared = match cluster(&context).await {
        Some(cluster) => cluster_networks::list(&cluster, &filters)?,
        // A worker knows the cluster networks that its tasks and other containers are on.
        None => cluster_networks::list_known(&context.engine.networks().controller().cluster_networks(), &filters)?,
    };
    networks.retain(|local| !shared.iter().any(|network| network.id == local.id));
    networks.extend(shared);
    if !request.version.at_least(28) {
        // Clients of old find the containers in the list.
        for network in &mut networks {
            network.containers = containers_on(&context, network);
        }
    }
    json(&networks)
}

fn containers_on(context: &Context, network: &NetworkInspect) -> BTreeMap<String, NetworkContainer> {
    let networks = context.engine.networks();
    if network.scope == "swarm" {
        return network.id.parse().map(|id| networks.controller().cluster_containers(id)).unwrap_or_default();
    }
    // It may be gone since it was listed.
    networks.inspect(&network.id).map(|found| found.containers).unwrap_or_default()
}

/// With the services on it, when that was asked for.
#[derive(Serialize)]
struct Verbose {
    #[serde(flatten)]
    network: NetworkInspect,
    #[serde(rename = "Services", skip_serializing_if = "Option::is_none")]
    services: Option<BTreeMap<String, ServiceInfo>>,
}

pub(super) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    let (text, scope) = (request.id(), request.query.text("scope"));
    let missing = || ApiError::not_found(format!("network {text} not found"));
    if scope != "swarm" {
        match context.engine.networks().inspect(text) {
            Ok(network) if network.scope != "swarm" && matches!(scope, "" | "local") => return json(&network),
            Ok(_) => {}
            Err(failure) if failure.kind == ErrorKind::NotFound => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    if !matches!(scope, "" | "swarm") {
        return Err(missing());
    }
    let networks = context.engine.networks();
    let controller = networks.controller();
    let Some(cluster) = cluster(&context).await else {
        let known = controller.cluster_networks();
        let found = cluster_networks::find_known(&known, text)?;
        let mut network = cluster_networks::inspect_known(found);
        network.containers = controller.cluster_containers(found.id);
        return json(&network);
    };
    let found = match cluster_networks::find(&cluster, text) {
        Ok(found) => found,
        // A service may name the predefined networks; they are shown to who asks for the cluster's.
        Err(_) if scope == "swarm" => cluster.network_by_name(text).ok_or_else(missing)?,
        Err(error) => return Err(error),
    };
    let mut network = cluster_networks::inspect(&cluster, found);
    network.containers = controller.cluster_containers(found.id);
    let services = request.query.flag("verbose").then(|| cluster_networks::services(&cluster, found.id));
    json(&Verbose { network, services })
}

pub(super) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let mut body: NetworkCreate = request.json().await?;
    body.enable_ipv4 = body.enable_ipv4.filter(|_| request.version.at_least(48));
    if body.name.trim().is_empty() {
        return Err(ApiError::invalid("network name cannot be empty"));
    }
    let taken = || Failure::conflict(format!("network with name {} already exists", body.name));
    let is_cluster_network = body.driver == "overlay" || body.scope == "swarm" || body.ingress;
    let created = if is_cluster_network {
        let cluster = Cluster::open(&context).await?;
        if context.engine.networks().inspect(&body.name).is_ok_and(|network| network.name == body.name) {
            return Err(taken().into());
        }
        let id = cluster_networks::create(&cluster, body).await?;
        NetworkCreateResponse { id, warning: String::new() }
    } else {
        if cluster(&context).await.is_some_and(|cluster| cluster.network_by_name(&body.name).is_some()) {
            return Err(taken().into());
        }
        context.engine.networks().create(body).await?
    };
    json_status(StatusCode::CREATED, &created)
}

pub(super) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    match context.engine.networks().remove(request.id()).await {
        Err(failure) if failure.kind == ErrorKind::NotFound => {
            let missing = ApiError::from(failure);
            if context.node.manager().is_none() {
                return Err(missing);
            }
            let cluster = Cluster::open(&context).await?;
            let id = cluster_networks::find(&cluster, request.id())?.id;
            cluster_networks::remove(&cluster, id).await?;
        }
        other => drop(other?),
    }
    Ok(no_content())
}

pub(super) async fn connect(context: Arc<Context>, mut request: Request) -> Answer {
    let body: NetworkConnect = request.json().await?;
    context.engine.networks().connect(request.id(), &body.container, body.endpoint_config).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn disconnect(context: Arc<Context>, mut request: Request) -> Answer {
    let body: NetworkDisconnect = request.json().await?;
    context.engine.networks().disconnect(request.id(), &body.container, body.force).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn prune(context: Arc<Context>, request: Request) -> Answer {
    let filters = request.query.filters()?;
    let mut report = context.engine.networks().prune(&filters).await?;
    if let Some(cluster) = cluster(&context).await {
        let unused = filters.with("dangling", "true").with("type", "custom");
        for network in cluster_networks::list(&cluster, &unused)? {
            let Ok(id) = network.id.parse() else { continue };
            // Somebody may have begun to use it in the meantime: then it stays.
            if cluster_networks::remove(&cluster, id).await.is_ok() {
                report.networks_deleted.get_or_insert_default().push(network.name);
            }
        }
    }
    json(&report)
}
