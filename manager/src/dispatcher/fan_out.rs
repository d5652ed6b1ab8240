//! From the store to the agents: after each change, differences for the sessions that are concerned.

use std::time::Duration;

use shoal_proto::codec;
use shoal_proto::wire::ManagerMessage;
use shoal_proto::wire::manager_message::Message as ToAgent;

use super::session::{common_state, removal_notice, state_for};
use super::{Dispatcher, Table};

/// Under load, changes within this time travel together.
const GAP: Duration = Duration::from_millis(2);

/// Runs until the dispatcher stops.
pub(super) async fn run(dispatcher: Dispatcher) {
    let mut changes = dispatcher.inner.options.cell.subscribe();
    let stop = dispatcher.inner.stop.clone();
    loop {
        changes.borrow_and_update();
        dispatcher.advance();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = async {
                tokio::time::sleep(GAP).await;
                changes.changed().await
            } => if changed.is_err() { return },
        }
    }
}

impl Dispatcher {
    fn advance(&self) {
        let store = self.inner.options.cell.store();
        let mut table = self.table();
        if table.hub.version() == store.version() {
            return;
        }
        for (node, set) in table.hub.advance(&store) {
            if let Some(session) = table.sessions.get_mut(&node) {
                session.send(ManagerMessage { message: Some(ToAgent::Assignments(codec::encode(&set).into())) });
            }
        }
        let common = common_state(&store);
        let Table { hub, sessions, common: told } = &mut *table;
        let all = *told != common;
        *told = common;
        sessions.retain(|node, session| {
            let Some(known) = store.node(*node) else {
                if let Some(sender) = session.sender.take() {
                    // A full queue holds the end of the stream just as well.
                    let _ = sender.try_send(Err(removal_notice(*node)));
                }
                session.stop.cancel();
                hub.detach(*node);
                return false;
            };
            if all || session.role != known.spec.role {
                session.role = known.spec.role;
                let state = state_for(told, session.role, session.id);
                session.send(ManagerMessage { message: Some(ToAgent::Session(state)) });
            }
            true
        });
    }
}
