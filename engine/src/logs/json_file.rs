//! Writing dockerd's json-file logs: one JSON object a line, rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shoal_proto::time::Timestamp;

use super::lines::{LineCutter, Message};

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

/// A log file with its rotated predecessors.
#[derive(Debug)]
pub struct JsonFileLog {
    path: PathBuf,
    file: File,
    length: u64,
    max_size_bytes: Option<u64>,
    max_file: u32,
    /// `"attrs":{...},` or nothing.
    attributes: String,
    stdout: Unfinished,
    stderr: Unfinished,
    pending: Vec<u8>,
}

#[derive(Debug, Default)]
struct Unfinished {
    cutter: LineCutter,
    /// When the line began that is being written.
    began: Timestamp,
}

impl JsonFileLog {
    /// Opens the log for appending.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(
        path: &Path,
        max_size_bytes: Option<u64>,
        max_file: u32,
        attributes: &[(String, String)],
    ) -> io::Result<Self> {
        let file = open(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
            max_size_bytes,
            max_file: max_file.max(1),
            attributes: encode_attributes(attributes),
            stdout: Unfinished::default(),
            stderr: Unfinished::default(),
            pending: Vec::new(),
        })
    }

    /// Appends a piece of a stream; what is not a whole line yet is held back. All lines of a piece are one write.
    ///
    /// # Errors
    /// When the disk does not take it: those lines are lost, later ones may succeed.
    pub fn write(&mut self, stream: Stream, piece: &[u8], now: Timestamp) -> io::Result<()> {
        self.feed(stream, now, |cutter, emit| cutter.push(piece, emit))
    }

    /// Appends the unfinished lines: the streams have ended.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        let stdout = self.feed(Stream::Stdout, now, |cutter, emit| cutter.finish(emit));
        stdout.and(self.feed(Stream::Stderr, now, |cutter, emit| cutter.finish(emit)))
    }

    fn feed(
        &mut self,
        stream: Stream,
        now: Timestamp,
        cut: impl FnOnce(&mut LineCutter, &mut dyn FnMut(Message<'_>)),
    ) -> io::Result<()> {
        let mut source = std::mem::take(match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        });
        let mut result = Ok(());
        let mut began = source.began;
        cut(&mut source.cutter, &mut |message| {
            if !message.continues {
                began = now;
            }
            let appended = self.append(&message, stream, began);
            if result.is_ok() {
                result = appended;
            }
        });
        source.began = began;
        match stream {
            Stream::Stdout => self.stdout = source,
            Stream::Stderr => self.stderr = source,
        }
        result.and(self.flush())
    }

    fn append(&mut self, message: &Message<'_>, stream: Stream, time: Timestamp) -> io::Result<()> {
        // As dockerd: a file that has reached the limit is rotated before the next message, so one may be a message too long.
        if self.max_size_bytes.is_some_and(|limit| self.length + self.pending.len() as u64 >= limit) {
            self.flush()?;
            self.rotate()?;
        }
        let out = &mut self.pending;
        out.extend_from_slice(b"{\"log\":\"");
        escape(message.bytes, out);
        if message.ends_line {
            out.extend_from_slice(b"\\n");
        }
        out.extend_from_slice(b"\",\"stream\":\"");
        out.extend_from_slice(stream.name().as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(self.attributes.as_bytes());
        // Writing to memory does not fail.
        let _ = writeln!(out, "\"time\":\"{time}\"}}");
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let result = self.file.write_all(&pending);
        if result.is_ok() {
            self.length += pending.len() as u64;
        } else {
            // A line that is cut off would hide the next one: begin a new line after it.
            self.length = self.file.metadata().map_or(self.length, |metadata| metadata.len());
            let _ = self.file.write_all(b"\n");
        }
        result
    }

    /// `log` becomes `log.1`, that one `log.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file > 1 {
            for number in (2..self.max_file).rev() {
                rename_if_there(&numbered(&self.path, number - 1), &numbered(&self.path, number))?;
            }
            rename_if_there(&self.path, &numbered(&self.path, 1))?;
            self.file = open(&self.path)?;
        } else {
            self.file.set_len(0)?;
        }
        self.length = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
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
    use super::*;

    fn written(log: &Path) -> String {
        std::fs::read_to_string(log).unwrap()
    }

    const NOON: Timestamp = Timestamp(1_700_000_000_120_000_000);

    #[test]
    fn lines_look_as_dockerds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let mut log = JsonFileLog::open(&path, None, 1, &[]).unwrap();
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
        let mut log = JsonFileLog::open(&path, None, 1, &attributes).unwrap();
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
        let mut log = JsonFileLog::open(&path, None, 1, &[]).unwrap();
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
        let mut log = JsonFileLog::open(&path, Some(100), 3, &[]).unwrap();
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
        let mut log = JsonFileLog::open(&path, Some(100), 1, &[]).unwrap();
        for number in 0..5 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes(), NOON).unwrap();
        }
        assert_eq!(written(&path).lines().count(), 1);
        drop(log);
        let log = JsonFileLog::open(&path, Some(100), 1, &[]).unwrap();
        assert!(log.length > 0, "an old file counts");
    }
}
