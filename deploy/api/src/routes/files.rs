//! Containers: their files, as archives and as images.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use http::{HeaderName, HeaderValue, StatusCode};
use shoal_engine::container::{CommitRequest, ExtractOptions, PathStat};
use shoal_engine::model::ContainerConfig;
use shoal_proto::error::Failure;

use super::images::byte_stream;
use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{self, Response, empty, json, json_status};

type Answer = Result<Response, ApiError>;

/// What is known about the path, as base64 of JSON.
const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

fn with_stat(mut response: Response, stat: &PathStat) -> Answer {
    let text = serde_json::to_vec(stat).map_err(|error| Failure::internal(&error))?;
    let value = HeaderValue::try_from(STANDARD.encode(text)).map_err(|error| Failure::internal(&error))?;
    response.headers_mut().insert(PATH_STAT, value);
    Ok(response)
}

pub(super) async fn stat(context: Arc<Context>, request: Request) -> Answer {
    let stat = context.engine.containers().path_stat(request.id(), request.query.text("path")).await?;
    with_stat(empty(StatusCode::OK), &stat)
}

fn tar(content_type: &'static str, archive: shoal_engine::image::ByteStream) -> Response {
    response::stream(content_type, archive.map_err(|error| Failure::internal(&error)))
}

pub(super) async fn archive(context: Arc<Context>, request: Request) -> Answer {
    let (stat, archive) = context.engine.containers().archive(request.id(), request.query.text("path")).await?;
    with_stat(tar("application/x-tar", archive), &stat)
}

pub(super) async fn extract(context: Arc<Context>, request: Request) -> Answer {
    let query = &request.query;
    let options = ExtractOptions {
        no_overwrite_dir_non_dir: query.flag("noOverwriteDirNonDir"),
        copy_uid_gid: query.flag("copyUIDGID"),
    };
    let (id, path) = (request.id().to_owned(), query.text("path").to_owned());
    context.engine.containers().extract(&id, &path, options, byte_stream(request.body)).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn export(context: Arc<Context>, request: Request) -> Answer {
    Ok(tar("application/octet-stream", context.engine.containers().export(request.id()).await?))
}

/// `null` when nothing changed.
pub(super) async fn changes(context: Arc<Context>, request: Request) -> Answer {
    let changes = context.engine.containers().changes(request.id()).await?;
    json(&(!changes.is_empty()).then_some(changes))
}

pub(super) async fn commit(context: Arc<Context>, mut request: Request) -> Answer {
    let config: Option<ContainerConfig> = request.json_or_default().await?;
    let query = &request.query;
    let container = query.text("container");
    if container.is_empty() {
        return Err(ApiError::invalid("invalid name or ID supplied: \"\""));
    }
    let commit = CommitRequest {
        repository: query.text("repo").to_owned(),
        tag: query.text("tag").to_owned(),
        author: query.text("author").to_owned(),
        comment: query.text("comment").to_owned(),
        // As dockerd: an empty value is none.
        pause: query.non_empty("pause").is_none() || query.flag("pause"),
        changes: query.all("changes"),
        config,
    };
    let id = context.engine.containers().commit(container, commit).await?;
    json_status(StatusCode::CREATED, &serde_json::json!({ "Id": id.to_string() }))
}
