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

use crate::dispatcher::session::{report_ready, submit};
use crate::dispatcher::standing::{MISSED, RETURN};
use crate::dispatcher::{Ended, Sessions};
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

/// Compares nodes with sessions. `judging` is since when this manager may say that nodes are gone, and how long those
/// that were here before have to return; `None` is not now.
fn look(
    store: &Store,
    sessions: &mut Sessions,
    own: u64,
    period: Duration,
    judging: Option<(Instant, Duration)>,
    now: Instant,
) -> Found {
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
                let Some(judging) = judging else { continue };
                let (due, message) = due(sessions.ended.get(&node.id), node.status.restarting, period, judging);
                if now >= due {
                    found.gone.push((node.id, message));
                }
            }
            None => {}
        }
    }
    sessions.ended.retain(|node, _| store.node(*node).is_some_and(|node| node.status.session_manager == Some(own)));
    found
}

/// When a node without a session is gone, and why.
fn due(ended: Option<&Ended>, restarting: bool, period: Duration, judging: (Instant, Duration)) -> (Instant, String) {
    let (since, grace) = judging;
    let silence = period.mul_f64(MISSED);
    match ended {
        Some(ended) if ended.at >= since => {
            let pause = match ended.silent {
                _ if restarting => silence.max(RETURN),
                true => Duration::ZERO,
                // A daemon that starts again takes no longer than a node that is cut off has.
                false => silence,
            };
            (ended.at + pause, ended.message.clone())
        }
        Some(ended) => (since + grace, ended.message.clone()),
        None => (since + grace, "it did not come back after its manager did".to_owned()),
    }
}

/// Keeps up what this manager may judge; ends its sessions when it has heard of no leader for too long.
async fn keep_standing(inner: &Inner, period: Duration) {
    let dispatcher = &inner.dispatcher;
    let contact = inner.raft.contact();
    if !inner.in_contact(period) {
        if dispatcher.standing().lose(contact) {
            tracing::warn!("this manager hears of no leader: its agents have to find another manager");
            dispatcher.close_all(&Status::unavailable("this manager hears of no leader"));
        }
        return;
    }
    if dispatcher.standing().judging().is_none() && inner.is_current().await.is_ok() {
        dispatcher.standing().regain(Instant::now(), period);
    }
}

/// Runs until the manager stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    // What was reported lately: the store needs a moment to show it.
    let mut reported: HashMap<NodeId, Instant> = HashMap::new();
    loop {
        let period = inner.heartbeat_period();
        let pause = (period / 8).clamp(Duration::from_millis(10), Duration::from_millis(500));
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = keep_standing(&inner, period) => {}
        }
        let judging = inner.dispatcher.standing().judging();
        let store = inner.store();
        let now = Instant::now();
        let found = look(&store, &mut inner.dispatcher.sessions(), inner.raft.id(), period, judging, now);
        reported.retain(|_, at| now.duration_since(*at) < Duration::from_secs(2));
        act(&inner, found, &mut reported, now).await;
    }
}

async fn act(inner: &Inner, found: Found, reported: &mut HashMap<NodeId, Instant>, now: Instant) {
    let mut gone = Vec::new();
    for (id, message) in found.gone {
        if reported.insert(id, now).is_none() {
            let session_manager = inner.raft.id();
            gone.push(Report::NodeGone { id, state: NodeState::Down, message, session_manager });
        }
    }
    if !gone.is_empty() {
        submit(inner, gone).await;
    }
    for node in found.unready {
        if let Some(session) = inner.dispatcher.session(node)
            && reported.insert(node, now).is_none()
        {
            report_ready(inner, node, &session).await;
        }
    }
    for node in found.elsewhere {
        if let Some(session) = inner.dispatcher.session(node) {
            session.close(Status::aborted("this node opened a newer session with another manager"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_manager_core::change::{Change, Expect, NodePatch};
    use shoal_proto::object::{Node, NodeDescription, NodeStatus};
    use shoal_proto::time::Timestamp;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::dispatcher::SessionHandle;

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
        look(store, sessions, OWN, PERIOD, Some((began, RETURN)), began + waited)
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_closed_its_stream_has_as_long_to_return_as_one_that_is_cut_off() {
        let (store, began) = (store(NodeState::Ready, Some(OWN)), Instant::now());
        assert!(after(&store, &mut ended(began, false), began, PERIOD * 2).gone.is_empty());
        assert_eq!(after(&store, &mut ended(began, false), began, PERIOD * 5 / 2).gone.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_announced_its_restart_has_longer() {
        let began = Instant::now();
        let mut store = store(NodeState::Ready, Some(OWN));
        let status = NodeStatus { restarting: true, ..store.node(NodeId::from_bits(1)).unwrap().status.clone() };
        let patch = NodePatch { status: Some(status), ..NodePatch::default() };
        let change = Change::Node { id: NodeId::from_bits(1), patch: Box::new(patch), expect: Expect::Any };
        store.apply(2, Timestamp(2), &[change]).unwrap();
        assert!(after(&store, &mut ended(began, false), began, PERIOD * 9).gone.is_empty());
        assert_eq!(after(&store, &mut ended(began, false), began, RETURN).gone.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_leader_nobody_is_gone() {
        let (store, began) = (store(NodeState::Ready, Some(OWN)), Instant::now());
        for mut sessions in [Sessions::default(), ended(began, true), ended(began, false)] {
            let found = look(&store, &mut sessions, OWN, PERIOD, None, began + PERIOD * 100);
            assert!(found.gone.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_while_there_was_no_leader_gets_time_to_return() {
        let (store, ended_at) = (store(NodeState::Ready, Some(OWN)), Instant::now());
        let regained = ended_at + PERIOD * 60;
        assert!(after(&store, &mut ended(ended_at, true), regained, PERIOD * 9).gone.is_empty());
        assert_eq!(after(&store, &mut ended(ended_at, true), regained, RETURN).gone.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_gone_at_once() {
        let (store, began) = (store(NodeState::Ready, Some(OWN)), Instant::now());
        assert_eq!(after(&store, &mut ended(began, true), began, Duration::ZERO).gone.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_restart_nodes_get_time_to_return() {
        let (store, began) = (store(NodeState::Ready, Some(OWN)), Instant::now());
        assert!(after(&store, &mut Sessions::default(), began, PERIOD * 9).gone.is_empty());
        assert_eq!(after(&store, &mut Sessions::default(), began, RETURN).gone.len(), 1);
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
