//! Networks, with the containers on them and their events.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::NodeId;

use super::Inner;
use crate::container::network;
use crate::model::network::{NetworkCreate, NetworkCreateResponse, NetworkInspect, NetworksPruneReport};
use crate::model::{EndpointSettings, Filters};
use crate::network::{ClusterNetworkState, NetworkController, NetworkStatus};

/// The engine's networks.
#[derive(Debug, Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

impl Networks {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// What does the work.
    pub fn controller(&self) -> &NetworkController {
        &self.inner.networks
    }

    /// Makes a local network.
    ///
    /// # Errors
    /// Name taken, subnet in use, bad option.
    pub async fn create(&self, request: NetworkCreate) -> Result<NetworkCreateResponse, Failure> {
        let (name, driver) = (request.name.clone(), request.driver.clone());
        let made = self.inner.networks.create_network(request).await?;
        let driver = if driver.is_empty() { "bridge".to_owned() } else { driver };
        self.tell("create", &made.id, &name, &driver);
        Ok(made)
    }

    /// Removes a local network by name, id or beginning of the id.
    ///
    /// # Errors
    /// Unknown, predefined, or in use.
    pub async fn remove(&self, name: &str) -> Result<(), Failure> {
        let driver = self.inner.networks.inspect_network(name).map(|network| network.driver).unwrap_or_default();
        // Of a container that has just ended nothing is active any more.
        self.inner.teardowns.all().await;
        let (name, id) = self.inner.networks.remove_network(name).await?;
        self.tell("destroy", &id, &name, &driver);
        Ok(())
    }

    /// A local network by name, id or beginning of the id, with its containers.
    ///
    /// # Errors
    /// Unknown or ambiguous.
    pub fn inspect(&self, name: &str) -> Result<NetworkInspect, Failure> {
        self.inner.networks.inspect_network(name)
    }

    /// The local networks that pass the filters.
    ///
    /// # Errors
    /// Unknown filter.
    pub fn list(&self, filters: &Filters) -> Result<Vec<NetworkInspect>, Failure> {
        self.inner.networks.list_networks(filters)
    }

    /// Connects a container.
    ///
    /// # Errors
    /// One of them does not exist, or they are connected, or an address is wrong or taken.
    pub async fn connect(
        &self,
        network: &str,
        container: &str,
        settings: Option<EndpointSettings>,
    ) -> Result<(), Failure> {
        let container = self.inner.containers.find(container)?;
        network::connect(&self.inner, &container, network, settings.unwrap_or_default()).await
    }

    /// Disconnects a container.
    ///
    /// # Errors
    /// One of them does not exist, or they are not connected.
    pub async fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<(), Failure> {
        match self.inner.containers.find(container) {
            Ok(found) => network::disconnect(&self.inner, &found, network, force).await,
            // An endpoint that outlived its container.
            Err(failure) if force && failure.kind == ErrorKind::NotFound => {
                self.inner.networks.detach(container, network).await.map(|_| ())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Removes unused local networks that pass the filters.
    ///
    /// # Errors
    /// Unknown filter.
    pub async fn prune(&self, filters: &Filters) -> Result<NetworksPruneReport, Failure> {
        self.inner.teardowns.all().await;
        let report = self.inner.networks.prune_networks(filters).await?;
        self.inner.events.publish("network", "prune", "", BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]));
        Ok(report)
    }

    /// Replaces what is known of the cluster's networks, and brings the kernel in line before it returns.
    ///
    /// # Errors
    /// When the kernel could not be brought in line; it is tried again with every resync.
    pub async fn apply_cluster(&self, state: ClusterNetworkState) -> Result<(), Failure> {
        self.inner.networks.apply_cluster(state).await
    }

    /// Forgets the cluster's networks. Its containers must be gone.
    ///
    /// # Errors
    /// When the kernel could not be brought in line; it is tried again with every resync.
    pub async fn leave_cluster(&self) -> Result<(), Failure> {
        self.inner.teardowns.all().await;
        let nothing = ClusterNetworkState {
            node_id: NodeId::default(),
            data_path_addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            data_path_port: 4789,
            networks: BTreeMap::new(),
            published: BTreeMap::new(),
        };
        self.inner.networks.apply_cluster(nothing).await
    }

    /// Compares the kernel's tables with what they should be, and repairs.
    pub async fn resync(&self) -> NetworkStatus {
        self.inner.networks.resync().await
    }

    fn tell(&self, action: &str, id: &str, name: &str, driver: &str) {
        let attributes =
            [("name", name), ("type", driver)].into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.inner.events.publish("network", action, id, attributes.collect());
    }
}
