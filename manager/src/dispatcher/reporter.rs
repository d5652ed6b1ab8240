//! Merges what the sessions of this manager learned into few requests to the leader.

use std::sync::Arc;
use std::time::Duration;

use shoal_kit::backoff::Backoff;
use shoal_proto::control::{ControlRequest, Report};
use shoal_proto::error::ErrorKind;
use tokio::sync::{mpsc, oneshot};

use crate::inner::Inner;

/// Submissions that may wait: then sessions wait too, and their agents' streams with them.
const QUEUE: usize = 2048;
/// Reports in one request.
const BATCH: usize = 4000;

/// What a session submits at once.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) reports: Vec<Report>,
    /// Told when the reports are in the replicated store; dropped when they never will be.
    pub(crate) done: Option<oneshot::Sender<()>>,
}

/// The queue of a reporter that is to be run.
pub(crate) fn queue() -> (mpsc::Sender<Item>, mpsc::Receiver<Item>) {
    mpsc::channel(QUEUE)
}

/// Runs until the manager stops. One request at a time, so that reports keep their order.
pub(crate) async fn run(inner: Arc<Inner>, mut items: mpsc::Receiver<Item>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1), inner.entropy());
    loop {
        let first = tokio::select! {
            () = inner.stop.cancelled() => return,
            item = items.recv() => match item {
                None => return,
                Some(item) => item,
            },
        };
        // Sessions that are about to submit something get their turn; while a request is under way, more gather.
        tokio::task::yield_now().await;
        let mut reports = first.reports;
        let mut done: Vec<_> = first.done.into_iter().collect();
        while reports.len() < BATCH
            && let Ok(item) = items.try_recv()
        {
            reports.extend(item.reports);
            done.extend(item.done);
        }
        if !write(&inner, reports, &mut backoff).await {
            continue;
        }
        backoff.reset();
        for done in done {
            let _ = done.send(());
        }
    }
}

/// Tries until a leader has written them. `false`: they were refused, or the manager stops.
async fn write(inner: &Inner, reports: Vec<Report>, backoff: &mut Backoff) -> bool {
    let mut request = ControlRequest::Report(reports);
    loop {
        let failure = tokio::select! {
            () = inner.stop.cancelled() => return false,
            result = inner.control(request.clone()) => match result {
                Ok(_) => return true,
                Err(failure) => failure,
            },
        };
        if failure.kind != ErrorKind::Unavailable {
            tracing::error!(%failure, "reports of agents were refused");
            return false;
        }
        tracing::warn!(%failure, "reports of agents wait");
        // Until there is a leader again, nodes may return: whether they are gone is judged anew then.
        if let ControlRequest::Report(reports) = &mut request {
            reports.retain(|report| !matches!(report, Report::NodeGone { .. }));
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
