//! What containers write, kept in Docker's json-file format. Reading it back is `container::log_reader`'s.

pub mod json_file;
pub mod lines;
