//! Where a container's log goes, from its options; and where it is read.

use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use regex::Regex;
use shoal_proto::error::{ErrorKind, Failure, chain};

use super::record::Record;
use super::validate::logging::{Address, Driver, LogOptions};
use crate::container::log_reader::LogFormat;
use crate::logs::journald;
use crate::logs::remote::Target;
use crate::logs::syslog;
use crate::shim::config::{LogFile, LogSink};

/// The local driver's file in the container's folder.
const LOCAL_FILE: &str = "local.log";
/// What is kept beside a log service, for `logs`.
const CACHE_FILE: &str = "cached.log";
/// Where local programs reach a syslog service.
const SYSLOG_SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
const SYSLOG_PORT: u16 = 514;

/// The json-file driver's file.
pub(crate) fn json_file(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}-json.log"))
}

/// Where the log of a container is read; `None` when its driver keeps nothing.
pub(crate) fn readable(record: &Record, folder: &Path) -> Option<(PathBuf, LogFormat)> {
    let options = LogOptions::read(&record.host_config.log_config).ok()?;
    match options.driver {
        Driver::None => None,
        Driver::JsonFile => Some((json_file(folder, &record.id), LogFormat::JsonLines)),
        Driver::Local => Some((folder.join(LOCAL_FILE), LogFormat::Local)),
        Driver::Syslog { .. } | Driver::Journald => options.cached.then(|| (folder.join(CACHE_FILE), LogFormat::Local)),
    }
}

/// What the shim is told. Looks a syslog service's address up, which may take time. Blocks.
pub(crate) fn sink(record: &Record, folder: &Path, hostname: &str) -> Result<LogSink, Failure> {
    let options = LogOptions::read(&record.host_config.log_config)?;
    let file = |path: PathBuf| LogFile {
        path,
        max_size_bytes: options.max_size_bytes,
        max_file: options.max_file,
        compress: options.compress,
    };
    let attributes = attributes(record, &options)?;
    let cache = options.cached.then(|| file(folder.join(CACHE_FILE)));
    let tag = |default: &str| tag(record, options.tag.as_deref().filter(|tag| !tag.is_empty()).unwrap_or(default));
    Ok(match &options.driver {
        Driver::None => LogSink::None,
        Driver::JsonFile => {
            let mut attributes = attributes;
            if options.tag.as_ref().is_some_and(|tag| !tag.is_empty()) {
                attributes.push(("tag".to_owned(), tag("")?));
            }
            LogSink::JsonFile { file: file(json_file(folder, &record.id)), attributes, buffer: options.buffer }
        }
        Driver::Local => LogSink::Local { file: file(folder.join(LOCAL_FILE)), buffer: options.buffer },
        Driver::Syslog { address, format, facility } => {
            let settings = syslog::Settings {
                target: target(address)?,
                format: *format,
                facility: *facility,
                tag: tag("{{.ID}}")?,
                hostname: hostname.to_owned(),
            };
            LogSink::Syslog { settings, buffer: options.buffer, cache }
        }
        Driver::Journald => {
            if !Path::new(journald::SOCKET).exists() {
                return Err(failed("journald is not enabled on this host"));
            }
            let fields = journal_fields(record, &tag("{{.ID}}")?, attributes);
            LogSink::Journald { fields, buffer: options.buffer, cache }
        }
    })
}

fn failed(reason: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorKind::Internal, format!("failed to initialize logging driver: {reason}"))
}

fn target(address: &Address) -> Result<Target, Failure> {
    let look_up = |host: &str| {
        let mut found = match host.rsplit_once(':').filter(|(name, _)| !name.contains(':') || name.ends_with(']')) {
            Some(_) => host.to_socket_addrs(),
            None => (host.trim_matches(['[', ']']), SYSLOG_PORT).to_socket_addrs(),
        }
        .map_err(|error| failed(format_args!("cannot find {host}: {}", chain(&error))))?;
        found.next().ok_or_else(|| failed(format_args!("{host} has no address")))
    };
    Ok(match address {
        Address::Default => Target::Unix(SYSLOG_SOCKETS.map(PathBuf::from).to_vec()),
        Address::Unix(path) => Target::Unix(vec![path.clone()]),
        Address::Udp(host) => Target::Udp(look_up(host)?),
        Address::Tcp(host) => Target::Tcp(look_up(host)?),
    })
}

