//! Is a request of this connection being answered?

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use shoal_proto::error::Failure;

use crate::response::Body;

/// Counts the answers under way on one connection, and wakes its reader when the last one is out.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    answers: AtomicUsize,
    awaits_body: AtomicBool,
    reader: AtomicWaker,
}

/// An answer under way, until dropped.
#[derive(Debug)]
pub(crate) struct Guard(Arc<Activity>);

impl Activity {
    /// An answer begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Guard {
        self.answers.fetch_add(1, Ordering::SeqCst);
        Guard(Arc::clone(self))
    }

    /// Is an answer under way? If so, the task is woken when the last one is out.
    pub(crate) fn is_busy(&self, task: &mut Context<'_>) -> bool {
        self.reader.register(task.waker());
        self.answers.load(Ordering::SeqCst) > 0
    }
}

/// The handler's side of a request's body: says whether more of it is waited for.
#[derive(Debug)]
pub(crate) struct BodyWatch(Arc<Activity>);

impl BodyWatch {
    /// Begins for the body of the request that is answered now.
    pub(crate) fn new(activity: &Arc<Activity>) -> Self {
        Self(Arc::clone(activity))
    }

    /// The body was asked for more: is it still to come?
    pub(crate) fn polled(&self, is_pending: bool) {
        self.0.awaits_body.store(is_pending, Ordering::SeqCst);
    }
}

impl Drop for BodyWatch {
    fn drop(&mut self) {
        self.polled(false);
    }
}

impl Activity {
    /// Does a handler wait for more of the request's body? It does not while it has yet to take what has arrived.
    pub(crate) fn awaits_body(&self) -> bool {
        self.awaits_body.load(Ordering::SeqCst)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.answers.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(reader) = self.0.reader.take()
        {
            Waker::wake(reader);
        }
    }
}

/// A response's body that counts as an answer under way until it is dropped.
pub(crate) struct GuardedBody {
    pub(crate) body: Body,
    pub(crate) _guard: Guard,
}

impl http_body::Body for GuardedBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        Pin::new(&mut self.body).poll_frame(task)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
