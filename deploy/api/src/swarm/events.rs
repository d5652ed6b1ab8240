//! Events of the cluster: what changes in the store of this node's manager, told to whoever listens to the engine's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_manager::{ManagerHandle, Watched};
use shoal_manager_core::change::Object;
use shoal_manager_core::store::Event;
use shoal_proto::object::{Network, Node, Service};
use shoal_proto::spec::ServiceMode;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// How often it is looked whether this node has a manager, when nobody says that it may have one.
const LOOK_FOR_MANAGER: Duration = Duration::from_millis(500);

/// Follows the manager of this node, whenever it has one, until the service ends.
pub(crate) async fn follow(context: Arc<Context>, shutdown: CancellationToken) {
    let following = async {
        loop {
            if let Some(manager) = context.node.manager() {
                follow_manager(&context, &manager).await;
            }
            let _ = tokio::time::timeout(LOOK_FOR_MANAGER, context.membership_changed.notified()).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = following => {}
    }
}

/// Returns when the node no longer has this manager. Changes from before the start are not told again.
async fn follow_manager(context: &Context, manager: &ManagerHandle) {
    let mut watch = manager.watch(manager.local().version());
    let is_current = || context.node.manager().is_some_and(|current| current.raft_id() == manager.raft_id());
    while is_current() {
        // The pause bounds how long a manager that went away is listened to.
        match tokio::time::timeout(LOOK_FOR_MANAGER, watch.next()).await {
            Ok(Some((Watched::Events(changes), _))) => {
                for News { kind, action, id, attributes } in changes.iter().filter_map(news) {
                    context.engine.events().publish_scoped("swarm", kind, action, &id, attributes);
                }
            }
            // What was missed is gone, as with any slow listener.
            Ok(Some((Watched::Resync, _))) | Err(_) => {}
            Ok(None) => return,
        }
    }
}

type Attributes = BTreeMap<String, String>;

#[derive(Debug, PartialEq, Eq)]
struct News {
    kind: &'static str,
    action: &'static str,
    id: String,
    attributes: Attributes,
}

/// What there is to tell of a change; `None` for what only managers care about.
fn news(change: &Event) -> Option<News> {
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    match after.or(before)? {
        Object::Node(_) => {
            let pick = |object: &Object| if let Object::Node(node) = object { Some(Arc::clone(node)) } else { None };
            let (before, after) = (before.and_then(pick), after.and_then(pick));
            let id = before.as_ref().or(after.as_ref())?.id.to_string();
            told("node", id, before.as_deref(), after.as_deref(), |_| false, node_name, node_changes)
        }
        Object::Service(_) => {
            let pick = |object: &Object| if let Object::Service(s) = object { Some(Arc::clone(s)) } else { None };
            let (before, after) = (before.and_then(pick), after.and_then(pick));
            let id = before.as_ref().or(after.as_ref())?.id.to_string();
            let name = |service: &Service| service.spec.name.clone();
            told("service", id, before.as_deref(), after.as_deref(), |s| s.pending_delete, name, service_changes)
        }
        Object::Network(_) => {
            let pick = |object: &Object| if let Object::Network(n) = object { Some(Arc::clone(n)) } else { None };
            let (before, after) = (before.and_then(pick), after.and_then(pick));
            let id = before.as_ref().or(after.as_ref())?.id.to_string();
            let name = |network: &Network| network.spec.name.clone();
            let same = |before: &Network, after: &Network| (before.spec != after.spec).then(Attributes::new);
            told("network", id, before.as_deref(), after.as_deref(), |n| n.pending_delete, name, same)
        }
        Object::Secret(secret) => {
            let attributes = name_only(&secret.spec.name);
            Some(News { kind: "secret", action: action(change), id: secret.id.to_string(), attributes })
        }
        Object::Config(config) => {
            let attributes = name_only(&config.spec.name);
            Some(News { kind: "config", action: action(change), id: config.id.to_string(), attributes })
        }
        Object::Cluster(_) | Object::Task(_) | Object::Attachment(_) => None,
    }
}

fn action(change: &Event) -> &'static str {
    match (&change.before, &change.after) {
        (None, _) => "create",
        (_, None) => "remove",
        _ => "update",
    }
}

fn name_only(name: &str) -> Attributes {
    Attributes::from([("name".to_owned(), name.to_owned())])
}

/// An object that is being deleted is gone for users: its removal is told then, and only then.
fn told<T>(
    kind: &'static str,
    id: String,
    before: Option<&T>,
    after: Option<&T>,
    is_leaving: impl Fn(&T) -> bool,
    name: impl Fn(&T) -> String,
    changes: impl Fn(&T, &T) -> Option<Attributes>,
) -> Option<News> {
    let before = before.filter(|object| !is_leaving(object));
    let after = after.filter(|object| !is_leaving(object));
    let (action, mut attributes, object) = match (before, after) {
        (None, Some(after)) => ("create", Attributes::new(), after),
        (Some(before), None) => ("remove", Attributes::new(), before),
        (Some(before), Some(after)) => ("update", changes(before, after)?, after),
        (None, None) => return None,
    };
    attributes.insert("name".to_owned(), name(object));
    Some(News { kind, action, id, attributes })
}

