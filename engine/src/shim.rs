//! The shim: one small process per container that outlives the daemon.
//!
//! The daemon spawns `<program> shim run --dir <exec-root>/shim/<id>`; the shim creates the container (by libcontainer in
//! itself, or by driving an OCI runtime binary), holds its standard streams, writes its log, keeps its exit status in
//! `exit.json`, and answers on `shim.sock`. An exec is the same program with `shim exec`, a process of its own.
//!
//! ## Design notes
//! - The shim never starts a thread: libcontainer forks and goes on with Rust code in the child, which is only sound when
//!   no other thread can hold a lock.
//! - Creation runs in a forked child of the shim that hands the container's init over as the shim's own child, so the
//!   memory that parsing and set-up needed is given back before the container's first instruction.
//! - The first connection is a socket pair given as descriptor 0, so a spawn needs no polling for the socket to appear.
//! - Nothing listens in the abstract namespace; `shim.sock` sits in a directory that only root can enter.

pub mod client;
pub mod config;
mod entry;
mod init;
pub mod protocol;
mod server;

pub use entry::main;
pub use init::init_main;
