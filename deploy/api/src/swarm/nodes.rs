//! Nodes.

use std::sync::Arc;

use http::StatusCode;
use shoal_engine::model::Filters;
use shoal_proto::control::ControlRequest;
use shoal_proto::object::Node;

use super::access::Cluster;
use super::{convert, find, model};
use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, empty, json};

type Answer = Result<Response, ApiError>;

fn passes(node: &Node, filters: &Filters) -> bool {
    let hostname = node.description.as_ref().map_or("", |description| &description.hostname);
    let engine_labels = node.description.as_ref().map(|description| description.engine_labels.clone());
    let named = filters.matches_prefix("name", hostname)
        || (!node.spec.name.is_empty() && filters.matches_prefix("name", &node.spec.name));
    named
        && filters.matches_prefix("id", &node.id.to_string())
        && filters.matches_labels("node.label", &node.spec.labels)
        && filters.matches_labels("label", &engine_labels.unwrap_or_default())
        && matches_word(filters, "role", node.spec.role.as_str())
        // There is no admission of nodes one by one: who has a certificate is accepted.
        && matches_word(filters, "membership", "accepted")
}

/// One of a few words, in any case.
fn matches_word(filters: &Filters, name: &str, word: &str) -> bool {
    !filters.contains(name) || filters.get(name).any(|wanted| wanted.eq_ignore_ascii_case(word))
}

/// Refuses words that there are not, as dockerd does.
fn check_words(filters: &Filters) -> Result<(), ApiError> {
    for (name, known) in [("role", ["manager", "worker"]), ("membership", ["accepted", "pending"])] {
        let is_known = |text: &str| known.iter().any(|word| word.eq_ignore_ascii_case(text));
        if let Some(text) = filters.get(name).find(|text| !is_known(text)) {
            return Err(ApiError::invalid(format!("Invalid {name} filter: '{text}'")));
        }
    }
    Ok(())
}

pub(crate) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let filters = request.query.filters()?;
    filters.check(&["id", "label", "membership", "name", "node.label", "role"])?;
    check_words(&filters)?;
    let cluster = Cluster::open(&context).await?;
    let mut managers = cluster.managers().await;
    let nodes = cluster.nodes().filter(|node| passes(node, &filters));
    json(&nodes.map(|node| convert::node(node, managers.remove(&node.id))).collect::<Vec<_>>())
}

pub(crate) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let node = find::node(&cluster, request.id())?;
    json(&convert::node(node, cluster.managers().await.remove(&node.id)))
}

pub(crate) async fn update(context: Arc<Context>, mut request: Request) -> Answer {
    let version = request.query.version("node")?;
    let body: model::NodeSpec = request.json_without_nulls().await?;
    let spec = convert::node_spec(body)?;
    let cluster = Cluster::open(&context).await?;
    let id = find::node(&cluster, request.id())?.id;
    cluster.control(ControlRequest::UpdateNode { id, version, spec }).await?;
    Ok(empty(StatusCode::OK))
}

pub(crate) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let id = find::node(&cluster, request.id())?.id;
    cluster.control(ControlRequest::RemoveNode { id, force: request.query.flag("force") }).await?;
    Ok(empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_filters_are_checked() {
        let filters = |text: &str| Filters::parse(text).expect("filters");
        for good in [r#"{"role":["Manager","worker"]}"#, r#"{"membership":["pending"]}"#, "{}"] {
            check_words(&filters(good)).expect(good);
        }
        let refused = check_words(&filters(r#"{"role":["nonsense"]}"#)).expect_err("checked");
        assert_eq!((refused.status().as_u16(), refused.message()), (400, "Invalid role filter: 'nonsense'"));
        let refused = check_words(&filters(r#"{"membership":["x"]}"#)).expect_err("checked");
        assert_eq!(refused.message(), "Invalid membership filter: 'x'");
        assert!(matches_word(&filters(r#"{"role":["MANAGER"]}"#), "role", "manager"));
        assert!(!matches_word(&filters(r#"{"role":["worker"]}"#), "role", "manager"));
    }
}
