//! The pure heart of a Shoal manager: the replicated store, and the planners that turn wanted into done.
//!
//! ## Design notes
//! Nothing here reads a clock, makes randomness, waits or does I/O: time and ids are arguments, so every decision of
//! the cluster can be tested as a value. The way of a request: [`control::plan_request`] turns it into
//! [`change::Change`]s, the manager commits them through raft, [`store::Store::apply`] applies them on every manager,
//! [`reconcile::Planner`] on the leader plans what follows from them (tasks, addresses, nodes), which is committed the
//! same way, and [`dispatch::Hub`] tells each node what concerns it.

mod allocator;
pub mod change;
pub mod constraint;
pub mod control;
pub mod dispatch;
mod draft;
mod enforcer;
mod orchestrator;
mod reaper;
pub mod reconcile;
mod restart;
#[cfg(test)]
mod scenario;
mod scheduler;
pub mod store;
#[cfg(test)]
mod testing;
mod update;
pub mod validate;
