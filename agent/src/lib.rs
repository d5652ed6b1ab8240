//! The agent: holds one session with any manager, runs the tasks that it is assigned, and reports what becomes of them.
//!
//! The engine is seen through the [`executor::Executor`] trait only, so that the same agent drives real containers, and
//! pretended ones in a test with a thousand nodes.
//!
//! ```text
//!  manager ==stream==> session --set--> worker --desired--> task actor --> Controller (engine)
//!     ^                   |                                     |
//!     +----statuses-------+<------------- reporter <------------+
//! ```

pub mod agent;
pub mod assignments;
mod attachments;
pub mod executor;
pub mod life;
mod logs;
mod networks;
pub mod reporter;
mod session;
mod task;
mod worker;

pub use agent::{Agent, AgentHandle, AgentOptions, SessionInfo};
