//! Whole managers over real TCP, mutual TLS and files, several in one process.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod agents;
mod attachments;
mod certificates;
mod disk;
mod failover;
mod harness;
mod membership;
mod scale;
