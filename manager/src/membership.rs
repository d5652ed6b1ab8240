//! Who belongs to the consensus group: joining, leaving, and the loop that keeps the group, the nodes' roles and what
//! the store says of both in step.
//!
//! ## Design notes
//! Level-triggered like every loop: it compares members with nodes and takes one step at a time. Promotion is the new
//! manager's own doing (it gets a manager's certificate, then asks to join as a learner); the loop gives it a vote
//! when it has caught up. Demotion and removal are the loop's: the member goes first, then the role, because a
//! manager's certificate must not be taken from a member that still votes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use shoal_kit::backoff::Backoff;
use shoal_kit::reason::describe;
use shoal_manager_core::change::{Change, Expect, NodePatch};
use shoal_manager_core::store::Store;
use shoal_proto::error::{Failure, chain};
use shoal_proto::id::NodeId;
use shoal_proto::object::{ManagerMember, Node};
use shoal_proto::spec::{NodeRole, NodeSpec};
use shoal_proto::wire::{JoinRaftResponse, LeaveRaftRequest};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::ca::service::removed;
use crate::inner::Inner;
use crate::peers::Lane;
use crate::raft::node::View;
use crate::raft::types::{BatchBody, Outcome, RaftMember};

/// How long one membership change may take.
const CHANGE: Duration = Duration::from_secs(5);
/// Entries that a new manager may be behind when it gets a vote.
const CAUGHT_UP: u64 = 200;

/// One thing to bring in step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Hand the leadership to another manager, because this one is to leave the group.
    HandOver,
    /// Take a member out of the group.
    Remove(u64),
    /// Give a member that has caught up a vote.
    GiveVote(u64),
    /// Write down what a node is in the group.
    Record(NodeId, Option<ManagerMember>),
    /// Complete a change of members that somebody began.
    Complete,
}

/// What is known of the group.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) own: u64,
    pub(crate) members: BTreeMap<u64, RaftMember>,
    pub(crate) voters: BTreeSet<u64>,
    /// Is a change of members half done?
    pub(crate) joint: bool,
    /// Followers' last entries, of those that answer.
    pub(crate) matched: BTreeMap<u64, u64>,
    pub(crate) last_log: u64,
}

/// The next steps, in order; the group is changed by one member at a time.
pub(crate) fn plan(group: &Group, store: &Store) -> Vec<Step> {
    if group.joint {
        return vec![Step::Complete];
    }
    let mut steps = Vec::new();
    let wanted =
        |member: &RaftMember| store.node(member.node_id).is_some_and(|node| node.spec.role == NodeRole::Manager);
    let unwanted = group.members.iter().find(|(_, member)| !wanted(member)).map(|(id, _)| *id);
    match unwanted {
        // The last voter stays, whatever is asked: without it there is no cluster to ask.
        Some(id) if group.voters.contains(&id) && group.voters.len() == 1 => {}
        Some(id) if id == group.own => steps.push(Step::HandOver),
        Some(id) => steps.push(Step::Remove(id)),
        None => {
            let ready = group.members.keys().find(|id| {
                !group.voters.contains(id)
                    && group.matched.get(id).is_some_and(|matched| matched + CAUGHT_UP >= group.last_log)
            });
            steps.extend(ready.map(|id| Step::GiveVote(*id)));
        }
    }
    let mut by_node: BTreeMap<NodeId, ManagerMember> = BTreeMap::new();
    for (id, member) in &group.members {
        by_node.insert(member.node_id, ManagerMember { raft_id: *id, addr: member.addr });
    }
    for node in store.nodes() {
        let member = by_node.get(&node.id);
        if node.manager.as_ref() != member {
            steps.push(Step::Record(node.id, member.cloned()));
        }
    }
    steps
}

impl Inner {
    pub(crate) fn group(&self, view: &View) -> Group {
        let mut group = Group { own: self.raft.id(), members: view.members(), ..Group::default() };
        group.voters = view.membership.membership().voter_ids().collect();
        group.joint = view.is_joint();
        if let Ok(raft) = self.raft.raft() {
            let metrics = raft.metrics();
            let now = metrics.borrow_watched();
            group.last_log = now.last_log_index.unwrap_or(0);
            // Only who has answered counts: a vote for one that is not there yet would stop the group.
            for (id, matched) in now.replication.iter().flatten() {
                if let Some(matched) = matched {
                    group.matched.insert(*id, matched.index);
                }
            }
        }
        let reachable = self.reachable();
        group.matched.retain(|id, _| reachable.contains(id));
        group
    }

