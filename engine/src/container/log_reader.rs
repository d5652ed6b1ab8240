//! Reads logs of the file drivers: `<path>` and its older generations `<path>.1`, `<path>.2`, ..., some of them packed
//! (`<path>.3.gz`).
//!
//! ## Design notes
//! A cursor owns open files, oldest first, so that a rotation under it takes nothing away. Names say nothing for long: the
//! writer may rotate several times between two looks. What holds is that a file's number only ever grows. So a file that
//! has the same number before and after a look had it all the time, and the nearest file below it in that look is the
//! next one written; the files are found step by step that way. A file without links was deleted: whatever is left is
//! newer. A line without its line feed is being written, or was torn by a crash: at the end of the newest file it stays
//! in the buffer until it is whole, at the end of an older file it is dropped. Damaged lines are skipped.
//!
//! A packed file takes the number of the plain one that it was made of, before that goes, and tells in its header which one
//! that was. What is in it is unpacked into a file without a name when its turn comes.
//!
//! As in dockerd, `tail` counts records before they are filtered.

mod generation;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;
use shoal_proto::time::Timestamp;

use self::generation::{Generation, generations, successor};
use super::api::{LogFrame, LogOptions, OutputKind};
use crate::logs::json_file::Stream;
use crate::logs::local;

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// A line longer than this is damage: the writer splits at 16 KiB.
const LONGEST_LINE: usize = 1024 * 1024;
/// A place in a container's log.
#[derive(Debug)]
pub struct LogCursor {
    path: PathBuf,
    format: LogFormat,
    /// Files still to be read, the oldest first. Empty only until the first one appears.
    files: VecDeque<Generation>,
    buffer: Vec<u8>,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    JsonLines,
    /// The local driver's records.
    Local,
}

/// What a read gave.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records, in order.
    pub frames: Vec<LogFrame>,
    /// Is there nothing more at present?
    pub at_end: bool,
}

impl LogCursor {
    /// At the beginning of the oldest generation.
    ///
    /// # Errors
    /// When a file cannot be opened; a missing one is no error.
    pub fn from_start(path: &Path, format: LogFormat) -> io::Result<Self> {
        let files = generations(path)?;
        Ok(Self { path: path.to_owned(), format, files, buffer: Vec::new() })
    }

    /// So many records before the end.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn from_tail(path: &Path, format: LogFormat, records: usize) -> io::Result<Self> {
        let mut cursor = Self::from_start(path, format)?;
        let mut wanted = records;
        for index in (0..cursor.files.len()).rev() {
            let generation = &mut cursor.files[index];
            let file = generation.records()?;
            let (offset, found) = match format {
                LogFormat::JsonLines => tail_offset(file, wanted)?,
                LogFormat::Local => local::tail_offset(file, wanted)?,
            };
            generation.offset = offset;
            wanted -= found;
            if wanted == 0 {
                // Of the newest file nothing may be wanted, but what comes will be.
                cursor.files.drain(..index);
                break;
            }
        }
        Ok(cursor)
    }

    /// Where a set of options begins.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn open(path: &Path, format: LogFormat, options: &LogOptions) -> io::Result<Self> {
        match options.tail {
            Some(records) => Self::from_tail(path, format, records),
            None => Self::from_start(path, format),
        }
    }

    /// The next records: about one block of them.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&mut self) -> io::Result<Batch> {
        loop {
            let Some(current) = self.files.front_mut() else {
                self.files = generations(&self.path)?;
                if self.files.is_empty() {
                    return Ok(Batch { frames: Vec::new(), at_end: true });
                }
                continue;
            };
            let start = self.buffer.len();
            self.buffer.resize(start + BLOCK, 0);
            let offset = current.offset;
            let read = current.records().and_then(|file| file.read_at(&mut self.buffer[start..], offset));
            self.buffer.truncate(start + read.as_ref().map_or(0, |bytes| *bytes));
            let read = read?;
            current.offset += read as u64;
            if read > 0 {
                let frames = match self.format {
                    LogFormat::JsonLines => self.take_lines(),
                    LogFormat::Local => self.take_records(),
                };
                if frames.is_empty() {
                    continue;
                }
                return Ok(Batch { frames, at_end: false });
            }
            if self.files.len() > 1 {
                self.finish_front();
            } else if !self.follow_rotation()? {
                return Ok(Batch { frames: Vec::new(), at_end: true });
            }
        }
    }

    fn finish_front(&mut self) {
        self.files.pop_front();
        self.buffer.clear();
    }

    /// At the end of the newest file: was it rotated or cut? Says whether there may be more to read.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let Some(current) = self.files.front_mut() else { return Ok(false) };
        let length = current.records()?.metadata()?.len();
        if length < current.offset {
            current.offset = 0;
            self.buffer.clear();
            return Ok(true);
        }
        let Some(next) = successor(&self.path, current)? else { return Ok(false) };
        // What was written before the rename may have come after the last read.
        let more = current.records()?.metadata()?.len() > current.offset;
        self.files.push_back(next);
        if !more {
            self.finish_front();
        }
        Ok(true)
    }

    fn take_records(&mut self) -> Vec<LogFrame> {
        let mut frames = Vec::new();
        let mut from = 0;
        loop {
            match local::split(&self.buffer[from..]) {
                Ok(Some(record)) => {
                    let bytes = &self.buffer[from + record.start..from + record.end];
                    frames.extend(local::decode(bytes).map(frame_of));
                    from += local::whole(&record);
                }
                Ok(None) => break,
                // Nothing tells where the next one begins: the rest of the file is lost.
                Err(local::Damaged) => {
                    from = self.buffer.len();
                    if let Some(current) = self.files.front_mut() {
                        current.offset = u64::MAX >> 1;
                    }
                    break;
                }
            }
        }
        self.buffer.drain(..from);
        frames
    }

    fn take_lines(&mut self) -> Vec<LogFrame> {
        let mut frames = Vec::new();
        let mut from = 0;
        while let Some(length) = self.buffer[from..].iter().position(|byte| *byte == b'\n') {
            frames.extend(decode(&self.buffer[from..from + length]));
            from += length + 1;
        }
        self.buffer.drain(..from);
        if self.buffer.len() > LONGEST_LINE {
            self.buffer.clear();
        }
        frames
    }
}

