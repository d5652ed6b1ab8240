//! Responses and their bodies.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use serde::Serialize;
use shoal_proto::error::Failure;

use crate::error::ApiError;

/// Body of a response. A stream that fails ends the connection, so that the client sees a cut and not an end.
pub(crate) type Body = UnsyncBoxBody<Bytes, Failure>;

/// A response.
pub(crate) type Response = http::Response<Body>;

fn never(impossible: Infallible) -> Failure {
    match impossible {}
}

/// No body.
pub(crate) fn empty_body() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// These bytes as body.
pub(crate) fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// A response with this status and no body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = http::Response::new(empty_body());
    *response.status_mut() = status;
    response
}

/// `204 No Content`.
pub(crate) fn no_content() -> Response {
    empty(StatusCode::NO_CONTENT)
}

/// JSON with status 200.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<Response, ApiError> {
    json_status(StatusCode::OK, value)
}

/// JSON with this status. A line feed ends it, as with Go's encoder.
pub(crate) fn json_status<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, ApiError> {
    let mut text = serde_json::to_vec(value).map_err(|error| Failure::internal(&error))?;
    text.push(b'\n');
    let mut response = http::Response::new(full_body(text));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, "application/json");
    Ok(response)
}

/// Plain text.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(full_body(body));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

/// A body that is made while it is sent.
pub(crate) fn stream<S>(content_type: &'static str, pieces: S) -> Response
where
    S: Stream<Item = Result<Bytes, Failure>> + Send + 'static,
{
    let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data)));
    let mut response = http::Response::new(BodyExt::boxed_unsync(body));
    set(&mut response, header::CONTENT_TYPE, content_type);
    response
}

/// `{"message": …}` with the error's status. A 304 has no body.
pub(crate) fn error(error: &ApiError) -> Response {
    if error.status() == StatusCode::NOT_MODIFIED {
        return empty(error.status());
    }
    let body = serde_json::json!({ "message": error.message() });
    json_status(error.status(), &body).unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR))
}

/// Sets a header to a value known to be valid.
pub(crate) fn set(response: &mut Response, name: header::HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}
