//! The `journald` log driver: messages in the journal's own protocol, one datagram each.

use std::path::PathBuf;

use shoal_proto::time::Timestamp;

use super::json_file::Stream;
use super::log::Entry;
use super::remote::{Encoder, Target};

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Writes messages with the container's fields.
#[derive(Debug)]
pub(super) struct Journald {
    /// The fields that all messages have, written.
    fields: Vec<u8>,
}

impl Journald {
    pub(super) fn new(fields: &[(String, String)]) -> Self {
        let mut written = Vec::new();
        fields.iter().for_each(|(name, value)| field(name, value.as_bytes(), &mut written));
        Self { fields: written }
    }

    pub(super) fn target() -> Target {
        Target::Unix(vec![PathBuf::from(SOCKET)])
    }
}

/// `NAME=value`, or with the value's length when that holds a line feed.
fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The journal's name for a label or variable: upper case, other signs as `_`, none of these at the beginning.
pub fn field_name(name: &str) -> String {
    let upper =
        name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() as char } else { '_' });
    upper.collect::<String>().trim_start_matches('_').to_owned()
}

impl Encoder for Journald {
    fn encode(&self, entry: &Entry<'_>, _now: Timestamp) -> Vec<u8> {
        let mut message = self.fields.clone();
        let priority = if entry.stream == Stream::Stderr { "3" } else { "6" };
        field("PRIORITY", priority.as_bytes(), &mut message);
        field("SYSLOG_TIMESTAMP", entry.time.to_string().as_bytes(), &mut message);
        if entry.is_piece() {
            field("CONTAINER_PARTIAL_ID", entry.line_id().as_bytes(), &mut message);
            field("CONTAINER_PARTIAL_ORDINAL", entry.ordinal.to_string().as_bytes(), &mut message);
            field("CONTAINER_PARTIAL_LAST", entry.message.ends_line.to_string().as_bytes(), &mut message);
            if !entry.message.ends_line {
                field("CONTAINER_PARTIAL_MESSAGE", b"true", &mut message);
            }
        }
        field("MESSAGE", entry.message.bytes, &mut message);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Message;
    use super::*;

    #[test]
    fn messages_carry_the_containers_fields() {
        let journal =
            Journald::new(&[("CONTAINER_NAME".to_owned(), "web".to_owned()), ("A".to_owned(), "1\n2".to_owned())]);
        let message = Message { bytes: b"hello", ends_line: true, continues: false };
        let entry = Entry { stream: Stream::Stderr, time: Timestamp::from_seconds(1), message, ordinal: 1 };
        let written = journal.encode(&entry, Timestamp(0));
        let expected = b"CONTAINER_NAME=web\nA\n\x03\0\0\0\0\0\0\x001\n2\nPRIORITY=3\nSYSLOG_TIMESTAMP=1970-01-01T00:00:01Z\nMESSAGE=hello\n";
        assert_eq!(written, expected);
        let cut = Entry { message: Message { ends_line: false, ..message }, ..entry };
        let text = String::from_utf8_lossy(&journal.encode(&cut, Timestamp(0))).into_owned();
        assert!(text.contains("CONTAINER_PARTIAL_MESSAGE=true\n") && text.contains("CONTAINER_PARTIAL_ORDINAL=1\n"));
        assert_eq!(field_name("_com.example-x"), "COM_EXAMPLE_X");
    }
}
