//! What `/proc` tells about a process.

use std::io;

/// When a process started, in clock ticks since boot (field 22 of its `stat`): with the id it names one process for ever.
///
/// # Errors
/// When there is no such process.
pub fn start_ticks(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_ticks(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time"))
}

/// The name in the second field may hold blanks and parentheses; the last parenthesis ends it.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_parenthesis_is_a_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 0 0";
        assert_eq!(parse_start_ticks(stat), Some(4242));
    }

    #[test]
    fn this_process_has_started() {
        assert!(start_ticks(std::process::id()).unwrap() > 0);
    }
}
