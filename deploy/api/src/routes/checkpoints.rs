//! Checkpoints of containers, experimental as with dockerd.

use std::sync::Arc;

use http::StatusCode;
use shoal_engine::checkpoint::CheckpointCreate;

use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, empty, json, no_content};

type Answer = Result<Response, ApiError>;

/// Fails unless the daemon was started with its experimental features.
fn is_offered(context: &Context) -> Result<(), ApiError> {
    match context.facts.load().experimental {
        true => Ok(()),
        false => Err(ApiError::not_implemented(
            "This experimental feature is disabled by default. Start the daemon in experimental mode (--experimental) to enable it.",
        )),
    }
}

pub(super) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    is_offered(&context)?;
    let asked: CheckpointCreate = request.json().await?;
    context.engine.containers().checkpoint(request.id(), &asked).await?;
    Ok(empty(StatusCode::CREATED))
}

pub(super) async fn list(context: Arc<Context>, request: Request) -> Answer {
    is_offered(&context)?;
    json(&context.engine.containers().checkpoints(request.id(), request.query.text("dir")).await?)
}

pub(super) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    is_offered(&context)?;
    let name = request.params.get(1).map_or("", String::as_str);
    context.engine.containers().remove_checkpoint(request.id(), name, request.query.text("dir")).await?;
    Ok(no_content())
}

/// Starts a container from one, when the request names one. False when it does not.
pub(super) async fn start_from(context: &Context, request: &Request) -> Result<bool, ApiError> {
    let Some(checkpoint) = request.query.non_empty("checkpoint") else { return Ok(false) };
    if !context.facts.load().experimental {
        return Err(ApiError::invalid("checkpoint is only supported in experimental mode"));
    }
    let folder = request.query.text("checkpoint-dir");
    context.engine.containers().start_from(request.id(), &checkpoint, folder).await?;
    Ok(true)
}
