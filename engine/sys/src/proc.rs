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

/// Is the process there that had this id and began at this time? Zero stands for a time that nobody noted. One that has ended
/// and was not waited for yet is not.
///
/// # Errors
/// When nobody can tell: this process has no descriptors left, say.
pub fn is_running(pid: u32, ticks: u64) -> io::Result<bool> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(is_same_and_alive(&stat, ticks)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_same_and_alive(stat: &str, ticks: u64) -> bool {
    let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
    let same = ticks == 0 || parse_start_ticks(stat) == Some(ticks);
    same && !matches!(state, Some('Z' | 'X') | None)
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
    fn a_process_is_known_by_its_start_and_not_alive_as_a_zombie() {
        let stat = |state: &str| format!("7 (a) b) {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 0 0");
        assert!(is_same_and_alive(&stat("S"), 4242));
        assert!(is_same_and_alive(&stat("D"), 0));
        assert!(!is_same_and_alive(&stat("S"), 4243));
        assert!(!is_same_and_alive(&stat("Z"), 4242));
        let own = std::process::id();
        assert!(is_running(own, start_ticks(own).unwrap()).unwrap());
        assert!(!is_running(u32::MAX >> 2, 0).unwrap());
    }

    #[test]
    fn this_process_has_started() {
        assert!(start_ticks(std::process::id()).unwrap() > 0);
    }
}
