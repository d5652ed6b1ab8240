//! Images.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use http::StatusCode;
use http_body_util::BodyStream;
use serde::Deserialize;
use serde_json::json as value;
use shoal_engine::container::ListOptions;
use shoal_engine::image::{ByteStream, ImageRemoveOptions, ImportRequest};
use shoal_engine::model::{ImageListOptions, ImageSummary, ProgressMessage};
use shoal_proto::error::{ErrorKind, Failure};

use crate::body::{RequestBody, cut_short};
use crate::context::Context;
use crate::error::ApiError;
use crate::gate;
use crate::request::Request;
use crate::response::{self, Response, empty, json};

type Answer = Result<Response, ApiError>;

pub(super) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let query = &request.query;
    let mut filters = query.filters()?;
    if let Some(reference) = query.non_empty("filter").filter(|_| !request.version.at_least(41)) {
        filters = filters.with("reference", reference);
    }
    let shared_size = query.flag("shared-size") && request.version.at_least(42);
    let options = ImageListOptions { all: query.flag("all"), filters, shared_size };
    let mut images = context.engine.images().list(&options)?;
    if request.version.at_least(51) {
        count_users(&context, &mut images).await?;
    }
    json(&gate::shown::images(images, request.version)?)
}

/// Fills in how many containers were made of each image.
pub(super) async fn count_users(context: &Context, images: &mut [ImageSummary]) -> Result<(), ApiError> {
    let containers = context.engine.containers().list(ListOptions { all: true, ..ListOptions::default() }).await?;
    let mut users: HashMap<&str, i64> = HashMap::new();
    for container in &containers {
        *users.entry(container.image_id.as_str()).or_default() += 1;
    }
    for image in images {
        image.containers = users.get(image.id.as_str()).copied().unwrap_or(0);
    }
    Ok(())
}

/// An image here is of one platform: what is asked for of another one is not there, as in dockerd. `key` is the parameter
/// that names platforms, each as a JSON document, and exists since version `1.since`.
fn check_platform(context: &Context, request: &Request, name: &str, key: &str, since: u32) -> Result<(), ApiError> {
    let wanted = if request.version.at_least(since) { request.query.all(key) } else { Vec::new() };
    for text in wanted.iter().filter(|text| !text.is_empty()) {
        let wanted: Platform = serde_json::from_str(text)
            .map_err(|error| ApiError::invalid(format!("failed to parse platform: {error}")))?;
        let image = context.engine.images().inspect(name)?;
        if !wanted.fits(&image.os, &image.architecture) {
            return Err(ApiError::not_found(format!(
                "image with reference {name} was found but does not match the specified platform: wanted {}/{}, \
                 actual: {}/{}",
                wanted.os, wanted.architecture, image.os, image.architecture
            )));
        }
    }
    Ok(())
}

/// A platform; what is empty may be anything.
#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Platform {
    /// Reads `os[/architecture[/variant]]`, or an architecture alone, by the names that containerd knows.
    fn of(text: &str) -> Self {
        let architecture = |name: &str| match name {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "i386" => "386".to_owned(),
            other => other.to_owned(),
        };
        let mut parts = text.split('/');
        match (parts.next().unwrap_or_default(), parts.next()) {
            (os, Some(name)) => Self { os: os.to_owned(), architecture: architecture(name) },
            (os @ ("" | "linux" | "windows" | "darwin" | "freebsd"), None) => {
                Self { os: os.to_owned(), architecture: String::new() }
            }
            (name, None) => Self { os: String::new(), architecture: architecture(name) },
        }
    }

    fn fits(&self, os: &str, architecture: &str) -> bool {
        let fits = |wanted: &str, actual: &str| wanted.is_empty() || actual.is_empty() || wanted == actual;
        fits(&self.os, os) && fits(&self.architecture, architecture)
    }
}

pub(super) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    check_platform(&context, &request, request.id(), "platform", 49)?;
    json(&gate::shown::image(&context.engine.images().inspect(request.id())?, request.version)?)
}

pub(super) async fn history(context: Arc<Context>, request: Request) -> Answer {
    check_platform(&context, &request, request.id(), "platform", 48)?;
    json(&context.engine.images().history(request.id())?)
}

pub(super) async fn tag(context: Arc<Context>, request: Request) -> Answer {
    let query = &request.query;
    context.engine.images().tag(request.id(), query.text("repo"), query.text("tag")).await?;
    Ok(empty(StatusCode::CREATED))
}

pub(super) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    check_platform(&context, &request, request.id(), "platforms", 50)?;
    let options = ImageRemoveOptions { force: request.query.flag("force"), no_prune: request.query.flag("noprune") };
    json(&context.engine.images().remove(request.id(), options).await?)
}

