//! The functions of Go's templates and docker's additions.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::Value;

use super::eval::{show, truth};

const NAMES: [&str; 27] = [
    "and", "or", "not", "len", "index", "slice", "print", "println", "printf", "eq", "ne", "lt", "le", "gt", "ge",
    "html", "js", "urlquery", "json", "join", "split", "lower", "upper", "title", "pad", "truncate", "call",
];

/// Whether there is a function of this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let argument = |index: usize| arguments.get(index).ok_or_else(|| format!("wrong number of args for {name}"));
    let text = |index: usize| argument(index).map(|value| value.as_str().map_or_else(|| show(value), str::to_owned));
    match name {
        "and" => Ok(arguments.iter().find(|value| !truth(value)).or(arguments.last()).cloned().unwrap_or_default()),
        "or" => Ok(arguments.iter().find(|value| truth(value)).or(arguments.last()).cloned().unwrap_or_default()),
        "not" => Ok(Value::Bool(!truth(argument(0)?))),
        "len" => length(argument(0)?).map(Value::from),
        "index" => index(&arguments),
        "slice" => slice(&arguments),
        "print" => Ok(Value::from(arguments.iter().map(show).collect::<String>())),
        "println" => Ok(Value::from(format!("{}\n", arguments.iter().map(show).collect::<Vec<_>>().join(" ")))),
        "printf" => Ok(Value::from(printf(&text(0)?, arguments.get(1..).unwrap_or_default()))),
        "eq" => {
            let first = argument(0)?;
            argument(1)?;
            Ok(Value::Bool(arguments.iter().skip(1).any(|other| compare(first, other) == Some(Ordering::Equal))))
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            let order = compare(argument(0)?, argument(1)?);
            let holds = match name {
                "ne" => order != Some(Ordering::Equal),
                _ => {
                    let order = order.ok_or("incompatible types for comparison")?;
                    match name {
                        "lt" => order.is_lt(),
                        "le" => order.is_le(),
                        "gt" => order.is_gt(),
                        _ => order.is_ge(),
                    }
                }
            };
            Ok(Value::Bool(holds))
        }
        "json" => {
            serde_json::to_string(&without_hidden(argument(0)?)).map(Value::from).map_err(|error| error.to_string())
        }
        "join" => {
            let items = argument(0)?.as_array().cloned().unwrap_or_default();
            Ok(Value::from(items.iter().map(show).collect::<Vec<_>>().join(&text(1)?)))
        }
        "split" => Ok(Value::from(text(0)?.split(text(1)?.as_str()).map(str::to_owned).collect::<Vec<_>>())),
        "lower" => Ok(Value::from(text(0)?.to_lowercase())),
        "upper" => Ok(Value::from(text(0)?.to_uppercase())),
        "title" => Ok(Value::from(title(&text(0)?))),
        "pad" => {
            let width = |index: usize| {
                argument(index)
                    .map(|value| usize::try_from(value.as_i64().unwrap_or_default()).unwrap_or_default().min(1000))
            };
            let inner = text(0)?;
            Ok(Value::from(if inner.is_empty() {
                inner
            } else {
                format!("{}{inner}{}", " ".repeat(width(1)?), " ".repeat(width(2)?))
            }))
        }
        "truncate" => {
            let width = usize::try_from(argument(1)?.as_i64().unwrap_or_default()).unwrap_or_default();
            Ok(Value::from(text(0)?.chars().take(width).collect::<String>()))
        }
        _ => Err(format!("function {name:?} is not supported")),
    }
}

/// A row's labels ride along under a name of their own that `{{json .}}` does not show.
fn without_hidden(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(map) = &mut value {
        map.remove(super::super::listing::LABELS);
    }
    value
}

