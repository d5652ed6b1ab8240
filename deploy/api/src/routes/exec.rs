//! Commands executed in containers.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use shoal_engine::container::{AttachStreams, OutputFrame, OutputKind};
use shoal_engine::model::{ExecCreate, ExecStart};
use shoal_proto::error::Failure;

use super::containers::terminal_size;
use crate::context::Context;
use crate::error::ApiError;
use crate::gate;
use crate::hijack;
use crate::request::Request;
use crate::response::{Response, empty, json, json_status};

type Answer = Result<Response, ApiError>;

pub(super) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let mut body: ExecCreate = request.json().await?;
    gate::exec_create(&mut body, request.version);
    if body.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(ApiError::invalid("No exec command specified"));
    }
    let id = context.engine.containers().exec_create(request.id(), body).await?;
    json_status(StatusCode::CREATED, &serde_json::json!({ "Id": id }))
}

pub(super) async fn start(context: Arc<Context>, mut request: Request) -> Answer {
    let mut body: ExecStart = request.json_or_default().await?;
    gate::exec_start(&mut body, request.version);
    let (attached, tty) = (!body.detach, body.tty);
    let started = context.engine.containers().exec_start(request.id(), body).await;
    // As in dockerd, the start says how its client reads the output, whatever the exec was created with.
    match started.map(|streams| streams.map(|streams| AttachStreams { tty, ..streams })) {
        Ok(Some(streams)) => Ok(hijack::respond(request.version, request.upgrade.take(), streams)),
        Ok(None) => Ok(empty(StatusCode::OK)),
        Err(failure) if attached && request.upgrade.is_some() => told_in_stream(&context, request, failure, tty).await,
        Err(failure) => Err(failure.into()),
    }
}

/// A client that takes the connection over shows no other answer. As dockerd does, an exec that was found but could not be
/// started says why in its output; its exit code is there to be inspected.
async fn told_in_stream(context: &Context, mut request: Request, failure: Failure, tty: bool) -> Answer {
    let Ok(exec) = context.engine.containers().exec_inspect(request.id()).await else { return Err(failure.into()) };
    if exec.exit_code.is_none() {
        return Err(failure.into());
    }
    let data = Bytes::from(format!("{}\r\n", failure.message));
    let frame = OutputFrame { output: OutputKind::Stdout, data };
    let output = futures::stream::iter([Ok(frame)]).boxed();
    let streams = AttachStreams { tty, output, input: None };
    Ok(hijack::respond(request.version, request.upgrade.take(), streams))
}

pub(super) async fn resize(context: Arc<Context>, request: Request) -> Answer {
    let (height, width) = terminal_size(&request)?;
    context.engine.containers().exec_resize(request.id(), height, width).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    json(&context.engine.containers().exec_inspect(request.id()).await?)
}
