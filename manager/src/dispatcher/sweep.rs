//! Who is not heard of any more.

use std::collections::{BTreeSet, HashMap};

use shoal_manager_core::store::Store;
use shoal_proto::control::Report;
use shoal_proto::id::NodeId;
use shoal_proto::object::NodeState;
use tokio::time::Instant;

use super::{Dispatcher, grace};

/// Runs until the dispatcher stops.
pub(super) async fn run(dispatcher: Dispatcher) {
    let mut missing = Missing::default();
    let mut leaderless_since: Option<Instant> = None;
    loop {
        let period = dispatcher.heartbeat_period();
        tokio::select! {
            () = dispatcher.inner.stop.cancelled() => return,
            () = tokio::time::sleep(period / 4) => {}
        }
        let now = Instant::now();
        if dispatcher.inner.options.cluster.has_leader() {
            leaderless_since = None;
        } else if now.duration_since(*leaderless_since.get_or_insert(now)) > 2 * period {
            dispatcher.close_all();
        }
        let mut reports = dispatcher.overdue(now);
        let store = dispatcher.inner.options.cell.store();
        let reachable = dispatcher.inner.options.cluster.reachable_managers();
        let held = dispatcher.held();
        let own = dispatcher.inner.options.raft_id;
        let unheard = missing.step(&store, own, &held, reachable.as_ref(), now);
        reports.extend(unheard.into_iter().filter(|(_, since)| now.duration_since(*since) > grace(period)).map(
            |((id, session_manager), _)| Report::NodeGone {
                id,
                state: NodeState::Down,
                message: "heartbeat failure: its manager is lost and no other has heard of it".to_owned(),
                session_manager,
            },
        ));
        if reports.is_empty() {
            continue;
        }
        if let Err(failure) = dispatcher.inner.reports.store(reports).await {
            tracing::warn!(error = failure.message, "could not report nodes as down; trying again");
        }
    }
}

/// Nodes that the store calls ready, but that the manager named there does not hold; since when.
#[derive(Debug, Default)]
struct Missing(HashMap<(NodeId, u64), Instant>);

impl Missing {
    /// Looks again. Every manager answers for the nodes it is named for; the leader for those of lost managers, too.
    fn step(
        &mut self,
        store: &Store,
        own: u64,
        held: &BTreeSet<NodeId>,
        reachable: Option<&BTreeSet<u64>>,
        now: Instant,
    ) -> Vec<((NodeId, u64), Instant)> {
        let mut unheard = HashMap::new();
        for node in store.nodes().filter(|node| node.status.state == NodeState::Ready) {
            let Some(manager) = node.status.session_manager else { continue };
            let missing = if manager == own {
                !held.contains(&node.id)
            } else {
                reachable.is_some_and(|reachable| !reachable.contains(&manager))
            };
            if missing {
                let since = self.0.get(&(node.id, manager)).copied().unwrap_or(now);
                unheard.insert((node.id, manager), since);
            }
        }
        self.0 = unheard;
        self.0.iter().map(|(key, since)| (*key, *since)).collect()
    }
}

impl Dispatcher {
    fn held(&self) -> BTreeSet<NodeId> {
        self.table().sessions.keys().copied().collect()
    }

    /// Forgets sessions whose deadline has passed, and says so.
    fn overdue(&self, now: Instant) -> Vec<Report> {
        let session_manager = self.inner.options.raft_id;
        let mut table = self.table();
        let late: Vec<NodeId> =
            table.sessions.iter().filter(|(_, session)| session.deadline < now).map(|(node, _)| *node).collect();
        for node in &late {
            table.hub.detach(*node);
            if let Some(session) = table.sessions.remove(node) {
                session.stop.cancel();
            }
        }
        late.into_iter()
            .map(|id| Report::NodeGone {
                id,
                state: NodeState::Down,
                message: "heartbeat failure".to_owned(),
                session_manager,
            })
            .collect()
    }

    /// Sends all agents away: this manager cannot bring what they say to a leader.
    fn close_all(&self) {
        for session in self.table().sessions.values_mut() {
            session.sender = None;
            session.stop.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_manager_core::change::{Change, Expect, Object};
    use shoal_proto::object::{Node, NodeStatus};
    use shoal_proto::time::Timestamp;

    use super::*;

    fn store(nodes: &[(u128, Option<u64>)]) -> Store {
        let mut store = Store::new();
        let changes: Vec<Change> = nodes
            .iter()
            .map(|(bits, session_manager)| {
                let status =
                    NodeStatus { state: NodeState::Ready, session_manager: *session_manager, ..NodeStatus::default() };
                let node = Node { id: NodeId::from_bits(*bits), status, ..Node::default() };
                Change::Put { object: Object::from(node), expect: Expect::Any }
            })
            .collect();
        store.apply(1, Timestamp(1), &changes).expect("nodes");
        store
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_answers_for_its_own_and_the_leader_for_those_of_the_lost() {
        let store = store(&[(1, Some(10)), (2, Some(10)), (3, Some(20)), (4, None)]);
        let held = BTreeSet::from([NodeId::from_bits(1)]);
        let mut missing = Missing::default();
        let begin = Instant::now();
        // A follower misses what it should hold, and nothing of others.
        let seen = missing.step(&store, 10, &held, None, begin);
        assert_eq!(seen.iter().map(|((node, _), _)| *node).collect::<Vec<_>>(), [NodeId::from_bits(2)]);
        // The leader, which does not reach 20, also misses that one's node.
        let later = begin + Duration::from_secs(1);
        let reachable = BTreeSet::from([10]);
        let mut seen = missing.step(&store, 10, &held, Some(&reachable), later);
        seen.sort();
        assert_eq!(seen, [((NodeId::from_bits(2), 10), begin), ((NodeId::from_bits(3), 20), later)]);
        // Who comes back is forgotten, and begins anew the next time.
        let held = BTreeSet::from([NodeId::from_bits(1), NodeId::from_bits(2)]);
        let reachable = BTreeSet::from([10, 20]);
        assert_eq!(missing.step(&store, 10, &held, Some(&reachable), later), []);
    }
}
