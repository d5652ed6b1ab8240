//! JSON members in any spelling of their names, as Go reads them.
//!
//! ## Design notes
//! Go's decoder, and so dockerd, takes `HealthCheck` for `Healthcheck`; Docker's own reference writes it so. The names of
//! a type's members are known where the type is decoded, and only there: keys of maps (labels, options) are the user's
//! and stay as they are. Hence a [`Deserializer`] around a JSON value that renames members on the way into a struct. It
//! cannot see through `#[serde(flatten)]`, which asks for a map. It also knows on which member a value turned out to be
//! wrong, and says so in words that are JSON's, not Rust's ([`Mismatch`]).

use std::fmt;

use serde::de::value::SeqDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// A value that is not what it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Names of the members that lead to it, the innermost first.
    path: Vec<String>,
    message: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
        match path.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", path.join("."), self.message),
        }
    }
}

impl std::error::Error for Mismatch {}

impl serde::de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: Vec::new(), message: message.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("expected {}, found {}", in_json(&expected.to_string()), kind(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("expected {} within its range, found {}", in_json(&expected.to_string()), kind(found)))
    }
}

impl From<serde_json::Error> for Mismatch {
    fn from(error: serde_json::Error) -> Self {
        serde::de::Error::custom(error)
    }
}

/// What serde expects, in JSON's words.
fn in_json(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

fn kind(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit => "null".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        other => other.to_string(),
    }
}

/// A JSON value whose members may be spelt in any case.
#[derive(Debug)]
pub(crate) struct Folded(pub(crate) Value);

impl<'de> IntoDeserializer<'de, Mismatch> for Folded {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Gives members the name that the type knows; a member that is spelt exactly so wins.
fn rename(members: Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let mut renamed = Map::new();
    let mut others = Vec::new();
    for (name, value) in members {
        if names.contains(&name.as_str()) {
            renamed.insert(name, value);
        } else {
            others.push((name, value));
        }
    }
    for (name, value) in others {
        let known = names.iter().find(|known| known.eq_ignore_ascii_case(&name));
        let name = known.map_or(name, |known| (*known).to_owned());
        if !renamed.contains_key(&name) {
            renamed.insert(name, value);
        }
    }
    renamed
}

/// The members of an object, one after the other.
struct Members {
    rest: serde_json::map::IntoIter,
    current: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Members {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else { return Ok(None) };
        seed.deserialize(name.clone().into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mismatch> {
        let Some((name, value)) = self.current.take() else {
            return Err(serde::de::Error::custom("a value was asked for before its name"));
        };
        seed.deserialize(Folded(value)).map_err(|mut mismatch| {
            mismatch.path.push(name);
            mismatch
        })
    }
}

fn visit_map<'de, V: Visitor<'de>>(members: Map<String, Value>, visitor: V) -> Result<V::Value, Mismatch> {
    visitor.visit_map(Members { rest: members.into_iter(), current: None })
}

impl<'de> Deserializer<'de> for Folded {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Object(members) => visit_map(members, visitor),
            Value::Array(elements) => {
                let mut sequence = SeqDeserializer::new(elements.into_iter().map(Folded));
                let value = visitor.visit_seq(&mut sequence)?;
                sequence.end()?;
                Ok(value)
            }
            Value::Null => visitor.visit_unit(),
            Value::Bool(given) => visitor.visit_bool(given),
            Value::String(given) => visitor.visit_string(given),
            Value::Number(given) => match (given.as_u64(), given.as_i64(), given.as_f64()) {
                (Some(given), ..) => visitor.visit_u64(given),
                (_, Some(given), _) => visitor.visit_i64(given),
                (.., given) => visitor.visit_f64(given.unwrap_or(f64::NAN)),
            },
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        Ok(self.0.deserialize_enum(name, variants, visitor)?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Object(members) => visit_map(rename(members, names), visitor),
            // A list could be read as a struct's members in their order: nobody means that.
            Value::Array(_) => Err(serde::de::Error::invalid_type(Unexpected::Seq, &"an object")),
            other => Self(other).deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Outer {
        healthcheck: Option<Inner>,
        labels: BTreeMap<String, String>,
        list: Vec<Inner>,
        rest: Option<Value>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Inner {
        retries: i64,
        ratio: f32,
    }

    #[test]
    fn members_are_found_in_any_case_and_keys_of_maps_stay() {
        let given = json!({
            "HealthCheck": { "retries": 3, "RATIO": 0.5 },
            "labels": { "Healthcheck": "a", "healthCheck": "b" },
            "List": [{ "retries": 1, "Retries": 2 }],
            "rest": { "Any": [1] },
            "unknown": true,
        });
        let outer = Outer::deserialize(Folded(given)).expect("decoded");
        assert_eq!(outer.healthcheck, Some(Inner { retries: 3, ratio: 0.5 }));
        assert_eq!(outer.labels.keys().collect::<Vec<_>>(), ["Healthcheck", "healthCheck"]);
        assert_eq!(outer.list[0].retries, 2, "the exact name wins");
        assert_eq!(outer.rest, Some(json!({ "Any": [1] })));
    }

    #[test]
    fn wrong_types_are_errors() {
        let refused = Outer::deserialize(Folded(json!({ "Healthcheck": { "Retries": "x" } }))).expect_err("accepted");
        assert_eq!(refused.to_string(), "Healthcheck.Retries: expected a whole number, found string \"x\"");
        for (given, expected) in [
            (json!(null), "expected an object, found null"),
            (json!([1]), "expected an object, found a list"),
            (json!({ "Labels": { "a": 1 } }), "Labels.a: expected a string, found integer `1`"),
            (json!({ "Labels": [] }), "Labels: expected an object, found a list"),
            (json!({ "List": {} }), "List: expected a list, found an object"),
            (json!({ "List": [{ "Ratio": true }] }), "List.Ratio: expected a number, found boolean `true`"),
        ] {
            assert_eq!(Outer::deserialize(Folded(given)).expect_err("accepted").to_string(), expected);
        }
        assert!(Outer::deserialize(Folded(json!([1, 2]))).is_err() && Inner::deserialize(Folded(json!("x"))).is_err());
    }
}
