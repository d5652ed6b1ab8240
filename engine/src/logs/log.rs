//! A container's log as the shim writes it: streams are cut into messages, which go to the drivers.

use std::io;
use std::os::fd::BorrowedFd;

use shoal_engine_sys::process::SingleThread;
use shoal_proto::time::Timestamp;

use super::file::RotatedFile;
use super::journald::Journald;
use super::json_file::{JsonFileLog, Stream};
use super::lines::{LineCutter, Message};
use super::local::LocalLog;
use super::remote::{Buffer, Remote};
use super::syslog::Syslog;
use super::writer::Writer;
use crate::shim::config::{LogFile, LogSink};

/// One message of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// Which stream.
    pub(crate) stream: Stream,
    /// When its line began.
    pub(crate) time: Timestamp,
    /// What was written.
    pub(crate) message: Message<'a>,
    /// Which piece of its line it is, from 1.
    pub(crate) ordinal: u32,
}

impl Entry<'_> {
    /// Is it not a whole line?
    pub(crate) fn is_piece(&self) -> bool {
        self.message.continues || !self.message.ends_line
    }

    /// What the pieces of one line have in common.
    pub(crate) fn line_id(&self) -> String {
        format!("{:x}{}", self.time.0, self.stream.name())
    }
}

#[derive(Debug, Default)]
struct Unfinished {
    cutter: LineCutter,
    /// When the line began that is being written.
    began: Timestamp,
    ordinal: u32,
}

/// The files of a driver.
#[derive(Debug)]
pub(super) enum Records {
    JsonFile(JsonFileLog),
    Local(LocalLog),
}

/// A container's log.
#[derive(Debug)]
pub(crate) struct Log {
    stdout: Unfinished,
    stderr: Unfinished,
    records: Option<Records>,
    remote: Option<Remote>,
    /// Writes the records that `remote` gets, if that is no service.
    writer: Option<Writer>,
}

impl Log {
    /// Opens what the configuration names; `None` when the output goes nowhere.
    pub(crate) fn open(sink: &LogSink) -> io::Result<Option<Self>> {
        let cache = |file: &Option<LogFile>| -> io::Result<Option<Records>> {
            file.as_ref().map(|file| LocalLog::open(file).map(Records::Local)).transpose()
        };
        let (records, remote) = match sink {
            LogSink::None => return Ok(None),
            LogSink::JsonFile { file, attributes, buffer } => {
                return Self::to_file(Records::JsonFile(JsonFileLog::open(file, attributes)?), *buffer).map(Some);
            }
            LogSink::Local { file, buffer } => {
                return Self::to_file(Records::Local(LocalLog::open(file)?), *buffer).map(Some);
            }
            LogSink::Syslog { settings, buffer, cache: file } => {
                let remote = Remote::connect(settings.target.clone(), *buffer, Box::new(Syslog::new(settings)))?;
                (cache(file)?, Some(remote))
            }
            LogSink::Journald { fields, buffer, cache: file } => {
                let remote = Remote::connect(Journald::target(), *buffer, Box::new(Journald::new(fields)))?;
                (cache(file)?, Some(remote))
            }
        };
        Ok(Some(Self::new(records, remote, None)))
    }

    fn new(records: Option<Records>, remote: Option<Remote>, writer: Option<Writer>) -> Self {
        Self { stdout: Unfinished::default(), stderr: Unfinished::default(), records, remote, writer }
    }

    /// A container that is not to wait has a process that does. Only a shim can make one.
    fn to_file(records: Records, buffer: Buffer) -> io::Result<Self> {
        match (buffer, SingleThread::prove()) {
            (Buffer::Dropping { .. }, Ok(single)) => {
                let (writer, remote) = Writer::fork(&single, records, buffer)?;
                Ok(Self::new(None, Some(remote), Some(writer)))
            }
            _ => Ok(Self::new(Some(records), None, None)),
        }
    }

    /// Takes a piece of a stream; what is not a whole line yet is held back. All lines of a piece are one write.
    ///
    /// # Errors
    /// When a driver does not take it: those lines are lost, later ones may succeed.
    pub(crate) fn write(&mut self, stream: Stream, piece: &[u8], now: Timestamp) -> io::Result<()> {
        self.feed(stream, now, |cutter, emit| cutter.push(piece, emit))
    }

    /// Writes the unfinished lines: the streams have ended. Waits a moment for a log service that is slow.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        let stdout = self.feed(Stream::Stdout, now, |cutter, emit| cutter.finish(emit));
        let stderr = self.feed(Stream::Stderr, now, |cutter, emit| cutter.finish(emit));
        if let Some(records) = &mut self.records {
            records.file().finish();
        }
        let sent = self.remote.take().map_or(Ok(()), |mut remote| remote.finish());
        let written = self.writer.take().map_or(Ok(()), Writer::finish);
        stdout.and(stderr).and(sent).and(written)
    }

    fn feed(
        &mut self,
        stream: Stream,
        now: Timestamp,
        cut: impl FnOnce(&mut LineCutter, &mut dyn FnMut(Message<'_>)),
    ) -> io::Result<()> {
        let source = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let (records, remote) = (&mut self.records, &mut self.remote);
        let mut result = Ok(());
        let Unfinished { cutter, began, ordinal } = source;
        cut(cutter, &mut |message| {
            if !message.continues {
                (*began, *ordinal) = (now, 0);
            }
            *ordinal += 1;
            let entry = Entry { stream, time: *began, message, ordinal: *ordinal };
            let taken = records.as_mut().map_or(Ok(()), |records| records.push(&entry));
            let sent = remote.as_mut().map_or(Ok(()), |remote| remote.push(&entry, now));
            if result.is_ok() {
                result = taken.and(sent);
            }
        });
        result.and(self.records.as_mut().map_or(Ok(()), |records| records.file().flush()))
    }

    /// Must the container wait until a log service takes more?
    pub(crate) fn is_full(&self) -> bool {
        self.remote.as_ref().is_some_and(Remote::is_full)
    }

    /// Where messages wait to be written; `None` when there is nothing to write.
    pub(crate) fn wanting_write(&self) -> Option<BorrowedFd<'_>> {
        self.remote.as_ref().and_then(Remote::wanting_write)
    }

    /// When a lost connection is tried again.
    pub(crate) fn retry_at(&self) -> Option<Timestamp> {
        self.remote.as_ref().and_then(Remote::retry_at)
    }

    /// Sends what can be sent now.
    pub(crate) fn send(&mut self, now: Timestamp) -> io::Result<()> {
        self.remote.as_mut().map_or(Ok(()), |remote| remote.send(now))
    }
}

impl Records {
    pub(super) fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        match self {
            Self::JsonFile(log) => log.push(entry),
            Self::Local(log) => log.push(entry),
        }
    }

    pub(super) fn file(&mut self) -> &mut RotatedFile {
        match self {
            Self::JsonFile(log) => log.file(),
            Self::Local(log) => log.file(),
        }
    }
}
