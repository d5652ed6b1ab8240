//! Live tests: real daemons, containers and networks on hosts that are network namespaces, driven by the stock docker CLI.

mod api;
mod attach;
mod chaos;
mod conform;
mod daemon;
mod engine;
mod hostile;
mod killed;
mod package;
mod parity;
mod refuse;
mod remap;
mod repair;
mod service;
mod survive;
