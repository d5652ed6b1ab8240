//! The life of a task, in the order and with the numbers of Swarm.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A state that a task is in, or is wanted to be in. States are ordered and a task never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u16)]
pub enum TaskState {
    /// Made by an orchestrator.
    #[default]
    New = 0,
    /// Has its addresses; waits for a node.
    Pending = 64,
    /// Has a node.
    Assigned = 192,
    /// The node's agent knows it.
    Accepted = 256,
    /// Image, networks and mounts are being made ready.
    Preparing = 320,
    /// Ready to start; waits here while its desired state is `Ready`.
    Ready = 384,
    /// The container is starting, or not yet healthy.
    Starting = 448,
    /// Running, and healthy if it has a health check.
    Running = 512,
    /// Ended by itself with success.
    Complete = 576,
    /// Was told to stop and did.
    Shutdown = 640,
    /// Ended with an error after it started.
    Failed = 704,
    /// Could not be started.
    Rejected = 768,
    /// Only desired: stop it, then delete it.
    Remove = 800,
    /// Its node is gone for so long that its fate is unknown.
    Orphaned = 832,
}

impl TaskState {
    /// Every state, in order.
    pub const ALL: [Self; 14] = [
        Self::New,
        Self::Pending,
        Self::Assigned,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::Starting,
        Self::Running,
        Self::Complete,
        Self::Shutdown,
        Self::Failed,
        Self::Rejected,
        Self::Remove,
        Self::Orphaned,
    ];

    /// Has the task ended, however it ended?
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }

    /// The word that the API and the command line use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no task state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown task state {text:?}")]
pub struct UnknownTaskState {
    /// What was given.
    pub text: String,
}

impl FromStr for TaskState {
    type Err = UnknownTaskState;

    fn from_str(text: &str) -> Result<Self, UnknownTaskState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownTaskState { text: text.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_in_order_and_have_distinct_names() {
        assert!(TaskState::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        for state in TaskState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("allocated".parse::<TaskState>().is_err());
    }

    #[test]
    fn only_states_after_running_are_terminal() {
        assert!(!TaskState::Running.is_terminal());
        assert!(TaskState::Complete.is_terminal());
        assert!(TaskState::Orphaned.is_terminal());
    }
}
