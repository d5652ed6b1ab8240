//! A manager as the rest of the daemon sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_manager_core::store::Store;
use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::error::Failure;
use shoal_proto::id::{NodeId, TaskId};
use shoal_proto::wire::{LogSubscription, MembersRequest};
use tokio::sync::watch;

use crate::inner::{Health, Inner};
use crate::log_relay::ServiceLogs;
use crate::manager::JOIN;
use crate::peers::Lane;
use crate::watch::Watch;

/// A member of the consensus group as users see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its raft id.
    pub raft_id: u64,
    /// Its node.
    pub node_id: NodeId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Does it lead?
    pub leader: bool,
    /// Did it answer lately?
    pub reachable: bool,
}

/// What one needs to let other nodes join.
#[derive(Debug, Clone)]
pub struct JoinInfo {
    /// Token that admits workers.
    pub worker_token: String,
    /// Token that admits managers.
    pub manager_token: String,
    /// The trust bundle, PEM.
    pub root_pem: String,
    /// Addresses of the managers.
    pub managers: Vec<SocketAddr>,
}

/// A manager to talk to. Cloning is cheap.
#[derive(Clone)]
pub struct ManagerHandle {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for ManagerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagerHandle").field("raft_id", &self.inner.raft.id()).finish_non_exhaustive()
    }
}

impl ManagerHandle {
    /// A snapshot that shows every write that was answered before this call.
    ///
    /// # Errors
    /// When no leader confirms what the newest state is.
    pub async fn read(&self) -> Result<Store, Failure> {
        self.inner.linearize().await?;
        Ok(self.inner.store())
    }

    /// The newest snapshot known here; it may lag behind.
    pub fn local(&self) -> Store {
        self.inner.store()
    }

    /// Carries a request out, on whichever manager leads.
    ///
    /// # Errors
    /// When it is refused, or there is no leader for some seconds.
    pub async fn control(&self, request: ControlRequest) -> Result<ControlResponse, Failure> {
        self.inner.control(request).await
    }

    /// Follows the store from a version on; 0 is from the beginning, or as far back as is remembered.
    pub fn watch(&self, from_version: u64) -> Watch {
        Watch::new(Arc::clone(self.inner.raft.cell()), from_version)
    }

    /// Changes whenever the store does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.raft.cell().subscribe()
    }

    /// Waits for the next change of the store.
    pub async fn changed(&self) {
        let _ = self.inner.raft.cell().subscribe().changed().await;
    }

    /// The members of the consensus group. Who is reachable is the leader's view; without a leader it is unknown, and
    /// only this manager counts as reachable.
    pub async fn members(&self) -> Vec<MemberStatus> {
        let inner = &self.inner;
        let mut members = inner.members_here();
        if inner.raft.leading().is_none()
            && let Some(mut leader) = inner.leader_client(Lane::Requests)
            && let Ok(Ok(answer)) =
                tokio::time::timeout(Duration::from_secs(2), leader.members(MembersRequest {})).await
        {
            members = answer.into_inner().members;
        }
        let parsed = members.into_iter().filter_map(|member| {
            Some(MemberStatus {
                raft_id: member.raft_id,
                node_id: member.node_id.parse().ok()?,
                addr: member.addr.parse().ok()?,
                leader: member.leader,
                reachable: member.reachable,
            })
        });
        parsed.collect()
    }

    /// The leader that this manager knows of.
    pub fn leader(&self) -> Option<MemberStatus> {
        let view = self.inner.raft.view();
        let raft_id = view.leader?;
        let member = view.member(raft_id)?;
        Some(MemberStatus { raft_id, node_id: member.node_id, addr: member.addr, leader: true, reachable: true })
    }

    /// Does this manager lead, and know all that was committed before?
    pub fn is_leader(&self) -> bool {
        self.inner.raft.leading().is_some()
    }

    /// This manager's raft id.
    pub fn raft_id(&self) -> u64 {
        self.inner.raft.id()
    }

    /// Waits until this manager has become or stopped being the leader, or the group has changed.
    pub async fn leadership_changed(&self) {
        let _ = self.inner.raft.views().changed().await;
    }

    /// Why this manager cannot take part now (a full disk, for one); `None` when it can.
    pub fn failure(&self) -> Option<String> {
        self.inner.raft.view().failure
    }

    /// Health of the leader's loops.
    pub fn health(&self) -> Health {
        self.inner.health.borrow().clone()
    }

    /// Number of agents that have their session here.
    pub fn session_count(&self) -> usize {
        self.inner.dispatcher.session_count()
    }

    /// Waits until this manager, which joined, has its vote.
    ///
    /// # Errors
    /// When that takes too long; it goes on nevertheless.
    pub async fn wait_voting(&self) -> Result<(), Failure> {
        let id = self.inner.raft.id();
        let mut views = self.inner.raft.views();
        match tokio::time::timeout(JOIN, views.wait_for(|view| view.is_settled_voter(id))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Failure::unavailable("this manager was stopped")),
            Err(_) => Err(Failure::unavailable(format!(
                "the cluster did not give this manager a vote within {} s: can the other managers reach {}?",
                JOIN.as_secs(),
                self.inner.options.advertise_addr
            ))),
        }
    }

    /// Leaves the consensus group for good. The caller then shuts the manager down and erases its files.
    ///
    /// # Errors
    /// When the rest would lose its majority and `force` is not given, or nobody confirms it.
    pub async fn leave(&self, force: bool) -> Result<(), Failure> {
        self.inner.leave(force).await
    }

    /// Hands the leadership to another manager.
    ///
    /// # Errors
    /// When no other manager answers.
    pub async fn step_down(&self) -> Result<(), Failure> {
        if self.is_leader() { self.inner.step_down().await } else { Ok(()) }
    }

    /// Tokens and addresses for nodes that are to join.
    ///
    /// # Errors
    /// When no leader confirms what the newest state is.
    pub async fn join_info(&self) -> Result<JoinInfo, Failure> {
        let store = self.read().await?;
        let cluster = store.cluster().ok_or_else(|| Failure::unavailable("the cluster is not made yet"))?;
        Ok(JoinInfo {
            worker_token: cluster.root_ca.worker_token.clone(),
            manager_token: cluster.root_ca.manager_token.clone(),
            root_pem: cluster.root_ca.certificate_pem.clone(),
            managers: self.inner.raft.view().members().into_values().map(|member| member.addr).collect(),
        })
    }

    /// Logs of tasks, wherever they run. `options` says what is wanted; its id and tasks are set here.
    pub fn service_logs(&self, tasks: &[TaskId], options: &LogSubscription) -> ServiceLogs {
        self.inner.service_logs(tasks, options)
    }
}
