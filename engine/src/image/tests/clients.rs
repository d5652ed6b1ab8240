//! Against real clients; filled below.
