//! The options of log drivers, read. Texts as dockerd's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use shoal_proto::error::Failure;

use crate::logs::remote::Buffer;
use crate::logs::syslog::{FACILITIES, Format};
use crate::model::LogConfig;

const SELECTION: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
const FILES: &[&str] = &["max-size", "max-file", "compress"];
const CACHE: &[&str] = &["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
const SYSLOG: &[&str] = &["syslog-address", "syslog-facility", "syslog-format"];
const MODE: &[&str] = &["mode", "max-buffer-size"];
/// What the local driver and the cache have when nothing else is said.
const LOCAL_SIZE: u64 = 20 << 20;
const LOCAL_FILES: u32 = 5;
const BUFFER_BYTES: u64 = 1 << 20;

/// Which driver, with what it alone needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// Nothing is kept.
    None,
    /// dockerd's JSON lines.
    JsonFile,
    /// Compact records.
    Local,
    /// A syslog service.
    Syslog {
        /// Where it is.
        address: Address,
        /// How messages look.
        format: Format,
        /// 0 to 23.
        facility: u8,
    },
    /// The journal.
    Journald,
}

/// Where a syslog service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Where programs of this machine reach it.
    Default,
    /// A socket.
    Unix(PathBuf),
    /// `host[:port]`.
    Udp(String),
    /// `host[:port]`.
    Tcp(String),
}

/// The options of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// The driver.
    pub driver: Driver,
    /// When a file is rotated: the driver's own, or the cache's. `None` is never.
    pub max_size_bytes: Option<u64>,
    /// How many files there are.
    pub max_file: u32,
    /// Are rotated ones packed?
    pub compress: bool,
    /// Is what goes to a service kept, too?
    pub cached: bool,
    /// What waits for a service.
    pub buffer: Buffer,
    /// Labels to tell with each line.
    pub labels: Vec<String>,
    /// And others.
    pub labels_regex: Option<String>,
    /// Variables to tell with each line.
    pub env: Vec<String>,
    /// And others.
    pub env_regex: Option<String>,
    /// A name for the container's lines, a template.
    pub tag: Option<String>,
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::invalid(message))
}

type Given = BTreeMap<String, String>;

impl LogOptions {
    /// Reads them.
    ///
    /// # Errors
    /// With the first that is unknown or wrong.
    pub fn read(log: &LogConfig) -> Result<Self, Failure> {
        let given = &log.config;
        let driver = driver(&log.kind, given)?;
        let service = matches!(driver, Driver::Syslog { .. } | Driver::Journald);
        let prefix = if service { "cache-" } else { "" };
        let cached = service && !switch(given, "cache-disabled")?.unwrap_or(false);
        let (max_size_bytes, max_file, compress) = files(&driver, given, prefix)?;
        let names = |option: &str| -> Vec<String> {
            let list = given.get(option).map(|list| list.split(',').map(|name| name.trim().to_owned()).collect());
            list.unwrap_or_default()
        };
        Ok(Self {
            driver,
            max_size_bytes,
            max_file,
            compress,
            cached,
            buffer: buffer(given)?,
            labels: names("labels"),
            labels_regex: given.get("labels-regex").cloned(),
            env: names("env"),
            env_regex: given.get("env-regex").cloned(),
            tag: given.get("tag").cloned(),
        })
    }
}

fn driver(kind: &str, given: &Given) -> Result<Driver, Failure> {
    let unknown = |lists: &[&[&str]]| {
        let known = |name: &&String| lists.iter().any(|list| list.contains(&name.as_str()));
        given.keys().find(|name| !known(name))
    };
    let (unknown, driver) = match kind {
        "none" => return Ok(Driver::None),
        "" | "json-file" => (unknown(&[SELECTION, FILES, MODE]), Driver::JsonFile),
        "local" => (unknown(&[FILES, MODE]), Driver::Local),
        "journald" => (unknown(&[SELECTION, CACHE, MODE]), Driver::Journald),
        "syslog" => {
            if let Some(name) = given.keys().find(|name| name.starts_with("syslog-tls-")) {
                return invalid(format!(
                    "log opt '{name}' is not offered: syslog over TLS needs a relay on this machine"
                ));
            }
            (unknown(&[SELECTION, CACHE, MODE, SYSLOG]), syslog(given)?)
        }
        other => {
            return invalid(format!("error looking up logging plugin {other}: plugin \"{other}\" not found"));
        }
    };
    match unknown {
        Some(name) if driver == Driver::Local => invalid(format!("unknown log opt '{name}' for log driver local")),
        Some(name) => {
            let kind = if kind.is_empty() { "json-file" } else { kind };
            invalid(format!("unknown log opt '{name}' for {kind} log driver"))
        }
        None => Ok(driver),
    }
}