/// Where the last so many whole lines begin, and how many there are.
fn tail_offset(file: &File, lines: usize) -> io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    let mut block = vec![0; BLOCK];
    let mut end = length;
    // Line feeds seen so far; the first ends the last whole line.
    let mut seen = 0;
    while end > 0 {
        let size = usize::try_from(end).unwrap_or(BLOCK).min(BLOCK);
        let start = end - size as u64;
        file.read_exact_at(&mut block[..size], start)?;
        for index in (0..size).rev().filter(|index| block[*index] == b'\n') {
            if seen == lines {
                return Ok((start + index as u64 + 1, lines));
            }
            seen += 1;
        }
        end = start;
    }
    Ok((0, seen))
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
}

fn decode(line: &[u8]) -> Option<LogFrame> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    Some(LogFrame {
        output: if line.stream == "stderr" { OutputKind::Stderr } else { OutputKind::Stdout },
        time: Timestamp::parse(&line.time).ok()?,
        data: Bytes::from(line.log.into_owned().into_bytes()),
        attributes: line.attrs,
    })
}

fn frame_of(record: local::Record) -> LogFrame {
    LogFrame {
        output: if record.stream == Stream::Stderr { OutputKind::Stderr } else { OutputKind::Stdout },
        time: record.time,
        data: Bytes::from(record.line),
        attributes: BTreeMap::new(),
    }
}