    /// Keeps group and roles in step while this manager leads in `term`.
    pub(crate) async fn run_membership(self: Arc<Self>, term: u64) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), self.entropy());
        let mut views = self.raft.views();
        let mut states = self.raft.cell().subscribe();
        while self.raft.leading() == Some(term) {
            views.borrow_and_update();
            states.borrow_and_update();
            let steps = plan(&self.group(&self.raft.view()), &self.store());
            let mut failure = None;
            for step in &steps {
                if let Err(error) = self.take(step, term).await {
                    tracing::info!(?step, error = error.message, "membership step not taken yet");
                    failure = Some(error.message);
                    break;
                }
            }
            self.health.send_if_modified(|health| {
                let changed = health.membership != failure;
                health.membership.clone_from(&failure);
                changed
            });
            let learners = self.raft.view().members().len() > self.group(&self.raft.view()).voters.len();
            let pause = match failure {
                Some(_) => backoff.next_delay(),
                None => {
                    backoff.reset();
                    match (steps.is_empty(), learners) {
                        // One step leads to the next.
                        (false, _) => Duration::from_millis(5),
                        // A learner's progress is not announced, so it is looked at more often.
                        (true, true) => Duration::from_millis(25),
                        (true, false) => Duration::from_secs(1),
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = views.changed(), if steps.is_empty() => {}
                _ = node_changed(&mut states, &self), if steps.is_empty() => {}
            }
        }
    }

    async fn take(&self, step: &Step, term: u64) -> Result<(), Failure> {
        match step {
            Step::HandOver => self.step_down().await,
            Step::Remove(id) => {
                let member = self.raft.view().member(*id).cloned();
                self.remove_member(*id).await?;
                if let Some(member) = member {
                    tracing::info!(%member, "removed from the consensus group");
                    self.peers.forget(member.node_id);
                }
                Ok(())
            }
            Step::GiveVote(id) => {
                self.change_members(ChangeMembers::AddVoterIds(BTreeSet::from([*id]))).await?;
                tracing::info!(raft_id = id, "a new manager has its vote");
                Ok(())
            }
            Step::Complete => {
                self.change_members(ChangeMembers::AddVoterIds(BTreeSet::new())).await?;
                tracing::info!("completed a change of members that was left half done");
                Ok(())
            }
            Step::Record(node, member) => {
                let patch = NodePatch { manager: Some(member.clone()), ..NodePatch::default() };
                self.patch_node(*node, patch, Expect::Any, term).await
            }
        }
    }

    async fn patch_node(&self, id: NodeId, patch: NodePatch, expect: Expect, term: u64) -> Result<(), Failure> {
        let changes = vec![Change::Node { id, patch: Box::new(patch), expect }];
        let body = BatchBody { time: self.now(), fence: term, request: None, changes };
        match self.raft.propose(body, CHANGE).await {
            Ok(Outcome::Refused(error)) => Err(error.into()),
            Ok(Outcome::Fenced) => Err(Failure::unavailable("the leader changed")),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::unavailable(error.to_string())),
        }
    }

    /// Hands the leadership to a voter that answers.
    pub(crate) async fn step_down(&self) -> Result<(), Failure> {
        let raft = self.raft.raft()?;
        let view = self.raft.view();
        let own = self.raft.id();
        let heir = self.reachable().into_iter().find(|id| *id != own && view.is_voter(*id));
        let heir = heir.ok_or_else(|| Failure::conflict("no other manager answers that could lead the cluster"))?;
        raft.trigger().transfer_leader(heir).await.map_err(|error| Failure::internal(&error))?;
        let mut views = self.raft.views();
        let changed = views.wait_for(|view| !view.leads);
        match tokio::time::timeout(Duration::from_secs(2), changed).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::unavailable("the leadership could not be handed over yet")),
        }
    }

    async fn remove_member(&self, id: u64) -> Result<(), Failure> {
        let view = self.raft.view();
        let set = BTreeSet::from([id]);
        if view.is_voter(id) {
            self.change_members(ChangeMembers::RemoveVoters(set)).await
        } else {
            self.change_members(ChangeMembers::RemoveNodes(set)).await
        }
    }

    async fn change_members(&self, change: ChangeMembers<u64, RaftMember>) -> Result<(), Failure> {
        let raft = self.raft.raft()?;
        // A change takes two entries. Nobody may take the pause between them for one that was left half done.
        let Ok(_alone) = self.changing_members.try_lock() else {
            return Err(Failure::unavailable("another change of members is under way"));
        };
        if self.raft.view().is_changing() {
            return Err(Failure::unavailable("another change of members is under way"));
        }
        // `retain = false`: whoever loses the vote leaves the group. When this is given up half-way, the membership loop
        // completes it.
        match tokio::time::timeout(CHANGE, raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failure::unavailable(chain(&error))),
            Err(_) => Err(Failure::unavailable("no majority of the managers confirmed the change of members")),
        }
    }

    /// The refusal of a follower, with the leader's address for who asked.
    fn leader_hint(&self) -> Status {
        let view = self.raft.view();
        let addr = view.leader.and_then(|id| view.member(id)).map(|member| member.addr.to_string());
        let details = addr.unwrap_or_default().into_bytes();
        Status::with_details(Code::Unavailable, "this manager is not the leader", details.into())
    }

    /// A manager asks to become a member.
    pub(crate) async fn join_raft(&self, node: NodeId, addr: &str) -> Result<JoinRaftResponse, Status> {
        let Some(term) = self.raft.leading() else { return Err(self.leader_hint()) };
        let addr: SocketAddr =
            addr.parse().map_err(|_| Status::invalid_argument(format!("invalid address {addr:?}")))?;
        let store = self.store();
        let record = store.node(node).ok_or_else(removed)?;
        if record.spec.role != NodeRole::Manager {
            return Err(Status::permission_denied("this node is a worker: promote it first"));
        }
        let unavailable = |failure: Failure| Status::unavailable(failure.message);
        let member = RaftMember { node_id: node, addr };
        let raft_id = self.fresh_raft_id();
        let view = self.raft.view();
        let old: BTreeSet<u64> =
            view.members().into_iter().filter(|(_, known)| known.node_id == node).map(|(id, _)| id).collect();
        let deadline = Instant::now() + CHANGE;
        loop {
            // Changes of members go one after the other.
            let mut views = self.raft.views();
            let settled = views.wait_for(|view| !view.is_changing());
            if tokio::time::timeout_at(deadline, settled).await.is_err() {
                return Err(Status::unavailable("another change of members is under way"));
            }
            // A node that joins again lost its log: the member it was must not count as alive any more.
            let mut changes = Vec::new();
            let voters: BTreeSet<u64> = old.iter().copied().filter(|id| view.is_voter(*id)).collect();
            let learners: BTreeSet<u64> = old.difference(&voters).copied().collect();
            if !voters.is_empty() {
                changes.push(ChangeMembers::RemoveVoters(voters));
            }
            if !learners.is_empty() {
                changes.push(ChangeMembers::RemoveNodes(learners));
            }
            changes.push(ChangeMembers::AddNodes(BTreeMap::from([(raft_id, member.clone())])));
            match self.change_members(ChangeMembers::Batch(changes)).await {
                Ok(()) => break,
                Err(failure) if Instant::now() >= deadline => return Err(unavailable(failure)),
                Err(_) if self.raft.leading() != Some(term) => return Err(self.leader_hint()),
                Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
        tracing::info!(%node, raft_id, "a manager joins the consensus group");
        Ok(JoinRaftResponse { raft_id, members: self.members_here() })
    }

    /// An id that no member ever had: random, so that it needs no counter that could be lost with a log.
    fn fresh_raft_id(&self) -> u64 {
        let members = self.raft.view().members();
        loop {
            // 63 bits: also exact as a signed number in other people's tools.
            let id = self.options.entropy.next_u64() >> 1;
            if id != 0 && !members.contains_key(&id) {
                return id;
            }
        }
    }

    /// A manager asks to leave the group for good.
    pub(crate) async fn leave_raft(&self, node: NodeId, force: bool) -> Result<(), Status> {
        let Some(term) = self.raft.leading() else { return Err(self.leader_hint()) };
        let view = self.raft.view();
        let Some((id, _)) = view.members().into_iter().find(|(_, member)| member.node_id == node) else {
            return Ok(());
        };
        if id == self.raft.id() {
            return Err(Status::failed_precondition("the leader hands its office over before it leaves"));
        }
        if !force {
            self.guard_removal(id).map_err(|failure| Status::failed_precondition(failure.message))?;
        }
        let unavailable = |failure: Failure| Status::unavailable(failure.message);
        self.remove_member(id).await.map_err(unavailable)?;
        if let Some(record) = self.store().node(node) {
            let spec = NodeSpec { role: NodeRole::Worker, ..Node::clone(record).spec };
            let patch = NodePatch { spec: Some(spec), manager: Some(None), ..NodePatch::default() };
            self.patch_node(node, patch, Expect::Any, term).await.map_err(unavailable)?;
        }
        Ok(())
    }

    /// May this member go without the rest losing its majority?
    fn guard_removal(&self, id: u64) -> Result<(), Failure> {
        let view = self.raft.view();
        let voters: Vec<u64> = view.membership.membership().voter_ids().collect();
        if voters == [id] {
            return Err(Failure::conflict("it is the last manager: the cluster would end with it"));
        }
        let left = voters.iter().filter(|voter| **voter != id).count();
        let reachable = self.reachable();
        let alive = voters.iter().filter(|voter| **voter != id && reachable.contains(voter)).count();
        if alive <= left / 2 {
            return Err(Failure::conflict(format!(
                "only {alive} of the other {left} managers answer: the cluster would lose its majority"
            )));
        }
        Ok(())
    }

    /// Takes this manager out of the group. The leader hands its office over first.
    pub(crate) async fn leave(&self, force: bool) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if self.raft.leading().is_some() {
                let view = self.raft.view();
                let voters: Vec<u64> = view.membership.membership().voter_ids().collect();
                if voters == [self.raft.id()] {
                    return Err(Failure::conflict("it is the last manager: the cluster would end with it"));
                }
                if !force {
                    self.guard_removal(self.raft.id())?;
                }
                self.step_down().await?;
            }
            let reason = match self.leader_client(Lane::Requests) {
                None => "no leader is elected".to_owned(),
                Some(mut leader) => {
                    match tokio::time::timeout(CHANGE, leader.leave_raft(LeaveRaftRequest { force })).await {
                        Ok(Ok(_)) => return Ok(()),
                        Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                            return Err(Failure::conflict(status.message()));
                        }
                        Ok(Err(status)) => describe(&status),
                        Err(_) => "the leader does not answer".to_owned(),
                    }
                }
            };
            if Instant::now() >= deadline {
                return Err(Failure::unavailable(format!("this manager could not leave: {reason}")));
            }
            self.wait_for_leader_change(Duration::from_millis(50)).await;
        }
    }
}