fn title(text: &str) -> String {
    let mut start = true;
    let raise = |character: char| {
        let raised = if start { character.to_uppercase().next().unwrap_or(character) } else { character };
        start = !character.is_alphanumeric();
        raised
    };
    text.chars().map(raise).collect()
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(map) => Ok(map.len()),
        Value::Null => Ok(0),
        other => Err(format!("len of type {}", show(other))),
    }
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let (first, keys) = arguments.split_first().ok_or("wrong number of args for index")?;
    if keys.is_empty() {
        return Err("wrong number of args for index".to_owned());
    }
    let mut value = first;
    for key in keys {
        value = match (value, key) {
            (Value::Object(map), Value::String(key)) => match map.get(key) {
                Some(value) => value,
                None => return Ok(Value::from("")),
            },
            (Value::Array(items), Value::Number(number)) => {
                let place = number.as_u64().and_then(|place| usize::try_from(place).ok());
                place
                    .and_then(|place| items.get(place))
                    .ok_or_else(|| format!("error calling index: index out of range: {number}"))?
            }
            (Value::Null, _) => return Err("error calling index: index of untyped nil".to_owned()),
            (value, key) => {
                return Err(format!("error calling index: cannot index {} with {}", show(value), show(key)));
            }
        };
    }
    Ok(value.clone())
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let bound =
        |index: usize| arguments.get(index).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
    let out_of_range = || "error calling slice: index out of range".to_owned();
    match arguments.first() {
        Some(Value::String(text)) => {
            let part = text.get(bound(1).unwrap_or_default()..bound(2).unwrap_or(text.len()));
            part.map(Value::from).ok_or_else(out_of_range)
        }
        Some(Value::Array(items)) => {
            let part = items.get(bound(1).unwrap_or_default()..bound(2).unwrap_or(items.len()));
            part.map(|part| Value::Array(part.to_vec())).ok_or_else(out_of_range)
        }
        _ => Err("error calling slice: can't slice item".to_owned()),
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => (left == right).then_some(Ordering::Equal),
    }
}

/// The verbs `%s %v %d %q %t %f %x %%` with width, precision and `-`/`0` flags.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut output = String::new();
    let mut arguments = arguments.iter();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            output.push(character);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = characters.next_if(|next| "-+#0. 123456789".contains(*next)) {
            flags.push(flag);
        }
        match characters.next() {
            None => output.push_str("%!(NOVERB)"),
            Some('%') => output.push('%'),
            Some(verb) => match arguments.next() {
                Some(value) => output.push_str(&padded(&flags, &converted(verb, &flags, value))),
                None => {
                    let _ = write!(output, "%!{verb}(MISSING)");
                }
            },
        }
    }
    output
}

fn converted(verb: char, flags: &str, value: &Value) -> String {
    let precision =
        flags.split_once('.').and_then(|(_, digits)| digits.parse::<usize>().ok()).map(|digits| digits.min(100));
    match (verb, value) {
        ('s', Value::String(text)) => {
            precision.map_or_else(|| text.clone(), |digits| text.chars().take(digits).collect())
        }
        ('v' | 's', value) => show(value),
        ('q', Value::String(text)) => format!("{text:?}"),
        ('t', Value::Bool(truth)) => truth.to_string(),
        ('d', Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        ('x', Value::Number(number)) if number.is_i64() => format!("{:x}", number.as_i64().unwrap_or_default()),
        ('f', Value::Number(number)) => format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or_default()),
        (verb, value) => {
            let kind = match value {
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Number(number) if number.is_f64() => "float64",
                Value::Number(_) => "int",
                _ => "interface {}",
            };
            format!("%!{verb}({kind}={})", show(value))
        }
    }
}

fn padded(flags: &str, text: &str) -> String {
    let left = flags.contains('-');
    let width = flags.split('.').next().unwrap_or_default().trim_start_matches(['-', '+', '#', ' ']);
    let zeros = width.starts_with('0') && !left;
    let width = width.parse::<usize>().unwrap_or_default().min(1000);
    match (left, zeros) {
        (true, _) => format!("{text:<width$}"),
        (false, true) => format!("{}{text}", "0".repeat(width.saturating_sub(text.chars().count()))),
        (false, false) => format!("{text:>width$}"),
    }
}
