//! What only a leader does: the reconcile loop, the membership loop, and looking after nodes whose manager is gone.
//!
//! ## Design notes
//! Each loop is started when this manager leads and has applied all that earlier leaders committed, writes with its
//! term as a fence, and ends with the leadership. A loop that fails is started again with growing pauses; why stands
//! in [`crate::Health`]. Nothing that must outlive the leader lives here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_kit::backoff::Backoff;
use shoal_manager_core::change::Change;
use shoal_manager_core::reconcile::{Plan, Planner};
use shoal_manager_core::store::Store;
use shoal_proto::control::{ControlRequest, Report};
use shoal_proto::id::NodeId;
use shoal_proto::object::NodeState;
use tokio::time::Instant;

use crate::dispatcher::standing::RETURN;
use crate::inner::Inner;
use crate::raft::node::ProposeError;
use crate::raft::types::{BatchBody, Outcome};

/// The pause after a pass: what comes meanwhile is planned together. Writing is a pause by itself.
const GAP: Duration = Duration::from_millis(2);
/// That pause when planning takes long: as long as that, but not longer than this.
const GAP_LIMIT: Duration = Duration::from_millis(50);
/// After this time everything is looked at again, whatever changed.
const RESYNC: Duration = Duration::from_secs(30);
/// After this time without an answer it is said that a plan waits for a majority.
const WRITE: Duration = Duration::from_secs(10);

/// Why a reconcile pass ended early.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("this manager does not lead any more")]
    Deposed,
    #[error("a planner failed: {0}")]
    Planner(String),
    #[error("a plan could not be written: {0}")]
    Write(String),
}

