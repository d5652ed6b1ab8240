//! The `syslog` log driver: messages as dockerd formats them.

use jiff::ZonedDateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use shoal_proto::time::Timestamp;

use super::json_file::Stream;
use super::log::Entry;
use super::remote::{Encoder, Target};

/// Severities.
const ERROR: u8 = 3;
const INFORMATION: u8 = 6;

/// Facilities by name, each at its number.
pub const FACILITIES: &[&str] = &[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "",
    "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// How a message looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// As local programs write to `/dev/log`: without a host name.
    Unix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424 with seconds.
    Rfc5424,
    /// RFC 5424 with microseconds.
    Rfc5424Micro,
}

/// What messages say and where they go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The service.
    pub target: Target,
    /// How a message looks.
    pub format: Format,
    /// 0 to 23.
    pub facility: u8,
    /// Stands before each message.
    pub tag: String,
    /// Name of this machine.
    pub hostname: String,
}

/// Formats messages.
#[derive(Debug)]
pub(super) struct Syslog {
    format: Format,
    facility: u8,
    tag: String,
    hostname: String,
    zone: TimeZone,
}

impl Syslog {
    pub(super) fn new(settings: &Settings) -> Self {
        let Settings { format, facility, tag, hostname, .. } = settings.clone();
        Self { format, facility, tag, hostname, zone: TimeZone::try_system().unwrap_or(TimeZone::UTC) }
    }

    fn head(&self, priority: u8, now: Timestamp) -> String {
        let Self { tag, hostname, .. } = self;
        let (pid, time) = (std::process::id(), self.local(now));
        match self.format {
            Format::Unix => format!("<{priority}>{} {tag}[{pid}]: ", time.strftime("%b %e %H:%M:%S")),
            Format::Rfc3164 => format!("<{priority}>{} {hostname} {tag}[{pid}]: ", time.strftime("%b %e %H:%M:%S")),
            Format::Rfc5424 => {
                format!("<{priority}>1 {} {hostname} {tag} {pid} {tag} - ", zoned(&time, "%Y-%m-%dT%H:%M:%S"))
            }
            Format::Rfc5424Micro => {
                format!("<{priority}>1 {} {hostname} {tag} {pid} {tag} - ", zoned(&time, "%Y-%m-%dT%H:%M:%S%.6f"))
            }
        }
    }

    fn local(&self, now: Timestamp) -> ZonedDateTime {
        jiff::Timestamp::from_nanosecond(i128::from(now.0)).unwrap_or_default().to_zoned_datetime(self.zone.clone())
    }
}

/// With the distance to UTC behind it, which is `Z` when there is none.
fn zoned(time: &ZonedDateTime, format: &str) -> String {
    let distance = if time.offset().is_zero() { "Z".to_owned() } else { time.strftime("%:z").to_string() };
    format!("{}{distance}", time.strftime(format))
}

impl Encoder for Syslog {
    fn encode(&self, entry: &Entry<'_>, now: Timestamp) -> Vec<u8> {
        let severity = if entry.stream == Stream::Stderr { ERROR } else { INFORMATION };
        let mut message = self.head(self.facility << 3 | severity, now).into_bytes();
        message.extend_from_slice(entry.message.bytes);
        message.push(b'\n');
        message
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Message;
    use super::*;

    #[test]
    fn messages_look_as_dockerds() {
        let pid = std::process::id();
        let written = |format: Format, stream: Stream| {
            let syslog = Syslog {
                format,
                facility: 3,
                tag: "web".to_owned(),
                hostname: "node".to_owned(),
                zone: TimeZone::fixed(jiff::tz::offset(1)),
            };
            let message = Message { bytes: b"hello", ends_line: true, continues: false };
            let entry = Entry { stream, time: Timestamp(0), message, ordinal: 1 };
            String::from_utf8(syslog.encode(&entry, Timestamp(1_700_000_000_120_000_000))).unwrap()
        };
        assert_eq!(written(Format::Unix, Stream::Stdout), format!("<30>Nov 14 23:13:20 web[{pid}]: hello\n"));
        assert_eq!(written(Format::Rfc3164, Stream::Stderr), format!("<27>Nov 14 23:13:20 node web[{pid}]: hello\n"));
        assert_eq!(
            written(Format::Rfc5424, Stream::Stdout),
            format!("<30>1 2023-11-14T23:13:20+01:00 node web {pid} web - hello\n")
        );
        assert_eq!(
            written(Format::Rfc5424Micro, Stream::Stdout),
            format!("<30>1 2023-11-14T23:13:20.120000+01:00 node web {pid} web - hello\n")
        );
        assert_eq!(FACILITIES[16], "local0");
    }
}
