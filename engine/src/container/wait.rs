//! Waiting for a container's end.

use std::sync::Arc;

use super::api::{WaitCondition, Waiting};
use super::instance::{Container, Progress};
use crate::model::{WaitError, WaitResponse};

/// Begins to wait. What happens from now on is not missed.
pub(crate) fn begin(container: &Arc<Container>, condition: WaitCondition) -> Waiting {
    let mut progress = container.progress();
    let ends = progress.borrow_and_update().ends;
    // Keeps the sender alive while somebody waits.
    let container = Arc::clone(container);
    Box::pin(async move {
        let reached = progress.wait_for(|progress| match condition {
            // An end counts, though a policy starts it again at once: as in dockerd.
            WaitCondition::NotRunning => progress.removed || progress.ends > ends || !progress.phase.is_running(),
            WaitCondition::NextExit => progress.removed || progress.ends > ends,
            WaitCondition::Removed => progress.removed,
        });
        let response = reached.await.map_or_else(|_| WaitResponse::default(), |progress| respond(&progress));
        drop(container);
        response
    })
}

fn respond(progress: &Progress) -> WaitResponse {
    // As dockerd: a container that is gone has no error any more, or the client would show it twice.
    let failed = !progress.error.is_empty() && !progress.removed;
    let error = failed.then(|| WaitError { message: progress.error.clone() });
    WaitResponse { status_code: i64::from(progress.exit_code), error }
}
