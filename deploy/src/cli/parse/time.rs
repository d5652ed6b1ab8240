//! Instants in flags such as `--since`: a span before now (`42m`), RFC 3339, a date, or seconds since 1970.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::duration;

/// The instant as the API takes it: seconds since 1970 with nanoseconds after the point.
pub(crate) fn instant(text: &str, now: Timestamp) -> Result<String, String> {
    if let Ok(nanos) = duration::nanoseconds(text)
        && text != "0"
    {
        let then = now.as_nanosecond() - i128::from(nanos);
        return Ok(show(then));
    }
    if !text.is_empty()
        && text.chars().all(|character| character.is_ascii_digit() || character == '.')
        && text.matches('.').count() <= 1
    {
        return Ok(text.to_owned());
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(show(instant.as_nanosecond()));
    }
    let civil =
        text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(|date| date.to_datetime(Time::midnight())));
    match civil.ok().and_then(|civil| civil.to_zoned_datetime(TimeZone::system()).ok()) {
        Some(zoned) => Ok(show(zoned.timestamp().as_nanosecond())),
        None => {
            Err(format!("invalid time '{text}' (want 2026-01-02T13:23:37Z, a span such as 42m, or seconds since 1970)"))
        }
    }
}

fn show(nanoseconds: i128) -> String {
    format!("{}.{:09}", nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(instant("10s", now).unwrap(), "999990.000000000");
        assert_eq!(instant("1700000000", now).unwrap(), "1700000000");
        assert_eq!(instant("1970-01-01T00:00:01.5Z", now).unwrap(), "1.500000000");
        assert!(instant("2026-01-02", now).is_ok());
        assert!(instant("yesterday", now).is_err());
        assert!(instant("", now).is_err());
    }
}
