//! The controller: the one object through which the engine uses networks.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_proto::error::Failure;

use super::types::{
    ClusterNetworkState, EndpointInfo, EndpointOptions, NetworkOptions, NetworkStatus, OverlayAttachment, PortPublish,
    Sandbox, SandboxOptions,
};
use crate::model::Filters;
use crate::model::network::{NetworkCreate, NetworkCreateResponse, NetworkInspect, NetworksPruneReport};

/// Networks of this node. A cheap clone.
#[derive(Debug, Clone)]
pub struct NetworkController {
    options: Arc<NetworkOptions>,
}

fn later() -> Failure {
    Failure::unavailable("networks are not available in this build")
}

#[expect(clippy::unused_async, reason = "the signatures are published before the bodies")]
impl NetworkController {
    /// Reads the local networks, makes the default bridge, finds namespaces of an earlier run, starts the comparison
    /// with the kernel. Call [`Self::restore`] next.
    ///
    /// # Errors
    /// When the folders or the kernel's network cannot be used.
    pub async fn open(options: NetworkOptions) -> Result<Self, Failure> {
        Ok(Self { options: Arc::new(options) })
    }

    /// After a restart: keeps the sandboxes of these containers as they are, destroys all others.
    ///
    /// # Errors
    /// When something could not be taken down; the rest was.
    pub async fn restore(&self, _live: &BTreeSet<String>) -> Result<(), Failure> {
        tracing::debug!(exec_root = %self.options.exec_root.display(), "nothing to restore");
        Err(later())
    }

    /// Makes a local network.
    ///
    /// # Errors
    /// Name taken, subnet in use, bad option.
    pub async fn create_network(&self, _request: NetworkCreate) -> Result<NetworkCreateResponse, Failure> {
        Err(later())
    }

    /// Removes a local network by name, id or prefix of the id. Returns its name and id.
    ///
    /// # Errors
    /// Unknown, predefined, or in use.
    pub async fn remove_network(&self, _name: &str) -> Result<(String, String), Failure> {
        Err(later())
    }

    /// A local network by name, id or prefix of the id, with its containers.
    ///
    /// # Errors
    /// Unknown or ambiguous.
    pub fn inspect_network(&self, _name: &str) -> Result<NetworkInspect, Failure> {
        Err(later())
    }

    /// The local networks that pass the filters (`dangling driver id label name scope type`), without containers.
    ///
    /// # Errors
    /// Unknown filter.
    pub fn list_networks(&self, _filters: &Filters) -> Result<Vec<NetworkInspect>, Failure> {
        Err(later())
    }

    /// Removes unused local networks that pass the filters (`label label! until`).
    ///
    /// # Errors
    /// Unknown filter.
    pub async fn prune_networks(&self, _filters: &Filters) -> Result<NetworksPruneReport, Failure> {
        Err(later())
    }

    /// Makes a namespace with its loopback link up, at `<exec_root>/netns/<id>`.
    ///
    /// # Errors
    /// The id is in use, or the kernel refuses.
    pub async fn create_sandbox(&self, _id: &str, _options: SandboxOptions) -> Result<Sandbox, Failure> {
        Err(later())
    }

    /// A sandbox that exists.
    pub fn sandbox(&self, _id: &str) -> Option<Sandbox> {
        None
    }

    /// Puts a sandbox on a local network and publishes its ports.
    ///
    /// # Errors
    /// Unknown sandbox or network, address or port in use, no address left.
    pub async fn attach(&self, _id: &str, _network: &str, _options: EndpointOptions) -> Result<EndpointInfo, Failure> {
        Err(later())
    }

    /// Puts a sandbox on cluster networks, and on the gateway bridge for the way out (unless all are internal), where
    /// `ports` (host mode) are published. The gateway's endpoint comes last in the answer.
    ///
    /// # Errors
    /// Unknown sandbox, a network that `apply_cluster` has not brought, port in use.
    pub async fn attach_cluster(
        &self,
        _id: &str,
        _attachments: Vec<OverlayAttachment>,
        _ports: Vec<PortPublish>,
    ) -> Result<Vec<EndpointInfo>, Failure> {
        Err(later())
    }

    /// Takes a sandbox off a network (name or id).
    ///
    /// # Errors
    /// Not connected.
    pub async fn detach(&self, _id: &str, _network: &str) -> Result<EndpointInfo, Failure> {
        Err(later())
    }

    /// Takes a sandbox off all networks and removes its namespace. No error if there is none.
    ///
    /// # Errors
    /// When something could not be taken down; the rest was.
    pub async fn destroy_sandbox(&self, _id: &str) -> Result<(), Failure> {
        Err(later())
    }

    /// Gives the container a new name, for DNS and inspect.
    pub fn rename(&self, _id: &str, _name: &str) {}

    /// Where a sandbox is attached, in the order of attachment.
    pub fn endpoints(&self, _id: &str) -> Vec<EndpointInfo> {
        Vec::new()
    }

    /// Contents of the container's `/etc/hosts`: loopback, `extra_hosts` (`name:address`, `host-gateway` replaced), own addresses.
    pub fn hosts_file(&self, _id: &str, _hostname: &str, _domain: &str, _extra_hosts: &[String]) -> String {
        String::new()
    }

    /// Contents of the container's `/etc/resolv.conf`. A container without sandbox (host network) gets the host's.
    pub fn resolv_conf(&self, _id: &str, _options: &SandboxOptions) -> String {
        String::new()
    }

    /// Replaces what is known of the cluster's networks, and brings the kernel in line before it returns.
    ///
    /// # Errors
    /// When the kernel could not be brought in line; it is tried again with every resync.
    pub async fn apply_cluster(&self, _state: ClusterNetworkState) -> Result<(), Failure> {
        Err(later())
    }

    /// Compares kernel and desired tables now, and repairs.
    pub async fn resync(&self) -> NetworkStatus {
        NetworkStatus::default()
    }

    /// Stops the name servers and the comparison. Namespaces, links and rules stay for [`Self::restore`].
    pub async fn shutdown(&self) {}

    /// Takes down everything of this instance: sandboxes, bridges, rules, mounts. For the end of a node's life.
    ///
    /// # Errors
    /// When something could not be taken down; the rest was.
    pub async fn purge(&self) -> Result<(), Failure> {
        Err(later())
    }
}
