//! Values of directives: as a flag gives them, as the config file gives them, and as dockerd prints them.

use serde_json::{Map, Value, json};
use shoal_proto::spec::Ulimit;

use super::directive::Kind;

/// Adds what a flag was given to its directive's value, in the shape of the config file.
///
/// # Errors
/// Why the text is no such value, in dockerd's words.
pub(super) fn add(kind: Kind, value: &mut Value, text: &str) -> Result<(), String> {
    match kind {
        Kind::Switch | Kind::Any => {}
        Kind::Text => *value = json!(text),
        Kind::Number => {
            let number: i64 =
                text.parse().map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))?;
            *value = json!(number);
        }
        Kind::Bytes => *value = json!(bytes(text)?),
        Kind::List => push(value, json!(text)),
        Kind::Pools => push(value, pool(text)?),
        Kind::Pairs => {
            // As dockerd: a name alone has an empty value.
            let (name, given) = text.split_once('=').unwrap_or((text, ""));
            put(value, name, json!(given));
        }
        Kind::Runtimes => {
            let (name, path) = pair(text).ok_or_else(|| format!("invalid runtime argument: {text}"))?;
            put(value, name.trim(), json!({ "path": path.trim() }));
        }
        Kind::Ulimits => {
            let (name, limit) = ulimit(text)?;
            put(value, name, limit);
        }
        Kind::DriverOptions => {
            let parts = text.split_once('=').and_then(|(driver, option)| Some((driver, pair(option)?)));
            let (driver, (name, given)) = parts.ok_or_else(|| format!("invalid driver opts: {text}"))?;
            let mut options = value.get(driver).cloned().unwrap_or_else(|| json!({}));
            put(&mut options, name, json!(given));
            put(value, driver, options);
        }
        Kind::Features => {
            let (name, on) = text.split_once('=').unwrap_or((text, "true"));
            let on: bool = on.parse().map_err(|_| format!("invalid value {on:?} of feature {name}"))?;
            put(value, name, json!(on));
        }
    }
    Ok(())
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

fn put(map: &mut Value, name: &str, item: Value) {
    if let Value::Object(entries) = map {
        entries.insert(name.to_owned(), item);
    } else {
        *map = Value::Object(Map::from_iter([(name.to_owned(), item)]));
    }
}

fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

fn ulimit(text: &str) -> Result<(&str, Value), String> {
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !Ulimit::NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number =
        |text: &str| text.parse::<i64>().map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok((name, json!({ "Name": name, "Soft": soft, "Hard": hard })))
}

fn pool(text: &str) -> Result<Value, String> {
    let mut pool = Map::new();
    for part in text.split(',') {
        let (name, given) =
            part.split_once('=').ok_or_else(|| format!("invalid field '{part}' must be a key=value pair"))?;
        match name.trim().to_ascii_lowercase().as_str() {
            "base" => pool.insert("base".to_owned(), json!(given.trim())),
            "size" => {
                let size: i64 = given.trim().parse().map_err(|_| format!("invalid size value: {given}"))?;
                pool.insert("size".to_owned(), json!(size))
            }
            other => return Err(format!("unexpected key '{other}' in '{part}'")),
        };
    }
    Ok(Value::Object(pool))
}

/// `64m`, `1.5g`: units of 1024, as go-units reads them.
///
/// # Errors
/// When it is no size.
pub(super) fn bytes(text: &str) -> Result<i64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor: f64 = match lower[number.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1024.0 * 1024.0,
        "g" => 1024.0 * 1024.0 * 1024.0,
        "t" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("invalid size: '{text}'")),
    };
    match number.trim().parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "saturates, which no memory reaches")]
        Ok(number) if number >= 0.0 && number.is_finite() => Ok((number * factor) as i64),
        _ => Err(format!("invalid size: '{text}'")),
    }
}

