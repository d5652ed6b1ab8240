//! The embedded name server: one for each sandbox on a network with names, at 127.0.0.11 in its namespace.
//!
//! ## Design notes
//! What a network's names mean is a value, [`zone::Zone`], replaced whole when an endpoint changes and shared by all
//! servers. Answering is pure ([`answer`]); the sockets are opened in the sandbox's namespace and served here. Names
//! that are not ours are asked of the host's name servers from the daemon's own namespace, unless every network of the
//! sandbox is internal: then nothing leaves.

pub mod answer;
pub mod forward;
pub mod server;
pub mod zone;
