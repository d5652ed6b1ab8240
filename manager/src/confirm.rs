//! Confirms, for all callers that ask at one time, that this manager's state is the newest.
//!
//! ## Design notes
//! After an outage thousands of agents open their sessions at once, and each has to be sure of the state that it is
//! told. One round with the leader answers all that asked before it began, and wakes them together.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::error::Failure;
use tokio::sync::watch;

use crate::inner::Inner;

/// How long a caller waits: less than agents wait for a manager's first word.
const PATIENCE: Duration = Duration::from_secs(3);

/// Numbers of questions: those that were asked, and those that are answered.
#[derive(Debug, Default)]
pub(crate) struct Confirmations {
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

impl Inner {
    /// Waits until this manager's store shows all that was committed before the call.
    ///
    /// # Errors
    /// When no leader confirms it in time.
    pub(crate) async fn is_current(&self) -> Result<(), Failure> {
        let mut number = 0;
        self.confirmations.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut answered = self.confirmations.answered.subscribe();
        match tokio::time::timeout(PATIENCE, answered.wait_for(|answered| *answered >= number)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::unavailable("this manager does not know yet what the cluster decided")),
        }
    }

    /// Answers until the manager stops.
    pub(crate) async fn run_confirmations(self: Arc<Self>) {
        let mut asked = self.confirmations.asked.subscribe();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = asked.changed() => if changed.is_err() { return },
            }
            // What is asked from here on may be about something that is committed during the round.
            let number = *asked.borrow_and_update();
            let confirmed = tokio::select! {
                () = self.stop.cancelled() => return,
                confirmed = self.linearize() => confirmed,
            };
            match confirmed {
                Ok(()) => {
                    self.confirmations.answered.send_replace(number);
                }
                // Who asked has given up by now.
                Err(failure) => tracing::debug!(%failure, "no leader confirms this manager's state"),
            }
        }
    }
}
