//! Sizes in docker's notation: a number and an optional unit of 1024s, `512m`, `1.5g`, `64MiB`.

/// Bytes of a size such as `64m`.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}' (want a number and a unit: b, k, m, g, t, p; as in 512m)");
    let trimmed = text.trim();
    let digits =
        trimmed.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let power = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(invalid()),
    };
    let bytes = number * 1024_f64.powi(power);
    #[expect(clippy::cast_possible_truncation, reason = "checked against the limits of the type")]
    if bytes.is_finite() && bytes < 9.0e18 { Ok(bytes as i64) } else { Err(invalid()) }
}

/// Bytes, or -1 for "no limit", as `--memory-swap` takes them.
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// A number of CPUs such as `1.5`, in billionths.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let invalid = || {
        format!(
            "invalid number of CPUs: '{text}' (want a decimal such as 0.5 or 2, at most nine digits after the point)"
        )
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |part: &str| part.chars().all(|character| character.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty())
        || !is_number(whole)
        || !is_number(fraction)
        || fraction.trim_end_matches('0').len() > 9
    {
        return Err(invalid());
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let fraction: i64 = digits.parse().map_err(|_| invalid())?;
    whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(fraction)).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        let cases = [
            ("32", 32),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32KB", 32 << 10),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2 t", 2 << 40),
        ];
        for (text, want) in cases {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for text in ["", "m", "-1", "12x", "1e3", "1..5", "99999999p"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
    }

    #[test]
    fn cpus_are_exact() {
        let cases = [
            ("1", 1_000_000_000),
            ("0.5", 500_000_000),
            (".25", 250_000_000),
            ("0.001", 1_000_000),
            ("1.000000001", 1_000_000_001),
        ];
        for (text, want) in cases {
            assert_eq!(nano_cpus(text), Ok(want), "{text}");
        }
        for text in ["", ".", "-1", "1.0000000001", "x", "1e2"] {
            assert!(nano_cpus(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_sizes_survive(number in 0_i64..1 << 20, power in 0_u32..4) {
            let unit = ["", "k", "m", "g"][power as usize];
            prop_assert_eq!(bytes(&format!("{number}{unit}")), Ok(number << (10 * power)));
        }

        #[test]
        fn no_text_panics(text in ".{0,12}") {
            let _ = (bytes(&text), nano_cpus(&text));
        }
    }
}
