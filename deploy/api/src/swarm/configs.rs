//! Configs.

use std::sync::Arc;

use http::StatusCode;
use shoal_proto::control::{ControlRequest, ControlResponse};

use super::access::{Cluster, unexpected};
use super::{convert, find, gate, model};
use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, empty, json, json_status, no_content};

type Answer = Result<Response, ApiError>;

pub(crate) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let filters = request.query.filters()?;
    filters.check(&["id", "label", "name", "names"])?;
    let cluster = Cluster::open(&context).await?;
    let configs = cluster.configs().filter(|config| {
        filters.matches_prefix("id", &config.id.to_string())
            && filters.matches_prefix("name", &config.spec.name)
            && filters.matches_exactly("names", &config.spec.name)
            && filters.matches_labels("label", &config.spec.labels)
    });
    json(&configs.map(|config| convert::config(config)).collect::<Vec<_>>())
}

pub(crate) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    json(&convert::config(find::config(&cluster, request.id())?))
}

pub(crate) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let mut body: model::PayloadSpec = request.json_without_nulls().await?;
    gate::payload(&mut body, request.version);
    match cluster.control(ControlRequest::CreateConfig(convert::config_spec(body)?)).await? {
        ControlResponse::Config(config) => {
            json_status(StatusCode::CREATED, &serde_json::json!({ "ID": config.id.to_string() }))
        }
        other => Err(unexpected(&other)),
    }
}

pub(crate) async fn update(context: Arc<Context>, mut request: Request) -> Answer {
    let version = request.query.version("config")?;
    let mut body: model::PayloadSpec = request.json_without_nulls().await?;
    gate::payload(&mut body, request.version);
    let cluster = Cluster::open(&context).await?;
    let config = find::config(&cluster, request.id())?;
    let given = convert::config_spec(body)?;
    let renamed = !given.name.is_empty() && given.name != config.spec.name;
    if renamed || (!given.data.is_empty() && given.data != config.spec.data) {
        return Err(ApiError::invalid("only updates to Labels are allowed"));
    }
    let (id, labels) = (config.id, given.labels);
    cluster.control(ControlRequest::UpdateConfig { id, version, labels }).await?;
    Ok(empty(StatusCode::OK))
}

pub(crate) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let id = find::config(&cluster, request.id())?.id;
    cluster.control(ControlRequest::RemoveConfig(id)).await?;
    Ok(no_content())
}
