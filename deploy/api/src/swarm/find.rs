//! Finding cluster objects as dockerd does: by full id, then by name, then by an unambiguous beginning of the id.

use std::sync::Arc;

use shoal_manager_core::store::Store;
use shoal_proto::error::Failure;
use shoal_proto::id::{ConfigId, NetworkId, SecretId};
use shoal_proto::object::{Config, Network, Node, Secret, Service, Task};

use super::convert::Resolve;
use crate::error::ApiError;

/// The one object among `all` whose id begins with the text.
fn by_prefix<'a, T: 'a>(
    what: &str,
    text: &str,
    all: impl Iterator<Item = &'a Arc<T>>,
    id: impl Fn(&T) -> String,
) -> Result<&'a Arc<T>, ApiError> {
    let mut found: Vec<_> =
        if text.is_empty() { Vec::new() } else { all.filter(|o| id(o).starts_with(text)).collect() };
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(ApiError::not_found(format!("{what} {text} not found"))),
        (_, more) => Err(ambiguous(what, text, more + 1)),
    }
}

fn ambiguous(what: &str, text: &str, matches: usize) -> ApiError {
    ApiError::invalid(format!("{what} {text} is ambiguous ({matches} matches found)"))
}

/// A service that is not being deleted.
pub(super) fn service<'a>(store: &'a Store, text: &str) -> Result<&'a Arc<Service>, ApiError> {
    let by_id = text.parse().ok().and_then(|id| store.service(id)).filter(|service| !service.pending_delete);
    if let Some(service) = by_id.or_else(|| store.service_by_name(text)) {
        return Ok(service);
    }
    by_prefix("service", text, store.services().filter(|service| !service.pending_delete), |s| s.id.to_string())
}

/// A node. Its name is the one its operator gave it, or its host name.
pub(super) fn node<'a>(store: &'a Store, text: &str) -> Result<&'a Arc<Node>, ApiError> {
    if let Some(node) = text.parse().ok().and_then(|id| store.node(id)) {
        return Ok(node);
    }
    let is_named = |node: &Node| {
        let hostname = node.description.as_ref().map_or("", |description| &description.hostname);
        !text.is_empty() && (node.spec.name == text || hostname == text)
    };
    let mut named: Vec<_> = store.nodes().filter(|node| is_named(node)).collect();
    match (named.pop(), named.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => by_prefix("node", text, store.nodes(), |node| node.id.to_string()),
        (_, more) => Err(ambiguous("node", text, more + 1)),
    }
}

/// A task.
pub(super) fn task<'a>(store: &'a Store, text: &str) -> Result<&'a Arc<Task>, ApiError> {
    if let Some(task) = text.parse().ok().and_then(|id| store.task(id)) {
        return Ok(task);
    }
    if let Some(task) = store.tasks().find(|task| task.name() == text) {
        return Ok(task);
    }
    by_prefix("task", text, store.tasks(), |task| task.id.to_string())
}

/// A secret.
pub(super) fn secret<'a>(store: &'a Store, text: &str) -> Result<&'a Arc<Secret>, ApiError> {
    let by_id = text.parse().ok().and_then(|id| store.secret(id));
    match by_id.or_else(|| store.secret_by_name(text)) {
        Some(secret) => Ok(secret),
        None => by_prefix("secret", text, store.secrets(), |secret| secret.id.to_string()),
    }
}

/// A config.
pub(super) fn config<'a>(store: &'a Store, text: &str) -> Result<&'a Arc<Config>, ApiError> {
    let by_id = text.parse().ok().and_then(|id| store.config(id));
    match by_id.or_else(|| store.config_by_name(text)) {
        Some(config) => Ok(config),
        None => by_prefix("config", text, store.configs(), |config| config.id.to_string()),
    }
}

/// A cluster network that is not being deleted.
pub(super) fn network<'a>(store: &'a Store, text: &str) -> Result<&'a Arc<Network>, ApiError> {
    let by_id = text.parse().ok().and_then(|id| store.network(id)).filter(|network| !network.pending_delete);
    match by_id.or_else(|| store.network_by_name(text)) {
        Some(network) => Ok(network),
        None => by_prefix("network", text, store.networks().filter(|n| !n.pending_delete), |n| n.id.to_string()),
    }
}

impl Resolve for Store {
    fn network(&self, target: &str) -> Result<NetworkId, ApiError> {
        network(self, target).map(|network| network.id)
    }

    fn secret(&self, id: &str, name: &str) -> Result<SecretId, ApiError> {
        let known = id.parse().ok().and_then(|id| Store::secret(self, id));
        let secret = known.ok_or_else(|| Failure::invalid(format!("secret not found: {id} ({name})")))?;
        check_name("secret", id, &secret.spec.name, name)?;
        Ok(secret.id)
    }

    fn config(&self, id: &str, name: &str) -> Result<ConfigId, ApiError> {
        let known = id.parse().ok().and_then(|id| Store::config(self, id));
        let config = known.ok_or_else(|| Failure::invalid(format!("config not found: {id} ({name})")))?;
        check_name("config", id, &config.spec.name, name)?;
        Ok(config.id)
    }
}

fn check_name(what: &str, id: &str, is: &str, given: &str) -> Result<(), ApiError> {
    if given.is_empty() || given == is {
        return Ok(());
    }
    Err(ApiError::invalid(format!("the {what} with id {id} is named {is:?}, not {given:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::test_store::{self, NETWORK, NODE, SECRET, SERVICE};
    use super::*;

    #[test]
    fn by_id_name_and_beginning_of_the_id() {
        let store = test_store::store();
        let id = SERVICE.to_string();
        for text in [id.as_str(), "web", &id[..25]] {
            assert_eq!(service(&store, text).expect(text).id, SERVICE);
        }
        assert_eq!(node(&store, "one").expect("host name").id, NODE);
        assert_eq!(network(&store, "net").expect("name").id, NETWORK);
        assert_eq!(task(&store, &format!("web.1.{}", "000000000000000000000000b")).expect("name").slot, 1);
        assert_eq!(secret(&store, "token").expect("name").id, SECRET);
    }

    #[test]
    fn nothing_and_too_much_are_told_apart() {
        let store = test_store::store();
        let missing = service(&store, "nope").expect_err("found");
        assert_eq!((missing.status().as_u16(), missing.message()), (404, "service nope not found"));
        let many = task(&store, "0000000000").expect_err("found");
        assert_eq!(many.message(), "task 0000000000 is ambiguous (3 matches found)");
        assert!(node(&store, "").is_err());
    }

    #[test]
    fn references_must_name_what_they_point_to() {
        let store = test_store::store();
        let id = SECRET.to_string();
        assert_eq!(Resolve::secret(&store, &id, "token"), Ok(SECRET));
        assert_eq!(Resolve::secret(&store, &id, "other").expect_err("found").status(), 400);
        assert_eq!(Resolve::secret(&store, "token", "token").expect_err("found").status(), 400);
        assert_eq!(Resolve::network(&store, "gone").expect_err("found").status(), 404);
    }
}
