//! A Shoal manager: the replicated store under consensus, the certificate authority, and the service to agents.
//!
//! ## Design notes
//! The pure part (store and planners) is `shoal-manager-core`; here is what waits, talks and writes to disk. The parts
//! of one manager share [`inner::Inner`]: the raft node ([`raft::node`]), the peer port ([`peer_service`]), requests
//! ([`control`]), the CA ([`ca`]), sessions with agents ([`dispatcher`]), and the loops of a leader ([`leader`],
//! [`membership`]). Agents never import this crate; they meet it on the cluster port.

pub mod ca;
mod confirm;
mod control;
mod dispatcher;
mod handle;
mod inner;
mod leader;
mod log_relay;
mod manager;
mod member_file;
mod membership;
mod peer_service;
mod peers;
pub mod raft;
pub mod seal;
mod watch;

pub use handle::{JoinInfo, ManagerHandle, MemberStatus};
pub use inner::{Health, ManagerOptions};
pub use log_relay::ServiceLogs;
pub use manager::{BootstrapSpec, Manager};
pub use raft::node::Timing;
pub use watch::{Watch, Watched};
