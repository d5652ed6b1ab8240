//! Output on its way to a client that reads more slowly than the process writes.
//!
//! ## Design notes
//! - A container does not wait for who looks at it, and who looks at it loses nothing: what the client does not take yet is
//!   kept, first in memory, then in a file without a name, which is gone with its last user.
//! - There is a bound. A container's client that is behind by more is told so and dropped (by the shim, which waits two
//!   seconds); an exec is there for its client, and waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use rustix::fs::{FallocateFlags, fallocate};
use shoal_engine_sys::fs::free_bytes;
use shoal_proto::error::Failure;
use tokio::sync::mpsc;

use super::api::{OutputFrame, OutputKind, OutputStream};

/// What is kept in memory.
const MEMORY_BYTES: usize = 1 << 20;
/// What is kept in a file.
const FILE_BYTES: u64 = 1 << 30;
/// Pieces that are handed to the client's side ahead of its reads.
const AHEAD: usize = 4;
/// How often the disk is looked at, and gets back what was read.
const LOOK_BYTES: u64 = 8 << 20;
/// What stays free of the disk, unless it is small.
const LEAST_FREE_BYTES: u64 = 1 << 30;
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
/// Kind and length of a piece in the file.
const HEADER_BYTES: usize = 5;

/// The same output, read from its source at once and kept for the client; a file for it is made in `folder`.
pub(crate) fn spool(source: OutputStream, folder: PathBuf) -> OutputStream {
    bounded(source, Queue::new(folder, MEMORY_BYTES, FILE_BYTES))
}

fn bounded(source: OutputStream, queue: Queue) -> OutputStream {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(carry(source, queue, sender));
    futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed()
}

async fn carry(mut source: OutputStream, mut queue: Queue, client: mpsc::Sender<Result<OutputFrame, Failure>>) {
    let mut is_open = true;
    let mut failure = None;
    loop {
        tokio::select! {
            frame = source.next(), if is_open && queue.takes_more() => match frame {
                Some(Ok(frame)) => queue.push(frame).await,
                Some(Err(error)) => (failure, is_open) = (Some(error), false),
                None => is_open = false,
            },
            place = client.reserve(), if !queue.is_empty() => {
                let Ok(place) = place else { return };
                match queue.pop().await {
                    Ok(Some(frame)) => place.send(Ok(frame)),
                    Ok(None) => {}
                    Err(error) => return place.send(Err(Failure::internal(&error))),
                }
            }
            // A client that has left wants nothing more, whatever the process does.
            () = client.closed() => return,
        }
        if !is_open && queue.is_empty() {
            if let Some(failure) = failure {
                let _left = client.send(Err(failure)).await;
            }
            return;
        }
    }
}

/// Pieces in their order: those in memory are older than those in the file.
struct Queue {
    memory: VecDeque<OutputFrame>,
    memory_bytes: usize,
    most_in_memory: usize,
    file: Option<Overflow>,
    most_in_file: u64,
    folder: PathBuf,
    /// The disk took no more: nothing is read from the source until what is kept is gone.
    is_stuck: bool,
}

impl Queue {
    fn new(folder: PathBuf, most_in_memory: usize, most_in_file: u64) -> Self {
        Self {
            memory: VecDeque::new(),
            memory_bytes: 0,
            most_in_memory,
            file: None,
            most_in_file,
            folder,
            is_stuck: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.file.is_none()
    }

    fn takes_more(&self) -> bool {
        !self.is_stuck && self.file.as_ref().is_none_or(|file| file.behind() < self.most_in_file)
    }

    async fn push(&mut self, frame: OutputFrame) {
        if self.file.is_none() && self.memory_bytes < self.most_in_memory {
            return self.keep(frame);
        }
        if let Err(error) = self.write(&frame).await {
            tracing::warn!(%error, folder = %self.folder.display(), "cannot keep output for a client that is behind");
            // Nothing of the file is lost: the piece that did not fit is read after it.
            self.is_stuck = true;
            match self.file.as_mut() {
                Some(file) => file.last = Some(frame),
                None => self.keep(frame),
            }
        }
    }

    fn keep(&mut self, frame: OutputFrame) {
        self.memory_bytes += frame.data.len();
        self.memory.push_back(frame);
    }

    async fn write(&mut self, frame: &OutputFrame) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(Overflow::make(self.folder.clone()).await?),
        };
        file.push(frame).await
    }

    async fn pop(&mut self) -> io::Result<Option<OutputFrame>> {
        if let Some(frame) = self.memory.pop_front() {
            self.memory_bytes -= frame.data.len();
            self.is_stuck &= self.file.is_some() || !self.memory.is_empty();
            return Ok(Some(frame));
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        let frame = file.pop().await?;
        if file.is_empty() {
            (self.file, self.is_stuck) = (None, false);
        }
        Ok(frame)
    }
}

