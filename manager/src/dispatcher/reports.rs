//! What agents report, on its way to the leader: merged while an earlier batch is under way, acknowledged when stored.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::control::Report;
use shoal_proto::error::Failure;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Cluster;

/// Batches of agents that may wait.
const QUEUE: usize = 4096;
/// Reports in one request to the leader.
const LIMIT: usize = 2000;
/// How often a batch is tried before its agents are told to come again.
const TRIES: u32 = 5;

struct Pending {
    reports: Vec<Report>,
    done: oneshot::Sender<Result<(), Failure>>,
}

/// The queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reports {
    sender: mpsc::Sender<Pending>,
}

impl Reports {
    pub(super) fn start(cluster: Arc<dyn Cluster>, stop: CancellationToken, tracker: &TaskTracker) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tracker.spawn(stop.run_until_cancelled_owned(run(cluster, receiver)));
        Self { sender }
    }

    /// Returns when the reports are in the replicated store.
    pub(crate) async fn store(&self, reports: Vec<Report>) -> Result<(), Failure> {
        let stopping = || Failure::unavailable("this manager is stopping");
        let (done, stored) = oneshot::channel();
        self.sender.send(Pending { reports, done }).await.map_err(|_| stopping())?;
        stored.await.map_err(|_| stopping())?
    }
}

async fn run(cluster: Arc<dyn Cluster>, mut receiver: mpsc::Receiver<Pending>) {
    let mut waiting = Vec::new();
    // Whatever arrives while one request is under way goes into the next: batches grow with the load by themselves.
    while receiver.recv_many(&mut waiting, QUEUE).await > 0 {
        while !waiting.is_empty() {
            let mut reports = Vec::new();
            let mut done = Vec::new();
            while let Some(pending) =
                waiting.pop_if(|next| reports.is_empty() || reports.len() + next.reports.len() <= LIMIT)
            {
                reports.extend(pending.reports);
                done.push(pending.done);
            }
            let result = store(cluster.as_ref(), reports).await;
            for done in done {
                // An agent whose session ended meanwhile does not wait for this any more.
                let _ = done.send(result.clone());
            }
        }
    }
}

async fn store(cluster: &dyn Cluster, reports: Vec<Report>) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        let failure = match cluster.report(reports.clone()).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        tries += 1;
        if tries == TRIES {
            tracing::warn!(error = failure.message, reports = reports.len(), "reports of agents could not be stored");
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(50) * tries).await;
    }
}
