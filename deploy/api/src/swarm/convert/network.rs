//! Cluster networks, in the shape of tasks and in the shape of the `/networks` routes.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use shoal_engine::model::network::{Ipam, IpamPool, NetworkCreate, NetworkInspect};
use shoal_proto::object::Network;
use shoal_proto::spec::{IpamConfig, NetworkSpec};

use super::not_offered;
use crate::error::ApiError;
use crate::swarm::model;

/// Option that carries the VXLAN network identifiers.
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// A cluster network as its user asked for it.
pub(crate) fn network_spec(request: NetworkCreate) -> Result<NetworkSpec, ApiError> {
    if request.config_only || request.config_from.is_some_and(|from| !from.network.is_empty()) {
        return Err(not_offered("ConfigOnly and ConfigFrom of a cluster network"));
    }
    if request.enable_ipv4 == Some(false) {
        return Err(not_offered("a cluster network without IPv4"));
    }
    let ipam = request.ipam.unwrap_or_default();
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(not_offered(&format!("IPAM.Driver {:?}", ipam.driver)));
    }
    if let Some(name) = ipam.options.as_ref().and_then(|options| options.keys().next()) {
        return Err(not_offered(&format!("IPAM.Options {name:?} of a cluster network")));
    }
    Ok(NetworkSpec {
        name: request.name,
        labels: request.labels.unwrap_or_default(),
        driver: request.driver,
        driver_options: request.options.unwrap_or_default(),
        internal: request.internal,
        attachable: request.attachable,
        ingress: request.ingress,
        ipv6: request.enable_ipv6.unwrap_or(false),
        ipam: ipam.config.unwrap_or_default().into_iter().map(pool).collect::<Result<_, _>>()?,
    })
}

fn pool(pool: IpamPool) -> Result<IpamConfig, ApiError> {
    let net = |what: &str, text: &str| -> Result<Option<Ipv4Net>, ApiError> {
        if text.is_empty() {
            return Ok(None);
        }
        let wrong =
            |_| ApiError::invalid(format!("invalid {what} {text}: expected an IPv4 network such as 10.1.0.0/24"));
        text.parse().map(Some).map_err(wrong)
    };
    let addr = |what: &str, text: &str| {
        text.parse().map_err(|_| ApiError::invalid(format!("invalid {what} {text}: expected an IPv4 address")))
    };
    let reserved = pool.auxiliary_addresses.unwrap_or_default();
    Ok(IpamConfig {
        subnet: net("subnet", &pool.subnet)?,
        range: net("ip-range", &pool.ip_range)?,
        gateway: (!pool.gateway.is_empty()).then(|| addr("gateway address", &pool.gateway)).transpose()?,
        reserved: reserved
            .into_iter()
            .map(|(name, text)| Ok((name, addr("auxiliary address", &text)?)))
            .collect::<Result<BTreeMap<_, _>, ApiError>>()?,
    })
}

/// The option that tells a network's VXLAN identifier.
pub(crate) fn vni_option(vni: u32) -> BTreeMap<String, String> {
    BTreeMap::from([(VNI_OPTION.to_owned(), vni.to_string())])
}

fn driver_options(network: &Network) -> BTreeMap<String, String> {
    let mut options = network.spec.driver_options.clone();
    if let Some(allocation) = &network.allocation {
        options.extend(vni_option(allocation.vni));
    }
    options
}

/// A cluster network in the shape of the `/networks` routes.
pub(crate) fn network_inspect(network: &Network) -> NetworkInspect {
    let asked = network.spec.ipam.first();
    let pools = network.allocation.iter().map(|allocation| IpamPool {
        subnet: allocation.subnet.to_string(),
        gateway: allocation.gateway.to_string(),
        ip_range: asked.and_then(|ipam| ipam.range).map(|range| range.to_string()).unwrap_or_default(),
        auxiliary_addresses: asked
            .filter(|ipam| !ipam.reserved.is_empty())
            .map(|ipam| ipam.reserved.iter().map(|(name, addr)| (name.clone(), addr.to_string())).collect()),
    });
    NetworkInspect {
        name: network.spec.name.clone(),
        id: network.id.to_string(),
        created: network.meta.created_at.to_string(),
        scope: "swarm".to_owned(),
        driver: network.spec.driver.clone(),
        enable_ipv4: true,
        enable_ipv6: network.spec.ipv6,
        ipam: Ipam { driver: "default".to_owned(), options: None, config: Some(pools.collect()) },
        internal: network.spec.internal,
        attachable: network.spec.attachable,
        ingress: network.spec.ingress,
        options: driver_options(network),
        labels: network.spec.labels.clone(),
        ..NetworkInspect::default()
    }
}

/// A cluster network in the shape of tasks.
pub(super) fn network(network: &Network) -> model::Network {
    let asked = network.spec.ipam.iter().map(|ipam| model::IpamConfig {
        subnet: ipam.subnet.map(|net| net.to_string()).unwrap_or_default(),
        range: ipam.range.map(|net| net.to_string()).unwrap_or_default(),
        gateway: ipam.gateway.map(|addr| addr.to_string()).unwrap_or_default(),
    });
    let driver = |name: &str| model::Driver { name: name.to_owned(), options: BTreeMap::new() };
    let allocated = network.allocation.as_ref().map(|allocation| model::IpamOptions {
        driver: driver("default"),
        configs: vec![model::IpamConfig {
            subnet: allocation.subnet.to_string(),
            range: String::new(),
            gateway: allocation.gateway.to_string(),
        }],
    });
    model::Network {
        id: network.id.to_string(),
        meta: (&network.meta).into(),
        spec: model::NetworkSpec {
            name: network.spec.name.clone(),
            labels: network.spec.labels.clone(),
            driver_configuration: Some(model::Driver {
                name: network.spec.driver.clone(),
                options: network.spec.driver_options.clone(),
            }),
            internal: network.spec.internal,
            attachable: network.spec.attachable,
            ingress: network.spec.ingress,
            ipam_options: Some(model::IpamOptions { driver: driver("default"), configs: asked.collect() }),
            scope: "swarm".to_owned(),
        },
        driver_state: model::Driver { name: network.spec.driver.clone(), options: driver_options(network) },
        ipam_options: allocated,
    }
}
