//! One request, put together step by step.

use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::connection::{Body, full};
use super::stream::Hijacked;
use super::{ApiError, Client, escape};

/// The API's `filters`: names with the values wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

impl Filters {
    /// Parses `name=value` flags.
    pub(crate) fn parse(flags: &[String]) -> anyhow::Result<Self> {
        let mut filters = Self::default();
        for flag in flags {
            let (name, value) = flag
                .split_once('=')
                .with_context(|| format!("invalid argument \"{flag}\": want name=value, as in --filter name=web"))?;
            filters.add(name.trim().to_lowercase(), value.trim());
        }
        Ok(filters)
    }

    /// Adds a value.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.entry(name.into()).or_default().insert(value.into(), true);
    }

    /// With one more value.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.add(name, value);
        self
    }

    /// Whether this name has any value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }
}

/// What a request carries.
pub(crate) enum Payload {
    /// Nothing.
    None,
    /// A JSON document.
    Json(Value),
    /// A tar, as it comes.
    Tar(Body),
}

impl Payload {
    pub(super) fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Json(_) => Some("application/json"),
            Self::Tar(_) => Some("application/x-tar"),
        }
    }

    pub(super) fn into_body(self) -> Body {
        match self {
            Self::None => full(Bytes::new()),
            Self::Json(value) => full(Bytes::from(value.to_string())),
            Self::Tar(body) => body,
        }
    }
}

/// A request to the API.
pub(crate) struct Request<'a> {
    client: &'a Client,
    method: http::Method,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(&'static str, String)>,
    payload: Payload,
}

impl<'a> Request<'a> {
    pub(super) fn new(client: &'a Client, method: http::Method, path: String) -> Self {
        Self { client, method, path, query: Vec::new(), headers: Vec::new(), payload: Payload::None }
    }

    /// Adds a query parameter.
    pub(crate) fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a query parameter that is `1` when true and absent otherwise.
    pub(crate) fn query_if(self, name: &str, value: bool) -> Self {
        if value { self.query(name, "1") } else { self }
    }

    /// Adds a query parameter when there is a value.
    pub(crate) fn query_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds filters.
    pub(crate) fn filters(self, filters: &Filters) -> Self {
        if filters.0.is_empty() { self } else { self.query("filters", filters.to_json()) }
    }

    /// Carries a JSON document.
    pub(crate) fn body(mut self, value: Value) -> Self {
        self.payload = Payload::Json(value);
        self
    }

    /// Carries a tar.
    pub(crate) fn tar(mut self, chunks: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Self {
        self.payload = Payload::Tar(StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync());
        self
    }

    /// Sends it and gives the answer when its status is not an error.
    pub(crate) async fn send(self) -> anyhow::Result<http::Response<Incoming>> {
        let version = self.client.version().await?;
        let query: Vec<String> =
            self.query.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let target = format!("/v{version}{}{mark}{}", self.path, query.join("&"));
        let response = self.client.connections.send(self.method, &target, &self.headers, self.payload).await?;
        let status = response.status().as_u16();
        if status < 400 {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|value| value.get("message")?.as_str().map(str::to_owned));
        let message = said.unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&body);
            if text.trim().is_empty() { format!("status {status} for {target}") } else { text.trim().to_owned() }
        });
        Err(ApiError { status, message }.into())
    }

    /// Sends it and gives the bytes of the answer.
    pub(crate) async fn bytes(self) -> anyhow::Result<Bytes> {
        let response = self.send().await?;
        Ok(response.into_body().collect().await.context("read the answer")?.to_bytes())
    }

    /// Sends it and gives the JSON of the answer; null when it is empty.
    pub(crate) async fn json(self) -> anyhow::Result<Value> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).context("the daemon's answer is not JSON")
    }

    /// Sends it and forgets the answer.
    pub(crate) async fn done(self) -> anyhow::Result<()> {
        self.bytes().await.map(drop)
    }

    /// Sends it and takes the connection over for a two-way stream.
    pub(crate) async fn hijack(mut self) -> anyhow::Result<Hijacked> {
        self.headers.push(("connection", "Upgrade".to_owned()));
        self.headers.push(("upgrade", "tcp".to_owned()));
        let response = self.send().await?;
        let upgraded = hyper::upgrade::on(response).await.context("unable to upgrade to tcp")?;
        Ok(Hijacked { stream: TokioIo::new(upgraded) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_maps_of_sets() {
        let flags = ["name=web".to_owned(), "name=db".to_owned(), "label=a=b".to_owned()];
        let filters = Filters::parse(&flags).unwrap();
        assert_eq!(filters.to_json(), r#"{"label":{"a=b":true},"name":{"db":true,"web":true}}"#);
        assert!(Filters::parse(&["name".to_owned()]).is_err());
    }
}
