//! Follows the store for all sessions of this manager: who has to be told what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_manager_core::change::{Object, ObjectKey};
use shoal_manager_core::dispatch::Hub;
use shoal_manager_core::store::Store;
use shoal_proto::assignment::AssignmentSet;
use shoal_proto::codec;
use shoal_proto::id::NodeId;
use shoal_proto::spec::NodeRole;
use shoal_proto::wire::SessionState;
use shoal_proto::wire::manager_message::Message;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;
use tonic::Status;

use crate::ca::service::{due_role, removed};
use crate::dispatcher::{Outbound, message};
use crate::inner::Inner;
use crate::raft::node::View;

/// Commands that may wait.
const QUEUE: usize = 4096;
/// The longest pause between two passes. It is as long as the pass before took: what changes quickly and for many goes
/// out in fewer messages, what changes in quiet times at once.
const GAP: Duration = Duration::from_millis(3);

/// What sessions ask of the hub.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send this session everything, and then what changes. Again for one that lost count.
    Attach { node: NodeId, session: u64, outbound: Outbound },
    /// The session is over.
    Detach { node: NodeId, session: u64 },
}

struct Attached {
    session: u64,
    outbound: Outbound,
    state: SessionState,
}

struct HubTask {
    inner: Arc<Inner>,
    hub: Hub,
    store: Store,
    attached: HashMap<NodeId, Attached>,
}

/// What all sessions are told alike.
struct Common {
    heartbeat_period_ms: u64,
    managers: Vec<String>,
    root_pem: String,
    certificate_expiry_ms: u64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Common {
    fn of(store: &Store, view: &View) -> Self {
        let managers = view.members().values().map(|member| member.addr.to_string()).collect();
        match store.cluster() {
            None => Self { heartbeat_period_ms: 1000, managers, root_pem: String::new(), certificate_expiry_ms: 0 },
            Some(cluster) => Self {
                heartbeat_period_ms: millis(cluster.spec.heartbeat_period),
                managers,
                root_pem: cluster.root_ca.certificate_pem.clone(),
                certificate_expiry_ms: millis(cluster.spec.node_cert_expiry),
            },
        }
    }

    fn state(&self, session: u64, role: NodeRole) -> SessionState {
        SessionState {
            session_id: format!("{session:x}"),
            heartbeat_period_ms: self.heartbeat_period_ms,
            managers: self.managers.clone(),
            desired_role: role.as_str().to_owned(),
            root_pem: self.root_pem.clone(),
            certificate_expiry_ms: self.certificate_expiry_ms,
        }
    }
}

/// The queue of a hub that is to be run.
pub(crate) fn queue() -> (mpsc::Sender<Command>, mpsc::Receiver<Command>) {
    mpsc::channel(QUEUE)
}

/// Runs until the manager stops.
pub(crate) async fn run(inner: Arc<Inner>, mut commands: mpsc::Receiver<Command>) {
    let mut states = inner.raft.cell().subscribe();
    let mut views = inner.raft.views();
    let stop = inner.stop.clone();
    let store = inner.store();
    let mut task = HubTask { inner, hub: Hub::new(store.clone()), store, attached: HashMap::new() };
    let mut last_members = views.borrow().members();
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            command = commands.recv() => match command {
                None => return,
                Some(command) => waiting.push(command),
            },
            changed = states.changed() => if changed.is_err() { return },
            changed = views.changed() => if changed.is_err() { return },
        }
        while waiting.len() < QUEUE
            && let Ok(command) = commands.try_recv()
        {
            waiting.push(command);
        }
        let began = Instant::now();
        states.borrow_and_update();
        let members = views.borrow_and_update().members();
        let members_changed = members != last_members;
        last_members = members;
        task.advance(members_changed);
        for command in waiting.drain(..) {
            task.obey(command);
        }
        let took = began.elapsed();
        if took < Duration::from_millis(1) {
            // Shorter than a timer can be.
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(took.min(GAP)).await;
        }
    }
}

impl HubTask {
    /// Goes on to the newest store: assignments first, then what sessions are told of the cluster.
    fn advance(&mut self, members_changed: bool) {
        let store = self.inner.store();
        let before = std::mem::replace(&mut self.store, store);
        if self.store.version() == before.version() && !members_changed {
            return;
        }
        for (node, set) in self.hub.advance(&self.store) {
            self.send_set(node, &set);
        }
        let events = self.store.changes_since(before.version());
        let mut everyone = members_changed || events.is_none();
        let mut nodes = Vec::new();
        for event in events.iter().flatten() {
            match (event.key(), &event.after) {
                (Some(ObjectKey::Cluster(_)), _) => everyone = true,
                (Some(ObjectKey::Node(id)), Some(Object::Node(_)) | None) => nodes.push(id),
                _ => {}
            }
        }
        if everyone {
            nodes = self.attached.keys().copied().collect();
        }
        if nodes.is_empty() {
            return;
        }
        let common = Common::of(&self.store, &self.inner.raft.view());
        for node in nodes {
            self.refresh(node, &common);
        }
    }

    /// Tells one session what changed for it; ends it when its node is gone.
    fn refresh(&mut self, node: NodeId, common: &Common) {
        let Some(attached) = self.attached.get_mut(&node) else { return };
        let Some(record) = self.store.node(node) else {
            self.close(node, removed());
            return;
        };
        let state = common.state(attached.session, due_role(record));
        if state != attached.state {
            attached.state = state.clone();
            self.send(node, Message::Session(state));
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Detach { node, session } => {
                if self.attached.get(&node).is_some_and(|attached| attached.session == session) {
                    self.attached.remove(&node);
                    self.hub.detach(node);
                }
            }
            Command::Attach { node, session, outbound } => {
                // Sessions open before they attach: one that was replaced meanwhile must not push out its successor.
                let current = self.inner.dispatcher.session(node).map(|live| live.id);
                if current != Some(session) {
                    return;
                }
                let Some(role) = self.store.node(node).map(|record| due_role(record)) else {
                    // Whoever opened the session found the node in a newer state than the one at hand here. It must not be
                    // told that it was removed: it would end what it runs.
                    self.close(node, Status::unavailable("this manager has not caught up yet"));
                    return;
                };
                let state = Common::of(&self.store, &self.inner.raft.view()).state(session, role);
                self.attached.insert(node, Attached { session, outbound, state: state.clone() });
                self.send(node, Message::Session(state));
                let set = self.hub.attach(node);
                self.send_set(node, &set);
            }
        }
    }

    fn send_set(&mut self, node: NodeId, set: &AssignmentSet) {
        self.send(node, Message::Assignments(codec::encode(set).into()));
    }

    fn send(&mut self, node: NodeId, content: Message) {
        let Some(attached) = self.attached.get(&node) else { return };
        match attached.outbound.try_send(Ok(message(content))) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => {
                self.attached.remove(&node);
                self.hub.detach(node);
            }
            Err(TrySendError::Full(_)) => {
                self.close(node, Status::resource_exhausted("the agent does not keep up: it has to begin anew"));
            }
        }
    }

    fn close(&mut self, node: NodeId, status: Status) {
        if let Some(live) = self.inner.dispatcher.session(node) {
            live.close(status);
        }
        if self.attached.remove(&node).is_some() {
            self.hub.detach(node);
        }
    }
}