fn node_name(node: &Node) -> String {
    node.description.as_ref().map(|description| description.hostname.clone()).unwrap_or_default()
}

fn differ(attributes: &mut Attributes, what: &str, old: impl ToString, new: impl ToString) {
    let (old, new) = (old.to_string(), new.to_string());
    if old != new {
        attributes.insert(format!("{what}.old"), old);
        attributes.insert(format!("{what}.new"), new);
    }
}

fn node_changes(before: &Node, after: &Node) -> Option<Attributes> {
    let mut attributes = Attributes::new();
    let (old, new) = (&before.spec, &after.spec);
    differ(&mut attributes, "availability", old.availability.as_str(), new.availability.as_str());
    differ(&mut attributes, "role", old.role.as_str(), new.role.as_str());
    differ(&mut attributes, "state", before.status.state.as_str(), after.status.state.as_str());
    (!attributes.is_empty() || old != new).then_some(attributes)
}

fn service_changes(before: &Service, after: &Service) -> Option<Attributes> {
    let mut attributes = Attributes::new();
    let (old, new) = (&before.spec, &after.spec);
    differ(&mut attributes, "image", &old.task.container.image, &new.task.container.image);
    if let (ServiceMode::Replicated { replicas: old }, ServiceMode::Replicated { replicas: new }) = (old.mode, new.mode)
    {
        differ(&mut attributes, "replicas", old, new);
    }
    let state = |service: &Service| service.update_status.as_ref().map_or("", |status| status.state.as_str());
    differ(&mut attributes, "updatestate", state(before), state(after));
    (!attributes.is_empty() || old != new).then_some(attributes)
}

#[cfg(test)]
mod tests {
    use shoal_proto::object::{Secret, UpdateState, UpdateStatus};
    use shoal_proto::spec::{Availability, ServiceSpec};

    use super::*;

    fn service(replicas: u64) -> Service {
        let spec = ServiceSpec {
            name: "web".to_owned(),
            mode: ServiceMode::Replicated { replicas },
            ..ServiceSpec::default()
        };
        Service { spec, ..Service::default() }
    }

    fn change(before: Option<Service>, after: Option<Service>) -> Event {
        let object = |service: Service| Object::Service(Arc::new(service));
        Event { version: 1, before: before.map(object), after: after.map(object) }
    }

    #[test]
    fn a_service_lives_in_three_events() {
        let made = news(&change(None, Some(service(1)))).expect("news");
        assert_eq!((made.kind, made.action, &*made.attributes["name"]), ("service", "create", "web"));
        let scaled = news(&change(Some(service(1)), Some(service(3)))).expect("news");
        assert_eq!((&*scaled.attributes["replicas.old"], &*scaled.attributes["replicas.new"]), ("1", "3"));
        let leaving = Service { pending_delete: true, ..service(3) };
        let removed = news(&change(Some(service(3)), Some(leaving.clone()))).expect("news");
        assert_eq!(removed.action, "remove");
        assert_eq!(news(&change(Some(leaving), None)), None);
    }

    #[test]
    fn progress_of_an_update_is_told_and_bookkeeping_is_not() {
        let status = |state, slots| Some(UpdateStatus { state, failed_slots: slots, ..UpdateStatus::default() });
        let at = |state, slots| Service { update_status: status(state, slots), ..service(1) };
        let done =
            news(&change(Some(at(UpdateState::Updating, 0)), Some(at(UpdateState::Completed, 0)))).expect("news");
        assert_eq!(done.attributes["updatestate.new"], "completed");
        assert_eq!(news(&change(Some(at(UpdateState::Updating, 0)), Some(at(UpdateState::Updating, 1)))), None);
    }

    #[test]
    fn nodes_tell_what_changed_and_secrets_only_that() {
        let node = Node::default();
        let mut drained = node.clone();
        drained.spec.availability = Availability::Drain;
        let object = |node: &Node| Some(Object::Node(Arc::new(node.clone())));
        let told = news(&Event { version: 1, before: object(&node), after: object(&drained) }).expect("news");
        assert_eq!((told.action, &*told.attributes["availability.new"]), ("update", "drain"));
        let secret = Object::Secret(Arc::new(Secret::default()));
        let gone = news(&Event { version: 1, before: Some(secret), after: None }).expect("news");
        assert_eq!((gone.kind, gone.action), ("secret", "remove"));
    }
}
