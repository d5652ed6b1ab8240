//! A container's log as a stream: what is there, and with `follow` what comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use shoal_proto::error::Failure;
use shoal_proto::time::Timestamp;
use tokio::sync::watch;

use super::api::{LogFrame, LogOptions, LogStream};
use super::file_watch::FolderWatch;
use super::instance::{Container, Progress};
use super::log_reader::{self, Batch, LogCursor};
use super::log_source;
use crate::engine::Inner;

/// A look without being woken, in case the kernel dropped a notification.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Reader {
    cursor: Option<LogCursor>,
    options: LogOptions,
    ready: VecDeque<LogFrame>,
    over: bool,
    changes: Option<FolderWatch>,
    progress: watch::Receiver<Progress>,
    inner: Arc<Inner>,
    /// Keeps the sender of `progress`.
    _container: Arc<Container>,
}

/// Opens a container's log.
pub(crate) async fn open(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    options: LogOptions,
) -> Result<LogStream, Failure> {
    let readable = log_source::readable(&container.record(), &container.folder);
    let Some((path, format)) = readable else {
        return Err(Failure::new(
            shoal_proto::error::ErrorKind::NotImplemented,
            "configured logging driver does not support reading",
        ));
    };
    let progress = container.progress();
    // Watched before the first look, so that no change falls between.
    let changes = match options.follow {
        true => inner.file_watch.watch(&container.folder).inspect_err(|error| {
            tracing::warn!(container = %container.id, %error, "cannot watch the log; looking each second instead");
        }),
        false => Err(std::io::ErrorKind::Unsupported.into()),
    };
    let wanted = options.clone();
    let cursor = blocking(move || LogCursor::open(&path, format, &wanted)).await?;
    let reader = Reader {
        cursor: Some(cursor),
        options,
        ready: VecDeque::new(),
        over: false,
        changes: changes.ok(),
        progress,
        inner: Arc::clone(inner),
        _container: Arc::clone(container),
    };
    Ok(stream::unfold(reader, |mut reader| async move {
        match reader.next().await {
            Ok(Some(frame)) => Some((Ok(frame), reader)),
            Ok(None) => None,
            Err(failure) => {
                (reader.over, reader.cursor) = (true, None);
                Some((Err(failure), reader))
            }
        }
    })
    .boxed())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Failure::internal(&error)),
        Err(error) => Err(Failure::internal(&error)),
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<LogFrame>, Failure> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            if self.over {
                return Ok(None);
            }
            // Looked at before reading: a writer that had ended by then has written everything.
            let writing = {
                let progress = self.progress.borrow_and_update();
                !progress.removed && progress.phase.is_running()
            };
            let batch = self.read().await?;
            self.take(batch.frames);
            if batch.at_end && self.ready.is_empty() && !self.over {
                self.over = !self.options.follow || !writing || self.past_until();
                if !self.over {
                    self.wait().await;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Batch, Failure> {
        let Some(mut cursor) = self.cursor.take() else { return Ok(Batch { frames: Vec::new(), at_end: true }) };
        let (cursor, batch) = blocking(move || cursor.read().map(|batch| (cursor, batch))).await?;
        self.cursor = Some(cursor);
        Ok(batch)
    }

    fn take(&mut self, frames: Vec<LogFrame>) {
        for frame in frames {
            match log_reader::select(&frame, &self.options) {
                Some(true) => self.ready.push_back(frame),
                Some(false) => {}
                None => {
                    self.over = true;
                    return;
                }
            }
        }
    }

    fn until_left(&self) -> Option<Duration> {
        self.options.until.map(|until| until.since(self.now()))
    }

    fn past_until(&self) -> bool {
        self.options.until.is_some_and(|until| until < self.now())
    }

    fn now(&self) -> Timestamp {
        self.inner.options.clock.now()
    }

    async fn wait(&mut self) {
        let longest = self.until_left().map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN) + Duration::from_millis(1));
        let changed = async {
            match &mut self.changes {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            _ = self.progress.changed() => {}
            () = tokio::time::sleep(longest) => {}
        }
    }
}
