//! Spans of time in Go's notation: `1h30m`, `1.5s`, `200ms`. The API carries nanoseconds.

use std::fmt::Write as _;

const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Nanoseconds of a span such as `1m30s`.
pub(crate) fn nanoseconds(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid duration '{text}' (want numbers with units ns, us, ms, s, m, h; as in 1m30s)");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(end);
        let unit_end =
            tail.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale).ok_or_else(invalid)?;
        total = total.checked_add(scaled(number, scale).ok_or_else(invalid)?).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(if negative { -total } else { total })
}

/// The whole part exactly, the fraction by floating point, as Go does it.
#[expect(clippy::cast_possible_truncation, reason = "the scale is a whole number and the fraction is below it")]
fn scaled(number: &str, scale: f64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: f64 = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
    whole.checked_mul(scale as i64)?.checked_add((fraction * scale) as i64)
}

/// A span as Go prints it: `1h0m0s`, `1.5s`, `200ms`.
pub(crate) fn show(nanoseconds: i64) -> String {
    let magnitude = nanoseconds.unsigned_abs();
    let mut text = String::new();
    if nanoseconds < 0 {
        text.push('-');
    }
    let fractional = |value: u64, unit: u64, digits: usize| {
        let mut number = format!("{}.{:0digits$}", value / unit, value % unit);
        number.truncate(number.trim_end_matches('0').trim_end_matches('.').len());
        number
    };
    match magnitude {
        0 => return "0s".to_owned(),
        1..1_000 => {
            let _ = write!(text, "{magnitude}ns");
        }
        1_000..1_000_000 => {
            let _ = write!(text, "{}µs", fractional(magnitude, 1_000, 3));
        }
        1_000_000..1_000_000_000 => {
            let _ = write!(text, "{}ms", fractional(magnitude, 1_000_000, 6));
        }
        _ => {
            let minutes = magnitude / 60_000_000_000;
            if minutes >= 60 {
                let _ = write!(text, "{}h", minutes / 60);
            }
            if minutes > 0 {
                let _ = write!(text, "{}m", minutes % 60);
            }
            let _ = write!(text, "{}s", fractional(magnitude % 60_000_000_000, 1_000_000_000, 9));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn go_syntax() {
        let cases = [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("200ms", 200_000_000),
            ("1us", 1_000),
            (".5s", 500_000_000),
            ("-1s", -1_000_000_000),
        ];
        for (text, want) in cases {
            assert_eq!(nanoseconds(text), Ok(want), "{text}");
        }
        for text in ["", "5", "s", "1d", "1.2.3s", ".s", "9999999999h", "1 s"] {
            assert!(nanoseconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_as_go_shows() {
        let cases = [
            (0, "0s"),
            (2_160 * 3_600_000_000_000, "2160h0m0s"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (200_000_000, "200ms"),
            (5, "5ns"),
            (-5_000_000_000, "-5s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(show(nanos), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nanos in -(1_i64 << 50)..1_i64 << 50) {
            let milliseconds = nanos / 1_000_000 * 1_000_000;
            prop_assert_eq!(nanoseconds(&show(milliseconds)), Ok(milliseconds));
        }

        #[test]
        fn no_text_panics(text in ".{0,12}") {
            let _ = nanoseconds(&text);
        }
    }
}
