//! Volumes.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use shoal_engine::model::volume::VolumeCreate;

use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, json, json_status, no_content};

type Answer = Result<Response, ApiError>;

pub(super) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let filters = request.query.filters()?;
    json(&context.engine.volumes().list(&filters).await?)
}

pub(super) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let body: Value = request.json().await?;
    if body.get("ClusterVolumeSpec").is_some_and(|spec| !spec.is_null()) {
        return Err(ApiError::not_implemented("cluster volumes are not offered by Shoal (ClusterVolumeSpec)"));
    }
    let create: VolumeCreate =
        serde_json::from_value(body).map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    json_status(StatusCode::CREATED, &context.engine.volumes().create(create).await?)
}

pub(super) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    json(&context.engine.volumes().inspect(request.id()).await?)
}

pub(super) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    context.engine.volumes().remove(request.id(), request.query.flag("force")).await?;
    Ok(no_content())
}

pub(super) async fn prune(context: Arc<Context>, request: Request) -> Answer {
    let mut filters = request.query.filters()?;
    if !request.version.at_least(42) {
        // Clients of old mean those with a name as well.
        filters = filters.with("all", "true");
    }
    json(&context.engine.volumes().prune(&filters).await?)
}
