//! Sizes, spans of time and ids as people read them; the wording is docker's.

use jiff::Timestamp;

/// A span of time in words: `About a minute`, `3 hours`.
pub(crate) fn span(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        i64::MIN..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago an RFC 3339 instant was, in words; empty for the zero time and for what is no time.
pub(crate) fn since(instant: &str, now: Timestamp) -> String {
    match instant.parse::<Timestamp>() {
        Ok(then) if then.as_second() > 0 => span(now.as_second() - then.as_second()),
        _ => String::new(),
    }
}

/// How long ago an instant in seconds since 1970 was, as `2 hours ago`.
pub(crate) fn ago(unix_seconds: i64, now: Timestamp) -> String {
    if unix_seconds <= 0 { "N/A".to_owned() } else { format!("{} ago", span(now.as_second() - unix_seconds)) }
}

/// The local date and time of an instant, as docker prints `CreatedAt`.
pub(crate) fn local_time(unix_seconds: i64) -> String {
    match Timestamp::from_second(unix_seconds) {
        Ok(instant) => instant
            .to_zoned_datetime(jiff::tz::TimeZone::try_system().unwrap_or(jiff::tz::TimeZone::UTC))
            .strftime("%Y-%m-%d %H:%M:%S %z %Z")
            .to_string(),
        Err(_) => String::new(),
    }
}

fn scaled(size: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut size = size;
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    format!("{}{}", significant(size, digits), units.get(unit).copied().unwrap_or_default())
}

/// At most this many significant digits, without trailing zeros: Go's `%.{n}g` for the range used here.
fn significant(value: f64, digits: usize) -> String {
    let whole = format!("{:.0}", value.trunc()).len();
    let decimals = if value.abs() < 1.0 { digits } else { digits.saturating_sub(whole) };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Decimal size, as docker shows images: `4.26MB`.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub(crate) fn decimal_size(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 4)
}

/// Decimal size with three digits, as docker shows images and network traffic: `4.26MB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn decimal_size3(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 3)
}

/// Binary size, as docker shows memory: `7.656GiB`.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub(crate) fn binary_size(bytes: i64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 4)
}

/// The short form of an id: twelve characters without the digest's algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let bare = id.split_once(':').map_or(id, |(_, rest)| rest);
    bare.get(..12).unwrap_or(bare)
}

/// The first `width` characters with an ellipsis in place of the rest, as docker shortens columns.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_dockers() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (2 * 3600, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (3 * 365 * 86400, "3 years"),
        ];
        for (seconds, words) in cases {
            assert_eq!(span(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn sizes_read_as_dockers() {
        assert_eq!(decimal_size3(4_261_502), "4.26MB");
        assert_eq!(decimal_size3(0), "0B");
        assert_eq!(decimal_size3(1000), "1kB");
        assert_eq!(decimal_size3(141_000_000), "141MB");
        assert_eq!(binary_size(8_220_000_000), "7.655GiB");
        assert_eq!(binary_size(1024), "1KiB");
        assert_eq!(binary_size(512), "512B");
        assert_eq!(decimal_size(1_234_567), "1.235MB");
    }

    #[test]
    fn ids_and_texts_are_cut() {
        assert_eq!(short_id("sha256:0123456789abcdef0123"), "0123456789ab");
        assert_eq!(short_id("abc"), "abc");
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("äöü", 3), "äöü");
    }
}
