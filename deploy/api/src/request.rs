//! A request on its way to a handler.

use http::HeaderMap;
use hyper::upgrade::OnUpgrade;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::body::RequestBody;
use crate::error::ApiError;
use crate::fold::Folded;
use crate::query::Query;
use crate::version::ApiVersion;

/// JSON bodies are cut off here. The largest legitimate one is a config of 1000 KiB in base64.
pub(crate) const JSON_LIMIT_BYTES: usize = 4 << 20;

/// A request that found its route.
pub(crate) struct Request {
    /// Values of the route's parameters, in order, percent-decoded.
    pub params: Vec<String>,
    /// The query.
    pub query: Query,
    /// The header.
    pub headers: HeaderMap,
    /// The version that the client speaks.
    pub version: ApiVersion,
    /// The body; taken by whoever reads it.
    pub body: RequestBody,
    /// The connection itself, when the client asked to take it over.
    pub upgrade: Option<OnUpgrade>,
}

impl Request {
    /// The route's first parameter.
    pub(crate) fn id(&self) -> &str {
        self.params.first().map_or("", String::as_str)
    }

    /// A header's text, or the empty one.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Reads a JSON body, whose members may be spelt in any case: Go's clients send the one, Docker's reference has another,
    /// and docker-py a third.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        self.check_content_type()?;
        let body = self.body.read(JSON_LIMIT_BYTES).await?;
        decode_json(&body)
    }

    /// The same, where members that are `null` mean "absent".
    pub(crate) async fn json_without_nulls<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let mut value: Value = self.json().await?;
        strip_nulls(&mut value);
        decode_value(value)
    }

    /// Reads a JSON body that may be missing altogether.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, ApiError> {
        let body = self.body.read(JSON_LIMIT_BYTES).await?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(T::default());
        }
        self.check_content_type()?;
        decode_json(&body)
    }

    fn check_content_type(&self) -> Result<(), ApiError> {
        let given = self.header("content-type");
        let kind = given.split(';').next().unwrap_or("").trim();
        if kind.is_empty() || kind.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(ApiError::invalid(format!("unsupported Content-Type header ({given}): must be 'application/json'")))
    }
}

/// Decodes a JSON document.
pub(crate) fn decode_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::invalid("invalid JSON: got EOF while reading request body"));
    }
    decode_value(serde_json::from_slice(body).map_err(|error| explain(&error))?)
}

/// Makes of a JSON document what it is to be.
pub(crate) fn decode_value<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    T::deserialize(Folded(value)).map_err(|mismatch| ApiError::invalid(format!("invalid JSON: {mismatch}")))
}

fn explain(error: &serde_json::Error) -> ApiError {
    let cut = if error.is_eof() { " (is the body cut short?)" } else { "" };
    ApiError::invalid(format!("invalid JSON: {error}{cut}"))
}

/// Removes object members that are `null`; elements of lists stay.
pub(crate) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn nulls_mean_absent() {
        let mut value: Value = decode_json(br#"{"a":null,"b":{"c":null,"d":1}}"#).expect("json");
        strip_nulls(&mut value);
        let map: BTreeMap<String, BTreeMap<String, u8>> = serde_json::from_value(value).expect("map");
        assert_eq!(map, BTreeMap::from([("b".to_owned(), BTreeMap::from([("d".to_owned(), 1)]))]));
    }

    #[test]
    fn members_are_spelt_in_any_case() {
        let exec: shoal_engine::model::ExecCreate =
            decode_json(br#"{"Cmd":["sh"],"detachKeys":"ctrl-p","attachstdin":true}"#).expect("exec");
        assert_eq!((exec.detach_keys.as_str(), exec.attach_stdin), ("ctrl-p", true));
    }

    #[test]
    fn what_is_wrong_with_the_body_is_said() {
        let message = |body: &[u8]| decode_json::<Value>(body).expect_err("accepted").message().to_owned();
        assert!(message(b" \n").contains("got EOF while reading request body"));
        assert!(message(br#"{"Name":"web","TaskTem"#).contains("cut short"));
        assert!(message(br#"{"Name":"web"} trailing"#).contains("trailing characters"));
        assert!(!message(br#"{"Name":}"#).contains("cut short"));
        let config = |body: &[u8]| {
            decode_json::<shoal_engine::model::ContainerConfig>(body).expect_err("accepted").message().to_owned()
        };
        assert_eq!(
            config(br#"{"Cmd":{"a":1}}"#),
            "invalid JSON: Cmd: expected a string or a list of strings, found an object"
        );
        assert_eq!(config(br#"{"Entrypoint":[1]}"#), "invalid JSON: Entrypoint: expected a string, found integer `1`");
        assert_eq!(config(b"null"), "invalid JSON: expected an object, found null");
    }
}
