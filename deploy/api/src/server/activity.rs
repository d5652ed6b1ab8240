//! Is a request of this connection being answered?

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use futures::task::AtomicWaker;

/// Counts the answers under way on one connection, and wakes its reader when the last one is out.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    answers: AtomicUsize,
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

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.answers.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(reader) = self.0.reader.take()
        {
            Waker::wake(reader);
        }
    }
}
