//! Async pieces that managers, agents and engines share. No domain: nothing here knows what a service is.

pub mod backoff;
pub mod ca_client;
pub mod clock;
pub mod entropy;
pub mod identity;
pub mod join_token;
pub mod reason;
pub mod tls;

#[cfg(test)]
mod test_ca;
