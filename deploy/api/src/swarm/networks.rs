//! Cluster networks in the shape of the `/networks` routes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shoal_engine::model::Filters;
use shoal_engine::model::network::{NetworkCreate, NetworkInspect, NetworkPeer};
use shoal_manager_core::store::Store;
use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::id::NetworkId;
use shoal_proto::object::Network;
use shoal_proto::task_state::TaskState;

use super::access::{Cluster, unexpected};
use super::{convert, find};
use crate::error::ApiError;

/// A service on a network, for `inspect --verbose`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceInfo {
    #[serde(rename = "VIP")]
    pub vip: String,
    pub ports: Vec<String>,
    #[serde(rename = "LocalLBIndex")]
    pub local_lb_index: u32,
    pub tasks: Vec<TaskInfo>,
}

/// A task of such a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TaskInfo {
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(rename = "EndpointIP")]
    pub endpoint_ip: String,
    pub info: BTreeMap<String, String>,
}

/// The networks that pass the filters.
pub(crate) fn list(store: &Store, filters: &Filters) -> Result<Vec<NetworkInspect>, ApiError> {
    let dangling = filters.boolean("dangling")?;
    let passes = |network: &Network| {
        let kind = if network.predefined || network.spec.ingress { "builtin" } else { "custom" };
        !network.pending_delete
            && filters.matches_exactly("scope", "swarm")
            && filters.matches_exactly("driver", &network.spec.driver)
            && filters.matches_exactly("type", kind)
            && filters.matches("name", &network.spec.name)
            && filters.matches_prefix("id", &network.id.to_string())
            && filters.matches_labels("label", &network.spec.labels)
            && dangling.is_none_or(|wanted| wanted != is_used(store, network.id))
    };
    let shown = store.networks().filter(|network| is_overlay(network) && passes(network));
    Ok(shown.map(|network| convert::network_inspect(network)).collect())
}

/// The predefined `host` and `bridge` exist for services only; users see the local networks of these names.
fn is_overlay(network: &Network) -> bool {
    !network.predefined || network.spec.driver == "overlay"
}

fn is_used(store: &Store, id: NetworkId) -> bool {
    store.services_on_network(id).next().is_some() || store.tasks_on_network(id).next().is_some()
}

/// One network by id, name, or beginning of the id.
pub(crate) fn find<'a>(store: &'a Store, text: &str) -> Result<&'a Network, ApiError> {
    let network = find::network(store, text)?;
    if is_overlay(network) || network.id.to_string() == text {
        return Ok(network);
    }
    Err(ApiError::not_found(format!("network {text} not found")))
}

/// One network with the nodes that are on it.
pub(crate) fn inspect(store: &Store, network: &Network) -> NetworkInspect {
    let peers = store.nodes_on_network(network.id).filter_map(|id| {
        let node = store.node(id)?;
        let description = node.description.as_ref()?;
        let addr = description.data_path_addr.or(node.status.addr)?;
        Some(NetworkPeer { name: id.to_string(), ip: addr.to_string() })
    });
    let peers: Vec<_> = peers.collect();
    NetworkInspect { peers: (!peers.is_empty()).then_some(peers), ..convert::network_inspect(network) }
}

/// The services on a network, by name.
pub(crate) fn services(store: &Store, id: NetworkId) -> BTreeMap<String, ServiceInfo> {
    let known: BTreeSet<_> = store.services_on_network(id).map(|service| service.id).collect();
    let described = known.into_iter().filter_map(|service| {
        let service = store.service(service)?;
        let vip = service.endpoint.virtual_ips.iter().find(|vip| vip.network == id);
        let ports =
            service.endpoint.ports.iter().map(|port| format!("Target: {}, Publish: {}", port.target, port.published));
        let info = ServiceInfo {
            vip: vip.map(|vip| vip.addr.to_string()).unwrap_or_default(),
            ports: ports.collect(),
            local_lb_index: 0,
            tasks: tasks(store, service.id, id),
        };
        Some((service.spec.name.clone(), info))
    });
    described.collect()
}

fn tasks(store: &Store, service: shoal_proto::id::ServiceId, network: NetworkId) -> Vec<TaskInfo> {
    let running = store.tasks_of_service(service).filter(|task| task.status.state == TaskState::Running);
    let described = running.filter_map(|task| {
        let addr = task.networks.iter().find(|attachment| attachment.network == network)?.addr?;
        let node = task.node_id.and_then(|id| store.node(id));
        let host = node.and_then(|node| node.status.addr).map(|addr| addr.to_string()).unwrap_or_default();
        Some(TaskInfo {
            name: task.name(),
            endpoint_id: task.id.to_string(),
            endpoint_ip: addr.addr().to_string(),
            info: BTreeMap::from([("Host IP".to_owned(), host)]),
        })
    });
    described.collect()
}

/// Makes a cluster network; gives its id.
pub(crate) async fn create(cluster: &Cluster, request: NetworkCreate) -> Result<String, ApiError> {
    let spec = convert::network_spec(request)?;
    match cluster.control(ControlRequest::CreateNetwork(Box::new(spec))).await? {
        ControlResponse::Network(network) => Ok(network.id.to_string()),
        other => Err(unexpected(&other)),
    }
}

/// Deletes a cluster network.
pub(crate) async fn remove(cluster: &Cluster, id: NetworkId) -> Result<(), ApiError> {
    cluster.control(ControlRequest::RemoveNetwork(id)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::test_store::{self, NETWORK};
    use super::*;

    #[test]
    fn a_network_in_dockers_shape() {
        let store = test_store::store();
        let shown = inspect(&store, find(&store, "net").expect("network"));
        assert_eq!((shown.scope.as_str(), shown.driver.as_str()), ("swarm", "overlay"));
        assert_eq!(shown.options["com.docker.network.driver.overlay.vxlanid_list"], "4097");
        assert_eq!(shown.ipam.config.expect("pools")[0].subnet, "10.0.1.0/24");
    }

    #[test]
    fn verbose_lists_services_and_running_tasks() {
        let services = services(&test_store::store(), NETWORK);
        assert_eq!(services["web"].vip, "10.0.1.2");
        assert_eq!(services["web"].tasks.len(), 1);
        assert_eq!(services["web"].tasks[0].endpoint_ip, "10.0.1.11");
    }

    #[test]
    fn filters_choose_networks() {
        let store = test_store::store();
        let count = |filters: &str| list(&store, &Filters::parse(filters).expect("filters")).expect("networks").len();
        assert_eq!(count("{}"), 1);
        assert_eq!(count(r#"{"scope":["swarm"],"driver":["overlay"],"type":["custom"]}"#), 1);
        assert_eq!(count(r#"{"scope":["local"]}"#), 0);
        assert_eq!(count(r#"{"dangling":["true"]}"#), 0);
        assert_eq!(count(r#"{"dangling":["false"]}"#), 1);
    }
}
