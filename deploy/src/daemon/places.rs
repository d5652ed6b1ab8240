//! Places of this node's containers on cluster networks: asked of the managers, and given back.
//!
//! ## Design notes
//! Two levels are compared, and nothing else is remembered: the places that the managers say this node has, and those that
//! the engine's containers need. What is there and not needed is given back, whatever the reason that it is there: a
//! container that has ended, a daemon that died, an answer that was lost. The one thing noted is which places are on their
//! way back, for one of these must not be used again, whether or not the managers have heard of it yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use shoal_agent::AgentHandle;
use shoal_agent::assignments::NetworkView;
use shoal_engine::Engine;
use shoal_engine::cluster::{ClusterNetworks, Place};
use shoal_kit::backoff::Backoff;
use shoal_kit::entropy::Entropy;
use shoal_proto::control::AttachmentWish;
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::{AttachmentId, NetworkId};
use shoal_proto::object::Attachment;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How long a container's start may wait for its address, as in dockerd.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long whoever removes a container, or takes it off a network, waits until the address is free.
const RELEASE: Duration = Duration::from_secs(5);

/// The places that this node has, as its managers say, once they were put in place here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    attachments: BTreeMap<AttachmentId, Arc<Attachment>>,
    networks: BTreeMap<NetworkId, String>,
}

impl Held {
    pub(crate) fn of(view: &NetworkView) -> Self {
        let networks = view.networks.iter().map(|(id, entry)| (*id, entry.record.name.clone()));
        Self { attachments: view.attachments.clone(), networks: networks.collect() }
    }

    /// By container, network and address.
    pub(crate) fn places(&self) -> BTreeSet<(String, NetworkId, Ipv4Addr)> {
        let place = |held: &Arc<Attachment>| (held.container_id.clone(), held.network, held.addr.addr());
        self.attachments.values().map(place).collect()
    }

    fn place(&self, attachment: &Attachment) -> Place {
        let network_name = self.networks.get(&attachment.network).cloned().unwrap_or_default();
        Place { network: attachment.network, network_name, addr: attachment.addr.addr() }
    }

    /// The place that a request is about.
    fn find(&self, request: &AttachmentWish) -> Option<&Arc<Attachment>> {
        self.attachments.values().find(|held| {
            let name = self.networks.get(&held.network);
            held.container_id == request.container_id
                && (name == Some(&request.network) || held.network.to_string() == request.network)
        })
    }
}

/// `None` until the managers have told.
pub(crate) type HeldPlaces = Option<Arc<Held>>;

/// The component.
#[derive(Debug)]
pub(crate) struct Places {
    engine: Engine,
    agent: AgentHandle,
    held: watch::Receiver<HeldPlaces>,
    /// Places on their way back, and whether the managers have confirmed that.
    leaving: Mutex<BTreeMap<AttachmentId, bool>>,
    poked: Notify,
}

impl Places {
    pub(crate) fn new(engine: Engine, agent: AgentHandle, held: watch::Receiver<HeldPlaces>) -> Arc<Self> {
        Arc::new(Self { engine, agent, held, leaving: Mutex::default(), poked: Notify::new() })
    }

    fn leaving(&self) -> MutexGuard<'_, BTreeMap<AttachmentId, bool>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what nobody needs, until told to stop.
    pub(crate) async fn run(self: Arc<Self>, entropy: Entropy, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15), entropy);
        let mut held = self.held.clone();
        loop {
            held.borrow_and_update();
            let given_back = tokio::select! {
                () = stop.cancelled() => return,
                given_back = self.give_back() => given_back,
            };
            let retry = match given_back {
                Ok(()) => {
                    backoff.reset();
                    Duration::MAX
                }
                Err(failure) => {
                    tracing::warn!(error = failure.message, "addresses of ended containers are not given back yet");
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = held.changed() => if changed.is_err() { return },
                () = self.poked.notified() => {}
                () = tokio::time::sleep(retry), if retry != Duration::MAX => {}
            }
        }
    }

    async fn give_back(&self) -> Result<(), Failure> {
        let unneeded = self.mark_leaving();
        if unneeded.is_empty() {
            return Ok(());
        }
        self.agent.detach(unneeded.clone(), PATIENCE).await?;
        let mut leaving = self.leaving();
        for id in unneeded {
            leaving.entry(id).and_modify(|confirmed| *confirmed = true);
        }
        Ok(())
    }

    /// Notes which places nobody needs, and gives those of them that the managers have not confirmed. One that was asked to
    /// be taken back stays so: nobody knows what became of the request.
    fn mark_leaving(&self) -> Vec<AttachmentId> {
        let Some(held) = self.held.borrow().clone() else { return Vec::new() };
        let mut leaving = self.leaving();
        leaving.retain(|id, _| held.attachments.contains_key(id));
        for (id, attachment) in &held.attachments {
            if !leaving.contains_key(id) && !self.engine.needs_place(&attachment.container_id, attachment.network) {
                leaving.insert(*id, false);
            }
        }
        leaving.iter().filter(|(_, confirmed)| !**confirmed).map(|(id, _)| *id).collect()
    }

    /// The place that a container has on a network already; waits while it is on its way back.
    async fn settled(&self, request: &AttachmentWish) -> Option<(Arc<Attachment>, Place)> {
        let mut held = self.held.clone();
        let is_settled = |held: &HeldPlaces| {
            let Some(held) = held else { return false };
            held.find(request).is_none_or(|found| !self.leaving().contains_key(&found.id))
        };
        let held = held.wait_for(is_settled).await.ok()?.clone()?;
        held.find(request).map(|found| (Arc::clone(found), held.place(found)))
    }

    async fn obtain(&self, request: AttachmentWish) -> Result<Place, Failure> {
        if let Some((found, place)) = self.settled(&request).await {
            let same_names = found.name == request.name && found.aliases == request.aliases;
            if same_names && request.addr.is_none_or(|wanted| wanted == place.addr) {
                return Ok(place);
            }
        }
        let target = request.network.clone();
        let attached = self.agent.attach(request, PATIENCE).await.map_err(|failure| refused(&target, &failure))?;
        let mut held = self.held.clone();
        let arrived = |held: &HeldPlaces| {
            let found = held.as_ref().and_then(|held| held.attachments.get(&attached.id));
            found.is_some_and(|found| found.addr == attached.addr)
        };
        let held = held.wait_for(arrived).await.ok().and_then(|held| held.clone());
        let held = held.ok_or_else(|| Failure::unavailable("this node is leaving its cluster"))?;
        Ok(held.place(&attached))
    }

    /// Before the node leaves its cluster: takes its containers off the networks, and gives their addresses back while there
    /// is a manager to take them.
    pub(crate) async fn give_up_all(&self) {
        self.engine.stay_outside();
        self.engine.leave_lost_places(&BTreeSet::new()).await;
        let Some(held) = self.held.borrow().clone() else { return };
        let ids: Vec<_> = held.attachments.keys().copied().collect();
        if !ids.is_empty()
            && let Err(failure) = self.agent.detach(ids, RELEASE).await
        {
            tracing::warn!(
                error = failure.message,
                "addresses on cluster networks stay taken until the node is removed"
            );
        }
    }
}

