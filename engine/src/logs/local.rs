//! The `local` log driver: records with their length before and behind them, as dockerd's, in rotated and packed files.
//!
//! A record is a protobuf message: source (1), time in nanoseconds (2), line (3), whether it is a piece of a line (4), and of
//! which one (5: whether the last, an id, an ordinal).

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use shoal_proto::time::Timestamp;

use super::file::RotatedFile;
use super::json_file::Stream;
use super::log::Entry;
use crate::shim::config::LogFile;

/// A record longer than this is damage: the writer splits at 16 KiB.
pub const LONGEST_RECORD: usize = 1024 * 1024;
/// Bytes of each of the two lengths.
const LENGTH: usize = 4;

/// A log in this format.
#[derive(Debug)]
pub(crate) struct LocalLog {
    file: RotatedFile,
}

impl LocalLog {
    /// Opens the log for appending. A record that a crash tore off is cut away.
    pub(crate) fn open(options: &LogFile) -> io::Result<Self> {
        let mut file = RotatedFile::open(options)?;
        let reader = File::open(file.path())?;
        let length = reader.metadata()?.len();
        if length > 0 && before(&reader, length)?.is_none() {
            let end = forward(&reader, 0)?.0;
            file.cut(end)?;
        }
        Ok(Self { file })
    }

    pub(super) fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        encode(entry, self.file.begin_record()?);
        Ok(())
    }

    pub(super) fn file(&mut self) -> &mut RotatedFile {
        &mut self.file
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes_field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[expect(clippy::cast_sign_loss, reason = "protobuf's int64 is written as its two's complement")]
fn encode(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    bytes_field(0x0a, entry.stream.name().as_bytes(), out);
    out.push(0x10);
    varint(entry.time.0 as u64, out);
    bytes_field(0x1a, entry.message.bytes, out);
    if entry.is_piece() {
        out.extend_from_slice(&[0x20, 1]);
        let mut piece = Vec::new();
        if entry.message.ends_line {
            piece.extend_from_slice(&[0x08, 1]);
        }
        bytes_field(0x12, entry.line_id().as_bytes(), &mut piece);
        piece.push(0x18);
        varint(u64::from(entry.ordinal), &mut piece);
        bytes_field(0x2a, &piece, out);
    }
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX).to_be_bytes();
    out[start..start + LENGTH].copy_from_slice(&length);
    out.extend_from_slice(&length);
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which stream.
    pub stream: Stream,
    /// When.
    pub time: Timestamp,
    /// The message, with the line feed that ends its line.
    pub line: Vec<u8>,
}

