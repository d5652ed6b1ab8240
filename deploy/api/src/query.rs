//! Query strings, read as dockerd reads them.

use shoal_engine::model::Filters;
use shoal_proto::time::Timestamp;

use crate::error::ApiError;

/// The parameters of a request, in order. Of a repeated one the first counts, but for [`Query::all`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what stands after the question mark.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// The value, when the parameter is there.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The value, or the empty text.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or("")
    }

    /// The value, when it is there and not empty.
    pub(crate) fn non_empty(&self, key: &str) -> Option<String> {
        self.get(key).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Every value of a repeated parameter.
    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, value)| value.clone()).collect()
    }

    /// As dockerd's `BoolValue`: anything but nothing, `0`, `no`, `false` and `none` is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        let value = self.text(key).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// As dockerd's `BoolValueOrDefault`: the default when the parameter is absent.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        if self.get(key).is_some() { self.flag(key) } else { default }
    }

    /// A number; `None` when absent or empty.
    ///
    /// # Errors
    /// When it is there and not a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.non_empty(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| ApiError::invalid(format!("invalid value {value:?} of parameter {key}")))
    }

    /// The `version` parameter that updates of cluster objects must name.
    ///
    /// # Errors
    /// When it is missing or not a number, in dockerd's words.
    pub(crate) fn version(&self, what: &str) -> Result<u64, ApiError> {
        let value = self.text("version");
        value.parse().map_err(|_| {
            ApiError::invalid(format!(
                "invalid {what} version '{value}': strconv.ParseUint: parsing {value:?}: invalid syntax"
            ))
        })
    }

    /// The `filters` parameter.
    ///
    /// # Errors
    /// When it is not JSON of one of the two forms.
    pub(crate) fn filters(&self) -> Result<Filters, ApiError> {
        Ok(Filters::parse(self.text("filters"))?)
    }

    /// An instant as `seconds`, `seconds.fraction`, or RFC 3339; `None` when absent, empty or 0.
    ///
    /// # Errors
    /// When it is none of these.
    pub(crate) fn instant(&self, key: &str) -> Result<Option<Timestamp>, ApiError> {
        let text = self.text(key).trim();
        if text.is_empty() || text == "0" {
            return Ok(None);
        }
        parse_instant(text).map(Some).ok_or_else(|| {
            ApiError::invalid(format!(
                "invalid value {text:?} of parameter {key}: expected seconds or an RFC 3339 instant"
            ))
        })
    }
}

fn parse_instant(text: &str) -> Option<Timestamp> {
    if let Ok(instant) = Timestamp::parse(text) {
        return Some(instant);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: i64 = format!("{fraction:0<9}").parse().ok()?;
    Some(Timestamp(seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)?))
}

/// Undoes percent encoding; in queries `+` is a space. Bytes that are not UTF-8 are replaced.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|b| (*b as char).to_digit(16));
        match (byte, hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
                continue;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("name=a%2Fb+c&t=1&t=2&empty=&bare");
        assert_eq!(query.text("name"), "a/b c");
        assert_eq!(query.all("t"), ["1", "2"]);
        assert_eq!(query.get("empty"), Some(""));
        assert_eq!(query.get("bare"), Some(""));
        assert_eq!(query.get("absent"), None);
        assert_eq!(decode("a%zz%2", true), "a%zz%2");
        assert_eq!(decode("a+b", false), "a+b");
    }

    #[test]
    fn booleans_read_as_dockerd_reads_them() {
        for (text, expected) in [
            ("1", true),
            ("true", true),
            ("True", true),
            ("yes", true),
            ("anything", true),
            ("0", false),
            ("no", false),
        ] {
            assert_eq!(Query::parse(&format!("f={text}")).flag("f"), expected, "{text}");
        }
        assert!(!Query::parse("f=").flag("f"));
        assert!(!Query::parse("f=%20False%20").flag("f"));
        assert!(Query::parse("").flag_or("f", true));
        assert!(!Query::parse("f=").flag_or("f", true));
    }

    #[test]
    fn instants_in_all_forms() {
        let instant = |text: &str| Query::parse(&format!("since={text}")).instant("since");
        assert_eq!(instant("1700000000"), Ok(Some(Timestamp(1_700_000_000_000_000_000))));
        assert_eq!(instant("1700000000.000000001"), Ok(Some(Timestamp(1_700_000_000_000_000_001))));
        assert_eq!(instant("1700000000.5"), Ok(Some(Timestamp(1_700_000_000_500_000_000))));
        assert_eq!(instant("2023-11-14T22:13:20Z"), Ok(Some(Timestamp(1_700_000_000_000_000_000))));
        assert_eq!(instant(""), Ok(None));
        assert_eq!(instant("0"), Ok(None));
        assert!(instant("yesterday").is_err());
        assert!(instant("1.0000000001").is_err());
    }

    #[test]
    fn numbers_say_which_parameter_is_wrong() {
        assert_eq!(Query::parse("h=24").number::<u16>("h"), Ok(Some(24)));
        assert_eq!(Query::parse("h=").number::<u16>("h"), Ok(None));
        let error = Query::parse("h=-1").number::<u16>("h").expect_err("accepted");
        assert!(error.message().contains("parameter h"));
        assert!(Query::parse("version=x").version("service").is_err());
    }
}