impl Inner {
    /// Runs the leader's loops whenever this manager leads.
    pub(crate) async fn run_leadership(self: Arc<Self>) {
        let mut views = self.raft.views();
        let mut states = self.raft.cell().subscribe();
        loop {
            let Some(term) = self.raft.leading() else {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    changed = views.changed() => if changed.is_err() { return },
                    changed = states.changed() => if changed.is_err() { return },
                }
                continue;
            };
            tracing::info!(term, "this manager leads");
            let mut loops = tokio::task::JoinSet::new();
            loops.spawn(Arc::clone(&self).run_reconcile(term));
            loops.spawn(Arc::clone(&self).run_membership(term));
            loops.spawn(Arc::clone(&self).run_node_watch(term));
            let mut ended = self.raft.views();
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ended.wait_for(|view| !view.leads || view.term != term) => {}
            }
            loops.shutdown().await;
            tracing::info!(term, "this manager does not lead any more");
        }
    }

    async fn run_reconcile(self: Arc<Self>, term: u64) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10), self.entropy());
        loop {
            let error = self.reconcile(term, &mut backoff).await;
            if self.raft.leading() != Some(term) {
                return;
            }
            if matches!(error, PassError::Deposed) {
                // The consensus group says so before its metrics do: the next look shows who leads.
                tracing::debug!(%error, "the reconcile loop pauses");
            } else {
                tracing::error!(%error, "the reconcile loop failed; it is started again");
                self.health.send_modify(|health| health.reconcile = Some(error.to_string()));
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Plans and writes until it fails or the leadership ends.
    async fn reconcile(&self, term: u64, backoff: &mut Backoff) -> PassError {
        // What was proposed before and not heard of again is in the log, and may still be applied: a plan from a store
        // without it would make the same tasks twice. After this entry there is nothing left to come.
        if let Err(error) = self.write_fenced(Vec::new(), term).await {
            return error;
        }
        let mut states = self.raft.cell().subscribe();
        let mut planner = Planner::new();
        let mut resync_at = Instant::now() + RESYNC;
        loop {
            states.borrow_and_update();
            let began = Instant::now();
            if began >= resync_at {
                planner.reset();
                resync_at = began + RESYNC;
            }
            let store = self.store();
            let (now, mut ids) = (self.now(), self.entropy());
            let planned = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                let plan = planner.plan(&store, now, &mut ids);
                (planner, plan, began.elapsed())
            });
            let (plan, took): (Plan, Duration);
            (planner, plan, took) = match planned.await {
                Ok(planned) => planned,
                Err(error) => return PassError::Planner(error.to_string()),
            };
            match self.write_plan(plan, term).await {
                Ok(true) => {}
                Ok(false) => planner.reset(),
                Err(error) => return error,
            }
            backoff.reset();
            self.health.send_if_modified(|health| health.reconcile.take().is_some());
            // Everything that changes during this pause is planned in one pass.
            tokio::time::sleep(GAP.max(took).min(GAP_LIMIT)).await;
            let due = planner.wake_at().map(|at| at.since(self.options.clock.now()));
            let timer = due.unwrap_or(RESYNC).min(resync_at.saturating_duration_since(Instant::now()));
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return PassError::Deposed },
                () = tokio::time::sleep(timer) => {}
            }
            if self.raft.leading() != Some(term) {
                return PassError::Deposed;
            }
        }
    }

    /// Writes a plan, batch by batch. `false`: one was refused, and everything has to be looked at again.
    async fn write_plan(&self, plan: Plan, term: u64) -> Result<bool, PassError> {
        if plan.changes.is_empty() {
            return Ok(true);
        }
        for changes in plan.into_batches() {
            match self.write_fenced(changes, term).await? {
                Outcome::Refused(error) => {
                    // Somebody wrote in between. The rest of the plan may build on what was refused.
                    tracing::debug!(%error, "a plan was overtaken");
                    return Ok(false);
                }
                Outcome::Fenced => return Err(PassError::Deposed),
                _ => {}
            }
        }
        Ok(true)
    }

    /// Writes one entry, however long that takes: as long as this manager leads nothing else may be planned before its
    /// outcome is known.
    async fn write_fenced(&self, changes: Vec<Change>, term: u64) -> Result<Outcome, PassError> {
        let body = BatchBody { time: self.now(), fence: term, request: None, changes };
        let proposing = self.raft.propose(body, Duration::MAX);
        tokio::pin!(proposing);
        let outcome = match tokio::time::timeout(WRITE, &mut proposing).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let waits = "a plan waits: no majority of the managers confirms it".to_owned();
                self.health.send_modify(|health| health.reconcile = Some(waits));
                proposing.await
            }
        };
        match outcome {
            Ok(outcome) => Ok(outcome),
            Err(ProposeError::NotLeader) => Err(PassError::Deposed),
            Err(error) => Err(PassError::Write(error.to_string())),
        }
    }

    /// Marks nodes as down whose session was with a manager that is gone, when they do not turn up elsewhere in time.
    async fn run_node_watch(self: Arc<Self>, term: u64) {
        let mut suspects: HashMap<NodeId, (u64, Instant)> = HashMap::new();
        while self.raft.leading() == Some(term) {
            let store = self.store();
            let period = self.heartbeat_period();
            let now = Instant::now();
            let gone = orphaned(&store, &self.reachable());
            suspects.retain(|node, (manager, _)| gone.get(node) == Some(manager));
            for (node, manager) in gone {
                suspects.entry(node).or_insert((manager, now));
            }
            // An agent needs up to two periods to notice, and some time to find another manager.
            let grace = period.mul_f64(3.5);
            // After an outage, theirs or that of all managers, nodes get more.
            let judged = self.dispatcher.standing().judging().is_some_and(|(since, grace)| now >= since + grace);
            let patience = |node: &NodeId| {
                let restarting = store.node(*node).is_some_and(|node| node.status.restarting);
                if restarting { grace.max(RETURN) } else { grace }
            };
            let lost: Vec<Report> = suspects
                .iter()
                .filter(|(node, (_, since))| judged && now.duration_since(*since) >= patience(node))
                .map(|(node, (manager, _))| Report::NodeGone {
                    id: *node,
                    state: NodeState::Down,
                    message: "the manager it was connected to is gone, and it did not turn up at another".to_owned(),
                    session_manager: *manager,
                })
                .collect();
            if !lost.is_empty() {
                for report in &lost {
                    if let Report::NodeGone { id, .. } = report {
                        suspects.remove(id);
                    }
                }
                if let Err(error) = self.control(ControlRequest::Report(lost)).await {
                    tracing::warn!(%error, "nodes could not be marked as down");
                }
            }
            tokio::time::sleep((period / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))).await;
        }
    }
}

/// Nodes that count as alive though the manager they say they are connected to does not answer.
fn orphaned(store: &Store, reachable: &[u64]) -> HashMap<NodeId, u64> {
    store
        .nodes()
        .filter(|node| node.status.state == NodeState::Ready)
        .filter_map(|node| node.status.session_manager.map(|manager| (node.id, manager)))
        .filter(|(_, manager)| !reachable.contains(manager))
        .collect()
}

#[cfg(test)]
mod tests {
    use shoal_proto::object::{Node, NodeStatus};
    use shoal_proto::time::Timestamp;

    use super::*;

    #[test]
    fn only_nodes_of_managers_that_are_gone_are_orphaned() {
        let node = |id: u128, state: NodeState, session_manager: Option<u64>| {
            let status = NodeStatus { state, session_manager, ..NodeStatus::default() };
            Change::create(Node { id: NodeId::from_bits(id), status, ..Node::default() })
        };
        let mut store = Store::new();
        let changes = [
            node(1, NodeState::Ready, Some(7)),
            node(2, NodeState::Ready, Some(8)),
            node(3, NodeState::Down, Some(8)),
            node(4, NodeState::Unknown, None),
        ];
        store.apply(1, Timestamp(1), &changes).unwrap();
        assert_eq!(orphaned(&store, &[7]), HashMap::from([(NodeId::from_bits(2), 8)]));
        assert!(orphaned(&store, &[7, 8]).is_empty());
    }
}
