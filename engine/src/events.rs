//! What happened: a bounded history, and live subscriptions.
//!
//! ## Design notes
//! Publishing never waits: a subscriber that lags by more than the queue is told how many events it lost
//! ([`Delivery::Lost`]) and goes on from there. History and live feed are cut under one lock, so that a subscription
//! with `since` neither misses nor repeats an event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{BoxStream, StreamExt};
use shoal_kit::clock::Clock;
use shoal_proto::error::Failure;
use shoal_proto::time::Timestamp;
use tokio::sync::broadcast;

use crate::model::{Actor, Event, Filters};

/// Events kept for `since`. dockerd keeps 256.
const HISTORY: usize = 1_000;
/// Events a subscriber may lag behind.
const QUEUE: usize = 1_024;

/// One step of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// An event.
    Event(Event),
    /// So many events were lost, because the subscriber was too slow.
    Lost(u64),
}

/// Events until the subscriber leaves, or until the instant it gave.
pub type EventStream = BoxStream<'static, Delivery>;

/// The engine's events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    history: Mutex<VecDeque<Arc<Event>>>,
    live: broadcast::Sender<Arc<Event>>,
    listeners: AtomicUsize,
    published: AtomicU64,
}

struct ListenerCount(Arc<Inner>);

impl Drop for ListenerCount {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Events {
    /// No events yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (live, _) = broadcast::channel(QUEUE);
        let inner = Inner {
            clock,
            history: Mutex::new(VecDeque::with_capacity(HISTORY)),
            live,
            listeners: AtomicUsize::new(0),
            published: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Subscribers.
    pub fn listeners(&self) -> usize {
        self.inner.listeners.load(Ordering::Relaxed)
    }

    /// Events since the start.
    pub fn published(&self) -> u64 {
        self.inner.published.load(Ordering::Relaxed)
    }

    /// Tells that something happened on this node.
    pub fn publish(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        self.publish_scoped("local", kind, action, id, attributes);
    }

    /// Tells that something happened, on this node (`local`) or in the cluster (`swarm`).
    pub fn publish_scoped(
        &self,
        scope: &str,
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let mut history = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Arc::new(event(scope, kind, action, id, attributes, self.inner.clock.now()));
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(Arc::clone(&event));
        self.inner.published.fetch_add(1, Ordering::Relaxed);
        let _nobody_listens = self.inner.live.send(event);
    }

    /// Events that pass the filters: those of the past from `since`, then those to come, up to `until`.
    ///
    /// # Errors
    /// When a filter is not known.
    pub fn subscribe(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        filters: Filters,
    ) -> Result<EventStream, Failure> {
        filters.check(&[
            "config",
            "container",
            "daemon",
            "event",
            "image",
            "label",
            "network",
            "node",
            "plugin",
            "scope",
            "secret",
            "service",
            "type",
            "volume",
        ])?;
        let (past, live) = {
            let history = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
            let past: Vec<_> = match since {
                Some(since) => history.iter().filter(|event| event.time_nano >= since.0).cloned().collect(),
                None if until.is_some_and(|until| until <= self.inner.clock.now()) => history.iter().cloned().collect(),
                None => Vec::new(),
            };
            (past, self.inner.live.subscribe())
        };
        self.inner.listeners.fetch_add(1, Ordering::Relaxed);
        let count = ListenerCount(Arc::clone(&self.inner));
        let now = self.inner.clock.now();
        let upto = until.map_or(i64::MAX, |until| until.0);
        let past: Vec<_> = past
            .into_iter()
            .filter(|event| event.time_nano <= upto && passes(event, &filters))
            .map(|event| Delivery::Event((*event).clone()))
            .collect();
        let deadline = until.map(|until| tokio::time::Instant::now() + until.since(now));
        let live = futures::stream::unfold((live, filters, count), move |(mut live, filters, count)| async move {
            let delivery = next(&mut live, &filters, deadline).await?;
            Some((delivery, (live, filters, count)))
        });
        Ok(futures::stream::iter(past).chain(live).boxed())
    }
}

async fn next(
    live: &mut broadcast::Receiver<Arc<Event>>,
    filters: &Filters,
    deadline: Option<tokio::time::Instant>,
) -> Option<Delivery> {
    loop {
        let received = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, live.recv()).await.ok()?,
            None => live.recv().await,
        };
        match received {
            Ok(event) if passes(&event, filters) => return Some(Delivery::Event((*event).clone())),
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(lost)) => return Some(Delivery::Lost(lost)),
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

fn event(
    scope: &str,
    kind: &str,
    action: &str,
    id: &str,
    attributes: BTreeMap<String, String>,
    now: Timestamp,
) -> Event {
    let mut event = Event {
        kind: kind.to_owned(),
        action: action.to_owned(),
        scope: scope.to_owned(),
        time: now.0.div_euclid(1_000_000_000),
        time_nano: now.0,
        ..Event::default()
    };
    // As dockerd does for clients older than API 1.22.
    if kind == "container" || kind == "image" {
        event.status = action.to_owned();
        event.id = id.to_owned();
    }
    if kind == "container" {
        event.from = attributes.get("image").cloned().unwrap_or_default();
    }
    event.actor = Actor { id: id.to_owned(), attributes };
    event
}

/// Does an event pass? Actions match up to a colon, as `exec_start: ls` does for `exec_start`.
pub fn passes(event: &Event, filters: &Filters) -> bool {
    let action_matches = !filters.contains("event")
        || filters.get("event").any(|wanted| {
            event.action == wanted || event.action.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':'))
        });
    action_matches
        && filters.matches_exactly("type", &event.kind)
        && filters.matches_exactly("scope", &event.scope)
        && filters.matches_labels("label", &event.actor.attributes)
        && ["container", "plugin", "volume", "network", "node", "service", "secret", "config", "daemon"]
            .into_iter()
            .all(|kind| is_of(event, kind, filters))
        && image_passes(event, filters)
}

