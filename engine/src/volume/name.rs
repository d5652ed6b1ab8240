//! Names of volumes.

use shoal_kit::entropy::Entropy;
use shoal_proto::error::Failure;

/// Longest name that is also a directory's.
const LONGEST: usize = 255;

/// Checks a name as dockerd's local driver does.
///
/// # Errors
/// When it is too short, too long or has other characters.
pub(super) fn check(name: &str) -> Result<(), Failure> {
    if name.len() == 1 {
        return Err(Failure::invalid("volume name is too short, names should be at least two alphanumeric characters"));
    }
    let bytes = name.as_bytes();
    let starts = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
    if !starts || !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')) {
        return Err(Failure::invalid(format!(
            "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    if name.len() > LONGEST {
        return Err(Failure::invalid(format!("volume name is too long, at most {LONGEST} characters are allowed")));
    }
    Ok(())
}

/// A name for a volume without one: 64 hexadecimal digits.
pub(super) fn random(entropy: &Entropy) -> String {
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_dockerd_does() {
        for name in ["ab", "a.b_c-d", "0a", &"a".repeat(255)] {
            check(name).unwrap();
        }
        for name in ["", "a", ".a", "-a", "_a", "a/b", "..", "../a", "a b", "ä1", &"a".repeat(256), "a\0b"] {
            check(name).unwrap_err();
        }
        assert_eq!(random(&Entropy::from_seed(1)).len(), 64);
    }
}