/// Has a value of the config file the right shape?
///
/// # Errors
/// What was expected.
pub(super) fn check(kind: Kind, value: &Value) -> Result<(), &'static str> {
    let texts = |value: &Value| value.as_array().is_some_and(|items| items.iter().all(Value::is_string));
    let entries = |test: fn(&Value) -> bool| value.as_object().is_some_and(|map| map.values().all(test));
    let (right, expected) = match kind {
        Kind::Switch => (value.is_boolean(), "true or false"),
        Kind::Text => (value.is_string(), "a text"),
        Kind::Number => (value.is_i64(), "a whole number"),
        Kind::Bytes => (value.is_i64() || value.as_str().is_some_and(|text| bytes(text).is_ok()), "a size, as 64m"),
        Kind::List => (texts(value), "a list of texts"),
        Kind::Pairs => (entries(Value::is_string), "an object of texts"),
        Kind::Features => (entries(Value::is_boolean), "an object of true and false"),
        Kind::Runtimes => (entries(Value::is_object), "an object of runtimes"),
        Kind::DriverOptions => {
            let all_texts = |options: &Value| options.as_object().is_some_and(|map| map.values().all(Value::is_string));
            (entries(all_texts), "an object of objects of texts")
        }
        Kind::Ulimits => {
            let limit = |limit: &Value| limit["Soft"].is_i64() && limit["Hard"].is_i64();
            (entries(limit), "an object of ulimits, each with Name, Soft and Hard")
        }
        Kind::Pools => {
            let pool = |pool: &Value| pool["base"].is_string() && pool["size"].is_i64();
            (value.as_array().is_some_and(|pools| pools.iter().all(pool)), "a list of pools, each with base and size")
        }
        Kind::Any => (true, ""),
    };
    if right { Ok(()) } else { Err(expected) }
}

/// As Go's `%v` prints it, for dockerd's messages.
pub(super) fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<_> = map.iter().map(|(name, value)| format!("{name}:{}", go(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind, texts: &[&str]) -> Result<Value, String> {
        let mut value = Value::Null;
        texts.iter().try_for_each(|text| add(kind, &mut value, text)).map(|()| value)
    }

    #[test]
    fn flags_take_the_shape_of_the_file() {
        for (kind, texts, expected) in [
            (Kind::Bytes, &["1.5k"][..], json!(1536)),
            (Kind::List, &["a", "b"], json!(["a", "b"])),
            (Kind::Pairs, &["a=b=c", "d"], json!({"a": "b=c", "d": ""})),
            (Kind::Runtimes, &["runc=/usr/sbin/runc"], json!({"runc": {"path": "/usr/sbin/runc"}})),
            (Kind::Ulimits, &["nofile=1:2"], json!({"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}})),
            (Kind::Pools, &["base=10.0.0.0/8,size=24"], json!([{"base": "10.0.0.0/8", "size": 24}])),
            (Kind::DriverOptions, &["bridge=a=1", "bridge=b=2"], json!({"bridge": {"a": "1", "b": "2"}})),
            (Kind::Features, &["a", "b=false"], json!({"a": true, "b": false})),
        ] {
            let value = of(kind, texts).expect("value");
            assert_eq!(value, expected);
            assert_eq!(check(kind, &value), Ok(()), "{expected}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_dockerds_words() {
        for (kind, text, expected) in [
            (Kind::Number, "x", "invalid syntax"),
            (Kind::Bytes, "64q", "invalid size: '64q'"),
            (Kind::Runtimes, "runc", "invalid runtime argument: runc"),
            (Kind::Ulimits, "foo=1", "invalid ulimit type: foo"),
            (Kind::Ulimits, "nofile=3:2", "soft limit must be less than or equal to hard limit: 3 > 2"),
            (Kind::Pools, "base", "must be a key=value pair"),
            (Kind::Pools, "colour=red", "unexpected key 'colour'"),
        ] {
            let why = of(kind, &[text]).expect_err(text);
            assert!(why.contains(expected), "{why:?} has no {expected:?}");
        }
        assert_eq!(check(Kind::Switch, &json!("yes")), Err("true or false"));
        assert_eq!(
            check(Kind::Ulimits, &json!({"nofile": 3})),
            Err("an object of ulimits, each with Name, Soft and Hard")
        );
    }

    #[test]
    fn values_are_printed_as_go_prints_them() {
        let value = json!({"b": [1, true], "a": "x"});
        assert_eq!(go(&value), "map[a:x b:[1 true]]");
    }
}