fn is_of(event: &Event, kind: &str, filters: &Filters) -> bool {
    if !filters.contains(kind) {
        return true;
    }
    let name = event.actor.attributes.get("name").map_or("", String::as_str);
    event.kind == kind
        && filters.get(kind).any(|wanted| event.actor.id.starts_with(wanted) || name == wanted.trim_start_matches('/'))
}

fn image_passes(event: &Event, filters: &Filters) -> bool {
    if !filters.contains("image") {
        return true;
    }
    let name = match event.kind.as_str() {
        "image" => event.actor.attributes.get("name"),
        _ => event.actor.attributes.get("image"),
    };
    let name = name.map_or("", String::as_str);
    let bare = name.rsplit_once(':').map_or(name, |(bare, _)| bare);
    filters
        .get("image")
        .any(|wanted| wanted == name || wanted == bare || (event.kind == "image" && wanted == event.actor.id))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_kit::clock::ManualClock;

    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn events() -> (Events, ManualClock) {
        let clock = ManualClock::at(Timestamp::from_seconds(100));
        (Events::new(Arc::new(clock.clone())), clock)
    }

    #[tokio::test]
    async fn history_then_live_without_gap_or_repeat() {
        let (events, clock) = events();
        events.publish("container", "create", "a", attributes(&[("image", "bb")]));
        clock.advance(Duration::from_secs(1));
        events.publish("container", "start", "a", attributes(&[("image", "bb")]));
        let mut stream = events.subscribe(Some(Timestamp::from_seconds(101)), None, Filters::default()).unwrap();
        events.publish("container", "die", "a", attributes(&[("image", "bb")]));
        for expected in ["start", "die"] {
            let Some(Delivery::Event(event)) = stream.next().await else { panic!("no event") };
            assert_eq!((event.action.as_str(), event.from.as_str()), (expected, "bb"));
        }
        assert_eq!(events.listeners(), 1);
        drop(stream);
        assert_eq!(events.listeners(), 0);
    }

    #[tokio::test]
    async fn until_in_the_past_ends_the_stream() {
        let (events, _) = events();
        events.publish("volume", "create", "v", BTreeMap::new());
        let until = Some(Timestamp::from_seconds(100));
        let all: Vec<_> = events.subscribe(None, until, Filters::default()).unwrap().collect().await;
        assert_eq!(all.len(), 1);
    }

    #[tokio::test]
    async fn the_slow_are_told_what_they_lost() {
        let (events, _) = events();
        let mut stream = events.subscribe(None, None, Filters::default()).unwrap();
        for _ in 0..QUEUE + 5 {
            events.publish("volume", "create", "v", BTreeMap::new());
        }
        assert_eq!(stream.next().await, Some(Delivery::Lost(5)));
    }

    #[test]
    fn filters_choose() {
        let event = event(
            "local",
            "container",
            "exec_start: ls",
            "abcdef",
            attributes(&[("name", "web"), ("image", "bb:latest"), ("tier", "front")]),
            Timestamp::ZERO,
        );
        let yes = |filters: Filters| assert!(passes(&event, &filters), "{filters:?}");
        let no = |filters: Filters| assert!(!passes(&event, &filters), "{filters:?}");
        yes(Filters::default().with("event", "exec_start").with("type", "container"));
        yes(Filters::default().with("container", "abc"));
        yes(Filters::default().with("container", "web"));
        yes(Filters::default().with("image", "bb"));
        yes(Filters::default().with("label", "tier=front"));
        no(Filters::default().with("event", "exec"));
        no(Filters::default().with("container", "we"));
        no(Filters::default().with("type", "image"));
        no(Filters::default().with("volume", "abc"));
    }

    #[test]
    fn unknown_filters_are_refused() {
        let (events, _) = events();
        assert!(events.subscribe(None, None, Filters::default().with("colour", "red")).is_err());
    }
}
