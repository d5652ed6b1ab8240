//! Reading the API's JSON: absent, null and empty are the same to a command line.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Lenient access by a path of keys joined with dots.
pub(crate) trait Look {
    /// The value at a path such as `Spec.TaskTemplate`; null when any step is absent.
    fn at(&self, path: &str) -> &Value;
    /// The text at a path; empty when absent.
    fn text(&self, path: &str) -> &str;
    /// The integer at a path; zero when absent.
    fn number(&self, path: &str) -> i64;
    /// The truth at a path; false when absent.
    fn truth(&self, path: &str) -> bool;
    /// The list at a path; empty when absent.
    fn items(&self, path: &str) -> &[Value];
    /// The map at a path, in key order; empty when absent.
    fn entries(&self, path: &str) -> Vec<(&String, &Value)>;
    /// The texts of the list at a path.
    fn texts(&self, path: &str) -> Vec<String>;
}

impl Look for Value {
    fn at(&self, path: &str) -> &Value {
        path.split('.').filter(|key| !key.is_empty()).fold(self, |value, key| value.get(key).unwrap_or(&NULL))
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    fn number(&self, path: &str) -> i64 {
        let value = self.at(path);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a number that the API gives as a float is a whole one here"
        )]
        let rounded = || value.as_f64().map(|float| float as i64);
        value.as_i64().or_else(rounded).unwrap_or_default()
    }

    fn truth(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or_default()
    }

    fn items(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map(Vec::as_slice).unwrap_or_default()
    }

    fn entries(&self, path: &str) -> Vec<(&String, &Value)> {
        self.at(path).as_object().map(|map| map.iter().collect()).unwrap_or_default()
    }

    fn texts(&self, path: &str) -> Vec<String> {
        self.items(path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// The object at a path below `root`, made when absent, so that a spec can be filled in.
pub(crate) fn object_at<'a>(root: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut value = root;
    for key in path.split('.').filter(|key| !key.is_empty()) {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        value = match value {
            Value::Object(map) => map.entry(key).or_insert(Value::Null),
            _ => unreachable!("made an object just above"),
        };
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// Sets the value at a path below `root`, making the objects on the way.
pub(crate) fn set(root: &mut Value, path: &str, value: impl Into<Value>) {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    object_at(root, parent).insert(key.to_owned(), value.into());
}

/// Sets the value at a path when there is one.
pub(crate) fn set_some<T: Into<Value>>(root: &mut Value, path: &str, value: Option<T>) {
    if let Some(value) = value {
        set(root, path, value);
    }
}

/// Sets a list at a path when it is not empty.
pub(crate) fn set_list<T: Into<Value>>(root: &mut Value, path: &str, values: Vec<T>) {
    if !values.is_empty() {
        set(root, path, Value::Array(values.into_iter().map(Into::into).collect()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_null_and_wrong_kind_read_as_empty() {
        let value = json!({"A": {"B": null, "C": 3, "L": ["x", 1]}});
        assert_eq!(value.text("A.B"), "");
        assert_eq!(value.number("A.C"), 3);
        assert_eq!(value.number("A.Z.Z"), 0);
        assert_eq!(value.texts("A.L"), ["x"]);
        assert!(value.items("A.C").is_empty());
    }

    #[test]
    fn setting_makes_the_way() {
        let mut value = json!({"A": null});
        set(&mut value, "A.B.C", 1);
        set(&mut value, "D", "x");
        set_list(&mut value, "A.E", Vec::<String>::new());
        assert_eq!(value, json!({"A": {"B": {"C": 1}}, "D": "x"}));
    }
}
