//! Writing dockerd's json-file logs: one JSON object a line, rotated by size.

use std::io::{self, Write};

use super::file::RotatedFile;
use super::log::Entry;
use crate::shim::config::LogFile;

/// Which stream a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A log in this format.
#[derive(Debug)]
pub(crate) struct JsonFileLog {
    file: RotatedFile,
    /// `"attrs":{...},` or nothing.
    attributes: String,
}

impl JsonFileLog {
    /// Opens the log for appending.
    pub(crate) fn open(options: &LogFile, attributes: &[(String, String)]) -> io::Result<Self> {
        let file = RotatedFile::open(options)?;
        Ok(Self { file, attributes: encode_attributes(attributes) })
    }

    pub(super) fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let out = self.file.begin_record()?;
        out.extend_from_slice(b"{\"log\":\"");
        escape(entry.message.bytes, out);
        if entry.message.ends_line {
            out.extend_from_slice(b"\\n");
        }
        out.extend_from_slice(b"\",\"stream\":\"");
        out.extend_from_slice(entry.stream.name().as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(self.attributes.as_bytes());
        // Writing to memory does not fail.
        let _ = writeln!(out, "\"time\":\"{}\"}}", entry.time);
        Ok(())
    }

    pub(super) fn file(&mut self) -> &mut RotatedFile {
        &mut self.file
    }
}

fn encode_attributes(attributes: &[(String, String)]) -> String {
    if attributes.is_empty() {
        return String::new();
    }
    let mut sorted = attributes.to_vec();
    sorted.sort();
    let one = |(name, value): &(String, String)| format!("{}:{}", json_text(name), json_text(value));
    let all: Vec<String> = sorted.iter().map(one).collect();
    format!("\"attrs\":{{{}}},", all.join(","))
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// As Go's encoder of dockerd: `<`, `>`, `&` and the two odd line separators escaped, bytes that are not UTF-8 replaced.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid().as_bytes();
        let mut plain = 0;
        for (at, byte) in text.iter().enumerate() {
            let skip = match byte {
                b'"' | b'\\' | b'<' | b'>' | b'&' | 0..0x20 => 1,
                // U+2028 and U+2029 are E2 80 A8 and E2 80 A9.
                0xe2 if text[at + 1] == 0x80 && matches!(text[at + 2], 0xa8 | 0xa9) => 3,
                _ => continue,
            };
            out.extend_from_slice(&text[plain..at]);
            plain = at + skip;
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                0xe2 => out.extend_from_slice(&[b'\\', b'u', b'2', b'0', b'2', HEX[usize::from(text[at + 2] & 0xf)]]),
                _ => out.extend_from_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    HEX[usize::from(byte >> 4)],
                    HEX[usize::from(byte & 0xf)],
                ]),
            }
        }
        out.extend_from_slice(&text[plain..]);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shoal_proto::time::Timestamp;

    use super::super::Log;
    use super::super::remote::Buffer;
    use super::*;
    use crate::shim::config::LogSink;

    /// A whole log of that driver.
    fn open(path: &Path, max_size_bytes: Option<u64>, max_file: u32, attributes: &[(String, String)]) -> Log {
        let file = LogFile { path: path.to_owned(), max_size_bytes, max_file, compress: false };
        Log::open(&LogSink::JsonFile { file, attributes: attributes.to_vec(), buffer: Buffer::Blocking })
            .unwrap()
            .unwrap()
    }

    fn written(log: &Path) -> String {
        std::fs::read_to_string(log).unwrap()
    }

    const NOON: Timestamp = Timestamp(1_700_000_000_120_000_000);

    #[test]
    fn lines_look_as_dockerds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let mut log = open(&path, None, 1, &[]);
        log.write(Stream::Stdout, b"hello <b>\"\\\t\r\n", NOON).unwrap();
        log.write(Stream::Stderr, "\u{2028}\u{fe}\n".as_bytes(), NOON).unwrap();
        log.write(Stream::Stdout, b"\xff\xe2\x28 part", NOON).unwrap();
        log.finish(NOON).unwrap();
        assert_eq!(
            written(&path),
            concat!(
                r#"{"log":"hello \u003cb\u003e\"\\\u0009\r\n","stream":"stdout","time":"2023-11-14T22:13:20.12Z"}"#,
                "\n",
                r#"{"log":"\u2028þ\n","stream":"stderr","time":"2023-11-14T22:13:20.12Z"}"#,
                "\n",
                r#"{"log":"\ufffd\ufffd( part","stream":"stdout","time":"2023-11-14T22:13:20.12Z"}"#,
                "\n",
            )
        );
    }

    #[test]
    fn attributes_stand_before_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let attributes = [("tag".to_owned(), "a\"b".to_owned()), ("com.x".to_owned(), "1".to_owned())];
        let mut log = open(&path, None, 1, &attributes);
        log.write(Stream::Stdout, b"x\n", NOON).unwrap();
        assert_eq!(
            written(&path),
            "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"com.x\":\"1\",\"tag\":\"a\\\"b\"},\"time\":\"2023-11-14T22:13:20.12Z\"}\n"
        );
    }

    #[test]
    fn pieces_of_one_line_have_one_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let mut log = open(&path, None, 1, &[]);
        log.write(Stream::Stdout, &[b'x'; 16 * 1024], NOON).unwrap();
        log.write(Stream::Stdout, b"end\n", Timestamp(NOON.0 + 1_000_000_000)).unwrap();
        let text = written(&path);
        assert_eq!(text.matches("22:13:20.12Z").count(), 2);
        assert!(text.ends_with("{\"log\":\"end\\n\",\"stream\":\"stdout\",\"time\":\"2023-11-14T22:13:20.12Z\"}\n"));
    }

    #[test]
    fn full_files_are_rotated_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let mut log = open(&path, Some(100), 3, &[]);
        for number in 0..20 {
            log.write(Stream::Stdout, format!("line {number:02}\n").as_bytes(), NOON).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["x-json.log", "x-json.log.1", "x-json.log.2"]);
        let (newest, middle, oldest) =
            (written(&path), written(&dir.path().join("x-json.log.1")), written(&dir.path().join("x-json.log.2")));
        assert!(
            newest.contains("line 19") && middle.contains("line 17") && oldest.contains("line 15"),
            "{newest}{middle}{oldest}"
        );
        assert_eq!(middle.lines().count(), 2);
    }

    #[test]
    fn a_single_file_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let mut log = open(&path, Some(100), 1, &[]);
        for number in 0..5 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes(), NOON).unwrap();
        }
        assert_eq!(written(&path).lines().count(), 1);
        drop(log);
        let mut log = open(&path, Some(100), 1, &[]);
        log.write(Stream::Stdout, b"more\n", NOON).unwrap();
        log.write(Stream::Stdout, b"last\n", NOON).unwrap();
        assert_eq!(written(&path).lines().count(), 1, "an old file counts");
    }
}
