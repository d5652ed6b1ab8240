//! Tasks.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_engine::model::Filters;
use shoal_manager_core::constraint;
use shoal_manager_core::store::Store;
use shoal_proto::id::{NodeId, ServiceId};
use shoal_proto::object::{Node, Service, Task};
use shoal_proto::task_state::TaskState;

use super::access::Cluster;
use super::{convert, find, model};
use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, json};

type Answer = Result<Response, ApiError>;

const FILTERS: &[&str] = &["_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"];

fn shown(store: &Store, task: &Task) -> model::Task {
    convert::task(task, |network| store.network(network).map(|network| &**network))
}

pub(crate) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    json(&shown(&cluster, find::task(&cluster, request.id())?))
}

pub(crate) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let filters = request.query.filters()?;
    let cluster = Cluster::open(&context).await?;
    let wanted = Wanted::new(&filters, &cluster, cluster.local_node())?;
    let tasks: Vec<_> = wanted.candidates(&cluster).filter(|task| wanted.includes(&cluster, task)).collect();
    json(&tasks.into_iter().map(|task| shown(&cluster, task)).collect::<Vec<_>>())
}

/// The filters with their names resolved.
struct Wanted<'a> {
    filters: &'a Filters,
    services: Option<BTreeSet<ServiceId>>,
    nodes: Option<BTreeSet<NodeId>>,
    states: Option<Vec<TaskState>>,
    up_to_date: Option<bool>,
}

impl<'a> Wanted<'a> {
    fn new(filters: &'a Filters, store: &Store, local: Option<NodeId>) -> Result<Self, ApiError> {
        filters.check(FILTERS)?;
        let services = filters
            .contains("service")
            // A set: a service may be named twice, by its name and by its id.
            .then(|| filters.get("service").map(|text| find::service(store, text).map(|service| service.id)).collect());
        let nodes = filters.contains("node").then(|| {
            let find = |text: &str| match (text, local) {
                ("self", Some(local)) => Ok(local),
                _ => find::node(store, text).map(|node| node.id),
            };
            filters.get("node").map(find).collect()
        });
        let states = filters.contains("desired-state").then(|| {
            let parse = |text: &str| {
                text.parse().map_err(|_| ApiError::invalid(format!("Invalid filter: 'desired-state={text}'")))
            };
            filters.get("desired-state").map(parse).collect()
        });
        Ok(Self {
            filters,
            services: services.transpose()?,
            nodes: nodes.transpose()?,
            states: states.transpose()?,
            up_to_date: filters.boolean("_up-to-date")?,
        })
    }

    /// The fewest tasks that an index can cut the question down to.
    fn candidates<'s>(&'s self, store: &'s Store) -> Box<dyn Iterator<Item = &'s Arc<Task>> + Send + 's> {
        match (&self.services, &self.nodes) {
            (Some(services), _) => Box::new(services.iter().flat_map(|id| store.tasks_of_service(*id))),
            (None, Some(nodes)) => Box::new(nodes.iter().flat_map(|id| store.tasks_of_node(*id))),
            (None, None) => Box::new(store.tasks()),
        }
    }

    fn includes(&self, store: &Store, task: &Task) -> bool {
        let service = store.service(task.service_id);
        self.nodes.as_ref().is_none_or(|nodes| task.node_id.is_some_and(|id| nodes.contains(&id)))
            && self.states.as_ref().is_none_or(|states| states.contains(&task.desired_state))
            && self.filters.matches_prefix("id", &task.id.to_string())
            && (!self.filters.contains("name") || self.filters.matches_prefix("name", &task.name()))
            && (!self.filters.contains("label")
                || service.is_some_and(|service| self.filters.matches_labels("label", &service.spec.labels)))
            && self.filters.matches_exactly("runtime", "container")
            // As in Swarm `false` means "no matter".
            && (self.up_to_date != Some(true) || service.is_some_and(|service| is_up_to_date(store, task, service)))
    }
}