/// A field of a protobuf message: a number, or bytes.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = take_varint(bytes)?;
    let value = match tag & 7 {
        0 => Value::Number(take_varint(bytes)?),
        2 => {
            let length = usize::try_from(take_varint(bytes)?).ok()?;
            let (field, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Value::Bytes(field)
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

/// Reads a record without its lengths; `None` when it is damaged.
#[expect(clippy::cast_possible_wrap, reason = "protobuf's int64 is written as its two's complement")]
pub fn decode(mut bytes: &[u8]) -> Option<Record> {
    let mut record = Record { stream: Stream::Stdout, time: Timestamp(0), line: Vec::new() };
    let mut ends_line = true;
    while !bytes.is_empty() {
        match take_field(&mut bytes)? {
            (1, Value::Bytes(b"stderr")) => record.stream = Stream::Stderr,
            (2, Value::Number(time)) => record.time = Timestamp(time as i64),
            (3, Value::Bytes(line)) => record.line = line.to_vec(),
            (5, Value::Bytes(mut piece)) => {
                ends_line = false;
                while !piece.is_empty() {
                    if let (1, Value::Number(last)) = take_field(&mut piece)? {
                        ends_line = last != 0;
                    }
                }
            }
            _ => {}
        }
    }
    if ends_line {
        record.line.push(b'\n');
    }
    Some(record)
}

/// Where the first whole record of a buffer is, without its lengths; `None` when it is not whole yet.
///
/// # Errors
/// When what is there can never become a record.
pub fn split(buffer: &[u8]) -> Result<Option<Range<usize>>, Damaged> {
    let Some((head, _)) = buffer.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > LONGEST_RECORD {
        return Err(Damaged);
    }
    let end = LENGTH + length;
    if buffer.len() < end + LENGTH {
        return Ok(None);
    }
    if buffer[end..end + LENGTH] == *head { Ok(Some(LENGTH..end)) } else { Err(Damaged) }
}

/// This is no file of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record of a local log")]
pub struct Damaged;

/// The bytes that the whole record takes whose end is there.
pub const fn whole(record: &Range<usize>) -> usize {
    record.end + LENGTH
}

/// Where the record begins that ends there; `None` when none does.
fn before(file: &File, end: u64) -> io::Result<Option<u64>> {
    let mut tail = [0; LENGTH];
    if end < 2 * LENGTH as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut tail, end - LENGTH as u64)?;
    let length = u64::from(u32::from_be_bytes(tail));
    let Some(start) = end.checked_sub(length + 2 * LENGTH as u64) else { return Ok(None) };
    let mut head = [0; LENGTH];
    file.read_exact_at(&mut head, start)?;
    Ok((head == tail).then_some(start))
}

/// Goes through a file: where its whole records end, and where the last so many begin.
fn forward(file: &File, last: usize) -> io::Result<(u64, VecDeque<u64>)> {
    let length = file.metadata()?.len();
    let (mut at, mut starts) = (0, VecDeque::new());
    loop {
        let mut head = [0; LENGTH];
        if at + LENGTH as u64 > length {
            break;
        }
        file.read_exact_at(&mut head, at)?;
        let end = at + u64::from(u32::from_be_bytes(head)) + 2 * LENGTH as u64;
        if end > length || before(file, end)? != Some(at) {
            break;
        }
        starts.push_back(at);
        if starts.len() > last {
            starts.pop_front();
        }
        at = end;
    }
    Ok((at, starts))
}

/// Where the last so many whole records begin, and how many there are.
///
/// # Errors
/// When the file cannot be read.
pub fn tail_offset(file: &File, records: usize) -> io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    if length > 0 && before(file, length)?.is_none() {
        // One is being written, or was torn: its end says nothing.
        let (end, starts) = forward(file, records)?;
        return Ok((starts.front().copied().unwrap_or(end), starts.len()));
    }
    let (mut at, mut found) = (length, 0);
    while found < records && at > 0 {
        let Some(start) = before(file, at)? else { break };
        (at, found) = (start, found + 1);
    }
    Ok((at, found))
}

#[cfg(test)]
mod tests {
    use super::super::lines::Message;
    use super::*;

    fn entry(bytes: &[u8], ends_line: bool, continues: bool) -> Entry<'_> {
        Entry {
            stream: Stream::Stderr,
            time: Timestamp(1_700_000_000_120_000_000),
            message: Message { bytes, ends_line, continues },
            ordinal: 1 + u32::from(continues),
        }
    }

    fn options(path: &std::path::Path, max_size_bytes: Option<u64>, compress: bool) -> LogFile {
        LogFile { path: path.to_owned(), max_size_bytes, max_file: 3, compress }
    }

    #[test]
    fn records_are_dockerds() {
        let mut bytes = Vec::new();
        encode(&entry(b"hi", true, false), &mut bytes);
        let expected: &[u8] = b"\0\0\0\x16\x0a\x06stderr\x10\x80\x9c\xc4\xea\xe3\x9f\xe7\xcb\x17\x1a\x02hi\0\0\0\x16";
        assert_eq!(bytes, expected);
        let range = split(&bytes).unwrap().unwrap();
        assert_eq!(whole(&range), bytes.len());
        let record = decode(&bytes[range]).unwrap();
        assert_eq!((record.stream, record.line.as_slice()), (Stream::Stderr, &b"hi\n"[..]));
        for (ends_line, continues, line) in [(false, false, &b"x"[..]), (false, true, b"x"), (true, true, b"x\n")] {
            let mut bytes = Vec::new();
            encode(&entry(b"x", ends_line, continues), &mut bytes);
            let range = split(&bytes).unwrap().unwrap();
            assert_eq!(decode(&bytes[range]).unwrap().line, line);
        }
        assert!(split(&[255; 16]).is_err() && split(b"\0\0\0\x01x\0\0\0\x02").is_err());
    }

    #[test]
    fn a_torn_record_is_cut_away_and_the_tail_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.log");
        let mut log = LocalLog::open(&options(&path, None, false)).unwrap();
        for line in [&b"one"[..], b"two", b"three"] {
            log.push(&entry(line, true, false)).unwrap();
        }
        log.file().flush().unwrap();
        let good = std::fs::read(&path).unwrap();
        let file = File::open(&path).unwrap();
        let (offset, found) = tail_offset(&file, 2).unwrap();
        assert_eq!((found, tail_offset(&file, 9).unwrap()), (2, (0, 3)));
        std::fs::write(&path, [&good[..], b"\0\0\0\x40half"].concat()).unwrap();
        let torn = File::open(&path).unwrap();
        assert_eq!(tail_offset(&torn, 2).unwrap(), (offset, 2));
        assert_eq!(tail_offset(&torn, 0).unwrap(), (good.len() as u64, 0));
        LocalLog::open(&options(&path, None, false)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }

    #[test]
    fn full_files_are_rotated_and_packed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.log");
        let mut log = LocalLog::open(&options(&path, Some(60), true)).unwrap();
        for number in 0..9 {
            log.push(&entry(format!("line {number}").as_bytes(), true, false)).unwrap();
            log.file().flush().unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["local.log", "local.log.1.gz", "local.log.2.gz"]);
    }
}