/// A file without a name.
struct Overflow {
    file: Arc<File>,
    read: u64,
    written: u64,
    /// Up to where the disk has its space back.
    given_back: u64,
    /// When that much is written, the disk is looked at.
    look_at: u64,
    /// The newest piece, when the file did not take it.
    last: Option<OutputFrame>,
}

impl Overflow {
    async fn make(folder: PathBuf) -> io::Result<Self> {
        let file = blocking(move || tempfile::tempfile_in(folder)).await?;
        Ok(Self { file: Arc::new(file), read: 0, written: 0, given_back: 0, look_at: 0, last: None })
    }

    fn is_empty(&self) -> bool {
        self.read == self.written && self.last.is_none()
    }

    fn behind(&self) -> u64 {
        self.written - self.read
    }

    async fn push(&mut self, frame: &OutputFrame) -> io::Result<()> {
        if self.written >= self.look_at {
            self.look_at = self.written + LOOK_BYTES;
            let file = Arc::clone(&self.file);
            let (free, disk) = blocking(move || free_bytes(&file)).await?;
            // The disk is the containers', and not for output that nobody reads.
            if free < LEAST_FREE_BYTES.min(disk / 16) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let length = u32::try_from(frame.data.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + frame.data.len());
        bytes.push(frame.output as u8);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&frame.data);
        let (file, at, length) = (Arc::clone(&self.file), self.written, bytes.len() as u64);
        blocking(move || file.write_all_at(&bytes, at)).await?;
        self.written += length;
        Ok(())
    }

