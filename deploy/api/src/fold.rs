//! JSON members in any spelling of their names, as Go reads them.
//!
//! ## Design notes
//! Go's decoder, and so dockerd, takes `HealthCheck` for `Healthcheck`; Docker's own reference writes it so. The names of
//! a type's members are known where the type is decoded, and only there: keys of maps (labels, options) are the user's
//! and stay as they are. Hence a [`Deserializer`] around a JSON value that renames members on the way into a struct. It
//! cannot see through `#[serde(flatten)]`, which asks for a map.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// A JSON value whose members may be spelt in any case.
#[derive(Debug)]
pub(crate) struct Folded(pub(crate) Value);

impl<'de> IntoDeserializer<'de, Error> for Folded {
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

fn visit_map<'de, V: Visitor<'de>>(members: Map<String, Value>, visitor: V) -> Result<V::Value, Error> {
    let mut map = MapDeserializer::new(members.into_iter().map(|(name, value)| (name, Folded(value))));
    let value = visitor.visit_map(&mut map)?;
    map.end()?;
    Ok(value)
}

impl<'de> Deserializer<'de> for Folded {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(members) => visit_map(members, visitor),
            Value::Array(elements) => {
                let mut sequence = SeqDeserializer::new(elements.into_iter().map(Folded));
                let value = visitor.visit_seq(&mut sequence)?;
                sequence.end()?;
                Ok(value)
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(members) => visit_map(rename(members, names), visitor),
            // A list could be read as a struct's members in their order: nobody means that.
            Value::Array(_) => Err(serde::de::Error::custom("invalid type: a list, expected an object")),
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
        assert!(refused.to_string().contains("expected i64"), "{refused}");
        assert!(Outer::deserialize(Folded(json!([1, 2]))).is_err() && Inner::deserialize(Folded(json!("x"))).is_err());
    }
}
