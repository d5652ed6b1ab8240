//! Containers: answers that go on while something happens.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use shoal_engine::container::{AttachOptions, LogOptions, WaitCondition};
use shoal_proto::error::Failure;

use crate::context::Context;
use crate::error::ApiError;
use crate::hijack::{self, channel, content_type};
use crate::query::Query;
use crate::request::Request;
use crate::response::{self, Response, json};
use crate::stdcopy::{self, Channel};
use crate::websocket;

type Answer = Result<Response, ApiError>;

/// Answers at once, so that the client knows that the wait has begun; the body comes with the end.
pub(super) async fn wait(context: Arc<Context>, request: Request) -> Answer {
    let condition = match request.version.at_least(30) {
        true => WaitCondition::parse(request.query.text("condition"))?,
        false => WaitCondition::NotRunning,
    };
    let waiting = context.engine.containers().begin_wait(request.id(), condition)?;
    if !request.version.at_least(30) {
        return json(&waiting.await);
    }
    let body = futures::stream::once(async move { json_line(&waiting.await) });
    Ok(response::stream("application/json", body))
}

/// One JSON document and a line feed.
pub(super) fn json_line<T: serde::Serialize>(value: &T) -> Result<Bytes, Failure> {
    let mut text = serde_json::to_vec(value).map_err(|error| Failure::internal(&error))?;
    text.push(b'\n');
    Ok(Bytes::from(text))
}

pub(super) async fn stats(context: Arc<Context>, request: Request) -> Answer {
    let containers = context.engine.containers();
    let one_shot = request.query.flag("one-shot") && request.version.at_least(41);
    if !request.query.flag_or("stream", true) {
        return json(&containers.stats(request.id(), one_shot).await?);
    }
    if one_shot {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    let samples = containers.stats_stream(request.id()).await?;
    Ok(response::stream("application/json", samples.map(|sample| json_line(&sample))))
}

/// The options that logs of containers, services and tasks share.
pub(crate) fn log_options(query: &Query) -> Result<LogOptions, ApiError> {
    let options = LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: query.instant("since")?,
        until: query.instant("until")?,
        tail: match query.text("tail") {
            "" | "all" => None,
            // As dockerd: what is not a number means all.
            number => number.parse().ok(),
        },
    };
    if !options.stdout && !options.stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    Ok(options)
}

pub(super) async fn logs(context: Arc<Context>, request: Request) -> Answer {
    let options = log_options(&request.query)?;
    let (timestamps, details) = (request.query.flag("timestamps"), request.query.flag("details"));
    let containers = context.engine.containers();
    let tty = containers.inspect(request.id(), false).await?.config.tty;
    let lines = containers.logs(request.id(), options).await?;
    let body = lines.map(move |line| match line {
        Ok(line) => Ok(stdcopy::frame_if(!tty, channel(line.output), line.render(timestamps, details))),
        // The status is sent: the failure can only be told in the stream.
        Err(failure) => Ok(stdcopy::frame_if(!tty, Channel::SystemError, hijack::error_line(&failure))),
    });
    Ok(response::stream(content_type(request.version, tty), body))
}

fn attach_options(query: &Query) -> AttachOptions {
    AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        detach_keys: query.text("detachKeys").to_owned(),
    }
}

pub(super) async fn attach_websocket(context: Arc<Context>, mut request: Request) -> Answer {
    let mut options = attach_options(&request.query);
    if !request.version.at_least(42) {
        // Clients of old get all of them.
        (options.stdin, options.stdout, options.stderr) = (true, true, true);
    }
    let streams = context.engine.containers().attach(request.id(), options).await?;
    // Clients of old get text, whatever it is.
    let kind = if request.version.at_least(28) { websocket::BINARY } else { websocket::TEXT };
    websocket::respond(&request.headers, request.upgrade.take(), streams, kind)
}

pub(super) async fn attach(context: Arc<Context>, mut request: Request) -> Answer {
    let options = attach_options(&request.query);
    let streams = context.engine.containers().attach(request.id(), options).await?;
    Ok(hijack::respond(request.version, request.upgrade.take(), streams))
}
