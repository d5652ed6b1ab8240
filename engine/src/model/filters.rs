//! The `filters` parameter: values by name. A thing passes when it matches one value of every name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use shoal_proto::error::Failure;

/// Filters of a list, a prune or a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl<'de> Deserialize<'de> for Filters {
    /// Takes `{"name":["value"]}` and the older `{"name":{"value":true}}`, where `false` does not count.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Option::<BTreeMap<String, Values>>::deserialize(deserializer)?.unwrap_or_default();
        Ok(Self(raw.into_iter().map(|(name, values)| (name, values.0)).collect()))
    }
}

/// The values of one name.
struct Values(BTreeSet<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings or an object of true and false")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Values, A::Error> {
        BTreeSet::deserialize(SeqAccessDeserializer::new(list)).map(Values)
    }

    fn visit_map<A: MapAccess<'de>>(self, set: A) -> Result<Values, A::Error> {
        let set = BTreeMap::<String, bool>::deserialize(MapAccessDeserializer::new(set))?;
        Ok(Values(set.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect()))
    }
}

impl Filters {
    /// Parses the parameter; an empty one filters nothing.
    ///
    /// # Errors
    /// When it is not JSON of that shape.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text).map_err(|error| Failure::invalid(format!("invalid filter: {error}")))
    }

    /// With one value more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.entry(name.to_owned()).or_default().insert(value.into());
        self
    }

    /// Nothing filtered?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is there such a filter?
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The values of one filter.
    pub fn get(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Refuses names other than these.
    ///
    /// # Errors
    /// As dockerd: `invalid filter 'x'`.
    pub fn check(&self, allowed: &[&str]) -> Result<(), Failure> {
        match self.0.keys().find(|name| !allowed.contains(&name.as_str())) {
            Some(name) => Err(Failure::invalid(format!("invalid filter '{name}'"))),
            None => Ok(()),
        }
    }

    /// Does one value of this filter equal the text? True when there is no such filter.
    pub fn matches_exactly(&self, name: &str, text: &str) -> bool {
        self.0.get(name).is_none_or(|values| values.is_empty() || values.contains(text))
    }

    /// Is the text equal to one value, or does it begin with it? True when there is no such filter.
    pub fn matches_prefix(&self, name: &str, text: &str) -> bool {
        self.0.get(name).is_none_or(|values| values.is_empty() || values.iter().any(|value| text.starts_with(value)))
    }

    /// Is the text one value, or does it match one as a regular expression? True when there is no such filter. As in
    /// dockerd, a value that is no regular expression matches only itself.
    pub fn matches(&self, name: &str, text: &str) -> bool {
        self.0.get(name).is_none_or(|values| values.is_empty() || values.iter().any(|value| holds(text, value)))
    }

    /// Are all labels there? Values are `name` or `name=value`. True when there is no such filter.
    pub fn matches_labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(name).all(|wanted| match wanted.split_once('=') {
            Some((label, value)) => labels.get(label).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        })
    }

    /// Reads a filter of one boolean.
    ///
    /// # Errors
    /// When the value is not a boolean.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, Failure> {
        let Some(values) = self.0.get(name) else { return Ok(None) };
        let (mut yes, mut no) = (false, false);
        for value in values {
            match value.as_str() {
                "1" | "true" | "True" | "TRUE" | "t" | "T" => yes = true,
                "0" | "false" | "False" | "FALSE" | "f" | "F" => no = true,
                _ => return Err(Failure::invalid(format!("invalid filter '{name}=[{value}]'"))),
            }
        }
        match (yes, no) {
            (true, false) => Ok(Some(true)),
            (false, true) => Ok(Some(false)),
            _ => Err(Failure::invalid(format!("invalid filter '{name}'"))),
        }
    }
}

fn holds(text: &str, whole: &str) -> bool {
    if text == whole {
        return true;
    }
    let (from_start, pattern) = whole.strip_prefix('^').map_or((false, whole), |rest| (true, rest));
    let (to_end, pattern) = pattern.strip_suffix('$').map_or((false, pattern), |rest| (true, rest));
    if !pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-/:@%= ".contains(&byte)) {
        let expression = regex::bytes::RegexBuilder::new(whole).unicode(false).size_limit(1 << 20).build();
        return expression.is_ok_and(|expression| expression.is_match(text.as_bytes()));
    }
    // The part of regular expressions that people use, without making one.
    match (from_start, to_end) {
        (true, true) => text == pattern,
        (true, false) => text.starts_with(pattern),
        (false, true) => text.ends_with(pattern),
        (false, false) => text.contains(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_are_read() {
        let list = Filters::parse(r#"{"status":["running","paused"]}"#).unwrap();
        let map = Filters::parse(r#"{"status":{"running":true,"paused":true,"dead":false}}"#).unwrap();
        assert_eq!(list, map);
        assert!(Filters::parse("").unwrap().is_empty());
        assert!(Filters::parse("nonsense").is_err());
        let neither = Filters::parse(r#"{"status":3}"#).unwrap_err().message;
        assert!(neither.contains("expected a list of strings or an object of true and false"), "{neither}");
    }

    #[test]
    fn anchors_are_honoured() {
        let filters = Filters::default().with("name", "^/web$");
        assert!(filters.matches("name", "/web"));
        assert!(!filters.matches("name", "/web2"));
        assert!(Filters::default().with("name", "we").matches("name", "/web2"));
        for (pattern, text, matches) in [
            ("^/?w.b$", "web", true),
            ("w.b", "wb", false),
            ("(web|db)-[0-9]+", "db-12", true),
            ("web.", "web", false),
            ("(", "(", true),
            ("(", "a(b", false),
            ("\\d", "a1", true),
        ] {
            assert_eq!(Filters::default().with("name", pattern).matches("name", text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn labels_must_all_match() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        assert!(Filters::default().with("label", "a").with("label", "b=2").matches_labels("label", &labels));
        assert!(!Filters::default().with("label", "a").with("label", "b=3").matches_labels("label", &labels));
    }

    #[test]
    fn unknown_names_are_refused() {
        let failure = Filters::default().with("colour", "red").check(&["status"]).unwrap_err();
        assert_eq!(failure.message, "invalid filter 'colour'");
    }
}
