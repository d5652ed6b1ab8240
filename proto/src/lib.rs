//! The words of a Shoal cluster: ids, specs, objects, task states, what managers and agents say to each other.
//!
//! Types only: nothing here reads a clock, makes randomness or does I/O.

pub mod assignment;
pub mod codec;
pub mod control;
pub mod error;
pub mod id;
pub mod object;
pub mod spec;
pub mod task_state;
pub mod template;
pub mod time;

/// Messages and services of the cluster port, generated from `proto/shoal.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated; the .proto file carries the documentation"
)]
pub mod wire {
    tonic::include_proto!("shoal.v1");
}