/// Waits until a node changed: nothing else of the store concerns the group.
async fn node_changed(states: &mut tokio::sync::watch::Receiver<u64>, inner: &Inner) {
    let mut seen = inner.store().version();
    while states.changed().await.is_ok() {
        states.borrow_and_update();
        let store = inner.store();
        let events = store.changes_since(seen);
        seen = store.version();
        let concerns = |event: &shoal_manager_core::store::Event| {
            matches!(event.key(), Some(shoal_manager_core::change::ObjectKey::Node(_)))
        };
        if events.is_none_or(|events| events.iter().any(concerns)) {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use shoal_kit::ca_client::{self, JoinRequest};
    use shoal_kit::clock::{Clock, SystemClock};
    use shoal_kit::entropy::Entropy;
    use shoal_kit::identity::NodeIdentity;
    use shoal_proto::spec::{Availability, ClusterSpec};

    use super::*;
    use crate::ca::Founding;
    use crate::inner::ManagerOptions;
    use crate::manager::{self, BootstrapSpec};

    fn node(id: u128) -> NodeId {
        NodeId::from_bits(id)
    }

    fn member(id: u128) -> RaftMember {
        RaftMember { node_id: node(id), addr: SocketAddr::from(([10, 0, 0, 1], 2377)) }
    }

    fn record(id: u64) -> ManagerMember {
        ManagerMember { raft_id: id, addr: member(0).addr }
    }

    /// A store with these nodes: id, role, raft id.
    fn store(nodes: &[(u128, NodeRole, Option<u64>)]) -> Store {
        let mut store = Store::new();
        let changes: Vec<Change> = nodes
            .iter()
            .map(|(id, role, raft_id)| {
                Change::create(Node {
                    id: node(*id),
                    spec: NodeSpec { role: *role, ..NodeSpec::default() },
                    manager: raft_id.map(record),
                    ..Node::default()
                })
            })
            .collect();
        store.apply(1, shoal_proto::time::Timestamp(1), &changes).unwrap();
        store
    }

    fn group(members: &[(u64, u128)], voters: &[u64]) -> Group {
        Group {
            own: 1,
            members: members.iter().map(|(id, node)| (*id, member(*node))).collect(),
            voters: voters.iter().copied().collect(),
            matched: BTreeMap::new(),
            last_log: 1000,
            joint: false,
        }
    }

    #[test]
    fn a_change_that_was_left_half_done_is_completed_first() {
        let store = store(&[(1, Manager, Some(1)), (2, Worker, Some(2))]);
        let half = Group { joint: true, ..group(&[(1, 1), (2, 2)], &[1, 2]) };
        assert_eq!(plan(&half, &store), [Step::Complete]);
    }

    use NodeRole::{Manager, Worker};

    #[test]
    fn nothing_to_do_when_all_agree() {
        let store = store(&[(1, Manager, Some(1)), (2, Manager, Some(2)), (3, Worker, None)]);
        assert_eq!(plan(&group(&[(1, 1), (2, 2)], &[1, 2]), &store), []);
    }

    #[test]
    fn a_learner_gets_its_vote_once_it_caught_up() {
        let store = store(&[(1, Manager, Some(1)), (2, Manager, Some(2))]);
        let mut group = group(&[(1, 1), (2, 2)], &[1]);
        group.matched.insert(2, 100);
        assert_eq!(plan(&group, &store), []);
        group.matched.insert(2, 990);
        assert_eq!(plan(&group, &store), [Step::GiveVote(2)]);
    }

    #[test]
    fn a_demoted_member_goes_before_its_role_does() {
        let store = store(&[(1, Manager, Some(1)), (2, Worker, Some(2))]);
        assert_eq!(plan(&group(&[(1, 1), (2, 2)], &[1, 2]), &store), [Step::Remove(2)]);
        assert_eq!(plan(&group(&[(1, 1)], &[1]), &store), [Step::Record(node(2), None)]);
    }

    #[test]
    fn a_removed_nodes_member_goes() {
        let store = store(&[(1, Manager, Some(1))]);
        assert_eq!(plan(&group(&[(1, 1), (2, 2)], &[1, 2]), &store), [Step::Remove(2)]);
    }

    #[test]
    fn a_demoted_leader_hands_over() {
        let store = store(&[(1, Worker, Some(1)), (2, Manager, Some(2))]);
        assert_eq!(plan(&group(&[(1, 1), (2, 2)], &[1, 2]), &store), [Step::HandOver]);
    }

    #[test]
    fn the_last_voter_stays() {
        let store = store(&[(1, Worker, Some(1))]);
        assert_eq!(plan(&group(&[(1, 1)], &[1]), &store), []);
    }

    #[test]
    fn a_changed_address_is_recorded() {
        let store = store(&[(1, Manager, Some(1))]);
        let mut group = group(&[(1, 1)], &[1]);
        let addr = SocketAddr::from(([10, 0, 0, 9], 2377));
        group.members.insert(1, RaftMember { node_id: node(1), addr });
        assert_eq!(plan(&group, &store), [Step::Record(node(1), Some(ManagerMember { raft_id: 1, addr }))]);
    }

    /// Two managers of a new cluster, and the folder they live in.
    async fn two_managers() -> (manager::Manager, manager::Manager, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let root = folder.path().join("first");
        let spec = ClusterSpec::default();
        let directory = NodeIdentity::directory(&root);
        let founding = Founding::new(&directory, &clock, Entropy::from_system(), spec.node_cert_expiry).unwrap();
        let addr = free();
        let options = ManagerOptions::new(root.join("cluster"), founding.identity, addr, addr);
        let bootstrap = BootstrapSpec { cluster: spec, root: founding.root, ..BootstrapSpec::default() };
        let first = manager::Manager::bootstrap(options, bootstrap).await.unwrap();
        let token = first.handle().join_info().await.unwrap().manager_token;
        let asked = JoinRequest {
            token: token.parse().unwrap(),
            remotes: vec![addr.to_string()],
            availability: Availability::Active,
            timeout: Duration::from_secs(5),
        };
        let issued = ca_client::join(&asked, &clock).await.unwrap();
        let root = folder.path().join("second");
        let identity = NodeIdentity::create(&NodeIdentity::directory(&root), clock, issued.material).unwrap();
        let own = free();
        let options = ManagerOptions::new(root.join("cluster"), Arc::new(identity), own, own);
        let second = manager::Manager::join(options, vec![addr.to_string()]).await.unwrap();
        second.handle().wait_voting().await.unwrap();
        (first, second, folder)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_whose_driver_is_gone_does_not_stay_half_done() {
        let (first, second, _folder) = two_managers().await;
        let inner = Arc::clone(&first.handle().inner);
        let raft = inner.raft.raft().unwrap();
        {
            let only = ChangeMembers::ReplaceAllVoters(BTreeSet::from([inner.raft.id()]));
            let changing = raft.change_membership(only, true);
            tokio::pin!(changing);
            // The first of its two entries is under way, the second one never will be.
            assert!(futures::poll!(&mut changing).is_pending());
        }
        let mut views = inner.raft.views();
        let done = views.wait_for(|view| {
            let voters: Vec<u64> = view.committed.membership().voter_ids().collect();
            !view.is_changing() && !view.is_joint() && voters == [inner.raft.id()]
        });
        tokio::time::timeout(Duration::from_secs(10), done).await.expect("it stayed half done").unwrap();
        second.shutdown().await;
        first.shutdown().await;
    }
}
