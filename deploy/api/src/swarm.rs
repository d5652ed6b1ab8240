//! The cluster's part of the API.

pub(crate) mod access;
pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod convert;
pub(crate) mod events;
mod find;
mod gate;
pub(crate) mod info;
pub(crate) mod logs;
pub(crate) mod model;
pub(crate) mod networks;
pub(crate) mod nodes;
pub(crate) mod secrets;
pub(crate) mod services;
pub(crate) mod tasks;

#[cfg(test)]
mod convert_tests;
#[cfg(test)]
mod test_store;
