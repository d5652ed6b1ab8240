//! Harness of the live tests and benchmarks: a lab of hosts on this machine, the docker CLI on each of them, and waiting
//! for levels with deadlines.

pub mod command;
pub mod image;
pub mod lab;
pub mod wait;
