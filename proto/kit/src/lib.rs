//! Async pieces that managers, agents and engines share. No domain: nothing here knows what a service is.

pub mod backoff;
pub mod clock;
pub mod entropy;