fn syslog(given: &Given) -> Result<Driver, Failure> {
    let address = address(given.get("syslog-address").map_or("", String::as_str))?;
    let format = match given.get("syslog-format").map(String::as_str) {
        None | Some("") => Format::Unix,
        Some("rfc3164") => Format::Rfc3164,
        Some("rfc5424") => Format::Rfc5424,
        Some("rfc5424micro") => Format::Rfc5424Micro,
        Some(_) => return invalid("Invalid syslog format"),
    };
    let facility = match given.get("syslog-facility").map_or("daemon", String::as_str) {
        "" => Some(3),
        name => match FACILITIES.iter().position(|known| *known == name) {
            Some(number) => u8::try_from(number).ok(),
            None => name.parse().ok().filter(|number| usize::from(*number) < FACILITIES.len()),
        },
    };
    match facility {
        Some(facility) => Ok(Driver::Syslog { address, format, facility }),
        None => invalid("invalid syslog facility"),
    }
}

fn address(text: &str) -> Result<Address, Failure> {
    if text.is_empty() {
        return Ok(Address::Default);
    }
    match text.split_once("://") {
        Some(("unix" | "unixgram", path)) if path.starts_with('/') => Ok(Address::Unix(PathBuf::from(path))),
        Some(("udp", host)) if !host.is_empty() => Ok(Address::Udp(host.to_owned())),
        Some(("tcp", host)) if !host.is_empty() => Ok(Address::Tcp(host.to_owned())),
        Some(("tcp+tls", _)) => invalid("syslog over TLS is not offered: use a relay on this machine"),
        _ => invalid(format!("syslog-address should be in form proto://address, got {text}")),
    }
}

/// Size, number and packing of files.
fn files(driver: &Driver, given: &Given, prefix: &str) -> Result<(Option<u64>, u32, bool), Failure> {
    let value = |name: &str| given.get(&format!("{prefix}{name}")).map(String::as_str);
    let json = *driver == Driver::JsonFile;
    let size = match value("max-size") {
        None if json => None,
        None => Some(LOCAL_SIZE),
        Some("" | "-1" | "0") if json => None,
        Some(text) => match parse_size(text) {
            Some(0) => return invalid("max size should be a positive number"),
            Some(size) => Some(size),
            None => return invalid(format!("invalid size: '{text}'")),
        },
    };
    let number = match value("max-file") {
        None if json => 1,
        None => LOCAL_FILES,
        Some(text) => match text.parse() {
            Ok(0) => return invalid("max-file cannot be less than 1"),
            Ok(number) => number,
            Err(_) => return invalid(format!("invalid max-file: '{text}'")),
        },
    };
    let compress = switch(given, &format!("{prefix}compress"))?.unwrap_or(!json);
    if json && compress && (number < 2 || size.is_none()) {
        return invalid("compress cannot be true when max-file is less than 2 or max-size is not set");
    }
    if !json && compress && number < 2 {
        return invalid("compression cannot be enabled when max file count is 1");
    }
    Ok((size, number, compress))
}

/// As Go's `ParseBool`.
fn switch(given: &Given, name: &str) -> Result<Option<bool>, Failure> {
    match given.get(name).map(String::as_str) {
        None | Some("") => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(text) => invalid(format!("invalid value for log opt '{name}': \"{text}\" is neither true nor false")),
    }
}

