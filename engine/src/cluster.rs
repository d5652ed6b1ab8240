//! What the engine asks of the cluster that its node is in: places on cluster networks for containers that are no tasks.
//!
//! ## Design notes
//! Who needs a place is never written down: it follows from what the containers do ([`Engine::needs_place`]), so a daemon
//! that died in between leaves nothing behind that the next one does not see. The cluster is told when that may have
//! changed, and gives back what nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use shoal_proto::control::AttachmentWish;
use shoal_proto::error::Failure;
use shoal_proto::id::NetworkId;
use tokio::sync::watch;

use crate::container::lifecycle::Phase;
use crate::container::network;
use crate::engine::{Engine, Inner};

/// How long an operation waits to hear whether this node is in a cluster.
const PATIENCE: Duration = Duration::from_secs(20);

/// A place on a cluster network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub network_name: String,
    /// The address.
    pub addr: Ipv4Addr,
}

/// The cluster that this node is in.
pub trait ClusterNetworks: std::fmt::Debug + Send + Sync {
    /// Gives a container a place on a network, and returns when the network is there on this node. The place that it has
    /// already is given again.
    fn attach(&self, wish: AttachmentWish) -> BoxFuture<'_, Result<Place, Failure>>;

    /// Who needs a place may have changed: those that nobody needs are given back. Does not block.
    fn poke(&self);

    /// The same, and returns when the cluster has taken back those of this container, or after some seconds.
    fn released<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, ()>;

    /// Returns when the cluster has told what places there are on this node.
    fn ready(&self) -> BoxFuture<'_, ()>;
}

/// Is this node in a cluster?
#[derive(Debug, Clone)]
enum Membership {
    /// Not known yet.
    Unknown,
    /// No.
    Outside,
    /// Yes.
    Inside(Arc<dyn ClusterNetworks>),
}

/// The engine's side of it.
#[derive(Debug)]
pub(crate) struct Door {
    membership: watch::Sender<Membership>,
    /// Containers that somebody is at work on, and by how many: until the work is done, they may need every place they have.
    busy: Mutex<BTreeMap<String, usize>>,
}

/// As long as this lives, a container keeps its places.
#[derive(Debug)]
pub(crate) struct Busy {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        {
            let mut busy = self.inner.cluster.busy();
            if let Some(count) = busy.get_mut(&self.id) {
                *count -= 1;
                if *count == 0 {
                    busy.remove(&self.id);
                }
            }
        }
        self.inner.cluster.poke();
    }
}

impl Door {
    /// Before anything is known, if it ever will be.
    pub(crate) fn new(will_be_told: bool) -> Self {
        let membership = if will_be_told { Membership::Unknown } else { Membership::Outside };
        Self { membership: watch::Sender::new(membership), busy: Mutex::default() }
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is this node in a cluster?
    pub(crate) fn is_inside(&self) -> bool {
        inside(&self.membership.borrow()).is_some()
    }

    /// Lets a container keep its places while it is worked on.
    pub(crate) fn hold(inner: &Arc<Inner>, id: &str) -> Busy {
        *inner.cluster.busy().entry(id.to_owned()).or_insert(0) += 1;
        Busy { inner: Arc::clone(inner), id: id.to_owned() }
    }

    /// The cluster; `None` outside of any. Waits a while when that is not known yet.
    pub(crate) async fn networks(&self) -> Option<Arc<dyn ClusterNetworks>> {
        let mut membership = self.membership.subscribe();
        let known = membership.wait_for(|membership| !matches!(membership, Membership::Unknown));
        match tokio::time::timeout(PATIENCE, known).await {
            Ok(Ok(membership)) => inside(&membership),
            _ => None,
        }
    }

    /// Returns when it is known that there is no cluster, or when the cluster has told what places there are here.
    pub(crate) async fn ready(&self) {
        let mut membership = self.membership.subscribe();
        let known = membership.wait_for(|membership| !matches!(membership, Membership::Unknown)).await;
        let networks = known.ok().and_then(|membership| inside(&membership));
        if let Some(networks) = networks {
            networks.ready().await;
        }
    }

    /// Who needs a place may have changed.
    pub(crate) fn poke(&self) {
        let networks = inside(&self.membership.borrow());
        if let Some(networks) = networks {
            networks.poke();
        }
    }

    /// Returns when the places that a container needs no more are given back, or after some seconds.
    pub(crate) async fn released(&self, id: &str) {
        let networks = inside(&self.membership.borrow());
        if let Some(networks) = networks {
            networks.released(id).await;
        }
    }
}

fn inside(membership: &Membership) -> Option<Arc<dyn ClusterNetworks>> {
    match membership {
        Membership::Inside(networks) => Some(Arc::clone(networks)),
        Membership::Unknown | Membership::Outside => None,
    }
}

impl Engine {
    /// This node is in a cluster.
    pub fn enter_cluster(&self, networks: Arc<dyn ClusterNetworks>) {
        self.inner().cluster.membership.send_replace(Membership::Inside(networks));
    }

    /// This node is in no cluster (any more). Until one of the two was said, containers that ask for networks which are
    /// not this node's wait.
    pub fn stay_outside(&self) {
        self.inner().cluster.membership.send_replace(Membership::Outside);
    }

    /// Does a container need its place on a network? One that runs, will be started again by its policy, is being worked on,
    /// or whose network is still being taken down.
    pub fn needs_place(&self, container_id: &str, network: NetworkId) -> bool {
        let inner = self.inner();
        if inner.cluster.busy().contains_key(container_id) || inner.teardowns.is_under_way(container_id) {
            return true;
        }
        inner.containers.get(container_id).is_some_and(|container| {
            let record = container.record();
            let lives = record.state.phase.has_process() || record.state.phase == Phase::Restarting;
            lives && record.places.values().any(|place| place.network == network)
        })
    }

    /// Takes containers off the cluster networks on which they have lost their place: all places that there are on this node
    /// are `held`, by container, network and address. The containers run on.
    pub async fn leave_lost_places(&self, held: &BTreeSet<(String, NetworkId, Ipv4Addr)>) {
        let inner = self.inner();
        for (id, network) in inner.networks.lost_places(held) {
            tracing::warn!(container = id, network, "the cluster has taken a container off a network");
            if let Err(failure) = inner.networks.detach(&id, &network).await {
                tracing::warn!(container = id, network, error = failure.message, "cannot take it off");
            }
            if let Some(container) = inner.containers.get(&id) {
                network::lost(inner, &container, &network).await;
            }
        }
    }
}
