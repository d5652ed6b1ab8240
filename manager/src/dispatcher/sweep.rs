//! Compares what the store says of nodes with the sessions that are there, and reports the differences.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_manager_core::store::Store;
use shoal_proto::control::Report;
use shoal_proto::id::NodeId;
use shoal_proto::object::NodeState;
use tokio::time::Instant;
use tonic::Status;

use crate::dispatcher::Sessions;
use crate::dispatcher::session::{report_ready, submit};
use crate::inner::Inner;

/// What one look found.
#[derive(Debug, Default)]
struct Found {
    /// Nodes that are gone, and why.
    gone: Vec<(NodeId, String)>,
    /// Nodes that have a session here but do not count as ready.
    unready: Vec<NodeId>,
    /// Nodes whose newer session is with another manager.
    elsewhere: Vec<NodeId>,
}

/// `began` is when this manager began to take sessions: nodes that were connected before may need a moment to return.
fn look(store: &Store, sessions: &mut Sessions, own: u64, period: Duration, began: Instant, now: Instant) -> Found {
    let mut found = Found::default();
    for node in store.nodes() {
        let ready = node.status.state == NodeState::Ready;
        let here = node.status.session_manager == Some(own);
        match sessions.live.get(&node.id) {
            Some(session) if session.confirmed => match (ready, here) {
                (true, true) => {}
                (true, false) => found.elsewhere.push(node.id),
                (false, _) => found.unready.push(node.id),
            },
            Some(_) => {}
            None if ready && here => {
                let (since, grace, message) = match sessions.ended.get(&node.id) {
                    Some(ended) if ended.silent => (ended.at, Duration::ZERO, ended.message.clone()),
                    Some(ended) => (ended.at, period, ended.message.clone()),
                    None => (began, period.mul_f64(2.5), "it did not come back after its manager did".to_owned()),
                };
                if now.duration_since(since) >= grace {
                    found.gone.push((node.id, message));
                }
            }
            None => {}
        }
    }
    sessions.ended.retain(|node, _| store.node(*node).is_some_and(|node| node.status.session_manager == Some(own)));
    found
}

/// Runs until the manager stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    let began = Instant::now();
    // What was reported lately: the store needs a moment to show it.
    let mut reported: HashMap<NodeId, Instant> = HashMap::new();
    loop {
        let store = inner.store();
        let period = store.cluster().map_or(Duration::from_secs(1), |cluster| cluster.spec.heartbeat_period);
        let pause = (period / 8).clamp(Duration::from_millis(10), Duration::from_millis(500));
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let store = inner.store();
        let now = Instant::now();
        let found = look(&store, &mut inner.dispatcher.sessions(), inner.raft.id(), period, began, now);
        reported.retain(|_, at| now.duration_since(*at) < Duration::from_secs(2));
        let mut gone = Vec::new();
        for (id, message) in found.gone {
            if reported.insert(id, now).is_none() {
                let session_manager = inner.raft.id();
                gone.push(Report::NodeGone { id, state: NodeState::Down, message, session_manager });
            }
        }
        if !gone.is_empty() {
            submit(&inner, gone).await;
        }
        for node in found.unready {
            if let Some(session) = inner.dispatcher.session(node)
                && reported.insert(node, now).is_none()
            {
                report_ready(&inner, node, &session).await;
            }
        }
        for node in found.elsewhere {
            if let Some(session) = inner.dispatcher.session(node) {
                session.close(Status::aborted("this node opened a newer session with another manager"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_manager_core::change::Change;
    use shoal_proto::object::{Node, NodeDescription, NodeStatus};
    use shoal_proto::time::Timestamp;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::dispatcher::{Ended, SessionHandle};

    const OWN: u64 = 7;
    const PERIOD: Duration = Duration::from_secs(1);

    fn store(state: NodeState, session_manager: Option<u64>) -> Store {
        let mut store = Store::new();
        let status = NodeStatus { state, session_manager, ..NodeStatus::default() };
        let node = Node { id: NodeId::from_bits(1), status, ..Node::default() };
        store.apply(1, Timestamp(1), &[Change::create(node)]).unwrap();
        store
    }

    fn live(confirmed: bool) -> Sessions {
        let handle = SessionHandle {
            id: 1,
            outbound: mpsc::channel(1).0,
            closing: watch::Sender::new(None),
            description: Arc::new(NodeDescription::default()),
            addr: std::net::IpAddr::from([127, 0, 0, 1]),
            confirmed,
        };
        Sessions { live: HashMap::from([(NodeId::from_bits(1), handle)]), ended: HashMap::new() }
    }

    fn ended(at: Instant, silent: bool) -> Sessions {
        let ended = Ended { at, silent, message: "gone".to_owned() };
        Sessions { live: HashMap::new(), ended: HashMap::from([(NodeId::from_bits(1), ended)]) }
    }

    fn after(store: &Store, sessions: &mut Sessions, began: Instant, waited: Duration) -> Found {
        look(store, sessions, OWN, PERIOD, began, began + waited)
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_closed_its_stream_has_one_period_to_return() {
        let (store, began) = (store(NodeState::Ready, Some(OWN)), Instant::now());
        assert!(after(&store, &mut ended(began, false), began, PERIOD / 2).gone.is_empty());
        assert_eq!(after(&store, &mut ended(began, false), began, PERIOD).gone.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_gone_at_once() {
        let (store, began) = (store(NodeState::Ready, Some(OWN)), Instant::now());
        assert_eq!(after(&store, &mut ended(began, true), began, Duration::ZERO).gone.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_restart_nodes_get_time_to_return() {
        let (store, began) = (store(NodeState::Ready, Some(OWN)), Instant::now());
        assert!(after(&store, &mut Sessions::default(), began, PERIOD * 2).gone.is_empty());
        assert_eq!(after(&store, &mut Sessions::default(), began, PERIOD * 3).gone.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_of_other_managers_are_theirs() {
        let began = Instant::now();
        for state in [NodeState::Ready, NodeState::Down] {
            let found = after(&store(state, Some(OWN + 1)), &mut Sessions::default(), began, PERIOD * 9);
            assert!(found.gone.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_session_that_does_not_count_is_reported_again() {
        let began = Instant::now();
        let found = after(&store(NodeState::Down, Some(OWN)), &mut live(true), began, PERIOD);
        assert_eq!(found.unready, [NodeId::from_bits(1)]);
        let found = after(&store(NodeState::Down, Some(OWN)), &mut live(false), began, PERIOD);
        assert!(found.unready.is_empty(), "its first report is still under way");
    }

    #[tokio::test(start_paused = true)]
    async fn the_newer_session_elsewhere_wins() {
        let began = Instant::now();
        let found = after(&store(NodeState::Ready, Some(OWN + 1)), &mut live(true), began, PERIOD);
        assert_eq!(found.elsewhere, [NodeId::from_bits(1)]);
    }
}
