//! Command line and config file become one set of directives, or an error that names what is wrong, in dockerd's words.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::libc::O_NONBLOCK;
use serde_json::{Map, Value};

use super::command_line::DaemonOptions;
use super::directive::{Directive, Effect, Kind, of_key};
use super::value;

/// Directives that the file adds to, rather than to clash with the command line.
const ADDED: &str = "runtimes";
/// Values that may hold a password.
const PROXIES: [&str; 2] = ["http-proxy", "https-proxy"];

/// Where directives come from. Kept, so that the file can be read again.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    given: Map<String, Value>,
    /// The config file.
    pub(crate) path: PathBuf,
    /// Was it named? Only then it must exist.
    named: bool,
}

impl Source {
    pub(super) fn new(options: &DaemonOptions) -> Self {
        let default = if options.as_dockerd { "/etc/docker/daemon.json" } else { "/etc/shoal/daemon.json" };
        Self {
            given: options.given.clone(),
            path: options.config_file.clone().unwrap_or_else(|| PathBuf::from(default)),
            named: options.config_file.is_some(),
        }
    }

    /// Reads the file and puts it together with the command line.
    ///
    /// # Errors
    /// With what cannot be read, is not known, stands in both places, has the wrong shape, or is not offered.
    pub(crate) fn merged(&self) -> anyhow::Result<Map<String, Value>> {
        let in_file = || format!("unable to configure the daemon with file {}", self.path.display());
        let file = read(&self.path, self.named).and_then(known).with_context(in_file)?;
        check_conflicts(&self.given, &file).with_context(in_file)?;
        for (key, value) in &file {
            check(key, value, key).with_context(in_file)?;
        }
        for (key, value) in &self.given {
            let flag = of_key(key).and_then(|directive| directive.flag).unwrap_or(key);
            check(key, value, &format!("--{flag}"))?;
        }
        let mut merged = file;
        for (key, value) in &self.given {
            match (merged.get_mut(key), value) {
                (Some(Value::Object(mine)), Value::Object(more)) => mine.extend(more.clone()),
                _ => {
                    merged.insert(key.clone(), value.clone());
                }
            }
        }
        Ok(merged)
    }
}

fn read(path: &Path, named: bool) -> anyhow::Result<Map<String, Value>> {
    let text = match text(path) {
        Ok(text) => text,
        Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(error).context("cannot read it"),
    };
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(&text)? {
        Value::Object(map) => Ok(map),
        other => bail!("expected an object, found {}", value::go(&other)),
    }
}

/// The text of a regular file. Another kind of file may have nobody who writes to it, and would be waited for without end.
fn text(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// The directives of a file. As in dockerd an object that is no directive holds directives, as `proxies` does.
fn known(file: Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    let mut flat = Map::new();
    for (key, value) in file {
        match value {
            Value::Object(inner) if of_key(&key).is_none() => flat.extend(inner),
            value => {
                flat.insert(key, value);
            }
        }
    }
    let unknown: Vec<&str> = flat.keys().map(String::as_str).filter(|key| of_key(key).is_none()).collect();
    if !unknown.is_empty() {
        bail!("the following directives don't match any configuration option: {}", unknown.join(", "));
    }
    Ok(flat)
}

fn check_conflicts(given: &Map<String, Value>, file: &Map<String, Value>) -> anyhow::Result<()> {
    let both = given.iter().filter(|(key, _)| key.as_str() != ADDED).filter_map(|(key, flag)| {
        let file = file.get(key)?;
        let shown = |value: &Value| {
            let text = value::go(value);
            if PROXIES.contains(&key.as_str()) { mask_credentials(&text) } else { text }
        };
        Some(format!("{key}: (from flag: {}, from file: {})", shown(flag), shown(file)))
    });
    let both: Vec<_> = both.collect();
    if !both.is_empty() {
        bail!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            both.join(", ")
        );
    }
    Ok(())
}

/// Can the directive have this value? `name` is what the user wrote.
fn check(key: &str, value: &Value, name: &str) -> anyhow::Result<()> {
    let Some(Directive { kind, effect, .. }) = of_key(key) else { return Ok(()) };
    if *kind != Kind::Any && !value.is_null() {
        value::check(*kind, value).map_err(|expected| {
            anyhow::anyhow!("invalid value for {name}: expected {expected}, found {}", value::go(value))
        })?;
    }
    match effect {
        _ if Directive::is_off(value) => Ok(()),
        Effect::Refused(why) => bail!("{name} is not offered: {why}"),
        Effect::Only(values, why) if !value.as_str().is_some_and(|text| values.contains(&text)) => {
            bail!("{name} can only be {}, not {}: {why}", values.join(" or "), value::go(value))
        }
        _ => Ok(()),
    }
}

/// A URL without the user's name and password, as dockerd shows it.
pub(super) fn mask_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let Some((_, host)) = authority.rsplit_once('@') else { return url.to_owned() };
    let path = path.map(|path| format!("/{path}")).unwrap_or_default();
    format!("{scheme}://xxxxx:xxxxx@{host}{path}")
}

/// What was accepted and changes nothing, each with the reason.
pub(crate) fn idle(merged: &Map<String, Value>) -> Vec<(&'static str, &'static str)> {
    let idle = merged.keys().filter_map(|key| of_key(key)).filter_map(|directive| match directive.effect {
        Effect::Idle(why) => Some((directive.key, why)),
        _ => None,
    });
    idle.collect()
}

/// The directives after a reload: what can change without a restart is taken from the new ones. The second are the keys that
/// changed and need a restart.
pub(crate) fn reloaded(old: &Map<String, Value>, new: &Map<String, Value>) -> (Map<String, Value>, Vec<String>) {
    let (mut result, mut late) = (Map::new(), Vec::new());
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let reloads = of_key(key).is_some_and(|directive| directive.effect == Effect::Reload);
        if !reloads && old.get(key) != new.get(key) {
            late.push(key.clone());
        }
        let source = if reloads { new } else { old };
        result.extend(source.get(key).map(|value| (key.clone(), value.clone())));
    }
    (result, late)
}
