//! What libcontainer says about its errors. It tells the caller only the outermost sentence ("failed to prepare rootfs");
//! the reason goes to `tracing`, from processes whose standard error may already be the container's.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The longest text that is taken over.
const MAX_BYTES: u64 = 4096;

/// A file in memory that libcontainer's processes write their errors to.
#[derive(Debug)]
pub(super) struct ErrorNotes(File);

impl ErrorNotes {
    pub(super) fn new() -> io::Result<Self> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        Ok(Self(File::from(rustix::fs::memfd_create(c"errors", flags)?)))
    }

    /// From here on, in this process and its children, errors are noted.
    pub(super) fn listen(&self) -> io::Result<()> {
        let file = self.0.try_clone()?;
        // Fails only when somebody listens already, which cannot be in a process that was just forked for this.
        let _ = tracing::subscriber::set_global_default(Listener(file));
        Ok(())
    }

    /// The first thing that was noted: the innermost error, since each caller notes it again with less detail.
    pub(super) fn first(mut self) -> Option<String> {
        self.0.seek(SeekFrom::Start(0)).ok()?;
        let mut text = Vec::new();
        self.0.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().next().filter(|line| !line.is_empty()).map(str::to_owned)
    }
}

struct Listener(File);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}\n", line.message, line.fields).replace("\n", " ");
        // One write a line: parent and child may write at the same time.
        let _ = (&self.0).write_all(format!("{}\n", text.trim_end()).as_bytes());
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