    async fn pop(&mut self) -> io::Result<Option<OutputFrame>> {
        if self.read == self.written {
            return Ok(self.last.take());
        }
        let (file, at) = (Arc::clone(&self.file), self.read);
        let (kind, data) = blocking(move || {
            let mut header = [0; HEADER_BYTES];
            file.read_exact_at(&mut header, at)?;
            let [kind, length @ ..] = header;
            let mut data = vec![0; u32::from_le_bytes(length) as usize];
            file.read_exact_at(&mut data, at + HEADER_BYTES as u64)?;
            Ok((kind, data))
        })
        .await?;
        self.read += (HEADER_BYTES + data.len()) as u64;
        if self.read >= self.given_back + LOOK_BYTES {
            let (file, from, to) = (Arc::clone(&self.file), self.given_back, self.read);
            self.given_back = to;
            // A file system that cannot do it keeps the space until the file goes.
            let _kept = blocking(move || Ok(fallocate(&*file, PUNCH, from, to - from)?)).await;
        }
        let output = if kind == OutputKind::Stderr as u8 { OutputKind::Stderr } else { OutputKind::Stdout };
        Ok(Some(OutputFrame { output, data: Bytes::from(data) }))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn piece(number: usize) -> OutputFrame {
        let output = if number.is_multiple_of(3) { OutputKind::Stderr } else { OutputKind::Stdout };
        OutputFrame { output, data: Bytes::from(format!("{number:08}")) }
    }

    /// A source of so many pieces that counts how many were taken.
    fn source(pieces: usize, taken: &Arc<AtomicUsize>) -> OutputStream {
        let taken = Arc::clone(taken);
        futures::stream::iter(0..pieces)
            .map(move |number| {
                taken.fetch_add(1, Ordering::SeqCst);
                Ok(piece(number))
            })
            .boxed()
    }

    async fn within(what: &str, reached: impl Fn() -> bool) {
        for _ in 0..3_000 {
            if reached() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("not within half a minute: {what}");
    }

    async fn until_still(taken: &AtomicUsize) -> usize {
        let mut before = usize::MAX;
        loop {
            let now = taken.load(Ordering::SeqCst);
            if now == before {
                return now;
            }
            before = now;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    }

    #[tokio::test]
    async fn all_is_read_at_once_and_nothing_lost_whoever_is_slow() {
        let folder = tempfile::tempdir().unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        // Ten pieces in memory, the rest in the file.
        let queue = Queue::new(folder.path().to_owned(), 80, 1 << 20);
        let mut output = bounded(source(2_000, &taken), queue);
        within("the source waits for nobody", || taken.load(Ordering::SeqCst) == 2_000).await;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file has a name");
        for number in 0..2_000 {
            assert_eq!(output.next().await.unwrap().unwrap(), piece(number));
        }
        assert!(output.next().await.is_none());
    }

    #[tokio::test]
    async fn what_was_read_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        // Each piece is larger than what is read before the disk gets it back.
        let piece = || Ok(OutputFrame { output: OutputKind::Stdout, data: Bytes::from(vec![7; 9 << 20]) });
        let source = futures::stream::iter((0..12).map(move |_| piece())).boxed();
        let mut output = bounded(source, Queue::new(folder.path().to_owned(), 1, 20 << 20));
        let mut pieces = 0;
        while let Some(frame) = output.next().await {
            assert!(frame.unwrap().data.iter().all(|byte| *byte == 7));
            pieces += 1;
        }
        assert_eq!(pieces, 12);
    }

    #[tokio::test]
    async fn beyond_the_bound_the_source_waits() {
        let folder = tempfile::tempdir().unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let queue = Queue::new(folder.path().to_owned(), 80, 13 * 100);
        let mut output = bounded(source(2_000, &taken), queue);
        let at_first = until_still(&taken).await;
        assert!((110..=110 + AHEAD + 2).contains(&at_first), "{at_first}");
        for number in 0..2_000 {
            assert_eq!(output.next().await.unwrap().unwrap(), piece(number));
        }
        assert!(output.next().await.is_none());
    }

    #[tokio::test]
    async fn without_a_disk_there_is_memory_and_then_the_source_waits() {
        let taken = Arc::new(AtomicUsize::new(0));
        let queue = Queue::new(PathBuf::from("/nonexistent"), 80, 1 << 20);
        let mut output = bounded(source(200, &taken), queue);
        assert!(until_still(&taken).await < 20);
        for number in 0..200 {
            assert_eq!(output.next().await.unwrap().unwrap(), piece(number));
        }
        assert!(output.next().await.is_none());
    }

    #[tokio::test]
    async fn a_failure_comes_after_what_was_read_before_it() {
        let taken = Arc::new(AtomicUsize::new(0));
        let failing = source(3, &taken).chain(futures::stream::iter([Err(Failure::unavailable("gone"))])).boxed();
        let frames: Vec<_> = spool(failing, std::env::temp_dir()).collect().await;
        assert_eq!(frames.len(), 4);
        assert!(frames[..3].iter().all(Result::is_ok) && frames[3].is_err());
    }

    #[tokio::test]
    async fn a_client_that_leaves_takes_the_source_with_it() {
        struct Flag(Arc<AtomicUsize>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(1, Ordering::SeqCst);
            }
        }
        let dropped = Arc::new(AtomicUsize::new(0));
        let flag = Flag(Arc::clone(&dropped));
        let silent = futures::stream::pending()
            .inspect(move |_: &Result<OutputFrame, Failure>| assert_eq!(flag.0.load(Ordering::SeqCst), 0))
            .boxed();
        drop(spool(silent, std::env::temp_dir()));
        within("the source is dropped", || dropped.load(Ordering::SeqCst) == 1).await;
    }
}