/// Does the task run what its service wants now? The CLI's progress bars count only such tasks. As the orchestrators
/// see it: a change of placement alone does not count while the task's node satisfies it.
fn is_up_to_date(store: &Store, task: &Task, service: &Service) -> bool {
    if task.spec_version == service.spec_version {
        return true;
    }
    if task.endpoint_mode != service.spec.endpoint.mode || task.ports != service.endpoint.ports {
        return false;
    }
    let (old, new) = (&task.spec, &service.spec.task);
    if Arc::ptr_eq(old, new) {
        return true;
    }
    let same = old.container == new.container
        && old.resources == new.resources
        && old.restart == new.restart
        && old.networks == new.networks
        && old.log_driver == new.log_driver
        && old.force_update == new.force_update
        && old.runtime == new.runtime;
    let fits = |node: &Node| {
        let placement = &new.placement;
        constraint::all_match(&placement.constraints, node) && constraint::platform_fits(&placement.platforms, node)
    };
    same && (old.placement == new.placement
        || task.node_id.and_then(|id| store.node(id)).is_some_and(|node| fits(node)))
}

#[cfg(test)]
mod tests {
    use super::super::test_store::{self, NODE};
    use super::*;

    fn found(filters: &str) -> Result<Vec<u128>, ApiError> {
        let store = test_store::store();
        let filters = Filters::parse(filters).expect("filters");
        let wanted = Wanted::new(&filters, &store, Some(NODE))?;
        Ok(wanted.candidates(&store).filter(|task| wanted.includes(&store, task)).map(|task| task.id.bits()).collect())
    }

    #[test]
    fn the_filters_of_the_cli() {
        assert_eq!(found("{}").expect("tasks").len(), 3);
        assert_eq!(found(r#"{"service":{"web":true},"_up-to-date":{"true":true}}"#), Ok(vec![11, 12]));
        assert_eq!(found(r#"{"node":["self"],"desired-state":["running","accepted"]}"#), Ok(vec![11, 12]));
        let twice = format!(r#"{{"service":["web","{}"],"node":["self","one"]}}"#, test_store::SERVICE);
        assert_eq!(found(&twice).expect("tasks").len(), 3);
        assert_eq!(found(r#"{"node":["one"],"desired-state":["shutdown"]}"#), Ok(vec![10]));
        assert_eq!(found(r#"{"name":["web.2"]}"#), Ok(vec![12]));
        assert_eq!(found(r#"{"label":["tier=back"]}"#), Ok(vec![]));
        assert_eq!(found(r#"{"runtime":["container"],"id":["000000000000000000000000a"]}"#), Ok(vec![10]));
        assert_eq!(found(r#"{"runtime":["plugin"]}"#), Ok(vec![]));
    }

    #[test]
    fn a_change_of_placement_alone_outdates_only_tasks_that_no_longer_fit() {
        let store = test_store::store();
        let task = store.tasks().nth(1).expect("task");
        let mut service = (**store.service(task.service_id).expect("service")).clone();
        service.spec_version += 1;
        assert!(is_up_to_date(&store, task, &service));
        let wanting = |constraint: &str| {
            let mut service = service.clone();
            Arc::make_mut(&mut service.spec.task).placement.constraints = vec![constraint.to_owned()];
            service
        };
        assert!(is_up_to_date(&store, task, &wanting("node.hostname==one")));
        assert!(!is_up_to_date(&store, task, &wanting("node.hostname==two")));
        Arc::make_mut(&mut service.spec.task).force_update = 1;
        assert!(!is_up_to_date(&store, task, &service));
    }

    #[test]
    fn unknown_names_are_errors() {
        assert_eq!(found(r#"{"service":["nope"]}"#).expect_err("found").status(), 404);
        assert_eq!(found(r#"{"node":["nope"]}"#).expect_err("found").status(), 404);
        assert_eq!(found(r#"{"desired-state":["asleep"]}"#).expect_err("found").status(), 400);
        assert_eq!(found(r#"{"colour":["red"]}"#).expect_err("found").message(), "invalid filter 'colour'");
    }

    #[test]
    fn a_task_in_dockers_shape() {
        let store = test_store::store();
        let task = store.tasks().nth(1).expect("task");
        let shown = serde_json::to_value(shown(&store, task)).expect("json");
        assert_eq!(shown["Status"]["State"], "running");
        assert_eq!(shown["Status"]["PortStatus"], serde_json::json!({}));
        assert_eq!(shown["DesiredState"], "running");
        assert_eq!(shown["Slot"], 1);
        assert_eq!(shown["Version"]["Index"], 1);
        assert_eq!(shown["NetworksAttachments"][0]["Addresses"], serde_json::json!(["10.0.1.11/24"]));
        assert_eq!(shown["NetworksAttachments"][0]["Network"]["Spec"]["Name"], "net");
        assert_eq!(shown["Spec"]["ContainerSpec"]["Image"], "bb:2");
    }
}