/// Labels and variables that the options name, sorted.
fn attributes(record: &Record, options: &LogOptions) -> Result<Vec<(String, String)>, Failure> {
    let pattern = |text: &Option<String>| -> Result<Option<Regex>, Failure> {
        text.as_deref()
            .filter(|text| !text.is_empty())
            .map(Regex::new)
            .transpose()
            .map_err(|error| failed(chain(&error)))
    };
    let (label_pattern, variable_pattern) = (pattern(&options.labels_regex)?, pattern(&options.env_regex)?);
    let wanted = |names: &[String], pattern: &Option<Regex>, name: &str| {
        names.iter().any(|wanted| wanted == name) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
    };
    let mut found = std::collections::BTreeMap::new();
    for (label, value) in &record.config.labels {
        if wanted(&options.labels, &label_pattern, label) {
            found.insert(label.clone(), value.clone());
        }
    }
    for (name, value) in record.config.env.iter().flatten().filter_map(|entry| entry.split_once('=')) {
        if wanted(&options.env, &variable_pattern, name) {
            found.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(found.into_iter().collect())
}

fn journal_fields(record: &Record, tag: &str, attributes: Vec<(String, String)>) -> Vec<(String, String)> {
    let own = [
        ("CONTAINER_ID", record.id[..12].to_owned()),
        ("CONTAINER_ID_FULL", record.id.clone()),
        ("CONTAINER_NAME", record.name.clone()),
        ("CONTAINER_TAG", tag.to_owned()),
        ("IMAGE_NAME", record.image_name()),
        ("SYSLOG_IDENTIFIER", tag.to_owned()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    let more = attributes.into_iter().map(|(name, value)| (journald::field_name(&name), value));
    own.chain(more.filter(|(name, _)| !name.is_empty())).collect()
}

/// Fills a tag's template: `{{.Name}}` and the like.
fn tag(record: &Record, template: &str) -> Result<String, Failure> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("{{") {
        let (word, behind) = after.split_once("}}").ok_or_else(|| failed("template: log-tag: unclosed action"))?;
        text.push_str(before);
        text.push_str(&tag_field(record, word.trim())?);
        rest = behind;
    }
    text.push_str(rest);
    Ok(text)
}

fn tag_field(record: &Record, word: &str) -> Result<String, Failure> {
    let image = record.image.to_string();
    let short = |digest: &str| digest.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    Ok(match word {
        ".ID" => record.id[..12].to_owned(),
        ".FullID" | ".ContainerID" => record.id.clone(),
        ".Name" => record.name.clone(),
        ".ContainerName" => format!("/{}", record.name),
        ".ImageID" => short(&image),
        ".ImageFullID" | ".ContainerImageID" => image,
        ".ImageName" | ".ContainerImageName" => record.image_name(),
        ".Command" => std::iter::once(&record.path).chain(&record.args).cloned().collect::<Vec<_>>().join(" "),
        ".DaemonName" => "docker".to_owned(),
        other => {
            return Err(failed(format_args!(
                "template: log-tag: can't evaluate {other}: ID, FullID, Name, ImageID, ImageFullID, ImageName, Command and \
                 DaemonName are known"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;
    use crate::logs::remote::Buffer;
    use crate::model::LogConfig;

    fn subject(kind: &str, options: &[(&str, &str)]) -> Record {
        let mut subject = record(&"a1".repeat(32), "web");
        subject.config.labels = [("com.a".to_owned(), "1".to_owned()), ("org.b".to_owned(), "2".to_owned())].into();
        subject.config.env = Some(vec!["COLOUR=red".to_owned(), "SIZE=9".to_owned(), "OTHER=x".to_owned()]);
        let config = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        subject.host_config.log_config = LogConfig { kind: kind.to_owned(), config };
        subject
    }

    #[test]
    fn attributes_are_labels_variables_and_the_tag() {
        let subject = subject(
            "json-file",
            &[("labels", "com.a"), ("env", "COLOUR"), ("env-regex", "^SI"), ("tag", "{{.Name}}/{{ .ID }}")],
        );
        let LogSink::JsonFile { attributes, .. } = sink(&subject, Path::new("/f"), "node").unwrap() else { panic!() };
        let expected = [("COLOUR", "red"), ("SIZE", "9"), ("com.a", "1"), ("tag", "web/a1a1a1a1a1a1")];
        assert_eq!(attributes, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn files_have_the_mode_that_was_asked_for() {
        let options = [("mode", "non-blocking"), ("max-buffer-size", "64k")];
        for kind in ["json-file", "local"] {
            match sink(&subject(kind, &options), Path::new("/f"), "node").unwrap() {
                LogSink::JsonFile { buffer, .. } | LogSink::Local { buffer, .. } => {
                    assert_eq!(buffer, Buffer::Dropping { max_bytes: 65536 }, "{kind}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_refused() {
        for (name, value) in [("tag", "{{.Nope}}"), ("tag", "{{.Name"), ("labels-regex", "(")] {
            let failure = sink(&subject("json-file", &[(name, value)]), Path::new("/f"), "node").unwrap_err();
            assert!(failure.message.starts_with("failed to initialize logging driver: "), "{failure}");
        }
    }

    #[test]
    fn services_have_a_cache_to_read() {
        let address = ("syslog-address", "udp://127.0.0.1:5514");
        let with =
            subject("syslog", &[address, ("tag", "x"), ("syslog-facility", "local3"), ("syslog-format", "rfc5424")]);
        let LogSink::Syslog { settings, cache, .. } = sink(&with, Path::new("/f"), "node").unwrap() else { panic!() };
        assert_eq!((settings.facility, settings.tag.as_str(), settings.format), (19, "x", syslog::Format::Rfc5424));
        assert_eq!(settings.target, Target::Udp("127.0.0.1:5514".parse().unwrap()));
        assert_eq!(cache.map(|file| file.path), readable(&with, Path::new("/f")).map(|(path, _)| path));
        let without = subject("syslog", &[address, ("cache-disabled", "true")]);
        assert!(readable(&without, Path::new("/f")).is_none());
        assert!(readable(&subject("none", &[]), Path::new("/f")).is_none());
    }
}
