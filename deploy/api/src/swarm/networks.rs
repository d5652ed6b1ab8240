//! Cluster networks in the shape of the `/networks` routes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shoal_engine::model::Filters;
use shoal_engine::model::network::{Ipam, IpamPool, NetworkCreate, NetworkInspect, NetworkPeer};
use shoal_manager_core::store::Store;
use shoal_proto::assignment::NetworkRecord;
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
    store.services_on_network(id).next().is_some()
        || store.tasks_on_network(id).next().is_some()
        || store.attachments_on_network(id).next().is_some()
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

/// A network as a worker knows it: labels and the like stay with the managers.
pub(crate) fn inspect_known(record: &NetworkRecord) -> NetworkInspect {
    let pool = record.subnet.map(|subnet| IpamPool {
        subnet: subnet.to_string(),
        gateway: record.gateway.map(|addr| addr.to_string()).unwrap_or_default(),
        ..IpamPool::default()
    });
    NetworkInspect {
        name: record.name.clone(),
        id: record.id.to_string(),
        // Not known here; Go's clients want an instant, and show this one as none.
        created: "0001-01-01T00:00:00Z".to_owned(),
        scope: "swarm".to_owned(),
        driver: record.driver.clone(),
        enable_ipv4: true,
        ipam: Ipam { driver: "default".to_owned(), options: None, config: Some(pool.into_iter().collect()) },
        internal: record.internal,
        attachable: record.attachable,
        ingress: record.ingress,
        options: convert::vni_option(record.vni),
        ..NetworkInspect::default()
    }
}

/// The networks known to a worker that pass the filters. All are in use: that is why it knows them.
pub(crate) fn list_known(records: &[NetworkRecord], filters: &Filters) -> Result<Vec<NetworkInspect>, ApiError> {
    let dangling = filters.boolean("dangling")?;
    let passes = |record: &&NetworkRecord| {
        record.driver == "overlay"
            && dangling != Some(true)
            && filters.matches_exactly("scope", "swarm")
            && filters.matches_exactly("driver", &record.driver)
            && filters.matches_exactly("type", if record.ingress { "builtin" } else { "custom" })
            && filters.matches("name", &record.name)
            && filters.matches_prefix("id", &record.id.to_string())
            && filters.matches_labels("label", &BTreeMap::new())
    };
    Ok(records.iter().filter(passes).map(inspect_known).collect())
}

/// One of the networks known to a worker, by id, name, or beginning of the id.
pub(crate) fn find_known<'a>(records: &'a [NetworkRecord], text: &str) -> Result<&'a NetworkRecord, ApiError> {
    let overlays = || records.iter().filter(|record| record.driver == "overlay");
    if let Some(exact) = overlays().find(|record| record.id.to_string() == text || record.name == text) {
        return Ok(exact);
    }
    let mut begun = overlays().filter(|record| !text.is_empty() && record.id.to_string().starts_with(text));
    match (begun.next(), begun.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(ApiError::invalid(format!("network {text} is ambiguous"))),
        (None, _) => Err(ApiError::not_found(format!("network {text} not found"))),
    }
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
    fn a_worker_shows_what_it_knows() {
        let record = |bits, name: &str, driver: &str| NetworkRecord {
            id: NetworkId::from_bits(bits),
            name: name.to_owned(),
            driver: driver.to_owned(),
            subnet: Some("10.0.1.0/24".parse().expect("subnet")),
            gateway: Some([10, 0, 1, 1].into()),
            vni: 4097,
            mtu: 0,
            internal: false,
            ingress: false,
            attachable: true,
            node_address: None,
        };
        let known = [record(1, "front", "overlay"), record(2, "host", "host")];
        let found = find_known(&known, "front").expect("by name");
        assert_eq!(find_known(&known, &found.id.to_string()).expect("by id").name, "front");
        assert_eq!(find_known(&known, "host").expect_err("found").status(), 404);
        let shown = inspect_known(found);
        assert_eq!((shown.scope.as_str(), shown.attachable), ("swarm", true));
        assert_eq!(shown.options["com.docker.network.driver.overlay.vxlanid_list"], "4097");
        let names = |filters: &str| -> Vec<String> {
            let filters = Filters::parse(filters).expect("filters");
            list_known(&known, &filters).expect("networks").into_iter().map(|network| network.name).collect()
        };
        assert_eq!(names("{}"), ["front"]);
        assert!(names(r#"{"scope":["local"]}"#).is_empty() && names(r#"{"dangling":["true"]}"#).is_empty());
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
