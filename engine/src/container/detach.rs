//! The keys that leave a session: `ctrl-p,ctrl-q` and the like.

use shoal_proto::error::Failure;

/// Looks for the sequence in what a client types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachScanner {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachScanner {
    /// Takes `a-Z`, `@`, `[`, `\`, `]`, `^`, `_` alone or with `ctrl-`, joined by commas. Empty is `ctrl-p,ctrl-q`.
    ///
    /// # Errors
    /// When a key is none of these.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
        let keys = text
            .split(',')
            .map(|key| key_code(key).ok_or_else(|| Failure::invalid(format!("Unknown character: '{key}'"))))
            .collect::<Result<_, _>>()?;
        Ok(Self { keys, matched: 0 })
    }

    /// Gives what to pass on, and whether the sequence was completed; what comes after it is dropped.
    pub fn scan(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut output = Vec::with_capacity(input.len());
        for byte in input {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (output, true);
                }
                continue;
            }
            output.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if *byte == self.keys[0] {
                self.matched = 1;
            } else {
                output.push(*byte);
            }
        }
        (output, false)
    }
}

fn key_code(key: &str) -> Option<u8> {
    if let [single] = key.as_bytes() {
        return Some(*single);
    }
    match key.strip_prefix("ctrl-")?.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        b"@" => Some(0),
        b"[" => Some(27),
        b"\\" => Some(28),
        b"]" => Some(29),
        b"^" => Some(30),
        b"_" => Some(31),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_over_several_reads() {
        let mut scanner = DetachScanner::parse("").unwrap();
        assert_eq!(scanner.scan(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(scanner.scan(b"\x11rest"), (vec![], true));
    }

    #[test]
    fn broken_sequence_is_passed_on() {
        let mut scanner = DetachScanner::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(scanner.scan(b"\x10x"), (b"\x10x".to_vec(), false));
        assert_eq!(scanner.scan(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(DetachScanner::parse("ctrl-1").is_err());
        assert!(DetachScanner::parse("ctrl-p,").is_err());
        assert!(DetachScanner::parse("a,ctrl-@").is_ok());
    }
}
