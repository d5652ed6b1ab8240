//! Signals by name and number.

use shoal_proto::error::Failure;

const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// SIGKILL.
pub const KILL: i32 = 9;
/// SIGTERM.
pub const TERM: i32 = 15;

/// Reads `9`, `KILL`, `SIGKILL`, `RTMIN+3`, `SIGRTMAX-1`, whatever the case.
///
/// # Errors
/// As dockerd: `invalid signal: x`.
pub fn parse(text: &str) -> Result<i32, Failure> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match upper.parse::<i32>() {
        Ok(number) => Some(number),
        Err(_) => by_name(name),
    };
    number.filter(|number| (1..=64).contains(number)).ok_or_else(|| Failure::invalid(format!("invalid signal: {text}")))
}

fn by_name(name: &str) -> Option<i32> {
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    if let Some(more) = name.strip_prefix("RTMIN+") {
        return more.parse::<i32>().ok().filter(|more| (1..=15).contains(more)).map(|more| 34 + more);
    }
    let less = name.strip_prefix("RTMAX-")?.parse::<i32>().ok()?;
    (1..=14).contains(&less).then_some(64 - less)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN", 34), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGNOPE", "RTMIN+99", "SIG"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