pub(super) async fn prune(context: Arc<Context>, request: Request) -> Answer {
    json(&context.engine.images().prune(&request.query.filters()?).await?)
}

/// `import` when there is `fromSrc`, else `pull`.
pub(super) async fn create(context: Arc<Context>, request: Request) -> Answer {
    if request.query.non_empty("fromImage").is_some() {
        return pull(&context, &request);
    }
    match request.query.text("fromSrc") {
        "-" => import(&context, request).await,
        "" => Err(ApiError::invalid("neither fromImage nor fromSrc was given")),
        _ => Err(ApiError::not_implemented(
            "import from a URL is not available: download the archive and import it from standard input (`-`)",
        )),
    }
}

async fn import(context: &Context, request: Request) -> Answer {
    let query = &request.query;
    let import = ImportRequest {
        repository: query.text("repo").to_owned(),
        tag: query.text("tag").to_owned(),
        changes: query.all("changes"),
        message: query.text("message").to_owned(),
        platform: query.text("platform").to_owned(),
    };
    let id = context.engine.images().import(byte_stream(request.body), import).await?;
    let done = ProgressMessage::status(id.to_string());
    Ok(progress(futures::stream::iter([done])))
}

/// A pull of what is here is done; of what is not, it fails with what to do instead.
fn pull(context: &Context, request: &Request) -> Answer {
    let query = &request.query;
    let name = match query.text("tag") {
        "" => query.text("fromImage").to_owned(),
        digest if digest.contains(':') => format!("{}@{digest}", query.text("fromImage")),
        tag => format!("{}:{tag}", query.text("fromImage")),
    };
    let missing = || {
        ApiError::not_implemented(format!(
            "pull is not available yet: import or load the image {name} (`docker load`, `docker import`)"
        ))
    };
    // Of another platform it is another image, which is not here.
    let wanted = Platform::of(if request.version.at_least(32) { query.text("platform") } else { "" });
    if context.engine.images().resolve(&name).is_ok_and(|image| !wanted.fits(&image.os, &image.architecture)) {
        return Err(missing());
    }
    match context.engine.images().pull_present(&name) {
        Ok(messages) => Ok(progress(futures::stream::iter(messages))),
        Err(failure) if failure.kind == ErrorKind::NotFound => Err(missing()),
        Err(failure) => Err(failure.into()),
    }
}

pub(super) async fn load(context: Arc<Context>, request: Request) -> Answer {
    if request.version.at_least(48) && request.query.non_empty("platform").is_some() {
        return Err(ApiError::not_implemented("an archive is loaded as it is: leave the platform out"));
    }
    let quiet = request.query.flag_or("quiet", true);
    Ok(progress(context.engine.images().load(byte_stream(request.body), quiet)))
}

pub(super) async fn save_one(context: Arc<Context>, request: Request) -> Answer {
    save(&context, &request, &[request.id().to_owned()])
}

pub(super) async fn save_many(context: Arc<Context>, request: Request) -> Answer {
    let names = request.query.all("names");
    if names.is_empty() {
        return Err(ApiError::invalid("no image was given: the parameter names is missing"));
    }
    save(&context, &request, &names)
}

fn save(context: &Context, request: &Request, names: &[String]) -> Answer {
    for name in names {
        check_platform(context, request, name, "platform", 48)?;
    }
    let archive = context.engine.images().save(names)?;
    let wrong = |error: io::Error| Failure::internal(&error);
    Ok(response::stream("application/x-tar", archive.map_err(wrong)))
}

/// What `service create` asks a registry for. An image that is here is answered for without a digest: then the CLI
/// leaves the reference as it is, and does not warn. For others it gets an error, warns, and leaves it as it is, too.
pub(super) async fn distribution(context: Arc<Context>, request: Request) -> Answer {
    context.engine.images().resolve(request.id())?;
    let descriptor = value!({ "mediaType": "", "digest": "", "size": 0 });
    json(&value!({ "Descriptor": descriptor, "Platforms": [] }))
}

pub(super) fn byte_stream(body: RequestBody) -> ByteStream {
    let pieces = BodyStream::new(body).filter_map(|frame| async move {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut_short(&error)))),
        }
    });
    Box::pin(pieces)
}

/// Progress as the CLI reads it: one JSON document a line.
fn progress(messages: impl Stream<Item = ProgressMessage> + Send + 'static) -> Response {
    let lines = messages.map(|message| -> Result<Bytes, Failure> {
        let text = serde_json::to_vec(&message).map_err(|error| Failure::internal(&error))?;
        let mut line = BytesMut::from(text.as_slice());
        line.put_slice(b"\r\n");
        Ok(line.freeze())
    });
    response::stream("application/json", lines)
}
