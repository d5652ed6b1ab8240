//! Commands executed in containers.

use std::sync::Arc;

use http::StatusCode;
use shoal_engine::model::{ExecCreate, ExecStart};

use super::containers::terminal_size;
use crate::context::Context;
use crate::error::ApiError;
use crate::hijack;
use crate::request::Request;
use crate::response::{Response, empty, json, json_status};

type Answer = Result<Response, ApiError>;

pub(super) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let body: ExecCreate = request.json().await?;
    if body.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(ApiError::invalid("No exec command specified"));
    }
    let id = context.engine.containers().exec_create(request.id(), body).await?;
    json_status(StatusCode::CREATED, &serde_json::json!({ "Id": id }))
}

pub(super) async fn start(context: Arc<Context>, mut request: Request) -> Answer {
    let body: ExecStart = request.json_or_default().await?;
    match context.engine.containers().exec_start(request.id(), body).await? {
        Some(streams) => Ok(hijack::respond(request.version, request.upgrade.take(), streams)),
        None => Ok(empty(StatusCode::OK)),
    }
}

pub(super) async fn resize(context: Arc<Context>, request: Request) -> Answer {
    let (height, width) = terminal_size(&request)?;
    context.engine.containers().exec_resize(request.id(), height, width).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    json(&context.engine.containers().exec_inspect(request.id()).await?)
}
