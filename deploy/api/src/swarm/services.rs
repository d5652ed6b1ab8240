//! Services.

use std::sync::Arc;

use http::StatusCode;
use shoal_engine::container::names;
use shoal_engine::model::Filters;
use shoal_manager_core::store::Store;
use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::object::{NodeState, Service, Task};
use shoal_proto::spec::ServiceMode;
use shoal_proto::task_state::TaskState;

use super::access::{Cluster, unexpected};
use super::{convert, find, gate, model};
use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, empty, json, json_status};

type Answer = Result<Response, ApiError>;

fn shown(store: &Store, service: &Service) -> model::Service {
    convert::service(service, |network| Some(store.network(network)?.allocation.as_ref()?.subnet.prefix_len()))
}

/// Does a task run, as far as anybody knows? What was running on a node that is gone is not counted: it has been, or is
/// being, replaced.
fn runs(store: &Store, task: &Task) -> bool {
    let node = task.node_id.and_then(|id| store.node(id));
    let gone = node.is_none_or(|node| matches!(node.status.state, NodeState::Down | NodeState::Disconnected));
    task.status.state == TaskState::Running && !gone
}

/// How many tasks run, and how many are wanted.
fn status(store: &Store, service: &Service) -> model::ServiceStatus {
    let mut status = model::ServiceStatus::default();
    let mut wanted_by_tasks = 0;
    for task in store.tasks_of_service(service.id) {
        if runs(store, task) {
            status.running_tasks += 1;
        }
        if task.desired_state <= TaskState::Running {
            wanted_by_tasks += 1;
        }
    }
    status.desired_tasks = match service.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::Global => wanted_by_tasks,
    };
    status
}

fn passes(service: &Service, filters: &Filters) -> bool {
    let mode = match service.spec.mode {
        ServiceMode::Replicated { .. } => "replicated",
        ServiceMode::Global => "global",
    };
    !service.pending_delete
        && filters.matches_prefix("id", &service.id.to_string())
        && filters.matches_prefix("name", &service.spec.name)
        && filters.matches_labels("label", &service.spec.labels)
        && filters.matches_exactly("mode", mode)
        && filters.matches_exactly("runtime", "container")
}

pub(crate) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let filters = request.query.filters()?;
    filters.check(&["id", "label", "mode", "name", "runtime"])?;
    let with_status = request.query.flag("status") && request.version.at_least(41);
    let cluster = Cluster::open(&context).await?;
    let services = cluster.services().filter(|service| passes(service, &filters)).map(|service| {
        let mut shown = shown(&cluster, service);
        shown.service_status = with_status.then(|| status(&cluster, service));
        shown
    });
    json(&services.collect::<Vec<_>>())
}

pub(crate) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let mut shown = shown(&cluster, find::service(&cluster, request.id())?);
    if request.query.flag("insertDefaults") {
        convert::insert_defaults(&mut shown.spec);
    }
    json(&shown)
}

async fn spec(request: &mut Request) -> Result<model::ServiceSpec, ApiError> {
    let mut spec: model::ServiceSpec = request.json_without_nulls().await?;
    gate::service_spec(&mut spec, request.version);
    Ok(spec)
}

/// As dockerd gives names to services without one.
fn free_name(context: &Context, store: &Store) -> String {
    let mut tries = 0;
    loop {
        let name = names::generate(&context.entropy, tries);
        if store.service_by_name(&name).is_none() {
            return name;
        }
        tries += 1;
    }
}

pub(crate) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let mut spec = spec(&mut request).await?;
    if spec.name.is_empty() {
        spec.name = free_name(&context, &cluster);
    }
    let spec = convert::service_spec(spec, &*cluster)?;
    match cluster.control(ControlRequest::CreateService(Box::new(spec))).await? {
        ControlResponse::Service(service, warnings) => {
            let warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
            let body = serde_json::json!({ "ID": service.id.to_string(), "Warnings": warnings });
            json_status(StatusCode::CREATED, &body)
        }
        other => Err(unexpected(&other)),
    }
}

pub(crate) async fn update(context: Arc<Context>, mut request: Request) -> Answer {
    let version = request.query.version("service")?;
    if !matches!(request.query.text("registryAuthFrom"), "" | "spec" | "previous-spec") {
        let given = request.query.text("registryAuthFrom");
        return Err(ApiError::invalid(format!("unsupported registryAuthFrom {given:?}: use spec or previous-spec")));
    }
    let cluster = Cluster::open(&context).await?;
    let id = find::service(&cluster, request.id())?.id;
    let change = match request.query.text("rollback") {
        "" | "none" => {
            let spec = spec(&mut request).await?;
            // Only a new service is given a name; a change has to say which one it is for.
            if spec.name.is_empty() {
                return Err(ApiError::invalid("meta: name must be provided"));
            }
            let spec = Box::new(convert::service_spec(spec, &*cluster)?);
            ControlRequest::UpdateService { id, version, spec }
        }
        "previous" => ControlRequest::RollbackService { id, version },
        other => return Err(ApiError::invalid(format!("unrecognized rollback option {other}"))),
    };
    match cluster.control(change).await? {
        ControlResponse::Service(_, warnings) => {
            let warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
            json(&serde_json::json!({ "Warnings": warnings }))
        }
        other => Err(unexpected(&other)),
    }
}

pub(crate) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let id = find::service(&cluster, request.id())?.id;
    cluster.control(ControlRequest::RemoveService(id)).await?;
    Ok(empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::super::test_store::{self, SERVICE};
    use super::*;

    #[test]
    fn status_counts_what_runs_and_what_is_wanted() {
        let store = test_store::store();
        let service = store.service(SERVICE).expect("service");
        let status = status(&store, service);
        assert_eq!((status.running_tasks, status.desired_tasks), (1, 2));
    }

    #[test]
    fn a_service_in_dockers_shape() {
        let store = test_store::store();
        let service = store.service(SERVICE).expect("service");
        let shown = serde_json::to_value(shown(&store, service)).expect("json");
        assert_eq!(shown["Endpoint"]["VirtualIPs"][0]["Addr"], "10.0.1.2/24");
        assert_eq!(shown["Endpoint"]["Spec"]["Mode"], "vip");
        assert_eq!(shown["Spec"]["Mode"]["Replicated"]["Replicas"], 2);
        assert_eq!(shown["CreatedAt"], "1970-01-01T00:00:01Z");
        assert!(shown.get("UpdateStatus").is_none() && shown.get("ServiceStatus").is_none());
    }

    #[test]
    fn filters_choose_services() {
        let store = test_store::store();
        let service = store.service(SERVICE).expect("service");
        let passes = |filters: &str| passes(service, &Filters::parse(filters).expect("filters"));
        assert!(passes(r#"{"name":["we"],"mode":["replicated"],"label":["tier"]}"#));
        assert!(!passes(r#"{"mode":["global"]}"#));
        assert!(!passes(r#"{"name":["eb"]}"#));
        assert!(passes(r#"{"runtime":["container","plugin"]}"#) && !passes(r#"{"runtime":["plugin"]}"#));
    }
}
