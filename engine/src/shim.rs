//! The shim: one small process per container that outlives the daemon.
//!
//! The daemon spawns `<program> shim run --dir <exec-root>/shim/<id>`; the shim creates the container (by libcontainer in
//! itself, or by driving an OCI runtime binary), holds its standard streams, writes its log, keeps its exit status in
//! `exit.json`, and answers on `shim.sock`. An exec is the same program with `shim exec`, a process of its own.
//!
//! ## Design notes
//! - The shim never starts a thread: libcontainer forks and goes on with Rust code in the child, which is only sound when
//!   no other thread can hold a lock.
//! - Creation runs in the child that becomes the container's init (with libcontainer: in one that makes it), so the memory
//!   that parsing and set-up need is not the shim's.
//! - A daemon has one zygote: a shim that is loaded, linked, and waits. Shims are forked from it, which takes a tenth of
//!   executing the program anew and lets them share the memory that linking touches. It ends with its daemon.
//! - A log file in `non-blocking` mode is written by one more process (`logs/writer`): a write may wait for a disk.
//! - A hook may never end. So while one runs, the shim hears that its start is given up, or that the container is killed.
//! - The first connection is a socket pair given as descriptor 0, so a spawn needs no polling for the socket to appear.
//! - Nothing listens in the abstract namespace; `shim.sock` sits in a directory that only root can enter.

pub mod client;
pub mod config;
mod entry;
pub(crate) mod init;
pub mod protocol;
mod server;
mod zygote;

pub use entry::main;
pub use init::init_main;
pub(crate) use server::say;