/// A refusal in dockerd's words, which name the code of the managers' answer.
fn refused(network: &str, failure: &Failure) -> Failure {
    // As in dockerd: not the container is missing or forbidden, so neither is said to who starts it.
    let (code, kind) = match failure.kind {
        ErrorKind::PermissionDenied => ("PermissionDenied", ErrorKind::Internal),
        ErrorKind::NotFound => ("NotFound", ErrorKind::Internal),
        ErrorKind::InvalidArgument => ("InvalidArgument", ErrorKind::InvalidArgument),
        ErrorKind::Conflict => ("FailedPrecondition", ErrorKind::Conflict),
        ErrorKind::Unavailable => ("Unavailable", ErrorKind::Unavailable),
        _ => ("Unknown", ErrorKind::Internal),
    };
    let message = format!("Could not attach to network {network}: rpc error: code = {code} desc = {}", failure.message);
    Failure::new(kind, message)
}

impl ClusterNetworks for Places {
    fn attach(&self, request: AttachmentWish) -> BoxFuture<'_, Result<Place, Failure>> {
        async move {
            match tokio::time::timeout(PATIENCE + Duration::from_secs(1), self.obtain(request)).await {
                Ok(result) => result,
                Err(_) => Err(Failure::unavailable(
                    "attaching to network failed, make sure your network options are correct and check manager logs: \
                     context deadline exceeded",
                )),
            }
        }
        .boxed()
    }

    fn poke(&self) {
        self.poked.notify_one();
    }

    fn released<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, ()> {
        async move {
            self.poke();
            let mut held = self.held.clone();
            let is_released = |held: &HeldPlaces| {
                let unneeded = |found: &Arc<Attachment>| {
                    found.container_id == container_id && !self.engine.needs_place(container_id, found.network)
                };
                !held.iter().any(|held| held.attachments.values().any(unneeded))
            };
            let _in_vain = tokio::time::timeout(RELEASE, held.wait_for(is_released)).await;
        }
        .boxed()
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        async move {
            // When the agent has ended there is nobody left to wait for.
            let mut held = self.held.clone();
            let _ended = held.wait_for(Option::is_some).await.is_err();
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        let attachment = Attachment {
            id: AttachmentId::from_bits(1),
            network: NetworkId::from_bits(5),
            container_id: "c".to_owned(),
            addr: "10.0.1.7/24".parse().expect("an address"),
            ..Attachment::default()
        };
        Held {
            attachments: [(attachment.id, Arc::new(attachment))].into(),
            networks: [(NetworkId::from_bits(5), "app".to_owned())].into(),
        }
    }

    fn request(network: &str, container: &str) -> AttachmentWish {
        AttachmentWish {
            network: network.to_owned(),
            container_id: container.to_owned(),
            name: String::new(),
            aliases: Vec::new(),
            addr: None,
            last_addr: None,
        }
    }

    #[test]
    fn a_place_is_found_by_name_and_id_of_its_network() {
        let held = held();
        let id = NetworkId::from_bits(5).to_string();
        assert!(held.find(&request("app", "c")).is_some() && held.find(&request(&id, "c")).is_some());
        assert!(held.find(&request("app", "d")).is_none() && held.find(&request("web", "c")).is_none());
        assert_eq!(held.places(), [("c".to_owned(), NetworkId::from_bits(5), Ipv4Addr::new(10, 0, 1, 7))].into());
    }

    #[test]
    fn refusals_are_in_dockerds_words() {
        let failure = Failure::new(ErrorKind::PermissionDenied, "network app not manually attachable");
        assert_eq!(
            refused("app", &failure).message,
            "Could not attach to network app: rpc error: code = PermissionDenied desc = network app not manually attachable"
        );
        assert_eq!(refused("app", &Failure::unavailable("no leader")).kind, ErrorKind::Unavailable);
    }
}