/// What waits for a service, or for a file.
fn buffer(given: &Given) -> Result<Buffer, Failure> {
    let size = given.get("max-buffer-size");
    match given.get("mode").map(String::as_str) {
        None | Some("" | "blocking") if size.is_some() => {
            invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        }
        None | Some("" | "blocking") => Ok(Buffer::Blocking),
        Some("non-blocking") => match size.map(|text| (text, parse_size(text))) {
            None => Ok(Buffer::Dropping { max_bytes: BUFFER_BYTES }),
            Some((_, Some(max_bytes))) => Ok(Buffer::Dropping { max_bytes }),
            Some((text, None)) => invalid(format!("error parsing option max-buffer-size: invalid size: '{text}'")),
        },
        Some(other) => invalid(format!("logger: logging mode not supported: {other}")),
    }
}

/// `10m`, `1.5g`, `512kb`: units of 1024, as go-units reads them.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match lower[number.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1u64 << 40,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    (number >= 0.0 && number.is_finite()).then_some((number * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, options: &[(&str, &str)]) -> Result<LogOptions, Failure> {
        let config = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        LogOptions::read(&LogConfig { kind: kind.to_owned(), config })
    }

    #[test]
    fn files_have_the_drivers_defaults() {
        let json = read("json-file", &[]).unwrap();
        assert_eq!((json.max_size_bytes, json.max_file, json.compress), (None, 1, false));
        let local = read("local", &[("max-size", "1.5kb")]).unwrap();
        assert_eq!((local.max_size_bytes, local.max_file, local.compress), (Some(1536), 5, true));
        let cache = read("journald", &[("cache-max-file", "2")]).unwrap();
        assert_eq!((cache.max_size_bytes, cache.max_file, cache.cached), (Some(20 << 20), 2, true));
        let packed = read("json-file", &[("max-size", "10m"), ("max-file", "3"), ("compress", "true")]).unwrap();
        assert_eq!((packed.max_size_bytes, packed.max_file, packed.compress), (Some(10 << 20), 3, true));
    }

    #[test]
    fn services_are_found() {
        let driver = |options: &[(&str, &str)]| read("syslog", options).unwrap().driver;
        let expected = Driver::Syslog { address: Address::Default, format: Format::Unix, facility: 3 };
        assert_eq!(driver(&[]), expected);
        let options = [("syslog-address", "udp://log:514"), ("syslog-format", "rfc3164"), ("syslog-facility", "17")];
        let address = Address::Udp("log:514".to_owned());
        assert_eq!(driver(&options), Driver::Syslog { address, format: Format::Rfc3164, facility: 17 });
        let mode = [("mode", "non-blocking"), ("max-buffer-size", "2m")];
        assert_eq!(read("syslog", &mode).unwrap().buffer, Buffer::Dropping { max_bytes: 2 << 20 });
    }

    #[test]
    fn what_is_wrong_is_told_as_dockerd_does() {
        for (kind, options, text) in [
            ("json-file", &[("x", "y")][..], "unknown log opt 'x' for json-file log driver"),
            ("local", &[("tag", "y")], "unknown log opt 'tag' for log driver local"),
            ("syslog", &[("max-size", "1m")], "unknown log opt 'max-size' for syslog log driver"),
            ("nope", &[], "error looking up logging plugin nope: plugin \"nope\" not found"),
            ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
            (
                "json-file",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            ("json-file", &[("max-size", "ten")], "invalid size: 'ten'"),
            ("json-file", &[("max-file", "0")], "max-file cannot be less than 1"),
            ("local", &[("max-file", "1")], "compression cannot be enabled when max file count is 1"),
            ("syslog", &[("syslog-address", "log")], "syslog-address should be in form proto://address, got log"),
            ("syslog", &[("syslog-format", "x")], "Invalid syslog format"),
            ("syslog", &[("syslog-facility", "x")], "invalid syslog facility"),
        ] {
            assert_eq!(read(kind, options).unwrap_err().message, text);
        }
        let half = read("json-file", &[("compress", "true"), ("max-size", "1m")]).unwrap_err();
        assert_eq!(half.message, "compress cannot be true when max-file is less than 2 or max-size is not set");
        assert!(read("syslog", &[("syslog-address", "tcp+tls://log:6514")]).is_err());
        assert!(read("json-file", &[("compress", "maybe")]).is_err());
    }
}
