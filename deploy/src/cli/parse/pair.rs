//! `key=value` flags and files of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

/// `key=value`; a bare key has an empty value.
pub(crate) fn split(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// A JSON map of `key=value` flags.
pub(crate) fn map(pairs: &[String]) -> Map<String, Value> {
    pairs.iter().map(|pair| split(pair)).map(|(key, value)| (key, Value::String(value))).collect()
}

/// Checks that a flag is `key=value` with a key.
pub(crate) fn check(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(format!("'{text}' must be key=value")),
    }
}

/// `NAME=value` as it stands; a bare `NAME` takes its value from this process's environment and is dropped when unset.
pub(crate) fn environment(flags: &[String], files: &[std::path::PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut result = Vec::new();
    for file in files {
        result.extend(lines_of(file)?);
    }
    result.extend(flags.iter().cloned());
    let resolve = |entry: String| match entry.split_once('=') {
        Some(_) => Some(entry),
        None => std::env::var(&entry).ok().map(|value| format!("{entry}={value}")),
    };
    let resolved: Vec<String> = result.into_iter().filter_map(resolve).collect();
    if let Some(bad) = resolved.iter().find(|entry| entry.starts_with('=')) {
        anyhow::bail!("invalid environment variable: {bad}");
    }
    Ok(last_wins(resolved))
}

/// Entries with the same key: the last value, at the first one's place.
fn last_wins(entries: Vec<String>) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for entry in entries {
        let (key, _) = split(&entry);
        if values.insert(key.clone(), entry).is_none() {
            order.push(key);
        }
    }
    order.into_iter().filter_map(|key| values.remove(&key)).collect()
}

/// The lines of a file that are neither empty nor comments.
pub(crate) fn lines_of(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(|error| anyhow::anyhow!("open {}: {error}", file.display()))?;
    let keep = |line: &&str| !line.is_empty() && !line.starts_with('#');
    Ok(text.lines().map(str::trim_start).filter(keep).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_variable_wins_and_unset_ones_are_dropped() {
        let flags: Vec<String> = ["A=1", "B=2", "A=3", "SHOAL_TEST_UNSET_VARIABLE"].map(str::to_owned).to_vec();
        assert_eq!(environment(&flags, &[]).unwrap(), ["A=3", "B=2"]);
        assert!(environment(&["=x".to_owned()], &[]).is_err());
    }

    #[test]
    fn files_have_comments_and_come_before_flags() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, "# comment\n\nA=file\nB=file\n").unwrap();
        assert_eq!(environment(&["A=flag".to_owned()], &[file]).unwrap(), ["A=flag", "B=file"]);
    }
}
