//! Parsers of what people write in flags. Each takes text and gives a value or a message that says what would be right.

pub(crate) mod csv;
pub(crate) mod duration;
pub(crate) mod limit;
pub(crate) mod mount;
pub(crate) mod pair;
pub(crate) mod port;
pub(crate) mod size;
pub(crate) mod time;
pub(crate) mod volume;
pub(crate) mod words;