/// Does a record pass the options? `None` when no later record can.
pub fn select(frame: &LogFrame, options: &LogOptions) -> Option<bool> {
    if options.until.is_some_and(|until| frame.time > until) {
        return None;
    }
    let wanted = match frame.output {
        OutputKind::Stdout => options.stdout,
        OutputKind::Stderr => options.stderr,
    };
    Some(wanted && options.since.is_none_or(|since| frame.time >= since))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::logs::file::numbered;

    fn line(number: usize) -> String {
        format!(
            "{{\"log\":\"line {number}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00.{number:09}Z\"}}\n"
        )
    }

    fn append(path: &Path, text: &str) {
        File::options().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn rotate(path: &Path, keep: u32) {
        for number in (0..keep).rev() {
            let from = numbered(path, number, false);
            if from.exists() {
                if number + 1 == keep {
                    std::fs::remove_file(from).unwrap();
                } else {
                    std::fs::rename(from, numbered(path, number + 1, false)).unwrap();
                }
            }
        }
    }

    fn drain(cursor: &mut LogCursor) -> Vec<usize> {
        let mut numbers = Vec::new();
        loop {
            let batch = cursor.read().unwrap();
            numbers.extend(batch.frames.iter().map(|frame| {
                let text = std::str::from_utf8(&frame.data).unwrap();
                text.trim_start_matches("line ").trim_end().parse::<usize>().unwrap()
            }));
            if batch.at_end {
                return numbers;
            }
        }
    }

    #[test]
    fn rotation_while_following_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let mut cursor = LogCursor::from_start(&path, LogFormat::JsonLines).unwrap();
        assert_eq!(drain(&mut cursor), Vec::<usize>::new());
        let mut expected = Vec::new();
        for number in 0..50 {
            append(&path, &line(number));
            expected.push(number);
            if number % 7 == 6 {
                rotate(&path, 10);
            }
            if number % 5 == 4 {
                assert_eq!(drain(&mut cursor), expected);
                expected.clear();
            }
        }
    }

    #[test]
    fn a_writer_that_rotates_meanwhile_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                for number in 0..3_000 {
                    append(&path, &line(number));
                    if number % 15 == 14 {
                        rotate(&path, 500);
                    }
                }
            }
        });
        // Several readers, so that some of them fall far behind.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut cursor = LogCursor::from_start(&path, LogFormat::JsonLines).unwrap();
                    let mut seen = Vec::new();
                    while seen.len() < 3_000 {
                        let over = writer.is_finished();
                        let more = drain(&mut cursor);
                        assert!(!(over && more.is_empty()), "only {} lines were seen", seen.len());
                        seen.extend(more);
                    }
                    assert_eq!(seen, (0..3_000).collect::<Vec<_>>());
                });
            }
        });
    }

    #[test]
    fn a_reader_that_fell_behind_goes_on_with_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        append(&path, &line(0));
        let mut cursor = LogCursor::from_start(&path, LogFormat::JsonLines).unwrap();
        assert_eq!(drain(&mut cursor), [0]);
        for number in 1..10 {
            rotate(&path, 3);
            append(&path, &line(number));
        }
        assert_eq!(drain(&mut cursor), [7, 8, 9]);
    }

    #[test]
    fn numbers_left_out_by_crashes_end_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        for (number, generation) in [(0, 6), (1, 4), (2, 3), (3, 0)] {
            append(&numbered(&path, generation, false), &line(number));
        }
        let mut cursor = LogCursor::from_start(&path, LogFormat::JsonLines).unwrap();
        assert_eq!(drain(&mut cursor), [0, 1, 2, 3]);
        rotate(&path, 10);
        append(&path, &line(4));
        assert_eq!(drain(&mut cursor), [4]);
    }

    #[test]
    fn a_torn_line_waits_until_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let whole = line(2);
        append(&path, &line(1));
        append(&path, &whole[..20]);
        let mut cursor = LogCursor::from_start(&path, LogFormat::JsonLines).unwrap();
        assert_eq!(drain(&mut cursor), [1]);
        append(&path, &whole[20..]);
        assert_eq!(drain(&mut cursor), [2]);
    }

    #[test]
    fn damage_is_skipped_and_a_torn_generation_end_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        append(&path, &format!("{}garbage\n\0\0\0\n{}{{\"log\":\"torn", line(1), line(2)));
        rotate(&path, 3);
        append(&path, &line(3));
        assert_eq!(drain(&mut LogCursor::from_start(&path, LogFormat::JsonLines).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn a_cut_file_is_read_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        append(&path, &(line(1) + &line(2)));
        let mut cursor = LogCursor::from_start(&path, LogFormat::JsonLines).unwrap();
        assert_eq!(drain(&mut cursor), [1, 2]);
        File::options().write(true).truncate(true).open(&path).unwrap();
        append(&path, &line(3));
        assert_eq!(drain(&mut cursor), [3]);
    }

    #[test]
    fn tail_zero_gives_only_what_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        append(&path, &line(1));
        let mut cursor = LogCursor::from_tail(&path, LogFormat::JsonLines, 0).unwrap();
        assert_eq!(drain(&mut cursor), Vec::<usize>::new());
        append(&path, &line(2));
        rotate(&path, 3);
        append(&path, &line(3));
        assert_eq!(drain(&mut cursor), [2, 3]);
    }

    #[test]
    fn options_choose_records() {
        let frame = LogFrame {
            output: OutputKind::Stderr,
            time: Timestamp(10),
            data: Bytes::new(),
            attributes: BTreeMap::new(),
        };
        let all = LogOptions::default();
        assert_eq!(select(&frame, &all), Some(true));
        assert_eq!(select(&frame, &LogOptions { stderr: false, ..all.clone() }), Some(false));
        assert_eq!(select(&frame, &LogOptions { since: Some(Timestamp(11)), ..all.clone() }), Some(false));
        assert_eq!(select(&frame, &LogOptions { until: Some(Timestamp(10)), ..all.clone() }), Some(true));
        assert_eq!(select(&frame, &LogOptions { until: Some(Timestamp(9)), ..all }), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn tail_is_the_end_of_the_whole(
            records in prop::collection::vec((1usize..4_000, prop::bool::weighted(0.05)), 0..120),
            tail in 0usize..150,
            torn: bool,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x-json.log");
            for (number, (padding, rotated)) in records.iter().enumerate() {
                let record = line(number);
                let padded = record.replace("\\n\"", &format!("{}\\n\"", " ".repeat(*padding)));
                append(&path, &padded);
                if *rotated {
                    rotate(&path, 200);
                }
            }
            if torn {
                append(&path, "{\"log\":\"half");
            }
            let all = drain(&mut LogCursor::from_start(&path, LogFormat::JsonLines).unwrap());
            prop_assert_eq!(&all, &(0..records.len()).collect::<Vec<_>>());
            let ended = drain(&mut LogCursor::from_tail(&path, LogFormat::JsonLines, tail).unwrap());
            prop_assert_eq!(ended, all[all.len().saturating_sub(tail)..].to_vec());
        }
    }
}
