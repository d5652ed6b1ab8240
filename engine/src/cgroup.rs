//! Cgroups of containers: limits as values, applied to v1, hybrid and v2 hosts; statistics; freezing.
//!
//! ## Design notes
//! - Paths are always absolute from a hierarchy's root (`/sys/fs/cgroup/memory/shoal/<id>`): the daemon may itself sit in a
//!   cgroup, which is none of our business.
//! - A limit becomes a list of settings (file and value). The same list is written at creation and at an update, and tests
//!   compare it without touching the kernel.

pub mod create;
pub mod device_filter;
pub mod limits;
pub mod settings;
pub mod tree;

pub use settings::update;
pub use tree::Cgroup;
